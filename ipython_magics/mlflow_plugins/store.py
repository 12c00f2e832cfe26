"""MLflow's own REST store, for the launch's own MLflow: what is logged while it is away or slow is kept for later.

Everything that MLflow's client does goes through :meth:`KeepingStore._call_endpoint`, whoever calls: plain code,
autolog, MLflow's threads, the magics. With MLflow there, a call goes to it at once, and what is wrong with it is raised
as ever. Calls that log (:data:`KEPT`) are kept otherwise (``ipython_magics.spool.road``); what they would have raised
is checked here with MLflow's own rules. Calls that read wait for what is being sent, and say in one sentence that
MLflow does not answer.
"""

from __future__ import annotations

import json
import time
import uuid
from functools import partial
from typing import Any

import requests
from mlflow.entities import LifecycleStage, Metric, Param, RunTag
from mlflow.exceptions import InvalidUrlException, MlflowException
from mlflow.protos import databricks_pb2 as codes
from mlflow.protos import service_pb2 as api
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils import validation
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_USER
from mlflow.utils.name_utils import _generate_random_name
from mlflow.utils.proto_json_utils import parse_dict
from mlflow.utils.rest_utils import http_request, verify_rest_response
from mlflow.utils.workspace_context import get_request_workspace
from urllib3.exceptions import ReadTimeoutError

from maestro_core.experiments import TAG_RUN_ID

from ..hub_token import RedirectRefused
from ..spool.road import Road, road
from ..spool.sender import ENSURE, FOR_NOW, batch_parts
from .known import Known, parsed, unasked

#: calls that are kept
KEPT = {
    api.CreateExperiment: ENSURE,
    api.CreateRun: "runs/create",
    api.UpdateRun: "runs/update",
    api.LogMetric: "runs/log-metric",
    api.LogParam: "runs/log-parameter",
    api.LogBatch: "runs/log-batch",
    api.SetTag: "runs/set-tag",
    api.DeleteTag: "runs/delete-tag",
    api.LogInputs: "runs/log-inputs",
    api.SetExperimentTag: "experiments/set-experiment-tag",
}
#: seconds to connect, to answer: of a call that is kept otherwise, of one that is not
QUICK, PATIENT = (1.0, 1.0), (2.0, 60.0)
#: seconds for which a call that cannot be kept waits for an MLflow that starts
STARTING = 5.0
#: where artifacts of a run lie whose place is not known yet: its id follows
PENDING = "mlflow-artifacts:/maestro-pending/"
NO_ANSWER = "MLflow does not answer, so this cannot be read or done now; what you log is kept and sent when it does."
known = Known()


class NoAnswer(MlflowException):
    """MLflow does not answer; the message is one sentence."""

    def __init__(self, message: str = NO_ANSWER) -> None:
        super().__init__(message, error_code=codes.TEMPORARILY_UNAVAILABLE)


class _Away(Exception):
    """This call was not answered.

    Attributes:
        surely: whether MLflow is away; it may be slow otherwise.
    """

    def __init__(self, surely: bool = True) -> None:
        super().__init__()
        self.surely = surely


class KeepingStore(RestStore):
    """For one address, which is the launch's.

    Args:
        store_uri: that address.
    """

    def __init__(self, store_uri: str) -> None:
        super().__init__(partial(get_default_host_creds, store_uri))

    @property
    def supports_workspaces(self) -> bool:
        """Maestro's MLflow does; asking would take a request, and minutes while it is away."""
        return True

    def _call_endpoint(
        self,
        api: Any,
        json_body: str | None = None,
        endpoint: str | None = None,
        retry_timeout_seconds: int | None = None,
        response_proto: Any = None,
    ) -> Any:
        way = road()
        infos = self._V3_METHOD_TO_INFO if api in self._V3_APIS else self._METHOD_TO_INFO
        place, method = infos[api]
        call = _Call(self, way, api, endpoint or place, method, json.loads(json_body) if json_body else None)
        answer = response_proto if response_proto is not None else api.Response()
        return call.keep_or_ask(way, answer) if way is not None and api in KEPT else call.read(answer)


