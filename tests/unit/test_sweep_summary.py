"""The summary of a sweep, written into a real MLflow: what stands in the parent run, and that it is written once."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import mlflow
import pytest

from maestro_core.jobs import JobStatus
from maestro_core.sweeps import SummaryOrder, TrialView
from server_extension.jobs import sweep_summary

TRIALS = (
    TrialView(number=1, parameters={"rate": 0.1, "kind": "a|b"}, status=JobStatus.SUCCEEDED, value=0.5, run_id="r1"),
    TrialView(number=2, parameters={"rate": 0.001, "kind": "$x"}, status=JobStatus.SUCCEEDED, value=0.25, run_id="r2"),
    TrialView(number=3, parameters={"rate": 0.5, "kind": None}, status=JobStatus.FAILED, reason="no\nmemory"),
)


def order(**changes: object) -> SummaryOrder:
    given = {"sweep_id": "w-1", "name": "rates", "path": "a.ipynb", "metric": "loss", "goal": "minimize"}
    return SummaryOrder.model_validate({**given, "status": "FINISHED", "total": 3, "trials": TRIALS, **changes})


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.sqlite")


def parent(client: mlflow.MlflowClient, folder: Path) -> str:
    experiment = client.create_experiment(folder.name, artifact_location=str(folder / "artifacts"))
    return str(client.create_run(experiment).info.run_id)


def test_the_parent_run_shows_the_best_trial_a_table_and_a_plot(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    run_id = parent(client, tmp_path)
    for _ in range(2):  # a second attempt of the job
        sweep_summary.write(client, run_id, order(reason="1 of 3 trials failed"))
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.params == {"rate": "0.001", "kind": "$x"}
    assert run.data.metrics == {"loss": 0.25, "best loss": 0.25}
    assert (run.data.tags["maestro.sweep.best_run"], run.data.tags["maestro.reason"]) == ("r2", "1 of 3 trials failed")
    assert [(one.step, one.value) for one in client.get_metric_history(run_id, "best loss")] == [(1, 0.5), (2, 0.25)]
    note = run.data.tags["mlflow.note.content"]
    assert "2 of 3 trials of `a.ipynb` succeeded" in note and "trial 2, loss 0.25 with rate = 0.001" in note
    assert r"a\|b" in note and note.index("| 2 |") < note.index("| 1 |") < note.index("| 3 |"), "the best first"

    folder = tmp_path / "artifacts" / run_id / "artifacts" / "summary"
    rows = list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))
    assert [row["value"] for row in rows] == ["0.5", "0.25", ""] and rows[2]["reason"] == "no\nmemory"
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG") and (folder / "summary.md").exists()


def test_without_a_metric_or_a_value_there_is_a_table_alone(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    run_id = parent(client, tmp_path)
    failed = [trial.model_copy(update={"value": None, "status": JobStatus.FAILED}) for trial in TRIALS]
    sweep_summary.write(client, run_id, order(trials=failed, status="FAILED", reason="all of its 3 trials failed"))
    run = client.get_run(run_id)
    assert (run.info.status, run.data.params, run.data.metrics) == ("FAILED", {}, {})
    assert [one.path for one in client.list_artifacts(run_id, "summary")] == [
        "summary/summary.md",
        "summary/trials.csv",
    ]
    assert sweep_summary.plot(order(metric=None, goal=None, trials=failed)) is None


def test_many_parameters_and_texts_are_drawn(tmp_path: Path) -> None:
    trials = [
        TrialView(
            number=number,
            parameters={f"p{at}": number * at if at % 2 else f"text {number * at}" for at in range(10)},
            status=JobStatus.SUCCEEDED,
            value=float(number),
        )
        for number in range(1, 8)
    ]
    figure = sweep_summary.plot(order(trials=trials, goal="maximize", total=7))
    assert figure is not None
    figure.savefig(tmp_path / "plot.png")
    shown = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert shown == ["trial", "p1", "p2", "p3", "p4", "p5", "p6"]
