"""Launches as the API shows them."""

from __future__ import annotations

from urllib.parse import quote

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchList, LaunchView
from maestro_core.roles import may
from maestro_hub_services.store import LaunchRow, Unit

from ..authority import Authority
from ..identity import Caller
from .access import own_workspaces, role_in


async def list_launches(authority: Authority, caller: Caller, *, everything: bool = False) -> LaunchList:
    """The caller's servers that run or start; for an admin with ``everything`` everybody's. Jobs have their own.

    Raises:
        MaestroError: ``forbidden`` for ``everything`` without ``custom:maestro:admin``.
    """
    user = caller.person
    if everything and not caller.admin:
        raise MaestroError("forbidden", "Only an admin sees every launch; leave 'all' out to see your own.")
    async with authority.store.read() as unit:
        rows = await (unit.launches.active() if everything else unit.launches.active_of(user.name, user.created))
        rows = [row for row in rows if row.kind == "server"]
        if caller.notebook:
            own = await own_workspaces(unit, caller)
            rows = [row for row in rows if row.workspace_id in own]
        return LaunchList(launches=tuple([await view(authority, unit, row) for row in rows]))


async def view_launch(authority: Authority, caller: Caller, session_id: str) -> LaunchView:
    """One launch, ended or not.

    Raises:
        MaestroError: ``unknown_launch``, for somebody else's too.
    """
    async with authority.store.read() as unit:
        return await view(authority, unit, await find_launch(unit, caller, session_id))


async def find_launch(unit: Unit, caller: Caller, session_id: str) -> LaunchRow:
    """The launch of that id, if it is the caller's (in a notebook: and of its workspace), or the caller an admin.

    An owner of its workspace finds it too while its user's role is gone or lower: "end it now".

    Raises:
        MaestroError: ``unknown_launch``.
    """
    user = caller.person
    row = await unit.launches.get(session_id)
    own = row is not None and (row.user, row.user_created) == (user.name, user.created)
    if own and caller.notebook and row is not None:
        own = row.workspace_id in await own_workspaces(unit, caller)
    if row is None or not (own or caller.admin or await _ends_here(unit, caller, row)):
        raise MaestroError(
            "unknown_launch",
            f"You have no launch {session_id[:40]!r}; look at the list of your launches.",
            {"session_id": session_id[:40]},
        )
    return row


def check_server(row: LaunchRow) -> None:
    """See that a launch is a server's: what is the Hub's to do cannot be done with a job.

    Raises:
        MaestroError: ``conflict``.
    """
    if row.kind == "job":
        job = row.server_name.removeprefix("job:")
        raise MaestroError("conflict", f"This is the job {job}, no server; end it with 'maestro cancel {job}'.")


async def _ends_here(unit: Unit, caller: Caller, row: LaunchRow) -> bool:
    role = await role_in(unit, row.workspace_id, caller.person)
    return row.ends_kind == "role" and not caller.notebook and may(role, "manage_members")


async def view(authority: Authority, unit: Unit, row: LaunchRow) -> LaunchView:
    """A launch as the API shows it."""
    workspace = await unit.workspaces.get(row.workspace_id)
    return LaunchView(
        session_id=row.id,
        user=row.user,
        server_name=row.server_name,
        workspace=workspace.shown_name,
        role=row.role,
        profile=row.profile,
        resources=row.resources,
        status=row.status,
        notebook_url=notebook_url(authority, row),
        mlflow_experiment=row.experiment,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        ended_reason=row.ended_reason,
        image=row.image,
        idle_minutes=row.idle_minutes,
        ends_at=row.ends_at if row.status.active else None,
        ends_reason=row.ends_reason if row.status.active else None,
    )


def notebook_url(authority: Authority, row: LaunchRow) -> str:
    """The path of a launch's notebook below the Hub's public address: ``/user/ann/demo/lab``."""
    server = f"/{row.server_name}" if row.server_name else ""
    return f"{authority.settings.base_url}user/{quote(row.user, safe='@~')}{server}{row.default_url}"
