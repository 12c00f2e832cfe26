"""A job as a Job of Kubernetes: its run lands in MLflow, its token in no manifest, and its pod may be killed."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import nbformat
import pytest
import zstandard

from tests.cluster.cluster import Cluster, until
from tests.system.house import Maestro, Person

WORKSPACE = "nightly"
JOBS = "app.kubernetes.io/component=maestro-job"
SECONDS = 240.0
TRACKS = """
import mlflow
with mlflow.start_run(run_name="inner"):
    mlflow.log_metric("loss", lr / 2)
print("tracked")
"""
WAITS = "import time\nprint('waiting', flush=True)\ntime.sleep(600)"
AMOUNTS = {"cpu": 0.5, "memory": "512Mi"}


@pytest.fixture(scope="module")
def ann(maestro: Maestro) -> Person:
    person = maestro.person("ann-of-jobs")
    answer = person.api().post("workspaces", json={"name": WORKSPACE, "description": "Runs at night"})
    assert answer.status_code == 201, answer.text
    return person


@pytest.fixture(scope="module")
def token(ann: Person) -> str:
    return ann.token()


@pytest.fixture(scope="module")
def api(ann: Person, token: str) -> httpx.Client:
    return ann.api(token)


def submit(api: httpx.Client, *cells: str, **changes: Any) -> str:
    """A notebook's job; its id."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    content = base64.b64encode(zstandard.ZstdCompressor().compress(nbformat.writes(made).encode())).decode()
    spec = {"notebook": "train.ipynb", "content": content, "resources": AMOUNTS, **changes}
    answer = api.post(f"workspaces/{WORKSPACE}/jobs", json=spec)
    assert answer.is_success, answer.text
    return str(answer.json()["job_id"])


def job(api: httpx.Client, job_id: str) -> dict[str, Any]:
    return dict(api.get(f"jobs/{job_id}").raise_for_status().json())


def runs(maestro: Maestro, token: str, job_id: str) -> dict[str, dict[str, Any]]:
    """The runs of a job at MLflow, by name and attempt."""
    base = f"{maestro.url}services/mlflow/api/2.0/mlflow"
    with httpx.Client(
        headers={"Authorization": f"token {token}", "X-MLFLOW-WORKSPACE": WORKSPACE}, timeout=60
    ) as client:
        found = client.post(f"{base}/experiments/search", json={"max_results": 100}).raise_for_status().json()
        ids = [one["experiment_id"] for one in found.get("experiments", [])]
        wanted = {"experiment_ids": ids, "filter": f"tags.`maestro.job` = '{job_id}'"}
        found = client.post(f"{base}/runs/search", json=wanted).raise_for_status().json()
    named = {}
    for run in found.get("runs", []):
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        named[f"{run['info']['run_name']}/{tags['maestro.attempt']}"] = run
    return named


def test_a_job_is_a_job_of_the_cluster_and_its_run_lands_in_mlflow(
    maestro: Maestro, cluster: Cluster, api: httpx.Client, token: str
) -> None:
    job_id = submit(api, TRACKS, parameters={"lr": 0.5}, name="once")
    (made,) = until(lambda: cluster.items("jobs.batch", JOBS), 60, "Job")
    pods = until(lambda: cluster.items("pods", JOBS), 60, "pod")
    done = until(lambda: found if (found := job(api, job_id))["ended_at"] else None, SECONDS, "end of the job")
    assert done["status"] == "succeeded", f"{done}\n{maestro.log()[-3000:]}"
    assert done["metrics"] == {"loss": 0.25}
    found = runs(maestro, token, job_id)
    assert {name: run["info"]["status"] for name, run in found.items()} == {"once/1": "FINISHED", "inner/1": "FINISHED"}
    manifests = json.dumps([made, *pods])
    assert "mjob_" not in manifests and "secretKeyRef" in manifests
    (spec,) = (pod["spec"] for pod in pods)
    assert spec["containers"][0]["resources"]["limits"] == {"cpu": "500m", "memory": "512Mi"}
    assert "tracked" in api.get(f"jobs/{job_id}/log").json()["text"]
    # nothing of it stays on the cluster: the Secret goes with its Job
    until(lambda: not cluster.items("jobs.batch", JOBS), 60, "end of the Job")
    until(lambda: not cluster.items("secrets", JOBS), 60, "end of its Secret")


def test_a_job_whose_pod_is_killed_runs_again_and_leaves_no_run_open(
    maestro: Maestro, cluster: Cluster, api: httpx.Client, token: str
) -> None:
    job_id = submit(api, WAITS, name="killed", retries=1)

    def waiting(attempt: int) -> dict[str, Any] | None:
        found = job(api, job_id)
        log = api.get(f"jobs/{job_id}/log").json()
        return found if log.get("attempt") == attempt and "waiting" in log["text"] else None

    first = until(lambda: waiting(1), SECONDS, "first attempt")
    pods = cluster.items("pods", f"{JOBS},maestro.launch={first['launch_id']}")
    cluster.run("delete", "pod", pods[0]["metadata"]["name"], "--grace-period=0", "--force")
    second = until(lambda: waiting(2), SECONDS, "second attempt")
    assert second["attempts"][0]["outcome"] == "failed" and second["attempts"][0]["reason"]
    assert api.post(f"jobs/{job_id}/cancel").is_success
    done = until(lambda: found if (found := job(api, job_id))["ended_at"] else None, SECONDS, "end of the job")
    assert done["status"] == "cancelled"

    def ended() -> dict[str, str] | None:
        states = {name: run["info"]["status"] for name, run in runs(maestro, token, job_id).items()}
        return states if "RUNNING" not in states.values() else None

    assert until(ended, 60, "end of its runs") == {"killed/1": "KILLED", "killed/2": "KILLED"}
    until(lambda: not cluster.items("pods", JOBS), 90, "end of the pods")
