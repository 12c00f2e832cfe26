"""What a person may launch in a workspace: the spawn form's contents, and the list of profiles."""

from __future__ import annotations

from collections.abc import Collection

from maestro_core.allowance import InUse, most, shown_servers
from maestro_core.allowance import check as check_quota
from maestro_core.errors import MaestroError
from maestro_core.experiments import default_experiment
from maestro_core.launches import FormRequest, FormView, ImageView, OwnAmounts, ProfileList, ProfileView, SpawnAsk
from maestro_core.names import check_name
from maestro_core.policy import Policy
from maestro_core.profiles import Image, Profile, choose
from maestro_core.quota import Limit
from maestro_core.resources import show_memory
from maestro_core.roles import Role
from maestro_core.room import Room, room_for
from maestro_core.workspaces import ServersShown, UserRef
from maestro_hub_services.store import WorkspaceRow

from ..authority import Authority
from ..identity import Caller
from .access import opened, unknown_workspace
from .admission import asked_workspace
from .limits import left_sentences, standing_limits, without
from .plans import asked_amounts, experiment_of, template_of


async def form_view(authority: Authority, request: FormRequest) -> FormView:
    """What the form of one server of one user shows; a refusal is part of it, never an error."""
    user, server = request.user, request.server_name
    try:
        if server:
            check_name(server, "server")
        policy = authority.policy.current
        async with authority.store.write() as unit:
            workspace, role = await asked_workspace(unit, user, server, SpawnAsk())
            if role is None or not workspace.open:
                raise unknown_workspace(workspace.name)
            limits, used = await standing_limits(authority, unit, policy, user, workspace)
            earlier = await unit.launches.of_server(user.name, user.created, server)
    except MaestroError as error:
        if error.code == "unknown_workspace":
            authority.leftovers.add(user.name, server)  # the Hub made a row when the form was opened
        return FormView(workspace=None, role=None, refusal=error.message)
    if earlier is not None:  # its place is free again when this server starts anew
        used = without(used, earlier, workspace, user.groups)
    profiles = await profile_views(authority, policy, user, limits, used)
    refusal: str | None = None
    if not profiles:
        refusal = "No profile is open to you; ask an admin to open one in maestro.yaml."
    elif not any(profile.allowed for profile in profiles):
        refusal = profiles[0].refusal
    return FormView(
        workspace=workspace.name,
        description=workspace.description,
        role=role,
        personal=workspace.personal,
        refusal=refusal,
        profiles=profiles,
        servers=ServersShown.model_validate(shown_servers(limits, used)),
        left=left_sentences(limits, used),
        templates=authority.templates.all() if role.covers(Role.EDITOR) else (),
        template=template_of(SpawnAsk(), workspace, role),
        experiment=experiment_of(SpawnAsk(), workspace, role) or default_experiment(workspace.name),
        own=_own_amounts(policy, user, workspace, limits, used),
    )


def _own_amounts(
    policy: Policy, user: UserRef, workspace: WorkspaceRow, limits: list[Limit], used: InUse
) -> OwnAmounts | None:
    amounts = asked_amounts(SpawnAsk(), workspace)
    if amounts is None:
        return None
    try:
        profile, resources = choose(policy.profiles, user.groups, None, amounts)
        check_quota(limits, used, resources)
    except MaestroError as error:
        return OwnAmounts(shown=amounts.show(), refusal=error.message)
    return OwnAmounts(shown=amounts.show(), profile=profile.name, resources=resources)


async def list_profiles(authority: Authority, caller: Caller, workspace: str) -> ProfileList:
    """The profiles that are open to the caller in a workspace, those that do not fit now with the reason.

    Raises:
        MaestroError: ``unknown_workspace``; ``invalid_policy`` while none is in force.
    """
    user, policy = caller.person, authority.policy.current
    async with opened(authority, caller, workspace, "read") as (unit, standing):
        limits, used = await standing_limits(authority, unit, policy, user, standing.workspace)
    return ProfileList(
        profiles=await profile_views(authority, policy, user, limits, used), left=left_sentences(limits, used)
    )


async def profile_views(
    authority: Authority, policy: Policy, user: UserRef, limits: list[Limit], used: InUse
) -> tuple[ProfileView, ...]:
    """The profiles open to a person, in file order. Looks at the nodes: call it outside a transaction."""
    nodes = await authority.nodes.look()
    images = () if authority.settings.provider == "local" else policy.images
    found = [profile for profile in policy.profiles if profile.open_to(user.groups)]
    return tuple(
        _view(profile, limits, used, images, room_for(nodes, profile) if authority.nodes.placed else None)
        for profile in found
    )


def _view(
    profile: Profile, limits: list[Limit], used: InUse, images: Collection[Image], room: Room | None
) -> ProfileView:
    refusal = None
    try:
        check_quota(limits, used, profile.resources)
    except MaestroError as error:
        refusal = error.message
    top = most(limits, used, profile.ceiling)
    return ProfileView(
        name=profile.name,
        title=profile.title or profile.name.capitalize(),
        description=profile.description,
        cpu=profile.cpu,
        memory=profile.memory,
        memory_shown=show_memory(profile.memory),
        gpu=profile.gpu,
        gpu_type=profile.gpu_type,
        allowed=refusal is None,
        refusal=refusal,
        max_cpu=None if top is None else top.cpu,
        max_memory=None if top is None else top.memory,
        max_memory_shown=None if top is None else show_memory(top.memory),
        max_gpu=None if top is None else top.gpu,
        images=tuple(
            ImageView(name=image.name, title=image.title or image.name)
            for image in images
            if image.name in profile.allow.images
        ),
        idle_minutes=profile.idle,
        room=room,
    )
