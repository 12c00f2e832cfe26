"""MLflow behind the Hub: whose run it is, who sees what, what is closed, how a browser signs in, how it ends.

The workspaces of these stories: ``reef`` (olga owns it, ed edits it, vera views it) and ``lagoon`` (olga again).
"""

from __future__ import annotations

import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.system.singleuser import free_port, until
from tests.system.tracking_hub import (
    PREFIX,
    Browser,
    Client,
    TrackingHub,
    alive,
    memory_mb,
    mlflow_environment,
    processes,
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingHub]:
    """One Hub for the module; tests that change members use people of their own."""
    hub = TrackingHub(tmp_path_factory.mktemp("tracking"))
    hub.workspaces.member("olga", reef="owner", lagoon="owner")
    hub.workspaces.member("ed", reef="editor")
    hub.workspaces.member("vera", reef="viewer")
    try:
        yield hub.start()
    finally:
        hub.close()


@pytest.fixture(scope="module")
def olga(hub: TrackingHub) -> Client:
    return hub.client("olga", "reef")


@pytest.fixture(scope="module")
def ed(hub: TrackingHub) -> Client:
    return hub.client("ed", "reef")


@pytest.fixture(scope="module")
def vera(hub: TrackingHub) -> Client:
    return hub.client("vera", "reef")


@pytest.fixture(scope="module")
def stranger(hub: TrackingHub) -> Client:
    return hub.client("sam", "reef")


def refusal(answer: httpx.Response, status: int) -> str:
    """The sentence of a refusal in MLflow's error shape."""
    assert answer.status_code == status, answer.text
    assert answer.json()["error_code"]
    return str(answer.json()["message"])


# --- Plain MLflow code -----------------------------------------------------------------------------------------------


TUTORIAL = """
import mlflow, os, sys
from pathlib import Path
if "iris" in sys.argv:
    mlflow.set_experiment("iris")
with mlflow.start_run() as run:
    mlflow.log_params({"depth": 3, "seed": 1})
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    Path("notes.txt").write_text("what we saw")
    mlflow.log_artifact("notes.txt")
    class Twice(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input: list[float]) -> list[float]:
            return [2 * value for value in model_input]
    name = "twice" if "register" in sys.argv else None
    logged = mlflow.pyfunc.log_model(
        name="twice", python_model=Twice(), registered_model_name=name, pip_requirements=[]
    )
assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes.txt") == "what we saw"
assert mlflow.pyfunc.load_model("models:/twice/1" if name else logged.model_uri).predict([1.0, 2.0]) == [2.0, 4.0]
print(run.info.run_id)
"""


def run_tutorial(hub: TrackingHub, folder: Path, token: str, workspace: str, *arguments: str, **variables: str) -> str:
    """MLflow's own client in a process of its own, with the environment that a notebook has; the run's id."""
    script = folder / "tutorial.py"
    script.write_text(TUTORIAL)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "USER": "somebody-else",
        "MLFLOW_TRACKING_URI": f"{hub.url}/services/mlflow",
        "MLFLOW_TRACKING_TOKEN": token,
        "MLFLOW_WORKSPACE": workspace,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    } | variables
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def test_a_tutorials_code_runs_unchanged(hub: TrackingHub, vera: Client, tmp_path: Path) -> None:
    """The environment names server, token and workspace; the code is any tutorial's, model and artifacts included."""
    run_id = run_tutorial(hub, tmp_path, hub.token("ed"), "reef", "iris", "register")
    run = vera.get("runs/get", run_id=run_id).json()["run"]
    assert run["info"]["user_id"] == "ed"
    assert {tag["key"]: tag["value"] for tag in run["data"]["tags"]}["mlflow.user"] == "ed"
    assert {parameter["key"] for parameter in run["data"]["params"]} == {"depth", "seed"}


def test_a_tutorials_code_runs_in_a_viewers_server_too(hub: TrackingHub, tmp_path: Path) -> None:
    """Its runs go to ``from-reef`` in the viewer's personal workspace, which the environment names."""
    mine = "u-vera-abc123"
    hub.workspaces.people["vera"][mine] = {"role": "owner"}
    grant = {"role": "editor", "experiment": "from-reef"}
    hub.workspaces.servers["vera", "reef"] = {"reef": {"role": "viewer"}, mine: grant}
    token = hub.token("vera", "reef")
    run_id = run_tutorial(hub, tmp_path, token, mine, MLFLOW_EXPERIMENT_NAME="from-reef")
    until(lambda: hub.client("vera", mine).get("runs/get", run_id=run_id).status_code == 200, "Vera sees her run", 10)