class _Call:
    """One call of MLflow's client.

    Args:
        kind: MLflow's message class of the request. body: its JSON.
    """

    def __init__(
        self, store: KeepingStore, way: Road | None, kind: Any, endpoint: str, method: str, body: dict[str, Any] | None
    ) -> None:
        self._store = store
        self._way = way
        self._kind = kind
        self._endpoint = endpoint
        self._method = method
        self._body = body or {}

    # -- calls that are kept

    def keep_or_ask(self, way: Road, answer: Any) -> Any:
        """Tell MLflow, or keep it.

        Raises:
            MlflowException: what is wrong with the call.
        """
        call = KEPT[self._kind]
        run_id = self._begin(way) if self._kind is api.CreateRun else str(self._body.get("run_id") or "")
        if not way.closed:
            try:
                began = time.monotonic()
                count = max(1, sum(map(len, (batch_parts({"call": call, "body": self._body}) or {}).values())))
                self._ask(answer, (QUICK[0], QUICK[1] + count / 500))
                way.answered(time.monotonic() - began, count)
                if self._kind is api.CreateRun:
                    known.keep_run(answer.run)
                self._note(way, run_id)
                return answer
            except _Away as away:
                way.failed(away.surely)
            except MlflowException:
                if self._kind is api.CreateRun:
                    way.note(f"-{run_id}")
                raise
        self._keep(way, call, run_id, answer)
        self._note(way, run_id)
        return answer

    def _begin(self, way: Road) -> str:
        """Give a new run its id, by which it is created once however often it is sent."""
        run_id = uuid.uuid4().hex
        self._body.setdefault("tags", []).append({"key": TAG_RUN_ID, "value": run_id})
        way.note(f"+{run_id}")
        return run_id

    def _note(self, way: Road, run_id: str) -> None:
        """A run that has ended is nobody's to end; one that goes on is this process'."""
        status = self._body.get("status") if self._kind is api.UpdateRun else None
        if status:
            way.note(f"{'+' if status == 'RUNNING' else '-'}{run_id}")

    def _keep(self, way: Road, call: str, run_id: str, answer: Any) -> None:
        if self._kind is api.CreateExperiment:
            validation._validate_experiment_name(self._body.get("name"))
            experiment = known.experiment(str(self._body["name"]))
            answer.experiment_id = experiment.experiment_id
            way.keep({"call": call, "experiment": experiment.name, "workspace": get_request_workspace()})
            return
        if self._kind is api.CreateRun:
            known.keep_run(_new_run(run_id, self._body))
            answer.run.CopyFrom(known.run(run_id))
            self._body.setdefault("run_name", answer.run.info.run_name)
        else:
            check(call, self._body)
            known.change(call, self._body)
        record = {"call": call, "body": self._body, "workspace": get_request_workspace(), "run": run_id}
        if name := unasked(self._body.get("experiment_id")):
            record["experiment"] = name
        way.keep(record)
        if self._kind is api.UpdateRun:
            answer.run_info.run_id = run_id
            if (run := known.run(run_id)) is not None:
                answer.run_info.CopyFrom(run.info)

    # -- calls that are not

    def read(self, answer: Any) -> Any:
        """Ask MLflow, when it has what is kept.

        Raises:
            MlflowException: what is wrong with the call, or that MLflow does not answer.
        """
        way = self._way
        by_name = self._kind is api.GetExperimentByName
        try:
            if way is not None and (way.surely_away or (way.closed and by_name) or not way.flush()):
                raise _Away
            self._patiently(answer, QUICK if by_name else PATIENT)
        except _Away as away:
            if way is not None and not way.surely_away:
                way.failed(away.surely)
            if not self._from_here(answer):
                raise NoAnswer from None
        if by_name and way is not None:
            known.keep_experiment(answer.experiment)
        return answer

    def _patiently(self, answer: Any, timeout: tuple[float, float]) -> None:
        until = time.monotonic() + (0.0 if self._way is None or self._way.closed or timeout is QUICK else STARTING)
        while True:
            try:
                self._ask(answer, timeout)
                return
            except _Away:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def _from_here(self, answer: Any) -> bool:
        """Answer from what this process knows; whether it does."""
        if self._kind is api.GetRun:
            found = known.run(str(self._body.get("run_id")))
            if found is not None:
                answer.run.CopyFrom(found)
        elif self._kind is api.GetExperimentByName:
            found = known.experiment(str(self._body.get("experiment_name")))
            answer.experiment.CopyFrom(found)
        elif self._kind is api.GetExperiment:
            found = known.experiment_of(str(self._body.get("experiment_id")))
            if found is not None:
                answer.experiment.CopyFrom(found)
        else:
            found = None
        return found is not None

    # -- one request

    def _ask(self, answer: Any, timeout: tuple[float, float]) -> None:
        """Put MLflow's answer into ``answer``.

        Raises:
            _Away: it does not answer.
            MlflowException: it answers that something is wrong.
        """
        body = self._settled()
        for again in (True, False):
            try:
                response = http_request(
                    self._store.get_host_creds(),
                    self._endpoint,
                    self._method,
                    max_retries=0,
                    raise_on_status=False,
                    timeout=timeout,
                    **({"params": body} if self._method == "GET" else {"json": body}),
                )
                break
            except InvalidUrlException:
                raise
            except MlflowException as error:
                cause = error.__cause__ or error.__context__
                if isinstance(cause, RedirectRefused):
                    raise
                # A connection that was kept open, to an MLflow that has ended since, says nothing about this one.
                slow = _slow(cause)
                if slow or not again:
                    raise _Away(surely=not slow) from None
        if response.status_code in FOR_NOW and (response.status_code != 401 or self._kind in KEPT):
            raise _Away
        found = verify_rest_response(response, self._endpoint)
        if found.status_code != 204:
            parse_dict(json.loads(found.text), answer)

    def _settled(self) -> dict[str, Any]:
        """The body, with the real id of an experiment that was used while MLflow was away."""
        body = self._body
        if name := unasked(body.get("experiment_id")):
            body = {**body, "experiment_id": self._real(name)}
        if any(map(unasked, ids := body.get("experiment_ids") or ())):
            body = {
                **body,
                "experiment_ids": [self._real(name) if (name := unasked(one)) else one for one in ids],
            }
        return body

    def _real(self, name: str) -> str:
        found = api.GetExperimentByName.Response()
        try:
            self._other(api.GetExperimentByName, {"experiment_name": name})._ask(found, QUICK)
            known.keep_experiment(found.experiment)
            return str(found.experiment.experiment_id)
        except MlflowException as error:
            if error.error_code != codes.ErrorCode.Name(codes.RESOURCE_DOES_NOT_EXIST):
                raise
        made = api.CreateExperiment.Response()
        self._other(api.CreateExperiment, {"name": name})._ask(made, QUICK)
        return str(made.experiment_id)

    def _other(self, kind: Any, body: dict[str, Any]) -> _Call:
        endpoint, method = self._store._METHOD_TO_INFO[kind]
        return _Call(self._store, self._way, kind, endpoint, method, body)


