"""A workspace and its experiment, each brought into the other: on a real MLflow, again and again, and killed midway."""

from __future__ import annotations

import csv
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from notebooks.sync import outgoing
from notebooks.sync.tree import _digest
from tests.system.mlflow_alone import MlflowAlone
from tests.system.singleuser import ROOT
from tests.system.tracking_hub import PREFIX, Client

DAY = "2026-01-0{}T08:00:00Z"


class Workspace:
    """One workspace of one test, seen from inside: its folder, its API's answers, its MLflow workspace.

    Attributes:
        answers: what the API says, by what follows the workspace's name.
    """

    def __init__(self, mlflow: MlflowAlone, folder: Path) -> None:
        self.name, person = f"w-{secrets.token_hex(4)}", f"ann-{secrets.token_hex(4)}"
        self.folder = folder
        self.mlflow = mlflow
        mlflow.workspaces.member(person, **{self.name: "editor"})
        self.ann = mlflow.client(person, self.name)
        about = {
            "workspace_id": "0123", "name": self.name, "description": "", "personal": False, "role": "editor",
            "created_by": "ann", "created_at": DAY.format(1), "members": 1, "servers": {"used": 1, "limit": 3},
            "settings": {"experiment": "churn", "packages": ["numpy"]},
        }  # fmt: skip
        version = {"version": 1, "parent": 0, "author": "ann", "at": DAY.format(2), "requirements": ["numpy"]}
        saved = {"path": "a.ipynb", "author": "ann", "launch_id": "l1", "cells": 3, "size": 99}
        months = [{"month": "2025-12", "cpu": 9.5, "gpu": 2}]
        self.answers: dict[str, Any] = {
            "": about,
            "/members": {"members": [{"kind": "user", "name": "ann", "role": "editor", "added_by": "ann",
                                      "added_at": DAY.format(1)}]},
            "/environment": {**version, "workspace": self.name, "current": 1, "packages": []},
            "/environment/history": {"workspace": self.name, "versions": [version]},
            "/usage": {"workspace": self.name, "month": {"cpu": 1.2, "gpu": 0}, "months": months, "storage_used": 5},
            "/snapshots": {"snapshots": [{**saved, "address": "a" * 64, "saved_at": DAY.format(3)}]},
        }  # fmt: skip
        workspace = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                place = self.path.partition("?")[0].removeprefix(f"/workspaces/{workspace.name}")
                body = json.dumps(workspace.answers.get(place)).encode()
                self.send_response(200 if place in workspace.answers else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._api = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._api.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What a terminal of a server in the workspace holds."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder.parent),
            "PYTHONPATH": str(ROOT),
            "MAESTRO_LAUNCH_ID": "l1",
            "MAESTRO_WORKSPACE": self.name,
            "MAESTRO_WORKSPACE_ID": "0123",
            "MAESTRO_WORKSPACE_DIR": str(self.folder),
            "MAESTRO_SERVICE_URL": f"http://127.0.0.1:{self._api.server_port}",
            "MAESTRO_TRACKING_URI": f"{self.mlflow.url}{PREFIX}".rstrip("/"),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9/what-a-tutorial-set",
            "JUPYTERHUB_API_TOKEN": self.ann.token,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def python(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.environment | changes,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=180,
        )

    def sync(self, *arguments: str, **changes: str) -> dict[str, Any]:
        """``maestro sync`` in the terminal: what it reports."""
        done = self.python("-m", "notebooks.cli", "sync", self.name, *arguments, "--json", **changes)
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(done.stdout))

    def log_run(self, name: str, **artifacts: str) -> dict[str, Any]:
        """A run with a parameter, a metric of three steps and artifacts."""
        found = self.ann.get("experiments/get-by-name", experiment_name="churn").json()
        experiment = found["experiment"]["experiment_id"] if "experiment" in found else self.ann.experiment("churn")
        run = self.ann.run(experiment, run_name=name)
        run_id = run["info"]["run_id"]
        for step in range(3):
            self.ann.post("runs/log-metric", run_id=run_id, key="loss", value=1 / (step + 1), timestamp=1, step=step)
        self.ann.post("runs/log-parameter", run_id=run_id, key="depth", value="3")
        for path, content in artifacts.items():
            assert self.ann.put_artifact(run, path.replace("__", "/"), content.encode()).status_code == 200
        return run

    @property
    def shown(self) -> Path:
        return self.folder / "experiments/churn"

    def close(self) -> None:
        self._api.shutdown()
        self._api.server_close()


