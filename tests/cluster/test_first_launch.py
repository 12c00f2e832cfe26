"""The first launch on Kubernetes: one command, a pod in a workspace, its run in MLflow, its manifest read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.cluster import PODS, Cluster, cli, until
from tests.system.house import Maestro, Person
from tests.system.singleuser import NotebookServer

USER, WORKSPACE = "ann@example.com", "churn"


@pytest.fixture(scope="module")
def ann(maestro: Maestro) -> Person:
    """Somebody whose name is no label."""
    return maestro.person(USER)


@pytest.fixture(scope="module")
def session(maestro: Maestro, ann: Person, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The launch that the command line made."""
    home = tmp_path_factory.mktemp("client")
    cli(maestro, ann, "create", WORKSPACE, "--description", "Why customers leave", home=home)
    amounts = ("--cpu", "1", "--memory", "1Gi")
    return cli(
        maestro, ann, "launch", "--user", USER, "--workspace", WORKSPACE, *amounts, "--template", "data-exploration",
        home=home,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pod(cluster: Cluster, session: dict[str, Any]) -> dict[str, Any]:
    """Its pod, read back from the API server."""
    (found,) = cluster.items("pods", PODS)
    return found


@pytest.fixture(scope="module")
def server(pod: dict[str, Any]) -> dict[str, Any]:
    """The notebook server's container."""
    (found,) = (each for each in pod["spec"]["containers"] if each["name"] == "notebook")
    return dict(found)


@pytest.fixture(scope="module")
def name(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def test_the_command_line_says_where_it_runs(maestro: Maestro, session: dict[str, Any]) -> None:
    assert session["status"] == "running"
    assert session["session_id"]
    assert session["notebook_url"].startswith(f"{maestro.url}user/{USER}/{WORKSPACE}/lab")


def test_amounts_asked_for_are_requests_and_limits(pod: dict[str, Any], server: dict[str, Any]) -> None:
    assert server["resources"]["requests"] == server["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}
    assert pod["status"]["qosClass"] == "Guaranteed"


def test_the_workspace_is_a_claim_of_its_own(cluster: Cluster, pod: dict[str, Any], server: dict[str, Any]) -> None:
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    mounted = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
    assert claims[mounted["/workspace"]["name"]] == f"workspace-{WORKSPACE}"
    assert not mounted["/workspace"].get("readOnly")
    claim = cluster.json("get", "pvc", f"workspace-{WORKSPACE}")
    assert claim["status"]["phase"] == "Bound"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_datasets_are_there_to_read_only(cluster: Cluster, name: str, dataset: str, server: dict[str, Any]) -> None:
    (mount,) = (each for each in server["volumeMounts"] if each["mountPath"] == f"/datasets/{dataset}")
    assert mount["readOnly"] is True
    assert "daisy,34" in cluster.inside(name, "cat", f"/datasets/{dataset}/flowers.csv")
    with pytest.raises(AssertionError, match="Read-only file system"):
        cluster.inside(name, "touch", f"/datasets/{dataset}/mine")


def test_labels_name_user_and_workspace(pod: dict[str, Any]) -> None:
    labels = pod["metadata"]["labels"]
    assert labels["app"] == "jupyterhub"  # the chart's policies select it
    assert WORKSPACE in labels.values()
    assert any(value.startswith("ann-example-com") for value in labels.values())
    assert not any("@" in value for value in labels.values())


def test_the_pod_holds_no_rights_on_the_cluster(cluster: Cluster, pod: dict[str, Any], name: str) -> None:
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert cluster.inside(name, "sh", "-c", "ls /var/run/secrets 2>&1 || true").strip() != "kubernetes.io"
    assert cluster.inside(name, "id", "-u").strip() == "1000"


def test_files_lie_in_the_workspace_and_in_a_private_home(cluster: Cluster, name: str) -> None:
    assert "data-exploration.ipynb" in cluster.inside(name, "ls", "/workspace")
    for folder in ("/workspace", "/home/jovyan"):
        cluster.inside(name, "sh", "-c", f"echo kept > {folder}/note && rm {folder}/note")
    for folder in ("/etc/maestro", "/opt/venv"):
        with pytest.raises(AssertionError, match=r"Read-only|Permission denied"):
            cluster.inside(name, "touch", f"{folder}/mine")


async def test_plain_mlflow_code_in_the_pod_logs_a_run_under_its_users_name(
    maestro: Maestro, ann: Person, session: dict[str, Any], server: dict[str, Any]
) -> None:
    names = {variable["name"] for variable in server["env"]}
    assert {"MLFLOW_TRACKING_URI", "MLFLOW_WORKSPACE", "MAESTRO_LAUNCH_ID"} <= names
    notebooks = NotebookServer(f"{maestro.url}user/{USER}/{WORKSPACE}/", token=ann.token())
    notebook = notebooks.open_notebook("data-exploration.ipynb")
    lines = ["import mlflow", "with mlflow.start_run(run_name='in-a-pod'):", "    mlflow.log_param('depth', 3)"]
    ended = await notebook.run("\n".join([*lines, "print('logged')"]))
    assert ended.status == "ok" and "logged" in ended.text, ended.text

    run = until(lambda: find_run(maestro, ann, "in-a-pod"), 30, "run in MLflow")
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert run["info"]["status"] == "FINISHED"
    assert tags["mlflow.user"] == USER
    assert tags["maestro.workspace"] == WORKSPACE
    assert tags["maestro.notebook"] == "data-exploration.ipynb"


def find_run(maestro: Maestro, person: Person, name: str) -> dict[str, Any] | None:
    """The run of that name in the workspace, through MLflow's own API as the person."""
    headers = {"Authorization": f"token {person.token()}", "X-MLFLOW-WORKSPACE": WORKSPACE}
    with httpx.Client(base_url=f"{maestro.url}services/mlflow/api/2.0/mlflow/", headers=headers, timeout=30) as client:
        experiments = client.post("experiments/search", json={"max_results": 50}).json().get("experiments", [])
        ids = [found["experiment_id"] for found in experiments]
        runs = client.post("runs/search", json={"experiment_ids": ids, "max_results": 50}).json().get("runs", [])
    found: list[dict[str, Any]] = [run for run in runs if run["info"]["run_name"] == name]
    return found[0] if found else None


async def test_packages_come_from_maestros_index(cluster: Cluster, name: str) -> None:
    shown = cluster.inside(name, "cat", "/etc/maestro/pip.conf")
    assert "/services/packages/" in shown
    assert "password" not in shown


def test_stopping_ends_the_pod_and_keeps_the_volume(
    maestro: Maestro, ann: Person, cluster: Cluster, session: dict[str, Any], tmp_path: Path
) -> None:
    stopped = cli(maestro, ann, "stop", session["session_id"], home=tmp_path)
    assert stopped["status"] == "ended"
    until(lambda: not cluster.items("pods", PODS), 60, "end of the pod")
    assert cluster.json("get", "pvc", f"workspace-{WORKSPACE}")["status"]["phase"] == "Bound"
