"""The package index's questions: the policy of a workspace, and whose token this is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from maestro_core.errors import MaestroError
from maestro_core.packages import (
    PYPI,
    TRUSTED,
    Action,
    CompiledPolicy,
    TokenOwner,
    TokenQuestion,
    Verdict,
    compile_policy,
    decide,
)
from maestro_core.requests import exact_version, no_such_package
from maestro_core.workspace_settings import WorkspaceSettings
from maestro_hub_services.store import Unit, WorkspaceRow

from ..authority import Authority
from .clearing import cleared_at


async def package_policy(authority: Authority, workspace: str | None) -> CompiledPolicy:
    """The compiled policy of a workspace, or the global one; its revision changes with its content.

    Raises:
        MaestroError: ``unknown_workspace``; ``invalid_policy`` while none is in force.
    """
    async with authority.store.read() as unit:
        found = await unit.workspaces.by_name(workspace) if workspace else None
        if workspace and (found is None or not found.open):
            raise MaestroError(
                "unknown_workspace", f"There is no workspace {workspace[:40]!r}.", {"workspace": workspace[:40]}
            )
        return await compiled(authority, unit, found)


async def compiled(authority: Authority, unit: Unit, workspace: WorkspaceRow | None) -> CompiledPolicy:
    """The policy in force in a workspace (None: everywhere): the files, and what people decided since.

    Raises:
        MaestroError: ``invalid_policy`` while none is in force.
    """
    policy = authority.policy.current
    decisions = await unit.rules.in_force(None if workspace is None else workspace.id)
    return compile_policy(
        policy.packages,
        None if workspace is None else WorkspaceSettings.read(workspace.settings).security,
        workspace_name="" if workspace is None else workspace.name,
        decisions=[row.as_rule() for row in decisions],
        malware=authority.malware.book,
        grants=() if workspace is None else await unit.rules.grants(workspace.id),
        anew=await cleared_at(unit),
    )


def verdict_on(policy: CompiledPolicy, package: str, specifier: str = "", channel: str = PYPI) -> Verdict:
    """What the policy says to a package in some of its versions (a specifier; empty: whichever).

    Where it holds the package back and allows some of these versions, these can be installed: that is a yes.
    """
    verdict = decide(policy, package, exact_version(specifier), channel)
    if verdict.action is Action.ASK and exact_version(specifier) is None:
        for rule in policy.rules_for(package, channel):
            answers = verdict.level == "workspace" or rule.level == "global" or rule.origin == "decision"
            if verdict.rule == TRUSTED:  # the channel is the question: a rule about the package alone is no answer
                answers = policy.channels.opened_by(rule)
            if answers and rule.action is Action.ALLOW and overlap(specifier, rule.specifier):
                return Verdict(Action.ALLOW, rule=rule.text, level=rule.level)
    return verdict


async def see_exists(authority: Authority, workspace: str, packages: Iterable[str]) -> None:
    """Refuse a name that the index behind ours does not have; where nobody can say so in time, it may be.

    Raises:
        MaestroError: ``unknown_package``.
    """
    names = list(dict.fromkeys(packages))
    told = await asyncio.gather(*(authority.names.exists(workspace, name) for name in names))
    for name, exists in zip(names, told, strict=True):
        if exists is False:
            raise no_such_package(name)


def overlap(one: str, other: str) -> bool:
    """Whether two specifiers are seen to have a version in common: one that either of them names."""
    if not one or not other:
        return True
    try:
        first, second = SpecifierSet(one), SpecifierSet(other)
    except InvalidSpecifier:  # a version that conda alone knows: not seen
        return False
    named = {part.version.removesuffix(".*") for part in (*first, *second)}
    return any(first.contains(it, prereleases=True) and second.contains(it, prereleases=True) for it in named)


def startup_scan(authority: Authority, workspace: WorkspaceRow) -> str:
    """Whether a server is to compare its image with the policy, and what then: ``warn``, ``refuse``, or empty."""
    own = WorkspaceSettings.read(workspace.settings).security
    policies = [authority.policy.current.packages.with_preset("open"), *([own.with_preset()] if own else [])]
    lists = [one.blocked_packages if one.startup_blocked_packages is None else one.startup_blocked_packages
             for one in policies]  # fmt: skip
    if not any(lists) and not authority.malware.book.advisories:
        return ""
    return "refuse" if any(one.startup_scan == "refuse" for one in policies) else "warn"


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
