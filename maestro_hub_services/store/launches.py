"""Launches: reserved, running, ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.launches import LaunchStatus
from maestro_core.resources import Resources
from maestro_core.roles import Role

from .clock import now
from .tables import launch

#: a literal, so that the databases see that their partial indexes cover it
_ACTIVE = launch.c.status != literal_column("'ended'")


@dataclass(frozen=True, slots=True)
class LaunchRow:
    """One launch; the index token is known by its HMAC alone, and only while the launch is active."""

    id: str
    kind: str
    workspace_id: str
    user: str
    user_created: str
    server_name: str
    role: Role
    profile: str
    resources: Resources
    experiment: str
    default_url: str
    status: LaunchStatus
    token_mac: str | None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    ended_reason: str | None = None
    image: str | None = None
    idle_minutes: int | None = None


class LaunchRepository:
    """Launches of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(self, row: LaunchRow) -> None:
        """Reserve one. The caller holds the admission lock."""
        values = {name: getattr(row, name) for name in LaunchRow.__slots__ if name != "resources"}
        values.update(row.resources.model_dump(), role=row.role.value, status=row.status.value)
        await self._db.execute(insert(launch), values)

    async def get(self, launch_id: str) -> LaunchRow | None:
        """One launch, ended or not."""
        return await self._one(launch.c.id == launch_id)

    async def of_server(self, user: str, created: str, server_name: str) -> LaunchRow | None:
        """The active launch of one server."""
        return await self._one(
            _ACTIVE, launch.c.user == user, launch.c.user_created == created, launch.c.server_name == server_name
        )

    async def by_token(self, mac: str) -> LaunchRow | None:
        """The active launch that an index token belongs to."""
        return await self._one(_ACTIVE, launch.c.token_mac == mac)

    async def active(self) -> list[LaunchRow]:
        """Everybody's reserved and running launches, the newest first."""
        return await self._many(_ACTIVE)

    async def active_of(self, user: str, created: str) -> list[LaunchRow]:
        """A person's reserved and running launches, the newest first."""
        return await self._many(_ACTIVE, launch.c.user == user, launch.c.user_created == created)

    async def count_in(self, workspace_id: str) -> int:
        """How many reserved and running launches a workspace has."""
        query = select(func.count()).select_from(launch).where(_ACTIVE, launch.c.workspace_id == workspace_id)
        return int((await self._db.execute(query)).scalar_one())

    async def confirm(self, launch_id: str) -> bool:
        """reserved -> running; False if it was not reserved."""
        query = update(launch).where(launch.c.id == launch_id, launch.c.status == LaunchStatus.RESERVED.value)
        done = await self._db.execute(query.values(status=LaunchStatus.RUNNING.value, started_at=now()))
        return bool(done.rowcount)

    async def end(self, launch_id: str, reason: str) -> bool:
        """-> ended, its index token dead; False if it had ended before."""
        query = update(launch).where(launch.c.id == launch_id, _ACTIVE)
        done = await self._db.execute(
            query.values(status=LaunchStatus.ENDED.value, ended_at=now(), ended_reason=reason[:200], token_mac=None)
        )
        return bool(done.rowcount)

    async def _one(self, *conditions: Any) -> LaunchRow | None:
        row = (await self._db.execute(select(launch).where(*conditions))).mappings().first()
        return None if row is None else _row(row)

    async def _many(self, *conditions: Any) -> list[LaunchRow]:
        query = select(launch).where(*conditions).order_by(launch.c.created_at.desc(), launch.c.id)
        return [_row(row) for row in (await self._db.execute(query)).mappings()]


def _row(row: Any) -> LaunchRow:
    values = dict(row)
    # construct: what the store holds was checked on its way in
    values["resources"] = Resources.model_construct(
        cpu=values.pop("cpu"), memory=values.pop("memory"), gpu=values.pop("gpu"), gpu_type=values.pop("gpu_type")
    )
    values["role"], values["status"] = Role(values["role"]), LaunchStatus(values["status"])
    return LaunchRow(**values)
