"""Advisories about packages: what the last import brought."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from maestro_core.advisories import Advisory, AdvisoryStatus

from .clock import now
from .tables import advisory

#: parameters of one statement that every database takes
_MANY = 500


class AdvisoryRepository:
    """Advisories of one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def put(self, advisories: Iterable[Advisory], import_id: str) -> None:
        """Bring some in, in the place of earlier records of the same id and package."""
        rows = {(one.id, one.package): one for one in advisories}
        keys = list(rows)
        for at in range(0, len(keys), _MANY):
            ids = {each for each, _ in keys[at : at + _MANY]}
            found = await self._db.execute(select(advisory.c.id, advisory.c.package).where(advisory.c.id.in_(ids)))
            for known in {(row.id, row.package) for row in found} & rows.keys():
                await self._db.execute(
                    delete(advisory).where(advisory.c.id == known[0], advisory.c.package == known[1])
                )
        moment = now()
        values = [
            {
                "id": one.id,
                "package": one.package,
                "malware": one.malware,
                "modified": one.modified[:40],
                "body": one.model_dump(mode="json", exclude_defaults=True),
                "import_id": import_id,
                "imported_at": moment,
            }
            for one in rows.values()
        ]
        if values:
            await self._db.execute(insert(advisory), values)

    async def end_import(self, import_id: str) -> int:
        """Remove what an import did not name; how many that were."""
        return int((await self._db.execute(delete(advisory).where(advisory.c.import_id != import_id))).rowcount)

    async def about(self, packages: Collection[str]) -> list[Advisory]:
        """Those about some packages (normal names), by id."""
        wanted, found = sorted(set(packages)), []
        for at in range(0, len(wanted), _MANY):
            query = select(advisory.c.body).where(advisory.c.package.in_(wanted[at : at + _MANY]))
            found += [Advisory.model_validate(body) for body in (await self._db.execute(query)).scalars()]
        return sorted(found, key=lambda one: (one.package, one.id))

    async def bodies_of_malware(self) -> list[dict[str, object]]:
        """Those about malware as they are stored; reading them all into models is work for a thread."""
        query = select(advisory.c.body).where(advisory.c.malware).order_by(advisory.c.id, advisory.c.package)
        return list((await self._db.execute(query)).scalars())

    async def status(self) -> AdvisoryStatus:
        """How many there are, and how old."""
        count = func.count()
        query = select(count, func.max(advisory.c.imported_at), func.max(advisory.c.modified))
        total, moment, newest = (await self._db.execute(query)).one()
        malware = (await self._db.execute(select(count).where(advisory.c.malware))).scalar_one()
        at = moment.isoformat(timespec="seconds") if moment is not None else ""
        return AdvisoryStatus(count=total, malware=malware, imported_at=at, newest=newest or "")
