"""A grid and a search on the real system: the service is killed in between, a trial fails, and nothing is lost."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from tests.system.house import Maestro, Person, until
from tests.system.singleuser import has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(600)]
WORKSPACE = "sweeps"
NOTEBOOK = {
    "cells": [
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "x, depth, offset = 0.0, 1, 0"},
        {
            "cell_type": "code",
            "metadata": {},
            "source": "import mlflow\nassert depth != 3, 'too deep'\n"
            "mlflow.log_metric('loss', (x - offset) ** 2 + depth)",
        },
    ],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 4,
}
GRID = {"name": "depths", "grid": {"depth": [1, 3], "x": [0.0, 2.0]}}
SEARCH = {"name": "study", "search": {"x": {"low": -4.0, "high": 4.0}}, "trials": 5, "parameters": {"offset": 1}}


def notebook() -> str:
    """As clients send it."""
    cells = [{"outputs": [], "execution_count": None, **cell} for cell in NOTEBOOK["cells"]]  # type: ignore[attr-defined]
    packed = zstandard.ZstdCompressor().compress(json.dumps({**NOTEBOOK, "cells": cells}).encode())
    return base64.b64encode(packed).decode()


def service_pids(maestro: Maestro) -> list[int]:
    """The process of the workspaces service of this house, found by its state."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = f"MAESTRO_STATE={maestro.state}".encode()
            command = (place / "cmdline").read_bytes().split(b"\0")
            if b"maestro_hub_services.workspaces" in command and state in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return found


class Desk:
    """Somebody's sweeps, and MLflow as they see it."""

    def __init__(self, maestro: Maestro, person: Person) -> None:
        self.maestro, self.person = maestro, person
        self.api = person.api()
        self.token = person.token()

    def start(self, **spec: Any) -> str:
        body = {"notebook": "tune.ipynb", "content": notebook(), "metric": "loss", "goal": "minimize", **spec}
        answer = self.api.post(f"workspaces/{WORKSPACE}/sweeps", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["sweep_id"])

    def sweep(self, sweep_id: str) -> Any:
        """None while the service does not answer."""
        with contextlib.suppress(httpx.HTTPError):
            answer = self.api.get(f"sweeps/{sweep_id}")
            return answer.json() if answer.is_success else None

    def over(self, sweep_id: str) -> Any:
        def look() -> Any:
            found = self.sweep(sweep_id)
            return found if found and found["ended_at"] else None

        return until(look, 240, f"the sweep is not over: {self.sweep(sweep_id)}")

    def mlflow(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"token {self.token}", "X-MLFLOW-WORKSPACE": WORKSPACE}
        url = f"{self.maestro.url}services/mlflow/{path}"
        answer = httpx.request(method, url, headers=headers, timeout=60, **options)
        assert answer.status_code == 200, answer.text
        return answer

    def runs(self, sweep_id: str) -> list[dict[str, Any]]:
        """All runs that a sweep brought, in whichever state."""
        asked = {"experiment_name": WORKSPACE}
        experiment = self.mlflow("GET", "api/2.0/mlflow/experiments/get-by-name", params=asked).json()["experiment"]
        body = {"experiment_ids": [experiment["experiment_id"]], "filter": f"tags.`maestro.sweep` = '{sweep_id}'"}
        found = self.mlflow("POST", "api/2.0/mlflow/runs/search", json=body).json().get("runs", [])
        return [
            {
                **run["info"],
                **{kind: {one["key"]: one["value"] for one in run["data"].get(kind, [])}
                   for kind in ("params", "metrics", "tags")},
            }
            for run in found
        ]  # fmt: skip

    def artifact(self, run_id: str, path: str) -> bytes:
        return self.mlflow("GET", "get-artifact", params={"run_uuid": run_id, "path": path}).content


def test_a_grid_and_a_search_go_on_after_the_service_was_killed(maestro: Maestro) -> None:
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    desk = Desk(maestro, maestro.person("sweeps-uma"))
    assert desk.api.post("workspaces", json={"name": WORKSPACE, "description": ""}).status_code == 201
    grid, search = desk.start(**GRID), desk.start(**SEARCH)
    until(lambda: (desk.sweep(grid) or {}).get("done", 0) >= 1, 120, "the first trial does not end")
    (pid,) = service_pids(maestro)
    os.kill(pid, signal.SIGKILL)

    ended = desk.over(grid)
    assert (ended["status"], ended["done"], ended["failed"]) == ("succeeded", 4, 2), ended
    assert ended["reason"] == "2 of 4 trials failed"
    assert ended["best"]["parameters"] == {"depth": 1, "x": 0.0} and ended["best"]["value"] == 1.0
    assert {trial["reason"] for trial in ended["trials"] if trial["value"] is None} == {
        "Cell 3 raised AssertionError: too deep."
    }
    runs = {run["run_name"]: run for run in desk.runs(grid)}
    parent = runs.pop("depths")
    assert sorted(runs) == [f"depths {number}" for number in (1, 2, 3, 4)], "no trial ran twice"
    assert {run["tags"]["mlflow.parentRunId"] for run in runs.values()} == {parent["run_id"]}
    assert [runs[f"depths {number}"]["status"] for number in (1, 2, 3, 4)] == [
        "FINISHED",
        "FINISHED",
        "FAILED",
        "FAILED",
    ]
    assert (parent["status"], parent["user_id"]) == ("FINISHED", desk.person.name)
    assert parent["params"] == {"depth": "1", "x": "0.0"} and parent["metrics"]["best loss"] == 1.0
    assert "**Best:** trial 1" in parent["tags"]["mlflow.note.content"]
    assert desk.artifact(parent["run_id"], "summary/plot.png").startswith(b"\x89PNG")

    ended = desk.over(search)
    assert (ended["status"], ended["done"], ended["failed"]) == ("succeeded", 5, 0), ended
    rows = list(csv.DictReader(io.StringIO(desk.artifact(ended["parent_run"], "summary/trials.csv").decode())))
    assert [row["trial"] for row in rows] == list("12345")
    for row in rows:
        assert float(row["value"]) == pytest.approx((float(row["x"]) - 1) ** 2 + 1)
    assert ended["best"]["value"] == min(float(row["value"]) for row in rows)
    names = sorted(run["run_name"] for run in desk.runs(search))
    assert names == ["study", *(f"study {number}" for number in range(1, 6))]

    cancelled = desk.start(name="stopped", grid={"depth": list(range(10, 30))})
    until(lambda: (desk.sweep(cancelled) or {}).get("parent_run"), 120, "no trial begins")
    assert desk.api.post(f"sweeps/{cancelled}/cancel").status_code == 200
    ended = desk.over(cancelled)
    assert (ended["status"], ended["reason"]) == ("cancelled", f"cancelled by {desk.person.name}")
    left = [run["run_name"] for run in desk.runs(cancelled) if run["status"] in ("RUNNING", "SCHEDULED")]
    assert not left
    (parent,) = [run for run in desk.runs(cancelled) if run["run_name"] == "stopped"]
    assert parent["status"] == "KILLED"
