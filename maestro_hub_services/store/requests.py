"""Requests for packages, and the rules that decisions about them made."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.packages import Action, Grant, Rule
from maestro_core.requests import RequestStatus

from .clock import new_id, now
from .tables import package_grant, package_request, package_rule, request_asker


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request; what its columns mean is said in :mod:`.tables`."""

    id: str
    workspace_id: str
    package: str
    channel: str
    version: str
    status: RequestStatus
    rule: str
    sentence: str
    asked_at: datetime
    decided_by: str | None = None
    decided_at: datetime | None = None
    answer: str = ""
    facts: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AskerRow:
    """Who asks; ``version`` is a specifier."""

    request_id: str
    user: str
    user_created: str
    version: str
    reason: str
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rule that somebody decided; ``workspace_id`` None: everywhere, ``until`` None: until it is taken back."""

    id: str
    workspace_id: str | None
    request_id: str | None
    package: str
    version: str
    channel: str | None
    action: Action
    set_by: str
    set_at: datetime
    until: datetime | None

    def as_rule(self) -> Rule:
        """As the policy compiles it."""
        return Rule(
            name=self.package,
            specifier=self.version,
            channel=self.channel,
            action=self.action,
            level="global" if self.workspace_id is None else "workspace",
            origin="decision",
        )


class RequestRepository:
    """Requests of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(
        self, workspace_id: str, package: str, channel: str, version: str, *, rule: str, sentence: str
    ) -> RequestRow:
        """A new one that is pending."""
        row = RequestRow(new_id("r"), workspace_id, package, channel, version, "pending", rule, sentence, now())
        await self._db.execute(insert(package_request), {name: getattr(row, name) for name in RequestRow.__slots__})
        return row

    async def get(self, request_id: str) -> RequestRow | None:
        """One."""
        found = await self._many(package_request.c.id == request_id)
        return found[0] if found else None

    async def pending(self, workspace_id: str, package: str, channel: str) -> RequestRow | None:
        """The one of a package that is pending in a workspace."""
        same = (
            package_request.c.workspace_id == workspace_id,
            package_request.c.package == package,
            package_request.c.channel == channel,
            package_request.c.status == "pending",
        )
        found = await self._many(*same)
        return found[0] if found else None

    async def reopen(
        self, workspace_id: str, package: str, channel: str, user: str, created: str, *, version: str, rule: str,
        sentence: str,
    ) -> RequestRow | None:  # fmt: skip
        """Make the one pending again that this person has withdrawn; None: there is none."""
        mine = select(request_asker.c.request_id).where(*_person(user, created))
        found = await self._many(
            package_request.c.id.in_(mine),
            package_request.c.workspace_id == workspace_id,
            package_request.c.package == package,
            package_request.c.channel == channel,
            package_request.c.status == "withdrawn",
            limit=1,
        )
        if not found:
            return None
        asked = {"status": "pending", "version": version, "rule": rule, "sentence": sentence, "asked_at": now()}
        await self._change(found[0].id, {**asked, "decided_by": None, "decided_at": None, "answer": "", "facts": None})
        return await self.get(found[0].id)

    async def forget_withdrawn(self, user: str, created: str, keep: int) -> None:
        """Remove what a person has withdrawn, but for the newest."""
        mine = select(request_asker.c.request_id).where(*_person(user, created))
        found = await self._many(package_request.c.id.in_(mine), package_request.c.status == "withdrawn")
        old = [row.id for row in found[keep:]]
        await self._db.execute(delete(request_asker).where(request_asker.c.request_id.in_(old)))
        await self._db.execute(delete(package_request).where(package_request.c.id.in_(old)))

    async def all_pending(self) -> list[RequestRow]:
        """Every one that is pending."""
        return await self._many(package_request.c.status == "pending")

    async def of_workspace(self, workspace_id: str, limit: int = 100) -> list[RequestRow]:
        """Those of a workspace, the newest first."""
        return await self._many(package_request.c.workspace_id == workspace_id, limit=limit)

    async def of_user(self, user: str, created: str, limit: int = 100) -> list[RequestRow]:
        """Those that a person asks, the newest first."""
        mine = select(request_asker.c.request_id).where(*_person(user, created))
        return await self._many(package_request.c.id.in_(mine), limit=limit)

    async def answered(self, user: str, created: str, workspace_id: str, since: datetime) -> list[RequestRow]:
        """What a person asked in a workspace and somebody decided since, the newest first."""
        mine = select(request_asker.c.request_id).where(*_person(user, created))
        return await self._many(
            package_request.c.id.in_(mine),
            package_request.c.workspace_id == workspace_id,
            package_request.c.status.in_(("approved", "denied")),
            package_request.c.decided_at >= since,
        )

    async def count_pending(self, user: str, created: str) -> int:
        """How many a person has pending."""
        joined = package_request.join(request_asker)
        query = select(func.count()).select_from(joined).where(
            *_person(user, created), package_request.c.status == "pending"
        )  # fmt: skip
        return int((await self._db.execute(query)).scalar_one())

    async def decide(self, request_id: str, status: RequestStatus, by: str, answer: str) -> None:
        """It is pending no longer."""
        values = {"status": status, "decided_by": by, "decided_at": now(), "answer": answer}
        await self._change(request_id, values)

    async def keep_facts(self, request_id: str, facts: dict[str, Any] | None) -> None:
        """What is known about it; None: somebody is to look (again)."""
        await self._change(request_id, {"facts": facts})

    async def join(self, request_id: str, user: str, created: str, version: str, reason: str) -> None:
        """Somebody asks this; asking again replaces what they said before."""
        await self.leave(request_id, user, created)
        row = AskerRow(request_id, user, created, version, reason, now())
        await self._db.execute(insert(request_asker), {name: getattr(row, name) for name in AskerRow.__slots__})

    async def leave(self, request_id: str, user: str, created: str) -> None:
        """Somebody asks this no longer."""
        mine = (request_asker.c.request_id == request_id, *_person(user, created))
        await self._db.execute(delete(request_asker).where(*mine))

    async def askers(self, request_ids: Collection[str]) -> dict[str, list[AskerRow]]:
        """Who asks each, the first one first."""
        found: dict[str, list[AskerRow]] = {request_id: [] for request_id in request_ids}
        query = (
            select(request_asker)
            .where(request_asker.c.request_id.in_(sorted(found)))
            .order_by(request_asker.c.asked_at, request_asker.c.user)
        )
        for row in (await self._db.execute(query)).mappings():
            found[row["request_id"]].append(AskerRow(**row))
        return found

    async def forget_workspace(self, workspace_id: str) -> int:
        """Remove those of a workspace, after their rules; how many that were."""
        here = select(package_request.c.id).where(package_request.c.workspace_id == workspace_id)
        await self._db.execute(update(package_rule).where(package_rule.c.request_id.in_(here)).values(request_id=None))
        await self._db.execute(delete(request_asker).where(request_asker.c.request_id.in_(here)))
        gone = delete(package_request).where(package_request.c.workspace_id == workspace_id)
        return int((await self._db.execute(gone)).rowcount)

    async def _change(self, request_id: str, values: dict[str, Any]) -> None:
        await self._db.execute(update(package_request).where(package_request.c.id == request_id).values(**values))

    async def _many(self, *conditions: Any, limit: int = 1000) -> list[RequestRow]:
        newest_first = (package_request.c.asked_at.desc(), package_request.c.id)
        query = select(package_request).where(*conditions).order_by(*newest_first).limit(limit)
        return [RequestRow(**row) for row in (await self._db.execute(query)).mappings()]


