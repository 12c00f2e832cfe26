"""Quotas: which limits there are, who may set them, and which of them hold for one launch.

Per person: a limit set for the user wins, else the most generous of their groups, else the one for everyone. What is
set for the workspace holds besides, and so does every pool that the person is in. A pool counts the servers of all its
people together, wherever they run: there is one of everyone, and one a Hub group. A limit that nobody set does not
limit. At each level a figure that an admin set at runtime (:class:`Override`) wins over the file's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .errors import MaestroError
from .models import read_model
from .resources import Cpu, Gpu, Memory, parse_cpu, parse_gpu, parse_memory, show_cpu, show_memory

MAX_SERVERS = 10_000
MAX_WORKSPACES = 10_000
MAX_TOTAL_CPU = 100_000.0
MAX_TOTAL_MEMORY = 64 * 1024**5
MAX_TOTAL_GPU = 100_000
MAX_HOURS = 100_000_000.0

Scope = Literal["user", "workspace", "pool"]
_SLACK = 1e-6
#: what a figure that stands in the file is said to come from
FILE = "maestro.yaml"
#: who set the size of a workspace's own disk
OWNERS = "its owners"

_TotalCpu = Annotated[float, BeforeValidator(lambda value: parse_cpu(value, 0, MAX_TOTAL_CPU))]
_TotalMemory = Annotated[int, BeforeValidator(lambda value: parse_memory(value, 0, MAX_TOTAL_MEMORY))]
_TotalGpu = Annotated[int, BeforeValidator(lambda value: parse_gpu(value, MAX_TOTAL_GPU))]


class PoolQuota(BaseModel):
    """Limits that can be shared: what is in use at once, and the budgets of a month (UTC). None: not set here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_concurrent_notebooks: int | None = Field(default=None, ge=0, le=MAX_SERVERS)
    max_cpu_total: _TotalCpu | None = None
    max_memory_total: _TotalMemory | None = None
    max_gpu_total: _TotalGpu | None = None
    max_cpu_hours_per_month: float | None = Field(default=None, ge=0, le=MAX_HOURS)
    max_gpu_hours_per_month: float | None = Field(default=None, ge=0, le=MAX_HOURS)


class WorkspaceQuota(PoolQuota):
    """Limits as a workspace has them: also of each single server and volume."""

    max_cpu_per_notebook: Cpu | None = None
    max_memory_per_notebook: Memory | None = None
    max_gpu_per_notebook: Gpu | None = None
    max_storage_per_workspace: Memory | None = None


class Quota(WorkspaceQuota):
    """Limits as everyone, a group or a user has them: also of what a person makes."""

    max_workspaces_per_user: int | None = Field(default=None, ge=0, le=MAX_WORKSPACES)


class Pools(BaseModel):
    """What people share: ``everyone`` counts all servers, a group those of its members together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    everyone: PoolQuota = PoolQuota()
    groups: dict[str, PoolQuota] = {}


class Quotas(BaseModel):
    """The ``quotas`` section of ``maestro.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    everyone: Quota = Quota()
    groups: dict[str, Quota] = {}
    users: dict[str, Quota] = {}
    workspaces: dict[str, WorkspaceQuota] = {}
    pools: Pools = Pools()


@dataclass(frozen=True)
class LevelKind:
    """One row of :data:`LEVELS`: where a limit can be set.

    Attributes:
        shown: in a sentence, after "set for"; ``{}`` is the name.
        named: whether a name belongs to it.
        scope: whose launches it counts.
        model: which limits it takes.
        quota: its figures in the file.
    """

    shown: str
    named: bool
    scope: Scope
    model: type[PoolQuota]
    quota: Callable[[Quotas, str], PoolQuota | None]


LEVELS: dict[str, LevelKind] = {
    "everyone": LevelKind("everyone", False, "user", Quota, lambda q, _: q.everyone),
    "group": LevelKind("group {}", True, "user", Quota, lambda q, name: q.groups.get(name)),
    "user": LevelKind("user {}", True, "user", Quota, lambda q, name: q.users.get(name)),
    "workspace": LevelKind("workspace {}", True, "workspace", WorkspaceQuota, lambda q, name: q.workspaces.get(name)),
    "pool": LevelKind("the pool of everyone", False, "pool", PoolQuota, lambda q, _: q.pools.everyone),
    "group-pool": LevelKind("the pool of group {}", True, "pool", PoolQuota, lambda q, name: q.pools.groups.get(name)),
}


