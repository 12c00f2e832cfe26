"""Create workspaces, look after their members."""

from __future__ import annotations

from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.roles import parse_role

from .api import Api, segment
from .models import Workspace, WorkspaceMember


class WorkspaceManager:
    """Looks after workspaces through the service.

    Args:
        url: the Hub's address; None: environment or ``maestro login``.
        token: a Hub token; None: likewise.

    Raises:
        MaestroError: ``not_signed_in`` when there is no token to be found.
    """

    def __init__(self, url: str | None = None, token: str | None = None, api: Api | None = None) -> None:
        self._api = api or Api(url, token)

    def list_workspaces(self) -> list[Workspace]:
        """The workspaces that one belongs to, the personal one first."""
        return [Workspace.from_api(item) for item in self._api.get("/workspaces")["workspaces"]]

    def get_workspace(self, workspace_id: str | None = None) -> Workspace:
        """One workspace, by name, id or ``personal``; None: the personal one, inside a notebook server its own.

        Raises:
            MaestroError: ``unknown_workspace``.
        """
        name = workspace_id or self._api.settings.workspace
        return Workspace.from_api(self._api.get(f"/workspaces/{segment(name)}"))

    def create_workspace(self, name: str, description: str = "", owner: str | None = None) -> Workspace:
        """Create a workspace; its creator is an owner.

        Args:
            name: a letter first, then a-z, 0-9 and single hyphens, at most 30.
            description: a sentence for the card.
            owner: must be oneself, when given.

        Raises:
            MaestroError: ``invalid_name``, ``name_taken``, or ``forbidden`` for another owner.
        """
        if owner is not None:
            own = self._api.get("/me")["user"]
            if owner.lower() != own.lower():
                raise MaestroError(
                    "forbidden",
                    f"You are signed in as {own} and own what you create; add {owner} as an owner afterwards.",
                )
        return Workspace.from_api(self._api.post("/workspaces", {"name": name, "description": description}))

    def members(self, workspace_id: str) -> list[WorkspaceMember]:
        """The members: users and Hub groups."""
        listed = self._api.get(f"/workspaces/{segment(workspace_id)}/members")["members"]
        return [WorkspaceMember.from_api(item) for item in listed]

    def add_member(
        self, workspace_id: str, user_email: str | None = None, role: str = "editor", group: str | None = None
    ) -> WorkspaceMember:
        """Add a user or a Hub group, or change their role.

        Raises:
            MaestroError: ``unknown_user``, ``unknown_group``, ``forbidden`` (owners manage members), ``conflict`` (the
                last owner stays).
        """
        body: dict[str, Any] = {"role": parse_role(role).value}
        body.update({key: value for key, value in (("user", user_email), ("group", group)) if value is not None})
        return WorkspaceMember.from_api(self._api.put(f"/workspaces/{segment(workspace_id)}/members", body))

    def remove_member(self, workspace_id: str, user_email: str | None = None, group: str | None = None) -> None:
        """Remove a user or a Hub group.

        Raises:
            MaestroError: ``unknown_member``, ``forbidden``, ``conflict``.
        """
        if (user_email is None) == (group is None):
            raise MaestroError("invalid_request", "A member is one user or one group; name exactly one of them.")
        kind, name = ("user", user_email) if user_email is not None else ("group", group)
        self._api.delete(f"/workspaces/{segment(workspace_id)}/members/{kind}/{segment(str(name))}")

    def limits(self, workspace_id: str | None = None) -> dict[str, Any]:
        """Each limit with its value, what is in use, and the level that set it."""
        name = workspace_id or self._api.settings.workspace
        return dict(self._api.get(f"/workspaces/{segment(name)}/limits"))