def test_a_run_is_its_callers_whatever_the_client_says(ed: Client) -> None:
    """Neither the field in both its spellings, nor a tag at creation, nor a tag later changes it."""
    experiment = ed.experiment()
    for claim in ({"user_id": "olga"}, {"userId": "olga"}, {"tags": [{"key": "mlflow.user", "value": "olga"}]}):
        run = ed.run(experiment, **claim)
        assert run["info"]["user_id"] == "ed"
        assert [tag["value"] for tag in run["data"]["tags"] if tag["key"] == "mlflow.user"] == ["ed"]
    run_id = run["info"]["run_id"]
    later = ed.post("runs/set-tag", run_id=run_id, key="mlflow.user", value="olga")
    assert "who began the run" in refusal(later, 403)
    refusal(ed.post("runs/delete-tag", run_id=run_id, key="mlflow.user"), 403)
    tags = [{"key": "mlflow.user", "value": "olga"}, {"key": "note", "value": "kept"}]
    assert ed.post("runs/log-batch", run_id=run_id, tags=tags).status_code == 200
    now = {tag["key"]: tag["value"] for tag in ed.get("runs/get", run_id=run_id).json()["run"]["data"]["tags"]}
    assert now["mlflow.user"] == "ed" and now["note"] == "kept"


def test_a_token_may_come_as_bearer_token_or_basic_password(hub: TrackingHub, ed: Client) -> None:
    place = f"{hub.url}{PREFIX}api/2.0/mlflow/experiments/search"
    workspace, body = {"X-MLFLOW-WORKSPACE": "reef"}, {"max_results": 1}
    for scheme in ("Bearer", "token"):
        answer = httpx.post(place, json=body, headers=workspace | {"Authorization": f"{scheme} {ed.token}"})
        assert answer.status_code == 200, answer.text
    assert httpx.post(place, json=body, headers=workspace, auth=("any", ed.token)).status_code == 200
    for wrong in ("Bearer nonsense", "Basic bm90OmI2NA==", "Digest x", ""):
        assert httpx.post(place, json=body, headers=workspace | {"Authorization": wrong}).status_code == 401


def test_a_token_must_be_made_for_mlflow_and_be_a_users(hub: TrackingHub) -> None:
    narrow = Client(hub.url, hub.token("ed", scopes=["read:users!user=ed"]), "reef")
    assert "access:services!service=mlflow" in refusal(narrow.post("experiments/search", max_results=1), 403)
    service = Client(hub.url, hub._admin_token, "reef")
    assert "service" in refusal(service.post("experiments/search", max_results=1), 403)


# --- Roles -----------------------------------------------------------------------------------------------------------


def test_a_viewer_reads_and_does_not_write(ed: Client, vera: Client) -> None:
    run = ed.run(ed.experiment())
    assert ed.put_artifact(run, "plot.txt", b"a plot").status_code == 200
    run_id = run["info"]["run_id"]
    assert vera.get("runs/get", run_id=run_id).status_code == 200
    assert vera.get("/get-artifact", run_id=run_id, path="plot.txt").content == b"a plot"
    sentence = refusal(vera.post("runs/log-metric", run_id=run_id, key="m", value=1, timestamp=1), 403)
    assert sentence == "In 'reef' you are viewer, and this takes editor; ask an owner of the workspace."
    refusal(vera.put_artifact(run, "mine.txt", b""), 403)
    refusal(vera.post("experiments/create", name="viewers"), 403)


def test_editors_delete_their_own_runs_and_owners_any(hub: TrackingHub, olga: Client, ed: Client) -> None:
    experiment = olga.experiment()
    hers, his = (who.run(experiment)["info"]["run_id"] for who in (olga, ed))
    assert "olga's" in refusal(ed.post("runs/delete", run_id=hers), 403)
    for action in ("delete", "restore", "delete"):
        assert ed.post(f"runs/{action}", run_id=his).status_code == 200
    assert olga.post("runs/restore", run_id=his).status_code == 200
    assert "owner" in refusal(ed.post("experiments/delete", experiment_id=experiment), 403)
    assert olga.post("experiments/delete", experiment_id=experiment).status_code == 200


def test_what_is_closed_says_why(olga: Client) -> None:
    """Owners too."""
    for method, path, word in (
        ("POST", "/api/2.0/mlflow/webhooks", "webhooks"),
        ("GET", "/api/3.0/mlflow/gateway/secrets/list", "gateway"),
        ("POST", "/ajax-api/3.0/jobs/", "jobs"),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message", "assistant"),
        ("POST", "/api/3.0/mlflow/workspaces", "workspaces page"),
        ("POST", "/api/2.0/mlflow/users/create", "Hub"),
        ("POST", "/api/3.0/mlflow/roles/create", "Hub"),
    ):
        assert word in refusal(olga.call(method, path, {}), 403)
    assert "no such address" in refusal(olga.get("/api/2.0/mlflow/invented"), 404)


# --- Workspaces ------------------------------------------------------------------------------------------------------


