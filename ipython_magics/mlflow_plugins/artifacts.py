"""MLflow's own artifact repository, for the launch's own MLflow: what it cannot take now is copied, and sent later."""

from __future__ import annotations

import posixpath
import time
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import verify_artifact_path
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.utils.mime_type_utils import _guess_mime_type
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request
from mlflow.utils.workspace_context import get_request_workspace

from ..hub_token import RedirectRefused
from ..spool.road import road
from ..spool.sender import FOR_NOW
from .store import PENDING, QUICK, NoAnswer

#: bytes a second that a file may take at the least before MLflow counts as slow
LEAST_SPEED = 4 * 1024 * 1024


class KeepingArtifacts(MlflowArtifactsRepository):
    """The artifacts of one run or model.

    Args:
        artifact_uri: where they lie; for a run that MLflow has not heard of yet, :data:`~.store.PENDING` and its id.
        tracking_uri: the launch's MLflow.
    """

    def __init__(self, artifact_uri: str, tracking_uri: str, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._root = artifact_uri
        self._run_id = artifact_uri.removeprefix(PENDING).partition("/")[0] if artifact_uri.startswith(PENDING) else ""

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Send a file, or keep a copy of it.

        Raises:
            MlflowException, requests.HTTPError, OSError: the path is none, MLflow refuses it, there is no such file.
        """
        verify_artifact_path(artifact_path)
        file, way = Path(local_file), road()
        size = file.stat().st_size
        if way is None or (not way.closed and not self._run_id and self._should_multipart_upload(local_file)):
            super().log_artifact(local_file, artifact_path)
            return
        name = posixpath.join(artifact_path, file.name) if artifact_path else file.name
        kind = _guess_mime_type(file.name)
        if not way.closed and self._settled():
            began = time.monotonic()
            if self._sent(file, name, kind, size / LEAST_SPEED):
                way.answered(time.monotonic() - began - size / LEAST_SPEED)
                return
            way.failed(surely=False)
        record = {"path": name, "type": kind, "workspace": get_request_workspace()}
        way.keep(record | ({"run": self._run_id} if self._run_id else {"root": self._root}), file)

    def list_artifacts(self, path: str | None = None) -> Any:
        """As MLflow's own, with what is kept.

        Raises:
            NoAnswer: MLflow does not answer.
        """
        self._ready()
        return super().list_artifacts(path)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        self._ready()
        super()._download_file(remote_file_path, local_path)

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """As MLflow's own.

        Raises:
            NoAnswer: MLflow does not answer.
        """
        self._ready()
        super().delete_artifacts(artifact_path)

    def _ready(self) -> None:
        way = road()
        if way is not None and (way.surely_away or not way.flush() or not self._settled()):
            raise NoAnswer

    def _settled(self) -> bool:
        """Whether it is known where the artifacts lie; MLflow is asked for it."""
        if not self._run_id:
            return True
        from mlflow import MlflowClient

        try:
            root = MlflowClient(self.tracking_uri).get_run(self._run_id).info.artifact_uri
        except MlflowException:
            return False
        if not root or root.startswith(PENDING):
            return False
        self._root, self._run_id = root, ""
        self.artifact_uri = self.resolve_uri(root, self.tracking_uri)
        return True

    def _sent(self, file: Path, name: str, kind: str, seconds: float) -> bool:
        """Send a file; False if MLflow does not answer in time.

        Raises:
            requests.HTTPError, MlflowException: MLflow refuses it.
        """
        with file.open("rb") as content:
            try:
                answer = http_request(
                    self._host_creds, f"/{name}", "PUT",
                    max_retries=0, raise_on_status=False, timeout=(QUICK[0], QUICK[1] + seconds),
                    data=content, extra_headers={"Content-Type": kind},
                )  # fmt: skip
            except MlflowException as error:
                if isinstance(error.__cause__ or error.__context__, RedirectRefused):
                    raise
                return False
        if answer.status_code in FOR_NOW:
            return False
        augmented_raise_for_status(answer)
        return True
