"""Other cpu and memory for a server that runs: in place where the provider can, else by a restart if that is asked for.

While a server is resized its launch holds the higher of before and after: reserved by the same decision as a start, in
one transaction under the one lock. What it has then is settled in a second one, with its charge. If the service is
killed in between, :func:`settle_cut_off` settles it by what the server has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from maestro_core.allowance import check as check_quota
from maestro_core.allowance import growing
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchStatus, LaunchView, ScaleRequest, SpawnAsk, parse_ask
from maestro_core.policy import Policy
from maestro_core.profiles import choose
from maestro_core.resources import Resources
from maestro_core.roles import may
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import LaunchRow, Unit
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.events import RECONCILE

from ..authority import Authority
from ..identity import Caller
from ..resizing import CannotResize
from .access import role_in
from .admission import known, note_refusal
from .launches import find_launch, view
from .launching import start_server
from .limits import standing_limits, without

#: seconds that a server may take to stop before it is started with other amounts
STOP_SECONDS = 45.0
POLL_SECONDS = 0.2
#: what is still under way after this, with nobody waiting for it, goes back
CUT_OFF = timedelta(seconds=60)
log = logging.getLogger("maestro.scaling")


@dataclass(frozen=True)
class _Way:
    """How a server can get other amounts.

    Attributes:
        before, after: its amounts. profile: the one that covers them.
        stamp: of the reservation; None: nothing is reserved, because it needs a restart, ``why`` says for what.
    """

    before: Resources
    after: Resources
    profile: str
    stamp: datetime | None = None
    why: str = ""


async def scale_launch(authority: Authority, caller: Caller, session_id: str, request: ScaleRequest) -> LaunchView:
    """Give a running server other cpu and memory; returns its launch, after a restart the new one.

    Raises:
        MaestroError: ``unknown_launch``; ``conflict`` when it does not run, or ends; ``quota_exceeded``,
            ``profile_closed``; ``restart_needed`` where it cannot be done while it runs and ``restart`` is not asked
            for; ``timeout`` when the cluster does not say what came of it; with ``restart`` those of a start.
    """
    async with authority.store.read() as unit:
        launch = await find_launch(unit, caller, session_id)
    if request.of(launch.resources) != launch.resources or launch.resizing_at is not None:
        user = await _owner(authority, caller, launch)
        way = await _decide(authority, user, launch, request)
        why = way.why if way.stamp is None else await _in_place(authority, caller, launch, way, way.stamp)
        if why and not request.restart:
            raise _needs_restart(why, way)
        if why:
            return await _restart(authority, user, launch, way)
    async with authority.store.read() as unit:
        return await view(authority, unit, await known(unit, launch.id))


async def _owner(authority: Authority, caller: Caller, launch: LaunchRow) -> UserRef:
    """Whose server it is, with the groups of the moment."""
    user = caller.person
    if (user.name, user.created) == (launch.user, launch.user_created):
        return user
    user = await authority.hub.user(launch.user)
    if user.created != launch.user_created:
        raise _conflict(launch, "belongs to an account that is gone, so it is being stopped")
    return user


def _conflict(launch: LaunchRow, what: str) -> MaestroError:
    return MaestroError("conflict", f"The server {what}.", {"session_id": launch.id})


def _needs_restart(why: str, way: _Way) -> MaestroError:
    return MaestroError(
        "restart_needed",
        f"The server cannot have {way.after.show()} while it runs, because {why}; ask again with restart (--restart) "
        "to stop it and start it so: what its kernels hold in memory is lost.",
        {"profile": way.profile, "resources": way.after.model_dump()},
    )


# -- the decision -----------------------------------------------------------------------------------------------------


async def _decide(authority: Authority, user: UserRef, launch: LaunchRow, request: ScaleRequest) -> _Way:
    """One transaction that ends with the higher amounts reserved, with a restart as the way, or with a refusal's event.

    Raises:
        MaestroError: the refusal.
    """
    refusal: MaestroError | None = None
    async with authority.store.write() as unit:
        try:
            return await _decide_in(authority, unit, user, launch.id, request)
        except MaestroError as error:
            refusal = error
            asked = {"session_id": launch.id, "scale": request.model_dump(exclude_none=True)}
            await note_refusal(unit, user, launch.server_name, asked, error)
    raise refusal


async def _decide_in(authority: Authority, unit: Unit, user: UserRef, launch_id: str, request: ScaleRequest) -> _Way:
    launch, policy = await known(unit, launch_id), authority.policy.current
    _check_runs(launch)
    if not may(await role_in(unit, launch.workspace_id, user), "launch"):
        raise _conflict(launch, "is of a workspace that is closed to its user, so it is being stopped")
    before, after = launch.resources, request.of(launch.resources)
    await _check_growth(authority, unit, policy, user, launch, after)
    profile, why = _profile(policy, user, launch, after)
    why = why or authority.resizer.never or ""
    if why:
        return _Way(before, after, profile, why=why)
    stamp = await unit.launches.resize(launch.id, _higher(before, after))
    if stamp is None:
        raise _conflict(launch, "changed meanwhile; look at it and ask again")
    return _Way(before, after, profile, stamp)


def _check_runs(launch: LaunchRow) -> None:
    if launch.status is LaunchStatus.ENDED:
        raise _conflict(launch, f"has ended ({launch.ended_reason}); start it with the amounts that you want")
    if launch.status is LaunchStatus.RESERVED:
        raise _conflict(launch, "is still starting; ask again when it runs")
    if launch.kind != "server":
        raise _conflict(launch, "is a job, which keeps the amounts that it was started with")
    if launch.ends_kind == "role":
        raise _conflict(launch, f"is being stopped, because {launch.ends_reason}")
    if launch.resizing_at is not None:
        raise _conflict(launch, "is being resized already; ask again in a moment")


async def _check_growth(
    authority: Authority, unit: Unit, policy: Policy, user: UserRef, launch: LaunchRow, after: Resources
) -> None:
    workspace = await unit.workspaces.get(launch.workspace_id)
    limits, in_use = await standing_limits(authority, unit, policy, user, workspace)
    grown = growing(limits, launch.resources, after)
    check_quota(grown, without(in_use, launch, workspace, user.groups), after)


def _profile(policy: Policy, user: UserRef, launch: LaunchRow, after: Resources) -> tuple[str, str]:
    """The profile that covers the amounts, and why a restart is needed for it: none for the launch's own.

    Raises:
        MaestroError: ``profile_closed``: none covers them.
    """
    own = next((profile for profile in policy.profiles if profile.name == launch.profile), None)
    lacking = "it is not in maestro.yaml any more" if own is None else own.shortfall(after)
    if own is not None and lacking is None and own.open_to(user.groups):
        return own.name, ""
    other, _ = choose(policy.profiles, user.groups, None, after)
    short = lacking or "it is closed to you now"
    return other.name, f"that takes the profile {other.name} instead of {launch.profile} ({short})"


def _higher(before: Resources, after: Resources) -> Resources:
    return before.model_copy(update={"cpu": max(before.cpu, after.cpu), "memory": max(before.memory, after.memory)})


# -- in place ---------------------------------------------------------------------------------------------------------


async def _in_place(authority: Authority, caller: Caller, launch: LaunchRow, way: _Way, stamp: datetime) -> str:
    """Resize it; empty when it is done, else why it was not, and then nothing has changed."""
    authority.resizes.add(launch.id)
    try:
        held, why = way.after, ""
        try:
            await authority.resizer.resize(launch.id, way.after)
        except CannotResize as error:
            held, why = way.before, error.why
        if not await _settle(authority, launch, stamp, way.before, held, caller.name):
            raise _conflict(launch, "ended meanwhile")
        return why
    finally:
        authority.resizes.discard(launch.id)


async def _settle(
    authority: Authority, launch: LaunchRow, stamp: datetime, before: Resources, held: Resources, actor: str
) -> bool:
    async with authority.store.write() as unit:
        if not await unit.launches.settle(launch.id, stamp, held):
            return False
        if held != before or actor == RECONCILE:
            await unit.events.append(
                "launch_scaled",
                actor,
                workspace_id=launch.workspace_id,
                launch_id=launch.id,
                user=launch.user,
                server_name=launch.server_name,
                resources=held.model_dump(),
                was=before.model_dump(),
            )
        return True


async def settle_cut_off(authority: Authority) -> None:
    """Settle what nobody waits for any more: the service was killed, or the cluster did not answer."""
    async with authority.store.read() as unit:
        rows = [row for row in await unit.launches.resizing() if row.id not in authority.resizes]
    for row in rows:
        stamp = row.resizing_at
        if stamp is None:
            continue
        has = await authority.resizer.settle(row.id, give_up=now() - stamp > CUT_OFF)
        if has is not None:
            held = row.resources.model_copy(update={"cpu": has.cpu, "memory": has.memory})
            await _settle(authority, row, stamp, row.resources, held, RECONCILE)
            log.info("The server of launch %s has %s after a resize that was cut off", row.id, held.show())


# -- by a restart -----------------------------------------------------------------------------------------------------


async def _restart(authority: Authority, user: UserRef, launch: LaunchRow, way: _Way) -> LaunchView:
    """Stop the server and start it again as it was asked for, but with these amounts."""
    ask = await _ask_again(authority, user, launch, way)
    if await authority.hub.stop_server(launch.user, launch.server_name):
        await _until_stopped(authority, launch)
    try:
        return await start_server(authority, user, launch.server_name, ask)
    except MaestroError as error:
        raise MaestroError(
            error.code, f"The server was stopped, but not started again: {error.message}", error.details
        ) from None


async def _ask_again(authority: Authority, user: UserRef, launch: LaunchRow, way: _Way) -> SpawnAsk:
    """What was asked for, with the new amounts; refused here where the new profile does not allow the image."""
    server = await authority.hub.server(launch.user, launch.server_name)
    before = {} if server is None else parse_ask(server.options).as_user_options()
    amounts = way.after.model_dump(mode="json", exclude_none=True)
    ask = parse_ask({**before, "profile": way.profile, "resources": amounts})
    choose(authority.policy.current.profiles, user.groups, ask.profile, ask.resources, ask.image)
    return ask


async def _until_stopped(authority: Authority, launch: LaunchRow) -> None:
    end = time.monotonic() + STOP_SECONDS
    while (server := await authority.hub.server(launch.user, launch.server_name)) is not None and server.active:
        if time.monotonic() > end:
            raise MaestroError(
                "timeout",
                f"The server still stops after {STOP_SECONDS:.0f} s; start it with the new amounts when it has.",
                {"session_id": launch.id},
            )
        await asyncio.sleep(POLL_SECONDS)
