"""What the policy and the advisories say about what is installed in a notebook server."""

from __future__ import annotations

import asyncio

from maestro_core.packages import CompiledPolicy, normal_name
from maestro_core.scans import Package, ScanAnswer, ScanQuestion, judge, judge_startup

from ..authority import Authority
from ..identity import Caller
from .advisories import about, status
from .packages import package_policy
from .usage import own_launch


async def check_installed(authority: Authority, caller: Caller, session_id: str, question: ScanQuestion) -> ScanAnswer:
    """Judge what a server has installed, for a scan.

    Raises:
        MaestroError: ``unknown_launch`` for everybody but the launch's own server.
    """
    policy = await _policy_of(authority, caller, session_id)
    known = await about(authority, _names(question.packages))
    # two thousand packages are not judged on the loop
    findings = await asyncio.to_thread(judge, policy, known, question.packages)
    return ScanAnswer(findings=findings, blocked_names=policy.scan, advisories=await status(authority))


async def check_image(authority: Authority, caller: Caller, session_id: str, question: ScanQuestion) -> ScanAnswer:
    """Judge what an image contains, when a server starts with it.

    Raises:
        MaestroError: as :func:`check_installed`.
    """
    policy = await _policy_of(authority, caller, session_id)
    findings = await asyncio.to_thread(judge_startup, policy, question.packages)
    return ScanAnswer(findings=findings)


async def _policy_of(authority: Authority, caller: Caller, session_id: str) -> CompiledPolicy:
    async with authority.store.read() as unit:
        launch = await own_launch(unit, caller, session_id)
        workspace = await unit.workspaces.get(launch.workspace_id)
    return await package_policy(authority, workspace.name if workspace is not None else None)


def _names(packages: tuple[Package, ...]) -> set[str]:
    names = set()
    for package in packages:
        try:
            names.add(normal_name(package.name))
        except ValueError:
            continue  # judged by its name alone
    return names
