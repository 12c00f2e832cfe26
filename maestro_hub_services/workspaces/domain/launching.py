"""Starting and stopping servers for people, by the Hub's own start-server API: there is no other way in."""

from __future__ import annotations

import asyncio

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchRequest, LaunchStatus, LaunchView, SpawnAsk
from maestro_core.names import PERSONAL
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import LaunchRow

from ..authority import Authority
from ..hub import StartAnswer
from ..identity import Caller
from .access import not_of_this_server, own_workspaces, unknown_workspace
from .admission import asked_workspace, known, note_refusal, release
from .launches import check_server, find_launch, view

#: seconds that the spawner may take to ask for its plan after the Hub accepted the start
DECISION_SECONDS = 20.0


async def start_launch(authority: Authority, caller: Caller, request: LaunchRequest) -> LaunchView:
    """Start a server; returns when it is admitted (it may still be starting) or refused.

    Raises:
        MaestroError: the refusal with its own code and details; ``forbidden`` for somebody else's server without
            ``custom:maestro:admin``; ``server_running``; ``start_failed``, ``timeout``, ``hub_unavailable``.
    """
    user = await _whose(authority, caller, request.user)
    ask = request.ask()
    server = await _check_early(authority, caller, user, request, ask)
    return await start_server(authority, user, server, ask)


async def start_server(authority: Authority, user: UserRef, server: str, ask: SpawnAsk) -> LaunchView:
    """The start itself: the Hub's word on it, and the decision's.

    Raises:
        MaestroError: as :func:`start_launch`, but for whose server it is.
    """
    with authority.outcomes.expect(user.name, server) as decided:
        answer = await authority.hub.start_server(user.name, server, ask.as_user_options())
        outcome = await _outcome(authority, user, server, answer, decided)
    if isinstance(outcome, MaestroError):
        raise outcome
    async with authority.store.read() as unit:
        launch = await known(unit, outcome)
        if launch.status is LaunchStatus.ENDED or not answer.accepted:
            raise MaestroError(
                "start_failed",
                f"The server did not start: {launch.ended_reason or answer.message}.",
                {"session_id": launch.id},
            )
        return await view(authority, unit, launch)


async def _whose(authority: Authority, caller: Caller, name: str | None) -> UserRef:
    if name is None:
        return caller.person
    if name != caller.name and name.lower() != caller.name.lower() and not caller.admin:
        raise MaestroError(
            "forbidden",
            f"You are {caller.name}; only an admin starts servers of others. Leave the user out to start your own.",
            {"user": caller.name},
        )
    user = await authority.hub.member_user(name)
    if user.name != caller.name and not caller.admin:
        raise MaestroError("forbidden", "Only an admin starts servers of others.", {"user": caller.name})
    return user


async def _check_early(
    authority: Authority, caller: Caller, user: UserRef, request: LaunchRequest, ask: SpawnAsk
) -> str:
    """Refuse what needs no Hub to be refused, so that the Hub keeps no row of it. Returns the server's name."""
    server = request.server_name or ("" if request.workspace == PERSONAL else request.workspace)
    async with authority.store.write() as unit:
        try:
            if ask.template is not None:
                authority.templates.check(ask.template)
            personal = await unit.workspaces.personal_of(user.name, user.created)
            if personal is not None and server == personal.name:
                server = ""  # the personal workspace's own name means its own server
            workspace, role = await asked_workspace(unit, user, server, ask)
            if caller.notebook and workspace.id not in await own_workspaces(unit, caller):
                raise not_of_this_server(request.workspace)
            if role is None:
                raise unknown_workspace(request.workspace)
            launch = await unit.launches.of_server(user.name, user.created, server)
        except MaestroError as error:
            if caller.notebook and error.code == "unknown_workspace":
                error = not_of_this_server(request.workspace)  # as for one that there is
            await note_refusal(unit, user, server, ask.as_user_options(), error)
            refusal: MaestroError | None = error
        else:
            refusal = None
    if refusal is not None:
        raise refusal
    if launch is not None and launch.status is LaunchStatus.RUNNING:
        raise _running(launch)
    return server


def _running(launch: LaunchRow) -> MaestroError:
    shown = f"The server {launch.server_name}" if launch.server_name else "Your personal server"
    return MaestroError(
        "server_running",
        f"{shown} is running already; open it, stop it first, or give this one another server name.",
        {"session_id": launch.id},
    )


async def _outcome(
    authority: Authority,
    user: UserRef,
    server: str,
    answer: StartAnswer,
    decided: asyncio.Future[str | MaestroError],
) -> str | MaestroError:
    """The launch's id, or the refusal."""
    if decided.done():
        return decided.result()
    async with authority.store.read() as unit:
        launch = await unit.launches.of_server(user.name, user.created, server)
    if not answer.accepted:
        if launch is not None and launch.status is LaunchStatus.RUNNING:
            return _running(launch)
        return _hub_refused(answer)
    if launch is not None:
        return launch.id  # it was starting before we asked
    try:
        async with asyncio.timeout(DECISION_SECONDS):
            return await decided
    except TimeoutError:
        return MaestroError(
            "timeout",
            f"The Hub accepted the start, but asked for no plan within {DECISION_SECONDS:.0f} s; look at the list of "
            "your launches in a moment.",
        )


def _hub_refused(answer: StartAnswer) -> MaestroError:
    if answer.status == 404:
        return MaestroError("unknown_user", "The Hub does not know this user (any more).")
    return MaestroError(
        "start_failed", f"The Hub did not start the server: {answer.message}", {"status": answer.status}
    )


async def stop_launch(authority: Authority, caller: Caller, session_id: str) -> LaunchView:
    """Stop the server of a launch; returns it as it is then (it may still be stopping). Safe to repeat.

    Raises:
        MaestroError: ``unknown_launch``; ``conflict`` with the Hub's words when it cannot be stopped now.
    """
    async with authority.store.read() as unit:
        launch = await find_launch(unit, caller, session_id)
    check_server(launch)
    if launch.status.active and not await authority.hub.stop_server(launch.user, launch.server_name):
        await release(authority, launch.id, "the Hub had no such server", caller.name)
    async with authority.store.read() as unit:
        return await view(authority, unit, await find_launch(unit, caller, session_id))
