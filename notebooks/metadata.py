"""What is kept about a workspace, in one document: put together from the API's own answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from maestro_core.environments import EnvironmentHistory, EnvironmentView
from maestro_core.experiments import TAG_DIRTY, TAG_NOTEBOOK, TAG_REASON, TAG_SNAPSHOT, default_experiment
from maestro_core.models import read_model
from maestro_core.snapshots import SnapshotView
from maestro_core.usage import WorkspaceUsage
from maestro_core.workspaces import Member, MemberList, WorkspaceView

from .api import Api, segment
from .versions import VersionManager

#: versions of notebooks that are listed, the newest: what the API gives at once
_VERSIONS = 1000
#: runs of notebooks that are listed, the newest
_RUNS = 1000
#: months before this one whose hours are told
_MONTHS = 24
#: about the person who asks, not about the workspace
_PERSONAL = {"settings", "servers", "launches", "role", "members", "purging"}


def workspace_metadata(api: Api, workspace_id: str | None = None) -> dict[str, Any]:
    """What is kept about a workspace, as JSON.

    Its dates, experiments with their ids, members, settings, packages version by version, hours month by month, the
    versions of its notebooks, and what notebooks ran.

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
    usage = read_model(WorkspaceUsage, api.get(f"{place}/usage", months=_MONTHS), "service_unavailable")
    versions = VersionManager(api=api).versions(view.name, limit=_VERSIONS)
    runs = [dict(_run(one)) for one in api.tracked(view.name, f"tags.`{TAG_NOTEBOOK}` != ''", _RUNS)]
    of_version: dict[str, list[str]] = {}
    for run in runs:
        of_version.setdefault(run["version"] or "", []).append(run["name"] or run["run_id"])
    return {
        "workspace": {
            **view.model_dump(mode="json", exclude=_PERSONAL),
            "modified_at": _modified(view, members, history, versions),
        },
        "experiment": experiment_of(view),
        "experiments": _experiments(api, view),
        "members": [one.model_dump(mode="json") for one in members],
        "settings": view.settings.stored(),
        "environment": environment.model_dump(mode="json", exclude={"workspace"}),
        "environment_history": [one.model_dump(mode="json") for one in history.versions],
        "usage": usage.model_dump(mode="json", exclude={"workspace"}),
        "notebooks": [{**one.model_dump(mode="json"), "runs": of_version.get(one.address, [])} for one in versions],
        "runs": runs,
    }


def experiment_of(view: WorkspaceView) -> str:
    """The experiment of a workspace's runs: the linked one, else the one of its name."""
    return view.settings.experiment or default_experiment(view.name)


def _experiments(api: Api, view: WorkspaceView) -> list[dict[str, Any]]:
    """All of the workspace's; the linked one first, without an id before its first run."""
    ids = {str(one.get("name")): str(one["experiment_id"]) for one in api.experiments(view.name)}
    linked = experiment_of(view)
    found = [{"name": linked, "experiment_id": ids.pop(linked, None), "linked": True}]
    return found + [{"name": name, "experiment_id": ids[name], "linked": False} for name in sorted(ids)]


def _run(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a notebook ran: which version of it, by whom, when, and how it ended."""
    info, tags = found.get("info", {}), {one["key"]: one["value"] for one in found.get("data", {}).get("tags", [])}
    for name, key in (("run_id", "run_id"), ("name", "run_name"), ("experiment_id", "experiment_id")):
        yield name, info.get(key)
    yield from (("notebook", tags.get(TAG_NOTEBOOK)), ("version", tags.get(TAG_SNAPSHOT)))
    yield "edited", tags.get(TAG_DIRTY) == "true"
    yield from (("user", info.get("user_id")), ("status", info.get("status")), ("reason", tags.get(TAG_REASON)))
    yield from ((name, _moment(info.get(key))) for name, key in (("began_at", "start_time"), ("ended_at", "end_time")))


def _moment(milliseconds: int | None) -> str | None:
    return None if not milliseconds else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()[:19] + "Z"


def _modified(
    view: WorkspaceView, members: tuple[Member, ...], history: EnvironmentHistory, versions: list[SnapshotView]
) -> str:
    """When a member, the environment or a notebook last changed (the API keeps no other moments)."""
    moments = [view.created_at, *(one.added_at for one in members), *(one.saved_at for one in versions)]
    moments += [one.at for one in history.versions if one.at is not None]
    return max(moments).isoformat().replace("+00:00", "Z")  # as the other moments are written
