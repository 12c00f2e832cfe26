"""The job's run at MLflow, by its REST API: importing mlflow takes longer than most kernels take to start.

Nothing here stops a job. While MLflow is away the run is opened later, with the time at which it really began.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from maestro_core.experiments import (
    TAG_DIRTY,
    TAG_LAUNCH,
    TAG_MLFLOW_USER,
    TAG_NOTEBOOK,
    TAG_REASON,
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
#: tags by which a run is known, whose creation was not answered
_OWN = ("maestro.job", "maestro.attempt", "maestro.sweep")
#: bytes of an artifact
_MAX_ARTIFACT = 100 * 1024 * 1024


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
        run_id, parent_run: once they are known.
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
        self._unsure = False
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
            # an earlier worker may have made it, and ended before it could say so
            made = await self._made(str(wanted["name"]), dict(wanted.get("tags") or {}), look=True)
            self.parent_run = str(made["run_id"])
        if self.run_id is None:
            made = await self._made(self._order.name, self._tags())
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
            numbers = {key: float(value) for key, value in last.items() if isinstance(value, int | float)}
            (own if run["info"]["run_id"] == self.run_id else found).update(numbers)
        new = [
            {"key": key, "value": value, "timestamp": _now(), "step": 0}
            for key, value in found.items()
            if key not in own
        ]
        if new:
            await self._post("runs/log-batch", run_id=self.run_id, metrics=new[:_MANY_METRICS])
        return found | own

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

    async def _made(self, name: str, tags: Mapping[str, str], look: bool = False) -> dict[str, Any]:
        """A run of these tags: the one whose answer got lost, if there is such a one, else a new one."""
        wanted = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in sorted(tags) if key in _OWN)
        if wanted and (look or self._unsure):
            answer = await self._post("runs/search", experiment_ids=[self._experiment], filter=wanted, max_results=1000)
            for run in answer.get("runs", []):
                of_job = any(tag["key"] == "maestro.job" for tag in run.get("data", {}).get("tags", []))
                if of_job == ("maestro.job" in tags):  # a sweep's own run is no job's
                    return dict(run["info"])
        self._unsure = True
        answer = await self._post(
            "runs/create",
            experiment_id=self._experiment,
            user_id=self._environ.get("MAESTRO_USER", ""),
            run_name=name,
            start_time=self._began,
            tags=[{"key": key, "value": str(value)[:5000]} for key, value in tags.items()],
        )
        self._unsure = False
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


def _now() -> int:
    return int(time.time() * 1000)
