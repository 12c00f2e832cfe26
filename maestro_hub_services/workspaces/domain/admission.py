"""The decision: one transaction under one lock, in which membership, profile and every quota hold, or a refusal.

Nothing is asked of anybody while it is made: the spawner brings the user's name, creation stamp, groups and admin flag
from the Hub's own objects.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from maestro_core.allowance import check as check_quota
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan, LaunchStatus, PlanRequest, SpawnAsk, parse_ask
from maestro_core.names import PERSONAL, check_name, home_directory_name, personal_workspace_name
from maestro_core.policy import Dataset, Policy
from maestro_core.profiles import Profile, choose, image_reference
from maestro_core.roles import Role, may
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import JobRow, LaunchRow, Unit, WorkspaceRow
from maestro_hub_services.store.clock import new_id, now
from maestro_hub_services.store.events import QUEUE, SPAWNER

from ..authority import Authority
from .access import ensure_personal, unknown_workspace
from .limits import is_own, standing_limits, storage_size
from .packages import startup_scan
from .plans import asked_amounts, build_plan, default_url, experiment_of, template_of, visible_datasets

#: what of a refused ask is kept in its event
_ASK_LIMIT = 2000
log = logging.getLogger("maestro.admission")


@dataclass(frozen=True)
class Admitted:
    """What was decided, before it becomes a plan; ``size``: bytes of the workspace's volume, None without a limit."""

    workspace: WorkspaceRow
    launch: LaunchRow
    profile: Profile
    template: str | None
    size: int | None
    datasets: tuple[Dataset, ...]


async def plan(authority: Authority, request: PlanRequest) -> LaunchPlan:
    """Decide on a start; reserve it and say how, or refuse it and note why.

    Raises:
        MaestroError: the refusal; its event is committed. ``start_failed`` when the volume cannot be made; the
            reservation is taken back.
    """
    user, server = request.user, request.server_name
    token = authority.tokens.new()
    try:
        admitted = await decide(authority, request, authority.tokens.mac(token))
    except MaestroError as refusal:
        if refusal.code == "unknown_workspace":
            authority.leftovers.add(user.name, server)
        authority.outcomes.tell(user.name, server, refusal)
        raise
    try:
        made = await plan_of(authority, user, admitted, token)
    except BaseException as error:
        reason = error.message if isinstance(error, MaestroError) else "its plan could not be made"
        await release(authority, admitted.launch.id, reason)
        if isinstance(error, MaestroError):
            authority.outcomes.tell(user.name, server, error)
        raise
    authority.outcomes.tell(user.name, server, admitted.launch.id)
    return made


async def decide(authority: Authority, request: PlanRequest, token_mac: str) -> Admitted:
    """The decision alone: one transaction that ends with a reservation, or with the event of a refusal.

    Raises:
        MaestroError: the refusal.
    """
    refusal: MaestroError | None = None
    async with authority.store.write() as unit:
        try:
            policy = authority.policy.current
            return await _decide(authority, unit, policy, request, token_mac)
        except MaestroError as error:
            refusal = error
            await note_refusal(unit, request.user, request.server_name, request.ask, error)
    raise refusal


async def _decide(authority: Authority, unit: Unit, policy: Policy, request: PlanRequest, token_mac: str) -> Admitted:
    user, server = request.user, request.server_name
    if server:
        check_name(server, "server")
    ask = parse_ask(request.ask)
    if ask.template is not None:
        authority.templates.check(ask.template)
    workspace, role = await asked_workspace(unit, user, server, ask)
    if role is None or not may(role, "launch"):
        raise unknown_workspace(workspace.name)
    return await _reserve(authority, unit, policy, _Start("server", user, server, ask, workspace, role, token_mac))


async def admit_job(authority: Authority, unit: Unit, user: UserRef, job: JobRow, token_mac: str) -> Admitted:
    """The same decision for an attempt of a job, inside the transaction of the queue; a refusal leaves no event.

    Raises:
        MaestroError: the refusal: ``unknown_workspace`` when its user is no member any more.
    """
    workspace = await unit.workspaces.get(job.workspace_id)
    role = await unit.members.role_of(workspace.id, user.name, user.created, user.groups)
    if role is None or not may(role, "launch"):
        raise MaestroError("unknown_workspace", f"{user.name} is no member of {workspace.shown_name} any more.")
    ask = parse_ask({**job.ask, "mlflow_experiment": job.experiment})
    start = _Start("job", user, job.server, ask, workspace, role, token_mac)
    return await _reserve(authority, unit, authority.policy.current, start)


