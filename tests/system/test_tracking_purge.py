"""A purged workspace leaves nothing in MLflow: its runs, models and files are removed, and everybody else's stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.singleuser import until
from tests.system.tracking_hub import Client, TrackingHub

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingHub]:
    hub = TrackingHub(tmp_path_factory.mktemp("tracking"))
    hub.workspaces.member("olga", reef="owner", lagoon="owner")
    try:
        yield hub.start()
    finally:
        hub.close()


def fill(who: Client, runs: int) -> None:
    """An experiment with runs, metrics, an artifact each, and a registered model."""
    experiment = who.experiment("study")
    for number in range(runs):
        run = who.run(experiment, tags=[{"key": "number", "value": str(number)}])
        run_id = run["info"]["run_id"]
        assert who.post("runs/log-metric", run_id=run_id, key="loss", value=0.5, timestamp=1).status_code == 200
        assert who.post("runs/log-parameter", run_id=run_id, key="depth", value="3").status_code == 200
        assert who.put_artifact(run, "model.bin", b"x" * 1000).status_code == 200
        who.post("registered-models/create", name="best")
        made = who.post("model-versions/create", name="best", source=f"runs:/{run_id}/model.bin", run_id=run_id)
        assert made.status_code == 200, made.text
    nested = who.post("runs/delete", run_id=run_id)
    assert nested.status_code == 200, "a deleted run is still there, and goes too"


def found(who: Client) -> tuple[int, int, int]:
    """Experiments (but for MLflow's own), runs and models that somebody sees."""
    experiments = who.post("experiments/search", max_results=100).json().get("experiments", [])
    own = [one["experiment_id"] for one in experiments if one["name"] != "Default"]
    runs = who.post("runs/search", experiment_ids=own, run_view_type="ALL").json().get("runs", []) if own else []
    models = who.get("registered-models/search", max_results=100).json().get("registered_models", [])
    return len(own), len(runs), len(models)


def test_what_was_purged_is_gone_and_the_rest_is_not(hub: TrackingHub) -> None:
    reef, lagoon = hub.client("olga", "reef"), hub.client("olga", "lagoon")
    fill(reef, 3)
    fill(lagoon, 1)
    artifacts = hub.state / "mlflow" / "artifacts" / "workspaces"
    assert (found(reef), found(lagoon)) == ((1, 3, 1), (1, 1, 1))
    assert {place.name for place in artifacts.iterdir()} == {"reef", "lagoon"}

    hub.workspaces.purged.append("reef")
    until(lambda: hub.workspaces.removed, f"nothing was removed: {hub.log[-2000:]}", 60)
    (removed,) = hub.workspaces.removed
    assert (removed["workspace"], removed["runs"], removed["models"]) == ("reef", 3, 1)
    assert removed["experiments"] >= 1
    assert removed["bytes"] >= 3000
    assert {place.name for place in artifacts.iterdir()} == {"lagoon"}

    # the name's next workspace, of the same owner, begins empty
    assert found(reef) == (0, 0, 0)
    assert found(lagoon) == (1, 1, 1)
    assert reef.experiment("study")


def test_a_workspace_that_mlflow_never_had_is_no_trouble(hub: TrackingHub) -> None:
    hub.workspaces.purged.append("never-used")
    until(lambda: len(hub.workspaces.removed) == 2, f"nothing was said: {hub.log[-2000:]}", 60)
    assert hub.workspaces.removed[1]["runs"] == 0
    assert Path(hub.state / "mlflow" / "mlflow.sqlite").exists()
