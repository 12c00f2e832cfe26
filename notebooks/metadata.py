"""What is kept about a workspace, in one document: put together from the API's own answers."""

from __future__ import annotations

from typing import Any

from maestro_core.environments import EnvironmentHistory, EnvironmentView
from maestro_core.experiments import default_experiment
from maestro_core.models import read_model
from maestro_core.snapshots import SnapshotView
from maestro_core.usage import WorkspaceUsage
from maestro_core.workspaces import Member, MemberList, WorkspaceView

from .api import Api, segment
from .versions import VersionManager

#: versions of notebooks that are listed, the newest: what the API gives at once
_VERSIONS = 1000
#: about the person who asks, not about the workspace
_PERSONAL = {"settings", "servers", "launches", "role", "members", "purging"}


def workspace_metadata(api: Api, workspace_id: str | None = None) -> dict[str, Any]:
    """The workspace, its experiment, members, settings, environment, usage and versions of notebooks, as JSON.

    Args:
        workspace_id: name, id or ``personal``; None: the personal one, inside a notebook server its own.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    answer = api.get(f"/workspaces/{segment(workspace_id or api.settings.workspace)}")
    view = read_model(WorkspaceView, answer, "service_unavailable")
    place = f"/workspaces/{segment(view.name)}"
    members = read_model(MemberList, api.get(f"{place}/members"), "service_unavailable").members
    environment = read_model(EnvironmentView, api.get(f"{place}/environment"), "service_unavailable")
    history = read_model(EnvironmentHistory, api.get(f"{place}/environment/history"), "service_unavailable")
    usage = read_model(WorkspaceUsage, api.get(f"{place}/usage"), "service_unavailable")
    manager = VersionManager(api=api)
    versions = manager.versions(view.name, limit=_VERSIONS)
    runs = manager.runs(view.name)
    return {
        "workspace": {
            **view.model_dump(mode="json", exclude=_PERSONAL),
            "modified_at": _modified(view, members, history, versions),
        },
        "experiment": view.settings.experiment or default_experiment(view.name),
        "members": [one.model_dump(mode="json") for one in members],
        "settings": view.settings.stored(),
        "environment": environment.model_dump(mode="json", exclude={"workspace"}),
        "environment_history": [one.model_dump(mode="json") for one in history.versions],
        "usage": usage.model_dump(mode="json", exclude={"workspace"}),
        "notebooks": [{**one.model_dump(mode="json"), "runs": runs.get(one.address, [])} for one in versions],
    }


def _modified(
    view: WorkspaceView, members: tuple[Member, ...], history: EnvironmentHistory, versions: list[SnapshotView]
) -> str:
    """When a member, the environment or a notebook last changed (the API keeps no other moments)."""
    moments = [view.created_at, *(one.added_at for one in members), *(one.saved_at for one in versions)]
    moments += [one.at for one in history.versions if one.at is not None]
    return max(moments).isoformat().replace("+00:00", "Z")  # as the other moments are written
