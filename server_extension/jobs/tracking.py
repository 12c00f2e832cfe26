"""The job's run at MLflow, by its REST API: importing mlflow takes longer than most kernels take to start.

Nothing here stops a job. While MLflow is away the run is opened later, with the time at which it really began.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from maestro_core.experiments import (
    TAG_DIRTY,
    TAG_LAUNCH,
    TAG_MLFLOW_USER,
    TAG_NOTEBOOK,
    TAG_REASON,
    TAG_RUN_ID,
    TAG_SNAPSHOT,
    TAG_USER,
    TAG_WORKSPACE,
)

from . import parameters
from .order import End, Order

ANSWER_SECONDS = 20.0
#: of one call of MLflow's (mlflow.utils.validation)
_MANY_PARAMS, _MANY_METRICS, _MAX_VALUE = 100, 1000, 6000
#: runs of a notebook whose metrics are looked at
_MANY_RUNS = 1000
#: a name space (RFC 9562, version 5) of ours: ids of sweeps' runs are made of the sweeps' own
_SWEEPS = uuid.UUID("6f2f2a0e-7d0c-5b0c-9f5e-3a1c1d5b8e47")
#: bytes of an artifact
_MAX_ARTIFACT = 100 * 1024 * 1024
log = logging.getLogger("maestro")


class NoTracking(Exception):
    """MLflow does not answer, or refuses; the message says how, without a secret.

    Attributes:
        refused: it will say the same again.
    """

    def __init__(self, message: str, refused: bool = False, missing: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.missing = missing


class Run:
    """The job's own run.

    Args:
        order: what runs. environ: the worker's.

    Attributes:
        planned_id: which id it will have. run_id, parent_run: once they are there.
    """

    def __init__(self, order: Order, environ: Mapping[str, str]) -> None:
        self._order, self._environ = order, environ
        self._base = environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
        self._headers = {
            "Authorization": f"token {environ.get('JUPYTERHUB_API_TOKEN', '')}",
            "X-MLFLOW-WORKSPACE": environ.get("MLFLOW_WORKSPACE", ""),
        }
        self._client = AsyncHTTPClient(force_instance=True, defaults={"user_agent": "maestro-job"})
        self._began = _now()
        self._experiment = ""
        self._artifacts = ""
        self.planned_id = uuid.uuid4().hex
        self._has_params = not order.parameters
        self.run_id: str | None = None
        self.parent_run: str | None = order.parent_run

    @property
    def wanted(self) -> bool:
        """Whether there is an MLflow, and the job one that has a run: a sweep's summary is written into another."""
        return bool(self._base) and self._order.kind != "sweep-summary"

    async def open(self) -> None:
        """Open it; safe to repeat until it succeeds.

        Raises:
            NoTracking: not this time.
        """
        if not self.wanted:
            return
        if not self._experiment:
            self._experiment = await self._experiment_id()
        if self.parent_run is None and self._order.open_parent is not None:
            wanted = self._order.open_parent
            tags = dict(wanted.get("tags") or {})
            made = await self._create(_id_of(tags), str(wanted["name"]), tags)
            self.parent_run = str(made["run_id"])
        if self.run_id is None:
            made = await self._create(self.planned_id, self._order.name, self._tags())
            self._artifacts = str(made.get("artifact_uri", ""))
            self.run_id = str(made["run_id"])
        if not self._has_params:
            shown = [{"key": key, "value": text[:_MAX_VALUE]} for key, text in self._shown().items()]
            for at in range(0, len(shown), _MANY_PARAMS):
                await self._post("runs/log-batch", run_id=self.run_id, params=shown[at : at + _MANY_PARAMS])
            self._has_params = True

    def _shown(self) -> dict[str, str]:
        return parameters.shown(self._order.parameters)

    async def end(self, end: End) -> dict[str, float]:
        """End it, and what the notebook left active; safe to repeat until it succeeds.

        Returns:
            the last values of the metrics of all runs of this attempt; the job's own run has them by then.

        Raises:
            NoTracking: not this time.
        """
        await self.open()
        if self.run_id is None:
            return {}
        runs = await self._of_launch()
        for run in runs:
            if run["info"].get("status") == "RUNNING" and run["info"]["run_id"] != self.run_id:
                await self._close(run["info"]["run_id"], end)
        metrics = await self._take_over(runs)
        await self._close(self.run_id, end)
        return metrics

    async def _close(self, run_id: str, end: End) -> None:
        if end.reason:
            await self._post("runs/set-tag", run_id=run_id, key=TAG_REASON, value=end.reason[:500])
        await self._post("runs/update", run_id=run_id, status=end.status, end_time=_now())

    async def _of_launch(self) -> list[dict[str, Any]]:
        """All runs of this attempt, the oldest first, in whichever experiment."""
        answer = await self._post("experiments/search", max_results=1000)
        answer = await self._post(
            "runs/search",
            experiment_ids=[one["experiment_id"] for one in answer.get("experiments", [])],
            filter=f"tags.`{TAG_LAUNCH}` = '{self._order.launch_id}'",
            max_results=_MANY_RUNS,
            order_by=["attributes.start_time ASC"],
        )
        return list(answer.get("runs", []))

    async def _take_over(self, runs: list[dict[str, Any]]) -> dict[str, float]:
        """Log the last values of the notebook's runs on the job's own, where it has none of that name."""
        own: dict[str, float] = {}
        found: dict[str, float] = {}
        for run in runs:
            last = {one["key"]: one["value"] for one in run.get("data", {}).get("metrics", [])}
            numbers = {key: float(value) for key, value in last.items() if _finite(value)}
            (own if run["info"]["run_id"] == self.run_id else found).update(numbers)
        new = [
            {"key": key, "value": value, "timestamp": _now(), "step": 0}
            for key, value in found.items()
            if key not in own
        ]
        if new:
            await self._post("runs/log-batch", run_id=self.run_id, metrics=new[:_MANY_METRICS])
        every = found | own
        first = [key for key in every if key == self._order.metric]  # the one that is waited for is never left out
        return {key: every[key] for key in [*first, *every][:_MANY_METRICS]}

    async def keep(self, name: str, content: bytes) -> None:
        """Log a file.

        Raises:
            NoTracking: MLflow does not take it.
        """
        place = self._artifacts.removeprefix("mlflow-artifacts:").lstrip("/")
        if self.run_id is None or not place or place == self._artifacts or len(content) > _MAX_ARTIFACT:
            return
        await self._call("PUT", f"mlflow-artifacts/artifacts/{quote(place)}/{quote(name)}", content)

    async def _experiment_id(self) -> str:
        name = self._order.experiment
        try:
            return await self._found(name)
        except NoTracking as error:
            if not error.missing:
                raise
        try:
            return str((await self._post("experiments/create", name=name))["experiment_id"])
        except NoTracking as error:
            if not error.refused:
                raise
        return await self._found(name)  # another job was faster

    async def _found(self, name: str) -> str:
        answer = await self._call("GET", f"mlflow/experiments/get-by-name?experiment_name={quote(name, safe='')}", None)
        return str(answer["experiment"]["experiment_id"])

    async def _create(self, run_id: str, name: str, tags: Mapping[str, str]) -> dict[str, Any]:
        """Create a run under an id of ours, so that it is one however often it is asked for."""
        answer = await self._post(
            "runs/create",
            experiment_id=self._experiment,
            user_id=self._environ.get("MAESTRO_USER", ""),
            run_name=name,
            start_time=self._began,
            tags=[{"key": key, "value": str(value)[:5000]} for key, value in {**tags, TAG_RUN_ID: run_id}.items()],
        )
        return dict(answer["run"]["info"])

    def _tags(self) -> dict[str, str]:
        order, environ = self._order, self._environ
        tags = {
            **order.tags,
            "maestro.job": order.job_id,
            "maestro.attempt": str(order.attempt),
            TAG_LAUNCH: order.launch_id,
            TAG_WORKSPACE: environ.get("MAESTRO_WORKSPACE", ""),
            TAG_USER: environ.get("MAESTRO_USER", ""),
            TAG_MLFLOW_USER: environ.get("MAESTRO_USER", ""),
            TAG_NOTEBOOK: order.path,
            TAG_SNAPSHOT: order.snapshot,
            TAG_DIRTY: "false",
            "mlflow.source.name": order.path,
            "mlflow.source.type": "NOTEBOOK" if order.kind == "notebook" else "JOB",
        }
        if self.parent_run:
            tags["mlflow.parentRunId"] = self.parent_run
        return {key: value for key, value in tags.items() if value}

    async def _post(self, what: str, **body: Any) -> dict[str, Any]:
        return await self._call("POST", f"mlflow/{what}", json.dumps(body).encode())

    async def _call(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        what = path.partition("?")[0]
        request = HTTPRequest(
            f"{self._base}/api/2.0/{path}",
            method=method,
            headers={**self._headers, "Content-Type": "application/json"},
            body=body,
            connect_timeout=3.0,
            request_timeout=ANSWER_SECONDS,
            follow_redirects=False,  # the token goes to this address alone
        )
        try:
            answer = await self._client.fetch(request)
            read = json.loads(answer.body or b"{}")
            return read if isinstance(read, dict) else {}
        except HTTPClientError as error:
            refused = 400 <= error.code < 500 and error.code not in (401, 408, 425, 429)
            said = f"MLflow's {what}: {error.code} {error.message or ''}".strip()
            raise NoTracking(said, refused, error.code == 404) from None
        except (OSError, ValueError) as error:
            raise NoTracking(f"MLflow's {what}: {type(error).__name__}") from None


def send_journals(environ: Mapping[str, str]) -> None:
    """Send what the notebook could not tell MLflow, which kept it on the launch's disk. Blocks.

    Args:
        environ: of this process, as the kernel had it.

    Raises:
        NoTracking: something of this launch is left.
    """
    place, launch = Path(environ.get("MAESTRO_TRACKING_SPOOL", "")), environ.get("MAESTRO_LAUNCH_ID", "")
    if not place.is_absolute() or not place.is_dir() or not any(place.iterdir()):
        return
    from ipython_magics.spool.leftovers import send_leftovers, sender_of_launch

    try:
        if (sender := sender_of_launch()) is None or send_leftovers(sender, place, launch, log):
            return
    except OSError as error:  # a journal that is broken, or somebody else's
        log.warning("Maestro: what waits for MLflow cannot be read: %s", error)
        return
    if any(_launch_of(one) == launch for one in place.iterdir()):
        raise NoTracking("MLflow does not take yet what the notebook logged")


def _launch_of(journal: Path) -> str:
    """Whose journal it is; others' are no matter of this job."""
    try:
        return str(json.loads((journal / "owner").read_text()).get("launch", ""))
    except (OSError, ValueError, AttributeError):
        return ""


class Told:
    """What the kernel is told of the job: its run, under which the notebook's own runs go, and its end.

    Args:
        path: of the file (``ipython_magics.jobs`` reads it).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[str, str] = {}

    def tell(self, **known: str) -> None:
        """Add to it. A disk that is full is no reason to end."""
        self._known |= known
        draft = f"{self._path}.new"
        try:
            with open(draft, "w", encoding="utf-8") as file:
                json.dump(self._known, file)
            os.replace(draft, self._path)
        except OSError:
            return


def _id_of(tags: Mapping[str, str]) -> str:
    """Of a sweep's own run: the same for each of its jobs, since an earlier one may have died before it told it."""
    sweep = tags.get("maestro.sweep")
    return uuid.uuid5(_SWEEPS, sweep).hex if sweep else uuid.uuid4().hex


def _finite(value: object) -> bool:
    """JSON has no other numbers; a metric that is none stays in its own run."""
    return isinstance(value, int | float) and math.isfinite(value)


def _now() -> int:
    return int(time.time() * 1000)