def _slow(error: BaseException | None) -> bool:
    """Whether an answer did not come in time; requests wraps urllib3's word for it where its retries are used up."""
    reason = getattr(error.args[0], "reason", None) if error is not None and error.args else None
    return isinstance(error, requests.ReadTimeout) or isinstance(reason, ReadTimeoutError)


def check(call: str, body: dict[str, Any]) -> None:
    """What MLflow would say of a call that logs, by its own rules (mlflow.utils.validation).

    Raises:
        MlflowException: it would refuse it.
    """
    parts = batch_parts({"call": call, "body": body})
    if parts is None:
        return
    batch = parsed(api.LogBatch(), dict(parts))
    metrics = [Metric.from_proto(metric) for metric in batch.metrics]
    params = [Param.from_proto(param) for param in batch.params]
    tags = [RunTag.from_proto(tag) for tag in batch.tags]
    validation._validate_batch_log_data(metrics, params, tags)
    validation._validate_batch_log_limits(metrics, params, tags)
    validation._validate_param_keys_unique(params)


def _new_run(run_id: str, body: dict[str, Any]) -> Any:
    """The run as MLflow will have it."""
    tags = {tag["key"]: tag.get("value", "") for tag in body["tags"] if tag["key"] != TAG_RUN_ID}
    name = body.get("run_name") or tags.get(MLFLOW_RUN_NAME) or _generate_random_name()
    run = api.Run()
    parsed(run.info, {
        "run_id": run_id, "run_uuid": run_id, "run_name": name, "experiment_id": str(body.get("experiment_id")),
        "user_id": tags.get(MLFLOW_USER) or str(body.get("user_id") or "unknown"), "status": "RUNNING",
        "start_time": body.get("start_time") or int(time.time() * 1000), "artifact_uri": f"{PENDING}{run_id}",
        "lifecycle_stage": LifecycleStage.ACTIVE,
    })  # fmt: skip
    for key, value in {**tags, MLFLOW_RUN_NAME: name}.items():
        run.data.tags.add(key=key, value=value)
    return run
