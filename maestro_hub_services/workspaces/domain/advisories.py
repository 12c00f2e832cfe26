"""What is known against packages: admins import it, the policy counts on its malware, scans and reviewers read it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from maestro_core.advisories import Advisory, AdvisoryBatch, AdvisoryStatus, Malware

from ..authority import Authority
from ..identity import Caller


async def load_malware(authority: Authority) -> None:
    """Read what is known to be malware; from the next decision on it counts."""
    async with authority.store.read() as unit:
        bodies = await unit.advisories.bodies_of_malware()
    authority.malware.book = await asyncio.to_thread(lambda: Malware.of(map(Advisory.model_validate, bodies)))


async def status(authority: Authority) -> AdvisoryStatus:
    """How much is known, and how old it is."""
    async with authority.store.read() as unit:
        return await unit.advisories.status()


async def take(authority: Authority, caller: Caller, batch: AdvisoryBatch) -> AdvisoryStatus:
    """One part of an import; the last one removes what the import did not name, and makes the malware count."""
    async with authority.store.write() as unit:
        await unit.advisories.put(batch.advisories, batch.import_id)
        removed = await unit.advisories.end_import(batch.import_id) if batch.last else 0
        found = await unit.advisories.status()
        if batch.last:
            await unit.events.append(
                "advisories_imported", caller.name, count=found.count, malware=found.malware, removed=removed
            )
    if batch.last:
        await load_malware(authority)
    return found


async def about(authority: Authority, packages: Iterable[str]) -> list[Advisory]:
    """What is known against some packages (normal names), whatever the version."""
    async with authority.store.read() as unit:
        return await unit.advisories.about(tuple(packages))