@dataclass(frozen=True)
class LimitKind:
    """One row of :data:`LIMITS`: how a limit is shown.

    Attributes:
        title: in a list.
        counted: in "6 of 8 ..."; empty for what one server or volume may have.
        show: an amount for people.
    """

    title: str
    counted: str
    show: Callable[[float], str]


def show_count(amount: float) -> str:
    """For people: ``3``."""
    return f"{amount:.0f}"


def show_hours(amount: float) -> str:
    """For people: ``3.5``, never more than there are: the rest of a budget is not rounded up to something."""
    return f"{int(amount * 10 + _SLACK) / 10:.1f}".removesuffix(".0")


LIMITS: dict[str, LimitKind] = {
    "max_concurrent_notebooks": LimitKind("servers at once", "servers", show_count),
    "max_cpu_per_notebook": LimitKind("cpu a server", "", show_cpu),
    "max_memory_per_notebook": LimitKind("memory a server", "", show_memory),
    "max_gpu_per_notebook": LimitKind("GPUs a server", "", show_count),
    "max_cpu_total": LimitKind("cpu in use at once", "cpu", show_cpu),
    "max_memory_total": LimitKind("memory in use at once", "memory", show_memory),
    "max_gpu_total": LimitKind("GPUs in use at once", "GPUs", show_count),
    "max_cpu_hours_per_month": LimitKind("cpu hours a month", "cpu hours this month", show_hours),
    "max_gpu_hours_per_month": LimitKind("GPU hours a month", "GPU hours this month", show_hours),
    "max_storage_per_workspace": LimitKind("storage a workspace", "storage", show_memory),
    "max_workspaces_per_user": LimitKind("workspaces made", "workspaces", show_count),
}
STORAGE = "max_storage_per_workspace"
WORKSPACES = "max_workspaces_per_user"
BUDGETS = ("max_cpu_hours_per_month", "max_gpu_hours_per_month")


@dataclass(frozen=True)
class Override:
    """A figure that an admin set at runtime.

    Attributes:
        level: a key of :data:`LEVELS`. name: of the group, user or workspace.
        limit: a key of :data:`LIMITS`. value: servers, cores, bytes, GPUs or hours.
    """

    level: str
    name: str
    limit: str
    value: float
    set_by: str
    set_at: datetime


@dataclass(frozen=True)
class Limit:
    """A limit in force.

    Attributes:
        name: a key of :data:`LIMITS`.
        value: servers, cores, bytes, GPUs, hours or workspaces.
        source: the level that set it: ``everyone``, ``group data-science``, ``user ann``, ``workspace demo``, ``the
            pool of group data-science``.
        scope: ``user`` (counts the person's launches everywhere), ``workspace`` (everyone's in this workspace) or
            ``pool`` (those of everyone, or of all members of the group).
        key: the name of the level: group, user or workspace; empty for everyone.
        set_by, set_at: who set it at runtime and when; None for a figure of the file.
    """

    name: str
    value: float
    source: str
    scope: Scope
    key: str = ""
    set_by: str | None = None
    set_at: datetime | None = None

    @property
    def origin(self) -> str:
        """Where the figure stands: ``maestro.yaml``, ``root on 2026-11-24``, or ``its owners``."""
        when = "" if self.set_at is None else f" on {self.set_at:%Y-%m-%d}"
        return FILE if self.set_by is None else f"{self.set_by}{when}"

    @property
    def set_for(self) -> str:
        """For a sentence: ``set for everyone``, ``set for group a by root on 2026-11-24``."""
        return f"set for {self.source}" + ("" if self.set_by is None else f" by {self.origin}")

    def shown(self, amount: float) -> str:
        """An amount of this limit for people."""
        return LIMITS[self.name].show(amount)

    def as_json(self) -> dict[str, Any]:
        """For the API: name, title, value, shown value, and who set it."""
        return {
            "name": self.name,
            "title": LIMITS[self.name].title,
            "value": self.value,
            "shown": self.shown(self.value),
            "source": self.source,
            "scope": self.scope,
            "origin": self.origin,
            "set_by": self.set_by,
            "set_at": None if self.set_at is None else self.set_at.isoformat(),
        }


