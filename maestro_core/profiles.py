"""Profiles: named bundles of resources, image and node placement, open to some groups.

A profile's amounts are its default, and its ceiling but for what it allows besides (``allow``): who names a profile
gets its amounts, but for those that they name too; who names amounts alone gets them in the first open profile, in
file order, that covers them. Images are chosen by name from those that a profile allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .errors import MaestroError
from .names import check_name
from .resources import Cpu, Gpu, Memory, Resources, show_cpu, show_memory

#: minutes; a year
MAX_IDLE = 525_600


class Image(BaseModel):
    """One entry of ``images``: a container image that profiles may allow (Kubernetes only).

    Attributes:
        name: as asks and profiles call it. title: for the form.
        image: the reference that a node pulls.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = ""
    image: str = Field(min_length=1, max_length=500, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, value: Any) -> str:
        return check_name(value, "image")


class Allow(BaseModel):
    """What may be asked for beyond a profile's own amounts. None: no more than the profile has.

    Attributes:
        cpu, memory, gpu: the most of each.
        images: names of ``images`` that may be taken instead of the profile's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: Cpu | None = None
    memory: Memory | None = None
    gpu: Gpu | None = None
    images: tuple[str, ...] = ()

    @field_validator("images")
    @classmethod
    def _images(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_name(name, "image") for name in names)


class Profile(BaseModel):
    """One entry of ``profiles`` in ``maestro.yaml``.

    Attributes:
        name: what asks and quotas call it; a server name's rule.
        title, description: for the form.
        cpu: cores; memory: bytes; gpu: count; gpu_type: the kind it gives, or None.
        image: container image; None takes the deployment's (Kubernetes only).
        allow: what may be asked for besides.
        idle: minutes without activity after which a server is stopped; 0: never; None: the deployment's own time.
        groups: Hub groups that may take it; empty: everyone.
        node_selector, tolerations, gpu_resource: placement (Kubernetes only).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = ""
    description: str = ""
    cpu: Cpu = 1.0
    memory: Memory = 2 * 1024**3
    gpu: Gpu = 0
    gpu_type: str | None = None
    image: str | None = Field(default=None, max_length=500)
    allow: Allow = Allow()
    idle: int | None = Field(default=None, ge=0, le=MAX_IDLE)
    groups: tuple[str, ...] = ()
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, str], ...] = ()
    gpu_resource: str = "nvidia.com/gpu"

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, value: Any) -> str:
        return check_name(value, "profile")

    @property
    def resources(self) -> Resources:
        """Its amounts."""
        return Resources(cpu=self.cpu, memory=self.memory, gpu=self.gpu, gpu_type=self.gpu_type)

    @property
    def ceiling(self) -> Resources:
        """The most that can be asked for with it."""
        allow = self.allow
        return Resources(
            cpu=max(self.cpu, allow.cpu or 0),
            memory=max(self.memory, allow.memory or 0),
            gpu=max(self.gpu, allow.gpu or 0),
            gpu_type=self.gpu_type,
        )

    def open_to(self, groups: Collection[str]) -> bool:
        """Whether somebody in these Hub groups may take it."""
        return not self.groups or any(group in groups for group in self.groups)

    def shortfall(self, asked: Resources) -> str | None:
        """What the profile lacks for the amounts asked for (``8 cpu of 4``), or None when it covers them."""
        most = self.ceiling
        if asked.cpu > most.cpu:
            return f"{show_cpu(asked.cpu)} cpu of {show_cpu(most.cpu)}"
        if asked.memory > most.memory:
            return f"{show_memory(asked.memory)} of {show_memory(most.memory)}"
        if asked.gpu > most.gpu:
            return f"{asked.gpu} gpu of {most.gpu}"
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
    profiles: Sequence[Profile],
    groups: Collection[str],
    name: str | None,
    asked: Resources | None,
    image: str | None = None,
) -> tuple[Profile, Resources]:
    """The profile and the amounts of a launch.

    Args:
        profiles: in file order.
        groups: the person's Hub groups.
        name: the profile asked for, or None.
        asked: the amounts asked for, or None for the profile's own.
        image: the name of the image asked for, or None; the profile must allow it.

    Raises:
        MaestroError: ``unknown_profile``, or ``profile_closed`` with a sentence that says why.
    """
    if name is not None:
        profile, amounts = _named(profiles, groups, name, asked)
        _check_image([profile], image)
        return profile, amounts
    usable = [profile for profile in profiles if profile.open_to(groups)]
    if image is not None:
        usable = _check_image(usable, image)
    if asked is None:
        profile = default_profile(usable, groups)
        return profile, profile.resources
    for profile in usable:
        if profile.shortfall(asked) is None:
            return profile, asked
    known = ", ".join(f"{profile.name} ({profile.resources.show()})" for profile in usable) or "none"
    raise MaestroError(
        "profile_closed",
        f"No profile open to you covers {asked.show()}; take less, or ask an admin. Open to you: {known}.",
        {"asked": asked.model_dump(), "open": [profile.name for profile in usable]},
    )


def _check_image(profiles: Sequence[Profile], image: str | None) -> list[Profile]:
    """Those of the profiles that allow an image; at least one must."""
    found = [profile for profile in profiles if image is None or image in profile.allow.images]
    if not found:
        offered = sorted({name for profile in profiles for name in profile.allow.images})
        whose = f"The profile {profiles[0].name!r}" if len(profiles) == 1 else "No profile open to you"
        does = "does not allow" if len(profiles) == 1 else "allows"
        raise MaestroError(
            "profile_closed",
            f"{whose} {does} the image {str(image)[:40]!r}; "
            + (f"take one of: {', '.join(offered)}, or leave it out." if offered else "leave it out."),
            {"image": str(image)[:40], "open": offered},
        )
    return found


def image_reference(images: Iterable[Image], profile: Profile, name: str | None) -> str | None:
    """What a node pulls for an image that the profile allows; without a name the profile's own, or None."""
    if name is None:
        return profile.image
    return next((image.image for image in images if image.name == name), profile.image)


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
