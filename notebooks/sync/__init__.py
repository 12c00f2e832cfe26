"""A workspace and its MLflow experiment, each in the other: ``maestro sync``.

``outgoing`` writes what is kept about a workspace into a run of the experiment, ``incoming`` writes the experiment's
runs into the workspace's folder ``experiments/`` (``tree``). Both run inside the workspace: in a terminal of one of its
servers, or as a job; never in a service.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.roles import may
from maestro_core.workspaces import WorkspaceView

from ..api import Api, segment
from ..metadata import experiment_of, workspace_metadata
from . import incoming, outgoing
from .tracking import connected, experiment_id
from .tree import Tree

__all__ = ["SyncReport", "is_inside", "sync_workspace"]


@dataclass(frozen=True)
class SyncReport:
    """What a sync did.

    Attributes:
        experiment: its name.
        run_id: the run that holds what is kept about the workspace, or None where that was not asked for.
        stored: whether that was something new.
        folder: where the experiment's runs lie, below the workspace; None where that was not asked for.
        fetched: whether they are others than before.
    """

    workspace: str
    experiment: str
    run_id: str | None = None
    stored: bool = False
    folder: str | None = None
    fetched: bool = False


def is_inside(api: Api, workspace_id: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this program runs in a notebook server or a job of that workspace.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    return _inside(_view(api, workspace_id), environment)


def _inside(view: WorkspaceView, environment: Mapping[str, str]) -> bool:
    return bool(environment.get("MAESTRO_LAUNCH_ID")) and environment.get("MAESTRO_WORKSPACE_ID") == view.workspace_id


def _view(api: Api, workspace_id: str | None) -> WorkspaceView:
    place = f"/workspaces/{segment(workspace_id or api.settings.workspace)}"
    return read_model(WorkspaceView, api.get(place), "service_unavailable")


def sync_workspace(
    api: Api,
    workspace_id: str | None = None,
    *,
    to_experiment: bool = False,
    from_experiment: bool = False,
    experiment: str | None = None,
    artifacts: Sequence[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> SyncReport:
    """Bring a workspace and its experiment together. Repeat it at will: the second time nothing changes.

    Args:
        workspace_id: name, id or ``personal``; None: that of the server this runs in.
        to_experiment: notebooks' metadata, configuration and usage go into the experiment.
        from_experiment: runs, metrics and artifacts come into ``experiments/``.
        experiment: another than the linked one.
        artifacts: patterns of those that come along; None: as the time before.

    Raises:
        MaestroError: ``invalid_request`` outside the workspace, ``forbidden`` for viewers, and what MLflow refuses.
    """
    view = _view(api, workspace_id)
    if not _inside(view, environment):
        raise MaestroError(
            "invalid_request",
            f"A sync runs inside the workspace, whose files it reads and writes: open a terminal of a server in "
            f"{view.name!r} and run it there.",
        )
    if view.role is None or not may(view.role, "write_files"):
        raise MaestroError(
            "forbidden", f"In {view.name!r} you are a viewer, and a sync writes; ask an owner of the workspace."
        )
    name = experiment or experiment_of(view)
    folder = Path(environment.get("MAESTRO_WORKSPACE_DIR") or "/workspace")
    tree = Tree(folder)
    run_id, stored, written, fetched = None, False, None, False
    with tree.opened(), connected(api.settings, view.name) as client:
        found = experiment_id(client, name)
        if to_experiment:
            found = found or str(client.create_experiment(name))
            metadata = workspace_metadata(api, view.name)
            run_id, stored = outgoing.store(client, found, metadata, folder, environment["MAESTRO_LAUNCH_ID"])
        if from_experiment:
            if found is None:
                raise MaestroError(
                    "invalid_request", f"{view.name!r} has no experiment {name!r} yet; it is made with its first run."
                )
            try:
                written, fetched = incoming.fetch(client, found, name, tree, artifacts)
            except OSError as error:
                raise MaestroError(
                    "invalid_request", f"The workspace's files could not be written: {error.strerror or error}."
                ) from None
    return SyncReport(view.name, name, run_id, stored, written, fetched)