@dataclass(frozen=True)
class _Start:
    """What is to be admitted: a server, or an attempt of a job."""

    kind: str
    user: UserRef
    server: str
    ask: SpawnAsk
    workspace: WorkspaceRow
    role: Role
    token_mac: str


async def _reserve(authority: Authority, unit: Unit, policy: Policy, start: _Start) -> Admitted:
    """Everything that servers and jobs have to pass alike, and the reservation."""
    user, ask, workspace, role = start.user, start.ask, start.workspace, start.role
    if not workspace.open:
        raise MaestroError(
            "conflict", f"{workspace.name} is archived and takes no launches; its owners and admins can restore it.",
            {"workspace": workspace.name},
        )  # fmt: skip
    check_images(authority, ask)
    profile, resources = choose(policy.profiles, user.groups, ask.profile, asked_amounts(ask, workspace), ask.image)
    running = await _running(unit, user, start.server)
    limits, used = await standing_limits(authority, unit, policy, user, workspace, running)
    check_quota(limits, used, resources)
    job = start.kind == "job"
    template = None if job else template_of(ask, workspace, role)
    launch = LaunchRow(
        id=new_id("l"),
        kind=start.kind,
        workspace_id=workspace.id,
        user=user.name,
        user_created=user.created,
        server_name=start.server,
        role=role,
        profile=profile.name,
        resources=resources,
        experiment=experiment_of(ask, workspace, role),
        default_url=default_url(authority.templates.file(template) if template else None),
        status=LaunchStatus.RESERVED,
        token_mac=start.token_mac,
        created_at=now(),
        image=image_reference(policy.images, profile, ask.image),
        idle_minutes=0 if job else profile.idle,
    )
    await unit.launches.add(launch, user.groups)
    await unit.events.append(
        "launch_reserved",
        QUEUE if job else SPAWNER,
        workspace_id=workspace.id,
        launch_id=launch.id,
        user=user.name,
        server_name=start.server,
        profile=profile.name,
        resources=resources.model_dump(),
    )
    datasets = visible_datasets(policy.datasets, user.groups)
    return Admitted(workspace, launch, profile, template, storage_size(limits), datasets)


def check_images(authority: Authority, ask: SpawnAsk) -> None:
    """Images are containers'; a process has none.

    Raises:
        MaestroError: ``invalid_request``.
    """
    if ask.image is not None and authority.settings.provider != "kubernetes":
        raise MaestroError(
            "invalid_request",
            f"The image {ask.image!r} cannot be had: servers are containers on Kubernetes alone, and here they are "
            "processes of one machine; leave the image out.",
        )


async def asked_workspace(unit: Unit, user: UserRef, server: str, ask: SpawnAsk) -> tuple[WorkspaceRow, Role | None]:
    """The workspace that a start means, and the user's role there (None: they do not belong to it).

    The unnamed server opens the personal workspace and no other; a server named like a workspace of the person's is of
    that one. What others have is answered like what nobody has. The unit must be a write transaction: the personal
    workspace is made on first use.

    Raises:
        MaestroError: ``unknown_workspace``, or ``conflict`` where name and workspace do not go together.
    """
    wanted, own = ask.workspace or server or PERSONAL, personal_workspace_name(user.name, user.created)
    named = await unit.workspaces.with_role(
        {own, wanted, server} - {"", PERSONAL}, user.name, user.created, user.groups
    )
    if own not in named or not is_own(named[own][0], user):
        named[own] = (await ensure_personal(unit, user), Role.OWNER)
    personal = named[own][0]
    if not server and wanted not in (PERSONAL, personal.name):
        raise MaestroError(
            "conflict",
            f"The server without a name opens your personal workspace; start {wanted} by its card, or under a name.",
            {"workspace": wanted},
        )
    found = named.get(own if wanted == PERSONAL else wanted)
    if found is None:
        raise unknown_workspace(wanted)
    workspace, role = found
    _, elsewhere = named.get(server, (None, None))
    if role is not None and elsewhere is not None and server != workspace.name:
        raise MaestroError(
            "conflict",
            f"A server named {server} opens the workspace of that name, not {workspace.name}; take another server "
            "name.",
            {"workspace": workspace.name, "server_name": server},
        )
    return workspace, role


