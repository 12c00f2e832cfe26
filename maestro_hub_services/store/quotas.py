"""Quotas that admins set at runtime; each wins over the figure of the same level in ``maestro.yaml``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, bindparam, delete, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.quota import Override

from .clock import now
from .tables import quota_override

_FIGURE = [
    quota_override.c.level,
    quota_override.c.name,
    quota_override.c.limit_name.label("limit"),
    quota_override.c.value,
    quota_override.c.set_by,
    quota_override.c.set_at,
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a figure is set: a level, a name where it has one, and what tells who had that name (the user's creation
    stamp, the workspace's id): somebody or something re-created under the name inherits no figure."""

    level: str
    name: str = ""
    stamp: str = ""


class QuotaRepository:
    """Runtime quotas of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def every(self) -> list[tuple[Place, Override]]:
        """All of them, by level, name and limit."""
        table = quota_override.c
        query = select(*_FIGURE, table.stamp).order_by(table.level, table.name, table.limit_name)
        found = []
        for row in (await self._db.execute(query)).mappings():
            values = dict(row)
            place = Place(values["level"], values["name"], values.pop("stamp"))
            found.append((place, Override(**values)))
        return found

    async def holding(
        self, user: tuple[str, str], groups: Collection[str], workspace: tuple[str, str] | None
    ) -> list[Override]:
        """Those that hold for one person in one workspace.

        Args:
            user: name and creation stamp.
            groups: the Hub groups of the user.
            workspace: name and id; None: nothing is set for it.
        """
        values = {"of_user": user[0], "of_created": user[1], "of_groups": sorted(groups)}
        values["of_workspace"], values["of_id"] = workspace or _NONE
        return [Override(**row) for row in (await self._db.execute(_HOLDING, values)).mappings()]

    async def get(self, place: Place, limit: str) -> Override | None:
        """One figure."""
        query = select(*_FIGURE).where(_at(place), quota_override.c.limit_name == limit)
        row = (await self._db.execute(query)).mappings().first()
        return None if row is None else Override(**row)

    async def put(self, place: Place, limit: str, value: float, by: str) -> None:
        """Set one, in place of what was set for an earlier bearer of the name. The caller holds a write transaction."""
        table = quota_override.c
        same = and_(table.level == place.level, table.name == place.name, table.limit_name == limit)
        await self._db.execute(delete(quota_override).where(same))
        values: dict[str, Any] = {"value": value, "set_by": by, "set_at": now()}
        keys = {"level": place.level, "name": place.name, "stamp": place.stamp, "limit_name": limit}
        await self._db.execute(insert(quota_override), {**keys, **values})

    async def remove(self, place: Place, limit: str) -> None:
        """Forget one."""
        await self._db.execute(delete(quota_override).where(_at(place), quota_override.c.limit_name == limit))

    async def forget(self, place: Place) -> int:
        """Forget all of one place; how many that were."""
        return int((await self._db.execute(delete(quota_override).where(_at(place)))).rowcount)


def _at(place: Place) -> Any:
    table = quota_override.c
    return and_(table.level == place.level, table.name == place.name, table.stamp == place.stamp)


def _named(level: str, name: str, stamp: str) -> Any:
    table = quota_override.c
    return and_(table.level == level, table.name == bindparam(name), table.stamp == bindparam(stamp))


#: name and id of no workspace
_NONE = ("", "")
#: put together once: every decision asks for it
_HOLDING = select(*_FIGURE).where(
    or_(
        _at(Place("everyone")),
        _at(Place("pool")),
        _named("user", "of_user", "of_created"),
        _named("workspace", "of_workspace", "of_id"),
        and_(
            quota_override.c.level.in_(("group", "group-pool")),
            quota_override.c.name.in_(bindparam("of_groups", expanding=True)),
        ),
    )
)
