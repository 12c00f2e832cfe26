"""What the pages ask of the domain: one method a thing that a person can do. The rules are behind it, never here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from maestro_core.launches import LaunchView
from maestro_core.workspaces import LimitView, Member, MemberSpec, WorkspaceChange, WorkspaceSpec, WorkspaceView

from .views import PolicyStatus


class Desk(Protocol):
    """The domain as one signed-in person may use it. Every method may raise ``MaestroError``."""

    async def workspaces(self) -> Sequence[WorkspaceView]:
        """Mine, the personal one included."""

    async def workspace(self, name: str) -> WorkspaceView:
        """One of mine (an admin: any); ``unknown_workspace`` otherwise."""

    async def members(self, name: str) -> Sequence[Member]:
        """Its members."""

    async def limits(self, name: str) -> Sequence[LimitView]:
        """The limits that hold for me there."""

    async def launches(self) -> Sequence[LaunchView]:
        """My servers that run or start."""

    async def create(self, spec: WorkspaceSpec) -> WorkspaceView:
        """A new workspace of which I am owner."""

    async def change(self, name: str, change: WorkspaceChange) -> None:
        """Another description."""

    async def set_member(self, name: str, member: MemberSpec) -> None:
        """Add a member, or change their role."""

    async def remove_member(self, name: str, kind: Literal["user", "group"], member: str) -> None:
        """Remove a member."""

    async def archive(self, name: str) -> None:
        """Archive a workspace."""

    async def stop(self, session_id: str) -> LaunchView:
        """Stop one of my servers (an admin: anybody's)."""

    async def all_workspaces(self) -> Sequence[WorkspaceView]:
        """Every workspace (admins)."""

    async def all_launches(self) -> Sequence[LaunchView]:
        """Everybody's servers that run or start (admins)."""

    async def policy(self) -> PolicyStatus:
        """What is in force of ``maestro.yaml`` (admins)."""
