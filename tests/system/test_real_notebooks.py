"""Notebooks as people write them, on the real system: scikit-learn, Optuna, PyTorch, threads and forked workers.

Each is saved as JupyterLab saves it, run cell by cell in a kernel, and read back from MLflow as the person who ran it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.house import Maestro, Person, until
from tests.system.singleuser import NotebookServer, Outcome, has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(600)]
WORKSPACE = "real-notebooks"

#: the usual first notebook of a scikit-learn course: autolog, then by hand, then a model in the registry
SCIKIT_LEARN = """
import mlflow
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import train_test_split

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=7)
# ---
mlflow.autolog(log_models=False, silent=True)
forest = RandomForestRegressor(n_estimators=10, max_depth=6, random_state=7).fit(X_train, y_train)
print("score", forest.score(X_test, y_test))
# ---
mlflow.autolog(disable=True)
with mlflow.start_run(run_name="by hand"):
    mlflow.log_params({"n_estimators": 12, "max_depth": 4})
    by_hand = RandomForestRegressor(n_estimators=12, max_depth=4, random_state=7).fit(X_train, y_train)
    mlflow.log_metric("mse", mean_squared_error(y_test, by_hand.predict(X_test)))
    mlflow.sklearn.log_model(
        by_hand,
        name="model",
        registered_model_name="diabetes",
        pip_requirements=["scikit-learn"],
        skops_trusted_types=["sklearn.tree._tree.Tree"],  # MLflow asks for this of models with trees
    )
# ---
again = mlflow.sklearn.load_model("models:/diabetes/1")
assert (again.predict(X_test) == by_hand.predict(X_test)).all()
"""

#: Optuna's own tutorial with a child run a trial
OPTUNA = """
import mlflow, optuna

def objective(trial):
    with mlflow.start_run(run_name=f"trial {trial.number}", nested=True):
        x = trial.suggest_float("x", -10, 10)
        kind = trial.suggest_categorical("kind", ["square", "cube"])
        mlflow.log_params({"x": x, "kind": kind})
        loss = (x - 2) ** 2 if kind == "square" else abs(x - 2) ** 3
        mlflow.log_metric("loss", loss)
        return loss
# ---
optuna.logging.set_verbosity(optuna.logging.WARNING)
with mlflow.start_run(run_name="study"):
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=3))
    study.optimize(objective, n_trials=5)
    mlflow.log_params({f"best {name}": value for name, value in study.best_params.items()})
    mlflow.log_metric("best loss", study.best_value)
"""

#: PyTorch's, installed as the notebook's first cell does everywhere
PYTORCH = """
!pip install -q torch==2.13.0
# ---
import mlflow, torch
from torch import nn

torch.manual_seed(7)
x = torch.linspace(-1, 1, 64).unsqueeze(1)
y = 3 * x + 0.5
model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
# ---
with mlflow.start_run(run_name="training"):
    mlflow.log_params({"lr": 0.05, "epochs": 40, "torch": torch.__version__.split("+")[0]})
    for epoch in range(40):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        mlflow.log_metric("loss", loss.item(), step=epoch)
    torch.save(model.state_dict(), "weights.pt")
    mlflow.log_artifact("weights.pt", "weights")
# ---
%mlflow_log_metric never 1
# ---
weights = mlflow.artifacts.download_artifacts(
    run_id=mlflow.last_active_run().info.run_id, artifact_path="weights/weights.pt"
)
model.load_state_dict(torch.load(weights, weights_only=True))
"""

#: four threads and a forked worker that log to one run, a worker that starts one of its own, and two that start none
WORKERS = """
import concurrent.futures, multiprocessing, mlflow

def count(run_id, name, steps=25):
    client = mlflow.MlflowClient()
    for step in range(steps):
        client.log_metric(run_id, name, step, step=step)

def own_run(parent_id):
    with mlflow.start_run(run_name="of the worker", parent_run_id=parent_id):
        mlflow.log_metric("mine", 1)

def plainly(step):
    mlflow.log_metric("plain", step)
    1 / step