class Figures:
    """Every figure that is set, by level: the file's, and over them those of runtime."""

    def __init__(self, quotas: Quotas, overrides: Iterable[Override] = ()) -> None:
        self._quotas = quotas
        self._rows = {(row.level, row.name, row.limit): row for row in overrides}

    def limit(self, level: str, name: str, limit: str) -> Limit | None:
        """What one level says of a limit, or None."""
        kind = LEVELS[level]
        source = kind.shown.format(name)
        row = self._rows.get((level, name, limit))
        if row is not None:
            return Limit(limit, row.value, source, kind.scope, name, row.set_by, row.set_at)
        value = getattr(kind.quota(self._quotas, name), limit, None)
        return None if value is None else Limit(limit, value, source, kind.scope, name)

    def person(self, limit: str, user: str, groups: Collection[str]) -> Limit | None:
        """The one that holds for a person: their own, else the most generous of their groups', else everyone's."""
        own = self.limit("user", user, limit)
        if own is not None:
            return own
        grouped = [found for name in sorted(groups) if (found := self.limit("group", name, limit)) is not None]
        if grouped:
            return max(grouped, key=lambda found: found.value)
        return self.limit("everyone", "", limit)


def limits_for(
    quotas: Quotas,
    user: str,
    groups: Collection[str],
    workspace: str | None,
    overrides: Iterable[Override] = (),
    owner: bool = False,
) -> list[Limit]:
    """The limits that hold for one person in one workspace, in the order of :data:`LIMITS`.

    Args:
        quotas: the policy's section.
        user: the Hub user's name.
        groups: the Hub groups of the user.
        workspace: the workspace's name, or None to leave its own limits out.
        overrides: those of runtime for this person and workspace.
        owner: whether it is the person's own personal workspace: its storage goes by their own limits.
    """
    figures = Figures(quotas, overrides)
    found: list[Limit | None] = []
    for name in LIMITS:
        if name == STORAGE:
            found.append(storage_limit(figures, workspace, (user, groups) if owner else None))
            continue
        found.append(figures.person(name, user, groups))
        if workspace is not None:
            found.append(figures.limit("workspace", workspace, name))
        if name in PoolQuota.model_fields:
            found += [figures.limit("group-pool", group, name) for group in sorted(groups)]
            found.append(figures.limit("pool", "", name))
    return [limit for limit in found if limit is not None]


def storage_limit(
    figures: Figures, workspace: str | None, owner: tuple[str, Collection[str]] | None = None
) -> Limit | None:
    """The size of a workspace: its own figure, else its owner's for a personal one, else everyone's.

    Args:
        owner: name and groups of whose personal workspace it is.
    """
    own = None if workspace is None else figures.limit("workspace", workspace, STORAGE)
    if own is not None:
        return own
    return figures.limit("everyone", "", STORAGE) if owner is None else figures.person(STORAGE, *owner)


def with_disk(limit: Limit | None, workspace: str, disk: int | None) -> Limit | None:
    """The size of a workspace when its owners asked for a disk: that, where it is less than the limit."""
    if disk is None or (limit is not None and limit.value <= disk):
        return limit
    return Limit(STORAGE, float(disk), f"workspace {workspace}", "workspace", workspace, OWNERS)


def parse_figure(level: str, limit: str, value: object) -> float:
    """The value that an admin sets for a limit at a level.

    Raises:
        MaestroError: ``invalid_request`` for an unknown level or limit, or one that the level does not take;
            ``invalid_resources`` or ``invalid_request`` for a value that is none.
    """
    kind = LEVELS.get(level)
    if kind is None:
        raise MaestroError("invalid_request", f"There is no level {level[:40]!r}; take one of: {', '.join(LEVELS)}.")
    if limit not in kind.model.model_fields:
        why = f"{kind.shown.format('NAME')} has no limit" if limit in LIMITS else "There is no limit"
        raise MaestroError(
            "invalid_request",
            f"{why[:1].upper()}{why[1:]} {limit[:60]!r}; take one of: {', '.join(kind.model.model_fields)}.",
        )
    if value is None:
        raise MaestroError("invalid_request", f"{limit} needs a value; remove the figure to go back to {FILE}.")
    return float(getattr(read_model(kind.model, {limit: value}), limit))