def test_everybody_sees_their_own_workspaces_only(hub: TrackingHub, olga: Client, stranger: Client) -> None:
    def names(who: Client) -> list[str]:
        return [one["name"] for one in who.get("/ajax-api/3.0/mlflow/workspaces").json()["workspaces"]]

    assert names(olga) == ["lagoon", "reef"]
    assert names(hub.client("ed")) == ["reef"]
    assert names(stranger) == []
    assert olga.get("/api/3.0/mlflow/workspaces/lagoon").json()["workspace"]["name"] == "lagoon"
    assert hub.client("ed").get("/api/3.0/mlflow/workspaces/lagoon").status_code == 404


def test_a_request_names_one_workspace(hub: TrackingHub, ed: Client) -> None:
    """None is enough for somebody with one; several, a stranger's, MLflow's own default one are refused."""
    search = {"max_results": 1}
    assert hub.client("ed").post("experiments/search", **search).status_code == 200
    assert "lagoon, reef" in refusal(hub.client("olga").post("experiments/search", **search), 400)
    twice = [("Authorization", f"Bearer {ed.token}"), ("X-MLFLOW-WORKSPACE", "lagoon"), ("X-MLFLOW-WORKSPACE", "reef")]
    place = f"{PREFIX}api/2.0/mlflow/experiments/search"
    refusal(httpx.post(hub.url + place, json=search, headers=twice), 404)  # the proxy makes one name of them
    refusal(httpx.post(hub.mlflow_url + place, json=search, headers=twice), 400)
    for name in ("lagoon", "default", "reef ,lagoon", "../reef", "nowhere"):
        assert "no workspace" in refusal(hub.client("ed", name).post("experiments/search", **search), 404)


