"""Every handler of the API: calls one function of the domain, and answers what it returns."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel

from maestro_core.advisories import AdvisoryStatus
from maestro_core.conda_environments import CONDA, CondaBuild
from maestro_core.environments import (
    EnvironmentBuild,
    EnvironmentDiff,
    EnvironmentHistory,
    EnvironmentView,
)
from maestro_core.errors import MaestroError
from maestro_core.figures import NearList, QuotaList, QuotaView
from maestro_core.idle import IdleAnswer
from maestro_core.invitations import Invitation, InvitationList
from maestro_core.jobs import JobList, JobTokenOwner, JobView, LogChunk, Orders, OutputView, WorkOrder
from maestro_core.launches import FormView, LaunchList, LaunchPlan, LaunchStatus, LaunchView, ProfileList, TemplateList
from maestro_core.lifecycle import PurgedTracking
from maestro_core.models import read_model
from maestro_core.names import PERSONAL
from maestro_core.packages import TokenOwner
from maestro_core.requests import (
    CacheCleared,
    Forced,
    NameList,
    PackageAnswer,
    PackageAsk,
    RequestList,
    RequestView,
    WantedList,
)
from maestro_core.scans import ScanAnswer
from maestro_core.snapshots import SnapshotContent, SnapshotList, SnapshotTaken
from maestro_core.sweeps import SweepList, SweepView
from maestro_core.usage import LaunchUsage, Notices, WorkspaceUsage
from maestro_core.workspaces import (
    EndedLaunches,
    LimitList,
    Me,
    Member,
    MemberList,
    TrackingView,
    WorkspaceList,
    WorkspaceView,
)
from maestro_hub_services.store.clock import now

from .domain import (
    admission,
    advisories,
    clearing,
    conda_environments,
    denials,
    environments,
    forcing,
    forms,
    idle,
    invitations,
    job_tokens,
    job_work,
    jobs,
    launches,
    launching,
    lifecycle,
    limits,
    members,
    near,
    ownership,
    packages,
    people,
    quotas,
    requests,
    reviewing,
    scaling,
    scans,
    snapshots,
    sweeps,
    tracking,
    usage,
    workspaces,
)
from .http import Answer, Call


class Health(BaseModel):
    """The service runs."""

    status: Literal["ok"] = "ok"


class Done(BaseModel):
    """A launch after confirm or release."""

    launch_id: str
    status: LaunchStatus


async def health(call: Call) -> Health:
    return Health()


async def me(call: Call) -> Me:
    return await people.me(call.authority, call.caller)


async def list_workspaces(call: Call) -> WorkspaceList:
    archived = _yes(call, "archived")
    return await workspaces.list_workspaces(call.authority, call.caller, everything=_all(call), archived=archived)


async def create_workspace(call: Call) -> WorkspaceView:
    return await workspaces.create_workspace(call.authority, call.caller, call.body)


async def view_workspace(call: Call) -> WorkspaceView:
    return await workspaces.view_workspace(call.authority, call.caller, call.path["workspace"])


async def change_workspace(call: Call) -> WorkspaceView:
    return await workspaces.change_workspace(call.authority, call.caller, call.path["workspace"], call.body)


async def link_experiment(call: Call) -> WorkspaceView:
    return await workspaces.link_experiment(call.authority, call.caller, call.path["workspace"], call.body)


async def archive_workspace(call: Call) -> None:
    await lifecycle.archive_workspace(call.authority, call.caller, call.path["workspace"])


async def restore_workspace(call: Call) -> WorkspaceView:
    await lifecycle.restore_workspace(call.authority, call.caller, call.path["workspace"])
    return await workspaces.view_workspace(call.authority, call.caller, call.path["workspace"])


async def purge_workspace(call: Call) -> Answer:
    report = await lifecycle.purge_workspace(call.authority, call.caller, call.path["workspace"])
    return Answer(report, 200 if report.state == "purged" else 202)


async def transfer_workspace(call: Call) -> Member:
    return await ownership.transfer(call.authority, call.caller, call.path["workspace"], call.body)


#: that are told at once
MAX_MONTHS = 24


async def workspace_usage(call: Call) -> WorkspaceUsage:
    months = min(int(_number(call, "months", 0)), MAX_MONTHS)
    return await usage.workspace_usage(call.authority, call.caller, call.path["workspace"], months)


async def list_invitations(call: Call) -> InvitationList:
    return await invitations.list_of_workspace(call.authority, call.caller, call.path["workspace"])


async def invite(call: Call) -> Invitation:
    return await invitations.invite(call.authority, call.caller, call.path["workspace"], call.body)


async def withdraw_invitation(call: Call) -> None:
    path = call.path
    await invitations.withdraw(call.authority, call.caller, path["workspace"], path["invitation_id"])


async def my_invitations(call: Call) -> InvitationList:
    return await invitations.list_mine(call.authority, call.caller)


async def accept_invitation(call: Call) -> Member:
    return await invitations.accept(call.authority, call.caller, call.path["invitation_id"])


async def decline_invitation(call: Call) -> None:
    await invitations.decline(call.authority, call.caller, call.path["invitation_id"])


async def list_members(call: Call) -> MemberList:
    return await members.list_members(call.authority, call.caller, call.path["workspace"])


async def put_member(call: Call) -> Member:
    at_once = _yes(call, "now")
    return await members.put_member(call.authority, call.caller, call.path["workspace"], call.body, at_once=at_once)


async def remove_member(call: Call) -> None:
    path = call.path
    await members.remove_member(
        call.authority, call.caller, path["workspace"], path["kind"], path["name"], at_once=_yes(call, "now")
    )


async def view_environment(call: Call) -> EnvironmentView:
    return await environments.view(call.authority, call.caller, call.path["workspace"], _version(call, "version"))


async def change_environment(call: Call) -> Answer:
    view = await environments.change(call.authority, call.caller, call.path["workspace"], call.body)
    return Answer(view)


async def environment_history(call: Call) -> EnvironmentHistory:
    return await environments.history(call.authority, call.caller, call.path["workspace"])


async def environment_diff(call: Call) -> EnvironmentDiff:
    before, after = _version(call, "from") or 0, _version(call, "to")
    return await environments.diff(call.authority, call.caller, call.path["workspace"], before, after)


async def roll_back_environment(call: Call) -> EnvironmentView:
    return await environments.roll_back(call.authority, call.caller, call.path["workspace"], call.body.version)


async def environment_build(call: Call) -> EnvironmentBuild:
    version, target = _version(call, "version") or 0, call.query.get("target", "")
    return await environments.build_of(call.authority, call.caller, call.path["workspace"], version, target)


async def view_conda(call: Call) -> EnvironmentView:
    version = _version(call, "version")
    return await environments.view(call.authority, call.caller, call.path["workspace"], version, CONDA)


async def change_conda(call: Call) -> EnvironmentView:
    return await conda_environments.change(call.authority, call.caller, call.path["workspace"], call.body)


async def conda_history(call: Call) -> EnvironmentHistory:
    return await environments.history(call.authority, call.caller, call.path["workspace"], CONDA)


async def conda_diff(call: Call) -> EnvironmentDiff:
    before, after = _version(call, "from") or 0, _version(call, "to")
    return await environments.diff(call.authority, call.caller, call.path["workspace"], before, after, CONDA)


async def roll_back_conda(call: Call) -> EnvironmentView:
    number = call.body.version
    return await environments.roll_back(call.authority, call.caller, call.path["workspace"], number, CONDA)


async def conda_build(call: Call) -> CondaBuild:
    target = call.query.get("target", "")
    return await conda_environments.build_of(call.authority, call.caller, call.path["workspace"], target)


async def keep_environment_build(call: Call) -> EnvironmentBuild:
    return await environments.deposit(call.authority, call.caller, call.path["workspace"], call.body)


async def view_limits(call: Call) -> LimitList:
    return await limits.view_limits(call.authority, call.caller, call.path["workspace"])


async def list_quotas(call: Call) -> QuotaList:
    return await quotas.list_quotas(call.authority, call.caller)


async def put_quota(call: Call) -> QuotaView:
    return await quotas.put_quota(call.authority, call.caller, call.path["limit"], call.body)


async def remove_quota(call: Call) -> None:
    level, name = call.query.get("level") or "everyone", call.query.get("name", "")
    await quotas.remove_quota(call.authority, call.caller, call.path["limit"], level, name)


async def list_near(call: Call) -> NearList:
    return await near.list_near(call.authority, call.caller)


async def ask_package(call: Call) -> Answer:
    answer = await requests.ask(call.authority, call.caller, call.path["workspace"], call.body)
    return Answer(answer, 200 if answer.answer == "allowed" else 202)


async def force_package(call: Call) -> Forced:
    return await forcing.force(call.authority, call.caller, call.path["workspace"], call.body)


async def clear_package_cache(call: Call) -> CacheCleared:
    return await clearing.clear(call.authority, call.caller, call.path["workspace"])


async def check_package(call: Call) -> PackageAnswer:
    given = {name: call.query[name] for name in ("version", "channel") if call.query.get(name)}
    asked = read_model(PackageAsk, {"package": call.path["package"], **given})
    return await requests.check(call.authority, call.caller, call.query.get("workspace") or PERSONAL, asked)


async def list_requests(call: Call) -> RequestList:
    if _yes(call, "review"):
        return await requests.list_to_review(call.authority, call.caller)
    if workspace := call.query.get("workspace"):
        return await requests.list_of_workspace(call.authority, call.caller, workspace)
    return await requests.list_mine(call.authority, call.caller)


async def view_request(call: Call) -> RequestView:
    return await requests.view(call.authority, call.caller, call.path["request_id"])


async def withdraw_request(call: Call) -> None:
    await requests.withdraw(call.authority, call.caller, call.path["request_id"])


async def approve_request(call: Call) -> RequestView:
    return await requests.approve(call.authority, call.caller, call.path["request_id"], call.body)


async def deny_request(call: Call) -> RequestView:
    return await requests.deny(call.authority, call.caller, call.path["request_id"], call.body)


async def list_profiles(call: Call) -> ProfileList:
    return await forms.list_profiles(call.authority, call.caller, call.query.get("workspace") or PERSONAL)


async def list_templates(call: Call) -> TemplateList:
    return TemplateList(templates=call.authority.templates.all())


async def list_launches(call: Call) -> LaunchList:
    return await launches.list_launches(call.authority, call.caller, everything=_all(call))


async def start_launch(call: Call) -> Answer:
    view = await launching.start_launch(call.authority, call.caller, call.body)
    return Answer(view, 201 if view.status is LaunchStatus.RUNNING else 202)


async def view_launch(call: Call) -> LaunchView:
    return await launches.view_launch(call.authority, call.caller, call.path["session_id"])


async def stop_launch(call: Call) -> Answer:
    view = await launching.stop_launch(call.authority, call.caller, call.path["session_id"])
    return Answer(view, 200 if view.status is LaunchStatus.ENDED else 202)


async def scale_launch(call: Call) -> Answer:
    view = await scaling.scale_launch(call.authority, call.caller, call.path["session_id"], call.body)
    return Answer(view, 200 if view.status is LaunchStatus.RUNNING else 202)


async def launch_usage(call: Call) -> LaunchUsage:
    hours = _number(call, "hours", 0)
    since = now() - timedelta(hours=hours) if hours else None
    return await usage.launch_usage(call.authority, call.caller, call.path["session_id"], since)


async def heartbeat(call: Call) -> Notices:
    return await usage.heartbeat(call.authority, call.caller, call.path["session_id"], call.body)


async def wait_for_notices(call: Call) -> Answer:
    seen, wait = call.query.get("seen", ""), _number(call, "wait", 0)
    notices, digest = await usage.wait_for_notices(call.authority, call.caller, call.path["session_id"], seen, wait)
    return Answer(notices, etag=digest)


async def keep_launch(call: Call) -> Notices:
    return await usage.keep(call.authority, call.caller, call.path["session_id"])


async def plan_launch(call: Call) -> LaunchPlan:
    return await admission.plan(call.authority, call.body)


async def confirm_launch(call: Call) -> Done:
    launch = await admission.confirm(call.authority, call.path["launch_id"])
    return Done(launch_id=launch.id, status=launch.status)


async def release_launch(call: Call) -> Done:
    launch = await admission.release(call.authority, call.path["launch_id"], call.body.reason)
    return Done(launch_id=launch.id, status=launch.status)


async def plan_form(call: Call) -> FormView:
    return await forms.form_view(call.authority, call.body)


async def authorize_tracking(call: Call) -> TrackingView:
    return await tracking.authorize(call.authority, call.body)


async def ended_launches(call: Call) -> EndedLaunches:
    return await tracking.ended(call.authority, call.body)


async def idle_server(call: Call) -> IdleAnswer:
    return await idle.may_stop(call.authority, call.body)


async def purged_tracking(call: Call) -> PurgedTracking:
    return await lifecycle.purged_tracking(call.authority)


async def tracking_removed(call: Call) -> None:
    await lifecycle.tracking_removed(call.authority, call.body)


async def package_policy(call: Call) -> Answer:
    policy = await packages.package_policy(call.authority, call.query.get("workspace"))
    return Answer(policy, etag=policy.revision)


async def known_malware(call: Call) -> Answer:
    book = call.authority.malware.book
    return Answer(book, etag=book.revision or "none")


async def check_installed(call: Call) -> ScanAnswer:
    return await scans.check_installed(call.authority, call.caller, call.path["session_id"], call.body)


async def check_image(call: Call) -> ScanAnswer:
    return await scans.check_image(call.authority, call.caller, call.path["session_id"], call.body)


async def take_snapshot(call: Call) -> SnapshotTaken:
    return await snapshots.take(call.authority, call.caller, call.path["session_id"], call.body)


async def list_snapshots(call: Call) -> SnapshotList:
    limit = int(_number(call, "limit", 100))
    return await snapshots.versions(
        call.authority, call.caller, call.path["workspace"], call.query.get("path") or None, limit
    )


async def view_snapshot(call: Call) -> SnapshotContent:
    return await snapshots.content(call.authority, call.caller, call.path["workspace"], call.path["address"])


async def submit_job(call: Call) -> JobView:
    return await jobs.submit(call.authority, call.caller, call.path["workspace"], call.body)


async def list_jobs(call: Call) -> JobList:
    workspace = call.query.get("workspace") or None
    limit = int(_number(call, "limit", 100))
    return await jobs.list_jobs(call.authority, call.caller, workspace, everything=_all(call), limit=limit)


async def view_job(call: Call) -> JobView:
    return await jobs.view_job(call.authority, call.caller, call.path["job_id"])


async def cancel_job(call: Call) -> JobView:
    return await jobs.cancel(call.authority, call.caller, call.path["job_id"])


async def end_job_schedule(call: Call) -> JobView:
    return await jobs.end_schedule(call.authority, call.caller, call.path["job_id"])


async def read_job_log(call: Call) -> LogChunk:
    attempt, offset = int(_number(call, "attempt", 0)), int(_number(call, "offset", 0, most=2**53))
    return await jobs.read_log(call.authority, call.caller, call.path["job_id"], attempt or None, offset)


async def read_job_output(call: Call) -> OutputView:
    return await jobs.read_output(call.authority, call.caller, call.path["job_id"])


async def submit_sweep(call: Call) -> SweepView:
    return await sweeps.submit(call.authority, call.caller, call.path["workspace"], call.body)


async def list_sweeps(call: Call) -> SweepList:
    workspace, limit = call.query.get("workspace") or None, int(_number(call, "limit", 50))
    return await sweeps.list_sweeps(call.authority, call.caller, workspace, everything=_all(call), limit=limit)


async def view_sweep(call: Call) -> SweepView:
    return await sweeps.view_sweep(call.authority, call.caller, call.path["sweep_id"])


async def cancel_sweep(call: Call) -> SweepView:
    return await sweeps.cancel(call.authority, call.caller, call.path["sweep_id"])


async def job_order(call: Call) -> WorkOrder:
    return await job_work.order(call.authority, call.caller, call.path["job_id"])


async def job_progress(call: Call) -> Orders:
    return await job_work.progress(call.authority, call.caller, call.path["job_id"], call.body)


async def add_job_log(call: Call) -> None:
    await job_work.add_log(call.authority, call.caller, call.path["job_id"], call.body)


async def put_job_output(call: Call) -> None:
    await job_work.put_output(call.authority, call.caller, call.path["job_id"], call.body)


async def job_done(call: Call) -> None:
    await job_work.done(call.authority, call.caller, call.path["job_id"], call.body)


async def job_token_owner(call: Call) -> JobTokenOwner:
    return await job_tokens.owner_of(call.authority, call.body)


async def advisory_status(call: Call) -> AdvisoryStatus:
    return await advisories.status(call.authority)


async def take_advisories(call: Call) -> AdvisoryStatus:
    return await advisories.take(call.authority, call.caller, call.body)


async def wanted_facts(call: Call) -> WantedList:
    return await reviewing.wanted(call.authority)


async def asked_names(call: Call) -> NameList:
    return NameList(asked=tuple(await call.authority.names.wait(min(_number(call, "wait", 0), 30))))


async def tell_name(call: Call) -> None:
    call.authority.names.tell(call.body)


async def keep_denials(call: Call) -> None:
    await denials.keep(call.authority, call.body)


async def keep_facts(call: Call) -> None:
    await reviewing.keep_facts(call.authority, call.body)


async def token_owner(call: Call) -> TokenOwner:
    return await packages.token_owner(call.authority, call.body)


def _all(call: Call) -> bool:
    return _yes(call, "all")


def _yes(call: Call, name: str) -> bool:
    return call.query.get(name, "").lower() in ("1", "true", "yes")


def _version(call: Call, name: str) -> int | None:
    return int(_number(call, name, 0)) if call.query.get(name) else None


def _number(call: Call, name: str, default: float, most: float = 1e6) -> float:
    text = call.query.get(name, "")
    try:
        number = float(text) if text else default
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:  # NaN is not
        raise MaestroError("invalid_request", f"{name} is a number, not {text[:20]!r}.", {"field": name})
    return number
