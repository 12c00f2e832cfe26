"""What this process knows of runs and experiments without asking MLflow: what it began, and what it keeps for later."""

from __future__ import annotations

import base64
import os
import threading
from typing import Any

from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes
from mlflow.protos import service_pb2 as api
from mlflow.utils.proto_json_utils import parse_dict
from mlflow.utils.workspace_context import get_request_workspace

from ..spool.sender import batch_parts

#: runs and experiments that are remembered
MANY = 500
#: an experiment that MLflow has not been asked for yet has this and its name, in URL-safe base64, for an id: programs
#: that inherit MLFLOW_EXPERIMENT_ID read it too
UNASKED = "pending-"
_ENTITIES = {"metrics": api.Metric, "params": api.Param, "tags": api.RunTag}


class Known:
    """MLflow's own messages, by id and by name."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        os.register_at_fork(after_in_child=self._unlock)
        self._runs: dict[str, Any] = {}
        self._experiments: dict[tuple[str, str], Any] = {}

    def _unlock(self) -> None:
        """Another thread may have had the lock when this process was forked."""
        self._lock = threading.RLock()

    def run(self, run_id: str) -> Any:
        """A run, or None."""
        with self._lock:
            return self._runs.get(run_id)

    def keep_run(self, run: Any) -> None:
        """Remember a run."""
        with self._lock:
            self._runs[run.info.run_id] = run
            while len(self._runs) > MANY:
                self._runs.pop(next(iter(self._runs)))

    def change(self, call: str, body: dict[str, Any]) -> None:
        """A call that is kept changes a run.

        Raises:
            MlflowException: it would change a parameter.
        """
        with self._lock:
            run = self._runs.get(str(body.get("run_id")))
            if run is None:
                return
            if call == "runs/update":
                _update(run.info, body)
            elif call == "runs/delete-tag":
                _put(run.data.tags, body.get("key"), None)
            parts = batch_parts({"call": call, "body": body}) or {}
            for param in parts.get("params", ()):
                _check_unchanged(run, param)
            for kind, found in parts.items():
                for one in found:
                    _put(getattr(run.data, kind), one.get("key"), parsed(_ENTITIES[kind](), one))

    def experiment(self, name: str) -> Any:
        """An experiment; one that MLflow has not been asked for yet is taken to be there."""
        workspace = get_request_workspace() or ""
        with self._lock:
            found = self._experiments.get((workspace, name))
            if found is None:
                identity = UNASKED + base64.urlsafe_b64encode(name.encode()).decode()
                found = api.Experiment(experiment_id=identity, name=name, lifecycle_stage=LifecycleStage.ACTIVE)
                self._experiments[workspace, name] = found
            return found

    def experiment_of(self, experiment_id: str) -> Any:
        """An experiment by its id, or None."""
        if name := unasked(experiment_id):
            return self.experiment(name)
        with self._lock:
            return next((one for one in self._experiments.values() if one.experiment_id == experiment_id), None)

    def keep_experiment(self, experiment: Any) -> None:
        """Remember an experiment."""
        with self._lock:
            self._experiments[get_request_workspace() or "", experiment.name] = experiment
            while len(self._experiments) > MANY:
                self._experiments.pop(next(iter(self._experiments)))


def unasked(experiment_id: object) -> str | None:
    """The name of an experiment of which MLflow had not been asked when it was used first; None for a real id."""
    if not isinstance(experiment_id, str) or not experiment_id.startswith(UNASKED):
        return None
    try:
        return base64.urlsafe_b64decode(experiment_id.removeprefix(UNASKED).encode()).decode()
    except ValueError:
        return None


def parsed(message: Any, fields: dict[str, Any]) -> Any:
    """The message with what JSON says."""
    parse_dict(fields, message)
    return message


def _update(info: Any, body: dict[str, Any]) -> None:
    if status := body.get("status"):
        info.status = api.RunStatus.Value(status)
    if end_time := body.get("end_time"):
        info.end_time = int(end_time)
    if name := body.get("run_name"):
        info.run_name = name


def _put(entries: Any, key: Any, message: Any) -> None:
    for index, entry in enumerate(entries):
        if entry.key == key:
            del entries[index]
            break
    if message is not None:
        entries.append(message)


def _check_unchanged(run: Any, param: dict[str, Any]) -> None:
    for one in run.data.params:
        if one.key == param.get("key") and one.value != param.get("value"):
            raise MlflowException(
                f"Changing param values is not allowed. Param with key='{one.key}' was already logged with "
                f"value='{one.value}' for run ID='{run.info.run_id}'. Attempted logging new value "
                f"'{param.get('value')}'.",
                error_code=codes.INVALID_PARAMETER_VALUE,
            )
