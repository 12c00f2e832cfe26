"""A model is loaded outside the Hub: by plain MLflow, where nothing of Maestro is, with a token that does only that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.house import API, Maestro, Person
from tests.system.singleuser import until

TRAIN = """
import mlflow
class Twice(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[float]) -> list[float]:
        return [2 * value for value in model_input]
mlflow.set_experiment("training")
with mlflow.start_run() as run:
    mlflow.log_param("secret", "of the run")
    mlflow.log_text("a secret", "secret.txt")
    more = {"python_model": Twice(), "pip_requirements": []}
    logged = mlflow.pyfunc.log_model(name="twice", registered_model_name="twice", **more)
    other = mlflow.pyfunc.log_model(name="unregistered", **more)
client = mlflow.MlflowClient()
client.set_registered_model_alias("twice", "champion", 1)
print(run.info.run_id, run.info.experiment_id, logged.model_id, other.model_id)
"""

#: as it stands in docs/production.md, and what a curious program would try next
SERVE = """
import importlib.util, sys
assert not [name for name in ("maestro_core", "notebooks", "ipython_magics") if importlib.util.find_spec(name)]
import mlflow
model = mlflow.pyfunc.load_model("models:/twice@champion")
print(model.predict([1.0, 2.0]))
for version, value in (("1", 3.0), ("latest", 4.0)):
    print(mlflow.pyfunc.load_model(f"models:/twice/{version}").predict([value]))
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages without Maestro."""
    folder = tmp_path_factory.mktemp("plain")
    site = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    for entry in site.iterdir():
        if "maestro" not in entry.name and not entry.name.endswith(".pth"):
            (folder / entry.name).symlink_to(entry)
    return folder


def mlflow_program(plain: Path, folder: Path, url: str, token: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run it with what docs/production.md sets, and without Maestro."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(plain),
        "MLFLOW_TRACKING_URI": f"{url}services/mlflow",
        "MLFLOW_TRACKING_TOKEN": token,
        "MLFLOW_WORKSPACE": "forecast",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    }
    command = [sys.executable, "-S", "-W", "ignore", "-c", program]  # -S: no .pth, so no editable installation
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def ann(maestro: Maestro) -> Person:
    person = maestro.person("prod-ann")
    for name in ("forecast", "private"):
        answer = person.api().post("workspaces", json={"name": name})
        assert answer.status_code == 201, answer.text
    return person


def test_a_model_is_loaded_outside_and_the_token_does_nothing_else(
    maestro: Maestro, ann: Person, plain: Path, tmp_path: Path
) -> None:
    trained = mlflow_program(plain, tmp_path, maestro.url, ann.token(), TRAIN)
    assert trained.returncode == 0, trained.stderr[-3000:]
    run, experiment, model, other = trained.stdout.split()[-4:]

    token = ann.token([f"custom:maestro:models!server={ann.name}/forecast"])
    served = mlflow_program(plain, tmp_path, maestro.url, token, SERVE)
    assert served.returncode == 0, served.stderr[-3000:]
    assert served.stdout.split("\n")[:3] == ["[2.0, 4.0]", "[6.0]", "[8.0]"]

    bearer = {"Authorization": f"Bearer {token}", "X-MLFLOW-WORKSPACE": "forecast"}
    mlflow = httpx.Client(base_url=f"{maestro.url}services/mlflow/", headers=bearer, timeout=60)
    files = "api/2.0/mlflow-artifacts/artifacts"
    assert mlflow.get(f"{files}/{experiment}/models/{model}/artifacts/MLmodel").status_code == 200
    two = "api/2.0/mlflow/"
    refused: list[tuple[str, str, Any]] = [
        ("GET", f"{two}runs/get?run_id={run}", None),
        ("POST", f"{two}runs/search", {"experiment_ids": [experiment]}),
        ("POST", f"{two}runs/create", {"experiment_id": experiment}),
        ("POST", f"{two}experiments/search", {"max_results": 10}),
        ("GET", f"{two}registered-models/search", None),
        ("GET", f"{two}model-versions/search", None),
        ("DELETE", f"{two}registered-models/alias", {"name": "twice", "alias": "champion"}),
        ("POST", f"{two}model-versions/create", {"name": "twice", "source": f"models:/{other}"}),
        ("GET", f"{two}logged-models/{other}", None),
        ("POST", f"{two}logged-models/search", {"experiment_ids": [experiment]}),
        ("GET", f"{files}/{experiment}/models/{other}/artifacts/MLmodel", None),
        ("GET", f"{files}/{experiment}/{run}/artifacts/secret.txt", None),
        ("GET", f"{files}/{experiment}/models/{model}/artifacts/%2e%2e/%2e%2e/%2e%2e/{run}/artifacts/secret.txt", None),
        ("GET", f"{files}/{experiment}/models/{model}/artifacts/%252e%252e/x", None),
        ("PUT", f"{files}/{experiment}/models/{model}/artifacts/MLmodel", {}),
        ("GET", files, None),
        ("GET", f"{files}?path={experiment}", None),
        ("GET", f"{files}?path={experiment}/models/{model}/artifacts&path={experiment}", None),
        ("GET", f"get-artifact?run_id={run}&path=secret.txt", None),
        ("POST", "graphql", {"query": "{ test }"}),
        ("GET", "", None),
        ("GET", "api/3.0/mlflow/workspaces", None),
    ]
    for method, path, body in refused:
        answer = mlflow.request(method, path, json=body)
        assert answer.status_code == 403, f"{method} {path}: {answer.status_code} {answer.text[:200]}"
        assert "secret" not in answer.text
    elsewhere = mlflow.get(f"{two}registered-models/get?name=x", headers={"X-MLFLOW-WORKSPACE": "private"})
    assert elsewhere.status_code == 404 and "no workspace" in elsewhere.text

    for method, path, body in (
        ("GET", f"{API}workspaces", None),
        ("GET", f"{API}me", None),
        ("POST", f"{API}workspaces", {"name": "made-by-production"}),
        ("POST", f"{API}launches", {"workspace": "forecast"}),
        ("GET", "hub/api/users", None),
        ("POST", f"hub/api/users/{ann.name}/server", {}),
        ("POST", f"hub/api/users/{ann.name}/tokens", {}),
        ("GET", f"hub/api/users/{ann.name}/tokens", None),
        ("GET", "services/packages/simple/", None),
    ):
        answer = httpx.request(
            method, maestro.url + path, json=body, headers={"Authorization": f"token {token}"}, timeout=60
        )
        assert answer.status_code in (401, 403, 404), f"{method} {path}: {answer.status_code} {answer.text[:200]}"

    unnamed = httpx.get(
        f"{maestro.url}services/mlflow/{two}registered-models/get?name=twice",
        headers={"Authorization": f"Bearer {ann.token(['custom:maestro:models'])}", "X-MLFLOW-WORKSPACE": "forecast"},
    )
    assert unnamed.status_code == 403
    assert ann.api().delete("workspaces/forecast").status_code == 204  # then its person belongs there no longer
    until(lambda: mlflow.get(f"{two}registered-models/get?name=twice").status_code == 404, "the token is of no use", 15)