def test_workspaces_are_apart_on_every_way_in(hub: TrackingHub, olga: Client, ed: Client) -> None:
    """Ids of ``lagoon`` mean nothing in ``reef``: REST, bulk, artifacts, traces, models, GraphQL."""
    lagoon = hub.client("olga", "lagoon")
    experiment = lagoon.experiment("secret")
    run = lagoon.run(experiment)
    run_id = run["info"]["run_id"]
    lagoon.post("runs/log-metric", run_id=run_id, key="m", value=41.5, timestamp=1)
    assert lagoon.put_artifact(run, "secret.txt", b"secret-content").status_code == 200
    assert lagoon.post("registered-models/create", name="secret-model").status_code == 200
    trace = start_trace(lagoon, experiment)
    model = lagoon.post("logged-models", experiment_id=experiment, name="m").json()["model"]["info"]["model_id"]
    artifact = f"{experiment}/{run_id}/artifacts/secret.txt"
    query = """query Q($input: MlflowGetRunInput!) { mlflowGetRun(input: $input) { run { info { runId } } } }"""
    attempts = (
        ("GET", f"runs/get?run_id={run_id}", None),
        ("POST", "runs/search", {"experiment_ids": [experiment]}),
        ("GET", f"experiments/get?experiment_id={experiment}", None),
        ("GET", "experiments/get-by-name?experiment_name=secret", None),
        ("POST", "experiments/search", {"max_results": 1000}),
        ("GET", f"metrics/get-history?run_id={run_id}&metric_key=m", None),
        ("GET", f"/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id={run_id}&metric_key=m", None),
        ("GET", f"metrics/get-history-bulk-interval?run_ids={run_id}&metric_key=m&max_results=5", None),
        ("GET", f"artifacts/list?run_id={run_id}", None),
        ("GET", f"/get-artifact?run_id={run_id}&path=secret.txt", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/{artifact}", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/workspaces/lagoon/{artifact}", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/../lagoon/{artifact}", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/%2e%2e/lagoon/{artifact}", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts/%252e%252e/lagoon/{artifact}", None),
        ("GET", f"/api/2.0/mlflow-artifacts/artifacts?path=workspaces/lagoon/{experiment}", None),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts?path=..", None),
        ("GET", "registered-models/get?name=secret-model", None),
        ("GET", "registered-models/search", None),
        ("GET", f"/api/3.0/mlflow/traces/{trace}", None),
        ("GET", f"/api/3.0/mlflow/traces/get?trace_id={trace}", None),
        ("POST", "/api/3.0/mlflow/traces/search", {"locations": [place_of(experiment)]}),
        ("GET", f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace}", None),
        ("GET", f"logged-models/{model}", None),
        ("POST", "logged-models/search", {"experiment_ids": [experiment]}),
        ("POST", "/ajax-api/2.0/mlflow/experiments/search-datasets", {"experiment_ids": [experiment]}),
        ("POST", "/graphql", {"query": query, "variables": {"input": {"runId": run_id}}, "operationName": "Q"}),
    )  # fmt: skip
    for method, path, body in attempts:
        for who in (ed, olga):  # olga is a member of both, and reef is where she is now
            answer = who.call(method, path, body)
            marks = [
                mark for mark in ("secret-content", "secret-model", run_id, trace, model, "41.5") if mark in answer.text
            ]
            marks = [mark for mark in marks if mark not in f"{path} {body}"]  # an error may repeat what was asked
            assert answer.status_code >= 400 or not marks, f"{method} {path}: {answer.status_code} {answer.text}"
    for method, path, body in (
        ("POST", "runs/log-metric", {"run_id": run_id, "key": "m", "value": 1, "timestamp": 1}),
        ("POST", "runs/create", {"experiment_id": experiment}),
        ("POST", "runs/set-tag", {"run_id": run_id, "key": "k", "value": "v"}),
        ("PATCH", f"/api/3.0/mlflow/traces/{trace}/tags", {"key": "k", "value": "v"}),
        ("PATCH", f"logged-models/{model}/tags", {"tags": [{"key": "k", "value": "v"}]}),
        ("POST", "logged-models", {"experiment_id": experiment, "name": "m"}),
        ("POST", f"/v1/traces?experiment={experiment}", None),
    ):
        headers = {"X-Mlflow-Experiment-Id": experiment, "Content-Type": "application/x-protobuf"}
        extra: dict[str, Any] = (
            {"headers": headers, "content": otlp_span()} if path.startswith("/v1") else {"json": body}
        )
        answer = ed.http.request(method, path[1:] if path.startswith("/") else f"api/2.0/mlflow/{path}", **extra)
        assert answer.status_code >= 400, f"{method} {path}: {answer.status_code} {answer.text}"


def place_of(experiment: str) -> dict[str, Any]:
    return {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}


def start_trace(who: Client, experiment: str, tags: dict[str, str] | None = None) -> str:
    """A trace's id."""
    trace_id = f"tr-{secrets.token_hex(16)}"
    info = {
        "trace_id": trace_id, "trace_location": place_of(experiment), "request_time": "2026-01-01T00:00:00Z",
        "state": "OK", "tags": tags or {},
    }  # fmt: skip
    answer = who.call("POST", "/api/3.0/mlflow/traces", {"trace": {"trace_info": info}})
    assert answer.status_code == 200, answer.text
    return trace_id


def otlp_span() -> bytes:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = secrets.token_bytes(16), secrets.token_bytes(8), "a step"
    span.start_time_unix_nano, span.end_time_unix_nano = 1, 2
    return request.SerializeToString()


def test_spans_arrive_in_ones_own_workspace(ed: Client) -> None:
    """MLflow's clients send spans by OpenTelemetry's protocol, which does not pass MLflow's Flask application."""
    headers = {"X-Mlflow-Experiment-Id": ed.experiment(), "Content-Type": "application/x-protobuf"}
    answer = ed.http.post("v1/traces", content=otlp_span(), headers=headers)
    assert answer.status_code == 200, answer.text


# --- Places and sources ----------------------------------------------------------------------------------------------


def test_a_model_versions_source_lies_in_the_workspace(hub: TrackingHub, ed: Client) -> None:
    lagoon = hub.client("olga", "lagoon")
    theirs = lagoon.run(lagoon.experiment())["info"]
    mine = ed.run(ed.experiment())["info"]
    assert ed.post("registered-models/create", name="sourced").status_code == 200

    def create(source: str, **more: str) -> httpx.Response:
        return ed.post("model-versions/create", name="sourced", source=source, **more)

    run_id = mine["run_id"]
    assert create(f"runs:/{run_id}/model", run_id=run_id).status_code == 200
    assert create(f"{mine['artifact_uri']}/model", run_id=run_id).status_code == 200
    model = ed.post("logged-models", experiment_id=mine["experiment_id"], name="m").json()["model"]["info"]
    assert create(f"models:/{model['model_id']}", model_id=model["model_id"]).status_code == 200
    for source in (
        "s3://bucket/workspaces/lagoon/1/model", "file:///etc", "/etc/passwd", "https://example.org/m", "dbfs:/m",
    ):  # fmt: skip
        assert "of this workspace" in refusal(create(source, run_id=run_id), 403)
    refusal(create(f"runs:/{theirs['run_id']}/model", run_id=theirs["run_id"]), 404)
    assert create(f"{theirs['artifact_uri']}/model", run_id=run_id).status_code in (400, 403)
    assert create(f"mlflow-artifacts:/workspaces/lagoon/{theirs['run_id']}", run_id=run_id).status_code in (400, 403)
    assert create("models:/secret-model/1").status_code == 404


def test_runs_and_models_link_to_the_version_of_their_notebook_and_back(hub: TrackingHub, ed: Client) -> None:
    address = "ab" * 32
    tags = {"maestro.notebook": "a [b](c).ipynb", "maestro.snapshot": address, "maestro.dirty": "true"}
    given = [{"key": key, "value": value} for key, value in tags.items()]
    run = ed.run(ed.experiment(), run_name="made <b>", tags=given)
    link = f"[version {address[:12]}](/services/workspaces/w/reef/versions/{address}), and code that was not saved"
    note = f"Notebook a \\[b\\]\\(c\\)\\.ipynb, {link}"
    assert {tag["key"]: tag["value"] for tag in run["data"]["tags"]}["mlflow.note.content"] == note
    own = ed.run(ed.experiment(), tags=[*given, {"key": "mlflow.note.content", "value": "mine"}])
    assert {tag["key"]: tag["value"] for tag in own["data"]["tags"]}["mlflow.note.content"] == "mine"
    plain = ed.run(ed.experiment(), tags=[{"key": "maestro.snapshot", "value": "../../evil"}])
    assert "mlflow.note.content" not in {tag["key"] for tag in plain["data"]["tags"]}

    assert ed.post("registered-models/create", name="linked").status_code == 200
    run_id = run["info"]["run_id"]
    forged = [{"key": "maestro.snapshot", "value": "cd" * 32}, {"key": "stage", "value": "x"}]
    made = ed.post("model-versions/create", name="linked", source=f"runs:/{run_id}/m", run_id=run_id, tags=forged)
    version = made.json()["model_version"]
    assert version["description"] == note
    assert {tag["key"]: tag["value"] for tag in version["tags"]} == tags | {"stage": "x"}

    page = f"/maestro/versions/{address}?workspace="
    shown = ed.call("GET", f"{page}reef")
    assert "This version made 2 runs and 1 model." in shown.text and "made &lt;b&gt;" in shown.text
    assert f"/services/mlflow/#/experiments/{run['info']['experiment_id']}/runs/{run_id}?workspace=reef" in shown.text
    assert "linked, version 1" in shown.text and "/services/mlflow/#/models/linked/versions/1" in shown.text
    for somebody, workspace in ((ed, "lagoon"), (hub.client("olga"), "atoll"), (ed, "")):
        assert somebody.call("GET", f"{page}{workspace}").status_code == 404
    assert "No run of this version" in hub.client("olga").call("GET", f"{page}lagoon").text


def test_an_experiment_cannot_choose_where_its_artifacts_lie(ed: Client) -> None:
    for location in ("s3://bucket/workspaces/lagoon", "file:///etc", "mlflow-artifacts:/workspaces/lagoon/1"):
        for field in ("artifact_location", "artifactLocation"):
            answer = ed.post("experiments/create", name=f"e-{secrets.token_hex(4)}", **{field: location})
            assert "leave artifact_location out" in refusal(answer, 403)


def test_a_trace_cannot_name_a_place_to_read_from(hub: TrackingHub, ed: Client, tmp_path: Path) -> None:
    """The server would read ``attachments/<uuid>`` below a trace's ``mlflow.artifactLocation`` for whoever asks."""
    (tmp_path / "attachments").mkdir()
    name = str(uuid.uuid4())
    (tmp_path / "attachments" / name).write_text("a file of the server")
    place = {"mlflow.artifactLocation": f"file://{tmp_path}", "mlflow.trace.archiveLocation": f"file://{tmp_path}"}
    experiment = ed.experiment()
    trace = start_trace(ed, experiment, place)
    tags = ed.get(f"/api/3.0/mlflow/traces/{trace}").json()["trace"]["trace_info"]["tags"]
    assert str(tmp_path) not in str(tags)
    for version, method in (("2.0", "PATCH"), ("3.0", "PATCH"), ("2.0", "DELETE"), ("3.0", "DELETE")):
        for key, value in place.items():
            answer = ed.call(method, f"/api/{version}/mlflow/traces/{trace}/tags", {"key": key, "value": value})
            assert "only the server sets" in refusal(answer, 403)
    answer = ed.get("/ajax-api/3.0/mlflow/get-trace-artifact", request_id=trace, path=name)
    assert "a file of the server" not in answer.text
    assert ed.call("PATCH", f"/api/3.0/mlflow/traces/{trace}/tags", {"key": "k", "value": "v"}).status_code == 200


def test_large_artifacts_are_streamed(hub: TrackingHub, ed: Client) -> None:
    """120 MB up and down, and the server grows by less than half of it."""
    run = ed.run(ed.experiment())
    size, piece = 120 * 1024 * 1024, os.urandom(1024 * 1024)
    pid = hub.mlflow_pid
    before = memory_mb(pid)
    peak = [before]

    class Watched(io.RawIOBase):
        left = size

        def read(self, *_: Any) -> bytes:
            peak[0] = max(peak[0], memory_mb(pid))
            part = piece[: min(len(piece), self.left)]
            self.left -= len(part)
            return part

    body: Any = iter(Watched().read, b"")
    answer = ed.put_artifact(run, "large.bin", body)
    assert answer.status_code == 200, answer.text
    info, received = run["info"], 0
    place = f"api/2.0/mlflow-artifacts/artifacts/{info['experiment_id']}/{info['run_id']}/artifacts/large.bin"
    with ed.http.stream("GET", place) as stream:
        for part in stream.iter_bytes(1024 * 1024):
            received += len(part)
            peak[0] = max(peak[0], memory_mb(pid))
    assert received == size
    assert peak[0] - before < 60, f"grew by {peak[0] - before:.0f} MB"


# --- Notebook servers ------------------------------------------------------------------------------------------------


def test_a_notebook_servers_token_acts_in_its_workspace_alone(hub: TrackingHub, olga: Client) -> None:
    """Olga owns two workspaces; her server in one of them is an editor there, and nobody elsewhere."""
    hub.workspaces.servers["olga", "reef"] = {"reef": {"role": "owner"}}  # capped here, whatever the service says
    server = hub.client("olga", server="reef")
    experiment = server.experiment()
    assert server.run(experiment)["info"]["user_id"] == "olga"
    assert {"user": "olga", "servers": ["reef"]} in hub.workspaces.asked
    assert "Only owners" in refusal(server.post("experiments/delete", experiment_id=experiment), 403)
    elsewhere = Client(hub.url, server.token, "lagoon")
    assert "no workspace" in refusal(elsewhere.post("experiments/search", max_results=1), 404)
    assert [one["name"] for one in server.get("/api/3.0/mlflow/workspaces").json()["workspaces"]] == ["reef"]
    ended = hub.client("olga", "reef", server="never-started")
    assert ended.post("experiments/search", max_results=1).status_code == 404


def test_a_viewers_server_reads_and_logs_to_one_experiment_of_its_person(hub: TrackingHub, ed: Client) -> None:
    mine = "u-vic-abc123"
    hub.workspaces.people["vic"] = {mine: {"role": "owner"}, "reef": {"role": "viewer"}}
    hub.workspaces.servers["vic", "reef"] = {
        "reef": {"role": "viewer"}, mine: {"role": "editor", "experiment": "from-reef"},
    }  # fmt: skip
    person = hub.client("vic", mine)
    private = person.run(person.experiment("private"))["info"]
    token = hub.token("vic", "reef")
    shared, own = Client(hub.url, token, "reef"), Client(hub.url, token, mine)

    shared_run = ed.run(ed.experiment())["info"]
    assert shared.get("runs/get", run_id=shared_run["run_id"]).status_code == 200
    refusal(shared.post("runs/create", experiment_id=shared_run["experiment_id"]), 403)

    assert "from-reef" in refusal(own.post("experiments/create", name="another"), 403)
    experiment = own.experiment("from-reef")
    run = own.run(experiment)
    run_id = run["info"]["run_id"]
    assert run["info"]["user_id"] == "vic"
    assert own.post("runs/log-metric", run_id=run_id, key="m", value=1, timestamp=1).status_code == 200
    assert own.put_artifact(run, "a.txt", b"a").status_code == 200
    model = own.post("logged-models", experiment_id=experiment, name="m", source_run_id=run_id).json()["model"]["info"]
    assert (
        own.call(
            "PATCH",
            f"logged-models/{model['model_id']}",
            {"model_id": model["model_id"], "status": 2},
        ).status_code
        == 200
    )
    assert own.get("experiments/get-by-name", experiment_name="from-reef").status_code == 200
    assert len(own.post("runs/search", experiment_ids=[experiment]).json()["runs"]) == 1

    metric = {"key": "m", "value": 1, "timestamp": 1}
    hers = person.post("logged-models", experiment_id=private["experiment_id"], name="m").json()["model"]["info"]
    for method, path, body in (
        ("POST", "runs/create", {"experiment_id": private["experiment_id"]}),
        ("POST", "runs/create", {"experimentId": private["experiment_id"]}),
        ("POST", "runs/create", {}),
        ("GET", f"runs/get?run_id={private['run_id']}", None),
        ("GET", f"runs/get?run_id={run_id}&run_uuid={private['run_id']}", None),
        ("POST", "runs/search", {"experiment_ids": [experiment, private["experiment_id"]]}),
        ("POST", "runs/search", {"experiment_ids": []}),
        ("POST", "runs/log-metric", {"run_id": private["run_id"], **metric}),
        ("POST", "runs/log-metric", {"run_uuid": private["run_id"], **metric}),
        ("POST", "runs/log-metric", {"run_id": run_id, "model_id": hers["model_id"], **metric}),
        ("POST", "runs/log-batch", {"run_id": run_id, "metrics": [metric | {"model_id": hers["model_id"]}]}),
        ("POST", "runs/log-batch", {"run_id": run_id, "metrics": [metric | {"modelId": hers["model_id"]}]}),
        ("POST", "runs/outputs", {"run_id": run_id, "models": [{"model_id": hers["model_id"]}]}),
        ("POST", "runs/set-tag", {"run_id": private["run_id"], "key": "k", "value": "v"}),
        ("GET", f"artifacts/list?run_id={private['run_id']}", None),
        ("GET", f"logged-models/{hers['model_id']}", None),
        ("POST", "experiments/search", {"max_results": 10}),
        ("GET", "experiments/get-by-name?experiment_name=private", None),
        ("POST", "registered-models/create", {"name": "m"}),
        ("POST", "runs/delete", {"run_id": run_id}),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{private['experiment_id']}/x/artifacts/a", {}),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/../{private['experiment_id']}/a", {}),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/%2e%2e/{private['experiment_id']}/a", {}),
        ("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{experiment}%2f..%2f{private['experiment_id']}/a", {}),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts", None),
        ("POST", "/graphql", {"query": "{ __typename }"}),
    ):
        answer = own.call(method, path, body)
        assert answer.status_code in (400, 403, 404), f"{method} {path} {body}: {answer.status_code} {answer.text}"


