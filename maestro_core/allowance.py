"""Whether one more launch fits within the limits that hold for it, and what is left of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from .budget import Month
from .errors import MaestroError
from .quota import BUDGETS, LIMITS, WORKSPACES, Limit
from .resources import MIN_CPU, MIN_MEMORY, Resources

#: sums of fractions of cores are not exact
_SLACK = 1e-6


@dataclass(frozen=True)
class Use:
    """What a set of launches holds now, and the hours that it used this month; ``workspaces``: that a person made."""

    servers: int = 0
    cpu: float = 0.0
    memory: int = 0
    gpu: int = 0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    workspaces: int = 0

    def without(self, held: Resources) -> Use:
        """The same when one launch that holds this has ended."""
        return replace(
            self,
            servers=self.servers - 1,
            cpu=max(0.0, self.cpu - held.cpu),
            memory=self.memory - held.memory,
            gpu=self.gpu - held.gpu,
        )


@dataclass(frozen=True)
class InUse:
    """What counts against a new launch: everything reserved or running, and this month's hours.

    Attributes:
        user: the person's, everywhere. workspace: everyone's in the workspace.
        pools: by group, those of all its members; ``""``: everyone's.
        user_servers: names of the person's servers, for the refusal's sentence.
        month: the month of the hours.
        storage: bytes that the workspace's files take, where that is known and the storage itself does not hold the
            limit; ``storage_measured_at``: when.
    """

    user: Use = Use()
    workspace: Use = Use()
    pools: Mapping[str, Use] = field(default_factory=dict)
    user_servers: tuple[str, ...] = ()
    month: Month | None = None
    storage: int | None = None
    storage_measured_at: datetime | None = None

    def of(self, limit: Limit) -> Use:
        """What counts against a limit."""
        if limit.scope == "pool":
            return self.pools.get(limit.key, Use())
        return self.user if limit.scope == "user" else self.workspace


@dataclass(frozen=True)
class _Rule:
    """How a limit is decided.

    Attributes:
        used: what is in use of it; None: what one server has does not add up.
        asked: what a launch asks of it.
    """

    used: Callable[[Use], float] | None
    asked: Callable[[Resources], float]


_RULES: dict[str, _Rule] = {
    "max_concurrent_notebooks": _Rule(lambda use: use.servers, lambda asked: 1),
    "max_cpu_per_notebook": _Rule(None, lambda asked: asked.cpu),
    "max_memory_per_notebook": _Rule(None, lambda asked: asked.memory),
    "max_gpu_per_notebook": _Rule(None, lambda asked: asked.gpu),
    "max_cpu_total": _Rule(lambda use: use.cpu, lambda asked: asked.cpu),
    "max_memory_total": _Rule(lambda use: use.memory, lambda asked: asked.memory),
    "max_gpu_total": _Rule(lambda use: use.gpu, lambda asked: asked.gpu),
    "max_cpu_hours_per_month": _Rule(lambda use: use.cpu_hours, lambda asked: asked.cpu),
    "max_gpu_hours_per_month": _Rule(lambda use: use.gpu_hours, lambda asked: asked.gpu),
    WORKSPACES: _Rule(lambda use: use.workspaces, lambda asked: 0),
}


def used(limit: Limit, in_use: InUse) -> float | None:
    """What is in use of a limit; None where nothing adds up, or nobody has measured."""
    if limit.name not in _RULES:
        return in_use.storage
    rule = _RULES[limit.name]
    return None if rule.used is None else rule.used(in_use.of(limit))


def check(limits: Iterable[Limit], in_use: InUse, asked: Resources) -> None:
    """Refuse the launch that would pass one of the limits; the first in the order given is named.

    A total is passed by what is in use and asked together. A budget refuses when it is used up, and only who asks for
    what it counts; what runs goes on. Storage refuses when the files take more than the limit.

    Raises:
        MaestroError: ``quota_exceeded``, with limit, value, in use, asked and source in the details.
    """
    for limit in limits:
        sentence = _refusal(limit, in_use, asked)
        if sentence is not None:
            rule = _RULES.get(limit.name)
            details = {
                **limit.as_json(),
                "limit": limit.name,
                "in_use": used(limit, in_use) or 0,
                "asked": 0 if rule is None else rule.asked(asked),
            }
            raise MaestroError("quota_exceeded", sentence, details)


def check_workspaces(limit: Limit | None, made: int) -> None:
    """Refuse one more workspace to somebody who made as many as their limit says.

    Args:
        limit: ``max_workspaces_per_user`` as it holds for the person; None: nobody set one.
        made: how many of theirs there are, archived ones too: their files are there.

    Raises:
        MaestroError: ``quota_exceeded``, with the same details as of :func:`check`.
    """
    if limit is None or made < limit.value:
        return
    raise MaestroError(
        "quota_exceeded",
        f"You have made {made} of {limit.value:.0f} workspaces ({_set_by(limit)}); archive and purge one that nobody "
        "needs, or ask an admin for more.",
        {**limit.as_json(), "limit": limit.name, "in_use": made, "asked": 1},
    )


def _refusal(limit: Limit, in_use: InUse, asked: Resources) -> str | None:
    if limit.name not in _RULES:
        return _storage_refusal(limit, in_use)
    rule = _RULES[limit.name]
    wanted = rule.asked(asked)
    if rule.used is None:
        return _single_refusal(limit, wanted) if wanted > limit.value + _SLACK else None
    taken = rule.used(in_use.of(limit))
    if limit.name in BUDGETS:
        return _budget_refusal(limit, taken, in_use.month) if wanted and taken >= limit.value - _SLACK else None
    if not wanted or taken + wanted <= limit.value + _SLACK:
        return None
    if limit.name == "max_concurrent_notebooks":
        return _servers_refusal(limit, taken, in_use)
    return _total_refusal(limit, taken, wanted, in_use)


def _set_by(limit: Limit) -> str:
    return f"{limit.name} {limit.shown(limit.value)}, {limit.set_for}"


def _single_refusal(limit: Limit, wanted: float) -> str:
    return (
        f"This asks for {limit.shown(wanted)} of at most {limit.shown(limit.value)} {LIMITS[limit.name].title} "
        f"({_set_by(limit)}); ask for less, or ask an admin for more."
    )


def _servers_refusal(limit: Limit, taken: float, in_use: InUse) -> str:
    what = f"{taken:.0f} of {limit.value:.0f} servers running or starting"
    if limit.scope == "user":
        return f"You have {what}{_names(in_use)} ({_set_by(limit)}); stop one of them, or ask an admin for more."
    return f"{_whose(limit)} {_have(limit)} {what} ({_set_by(limit)}); wait until one stops, or ask an admin for more."


def _total_refusal(limit: Limit, taken: float, wanted: float, in_use: InUse) -> str:
    unit = LIMITS[limit.name].counted
    what = f"{limit.shown(taken)} of {limit.shown(limit.value)} {unit} in use"
    more = f"and this asks for {limit.shown(wanted)} more"
    if limit.scope == "user":
        todo = "stop one, ask for less" if in_use.user_servers else "ask for less"
        return f"You have {what}{_names(in_use)}, {more} ({_set_by(limit)}); {todo}, or ask an admin for more."
    return (
        f"{_whose(limit)} {_have(limit)} {what}, {more} ({_set_by(limit)}); wait until a server stops, ask for less, "
        "or ask an admin for more."
    )


def _budget_refusal(limit: Limit, taken: float, month: Month | None) -> str:
    unit = LIMITS[limit.name].counted.removesuffix(" this month")
    when = "this month" if month is None else f"in {month.name} (UTC)"
    there_is = "with the next month" if month is None else f"on {month.over}"
    who = "You have" if limit.scope == "user" else f"{_whose(limit)} {_have(limit)}"
    return (
        f"{who} used {limit.shown(taken)} of {limit.shown(limit.value)} {unit} {when}, and none remain "
        f"({_set_by(limit)}); there are new ones {there_is}, or ask an admin for more."
    )


def _storage_refusal(limit: Limit, in_use: InUse) -> str | None:
    if in_use.storage is None or in_use.storage <= limit.value:
        return None
    when = (
        "" if in_use.storage_measured_at is None else f", measured at {in_use.storage_measured_at:%Y-%m-%d %H:%M} UTC"
    )
    return (
        f"The files of this workspace take {limit.shown(in_use.storage)} of {limit.shown(limit.value)} "
        f"({_set_by(limit)}{when}); delete some in a server that still runs there, or ask an admin for more."
    )


def _names(in_use: InUse) -> str:
    return f" ({', '.join(in_use.user_servers)})" if in_use.user_servers else ""


def _whose(limit: Limit) -> str:
    if limit.scope == "workspace":
        return f"Workspace {limit.key}"
    return f"All members of group {limit.key} together" if limit.key else "All people together"


def _have(limit: Limit) -> str:
    return "has" if limit.scope == "workspace" else "have"


@dataclass(frozen=True)
class Left:
    """How much of a limit is in use.

    Attributes:
        limit: which one. used: what is in use.
    """

    limit: Limit
    used: float

    @property
    def left(self) -> float:
        """What remains; never below zero."""
        return max(0.0, self.limit.value - self.used)

    @property
    def share(self) -> float:
        """What is in use as a share of the limit; 1 for a limit of zero."""
        return self.used / self.limit.value if self.limit.value else 1.0

    @property
    def sentence(self) -> str:
        """``2 of 3 servers``, ``6 of 8 GPUs of workspace demo``, ``3.5 of 10 GPU hours this month``."""
        counted = LIMITS[self.limit.name].counted
        whose = {"user": "", "workspace": f" of workspace {self.limit.key}"}.get(
            self.limit.scope, f" of group {self.limit.key}" if self.limit.key else " of everyone"
        )
        used, value = self.limit.shown(self.used), self.limit.shown(self.limit.value)
        return f"{used} of {value} {counted}{whose}"


def growing(limits: Iterable[Limit], before: Resources, after: Resources) -> list[Limit]:
    """The limits that a running launch could pass by being resized: those of what it gets more of.

    Its place is its own already, so no count of servers is among them; and what it gives back passes no limit, even
    one that was lowered below it meanwhile.
    """
    counted = ("cpu",) * (after.cpu > before.cpu) + ("memory",) * (after.memory > before.memory)
    budgets = ("max_cpu_hours_per_month",) if after.cpu > before.cpu else ()
    return [limit for limit in limits if _AMOUNT_OF.get(limit.name) in counted or limit.name in budgets]


def left_of(limits: Iterable[Limit], in_use: InUse) -> list[Left]:
    """What is left of each limit that something adds up to, in the order given."""
    found = [(limit, used(limit, in_use)) for limit in limits]
    return [Left(limit, amount) for limit, amount in found if amount is not None]


def most(limits: Iterable[Limit], in_use: InUse, ceiling: Resources) -> Resources | None:
    """The most that one launch may ask for: a profile's ceiling within every limit; None where that is nothing."""
    amounts = {"cpu": ceiling.cpu, "memory": ceiling.memory, "gpu": ceiling.gpu}
    for limit in limits:
        kind = _AMOUNT_OF.get(limit.name)
        if kind is not None:
            amounts[kind] = min(amounts[kind], limit.value - (used(limit, in_use) or 0))
        elif limit.name == "max_gpu_hours_per_month" and (used(limit, in_use) or 0) >= limit.value - _SLACK:
            amounts["gpu"] = 0
    cpu, memory = math.floor(amounts["cpu"] * 1000 + _SLACK) / 1000, int(amounts["memory"])
    if cpu < MIN_CPU or memory < MIN_MEMORY:
        return None
    return Resources(cpu=cpu, memory=memory, gpu=max(0, int(amounts["gpu"])), gpu_type=ceiling.gpu_type)


_AMOUNT_OF = {
    "max_cpu_per_notebook": "cpu",
    "max_cpu_total": "cpu",
    "max_memory_per_notebook": "memory",
    "max_memory_total": "memory",
    "max_gpu_per_notebook": "gpu",
    "max_gpu_total": "gpu",
}


def shown_servers(limits: Iterable[Limit], in_use: InUse) -> Mapping[str, Any]:
    """What cards and forms say of servers: ``{"used": 1, "limit": 3 or None}`` for the person."""
    own = [limit.value for limit in limits if limit.name == "max_concurrent_notebooks" and limit.scope == "user"]
    return {"used": in_use.user.servers, "limit": int(min(own)) if own else None}
