"""What counts against a decision: everything that is held and the hours of a month, in one statement.

The statement has one part for each kind of sum that a limit in force asks for, and is put together once for each
combination of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, Select, and_, bindparam, literal_column, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.budget import Month

from .charges import WITHIN, Hours, hours_sums, span_of
from .launches import ACTIVE, Held, held_sums
from .tables import charge, launch, launch_group

#: whose launches: of the ``user`` everywhere, of everybody in the ``workspace``, or of a ``pool`` ("": everyone's)
Scope = tuple[str, str]
USER, WORKSPACE, EVERYONE = ("user", ""), ("workspace", ""), ("pool", "")


def pool(group: str) -> Scope:
    """The pool of a Hub group; ``""``: everyone's."""
    return ("pool", group)


@dataclass(frozen=True, slots=True)
class Counted:
    """What each scope holds now, and used in the month; nothing where it is missing."""

    held: dict[Scope, Held] = field(default_factory=dict)
    hours: dict[Scope, Hours] = field(default_factory=dict)


class CountRepository:
    """Sums of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def count(
        self,
        month: Month,
        *,
        held: Collection[Scope] = (),
        hours: Collection[Scope] = (),
        user: tuple[str, str] = ("", ""),
        workspace_id: str = "",
    ) -> Counted:
        """These sums.

        Args:
            held: whose reserved and running launches to add up; a person's are known by ``LaunchRepository.active_of``.
            hours: whose hours of the month.
            user: name and creation stamp of the person whom :data:`USER` means.
            workspace_id: of the one that :data:`WORKSPACE` means.
        """
        parts = (*(("held", kind) for kind in _kinds(held)), *(("hours", kind) for kind in _kinds(hours)))
        found = Counted()
        if not parts:
            return found
        values = {
            **span_of(month),
            "user": user[0],
            "created": user[1],
            "workspace": workspace_id,
            "held_groups": _groups(held),
            "hours_groups": _groups(hours),
        }
        for what, scope, key, servers, cpu, memory, gpu in await self._db.execute(_statement(parts), values):
            if key is None:  # launches of members of none of these groups
                continue
            if what == "held":
                found.held[scope, key] = Held(servers, cpu, int(memory), int(gpu))
            else:
                found.hours[scope, key] = Hours(cpu, gpu)
        return found


def _kinds(scopes: Collection[Scope]) -> list[str]:
    return sorted({"group" if key else "everyone" if scope == "pool" else scope for scope, key in scopes})


def _groups(scopes: Collection[Scope]) -> list[str]:
    return sorted(key for scope, key in scopes if scope == "pool" and key)


@cache
def _statement(parts: tuple[tuple[str, str], ...]) -> CompoundSelect[Any]:
    return union_all(*(_PARTS[part] for part in parts))


def _held(scope: str, key: Any) -> Select[Any]:
    return select(literal_column("'held'"), literal_column(f"'{scope}'"), key, *held_sums()).where(ACTIVE)


def _hours(scope: str, key: Any) -> Select[Any]:
    none: ColumnElement[int] = literal_column("0")
    cpu, gpu = hours_sums()
    return select(literal_column("'hours'"), literal_column(f"'{scope}'"), key, none, cpu, none, gpu).where(WITHIN)


_NO_KEY: ColumnElement[str] = literal_column("''")
_GROUP = launch_group.c.group_name
# An outer join is taken in this order: few launches are active, while a group's members may have started thousands.
_ACTIVE_IN_GROUPS = launch.outerjoin(
    launch_group,
    and_(launch_group.c.launch_id == launch.c.id, _GROUP.in_(bindparam("held_groups", expanding=True))),
)
_IN_GROUPS = launch_group.join(charge, charge.c.launch_id == launch_group.c.launch_id)
_PARTS: dict[tuple[str, str], Select[Any]] = {
    ("held", "workspace"): _held("workspace", _NO_KEY).where(launch.c.workspace_id == bindparam("workspace")),
    ("held", "everyone"): _held("pool", _NO_KEY),
    ("held", "group"): _held("pool", _GROUP).select_from(_ACTIVE_IN_GROUPS).group_by(_GROUP),
    ("hours", "user"): _hours("user", _NO_KEY).where(
        charge.c.user == bindparam("user"), charge.c.user_created == bindparam("created")
    ),
    ("hours", "workspace"): _hours("workspace", _NO_KEY).where(charge.c.workspace_id == bindparam("workspace")),
    ("hours", "everyone"): _hours("pool", _NO_KEY),
    ("hours", "group"): _hours("pool", _GROUP)
    .select_from(_IN_GROUPS)
    .where(_GROUP.in_(bindparam("hours_groups", expanding=True)))
    .group_by(_GROUP),
}