# --- Leaving, and a service that is away -----------------------------------------------------------------------------


def test_a_removed_member_is_out_within_5_seconds(hub: TrackingHub) -> None:
    """Out of their own runs too, though nothing was revoked at MLflow or the Hub."""
    hub.workspaces.member("rita", reef="editor")
    rita = hub.client("rita", "reef")
    run_id = rita.run(rita.experiment())["info"]["run_id"]
    hub.workspaces.member("rita", reef=None)
    removed = time.monotonic()
    until(lambda: rita.get("runs/get", run_id=run_id).status_code == 404, "Rita is out", 10)
    assert time.monotonic() - removed < 6
    hub.workspaces.member("rita", reef="viewer")
    until(lambda: rita.get("runs/get", run_id=run_id).status_code == 200, "Rita may look again", 10)
    refusal(rita.post("runs/log-metric", run_id=run_id, key="m", value=1, timestamp=1), 403)


def test_a_revoked_token_is_out_within_5_seconds(hub: TrackingHub) -> None:
    hub.workspaces.member("tom", reef="viewer")
    tom = hub.client("tom", "reef")
    assert tom.post("experiments/search", max_results=1).status_code == 200
    for token in hub.admin("GET", "users/tom/tokens").json()["api_tokens"]:
        hub.admin("DELETE", f"users/tom/tokens/{token['id']}")
    until(lambda: tom.post("experiments/search", max_results=1).status_code == 401, "the token is dead", 10)


