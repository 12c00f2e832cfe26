"""A run may be created under an id that its caller chose, and twice is once.

A notebook whose MLflow is away goes on with a run that MLflow will hear of later (``ipython_magics.spool``), and a
request whose answer was lost is sent again. Both need an id that is known before MLflow answers. MLflow makes its own
with ``uuid.uuid4()`` (``SqlAlchemyStore.create_run`` of mlflow 3.17.2); within a request that brought one, this is it.
"""

from __future__ import annotations

import re
import types
import uuid
from typing import Any

from flask import Response, g, has_request_context
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes
from mlflow.protos.service_pb2 import CreateRun
from mlflow.server import handlers
from mlflow.utils.proto_json_utils import message_to_json

from maestro_core.experiments import TAG_RUN_ID

from .caller import Caller

_ID = re.compile(r"[0-9a-f]{32}")


class _Uuid(types.ModuleType):
    """The module ``uuid``, whose ``uuid4`` gives the id that this request brought, once."""

    def __getattr__(self, name: str) -> Any:
        return getattr(uuid, name)

    def uuid4(self) -> uuid.UUID:
        given = g.pop("maestro_run_id", None) if has_request_context() else None
        return uuid.UUID(given) if given else uuid.uuid4()


def install() -> None:
    """Let MLflow's store take given ids."""
    from mlflow.store.tracking import sqlalchemy_store

    sqlalchemy_store.uuid = _Uuid("uuid")


def take_id(caller: Caller, body: dict[str, Any]) -> Response | None:
    """Take the run's id out of the tags of a new run; the answer, if there is that run already.

    Args:
        body: of ``runs/create``, with a list of tags.

    Raises:
        MlflowException: the id is none, or is a run that this caller did not begin in that experiment.
    """
    given = [tag.get("value") for tag in body["tags"] if tag.get("key") == TAG_RUN_ID]
    body["tags"] = [tag for tag in body["tags"] if tag.get("key") != TAG_RUN_ID]
    if not given:
        return None
    run_id = given[-1]
    if not isinstance(run_id, str) or not _ID.fullmatch(run_id):
        raise MlflowException.invalid_parameter_value(f"The tag {TAG_RUN_ID} holds no run id; leave it out.")
    try:
        run = handlers._get_tracking_store().get_run(run_id)  # looks in the request's workspace only
    except MlflowException as error:
        if error.error_code != codes.ErrorCode.Name(codes.RESOURCE_DOES_NOT_EXIST):
            raise
        g.maestro_run_id = run_id
        return None
    if run.info.user_id != caller.user or run.info.experiment_id != str(body.get("experiment_id")):
        raise MlflowException("There is another run of this id; start a new one.", codes.RESOURCE_ALREADY_EXISTS)
    answer = CreateRun.Response()
    answer.run.MergeFrom(run.to_proto())
    return Response(message_to_json(answer), mimetype="application/json")
