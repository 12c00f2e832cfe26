"""What becomes of running servers when a role is gone or lower: their users are told, and after a time they end.

A mount is fixed when a server starts, so whoever may not be there any more, or may not write any more, loses the
server. The moment stands in the launch's row: it survives a restart of the service. What somebody changes here counts
at once; what changes at the Hub (groups) is found by a look at everything that runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from maestro_core.errors import MaestroError
from maestro_core.lifecycle import MemberRules
from maestro_core.roles import may
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import LaunchRow, Unit
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.events import MEMBERSHIP

from ..authority import Authority
from .access import role_in
from .admission import release

#: seconds between two tries to stop the same server
RETRY_SECONDS = 5.0
KIND = "role"
log = logging.getLogger("maestro.departures")


#: whether a server ends at once
Hurry = Callable[[LaunchRow, UserRef], bool]


def no_hurry(launch: LaunchRow, user: UserRef) -> bool:
    """Every server has its time."""
    return False


async def review_workspace(authority: Authority, workspace_id: str, hurry: Hurry = no_hurry) -> int:
    """Look at what runs in a workspace, after its members changed.

    Args:
        hurry: whether a server ends at once.

    Returns:
        How many of its servers will end.

    Raises:
        MaestroError: ``hub_unavailable``; the look at everything makes up for it.
    """
    async with authority.store.read() as unit:
        launches = await unit.launches.in_workspace(workspace_id)
    users: dict[str, UserRef] = {}
    for name in {launch.user for launch in launches}:
        try:
            users[name] = await authority.hub.user(name)
        except MaestroError as error:
            if error.code != "unknown_user":
                raise
    return await _review(authority, launches, users, hurry)


async def review_everything(authority: Authority) -> None:
    """Look at all that runs: at what changed at the Hub, and at what was not finished when the service was killed.

    Raises:
        MaestroError: ``hub_unavailable``.
    """
    async with authority.store.read() as unit:
        launches = await unit.launches.active()
    if not launches:
        return
    users = {user.ref.name: user.ref async for user in authority.hub.users(active=True)}
    users |= await _without_servers(authority, launches, users)
    await _end_orphans(authority, launches, users)
    await _review(authority, launches, users, no_hurry)


async def _end_orphans(authority: Authority, launches: Iterable[LaunchRow], users: Mapping[str, UserRef]) -> None:
    """Jobs of accounts that are gone end at once; their servers the Hub has ended itself."""
    accounts = {(user.name, user.created) for user in users.values()}
    left = [one for one in launches if one.kind == "job" and (one.user, one.user_created) not in accounts]
    if left:
        async with authority.store.write() as unit:
            for launch in left:
                await unit.launches.will_end(launch.id, KIND, now(), f"the account {launch.user} is gone")


async def _without_servers(
    authority: Authority, launches: Iterable[LaunchRow], known: Mapping[str, UserRef]
) -> dict[str, UserRef]:
    """Whose jobs run while they have no server: the Hub's list of the active ones leaves them out."""
    found: dict[str, UserRef] = {}
    for name in {launch.user for launch in launches if launch.kind == "job"} - known.keys():
        try:
            found[name] = await authority.hub.user(name)
        except MaestroError as error:
            if error.code != "unknown_user":
                raise
    return found


async def _review(
    authority: Authority,
    launches: Iterable[LaunchRow],
    users: Mapping[str, UserRef],
    hurry: Hurry,
) -> int:
    """Only users that are known here are judged: a server of a deleted user is reconcile's."""
    known = [(launch, users[launch.user]) for launch in launches if launch.user in users]
    known = [(launch, user) for launch, user in known if user.created == launch.user_created]
    async with authority.store.read() as unit:
        wrong = [(launch, user) for launch, user in known if await _differs(unit, launch, user, hurry)]
        ending = sum([await _reason(unit, launch, user) is not None for launch, user in known])
    if wrong:
        moment = now()
        async with authority.store.write() as unit:
            for launch, user in wrong:
                grace = timedelta() if hurry(launch, user) else _grace(authority)
                await _settle(unit, launch, user, moment + grace)
        for launch, _ in wrong:
            authority.bell.ring(launch.id)
    return ending


async def _differs(unit: Unit, launch: LaunchRow, user: UserRef, hurry: Hurry) -> bool:
    """Whether what stands in the launch's row is not what it should be."""
    reason = await _reason(unit, launch, user)
    if reason is None:
        return launch.ends_kind == KIND
    return launch.ends_kind != KIND or hurry(launch, user)


async def _reason(unit: Unit, launch: LaunchRow, user: UserRef) -> str | None:
    """Why a server may not go on, or None."""
    role = await role_in(unit, launch.workspace_id, user)
    if role is not None and (may(role, "write_files") or not may(launch.role, "write_files")):
        return None
    workspace = await unit.workspaces.get(launch.workspace_id)
    if role is None:
        return f"{user.name} is no member of {workspace.shown_name} any more"
    return f"{user.name} is {role.value} of {workspace.shown_name} now, and it was started to change files"


async def _settle(unit: Unit, launch: LaunchRow, user: UserRef, at: datetime) -> None:
    """Write down that it will end, or that it goes on after all. Looks again: this is the transaction that counts."""
    reason = await _reason(unit, launch, user)
    about = {"workspace_id": launch.workspace_id, "launch_id": launch.id, "user": launch.user}
    if reason is None:
        if await unit.launches.will_go_on(launch.id, KIND):
            await unit.events.append(
                "launch_spared", MEMBERSHIP, **about, server_name=launch.server_name, reason="the role is there again"
            )
        return
    if launch.ends_kind == KIND and launch.ends_at is not None:
        at = min(at, launch.ends_at)
    if await unit.launches.will_end(launch.id, KIND, at, reason):
        await unit.events.append(
            "launch_ending", MEMBERSHIP, **about, server_name=launch.server_name, reason=reason, at=at.isoformat()
        )


def _grace(authority: Authority) -> timedelta:
    try:
        rules = authority.policy.current.members
    except MaestroError:
        rules = MemberRules()
    return timedelta(seconds=rules.grace_seconds)


class Ender:
    """Stops what is due; a server that does not stop is tried again."""

    def __init__(self) -> None:
        self._tried: dict[str, float] = {}

    async def end_due(self, authority: Authority) -> None:
        """Stop the servers whose time is over.

        Raises:
            MaestroError: ``hub_unavailable``.
        """
        moment = now()
        async with authority.store.read() as unit:
            ending = await unit.launches.ending(KIND)
        due = [launch for launch in ending if launch.kind == "server" and launch.due(moment)]  # jobs: job_watch
        self._tried = {launch.id: self._tried[launch.id] for launch in due if launch.id in self._tried}
        for launch in due:
            if time.monotonic() - self._tried.get(launch.id, float("-inf")) >= RETRY_SECONDS:
                self._tried[launch.id] = time.monotonic()
                await self._end(authority, launch)

    async def _end(self, authority: Authority, launch: LaunchRow) -> None:
        try:
            if not await authority.hub.stop_server(launch.user, launch.server_name):
                await release(authority, launch.id, str(launch.ends_reason), MEMBERSHIP)
        except MaestroError as error:
            if error.code != "conflict":
                raise
            log.info("The server of launch %s cannot be stopped yet: %s", launch.id, error.message)