def test_with_the_service_away_known_callers_go_on_and_unknown_ones_do_not(hub: TrackingHub) -> None:
    hub.workspaces.member("known", reef="editor")
    hub.workspaces.member("new", reef="editor")
    known, new = hub.client("known", "reef"), hub.client("new", "reef")
    experiment = known.experiment()
    hub.workspaces.away = True
    try:
        time_up = time.monotonic() + 7  # past the 5 s in which nobody is asked
        while time.monotonic() < time_up:
            assert known.run(experiment)
            sentence = refusal(new.post("experiments/search", max_results=1), 503)
        assert "workspaces service does not answer" in sentence
    finally:
        hub.workspaces.away = False
    until(lambda: new.post("experiments/search", max_results=1).status_code == 200, "the service is back", 10)


# --- Browsers --------------------------------------------------------------------------------------------------------


def test_a_browser_signs_in_at_the_hub_and_comes_back(hub: TrackingHub) -> None:
    browser = Browser(hub, "olga")
    page = browser.visit(f"{PREFIX}?from=link")
    assert page.status_code == 200 and '<div id="root"' in page.text
    assert str(page.url).endswith(f"{PREFIX}?from=link")
    session = next(cookie for cookie in browser.http.cookies.jar if cookie.name == "maestro-mlflow")
    assert session.path == PREFIX and session.has_nonstandard_attr("HttpOnly")
    assert browser.cookie("maestro-mlflow") and "maestro-mlflow-signin" not in str(browser.http.cookies.jar)
    listed = browser.fetch("GET", "ajax-api/3.0/mlflow/workspaces").json()["workspaces"]
    assert [one["name"] for one in listed] == ["lagoon", "reef"]
    made = browser.fetch("POST", "ajax-api/2.0/mlflow/experiments/create", {"name": "by browser"})
    assert made.status_code == 200, made.text


