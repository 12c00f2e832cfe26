"""What MLflow's database never takes, whichever of its routes brings it: checked where a row is written.

Some of MLflow's ways in do not pass its Flask application (spans by OpenTelemetry's protocol), and some bodies hold
tags and ids in places that change from version to version. So what would open another workspace is checked here, in
SQLAlchemy's own events on MLflow's tables (mlflow 3.17.2).
"""

from __future__ import annotations

import re
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes
from mlflow.store.tracking.dbmodels.models import SqlAssessments, SqlTraceTag
from mlflow.tracing.constant import TraceTagKey
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION
from sqlalchemy import event, inspect

#: tags of a trace that name a place from which the server reads files for whoever asks
PLACE_TAGS = frozenset({MLFLOW_ARTIFACT_LOCATION, TraceTagKey.ARCHIVE_LOCATION})


def guard() -> None:
    """Put the checks in force; once for the process."""
    for table, when, check in (
        (SqlTraceTag, "before_insert", _check_place),
        (SqlTraceTag, "before_update", _check_place),
        (SqlAssessments, "before_update", _check_stays),
    ):
        event.listen(table, when, check)


def own_place(location: str, trace: str) -> bool:
    """Whether a trace's data lies where the server itself puts it: at the artifacts of its experiment, below its id.

    MLflow makes a path of a trace's id, which a client chooses: one with slashes would lead to another workspace.
    """
    simple = re.fullmatch(r"[A-Za-z0-9_-]+", trace)
    return bool(
        simple and re.fullmatch(rf"mlflow-artifacts:/workspaces/[a-z0-9-]+/\d+/traces/{trace}/artifacts", location)
    )


def _check_place(_mapper: Any, _connection: Any, tag: Any) -> None:
    if tag.key in PLACE_TAGS and not own_place(str(tag.value), str(tag.request_id)):
        raise MlflowException(
            "A trace may not say where its data lies, and its id is letters, digits and hyphens; leave the tag "
            f"{tag.key} out.",
            error_code=codes.PERMISSION_DENIED,
        )


def _check_stays(_mapper: Any, _connection: Any, assessment: Any) -> None:
    if inspect(assessment).attrs.trace_id.history.deleted:
        raise MlflowException(
            "An assessment of that id belongs to another trace; leave the id out, and the server makes one.",
            error_code=codes.PERMISSION_DENIED,
        )
