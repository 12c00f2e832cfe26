"""Profiles: named bundles of resources, image and node placement, open to some groups.

A profile's amounts are both its default and its ceiling: who names a profile gets its amounts, but for those that
they name too; who names amounts alone gets them in the first open profile, in file order, that covers them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .errors import MaestroError
from .names import check_name
from .resources import Resources, parse_cpu, parse_gpu, parse_memory, show_cpu, show_memory

_UNSET = "profile"


class Profile(BaseModel):
    """One entry of ``profiles`` in ``maestro.yaml``.

    Attributes:
        name: what asks and quotas call it; a server name's rule.
        title, description: for the form.
        cpu: cores; memory: bytes; gpu: count; gpu_type: the kind it gives, or None.
        image: container image; None takes the deployment's (Kubernetes only).
        groups: Hub groups that may take it; empty: everyone.
        node_selector, tolerations, gpu_resource: placement (Kubernetes only).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = ""
    description: str = ""
    cpu: float = 1.0
    memory: int = 2 * 1024**3
    gpu: int = 0
    gpu_type: str | None = None
    image: str | None = Field(default=None, max_length=500)
    groups: tuple[str, ...] = ()
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, str], ...] = ()
    gpu_resource: str = "nvidia.com/gpu"

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, value: Any) -> str:
        return check_name(value, "profile")

    @field_validator("cpu", mode="before")
    @classmethod
    def _cpu(cls, value: Any) -> float:
        return parse_cpu(value)

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> int:
        return parse_memory(value)

    @field_validator("gpu", mode="before")
    @classmethod
    def _gpu(cls, value: Any) -> int:
        return parse_gpu(value)

    @property
    def resources(self) -> Resources:
        """Its amounts."""
        return Resources(cpu=self.cpu, memory=self.memory, gpu=self.gpu, gpu_type=self.gpu_type)

    def open_to(self, groups: Collection[str]) -> bool:
        """Whether somebody in these Hub groups may take it."""
        return not self.groups or any(group in groups for group in self.groups)

    def shortfall(self, asked: Resources) -> str | None:
        """What the profile lacks for the amounts asked for (``8 cpu of 4``), or None when it covers them."""
        if asked.cpu > self.cpu:
            return f"{show_cpu(asked.cpu)} cpu of {show_cpu(self.cpu)}"
        if asked.memory > self.memory:
            return f"{show_memory(asked.memory)} of {show_memory(self.memory)}"
        if asked.gpu > self.gpu:
            return f"{asked.gpu} gpu of {self.gpu}"
        if asked.gpu_type is not None and asked.gpu_type != self.gpu_type:
            return f"gpu type {asked.gpu_type} of {self.gpu_type or 'none'}"
        return None


def default_profile(profiles: Iterable[Profile], groups: Collection[str]) -> Profile:
    """The first profile in file order that is open to these groups.

    Raises:
        MaestroError: ``profile_closed`` when none is.
    """
    for profile in profiles:
        if profile.open_to(groups):
            return profile
    raise MaestroError("profile_closed", "No profile is open to you; ask an admin to open one in maestro.yaml.")


def choose(
    profiles: Sequence[Profile], groups: Collection[str], name: str | None, asked: Resources | None
) -> tuple[Profile, Resources]:
    """The profile and the amounts of a launch.

    Args:
        profiles: in file order.
        groups: the person's Hub groups.
        name: the profile asked for, or None.
        asked: the amounts asked for, or None for the profile's own.

    Raises:
        MaestroError: ``unknown_profile``, or ``profile_closed`` with a sentence that says why.
    """
    if name is not None:
        return _named(profiles, groups, name, asked)
    if asked is None:
        profile = default_profile(profiles, groups)
        return profile, profile.resources
    usable = [profile for profile in profiles if profile.open_to(groups)]
    for profile in usable:
        if profile.shortfall(asked) is None:
            return profile, asked
    known = ", ".join(f"{profile.name} ({profile.resources.show()})" for profile in usable) or "none"
    raise MaestroError(
        "profile_closed",
        f"No profile open to you covers {asked.show()}; take less, or ask an admin. Open to you: {known}.",
        {"asked": asked.model_dump(), "open": [profile.name for profile in usable]},
    )


def _named(
    profiles: Sequence[Profile], groups: Collection[str], name: str, asked: Resources | None
) -> tuple[Profile, Resources]:
    known = [profile.name for profile in profiles if profile.open_to(groups)]
    profile = next((profile for profile in profiles if profile.name == name), None)
    if profile is None:
        raise MaestroError(
            "unknown_profile",
            f"There is no profile {name[:40]!r}; take one of: {', '.join(known) or 'none is open to you'}.",
            {"profile": name[:40], "open": known},
        )
    if not profile.open_to(groups):
        raise MaestroError(
            "profile_closed",
            f"The profile {name!r} is open to the groups {', '.join(profile.groups)} only; "
            f"take one of: {', '.join(known) or 'none'}, or ask an admin.",
            {"profile": name, "open": known},
        )
    if asked is None:
        return profile, profile.resources
    asked = Resources(**(profile.resources.model_dump() | asked.model_dump(exclude_unset=True)))
    lacking = profile.shortfall(asked)
    if lacking is not None:
        raise MaestroError(
            "profile_closed",
            f"This asks for more than the profile {name!r} has ({lacking}); ask for less or take another profile.",
            {"profile": name, "asked": asked.model_dump()},
        )
    return profile, asked
