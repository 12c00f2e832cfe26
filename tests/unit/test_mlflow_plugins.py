"""The plugins that MLflow loads by itself, with its own client and server, and with real servers that misbehave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import mlflow
import pytest

from ipython_magics import address, git, kernel
from ipython_magics.address import Address
from ipython_magics.mlflow_plugins import auth, context, entries
from ipython_magics.spool.sender import Away, Sender

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "token-of-the-notebook-server"
PREFIX = "/services/mlflow"


class Recorder:
    """A web server that notes who asks with which token, and answers as it is told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.answers: dict[str, tuple[int, dict[str, str], Any]] = {}
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                recorder.asked.append((self.path, self.headers.get("Authorization")))
                found = [answer for path, answer in recorder.answers.items() if self.path.startswith(path)]
                status, headers, body = found[0] if found else (404, {}, {"error_code": "RESOURCE_DOES_NOT_EXIST"})
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def tokens(self) -> set[str | None]:
        return {token for _, token in self.asked}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def recorders() -> Iterator[tuple[Recorder, Recorder]]:
    pair = Recorder(), Recorder()
    yield pair
    for recorder in pair:
        recorder.close()


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a launch, and mlflow left as it was."""
    for name, value in launch_variables("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(kernel, "_finder", kernel.NotebookFinder())
    before = mlflow.get_tracking_uri()
    yield monkeypatch
    mlflow.set_tracking_uri(before)


def launch_variables(tracking_uri: str) -> dict[str, str]:
    return {
        "MAESTRO_LAUNCH_ID": "l-1",
        "MAESTRO_WORKSPACE": "demo",
        "MAESTRO_USER": "ann@example.org",
        "MAESTRO_EXPERIMENT": "demo",
        "MAESTRO_WORKSPACE_DIR": "/workspace",
        "MAESTRO_TRACKING_URI": tracking_uri,
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_TRACKING_AUTH": "maestro",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "JPY_SESSION_NAME": "/workspace/reports/old name.ipynb",
    }


# -- the address that the token may go to


@pytest.mark.parametrize(
    "url",
    [
        "https://hub.example.org/services/mlflow",
        "https://HUB.example.org:443/services/mlflow/api/2.0/mlflow/runs/create?a=b",
        "https://hub.example.org/services/mlflow/",
        "HTTPS://hub.example.org/services/mlflow",
        "https://hub.example.org/services/mlflow?x=1",
    ],
)
def test_the_address_covers_itself_and_what_is_below(url: str) -> None:
    assert Address("https://hub.example.org/services/mlflow").covers(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://hub.example.org/services/mlflow",
        "https://hub.example.org:8443/services/mlflow",
        "https://hub.example.org.evil.net/services/mlflow",
        "https://evil.net/services/mlflow",
        "https://hub.example.org@evil.net/services/mlflow",
        "https://hub.example.org:pw@evil.net/services/mlflow",
        "https://ann:pw@hub.example.org/services/mlflow",
        "https://evil.net\\@hub.example.org/services/mlflow",
        "https://evil.net/\n@hub.example.org/services/mlflow",
        "https://hub.example.org\t/services/mlflow",
        "https://hub.example.org./services/mlflow",
        "https://hub.example.org/Services/MLflow",
        "https://hub.example.org//services/mlflow",
        "https://hub.example.org/services/mlflowx",
        "https://hub.example.org/services/mlflow;x",
        "https://hub.example.org/services/mlflow/./x",
        "https://hub.example.org/services/mlflow/x/..",
        "https://hub.example.org/services/mlflow/%2e%2E%5Cuser",
        "//hub.example.org/services/mlflow",
        "ftp://hub.example.org/services/mlflow",
        "https://hub.example.org/services/mlflow-other/x",
        "https://hub.example.org/services/mlflow/../../user/bob/x",
        "https://hub.example.org/services/mlflow/%2e%2e/%2E%2e/user/bob/x",
        "https://hub.example.org/services/mlflow/%252e%252e/x",
        "https://hub.example.org/services/mlflow/..%2f..%2fuser/bob",
        "https://hub.example.org/services/mlflow/..\\..\\user",
        "https://hub.example.org/",
        "https://hub.example.org:port/services/mlflow",
        "sqlite:///mlflow.sqlite",
        "",
        None,
    ],
)
def test_the_address_covers_nothing_else(url: str | None) -> None:
    assert not Address("https://hub.example.org/services/mlflow").covers(url)


# -- the token, with MLflow's own client


def ask(uri: str) -> None:
    """One request of MLflow's client; how it ends is not the point."""
    with pytest.raises(mlflow.exceptions.MlflowException):
        mlflow.MlflowClient(tracking_uri=uri).get_run("0" * 32)


