"""Who am I."""

from __future__ import annotations

from maestro_core.names import personal_workspace_name
from maestro_core.workspaces import Me

from ..authority import Authority
from ..identity import Caller


async def me(authority: Authority, caller: Caller) -> Me:
    """The caller as the service sees them; admins hear what is wrong with the policy."""
    user = caller.person
    problem = authority.policy.problem
    return Me(
        user=user.name,
        admin=caller.admin,
        groups=user.groups,
        scopes=tuple(sorted(scope for scope in caller.scopes if scope.startswith("custom:maestro:"))),
        servers=caller.servers,
        personal_workspace=personal_workspace_name(user.name, user.created),
        notices=(problem.message,) if problem is not None and caller.admin else (),
    )