# ---
with mlflow.start_run(run_name="shared") as run, concurrent.futures.ThreadPoolExecutor(4) as threads:
    list(threads.map(lambda number: count(run.info.run_id, f"thread {number}"), range(4)))
    fork = multiprocessing.get_context("fork")
    plans = ((count, run.info.run_id, "fork"), (own_run, run.info.run_id), (plainly, 2), (plainly, 0))
    for target, *arguments in plans:
        worker = fork.Process(target=target, args=arguments)
        worker.start()
        worker.join(60)
        assert worker.exitcode == (arguments == [0]), worker.exitcode
    mlflow.log_metric("end", 1)
"""


@dataclass(frozen=True)
class Run:
    """A run as MLflow tells it to the person."""

    name: str
    status: str
    user: str
    parameters: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    run_id: str


@dataclass(frozen=True)
class Desk:
    """Somebody at work: a server, and MLflow as its person sees it."""

    maestro: Maestro
    person: Person
    server: NotebookServer
    launch: str

    def save(self, path: str, cells: list[str]) -> str:
        """Save a notebook as JupyterLab does; the address of its version."""
        content = {
            "cells": [
                {
                    "id": f"cell-{number}",
                    "cell_type": "code",
                    "source": source,
                    "metadata": {},
                    "outputs": [],
                    "execution_count": None,
                }
                for number, source in enumerate(cells)
            ],
            "metadata": {},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        saved = self.server.api("PUT", f"api/contents/{path}", json={"type": "notebook", "content": content})
        assert saved.is_success, saved.text
        with self.person.api() as api:
            place = f"workspaces/{WORKSPACE}/snapshots"
            (version,) = until(
                lambda: api.get(place, params={"path": path}).json()["snapshots"], 60, "no version was kept"
            )
        return str(version["address"])

    async def run(self, path: str, text: str) -> tuple[str, list[Outcome]]:
        """Save a notebook and run its cells one after the other; the version that ran, and what each cell showed."""
        cells = [textwrap.dedent(cell).strip() for cell in text.split("# ---\n")]
        version = self.save(path, cells)
        notebook = self.server.open_notebook(path)
        outcomes = [await notebook.run(cell, f"cell-{number}", 300) for number, cell in enumerate(cells)]
        for cell, outcome in zip(cells, outcomes, strict=True):
            assert outcome.status == "ok", f"{cell}\n{outcome.text}"
        return version, outcomes

    def mlflow(self, method: str, path: str, **options: Any) -> Any:
        """MLflow's REST API as this person."""
        headers = {"Authorization": f"token {self.person.token()}", "X-MLFLOW-WORKSPACE": WORKSPACE}
        url = f"{self.maestro.url}services/mlflow/api/2.0/mlflow/{path}"
        answer = httpx.request(method, url, headers=headers, timeout=60, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def runs(self, path: str) -> dict[str, Run]:
        """The runs of a notebook by name, all in the workspace's experiment."""
        asked = {"experiment_name": WORKSPACE}
        experiment = self.mlflow("GET", "experiments/get-by-name", params=asked)["experiment"]["experiment_id"]
        body = {"experiment_ids": [experiment], "filter": f"tags.`maestro.notebook` = '{path}'"}
        found = (_run(one) for one in self.mlflow("POST", "runs/search", json=body).get("runs", []))
        return {run.name: run for run in found}

    def told(self, run: Run, path: str, version: str, cell: int) -> None:
        """Whose run it is and where it comes from."""
        assert (run.user, run.status) == (self.person.name, "FINISHED")
        said = {name.removeprefix("maestro."): value for name, value in run.tags.items() if name.startswith("maestro.")}
        expected = {"notebook": path, "snapshot": version, "dirty": "false", "cell": f"cell-{cell}"}
        expected |= {"workspace": WORKSPACE, "launch": self.launch, "user": self.person.name}
        assert said.items() >= expected.items(), said


def _run(found: dict[str, Any]) -> Run:
    info, data = found["info"], found["data"]
    parameters, metrics, tags = (
        {one["key"]: one["value"] for one in data.get(kind, [])} for kind in ("params", "metrics", "tags")
    )
    return Run(info["run_name"], info["status"], info["user_id"], parameters, metrics, tags, info["run_id"])


@pytest.fixture(scope="module")
def desk(maestro: Maestro) -> Iterator[Desk]:
    """One server for all of these notebooks."""
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    person = maestro.person("real-rosa")
    with person.api() as api:
        assert api.post("workspaces", json={"name": WORKSPACE, "description": ""}).status_code == 201
        started = api.post("launches", json={"workspace": WORKSPACE})
        assert started.is_success, started.text
        launch = started.json()["session_id"]
        until(lambda: api.get(f"launches/{launch}").json()["status"] == "running", 120, "the server does not come up")
        url = f"{maestro.url}user/{person.name}/{WORKSPACE}/"
        server = NotebookServer(url, None, Path(), token=person.token())
        try:
            yield Desk(maestro, person, server, launch)
        finally:
            api.delete(f"launches/{launch}")


async def test_a_scikit_learn_notebook(desk: Desk) -> None:
    version, outcomes = await desk.run("forest.ipynb", SCIKIT_LEARN)
    runs = desk.runs("forest.ipynb")
    by_hand = runs.pop("by hand")
    (automatic,) = runs.values()
    desk.told(automatic, "forest.ipynb", version, 1)
    desk.told(by_hand, "forest.ipynb", version, 2)
    assert automatic.parameters["max_depth"] == "6" and 0.5 < automatic.metrics["training_score"] <= 1
    assert by_hand.parameters == {"n_estimators": "12", "max_depth": "4"} and by_hand.metrics["mse"] > 0
    assert "Run <b>by hand</b> finished" in outcomes[2].html
    # from the model to the run, and so to the notebook's version
    asked = {"name": "diabetes", "version": "1"}
    model = desk.mlflow("GET", "model-versions/get", params=asked)["model_version"]
    assert model["run_id"] == by_hand.run_id


async def test_an_optuna_study(desk: Desk) -> None:
    version, _ = await desk.run("study.ipynb", OPTUNA)
    runs = desk.runs("study.ipynb")
    study = runs.pop("study")
    desk.told(study, "study.ipynb", version, 1)
    assert sorted(runs) == [f"trial {number}" for number in range(5)]
    for trial in runs.values():
        desk.told(trial, "study.ipynb", version, 1)
        assert trial.tags["mlflow.parentRunId"] == study.run_id and set(trial.parameters) == {"x", "kind"}
    best = min(runs.values(), key=lambda run: run.metrics["loss"])
    assert study.metrics["best loss"] == best.metrics["loss"] and study.parameters["best x"] == best.parameters["x"]


async def test_a_pytorch_notebook_that_installs_pytorch(desk: Desk) -> None:
    version, outcomes = await desk.run("training.ipynb", PYTORCH)
    (run,) = desk.runs("training.ipynb").values()
    desk.told(run, "training.ipynb", version, 2)
    assert run.parameters == {"lr": "0.05", "epochs": "40", "torch": "2.13.0"}
    asked = {"run_id": run.run_id, "metric_key": "loss"}
    losses = desk.mlflow("GET", "metrics/get-history", params=asked)["metrics"]
    assert [loss["step"] for loss in losses] == list(range(40)) and losses[-1]["value"] < 0.1 < losses[0]["value"]
    assert "No run is active" in outcomes[3].html + outcomes[3].text


async def test_threads_and_forked_workers_log_to_the_run_that_they_mean(desk: Desk) -> None:
    version, _ = await desk.run("workers.ipynb", WORKERS)
    runs = desk.runs("workers.ipynb")
    shared, nested = runs.pop("shared"), runs.pop("of the worker")
    good, bad = sorted(runs.values(), key=lambda run: run.metrics["plain"], reverse=True)
    for run in (shared, nested, good):
        desk.told(run, "workers.ipynb", version, 1)
    assert nested.tags["mlflow.parentRunId"] == shared.run_id
    assert (bad.status, bad.tags["maestro.reason"]) == ("FAILED", "ZeroDivisionError: division by zero")
    series = ["fork", *(f"thread {number}" for number in range(4))]
    assert set(shared.metrics) == {"end", *series}
    for name in series:
        asked = {"run_id": shared.run_id, "metric_key": name}
        values = desk.mlflow("GET", "metrics/get-history", params=asked)["metrics"]
        assert sorted(value["value"] for value in values) == list(range(25)), name
