"""MLflow's question: which workspaces may this user's request touch, and how? Answered from live membership."""

from __future__ import annotations

from maestro_core.experiments import viewer_experiment
from maestro_core.roles import Role
from maestro_core.workspaces import EndedLaunches, EndedQuestion, TrackingGrant, TrackingRequest, TrackingView, UserRef
from maestro_hub_services.store import Unit

from ..authority import Authority
from .access import personal_workspace


async def authorize(authority: Authority, request: TrackingRequest) -> TrackingView:
    """The workspaces that are open to a person, or to their notebook servers.

    A person: all of theirs. A notebook server: the workspace of its launch, at most as an editor; a viewer's besides
    writes to one experiment of the viewer's personal workspace.

    Raises:
        MaestroError: ``unknown_user``, ``hub_unavailable``.
    """
    user = await authority.hub.user(request.user, now=True)
    await personal_workspace(authority, user)
    async with authority.store.read() as unit:
        found = await unit.workspaces.of_member(user.name, user.created, user.groups)
        if request.servers is None:
            return TrackingView(workspaces={row.name: TrackingGrant(role=role) for row, role in found})
        grants: dict[str, TrackingGrant] = {}
        roles = {row.id: (row.name, role) for row, role in found}
        for server in request.servers:
            grants.update(await _of_server(unit, user, server, roles))
        return TrackingView(workspaces=grants)


async def ended(authority: Authority, question: EndedQuestion) -> EndedLaunches:
    """Which of these launches have ended, and why; a name that no launch has says nothing.

    A sweep's parent run names the sweep in the place of a launch: it outlives the launch that began it.
    """
    async with authority.store.read() as unit:
        rows = await unit.launches.ended_among(question.launches)
        sweeps = await unit.sweeps.over_among(question.launches)
    ended = {row.id: row.ended_reason or "no reason was noted" for row in rows}
    return EndedLaunches(ended=ended | {row.id: row.reason or "its sweep is over" for row in sweeps})


async def _of_server(
    unit: Unit, user: UserRef, server: str, roles: dict[str, tuple[str, Role]]
) -> dict[str, TrackingGrant]:
    launch = await unit.launches.of_server(user.name, user.created, server)
    if launch is None or launch.workspace_id not in roles:
        return {}
    name, role = roles[launch.workspace_id]
    if role.covers(Role.EDITOR):
        return {name: TrackingGrant(role=Role.EDITOR)}
    grants = {name: TrackingGrant(role=Role.VIEWER)}
    personal = await unit.workspaces.personal_of(user.name, user.created)
    if personal is not None:
        grants[personal.name] = TrackingGrant(role=Role.EDITOR, experiment=viewer_experiment(name))
    return grants
