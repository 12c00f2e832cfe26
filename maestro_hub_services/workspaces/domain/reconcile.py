"""Compares launches with the Hub's list of servers, and takes back what leaked. Never while the server lives.

A launch leaks when the Hub, the service or the machine is killed between two steps: it is reserved and nothing starts,
or it is running and the server is gone. What the list of servers seems to say is asked again of the one server before
anything is ended, because a list that is read in pages may miss somebody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchStatus
from maestro_core.names import PERSONAL, valid_name
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import LaunchRow, Unit
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.events import RECONCILE

from ..authority import Authority
from ..hub import HubServer, HubUser
from .admission import confirm, release
from .groups import follow_groups

#: seconds between two looks
INTERVAL = 10.0
#: a reservation this young is left alone
GRACE = timedelta(seconds=10)
#: seconds between two looks at everything that the Hub keeps of stopped servers
SWEEP_INTERVAL = 600.0
log = logging.getLogger("maestro.reconcile")


async def reconcile_for_ever(authority: Authority) -> None:
    """Look every 10 s. A look that fails is tried again at the next."""
    swept = float("-inf")
    while True:
        try:
            await release_leaked(authority)
            await remove_leftovers(authority)
            if time.monotonic() - swept > SWEEP_INTERVAL:
                await sweep(authority)
                swept = time.monotonic()
        except MaestroError as error:
            log.warning("Not compared with the Hub this time: %s", error.message)
        except Exception:
            log.exception("Comparing with the Hub failed; trying again")
        await asyncio.sleep(INTERVAL)


async def release_leaked(authority: Authority) -> None:
    """Release launches whose server is gone; confirm those whose server is up and whose confirmation got lost; count
    what runs in the pools of the groups that its user is in now.

    Raises:
        MaestroError: ``hub_unavailable``; what is not known for sure is left as it is.
    """
    async with authority.store.read() as unit:
        launches = [launch for launch in await unit.launches.active() if launch.kind == "server"]
    if not launches:
        return
    servers: dict[tuple[str, str, str], HubServer] = {}
    groups: dict[tuple[str, str], tuple[str, ...]] = {}
    async for user in authority.hub.users(active=True):
        groups[user.ref.name, user.ref.created] = user.ref.groups
        servers.update({(user.ref.name, user.ref.created, server.name): server for server in user.servers.values()})
    await follow_groups(authority, groups)
    for launch in launches:
        server = servers.get((launch.user, launch.user_created, launch.server_name))
        if server is not None and server.active:
            if server.ready and launch.status is LaunchStatus.RESERVED:
                await _confirm(authority, launch)
        elif now() - launch.created_at > GRACE and not await _lives(authority, launch):
            reason = "the server is gone" if launch.status is LaunchStatus.RUNNING else "the start was not finished"
            log.info("Launch %s of %s ends: %s", launch.id, launch.user, reason)
            await release(authority, launch.id, reason, RECONCILE)


async def _confirm(authority: Authority, launch: LaunchRow) -> None:
    try:
        await confirm(authority, launch.id)
    except MaestroError:
        log.info("Launch %s ended while it was looked at", launch.id)


async def _lives(authority: Authority, launch: LaunchRow) -> bool:
    """Whether the Hub has something active under this user and name now."""
    try:
        user = await authority.hub.user(launch.user)
    except MaestroError as error:
        if error.code != "unknown_user":
            raise
        return False
    if user.created != launch.user_created:
        return False  # somebody else of that name
    server = await authority.hub.server(launch.user, launch.server_name)
    return server is not None and server.active


async def remove_leftovers(authority: Authority) -> None:
    """Remove the Hub's rows of servers that were refused for their workspace: a refusal leaves nothing behind.

    Raises:
        MaestroError: ``hub_unavailable``.
    """
    for user, name in authority.leftovers.take():
        server = await authority.hub.server(user, name)
        if server is not None:
            try:
                ref = await authority.hub.user(user)
            except MaestroError:
                continue
            await _remove_if_closed(authority, ref, server)


async def sweep(authority: Authority) -> None:
    """The same for every row that the Hub keeps: what was left behind while nobody looked.

    Raises:
        MaestroError: ``hub_unavailable``.
    """
    async for user in authority.hub.users(active=False):
        await _sweep_user(authority, user)


async def _sweep_user(authority: Authority, user: HubUser) -> None:
    for server in user.servers.values():
        await _remove_if_closed(authority, user.ref, server)


async def _remove_if_closed(authority: Authority, user: UserRef, server: HubServer) -> None:
    if not server.name or server.active or not server.never_started:
        return
    async with authority.store.read() as unit:
        if await _open_to(unit, user, server):
            return
    log.info("The never started server %s/%s is removed: no workspace of theirs is behind it", user.name, server.name)
    await authority.hub.stop_server(user.name, server.name, remove=True)


async def _open_to(unit: Unit, user: UserRef, server: HubServer) -> bool:
    """Whether the workspace that the server would open is open to its user."""
    wanted = server.options.get("workspace") or server.name
    if wanted == PERSONAL:
        return True
    workspace = await unit.workspaces.by_name(wanted) if valid_name(wanted) else None
    if workspace is None or not workspace.open:
        return False
    return await unit.members.role_of(workspace.id, user.name, user.created, user.groups) is not None