def test_the_token_goes_to_mlflow_and_to_nobody_else(
    launch: pytest.MonkeyPatch, recorders: tuple[Recorder, Recorder]
) -> None:
    ours, other = recorders
    launch.setattr(auth, "TRACKING", Address(f"{ours.url}{PREFIX}"))
    ask(f"{ours.url}{PREFIX}")
    ask(f"{ours.url}/user/bob/fake")
    ask(other.url)
    assert [(path.startswith(PREFIX), token) for path, token in ours.asked] == [(True, f"token {TOKEN}"), (False, None)]
    assert other.asked and other.tokens == {None}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_carries_the_token_on(
    launch: pytest.MonkeyPatch, recorders: tuple[Recorder, Recorder], status: int
) -> None:
    ours, other = recorders
    launch.setattr(auth, "TRACKING", Address(f"{ours.url}{PREFIX}"))
    for target in (f"{other.url}{PREFIX}/x", f"{ours.url}/user/bob/x"):
        ours.answers = {PREFIX: (status, {"Location": target}, {})}
        with pytest.raises(
            mlflow.exceptions.MlflowException, match="a redirect, which is not followed with your token"
        ):
            mlflow.MlflowClient(tracking_uri=f"{ours.url}{PREFIX}").get_run("0" * 32)
    assert {path for path, _ in ours.asked if not path.startswith(PREFIX)} == set()
    assert other.asked == []


@pytest.mark.parametrize("status", [302, 307])
def test_no_redirect_carries_the_token_of_what_is_sent_later(
    launch: pytest.MonkeyPatch, recorders: tuple[Recorder, Recorder], status: int
) -> None:
    ours, other = recorders
    sender = Sender(Address(f"{ours.url}{PREFIX}"))
    for target in (f"{other.url}{PREFIX}/x", f"{ours.url}/user/bob/x", f"{ours.url}{PREFIX}x"):
        ours.answers = {PREFIX: (status, {"Location": target}, {})}
        with pytest.raises(Away):
            sender.run("0" * 32, "demo")
    assert {path for path, _ in ours.asked if not path.startswith(f"{PREFIX}/")} == set()
    assert other.asked == [] and ours.tokens == {f"token {TOKEN}"}


def test_the_store_that_keeps_is_for_the_launchs_own_mlflow_alone(
    launch: pytest.MonkeyPatch, recorders: tuple[Recorder, Recorder]
) -> None:
    ours, other = recorders
    launch.setattr(address, "TRACKING", Address(f"{ours.url}{PREFIX}"))
    kinds = {
        uri: type(entries.tracking_store(uri)).__name__
        for uri in (f"{ours.url}{PREFIX}", f"{ours.url}{PREFIX}x", f"{ours.url}/user/bob", other.url)
    }
    assert list(kinds.values()) == ["KeepingStore", "RestStore", "RestStore", "RestStore"]
    launch.delenv("MAESTRO_LAUNCH_ID")
    assert type(entries.tracking_store(f"{ours.url}{PREFIX}")).__name__ == "RestStore"


def test_a_redirect_of_somebody_elses_server_is_followed_as_ever(
    launch: pytest.MonkeyPatch, recorders: tuple[Recorder, Recorder]
) -> None:
    first, second = recorders
    first.answers = {"/": (302, {"Location": f"{second.url}/x"}, {})}
    ask(first.url)
    assert second.asked and second.tokens == {None}


