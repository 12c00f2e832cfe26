"""A viewer's server may do one thing in the personal workspace: log runs to its experiment ``from-<workspace>``.

Whoever can write into the shared workspace decides what runs on that server, so nothing else of the person's own work
may be within its reach. Every id that a request names must belong to that experiment, wherever it stands in the
request; a request that names none is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import request
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes
from mlflow.server import handlers

from .caller import Caller

EXPERIMENT_FIELDS = frozenset({"experiment_id", "experiment_ids"})
RUN_FIELDS = frozenset({"run_id", "run_uuid", "run_ids", "source_run_id"})
MODEL_FIELDS = frozenset({"model_id", "model_ids"})
NAME_FIELDS = frozenset({"experiment_name"})


def check_confined(caller: Caller) -> None:
    """Refuse whatever reaches beyond the caller's one experiment.

    Raises:
        MlflowException: PERMISSION_DENIED, in one sentence.
    """
    path = caller.match.route.path
    if path.endswith("/server-info"):
        return
    named = dict(_named(caller))
    if path.endswith("/experiments/create"):
        if named.get("name") != {caller.experiment}:
            raise _beyond(caller)
        return
    if path.endswith("/experiments/get-by-name"):
        if named.get("experiment_name") != {caller.experiment}:
            raise _beyond(caller)
        return
    experiments = set(_experiments(named, caller))
    if experiments != {_own_experiment(caller)}:
        raise _beyond(caller)


def _beyond(caller: Caller) -> MlflowException:
    return MlflowException(
        f"A viewer's server may only log runs to the experiment {caller.experiment!r} of {caller.workspace!r}; "
        "set the experiment to that one, or leave it out.",
        error_code=codes.PERMISSION_DENIED,
    )


def _own_experiment(caller: Caller) -> str:
    found = handlers._get_tracking_store().get_experiment_by_name(caller.experiment)
    if found is None:
        raise _beyond(caller)
    identifier: str = found.experiment_id
    return identifier


def _experiments(named: dict[str, set[str]], caller: Caller) -> Iterator[str]:
    """The experiment of every id that the request names."""
    store = handlers._get_tracking_store()
    by_path = "mlflow-artifacts" in caller.match.rule  # MLflow reads nothing but the path there
    for field, values in named.items():
        for value in values:
            if by_path:
                if field in ("artifact_path", "path"):
                    yield _experiment_of_path(value, caller)
            elif field in EXPERIMENT_FIELDS:
                yield value
            elif field in RUN_FIELDS:
                yield store.get_run(value).info.experiment_id
            elif field in MODEL_FIELDS:
                yield store.get_logged_model(value).experiment_id


def _experiment_of_path(path: str, caller: Caller) -> str:
    """``[workspaces/<workspace>/]<experiment id>/...``"""
    plain = handlers._iteratively_unquote(path)
    parts = [part for part in plain.split("/") if part]
    if ".." in parts or "\\" in plain:
        raise _beyond(caller)
    if parts[:2] == ["workspaces", caller.workspace]:
        parts = parts[2:]
    if len(parts) < 2:
        raise _beyond(caller)
    return parts[0]


def _named(caller: Caller) -> Iterator[tuple[str, set[str]]]:
    """Every field of the request with all its values: from the path, the query and the body, as MLflow reads them."""
    found: dict[str, set[str]] = {}
    for field, value in _pairs(caller):
        if isinstance(value, str) and value:
            found.setdefault(field, set()).add(value)
    yield from found.items()


def _pairs(caller: Caller) -> Iterator[tuple[str, Any]]:
    yield from (request.view_args or {}).items()
    yield from request.args.items(multi=True)
    message = _request_message()
    if message is not None:
        yield from _leaves("", MessageToDict(handlers._get_request_message(message), preserving_proto_field_name=True))


def _leaves(field: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(name, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(field, inner)
    else:
        yield field, value


def _request_message() -> Any:
    """An empty message of the kind that MLflow's view reads, from MLflow's own table of views; None for files."""
    if "mlflow-artifacts" in request.path:
        return None
    for kind, view in handlers.HANDLERS.items():
        if view.__name__ == request.endpoint:
            return kind()
    return None
