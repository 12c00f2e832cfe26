"""Removes what MLflow keeps of a workspace that was purged: runs, experiments, models, artifacts.

Like ``mlflow_server.py`` this knows the insides of mlflow 3.17.2; the tests run against the pinned version.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from maestro_core.lifecycle import TrackingRemoved

#: runs that are removed in one transaction: MLflow's own cascade would load every metric into memory
BATCH = 200


def remove_workspace(store: Any, artifacts: str, name: str) -> TrackingRemoved:
    """Remove an MLflow workspace with all it holds; one that is not there is no mistake. Blocking: call it in a thread.

    Args:
        store: MLflow's workspace store. artifacts: where all artifacts lie, a directory or a bucket's URI.

    Raises:
        Exception: whatever MLflow or the storage raises; it is safe to try again.
    """
    from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel
    from mlflow.store.tracking.dbmodels.models import SqlExperiment

    runs = _remove_runs(store, name)
    with store.ManagedSessionMaker(read_only=True) as session:
        experiments = session.query(SqlExperiment).filter(SqlExperiment.workspace == name).count()
        models = session.query(SqlRegisteredModel).filter(SqlRegisteredModel.workspace == name).count()
    _remove_rest(store, name)
    size = _remove_artifacts(artifacts, name)
    return TrackingRemoved(workspace=name, experiments=experiments, runs=runs, models=models, bytes=size)


def _remove_runs(store: Any, name: str) -> int:
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun
    from mlflow.store.tracking.sqlalchemy_store import _RUN_DELETE_CASCADE_MODELS

    removed = 0
    while True:
        with store.ManagedSessionMaker(read_only=False) as session:
            of_workspace = session.query(SqlExperiment.experiment_id).filter(SqlExperiment.workspace == name)
            found = session.query(SqlRun.run_uuid).filter(SqlRun.experiment_id.in_(of_workspace)).limit(BATCH).all()
            ids = [row[0] for row in found]
            if not ids:
                return removed
            for model in (*_RUN_DELETE_CASCADE_MODELS, SqlRun):
                session.query(model).filter(model.run_uuid.in_(ids)).delete(synchronize_session=False)
            removed += len(ids)


def _remove_rest(store: Any, name: str) -> None:
    from mlflow.entities.workspace import WorkspaceDeletionMode
    from mlflow.exceptions import MlflowException

    try:
        store.delete_workspace(name, WorkspaceDeletionMode.CASCADE)
    except MlflowException as missing:
        if missing.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _remove_artifacts(artifacts: str, name: str) -> int:
    """The bytes that they took; 0 for a bucket, where nobody counts."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    local = urlsplit(artifacts)
    if local.scheme not in ("", "file"):
        get_artifact_repository(f"{artifacts.rstrip('/')}/workspaces/{name}").delete_artifacts()
        return 0
    folder = Path(local.path if local.scheme == "file" else artifacts) / "workspaces" / name
    size = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(place, file)).st_size
    if folder.is_dir():
        shutil.rmtree(folder)
    return size
