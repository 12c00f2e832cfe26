"""Whose a job's token is: an attempt's, for as long as its launch lives, its user belongs there, and its time lasts."""

from __future__ import annotations

from maestro_core.errors import MaestroError
from maestro_core.jobs import JobTokenOwner, JobTokenQuestion
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import AttemptRow, JobRow, LaunchRow, WorkspaceRow
from maestro_hub_services.store.clock import now

from ..authority import Authority
from ..identity import USE, Caller, JobClaim


async def caller_of(authority: Authority, token: str) -> Caller | None:
    """Who acts with a job's token; None: it is dead. Confined to its workspace like a notebook server's.

    Raises:
        MaestroError: ``hub_unavailable``.
    """
    found = await _find(authority, token)
    if found is None:
        return None
    user, job, attempt, launch, _ = found
    claim = JobClaim(job.id, attempt.number, launch.id)
    return Caller(user.name, user, frozenset({USE}), (job.server,), claim)


async def owner_of(authority: Authority, question: JobTokenQuestion) -> JobTokenOwner:
    """The tracking service's question.

    Raises:
        MaestroError: ``unknown_job`` for a dead or unknown token, ``hub_unavailable``.
    """
    found = await _find(authority, question.token)
    if found is None:
        raise MaestroError("unknown_job", "This token is of no running job.")
    user, job, _, launch, workspace = found
    return JobTokenOwner(
        user=user.name, launch_id=launch.id, workspace=workspace.name, job_id=job.id, server=job.server
    )


async def _find(authority: Authority, token: str) -> tuple[UserRef, JobRow, AttemptRow, LaunchRow, WorkspaceRow] | None:
    async with authority.store.read() as unit:
        attempt = await unit.jobs.by_token(authority.tokens.mac(token))
        job = None if attempt is None else await unit.jobs.get(attempt.job_id)
        launch = None if attempt is None else await unit.launches.get(attempt.launch_id)
        workspace = None if launch is None else await unit.workspaces.get(launch.workspace_id)
    if attempt is None or job is None or launch is None or workspace is None:
        return None
    if not launch.status.active or attempt.token_until <= now() or not workspace.open:
        return None
    try:
        user = await authority.hub.user(job.user)
    except MaestroError as error:
        if error.code != "unknown_user":
            raise
        return None
    if user.created != job.user_created:
        return None
    return user, job, attempt, launch, workspace