def test_a_sign_in_belongs_to_the_browser_that_began_it(hub: TrackingHub) -> None:
    """Another browser's state, a used one, a made-up one, and an error of the Hub's end on a page, not in a session."""
    mallory, olga = Browser(hub, "mallory"), Browser(hub, "olga")
    began = mallory.visit(follow_redirects=False)
    back = mallory.http.get(began.headers["location"], follow_redirects=False).headers["location"]
    planted = olga.visit(back)
    assert planted.status_code == 400 and "not begun in this browser" in planted.text
    assert not olga.cookie("maestro-mlflow")
    assert mallory.visit(back).status_code == 200
    assert mallory.visit(back).status_code == 400
    for query in ("", "?code=x", "?code=x&state=made-up", "?error=access_denied&state="):
        assert olga.visit(f"{PREFIX}oauth_callback{query}").status_code == 400
    query = parse_qs(urlsplit(began.headers["location"]).query)
    assert query["code_challenge_method"] == ["S256"] and query["code_challenge"][0] and query["state"][0]


def test_only_mlflows_own_page_may_use_the_session(hub: TrackingHub) -> None:
    """Not another site, not another port of this machine, not a notebook on the same origin without the XSRF token."""
    browser = Browser(hub, "olga")
    browser.visit()
    search = "ajax-api/2.0/mlflow/experiments/search"
    assert browser.fetch("POST", search, {"max_results": 1}).status_code == 200
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
        {"X_XSRFToken": ""},
        {"X_XSRFToken": "guessed"},
    ):
        for method, path in (("POST", search), ("GET", "ajax-api/3.0/mlflow/workspaces")):
            answer = browser.fetch(method, path, {"max_results": 1} if method == "POST" else None, **headers)
            assert "MLflow's own page" in refusal(answer, 403)
    preflight = browser.http.options(PREFIX + search, headers={"Origin": "http://localhost:3000"})
    assert preflight.status_code == 405 and "access-control-allow-origin" not in preflight.headers