async def _running(unit: Unit, user: UserRef, server: str) -> list[LaunchRow]:
    """What a person runs besides the server that starts now, counted in the pools of the groups of the moment.

    The Hub starts a server anew only when it is gone: what is left of it here is a leak, and ends.
    """
    running = []
    for launch in await unit.launches.active_of(user.name, user.created):
        if launch.server_name == server:
            await end(unit, launch, "started anew", SPAWNER)
        else:
            running.append(launch)
    if running:
        for launch_id, noted in (await unit.launches.noted_groups(user.name, user.created)).items():
            if noted != set(user.groups):
                await unit.launches.note_groups(launch_id, user.groups)
    return running


async def plan_of(authority: Authority, user: UserRef, admitted: Admitted, token: str) -> LaunchPlan:
    """What was decided as a plan, once its volume is there; ``token``: of the package index.

    Raises:
        MaestroError: ``start_failed`` and what else a volume may say.
    """
    workspace, launch = admitted.workspace, admitted.launch
    await authority.network.hold(authority.policy.current.egress)
    await authority.volumes.ensure(workspace.id, workspace.name, admitted.size)
    mounts = await authority.volumes.mounts(
        workspace,
        home_directory_name(user.name, user.created),
        admitted.datasets,
        read_only=not may(launch.role, "write_files"),
    )
    async with authority.store.read() as unit:
        version = await unit.environments.number(workspace.id)
    return build_plan(
        authority.settings, user, workspace, launch, admitted.profile, admitted.template, mounts, token, version,
        startup_scan=startup_scan(authority, workspace),
    )  # fmt: skip


async def note_refusal(unit: Unit, user: UserRef, server: str, ask: Any, error: MaestroError) -> None:
    """Note a refusal; what was asked for comes from anybody, in a loop too, so repeats are counted and only a short one
    is kept."""
    shown = ask if len(json.dumps(ask, default=str)) <= _ASK_LIMIT else {"too_long": True}
    await unit.events.count_up(
        "launch_refused",
        SPAWNER,
        user=user.name,
        server_name=server,
        code=error.code,
        message=error.message,
        limit=error.details.get("limit"),
        ask=shown,
    )
    log.info("Refused %s/%s: %s", user.name, server, error.message)


async def confirm(authority: Authority, launch_id: str) -> LaunchRow:
    """The server came up. Safe to repeat.

    Raises:
        MaestroError: ``unknown_launch``; ``conflict`` when it has ended meanwhile (the spawner stops the server).
    """
    async with authority.store.write() as unit:
        if await unit.launches.confirm(launch_id):
            launch = await known(unit, launch_id)
            await note_running(unit, launch, SPAWNER)
            return launch
        launch = await known(unit, launch_id)
    if launch.status is LaunchStatus.ENDED:
        raise MaestroError(
            "conflict", f"The launch has ended ({launch.ended_reason}); start it again.", {"launch_id": launch_id}
        )
    return launch


async def note_running(unit: Unit, launch: LaunchRow, actor: str) -> None:
    """The event of a launch that was confirmed."""
    await unit.events.append(
        "launch_running",
        actor,
        workspace_id=launch.workspace_id,
        launch_id=launch.id,
        user=launch.user,
        server_name=launch.server_name,
    )


async def release(authority: Authority, launch_id: str, reason: str, actor: str = SPAWNER) -> LaunchRow:
    """The launch is over, or never came to be. Safe to repeat; the first reason stays.

    Raises:
        MaestroError: ``unknown_launch``.
    """
    async with authority.store.write() as unit:
        await end(unit, await known(unit, launch_id), reason, actor)
        return await known(unit, launch_id)


async def end(unit: Unit, launch: LaunchRow, reason: str, actor: str) -> bool:
    """End a launch inside a write transaction, with its event; False if it had ended before.

    What its user was told comes before what the spawner saw: it was stopped for that.
    """
    reason = launch.due(now()) or reason
    if not await unit.launches.end(launch.id, reason):
        return False
    await unit.events.append(
        "launch_ended",
        actor,
        workspace_id=launch.workspace_id,
        launch_id=launch.id,
        user=launch.user,
        server_name=launch.server_name,
        reason=reason[:200],
    )
    return True


async def known(unit: Unit, launch_id: str) -> LaunchRow:
    """The launch of an id.

    Raises:
        MaestroError: ``unknown_launch``.
    """
    launch = await unit.launches.get(launch_id)
    if launch is None:
        raise MaestroError("unknown_launch", f"There is no launch {launch_id[:40]!r}.", {"launch_id": launch_id[:40]})
    return launch
