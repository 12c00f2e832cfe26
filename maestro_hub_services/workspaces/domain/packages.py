"""The package index's questions: the policy of a workspace, and whose token this is."""

from __future__ import annotations

from maestro_core.errors import MaestroError
from maestro_core.packages import CompiledPolicy, TokenOwner, TokenQuestion, compile_policy
from maestro_core.workspace_settings import WorkspaceSettings

from ..authority import Authority


async def package_policy(authority: Authority, workspace: str | None) -> CompiledPolicy:
    """The compiled policy of a workspace, or the global one; its revision changes with its content.

    Raises:
        MaestroError: ``unknown_workspace``; ``invalid_policy`` while none is in force.
    """
    policy = authority.policy.current
    found = None
    if workspace:
        async with authority.store.read() as unit:
            found = await unit.workspaces.by_name(workspace)
        if found is None or not found.open:
            raise MaestroError(
                "unknown_workspace", f"There is no workspace {workspace[:40]!r}.", {"workspace": workspace[:40]}
            )
    own = WorkspaceSettings.read(found.settings).security if found is not None else None
    return compile_policy(policy.packages, own, workspace_name=workspace or "", malware=authority.malware.book)


async def token_owner(authority: Authority, question: TokenQuestion) -> TokenOwner:
    """The launch of a living index token. A member who was removed, or may not change files any more, has none.

    Raises:
        MaestroError: ``unknown_launch`` for a dead or unknown token, ``hub_unavailable``.
    """
    dead = MaestroError("unknown_launch", "This index token is of no running launch; start the server again.")
    mac = authority.tokens.mac(question.token)
    async with authority.store.read() as unit:
        launch = await unit.launches.by_token(mac)
        workspace = None if launch is None else await unit.workspaces.get(launch.workspace_id)
    if launch is None or workspace is None or not workspace.open or launch.ends_kind == "role":
        raise dead
    try:
        user = await authority.hub.user(launch.user, now=True)
    except MaestroError as error:
        raise dead if error.code == "unknown_user" else error from None
    async with authority.store.read() as unit:
        role = await unit.members.role_of(workspace.id, user.name, user.created, user.groups)
    if role is None or user.created != launch.user_created:
        raise dead
    return TokenOwner(launch_id=launch.id, user=launch.user, workspace=workspace.name)