def test_signing_out_at_the_hub_ends_the_session(hub: TrackingHub) -> None:
    browser = Browser(hub, "olga")
    browser.visit()
    listing = "ajax-api/3.0/mlflow/workspaces"
    assert browser.fetch("GET", listing).status_code == 200
    browser.http.get("/hub/logout")
    until(lambda: browser.fetch("GET", listing).status_code == 401, "the session is over", 10)
    assert "/hub/login" in str(browser.visit().url)


def test_a_person_outside_gets_a_page_with_a_sentence(hub: TrackingHub) -> None:
    browser = Browser(hub, "sam")
    browser.visit()
    page = browser.visit(f"{PREFIX}get-artifact?run_id=x&path=y")
    assert page.status_code == 400 and "Name one workspace" in page.text and "<html" in page.text


# --- The process -----------------------------------------------------------------------------------------------------


def test_it_answers_at_once_is_small_and_ends_with_its_parent(tmp_path: Path) -> None:
    """The port answers 503 in the first moments, for people and for clients; after kill -9 of the parent it is free."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = mlflow_environment(tmp_path, port, address, f"{address}/nowhere") | {
        "PATH": os.environ["PATH"],
        "JUPYTERHUB_API_URL": f"{address}/hub/api",
        "JUPYTERHUB_API_TOKEN": "none",
    }
    program = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-m', 'maestro_hub_services.tracking'])"
    began = time.monotonic()
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL)
    started: list[int] = []
    try:
        until(lambda: _answers(address), "the port answers")
        answered = time.monotonic() - began
        page = httpx.get(address + PREFIX, headers={"Accept": "text/html"})
        assert page.status_code == 503 and "MLflow is starting" in page.text and 'http-equiv="refresh"' in page.text
        call = httpx.post(f"{address}{PREFIX}api/2.0/mlflow/runs/create", json={})
        assert call.json()["error_code"] == "TEMPORARILY_UNAVAILABLE" and call.headers["retry-after"] == "2"
        until(lambda: httpx.get(f"{address}{PREFIX}health").status_code == 200, "MLflow is ready")
        ready = time.monotonic() - began
        (child,) = started = processes(parent.pid)
        memory = memory_mb(child)
        print(f"answers after {answered:.1f} s, ready after {ready:.1f} s, {memory:.0f} MB")
        assert answered < ready and memory < 550
        assert (tmp_path / "mlflow").stat().st_mode & 0o077 == 0
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        until(lambda: not alive(child), "MLflow ends", 10)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    finally:
        left = [*processes(parent.pid), parent.pid] if parent.poll() is None else list(filter(alive, started))
        for pid in left:  # a failed test leaves nobody behind
            os.kill(pid, signal.SIGKILL)
        parent.wait()


def _answers(address: str) -> bool:
    try:
        return bool(httpx.get(address + PREFIX).status_code)
    except httpx.HTTPError:
        return False


def test_a_database_that_cannot_be_opened_ends_the_process_with_a_sentence(tmp_path: Path) -> None:
    environment = mlflow_environment(tmp_path, free_port(), "http://127.0.0.1:1", "http://127.0.0.1:1/x") | {
        "PATH": os.environ["PATH"],
        "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
        "JUPYTERHUB_API_TOKEN": "none",
        "MAESTRO_MLFLOW_DB": "nonsense://somewhere",
    }
    done = subprocess.run(
        [sys.executable, "-m", "maestro_hub_services.tracking"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 1
    assert "MLflow could not be started" in done.stderr


def test_no_token_is_ever_logged(hub: TrackingHub, ed: Client, olga: Client) -> None:
    """After everything above."""
    assert not [token for token in (ed.token, olga.token, hub._settings["mlflow_token"]) if str(token) in hub.log]
