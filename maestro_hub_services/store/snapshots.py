"""Saved versions of notebooks: which there are, and what stands in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, delete, exists, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .clock import now
from .tables import snapshot, snapshot_content


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One saved version, with the size of its content."""

    path: str
    address: str
    author: str
    launch_id: str
    saved_at: datetime
    cells: int
    size: int


class SnapshotRepository:
    """Snapshots of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def has(self, workspace_id: str, address: str) -> bool:
        """Whether the content is there."""
        return (
            await self._db.execute(select(snapshot_content.c.size).where(_at(workspace_id, address)))
        ).first() is not None

    async def keep(self, workspace_id: str, address: str, body: bytes, size: int, cells: int) -> None:
        """Keep a content that is not there yet."""
        values = {"workspace_id": workspace_id, "address": address, "body": body, "size": size, "cells": cells}
        await self._db.execute(insert(snapshot_content), values)

    async def note(self, workspace_id: str, path: str, address: str, author: str, launch_id: str) -> bool:
        """Note that a notebook was saved so; False where that is its newest version already."""
        mine = and_(snapshot.c.workspace_id == workspace_id, snapshot.c.path == path)
        newest = select(snapshot.c.address).where(mine).order_by(snapshot.c.id.desc()).limit(1)
        if (await self._db.execute(newest)).scalar() == address:
            return False
        values = {
            "workspace_id": workspace_id,
            "path": path,
            "address": address,
            "author": author,
            "launch_id": launch_id,
            "saved_at": now(),
        }
        await self._db.execute(insert(snapshot), values)
        return True

    async def thin(self, workspace_id: str, path: str, keep: int) -> None:
        """Forget all but the newest versions of a notebook, and contents that no version has any more."""
        mine = and_(snapshot.c.workspace_id == workspace_id, snapshot.c.path == path)
        oldest = select(snapshot.c.id).where(mine).order_by(snapshot.c.id.desc()).offset(keep).limit(1)
        border = (await self._db.execute(oldest)).scalar()
        if border is None:
            return
        await self._db.execute(delete(snapshot).where(mine, snapshot.c.id <= border))
        await self._drop_unused(workspace_id)

    async def fit(self, workspace_id: str, most_bytes: int, most_versions: int) -> None:
        """Forget the oldest versions of a workspace, a tenth at a time, until the rest fits."""
        mine = snapshot.c.workspace_id == workspace_id
        size = select(func.coalesce(func.sum(snapshot_content.c.size), 0))
        size = size.where(snapshot_content.c.workspace_id == workspace_id)
        count = select(func.count()).select_from(snapshot).where(mine)
        while True:
            versions = int((await self._db.execute(count)).scalar_one())
            if versions <= most_versions and int((await self._db.execute(size)).scalar_one()) <= most_bytes:
                return
            tenth = select(snapshot.c.id).where(mine).order_by(snapshot.c.id).offset(versions // 10).limit(1)
            border = (await self._db.execute(tenth)).scalar()
            if border is None:
                return
            await self._db.execute(delete(snapshot).where(mine, snapshot.c.id <= border))
            await self._drop_unused(workspace_id)

    async def _drop_unused(self, workspace_id: str) -> None:
        used = exists().where(
            snapshot.c.workspace_id == snapshot_content.c.workspace_id, snapshot.c.address == snapshot_content.c.address
        )
        await self._db.execute(delete(snapshot_content).where(snapshot_content.c.workspace_id == workspace_id, ~used))

    async def versions(self, workspace_id: str, path: str | None, limit: int) -> list[SnapshotRow]:
        """Of one notebook, or of all, the newest first."""
        return await self._rows(workspace_id, () if path is None else (snapshot.c.path == path,), limit)

    async def saves(self, workspace_id: str, address: str, limit: int) -> list[SnapshotRow]:
        """Of one address, the newest first."""
        return await self._rows(workspace_id, (snapshot.c.address == address,), limit)

    async def _rows(self, workspace_id: str, which: tuple[ColumnElement[bool], ...], limit: int) -> list[SnapshotRow]:
        content = snapshot_content.c
        columns = [getattr(snapshot.c, name) for name in ("path", "address", "author", "launch_id", "saved_at")]
        joined = snapshot.join(
            snapshot_content,
            and_(snapshot.c.workspace_id == content.workspace_id, snapshot.c.address == content.address),
        )
        query = select(*columns, content.cells, content.size).select_from(joined)
        query = query.where(snapshot.c.workspace_id == workspace_id, *which).order_by(snapshot.c.id.desc()).limit(limit)
        return [SnapshotRow(**row) for row in (await self._db.execute(query)).mappings()]

    async def contents(self, workspace_id: str, start: str) -> list[tuple[str, bytes]]:
        """Address and body of those whose address begins so; two at most."""
        query = select(snapshot_content.c.address, snapshot_content.c.body).where(
            snapshot_content.c.workspace_id == workspace_id,
            snapshot_content.c.address.startswith(start, autoescape=True),
        )
        return [(row.address, row.body) for row in await self._db.execute(query.limit(2))]

    async def forget_workspace(self, workspace_id: str) -> int:
        """Remove those of a workspace; how many versions that were."""
        gone = await self._db.execute(delete(snapshot).where(snapshot.c.workspace_id == workspace_id))
        await self._db.execute(delete(snapshot_content).where(snapshot_content.c.workspace_id == workspace_id))
        return int(gone.rowcount)


def _at(workspace_id: str, address: str) -> ColumnElement[bool]:
    return and_(snapshot_content.c.workspace_id == workspace_id, snapshot_content.c.address == address)
