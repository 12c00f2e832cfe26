"""Quotas: the limits on launches, which level sets each, and whether one more launch fits.

Per person: a limit set for the user wins, else the most generous of their groups, else the one for everyone. What is
set for a workspace holds besides, the tighter of the two. A limit that nobody set does not limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .errors import MaestroError
from .resources import Resources, parse_cpu, parse_gpu, parse_memory, show_cpu, show_memory


class Quota(BaseModel):
    """Limits as one level (everyone, a group, a user, a workspace) sets them; None: not set here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_concurrent_notebooks: int | None = Field(default=None, ge=0, le=10_000)
    max_cpu_per_notebook: float | None = None
    max_memory_per_notebook: int | None = None
    max_gpu_per_notebook: int | None = None
    max_storage_per_workspace: int | None = None

    @field_validator("max_cpu_per_notebook", mode="before")
    @classmethod
    def _cpu(cls, value: Any) -> float | None:
        return None if value is None else parse_cpu(value)

    @field_validator("max_memory_per_notebook", "max_storage_per_workspace", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> int | None:
        return None if value is None else parse_memory(value)

    @field_validator("max_gpu_per_notebook", mode="before")
    @classmethod
    def _gpu(cls, value: Any) -> int | None:
        return None if value is None else parse_gpu(value)


class Quotas(BaseModel):
    """The ``quotas`` section of ``maestro.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    everyone: Quota = Quota()
    groups: dict[str, Quota] = {}
    users: dict[str, Quota] = {}
    workspaces: dict[str, Quota] = {}


@dataclass(frozen=True)
class LimitKind:
    """One row of :data:`LIMITS`: how a limit is shown, and what a launch asks of it."""

    title: str
    unit: str
    show: Callable[[float], str]
    #: what the new launch asks of this limit; None: not decided at launch
    asked: Callable[[Resources], float] | None
    #: whether what is in use counts (a total), or the launch alone
    counted: bool


LIMITS: dict[str, LimitKind] = {
    "max_concurrent_notebooks": LimitKind("servers at once", "servers", lambda n: f"{n:.0f}", lambda r: 1, True),
    "max_cpu_per_notebook": LimitKind("cpu a server", "cpu", show_cpu, lambda r: r.cpu, False),
    "max_memory_per_notebook": LimitKind("memory a server", "memory", show_memory, lambda r: r.memory, False),
    "max_gpu_per_notebook": LimitKind("gpus a server", "gpu", lambda n: f"{n:.0f}", lambda r: r.gpu, False),
    "max_storage_per_workspace": LimitKind("storage a workspace", "storage", show_memory, None, False),
}


@dataclass(frozen=True)
class Limit:
    """A limit in force.

    Attributes:
        name: a key of :data:`LIMITS`.
        value: servers, cores, bytes or GPUs.
        source: the level that set it: ``everyone``, ``group data-science``, ``user ann``, ``workspace demo``.
        scope: ``user`` (counts the person's launches everywhere) or ``workspace`` (everyone's in this workspace).
    """

    name: str
    value: float
    source: str
    scope: str

    def as_json(self) -> dict[str, Any]:
        """For the API: name, title, value, shown value, source and scope."""
        kind = LIMITS[self.name]
        return {
            "name": self.name,
            "title": kind.title,
            "value": self.value,
            "shown": kind.show(self.value),
            "source": self.source,
            "scope": self.scope,
        }


@dataclass(frozen=True)
class InUse:
    """Reserved and running launches: of the person everywhere, and of everyone in the workspace."""

    user_launches: int = 0
    workspace_launches: int = 0
    #: names of the person's servers, for the refusal's sentence
    user_servers: tuple[str, ...] = ()


def limits_for(quotas: Quotas, user: str, groups: Iterable[str], workspace: str | None) -> list[Limit]:
    """The limits that hold for one person in one workspace, in the order of :data:`LIMITS`.

    Args:
        quotas: the policy's section.
        user: the Hub user's name.
        groups: the Hub groups of the user.
        workspace: the workspace's name, or None to leave its own limits out.
    """
    found: list[Limit] = []
    of_groups = [(f"group {name}", quotas.groups[name]) for name in sorted(groups) if name in quotas.groups]
    for name in LIMITS:
        own = _person_limit(name, quotas, user, of_groups)
        if own is not None:
            found.append(own)
        here = getattr(quotas.workspaces.get(workspace or "", Quota()), name)
        if here is not None:
            found.append(Limit(name, here, f"workspace {workspace}", "workspace"))
    return found


def _person_limit(name: str, quotas: Quotas, user: str, of_groups: list[tuple[str, Quota]]) -> Limit | None:
    own = getattr(quotas.users.get(user, Quota()), name)
    if own is not None:
        return Limit(name, own, f"user {user}", "user")
    grouped = [(getattr(quota, name), source) for source, quota in of_groups if getattr(quota, name) is not None]
    if grouped:
        value, source = max(grouped, key=lambda pair: pair[0])
        return Limit(name, value, source, "user")
    everyone = getattr(quotas.everyone, name)
    return None if everyone is None else Limit(name, everyone, "everyone", "user")


def check(limits: Iterable[Limit], in_use: InUse, asked: Resources) -> None:
    """Refuse the launch that would pass one of the limits; the first in the order given is named.

    Raises:
        MaestroError: ``quota_exceeded``, with limit, value, in use, asked and source in the details.
    """
    for limit in limits:
        kind = LIMITS[limit.name]
        if kind.asked is None:
            continue
        used = _used(limit, in_use) if kind.counted else 0
        wanted = kind.asked(asked)
        if used + wanted > limit.value:
            raise _refusal(limit, used, wanted, in_use)


def _used(limit: Limit, in_use: InUse) -> int:
    return in_use.user_launches if limit.scope == "user" else in_use.workspace_launches


def _refusal(limit: Limit, used: float, wanted: float, in_use: InUse) -> MaestroError:
    kind = LIMITS[limit.name]
    set_by = f"{limit.name} {kind.show(limit.value)}, set for {limit.source}"
    if kind.counted and limit.scope == "user":
        names = f" ({', '.join(in_use.user_servers)})" if in_use.user_servers else ""
        message = (
            f"You have {used:.0f} of {limit.value:.0f} servers running or starting{names} ({set_by}); "
            "stop one of them, or ask an admin for more."
        )
    elif kind.counted:
        message = (
            f"{limit.source.capitalize()} has {used:.0f} of {limit.value:.0f} servers running or starting ({set_by}); "
            "wait until one stops, or ask an admin for more."
        )
    else:
        message = (
            f"This asks for {kind.show(wanted)} of at most {kind.show(limit.value)} {kind.title} ({set_by}); "
            "ask for less, or ask an admin for more."
        )
    details = {**limit.as_json(), "limit": limit.name, "in_use": used, "asked": wanted}
    return MaestroError("quota_exceeded", message, details)


def shown_servers(limits: Iterable[Limit], in_use: InUse) -> Mapping[str, Any]:
    """What cards and forms say of servers: ``{"used": 1, "limit": 3 or None}`` for the person."""
    own = [limit.value for limit in limits if limit.name == "max_concurrent_notebooks" and limit.scope == "user"]
    return {"used": in_use.user_launches, "limit": int(min(own)) if own else None}
