"""What the pages ask of the domain: one method a thing that a person can do. The rules are behind it, never here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from maestro_core.environments import EnvironmentView
from maestro_core.errors import MaestroError
from maestro_core.figures import NearView, QuotaSpec, QuotaView
from maestro_core.invitations import Invitation, InvitationSpec
from maestro_core.launches import LaunchView, ScaleRequest
from maestro_core.lifecycle import PurgeReport
from maestro_core.snapshots import SnapshotContent, SnapshotView
from maestro_core.usage import UsagePoint, WorkspaceUsage
from maestro_core.workspaces import (
    LimitView,
    Member,
    MemberSpec,
    Transfer,
    WorkspaceChange,
    WorkspaceSpec,
    WorkspaceView,
)

from ..authority import Authority
from ..domain import (
    environments,
    invitations,
    launches,
    launching,
    lifecycle,
    limits,
    members,
    near,
    ownership,
    quotas,
    scaling,
    snapshots,
    usage,
    workspaces,
)
from ..identity import Caller
from .job_desk import JobDesk
from .request_desk import RequestDesk


@dataclass(frozen=True)
class PolicyStatus:
    """What is in force of ``maestro.yaml`` (None: nothing), and what is wrong with the file now (None: nothing)."""

    source: str
    revision: str | None
    problem: str | None


class Desk:
    """The domain as one signed-in person may use it. Every method may raise ``MaestroError``.

    Attributes:
        requests: what they ask for and review of packages. jobs: what runs without a browser.
    """

    def __init__(self, authority: Authority, caller: Caller) -> None:
        self._authority = authority
        self._caller = caller
        self.requests = RequestDesk(authority, caller)
        self.jobs = JobDesk(authority, caller)

    async def workspaces(self, *, everything: bool = False) -> Sequence[WorkspaceView]:
        """Mine, the personal one included; for an admin with ``everything`` all."""
        return (await workspaces.list_workspaces(self._authority, self._caller, everything=everything)).workspaces

    async def archived(self, *, everything: bool = False) -> Sequence[WorkspaceView]:
        """The archived ones of which I am owner; for an admin with ``everything`` all."""
        found = await workspaces.list_workspaces(self._authority, self._caller, everything=everything, archived=True)
        return found.workspaces

    async def workspace(self, name: str) -> WorkspaceView:
        """One of mine (an admin: any); ``unknown_workspace`` otherwise."""
        return await workspaces.view_workspace(self._authority, self._caller, name)

    async def members(self, name: str) -> Sequence[Member]:
        """Its members."""
        return (await members.list_members(self._authority, self._caller, name)).members

    async def environment(self, name: str) -> EnvironmentView:
        """The packages of its servers."""
        return await environments.view(self._authority, self._caller, name, None)

    async def limits(self, name: str) -> Sequence[LimitView]:
        """The limits that hold for me there; ``invalid_policy`` while none is in force."""
        return (await limits.view_limits(self._authority, self._caller, name)).limits

    async def launches(self, *, everything: bool = False) -> Sequence[LaunchView]:
        """My servers that run or start; for an admin with ``everything`` everybody's."""
        return (await launches.list_launches(self._authority, self._caller, everything=everything)).launches

    async def create(self, spec: WorkspaceSpec) -> WorkspaceView:
        """A new workspace of which I am owner."""
        return await workspaces.create_workspace(self._authority, self._caller, spec)

    async def change(self, name: str, change: WorkspaceChange) -> None:
        """Another description."""
        await workspaces.change_workspace(self._authority, self._caller, name, change)

    async def put_member(self, name: str, member: MemberSpec) -> Member:
        """Add a member, or change their role; returned under the Hub's own name for them."""
        return await members.put_member(self._authority, self._caller, name, member)

    async def remove_member(self, name: str, kind: Literal["user", "group"], member: str) -> None:
        """Remove a member; anybody may leave."""
        await members.remove_member(self._authority, self._caller, name, kind, member)

    async def archive(self, name: str) -> None:
        """Archive a workspace."""
        await lifecycle.archive_workspace(self._authority, self._caller, name)

    async def restore(self, name: str) -> None:
        """Open an archived workspace again."""
        await lifecycle.restore_workspace(self._authority, self._caller, name)

    async def purge(self, name: str) -> PurgeReport:
        """Remove an archived workspace for good."""
        return await lifecycle.purge_workspace(self._authority, self._caller, name)

    async def purged(self, workspace_id: str) -> PurgeReport:
        """How far a purge is."""
        return await lifecycle.view_purge(self._authority, self._caller, workspace_id)

    async def left_behind(self) -> Collection[str]:
        """Personal workspaces of deleted users (admins)."""
        return await lifecycle.left_behind(self._authority, self._caller)

    async def transfer(self, name: str, to: Transfer) -> Member:
        """Make somebody else owner in my place."""
        return await ownership.transfer(self._authority, self._caller, name, to)

    async def usage(self, name: str) -> WorkspaceUsage:
        """What a workspace uses, with its servers."""
        return await usage.workspace_usage(self._authority, self._caller, name)

    async def samples(self) -> Mapping[str, UsagePoint]:
        """The last sample of everything that runs, by session id (admins)."""
        return await usage.latest_samples(self._authority, self._caller)

    async def invitations(self, name: str | None = None) -> Sequence[Invitation]:
        """Those for me; with a workspace those that its owners made."""
        if name is None:
            return (await invitations.list_mine(self._authority, self._caller)).invitations
        return (await invitations.list_of_workspace(self._authority, self._caller, name)).invitations

    async def invite(self, name: str, spec: InvitationSpec) -> Invitation:
        """Invite somebody whom the Hub does not know yet."""
        return await invitations.invite(self._authority, self._caller, name, spec)

    async def withdraw(self, name: str, invitation_id: str) -> None:
        """Take an invitation back."""
        await invitations.withdraw(self._authority, self._caller, name, invitation_id)

    async def accept(self, invitation_id: str) -> Member:
        """Become a member."""
        return await invitations.accept(self._authority, self._caller, invitation_id)

    async def decline(self, invitation_id: str) -> None:
        """Say no."""
        await invitations.decline(self._authority, self._caller, invitation_id)

    async def stop(self, session_id: str) -> LaunchView:
        """Stop one of my servers (an admin: anybody's)."""
        return await launching.stop_launch(self._authority, self._caller, session_id)

    async def scale(self, session_id: str, asked: ScaleRequest) -> LaunchView:
        """Give one of my servers (an admin: anybody's) other amounts."""
        return await scaling.scale_launch(self._authority, self._caller, session_id, asked)

    async def versions(self, name: str, path: str | None, limit: int) -> Sequence[SnapshotView]:
        """The saved versions of its notebooks (of one), the newest first."""
        return (await snapshots.versions(self._authority, self._caller, name, path, limit)).snapshots

    async def version(self, name: str, address: str) -> tuple[SnapshotContent, Sequence[SnapshotView]]:
        """A saved version, and when it was saved as what, the newest first."""
        content = await snapshots.content(self._authority, self._caller, name, address)
        return content, await snapshots.saves(self._authority, self._caller, name, content.address)

    async def quotas(self) -> Sequence[QuotaView]:
        """Every figure that is set (admins)."""
        return (await quotas.list_quotas(self._authority, self._caller)).quotas

    async def near(self) -> Sequence[NearView]:
        """Who is near a limit (admins)."""
        return (await near.list_near(self._authority, self._caller)).near

    async def set_quota(self, limit: str, spec: QuotaSpec) -> QuotaView:
        """Set a figure at runtime (admins)."""
        return await quotas.put_quota(self._authority, self._caller, limit, spec)

    async def remove_quota(self, limit: str, level: str, name: str) -> None:
        """Take one back (admins)."""
        await quotas.remove_quota(self._authority, self._caller, limit, level, name)

    def policy(self) -> PolicyStatus:
        """What is in force of ``maestro.yaml``."""
        file, name = self._authority.policy, self._authority.settings.policy.name
        problem = None if file.problem is None else file.problem.message
        try:
            return PolicyStatus(name, file.current.revision, problem)
        except MaestroError as error:
            return PolicyStatus(name, None, error.message)