@pytest.fixture
def workspace(mlflow: MlflowAlone, tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "workspace").mkdir()
    made = Workspace(mlflow, tmp_path / "workspace")
    try:
        yield made
    finally:
        made.close()


def kept(ann: Client) -> list[dict[str, Any]]:
    """The runs that hold what is kept about the workspace."""
    experiment = ann.get("experiments/get-by-name", experiment_name="churn").json()["experiment"]["experiment_id"]
    query = {"experiment_ids": [experiment], "filter": "tags.`maestro.sync` != ''"}
    return list(ann.post("runs/search", **query).json().get("runs", []))


def tags_of(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}


def document(ann: Client, run: dict[str, Any], name: str) -> str:
    """A document of the state that counts, as text."""
    path = f"{tags_of(run)['maestro.sync.folder']}/{name}"
    answer = ann.get("/get-artifact", run_id=run["info"]["run_id"], path=path)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_workspace_goes_into_its_experiment_once(workspace: Workspace) -> None:
    """Metadata, configuration and usage; the second sync changes nothing, and a change moves on at once."""
    (workspace.folder / "train.yaml").write_text("depth: 3\n")
    (workspace.folder / ".secret.yaml").write_text("hidden: true\n")
    (workspace.folder / "link.yaml").symlink_to("/etc/hostname")
    assert workspace.sync("--to-experiment")["stored"] is True
    (run,) = kept(workspace.ann)
    assert run["info"]["status"] == "FINISHED" and run["info"]["run_name"] == f"workspace {workspace.name}"
    assert json.loads(document(workspace.ann, run, "workspace.json"))["experiments"][0]["name"] == "churn"
    assert json.loads(document(workspace.ann, run, "notebooks.json"))["notebooks"][0]["path"] == "a.ipynb"
    assert json.loads(document(workspace.ann, run, "environment.json"))["environment_history"][0]["requirements"] == [
        "numpy"
    ]
    assert json.loads(document(workspace.ann, run, "usage.json"))["months"][0] == {
        "month": "2025-12",
        "cpu": 10,
        "gpu": 2,
    }
    assert "experiment: churn" in document(workspace.ann, run, "configuration/workspace-settings.yaml")
    assert document(workspace.ann, run, "configuration/files/train.yaml") == "depth: 3\n"
    listed = workspace.ann.get(
        "artifacts/list",
        run_id=run["info"]["run_id"],
        path=f"{tags_of(run)['maestro.sync.folder']}/configuration/files",
    )
    assert [Path(one["path"]).name for one in listed.json()["files"]] == ["train.yaml"]

    workspace.answers["/usage"]["month"]["cpu"] = 1.3  # a second later
    assert workspace.sync("--to-experiment")["stored"] is False
    assert kept(workspace.ann) == [run]

    workspace.answers["/usage"]["month"]["cpu"] = 4.0
    assert workspace.sync("--to-experiment")["stored"] is True
    (later,) = kept(workspace.ann)
    assert later["info"]["run_id"] == run["info"]["run_id"]
    assert json.loads(document(workspace.ann, later, "usage.json"))["months"][1]["cpu"] == 4
    history = workspace.ann.get("metrics/get-history", run_id=run["info"]["run_id"], metric_key="cpu_hours").json()
    assert sorted((one["step"] == 202512, one["value"]) for one in history["metrics"]) == [
        (False, 1), (False, 4), (True, 10),
    ]  # fmt: skip


def test_an_experiment_comes_into_its_workspace_once(workspace: Workspace) -> None:
    """Runs as parquet and CSV, every value of a metric, chosen artifacts; again: nothing changes."""
    import pandas

    first = workspace.log_run("first", **{"plots__a.txt": "a plot", "model.bin": "weights"})
    report = workspace.sync("--full", "--artifact", "plots/*")
    assert report["folder"] == "experiments/churn" and report["fetched"] and report["stored"]
    rows = list(csv.DictReader((workspace.shown / "runs.csv").open()))
    assert [(row["run_name"], row["params.depth"]) for row in rows] == [("first", "3")]
    frame = pandas.read_parquet(workspace.shown / "runs.parquet")
    assert list(frame["run_id"]) == [first["info"]["run_id"]] and frame["metrics.loss"][0] == pytest.approx(1 / 3)
    metrics = pandas.read_parquet(workspace.shown / "metrics.parquet")
    assert [(one.metric, one.step) for one in metrics.itertuples()] == [("loss", 0), ("loss", 1), ("loss", 2)]
    artifacts = workspace.shown / "artifacts" / first["info"]["run_id"]
    assert [str(one.relative_to(artifacts)) for one in artifacts.rglob("*") if one.is_file()] == ["plots/a.txt"]
    assert not os.stat(workspace.shown / "runs.csv").st_mode & 0o222

    before = os.readlink(workspace.shown)
    again = workspace.sync("--full")  # the patterns are those of the time before
    assert (again["fetched"], again["stored"]) == (False, False) and os.readlink(workspace.shown) == before

    workspace.log_run("second")
    assert workspace.sync("--from-experiment")["fetched"] is True
    assert {row["run_name"] for row in csv.DictReader((workspace.shown / "runs.csv").open())} == {"first", "second"}
    assert (workspace.shown / "artifacts").is_dir()
    assert len(list((workspace.folder / "experiments/.versions").iterdir())) == 1


