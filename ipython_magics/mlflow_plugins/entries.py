"""What MLflow's client asks for a store and for an artifact repository.

Ours stand for the launch's own MLflow alone. Everything else, and everything in an mlflow that a user installed and
that ours do not fit, gets MLflow's own.
"""

from __future__ import annotations

import os
from typing import Any

from .. import address


def tracking_store(store_uri: str, **_: Any) -> Any:
    """Entry points ``mlflow.tracking_store``, ``http`` and ``https``."""
    if _ours(store_uri):
        try:
            from .store import KeepingStore

            return KeepingStore(store_uri)
        except (ImportError, AttributeError, TypeError):
            pass
    from mlflow.tracking._tracking_service.utils import _get_rest_store

    return _get_rest_store(store_uri)


def artifact_repository(artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
    """Entry point ``mlflow.artifact_repository``, ``mlflow-artifacts``."""
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
    from mlflow.tracking import get_tracking_uri

    uri = tracking_uri or get_tracking_uri()
    if _ours(uri):
        try:
            from .artifacts import KeepingArtifacts

            return KeepingArtifacts(artifact_uri, uri, registry_uri)
        except (ImportError, AttributeError, TypeError):
            pass
    return MlflowArtifactsRepository(artifact_uri, tracking_uri, registry_uri)


def _ours(uri: str) -> bool:
    return bool(os.environ.get("MAESTRO_LAUNCH_ID")) and address.is_ours(uri)
