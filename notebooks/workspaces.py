"""Create workspaces, look after their members."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from maestro_core.errors import MaestroError
from maestro_core.invitations import Invitation, InvitationList
from maestro_core.lifecycle import PurgeReport
from maestro_core.models import read_model
from maestro_core.roles import parse_role
from maestro_core.usage import WorkspaceUsage
from maestro_core.workspaces import Transfer, WorkspaceSpec, WorkspaceView

from .api import Api, segment
from .models import Workspace, WorkspaceMember

#: seconds between two looks at a purge
_POLL = 2.0
MAX_FILE_BYTES = 256 * 1024


def read_workspace_file(path: str | Path, name: str) -> dict[str, Any]:
    """A workspace's YAML, checked: what :meth:`WorkspaceManager.create_workspace` takes as ``settings``.

    Args:
        path: a file with ``resources``, ``environment``, ``packages``, ``security`` or ``package_management``.
        name: the workspace's; it comes before one that stands in the file.

    Raises:
        MaestroError: ``invalid_request`` for a file that cannot be read; what is wrong in it, by its name.
    """
    try:
        with Path(path).open("rb") as file:
            data = yaml.safe_load(file.read(MAX_FILE_BYTES + 1)[:MAX_FILE_BYTES].decode("utf-8"))
    except OSError as error:
        raise MaestroError("invalid_request", f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise MaestroError("invalid_request", f"{path} is not YAML{where}; mend it and try again.") from None
    if not isinstance(data, Mapping):
        raise MaestroError("invalid_request", f"{path} holds no sections; it starts with a key like 'resources:'.")
    spec = read_model(WorkspaceSpec, {**data, "name": name})
    return spec.model_dump(mode="json", exclude_none=True, exclude_unset=True, exclude={"name"})


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

    def create_workspace(
        self,
        name: str,
        description: str = "",
        owner: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Workspace:
        """Create a workspace; its creator is an owner.

        Args:
            name: a letter first, then a-z, 0-9 and single hyphens, at most 30.
            description: a sentence for the card.
            owner: must be oneself, when given.
            settings: resources, environment, packages, security, experiment, members, template: as in a
                workspace's YAML (:func:`read_workspace_file`).

        Raises:
            MaestroError: ``invalid_name``, ``name_taken``, or ``forbidden`` for another owner; what is wrong with the
                settings, by its name.
        """
        if owner is not None:
            own = self._api.get("/me")["user"]
            if owner.lower() != own.lower():
                raise MaestroError(
                    "forbidden",
                    f"You are signed in as {own} and own what you create; add {owner} as an owner afterwards.",
                )
        body = {**(settings or {}), "name": name}
        if description or "description" not in body:
            body["description"] = description
        return Workspace.from_api(self._api.post("/workspaces", body))

    def change_workspace(self, workspace_id: str, **sections: Any) -> Workspace:
        """Replace sections of a workspace: ``description``, ``template``, ``resources``, ``environment``, ``packages``,
        ``security``, ``experiment``, ``capture``; None empties one. Counts for the next launch.

        Raises:
            MaestroError: ``forbidden``, ``invalid_request``, ``profile_closed``, ``quota_exceeded``.
        """
        return Workspace.from_api(self._api.patch(f"/workspaces/{segment(workspace_id)}", sections))

    def link_experiment(self, workspace_id: str, experiment: str) -> Workspace:
        """Link a workspace to an MLflow experiment: runs go there when a launch names none. Counts for the next launch.

        Args:
            experiment: its name; it is made with its first run, if it is not there.

        Raises:
            MaestroError: ``forbidden`` (owners link), ``invalid_name``, ``invalid_request``.
        """
        place = f"/workspaces/{segment(workspace_id)}/experiments"
        return Workspace.from_api(self._api.post(place, {"experiment_id": experiment}))

    def capture(self, workspace_id: str, mode: str | None = None) -> str:
        """Whether what runs in its notebooks becomes runs; with a mode, set it (owners). Counts for the next launch.

        Args:
            mode: ``off``, ``on-request`` (somebody asks for it in a notebook) or ``always``.

        Raises:
            MaestroError: ``unknown_workspace``; ``forbidden``, ``invalid_request`` for a mode.
        """
        place = f"/workspaces/{segment(workspace_id)}"
        answer = self._api.get(place) if mode is None else self._api.patch(place, {"capture": mode})
        return read_model(WorkspaceView, answer, "internal").settings.captures

    def archived(self) -> list[Workspace]:
        """The archived workspaces of which one is owner."""
        return [Workspace.from_api(item) for item in self._api.get("/workspaces", archived="1")["workspaces"]]

    def archive(self, workspace_id: str) -> None:
        """Archive a workspace: it takes no launches; files and runs are kept.

        Raises:
            MaestroError: ``conflict`` while servers run in it, ``forbidden``.
        """
        self._api.delete(f"/workspaces/{segment(workspace_id)}")

    def restore(self, workspace_id: str) -> Workspace:
        """Open an archived workspace again.

        Raises:
            MaestroError: ``conflict`` once its purge has begun, ``forbidden``.
        """
        return Workspace.from_api(self._api.post(f"/workspaces/{segment(workspace_id)}/restore", {}))

    def purge(self, workspace_id: str, wait: bool = True, timeout: float = 120.0) -> PurgeReport:
        """Remove an archived workspace for good, after the retention time.

        Args:
            wait: until nothing is left; else the report may say what still is.
            timeout: seconds to wait; the purge goes on by itself after that.

        Raises:
            MaestroError: ``conflict`` before it is archived, and before its time; ``forbidden``.
        """
        end = time.monotonic() + timeout
        while True:
            found = self._api.post(f"/workspaces/{segment(workspace_id)}/purge", {})
            report = read_model(PurgeReport, found, "internal")
            if report.state == "purged" or not wait or time.monotonic() > end:
                return report
            workspace_id = report.workspace_id  # its name is free when it is done
            time.sleep(_POLL)

    def transfer(self, workspace_id: str, user_email: str | None = None, group: str | None = None) -> WorkspaceMember:
        """Make somebody else owner in one's own place; oneself becomes an editor.

        Raises:
            MaestroError: ``unknown_user``, ``unknown_group``, ``forbidden``; ``invalid_request`` unless exactly one is
                named.
        """
        named = {key: value for key, value in (("user", user_email), ("group", group)) if value is not None}
        body = read_model(Transfer, named).model_dump(exclude_unset=True)
        return WorkspaceMember.from_api(self._api.post(f"/workspaces/{segment(workspace_id)}/transfer", body))

    def usage(self, workspace_id: str | None = None) -> WorkspaceUsage:
        """What a workspace uses: storage, servers with their last sample, hours of this month.

        Raises:
            MaestroError: ``unknown_workspace``.
        """
        place = f"/workspaces/{segment(workspace_id or self._api.settings.workspace)}/usage"
        return read_model(WorkspaceUsage, self._api.get(place), "internal")

    def invite(self, workspace_id: str, user_email: str, role: str = "editor") -> Invitation:
        """Invite somebody whom the Hub does not know yet; they accept it after signing up.

        Raises:
            MaestroError: ``conflict`` when the Hub knows them (add them), ``forbidden``.
        """
        body = {"user": user_email, "role": parse_role(role).value}
        found = self._api.post(f"/workspaces/{segment(workspace_id)}/invitations", body)
        return read_model(Invitation, found, "internal")

    def invitations(self, workspace_id: str | None = None) -> list[Invitation]:
        """The invitations for oneself; with a workspace those that its owners made."""
        place = "/invitations" if workspace_id is None else f"/workspaces/{segment(workspace_id)}/invitations"
        return list(read_model(InvitationList, self._api.get(place), "internal").invitations)

    def accept(self, invitation_id: str) -> WorkspaceMember:
        """Accept an invitation.

        Raises:
            MaestroError: ``unknown_invitation``.
        """
        return WorkspaceMember.from_api(self._api.post(f"/invitations/{segment(invitation_id)}/accept", {}))

    def decline(self, invitation_id: str, workspace_id: str | None = None) -> None:
        """Decline an invitation; with a workspace, withdraw one that its owners made.

        Raises:
            MaestroError: ``unknown_invitation``.
        """
        place = "" if workspace_id is None else f"/workspaces/{segment(workspace_id)}"
        self._api.delete(f"{place}/invitations/{segment(invitation_id)}")

    def members(self, workspace_id: str) -> list[WorkspaceMember]:
        """The members: users and Hub groups."""
        listed = self._api.get(f"/workspaces/{segment(workspace_id)}/members")["members"]
        return [WorkspaceMember.from_api(item) for item in listed]

    def add_member(
        self,
        workspace_id: str,
        user_email: str | None = None,
        role: str = "editor",
        group: str | None = None,
        at_once: bool = False,
    ) -> WorkspaceMember:
        """Add a user or a Hub group, or change their role.

        Args:
            at_once: servers that may not go on with the new role end now, not after the grace time.

        Raises:
            MaestroError: ``unknown_user``, ``unknown_group``, ``forbidden`` (owners manage members), ``conflict`` (the
                last owner stays).
        """
        body: dict[str, Any] = {"role": parse_role(role).value}
        body.update({key: value for key, value in (("user", user_email), ("group", group)) if value is not None})
        place = f"/workspaces/{segment(workspace_id)}/members{'?now=1' if at_once else ''}"
        return WorkspaceMember.from_api(self._api.put(place, body))

    def remove_member(
        self, workspace_id: str, user_email: str | None = None, group: str | None = None, at_once: bool = False
    ) -> None:
        """Remove a user or a Hub group.

        Args:
            at_once: their servers here end now, not after the grace time.

        Raises:
            MaestroError: ``unknown_member``, ``forbidden``, ``conflict``.
        """
        if (user_email is None) == (group is None):
            raise MaestroError("invalid_request", "A member is one user or one group; name exactly one of them.")
        kind, name = ("user", user_email) if user_email is not None else ("group", group)
        place = f"/workspaces/{segment(workspace_id)}/members/{kind}/{segment(str(name))}"
        self._api.delete(place + ("?now=1" if at_once else ""))

    def limits(self, workspace_id: str | None = None) -> dict[str, Any]:
        """Each limit with its value, what is in use, and the level that set it."""
        name = workspace_id or self._api.settings.workspace
        return dict(self._api.get(f"/workspaces/{segment(name)}/limits"))