def test_an_address_that_user_code_sets_before_mlflow_is_imported_gets_no_token(
    recorders: tuple[Recorder, Recorder],
) -> None:
    ours, tutorial = recorders
    program = f"""
        import os, subprocess, sys
        os.environ["MLFLOW_TRACKING_URI"] = {tutorial.url!r}
        code = "import mlflow; mlflow.MlflowClient().get_run('0' * 32)"
        subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    """
    python(program, launch_variables(f"{ours.url}{PREFIX}"))
    assert tutorial.asked and tutorial.tokens == {None}
    assert ours.asked == []


def python(program: str, variables: Mapping[str, str]) -> str:
    """What a program prints that is started in a launch's environment, as a terminal would."""
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environ, cwd="/", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- the tags of a run


def test_a_run_carries_whose_it_is_and_where_from(launch: pytest.MonkeyPatch) -> None:
    launch.setattr(kernel, "is_kernel", lambda: True)
    assert context.MaestroRunContext().tags() == {
        "maestro.workspace": "demo",
        "maestro.launch": "l-1",
        "maestro.user": "ann@example.org",
        "mlflow.user": "ann@example.org",
        "maestro.notebook": "reports/old name.ipynb",
        "mlflow.source.name": "reports/old name.ipynb",
        "mlflow.source.type": "NOTEBOOK",
    }


def test_a_run_names_the_cell_that_it_ran_in(launch: pytest.MonkeyPatch) -> None:
    launch.setattr(kernel, "is_kernel", lambda: True)
    header: dict[str, Any] = {"metadata": {"cellId": "5f0c-1"}}  # as JupyterLab sends it with the code
    launch.setattr(kernel, "_shell", lambda: SimpleNamespace(get_parent=lambda: header))
    assert context.MaestroRunContext().tags()["maestro.cell"] == "5f0c-1"
    header["metadata"] = {}
    assert "maestro.cell" not in context.MaestroRunContext().tags()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_run_names_the_commit_that_its_notebooks_folder_is_at(launch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    launch.setenv("MAESTRO_WORKSPACE_DIR", str(tmp_path))
    launch.setenv("JPY_SESSION_NAME", str(tmp_path / "reports" / "churn.ipynb"))
    launch.setattr(git, "FRESH", 0.0)
    launch.setattr(git, "_known", {})
    assert "mlflow.source.git.commit" not in context.MaestroRunContext().tags(), "no repository"

    def run_git(*words: str) -> str:
        who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    run_git("init", "--quiet")
    assert "mlflow.source.git.commit" not in context.MaestroRunContext().tags(), "no commit yet"
    for name in ("one", "two"):
        run_git("commit", "--quiet", "--allow-empty", "-m", name)
        assert context.MaestroRunContext().tags()["mlflow.source.git.commit"] == run_git("rev-parse", "HEAD")


def test_a_program_that_a_notebook_starts_keeps_its_own_name(launch: pytest.MonkeyPatch) -> None:
    tags = context.MaestroRunContext().tags()
    assert tags["maestro.notebook"] == "reports/old name.ipynb" and "mlflow.source.name" not in tags


def test_somebody_elses_server_is_told_nothing(launch: pytest.MonkeyPatch) -> None:
    launch.setattr(address, "TRACKING", Address("https://hub.example.org/services/mlflow"))
    provider = context.MaestroRunContext()
    mlflow.set_tracking_uri("https://elsewhere.example.org")
    assert not provider.in_context()
    for uri in ("https://hub.example.org/services/mlflow", "sqlite:///local.sqlite"):
        mlflow.set_tracking_uri(uri)
        assert provider.in_context()
    launch.delenv("MAESTRO_LAUNCH_ID")
    assert not provider.in_context()


# -- which notebook it is


@pytest.fixture
def notebook_server(launch: pytest.MonkeyPatch, recorders: tuple[Recorder, Recorder]) -> Recorder:
    server = recorders[0]
    launch.setenv("JUPYTERHUB_SERVICE_URL", f"{server.url}/user/ann/demo/")
    launch.setenv(kernel.KERNEL_ID, "k-1")
    launch.setattr(kernel, "FRESH", 0.0)
    return server


def test_the_notebook_is_found_by_its_kernel_after_a_rename_too(notebook_server: Recorder) -> None:
    path = "/user/ann/demo/maestro/kernels/k-1"
    for name in ("reports/first.ipynb", "reports/renamed.ipynb"):
        notebook_server.answers = {path: (200, {}, {"kernel_id": "k-1", "path": name})}
        assert kernel.notebook_path() == name
    assert notebook_server.asked == [(path, f"token {TOKEN}")] * 2


@pytest.mark.parametrize(
    "answer",
    [(404, {}, {}), (500, {}, {}), (302, {"Location": "/elsewhere"}, {}), (200, {}, []), (200, {}, {"path": 1})],
)
def test_without_an_answer_it_is_the_name_from_the_kernels_start(notebook_server: Recorder, answer: Any) -> None:
    notebook_server.answers = {"/user": answer}
    assert kernel.notebook_path() == "reports/old name.ipynb"
    kernel.notebook_path()
    assert len(notebook_server.asked) == 1, "a server that does not answer is not asked at every run"


def test_a_server_on_all_interfaces_is_asked_on_this_machine(
    notebook_server: Recorder, launch: pytest.MonkeyPatch
) -> None:
    port = notebook_server.url.rpartition(":")[2]
    notebook_server.answers = {"/user": (200, {}, {"path": "a.ipynb"})}
    launch.setenv("JUPYTERHUB_SERVICE_URL", f"http://0.0.0.0:{port}/user/ann/demo/")
    assert kernel.notebook_path() == "a.ipynb"


def test_a_terminal_belongs_to_no_notebook(launch: pytest.MonkeyPatch) -> None:
    launch.delenv("JPY_SESSION_NAME")
    assert kernel.notebook_path() is None


# -- plain MLflow code against MLflow's own server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *(
            "--backend-store-uri",
            f"sqlite:///{folder}/mlflow.sqlite",
            "--artifacts-destination",
            str(folder / "artifacts"),
        ),
        *("--static-prefix", PREFIX),
    ]
    environ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}{PREFIX}"
    try:
        deadline = time.monotonic() + 60
        while not _healthy(uri):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def _healthy(uri: str) -> bool:
    try:
        return httpx.get(f"{uri}/health").status_code == 200
    except httpx.TransportError:
        return False


