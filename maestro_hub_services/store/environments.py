"""Environments: versions that are never changed, and the locks that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from json import dumps
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import String, cast, delete, func, insert, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.conda_environments import LockedCondaPackage, specs_by_name
from maestro_core.environments import PYTHON, Kind, LockedPackage, by_name

from .clock import now
from .tables import environment, environment_lock

#: versions whose locks are kept; going back to an older one resolves what it asked for anew
LOCKS_KEPT = 50
#: targets (Python, platform, image) of which one version keeps locks
MAX_TARGETS = 20

#: one package of a lock, of either kind
Locked = LockedPackage | LockedCondaPackage
_LOCKED: TypeAdapter[tuple[Locked, ...]] = TypeAdapter(tuple[Locked, ...])
#: what is asked for, by name
_BY_NAME: Mapping[Kind, Callable[[Iterable[str]], dict[str, str]]] = {"python": by_name, "conda": specs_by_name}


@dataclass(frozen=True, slots=True)
class EnvironmentRow:
    """One version; the columns of ``environment``."""

    id: int
    workspace_id: str
    kind: Kind
    number: int
    parent: int
    author: str
    launch_id: str | None
    at: datetime
    reason: str
    python_version: str | None
    requirements: tuple[str, ...]
    channels: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, str]:
        """What people asked for, by name."""
        return _BY_NAME[self.kind](self.requirements)


@dataclass(frozen=True, slots=True)
class LockRow:
    """A lock of a version for one target."""

    environment_id: int
    target: str
    complete: bool
    packages: tuple[Locked, ...]


class EnvironmentRepository:
    """Environments of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def number(self, workspace_id: str, kind: Kind = PYTHON) -> int:
        """The newest version's number; 0: there is none."""
        query = select(func.max(environment.c.number)).where(
            environment.c.workspace_id == workspace_id, environment.c.kind == kind
        )
        return int((await self._db.execute(query)).scalar() or 0)

    async def get(self, workspace_id: str, number: int, kind: Kind = PYTHON) -> EnvironmentRow | None:
        """One version."""
        query = select(environment).where(
            environment.c.workspace_id == workspace_id, environment.c.kind == kind, environment.c.number == number
        )
        row = (await self._db.execute(query)).mappings().first()
        return None if row is None else _row(row)

    async def newest(self, workspace_id: str, kind: Kind = PYTHON) -> EnvironmentRow | None:
        """The version that counts; None: there is none yet."""
        return await self.get(workspace_id, await self.number(workspace_id, kind), kind)

    async def using(self, package: str) -> list[str]:
        """The ids of workspaces whose present environment has a package (normal name): asked for, or locked.

        Locks are large and everybody's: the database looks through them, none is brought here.
        """
        last = select(func.max(environment.c.id)).group_by(environment.c.workspace_id, environment.c.kind)
        text = cast(environment_lock.c.packages, String)
        spellings = {package, package.replace("-", "_")}  # conda's locks keep their channel's
        locked = or_(*(text.contains(f'"name": {dumps(name)}', autoescape=True) for name in sorted(spellings)))
        has_it = select(environment_lock.c.environment_id).where(environment_lock.c.environment_id.in_(last), locked)
        query = select(
            environment.c.workspace_id, environment.c.kind, environment.c.requirements, environment.c.id.in_(has_it)
        ).where(environment.c.id.in_(last))
        return sorted(
            {
                workspace_id
                for workspace_id, kind, requirements, has in await self._db.execute(query)
                if has or package in _BY_NAME[kind](requirements)
            }
        )

    async def history(self, workspace_id: str, limit: int, kind: Kind = PYTHON) -> list[EnvironmentRow]:
        """The newest versions first."""
        query = (
            select(environment)
            .where(environment.c.workspace_id == workspace_id, environment.c.kind == kind)
            .order_by(environment.c.number.desc())
            .limit(limit)
        )
        return [_row(row) for row in (await self._db.execute(query)).mappings()]

    async def add(
        self,
        workspace_id: str,
        parent: int,
        author: str,
        requirements: Sequence[str],
        *,
        reason: str = "",
        python_version: str | None = None,
        launch_id: str | None = None,
        kind: Kind = PYTHON,
        channels: Sequence[str] = (),
    ) -> EnvironmentRow:
        """The next version. The caller holds a write transaction."""
        number = await self.number(workspace_id, kind) + 1
        values = {
            "workspace_id": workspace_id,
            "kind": kind,
            "number": number,
            "parent": parent,
            "author": author,
            "launch_id": launch_id,
            "at": now(),
            "reason": reason,
            "python_version": python_version,
            "requirements": list(requirements),
            "channels": list(channels) or None,
        }
        await self._db.execute(insert(environment), values)
        old = select(environment.c.id).where(
            environment.c.workspace_id == workspace_id,
            environment.c.kind == kind,
            environment.c.number <= number - LOCKS_KEPT,
        )
        await self._db.execute(delete(environment_lock).where(environment_lock.c.environment_id.in_(old)))
        made = await self.get(workspace_id, number, kind)
        assert made is not None  # noqa: S101 - it was written in this transaction
        return made

    async def copy_locks(self, environment_id: int, to: int) -> None:
        """Give a version the complete locks of another one, :data:`MAX_TARGETS` at most."""
        lock = environment_lock.c
        found = (
            select(literal(to), lock.target, lock.complete, lock.packages)
            .where(lock.environment_id == environment_id, lock.complete)
            .order_by(lock.target)
            .limit(MAX_TARGETS)
        )
        columns = ["environment_id", "target", "complete", "packages"]
        await self._db.execute(insert(environment_lock).from_select(columns, found))

    async def count_locks(self, environment_id: int) -> int:
        """How many locks a version has."""
        here = environment_lock.c.environment_id == environment_id
        return int(
            (await self._db.execute(select(func.count()).select_from(environment_lock).where(here))).scalar_one()
        )

    async def targets(self, environment_ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
        """The targets of complete locks, by version's id."""
        query = (
            select(environment_lock.c.environment_id, environment_lock.c.target)
            .where(environment_lock.c.environment_id.in_(environment_ids), environment_lock.c.complete)
            .order_by(environment_lock.c.target)
        )
        found: dict[int, tuple[str, ...]] = {}
        for one, target in await self._db.execute(query):
            found[one] = (*found.get(one, ()), target)
        return found

    async def lock(self, environment_id: int, target: str) -> LockRow | None:
        """The lock of a version for a target."""
        query = select(environment_lock).where(
            environment_lock.c.environment_id == environment_id, environment_lock.c.target == target
        )
        row = (await self._db.execute(query)).mappings().first()
        return None if row is None else _lock(row)

    async def nearest_lock(self, row: EnvironmentRow, target: str | None) -> LockRow | None:
        """The lock of this version or of the newest before it that has one; of any target where None is given."""
        query = (
            select(environment_lock)
            .join(environment, environment.c.id == environment_lock.c.environment_id)
            .where(
                environment.c.workspace_id == row.workspace_id,
                environment.c.kind == row.kind,
                environment.c.number <= row.number,
            )
            .order_by(environment.c.number.desc(), environment_lock.c.complete.desc(), environment_lock.c.target)
            .limit(1)
        )
        if target is not None:
            query = query.where(environment_lock.c.target == target)
        found = (await self._db.execute(query)).mappings().first()
        return None if found is None else _lock(found)

    async def put_lock(self, environment_id: int, target: str, packages: Sequence[Locked], *, complete: bool) -> None:
        """Keep a lock, in the place of one that is there."""
        values = {"complete": complete, "packages": [it.model_dump() for it in packages]}
        here = (environment_lock.c.environment_id == environment_id) & (environment_lock.c.target == target)
        if (await self._db.execute(update(environment_lock).where(here).values(values))).rowcount == 0:
            await self._db.execute(
                insert(environment_lock), {"environment_id": environment_id, "target": target, **values}
            )

    async def forget_workspace(self, workspace_id: str) -> int:
        """Remove all versions of a workspace; how many those were."""
        of_it = select(environment.c.id).where(environment.c.workspace_id == workspace_id)
        await self._db.execute(delete(environment_lock).where(environment_lock.c.environment_id.in_(of_it)))
        done = await self._db.execute(delete(environment).where(environment.c.workspace_id == workspace_id))
        return int(done.rowcount)


def _row(row: Any) -> EnvironmentRow:
    values = dict(row)
    lists = {name: tuple(values[name] or ()) for name in ("requirements", "channels")}
    return EnvironmentRow(**values | lists)


def _lock(row: Any) -> LockRow:
    return LockRow(
        row["environment_id"], row["target"], bool(row["complete"]), _LOCKED.validate_python(row["packages"])
    )