DOCUMENTS = (
    "workspace.json",
    "notebooks.json",
    "environment.json",
    "usage.json",
    "configuration/workspace-settings.yaml",
    "configuration/files/turn.yaml",
)
ROUNDS = """
import os, random, signal, sys, time
from notebooks.api import Api
from notebooks.sync import sync_workspace
import mlflow, pandas, pyarrow.parquet
api, name, check = Api(), sys.argv[1], sys.argv[2]
def once():
    sync_workspace(Api(), name, to_experiment=True, from_experiment=True, artifacts=["*"])
began = time.monotonic()
child = os.fork()
if child == 0:
    once()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
takes = time.monotonic() - began
for turn in range(20):
    open("turn.yaml", "w").write(f"turn: {turn}")
    child = os.fork()
    if child == 0:
        once()
        os._exit(0)
    time.sleep(random.uniform(0, takes))
    os.kill(child, signal.SIGKILL)
    print(turn, os.waitpid(child, 0)[1] == 9, os.path.realpath("experiments/churn"), flush=True)
    sys.stdin.readline()
once()
"""


def test_a_sync_that_is_killed_leaves_the_old_or_the_new(workspace: Workspace) -> None:
    """Twenty times, at any moment, while the experiment and the workspace change; then one that is let through."""
    workspace.log_run("first", **{"a.txt": "a", "b.txt": "b"})
    (workspace.folder / "turn.yaml").write_text("turn: 0")
    command = [sys.executable, "-W", "ignore", "-c", ROUNDS, workspace.name, ""]
    killed = 0
    with subprocess.Popen(
        command, env=workspace.environment, cwd=workspace.folder, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        for turn in range(20):
            line = process.stdout.readline().split()
            assert line[:1] == [str(turn)], process.stderr.read()[-3000:]
            killed += line[1] == "True"
            version = workspace.shown.resolve()
            assert version.name == f"churn-{_digest(version)}", "a half is shown"
            (run,) = kept(workspace.ann)
            files = {name: document(workspace.ann, run, name).encode() for name in DOCUMENTS}
            assert tags_of(run)["maestro.sync.folder"].startswith(f"sync/{outgoing._digest(files)}-"), "a half counts"
            workspace.log_run(f"run {turn}")
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.wait(60) == 0, process.stderr.read()[-3000:]
    assert killed >= 5
    rows = list(csv.DictReader((workspace.shown / "runs.csv").open()))
    assert len(rows) == 21 and len({row["run_id"] for row in rows}) == 21
    assert {one.name for one in (workspace.folder / "experiments/.versions").iterdir()} == {
        workspace.shown.resolve().name
    }
    (run,) = kept(workspace.ann)
    assert (
        document(workspace.ann, run, "configuration/files/turn.yaml") == "turn: 19"
        and run["info"]["status"] == "FINISHED"
    )


def test_what_cannot_be_synced_says_why(workspace: Workspace) -> None:
    def sentence(*arguments: str, **changes: str) -> str:
        done = workspace.python("-m", "notebooks.cli", "sync", workspace.name, *arguments, **changes)
        assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
        return " ".join(done.stderr.split())

    assert "Say which way" in sentence()
    outside = "from notebooks.sync import *; from notebooks.api import Api; sync_workspace(Api(), to_experiment=True)"
    assert "open a terminal of a server" in workspace.python("-c", outside, MAESTRO_WORKSPACE_ID="another").stderr
    assert "no experiment 'churn' yet" in sentence("--from-experiment")
    workspace.log_run("first")
    workspace.shown.parent.mkdir(exist_ok=True)
    workspace.shown.mkdir()
    (workspace.shown / "mine.txt").write_text("mine")
    assert "experiments/churn is no folder of a sync" in sentence("--from-experiment")
    assert (workspace.shown / "mine.txt").read_text() == "mine"
    workspace.answers[""]["role"] = "viewer"
    assert "you are a viewer" in sentence("--full")