needs_entry_points = pytest.mark.skipif(
    not entry_points(group="mlflow.request_auth_provider", name="maestro"),
    reason="the project is not installed here, so MLflow finds no plugin",
)


@needs_entry_points
def test_a_tutorials_code_lands_in_the_workspaces_experiment(server: str) -> None:
    program = """
        import mlflow
        with mlflow.start_run(run_name="tutorial") as run:
            mlflow.log_param("learning_rate", 0.001)
            mlflow.log_metric("accuracy", 0.95)
        print(run.info.run_id)
    """
    run_id = python(program, launch_variables(server)).split()[-1]
    client = mlflow.MlflowClient(tracking_uri=server)
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == "demo", "made by the first run"
    assert run.info.user_id == "ann@example.org"
    assert run.data.tags["maestro.notebook"] == "reports/old name.ipynb"
    assert run.data.tags["maestro.workspace"] == "demo" and run.data.tags["maestro.launch"] == "l-1"

    again = python(program, launch_variables(server)).split()[-1]
    assert client.get_run(again).info.experiment_id == run.info.experiment_id


@needs_entry_points
def test_set_experiment_wins_over_the_workspaces(server: str) -> None:
    program = """
        import mlflow
        mlflow.set_experiment("my own")
        with mlflow.start_run() as run:
            pass
        print(run.info.run_id)
    """
    run_id = python(program, launch_variables(server)).split()[-1]
    client = mlflow.MlflowClient(tracking_uri=server)
    assert client.get_experiment(client.get_run(run_id).info.experiment_id).name == "my own"
