"""Every handler of the API: calls one function of the domain, and answers what it returns."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from maestro_core.figures import NearList, QuotaList, QuotaView
from maestro_core.launches import FormView, LaunchList, LaunchPlan, LaunchStatus, LaunchView, ProfileList, TemplateList
from maestro_core.names import PERSONAL
from maestro_core.packages import TokenOwner
from maestro_core.workspaces import LimitList, Me, Member, MemberList, TrackingView, WorkspaceList, WorkspaceView

from .domain import (
    admission,
    forms,
    launches,
    launching,
    limits,
    members,
    near,
    packages,
    people,
    quotas,
    tracking,
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
    return await workspaces.list_workspaces(call.authority, call.caller, everything=_all(call))


async def create_workspace(call: Call) -> WorkspaceView:
    return await workspaces.create_workspace(call.authority, call.caller, call.body)


async def view_workspace(call: Call) -> WorkspaceView:
    return await workspaces.view_workspace(call.authority, call.caller, call.path["workspace"])


async def change_workspace(call: Call) -> WorkspaceView:
    return await workspaces.change_workspace(call.authority, call.caller, call.path["workspace"], call.body)


async def archive_workspace(call: Call) -> None:
    await workspaces.archive_workspace(call.authority, call.caller, call.path["workspace"])


async def list_members(call: Call) -> MemberList:
    return await members.list_members(call.authority, call.caller, call.path["workspace"])


async def put_member(call: Call) -> Member:
    return await members.put_member(call.authority, call.caller, call.path["workspace"], call.body)


async def remove_member(call: Call) -> None:
    path = call.path
    await members.remove_member(call.authority, call.caller, path["workspace"], path["kind"], path["name"])


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


async def package_policy(call: Call) -> Answer:
    policy = await packages.package_policy(call.authority, call.query.get("workspace"))
    return Answer(policy, etag=policy.revision)


async def token_owner(call: Call) -> TokenOwner:
    return await packages.token_owner(call.authority, call.body)


def _all(call: Call) -> bool:
    return call.query.get("all", "").lower() in ("1", "true", "yes")
