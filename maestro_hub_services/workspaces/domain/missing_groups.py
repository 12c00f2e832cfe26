"""Groups that the Hub has no longer lose their roles: one that is made anew under the name inherits none.

A group that was removed and made again between two looks cannot be told apart: the Hub gives groups no creation stamp.
"""

from __future__ import annotations

import logging

from maestro_core.errors import MaestroError
from maestro_hub_services.store.events import MEMBERSHIP

from ..authority import Authority

log = logging.getLogger("maestro.groups")


async def forget_missing(authority: Authority) -> None:
    """Compare the groups that are members with those that the Hub has.

    Raises:
        MaestroError: ``hub_unavailable``; then nobody loses anything.
    """
    async with authority.store.read() as unit:
        known = await unit.members.groups()
    if not known:
        return
    for name in sorted(known - await authority.hub.groups()):
        if not await _exists(authority, name):  # a list that is read in pages may miss one
            await _forget(authority, name)


async def _exists(authority: Authority, name: str) -> bool:
    try:
        await authority.hub.check_group(name)
    except MaestroError as error:
        if error.code != "unknown_group":
            raise
        return False
    return True


async def _forget(authority: Authority, name: str) -> None:
    async with authority.store.write() as unit:
        for row in await unit.members.of_group(name):
            await unit.members.remove(row.id)
            await unit.events.append(
                "member_removed",
                MEMBERSHIP,
                workspace_id=row.workspace_id,
                member_kind="group",
                member=name,
                was=row.role.value,
            )
    log.info("The Hub has no group %r any more; it is no member of any workspace now", name)
