"""The whole API on one page. Errors of every route are ``{"error": {"code", "message", "details"}}`` (docs/errors.md).

Served below the service's prefix (``/services/workspaces/api/v1/jupyter``, for tokens and for browsers with their XSRF
token) and at the Hub's root (``/api/v1/jupyter``, for tokens).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from tornado.web import RequestHandler

from maestro_core.advisories import AdvisoryBatch, AdvisoryStatus, Malware
from maestro_core.conda_environments import CondaBuild, CondaChange
from maestro_core.denials import DenialReport
from maestro_core.environments import (
    Deposit,
    EnvironmentBuild,
    EnvironmentChange,
    EnvironmentDiff,
    EnvironmentHistory,
    EnvironmentView,
    Rollback,
)
from maestro_core.figures import NearList, QuotaList, QuotaSpec, QuotaView
from maestro_core.idle import IdleAnswer, IdleQuestion
from maestro_core.invitations import Invitation, InvitationList, InvitationSpec
from maestro_core.jobs import (
    MAX_OUTPUT,
    JobDone,
    JobList,
    JobSpec,
    JobTokenOwner,
    JobTokenQuestion,
    JobView,
    LogChunk,
    LogPiece,
    Orders,
    OutputPut,
    OutputView,
    Progress,
    WorkOrder,
)
from maestro_core.launches import (
    FormRequest,
    FormView,
    LaunchList,
    LaunchPlan,
    LaunchRequest,
    LaunchView,
    PlanRequest,
    ProfileList,
    ReleaseRequest,
    ScaleRequest,
    TemplateList,
)
from maestro_core.lifecycle import PurgedTracking, PurgeReport, TrackingRemoved
from maestro_core.packages import CompiledPolicy, TokenOwner, TokenQuestion
from maestro_core.requests import (
    Approval,
    CacheCleared,
    Denial,
    FactsReport,
    Forced,
    ForceSpec,
    NameAnswer,
    NameList,
    PackageAnswer,
    PackageAsk,
    RequestList,
    RequestView,
    WantedList,
)
from maestro_core.scans import ScanAnswer, ScanQuestion
from maestro_core.snapshots import SnapshotContent, SnapshotList, SnapshotPut, SnapshotTaken
from maestro_core.sweeps import SweepList, SweepSpec, SweepView
from maestro_core.usage import Heartbeat, LaunchUsage, Notices, WorkspaceUsage
from maestro_core.workspaces import (
    EndedLaunches,
    EndedQuestion,
    ExperimentLink,
    LimitList,
    Me,
    Member,
    MemberList,
    MemberSpec,
    TrackingRequest,
    TrackingView,
    Transfer,
    WorkspaceChange,
    WorkspaceList,
    WorkspaceSpec,
    WorkspaceView,
)

from . import handlers as do
from .authority import Authority
from .http import ApiHandler, Query, Route, UnknownPath
from .identity import ADMIN, AUTHORIZE, CULL, MANAGE, PLAN, POLICY, REVIEW, USE, Identity
from .openapi import OpenApiHandler, document

API = "api/v1/jupyter"
_ALL = (Query("all", "1: everybody's, for admins"),)
_ARCHIVED = (Query("archived", "1: the archived ones that I own, in the place of the open ones"),)
_NOW = (Query("now", "1: servers that may not go on end at once, not after the grace time"),)
_MONTHS = (Query("months", "hours of so many months before this one too, at most 24"),)
_HOURS = (Query("hours", "only so far back; left out: all that is kept"),)
_WAIT = (
    Query("wait", "seconds to wait for a change, at most 55"),
    Query("seen", "the ETag of the notices that are known, without its quotes"),
)
_OF = (Query("workspace", "its name; left out: the personal one"),)
_VERSION = (Query("version", "its number; left out: the current one"),)
_VERSIONS = (Query("from", "a version; left out: the empty one"), Query("to", "a version; left out: the current one"))
_BUILD = (
    Query("version", "its number"),
    Query("target", "Python, platform and packages of the image: 3.11/linux-x86_64/0123456789ab"),
)
_FIGURE_OF = (
    Query("level", "everyone (default), group, user, workspace, pool or group-pool"),
    Query("name", "of the group, user or workspace"),
)
_CHECKED = (
    *_OF,
    Query("version", "a version or a range; left out: any"),
    Query("channel", "pypi (default) or a conda channel"),
)
_WHICH = (
    Query("workspace", "those of a workspace, for its members; left out: those that I ask"),
    Query("review", "1: the pending ones about which I decide"),
)
_POLICY_OF = (Query("workspace", "its name; left out: the policy everywhere"),)

_JOBS = (
    Query("workspace", "those of a workspace, for its members; left out: my own"),
    Query("limit", "how many, at most 500; 100 if not said"),
)
_SWEEPS = (
    Query("workspace", "those of a workspace, for its members; left out: my own"),
    Query("limit", "how many, at most 50; 50 if not said"),
)
_LOG = (Query("attempt", "its number; left out: the last one"), Query("offset", "bytes of it that are known"))
_VERSIONS_OF = (
    Query("path", "of a notebook, below the workspace; left out: all"),
    Query("limit", "how many, at most 1000; 100 if not said"),
)

W, M, L, P = "/workspaces/{workspace}", "/workspaces/{workspace}/members", "/launches/{session_id}", "/plan/launches"
R, J, S = "/requests/{request_id}", "/jobs/{job_id}", "/sweeps/{sweep_id}"
E, C = W + "/environment", W + "/conda"
ROUTES: tuple[Route, ...] = (
    Route("GET", "/health", None, do.health, do.Health, "The service runs"),
    Route("GET", "/me", USE, do.me, Me, "Who I am to Maestro"),
    Route("GET", "/workspaces", USE, do.list_workspaces, WorkspaceList, "My workspaces, the personal one first",
          query=(*_ALL, *_ARCHIVED)),
    Route("POST", "/workspaces", MANAGE, do.create_workspace, WorkspaceView, "Create a workspace; I am its owner",
          WorkspaceSpec, statuses=(201,)),
    Route("GET", W, USE, do.view_workspace, WorkspaceView, "One workspace; `personal` is mine"),
    Route("PATCH", W, MANAGE, do.change_workspace, WorkspaceView, "Change what is named (owners)", WorkspaceChange),
    Route("DELETE", W, MANAGE, do.archive_workspace, None, "Archive it: it takes no launches (owners)",
          statuses=(204,)),
    Route("POST", W + "/restore", MANAGE, do.restore_workspace, WorkspaceView, "Open an archived one again (owners)"),
    Route("POST", W + "/purge", MANAGE, do.purge_workspace, PurgeReport,
          "Remove an archived one for good, after the retention time (owners); 202 while something is left; repeat it "
          "to see how far it is", statuses=(200, 202)),
    Route("POST", W + "/transfer", MANAGE, do.transfer_workspace, Member,
          "Make somebody else owner in my place (owners)", Transfer),
    Route("POST", W + "/experiments", MANAGE, do.link_experiment, WorkspaceView,
          "Link it to an MLflow experiment: runs go there when a launch names none (owners)", ExperimentLink),
    Route("GET", W + "/usage", USE, do.workspace_usage, WorkspaceUsage, "Its storage, its servers, hours this month",
          query=_MONTHS),
    Route("GET", M, USE, do.list_members, MemberList, "Its members"),
    Route("PUT", M, MANAGE, do.put_member, Member, "Add a member or change their role (owners)", MemberSpec,
          query=_NOW),
    Route("DELETE", M + "/{kind}/{name}", MANAGE, do.remove_member, None,
          "Remove a member (owners; anybody themselves); kind is `user` or `group`", statuses=(204,), query=_NOW),
    Route("GET", W + "/invitations", MANAGE, do.list_invitations, InvitationList, "Its open invitations (owners)"),
    Route("POST", W + "/invitations", MANAGE, do.invite, Invitation,
          "Invite somebody whom the Hub does not know yet (owners)", InvitationSpec, statuses=(201,)),
    Route("DELETE", W + "/invitations/{invitation_id}", MANAGE, do.withdraw_invitation, None,
          "Withdraw an invitation (owners)", statuses=(204,)),
    Route("GET", "/invitations", USE, do.my_invitations, InvitationList, "Invitations for me"),
    Route("POST", "/invitations/{invitation_id}/accept", MANAGE, do.accept_invitation, Member, "Become a member"),
    Route("DELETE", "/invitations/{invitation_id}", MANAGE, do.decline_invitation, None, "Decline", statuses=(204,)),
    Route("GET", E, USE, do.view_environment, EnvironmentView, "Its packages: one version of its environment",
          query=_VERSION),
    Route("POST", E, USE, do.change_environment, EnvironmentView,
          "Add and remove packages (editors): a new version, merged with what others changed", EnvironmentChange),
    Route("GET", E + "/history", USE, do.environment_history, EnvironmentHistory, "The versions of its environment"),
    Route("GET", E + "/diff", USE, do.environment_diff, EnvironmentDiff, "What is different between two versions",
          query=_VERSIONS),
    Route("POST", E + "/rollback", USE, do.roll_back_environment, EnvironmentView,
          "A new version with the content of an old one (editors)", Rollback, statuses=(201,)),
    Route("GET", E + "/build", USE, do.environment_build, EnvironmentBuild, "Notebook server: what it installs",
          query=_BUILD),
    Route("PUT", E + "/build", USE, do.keep_environment_build, EnvironmentBuild,
          "Notebook server: what it resolved for its Python and platform (editors); the first answer stays", Deposit,
          job=True),
    Route("GET", C, USE, do.view_conda, EnvironmentView, "Its conda packages: one version of its conda environment",
          query=_VERSION),
    Route("POST", C, USE, do.change_conda, EnvironmentView,
          "Add and remove conda packages (editors): a new version, merged with what others changed", CondaChange),
    Route("GET", C + "/history", USE, do.conda_history, EnvironmentHistory, "The versions of its conda environment"),
    Route("GET", C + "/diff", USE, do.conda_diff, EnvironmentDiff, "What is different between two of them",
          query=_VERSIONS),
    Route("POST", C + "/rollback", USE, do.roll_back_conda, EnvironmentView,
          "A new version with the content of an old one (editors)", Rollback, statuses=(201,)),
    Route("GET", C + "/build", USE, do.conda_build, CondaBuild, "Notebook server: what it solves and installs",
          query=(Query("target", "its platform, as conda calls it: linux-64"),)),
    Route("GET", W + "/limits", USE, do.view_limits, LimitList, "My limits there, what is in use, who set them"),
    Route("GET", "/quotas", ADMIN, do.list_quotas, QuotaList, "Every figure that is set, and who set it"),
    Route("GET", "/quotas/near", ADMIN, do.list_near, NearList, "Who has 80 % of a limit in use, or more"),
    Route("PUT", "/quotas/{limit}", ADMIN, do.put_quota, QuotaView,
          "Set a figure at runtime; it wins over `maestro.yaml`", QuotaSpec),
    Route("DELETE", "/quotas/{limit}", ADMIN, do.remove_quota, None, "Take it back: `maestro.yaml` counts again",
          query=_FIGURE_OF, statuses=(204,)),
    Route("POST", W + "/packages", USE, do.ask_package, PackageAnswer,
          "Ask for a package: `allowed`, or 202 and `requested` where it needs an approval; a blocked one is refused",
          PackageAsk, statuses=(200, 202)),
    Route("POST", W + "/packages/force", ADMIN, do.force_package, Forced,
          "Let one file in for 15 minutes, whatever the rules say; never known malware", ForceSpec),
    Route("POST", W + "/packages/clear-cache", USE, do.clear_package_cache, CacheCleared,
          "Have the index ask upstream anew what there is (editors)"),
    Route("GET", "/packages/{package}", USE, do.check_package, PackageAnswer, "What the policy says to a package",
          query=_CHECKED),
    Route("GET", "/requests", USE, do.list_requests, RequestList, "Requests for packages, the newest first",
          query=_WHICH),
    Route("GET", R, USE, do.view_request, RequestView, "One request; for a reviewer with what they need to decide"),
    Route("DELETE", R, USE, do.withdraw_request, None, "Ask no longer", statuses=(204,)),
    Route("POST", R + "/approve", REVIEW, do.approve_request, RequestView,
          "Allow it (reviewers); `{}`: its major version, in its workspace", Approval),
    Route("POST", R + "/deny", REVIEW, do.deny_request, RequestView, "Say no, and why (reviewers)", Denial),
    Route("GET", "/profiles", USE, do.list_profiles, ProfileList, "The profiles that are open to me", query=_OF),
    Route("GET", "/templates", USE, do.list_templates, TemplateList, "The notebook templates"),
    Route("GET", "/launches", USE, do.list_launches, LaunchList, "My servers that run or start", query=_ALL),
    Route("POST", "/launches", USE, do.start_launch, LaunchView,
          "Start a server; 202 while it still starts; `user` other than oneself is for admins", LaunchRequest,
          statuses=(201, 202)),
    Route("GET", L, USE, do.view_launch, LaunchView, "One launch"),
    Route("DELETE", L, USE, do.stop_launch, LaunchView, "Stop its server; 202 while it still stops",
          statuses=(200, 202)),
    Route("POST", L + "/scale", USE, do.scale_launch, LaunchView,
          "Give its server other cpu and memory while it runs; with `restart` by a restart where that cannot be: then "
          "the answer is the new launch, with 202 while it still starts", ScaleRequest, statuses=(200, 202)),
    Route("GET", L + "/usage", USE, do.launch_usage, LaunchUsage, "What it used, the oldest first", query=_HOURS),
    Route("POST", L + "/heartbeat", USE, do.heartbeat, Notices,
          "Notebook server: what it uses now; answers what its user is told", Heartbeat, job=True),
    Route("GET", L + "/notices", USE, do.wait_for_notices, Notices,
          "Notebook server: what its user is told, as soon as it changes", query=_WAIT),
    Route("GET", W + "/snapshots", USE, do.list_snapshots, SnapshotList,
          "The saved versions of its notebooks, the newest first", query=_VERSIONS_OF),
    Route("GET", W + "/snapshots/{address}", USE, do.view_snapshot, SnapshotContent,
          "One of them, without outputs; the address may be shortened"),
    Route("POST", L + "/snapshots", USE, do.take_snapshot, SnapshotTaken,
          "Notebook server: a notebook was saved with other sources than before", SnapshotPut, job=True),
    Route("POST", L + "/scan", USE, do.check_installed, ScanAnswer,
          "Notebook server: what the policy and the advisories say about what is installed", ScanQuestion, job=True),
    Route("POST", L + "/startup-scan", USE, do.check_image, ScanAnswer,
          "Notebook server: which packages its image may not contain", ScanQuestion, job=True),
    Route("POST", L + "/keep", USE, do.keep_launch, Notices, "Keep an idle server running"),
    Route("POST", W + "/jobs", USE, do.submit_job, JobView,
          "Queue a notebook or script to run without a browser, with its code as it is now", JobSpec, statuses=(201,)),
    Route("GET", "/jobs", USE, do.list_jobs, JobList, "Jobs, the newest first", query=(*_JOBS, *_ALL)),
    Route("GET", J, USE, do.view_job, JobView, "One job with its attempts, for the members of its workspace"),
    Route("POST", J + "/cancel", USE, do.cancel_job, JobView,
          "End it: at once while it waits, kindly while it runs (its submitter, owners)"),
    Route("DELETE", J + "/schedule", USE, do.end_job_schedule, JobView,
          "End the schedule of which it is a run; what runs goes on"),
    Route("GET", J + "/log", USE, do.read_job_log, LogChunk, "What an attempt wrote, while it runs too", query=_LOG),
    Route("GET", J + "/notebook", USE, do.read_job_output, OutputView,
          "The executed notebook of its last attempt, as far as it came"),
    Route("POST", W + "/sweeps", USE, do.submit_sweep, SweepView,
          "Start a sweep: a job with many sets of parameters", SweepSpec, statuses=(201,)),
    Route("GET", "/sweeps", USE, do.list_sweeps, SweepList, "Sweeps, the newest first", query=(*_SWEEPS, *_ALL)),
    Route("GET", S, USE, do.view_sweep, SweepView, "One sweep with its trials, for the members of its workspace"),
    Route("POST", S + "/cancel", USE, do.cancel_sweep, SweepView,
          "End it and the trials that wait or run: mine; owners and admins any"),
    Route("GET", J + "/work", USE, do.job_order, WorkOrder, "Job: what it is to run", job=True),
    Route("POST", J + "/progress", USE, do.job_progress, Orders, "Job: a sign of life; answers whether it is to end",
          Progress, job=True),
    Route("POST", J + "/log", USE, do.add_job_log, None, "Job: more of its log; known parts are not taken twice",
          LogPiece, statuses=(204,), job=True),
    Route("PUT", J + "/notebook", USE, do.put_job_output, None, "Job: its executed notebook so far", OutputPut,
          statuses=(204,), job=True, most=MAX_OUTPUT + 1024),
    Route("POST", J + "/done", USE, do.job_done, None, "Job: how it ended; the first word counts", JobDone,
          statuses=(204,), job=True),
    Route("POST", "/authorize/jobs", AUTHORIZE, do.job_token_owner, JobTokenOwner, "MLflow: whose job's token this is",
          JobTokenQuestion),
    Route("POST", P, PLAN, do.plan_launch, LaunchPlan, "Spawner: admit a launch, or refuse it", PlanRequest,
          statuses=(201,)),
    Route("POST", P + "/{launch_id}/confirm", PLAN, do.confirm_launch, do.Done, "Spawner: the server is up"),
    Route("POST", P + "/{launch_id}/release", PLAN, do.release_launch, do.Done, "Spawner: it is over, or never was",
          ReleaseRequest),
    Route("POST", "/plan/form", PLAN, do.plan_form, FormView, "Spawner: what the form shows", FormRequest),
    Route("POST", "/authorize/tracking", AUTHORIZE, do.authorize_tracking, TrackingView,
          "MLflow: which workspaces a request may touch", TrackingRequest),
    Route("POST", "/authorize/ended", AUTHORIZE, do.ended_launches, EndedLaunches,
          "MLflow: which launches of active runs have ended", EndedQuestion),
    Route("POST", "/plan/idle", CULL, do.idle_server, IdleAnswer, "Idle culler: may this server be stopped now?",
          IdleQuestion),
    Route("GET", "/authorize/purged", AUTHORIZE, do.purged_tracking, PurgedTracking,
          "MLflow: the workspaces whose data is to go"),
    Route("POST", "/authorize/purged", AUTHORIZE, do.tracking_removed, None, "MLflow: what was removed of one",
          TrackingRemoved, statuses=(204,)),
    Route("GET", "/policy/packages", POLICY, do.package_policy, CompiledPolicy,
          "Index: the package policy of a workspace", query=_POLICY_OF),
    Route("GET", "/policy/malware", POLICY, do.known_malware, Malware, "Index: what is known to be malware"),
    Route("GET", "/advisories", USE, do.advisory_status, AdvisoryStatus,
          "How many advisories about packages are known, and how old they are"),
    Route("POST", "/advisories", ADMIN, do.take_advisories, AdvisoryStatus,
          "Bring in a part of an import; after the `last` one, only what the import named is known", AdvisoryBatch),
    Route("GET", "/policy/requests", POLICY, do.wanted_facts, WantedList, "Index: requests to look into"),
    Route("GET", "/policy/names", POLICY, do.asked_names, NameList, "Index: names that somebody wants to know about",
          query=(Query("wait", "seconds to wait for one, at most 30"),)),
    Route("POST", "/policy/names", POLICY, do.tell_name, None, "Index: whether there is such a package", NameAnswer,
          statuses=(204,)),
    Route("POST", "/policy/denials", POLICY, do.keep_denials, None, "Index: what it refused, to be kept as events",
          DenialReport, statuses=(204,)),
    Route("POST", "/policy/requests", POLICY, do.keep_facts, None, "Index: what it found out about one", FactsReport,
          statuses=(204,)),
    Route("POST", "/policy/tokens", POLICY, do.token_owner, TokenOwner, "Index: whose token this is", TokenQuestion),
)  # fmt: skip


@cache
def openapi() -> dict[str, Any]:
    """The OpenAPI document of :data:`ROUTES`; not to be changed."""
    return document(ROUTES)


def api_rules(authority: Authority, identity: Identity) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Tornado's rules of the API: all of it in every place where it is served."""
    settings = authority.settings
    places = {settings.prefix + API: True}  # where cookies count
    places.setdefault(f"{settings.base_url}{API}", False)
    places.setdefault(f"/{API}", False)
    description = openapi()
    return [
        rule for base, cookies in places.items() for rule in _rules(base, cookies, authority, identity, description)
    ]


def _rules(
    base: str, cookies: bool, authority: Authority, identity: Identity, description: dict[str, Any]
) -> Iterable[tuple[str, type[RequestHandler], dict[str, Any]]]:
    shared = {"authority": authority, "identity": identity, "cookies": cookies}
    yield f"{re.escape(base)}/openapi\\.json", OpenApiHandler, {"description": description, "base": base}
    paths: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = route
    for path, routes in paths.items():
        names = tuple(re.findall(r"{(\w+)}", path))
        pattern = re.escape(base) + re.sub(r"{\w+}", "([^/]+)", path)
        yield pattern, ApiHandler, {**shared, "routes": routes, "names": names}
    yield f"{re.escape(base)}(?:/.*)?", UnknownPath, {**shared, "routes": {}, "names": ()}