class RuleRepository:
    """Rules that people decided, of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def add(
        self,
        package: str,
        version: str,
        action: Action,
        by: str,
        *,
        workspace_id: str | None,
        request_id: str | None = None,
        channel: str | None = None,
        until: datetime | None = None,
    ) -> RuleRow:
        """One rule, from now on."""
        row = RuleRow(new_id("p"), workspace_id, request_id, package, version, channel, action, by, now(), until)
        values = {name: getattr(row, name) for name in RuleRow.__slots__}
        await self._db.execute(insert(package_rule), {**values, "action": action.value})
        return row

    async def in_force(self, workspace_id: str | None) -> list[RuleRow]:
        """Those that count in a workspace now (None: everywhere), the oldest first."""
        places: list[Any] = [package_rule.c.workspace_id.is_(None)]
        if workspace_id is not None:
            places.append(package_rule.c.workspace_id == workspace_id)
        return await self._many(or_(*places), _still())

    async def grant(self, workspace_id: str, package: str, version: str, sha256: str, until: datetime) -> None:
        """Let one file in; grants that have ended go."""
        await self._db.execute(delete(package_grant).where(package_grant.c.until <= now()))
        values = {"id": new_id("g"), "workspace_id": workspace_id, "package": package, "version": version}
        await self._db.execute(insert(package_grant), {**values, "sha256": sha256, "until": until})

    async def grants(self, workspace_id: str) -> list[Grant]:
        """The files that are let in now."""
        query = (
            select(package_grant)
            .where(package_grant.c.workspace_id == workspace_id, package_grant.c.until > now())
            .order_by(package_grant.c.until, package_grant.c.id)
        )
        rows = (await self._db.execute(query)).mappings()
        return [
            Grant(name=row["package"], version=row["version"], sha256=row["sha256"], until=row["until"]) for row in rows
        ]

    async def about(self, package: str) -> list[RuleRow]:
        """Those about a package that count somewhere now."""
        return await self._many(package_rule.c.package == package, _still())

    async def of_requests(self, request_ids: Iterable[str]) -> dict[str, list[RuleRow]]:
        """The rules that each request's decision made, whether they still count or not."""
        found: dict[str, list[RuleRow]] = {request_id: [] for request_id in request_ids}
        for row in await self._many(package_rule.c.request_id.in_(sorted(found))):
            found[str(row.request_id)].append(row)
        return found

    async def forget_workspace(self, workspace_id: str) -> int:
        """Remove those of a workspace; how many that were."""
        await self._db.execute(delete(package_grant).where(package_grant.c.workspace_id == workspace_id))
        gone = delete(package_rule).where(package_rule.c.workspace_id == workspace_id)
        return int((await self._db.execute(gone)).rowcount)

    async def _many(self, *conditions: Any) -> list[RuleRow]:
        query = select(package_rule).where(*conditions).order_by(package_rule.c.set_at, package_rule.c.id)
        rows = (await self._db.execute(query)).mappings()
        return [RuleRow(**{**row, "action": Action(row["action"])}) for row in rows]


def _person(user: str, created: str) -> tuple[Any, Any]:
    return request_asker.c.user == user, request_asker.c.user_created == created


def _still() -> Any:
    return or_(package_rule.c.until.is_(None), package_rule.c.until > now())
