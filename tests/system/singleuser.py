"""A notebook server as a launch starts it, and a browser's side of its API: for tests of what runs inside.

The Hub's place is taken by its two answers that a notebook server asks for (its version, whose token this is), so that
these tests need neither proxy nor sign-in; the whole chain is walked by the browser test.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import httpx
import pytest

from maestro_core import sandbox
from maestro_core.launches import ENVIRONMENT_DIR, HOME_DIR, WORKSPACE_DIR, LaunchPlan, Mount, PlanWorkspace
from maestro_core.resources import Resources
from maestro_core.roles import Role

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "token-of-the-notebook-server"
EXPERIMENT = "demo"
#: for tests in which nobody logs a run
NO_TRACKING = "http://127.0.0.1:9/services/mlflow"
LIMIT = 60.0  # seconds that anything here may take


def prefix() -> Path:
    """The environment that notebook servers run from: the one that set-up makes, or MAESTRO_TEST_SINGLEUSER."""
    return Path(os.environ.get("MAESTRO_TEST_SINGLEUSER") or ROOT / ".venv-singleuser")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Any, what: str, limit: float = LIMIT) -> Any:
    """Ask until the answer is true.

    Raises:
        AssertionError: it did not become true in time.
    """
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {limit:g} s")


@contextmanager
def hub_answers(user: str, server: str) -> Iterator[str]:
    """What a Hub answers about one token; yields the address of its API."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == f"token {TOKEN}"
            if self.path.rstrip("/") == "/hub/api":
                status, body = 200, {"version": "6.1.1"}
            elif self.path.startswith("/hub/api/user") and known:
                scope = f"access:servers!server={user}/{server}"
                status, body = 200, {"kind": "user", "name": user, "scopes": [scope], "groups": []}
            else:
                status, body = 403, {"message": "no"}
            self._answer(status, body)

        def do_POST(self) -> None:  # activity
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(200, {})

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("X-JupyterHub-Version", "6.1.1")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    hub = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{hub.server_port}/hub/api"
    finally:
        hub.shutdown()
        hub.server_close()


class ServiceAnswers:
    """What the workspaces service answers a notebook server; a test reads what it was told and says what it answers.

    Attributes:
        url: for MAESTRO_SERVICE_URL.
        beats: the heartbeats so far; keeps: how often "Keep it running" was pressed.
        notices: what it answers; status: of its answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.beats: list[dict[str, Any]] = []
        self.keeps = 0
        self.notices: list[dict[str, Any]] = []
        self.status = 200
        self.ended = False


@contextmanager
def service_answers(launch_id: str = "l-1") -> Iterator[ServiceAnswers]:
    """The routes of the service that a notebook server asks."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Notices, as soon as they are others than those that were seen."""
            question = urlsplit(self.path)
            query = dict(parse_qsl(question.query))
            end = time.monotonic() + float(query.get("wait", 0))
            known = self.headers.get("Authorization") == f"token {TOKEN}"
            status = service.status if known and question.path == f"/api/launches/{launch_id}/notices" else 404
            while status == 200 and self.digest() == query.get("seen") and time.monotonic() < end and not service.ended:
                time.sleep(0.02)
            self.answer(status)

        def digest(self) -> str:
            return hashlib.sha256(json.dumps(service.notices).encode()).hexdigest()[:16]

        def answer(self, status: int) -> None:
            data = json.dumps({"notices": service.notices} if status == 200 else {}).encode()
            self.send_response(status)
            self.send_header("ETag", f'"{self.digest()}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):  # the server was ended while it waited
                self.wfile.write(data)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            known = self.headers.get("Authorization") == f"token {TOKEN}"
            status = service.status if known else 401
            if status == 200 and self.path == f"/api/launches/{launch_id}/heartbeat":
                service.beats.append(body)
            elif status == 200 and self.path == f"/api/launches/{launch_id}/keep":
                service.keeps += 1
                service.notices = [notice for notice in service.notices if notice.get("action") != "keep"]
            elif status == 200:
                status = 404
            self.answer(status)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    service = ServiceAnswers(f"http://127.0.0.1:{server.server_port}/api")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        service.ended = True
        server.shutdown()
        server.server_close()


def hub_variables(hub_api: str, port: int, user: str = "ann", server: str = "demo") -> dict[str, str]:
    """The JUPYTERHUB_* that ``Spawner.get_env`` gives a server, as far as it reads them."""
    base = f"/user/{user}/{server}/"
    return {
        "JUPYTERHUB_API_TOKEN": TOKEN,
        "JUPYTERHUB_API_URL": hub_api,
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{user}!{server}",
        "JUPYTERHUB_USER": user,
        "JUPYTERHUB_SERVER_NAME": server,
        "JUPYTERHUB_SERVICE_PREFIX": base,
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}{base}",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{base}oauth_callback",
        "JUPYTERHUB_OAUTH_SCOPES": json.dumps([f"access:servers!server={user}/{server}"]),
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps([f"access:servers!server={user}/{server}"]),
        "JUPYTERHUB_ACTIVITY_URL": f"{hub_api}/users/{user}/activity",
    }


@dataclass
class NotebookServer:
    """A running server and the requests of the browser that is signed in to it."""

    url: str
    process: subprocess.Popen[bytes] | None = None  # None: it runs elsewhere
    log: Path | None = None
    token: str = TOKEN

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"token {self.token}"}

    def api(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One request with the server's token."""
        return httpx.request(method, self.url + path, headers=self.headers, timeout=LIMIT, **arguments)

    def open_notebook(self, path: str, kernel: str = "python3") -> Notebook:
        """What JupyterLab does when a notebook is opened: a session with a kernel of the notebook's own."""
        asked = {"path": path, "name": path, "type": "notebook", "kernel": {"name": kernel}}
        answer = self.api("POST", "api/sessions", json=asked)
        assert answer.status_code == 201, answer.text
        session = answer.json()
        return Notebook(self, session["id"], session["kernel"]["id"])

    async def terminal(self, line: str, ends: str) -> str:
        """What a new terminal shows after a line, up to the text that its output ends in."""
        name = self.api("POST", "api/terminals", json={}).json()["name"]
        url = f"{self.url.replace('http', 'ws', 1)}terminals/websocket/{name}"
        seen = ""
        async with (
            aiohttp.ClientSession(headers=self.headers) as client,
            client.ws_connect(url, timeout=aiohttp.ClientWSTimeout(ws_receive=LIMIT)) as socket_,
        ):
            await socket_.send_json(["stdin", f"{line}\r"])
            while ends not in seen:
                kind, *text = await socket_.receive_json()
                seen += text[0] if kind == "stdout" else ""
        self.api("DELETE", f"api/terminals/{name}")
        return seen


@dataclass
class Outcome:
    """What a cell printed and showed, and how it ended."""

    text: str = ""
    shown: list[dict[str, Any]] = field(default_factory=list)
    status: str = ""

    @property
    def html(self) -> str:
        return "".join(part.get("text/html", "") for part in self.shown)


@dataclass
class Notebook:
    """An open notebook: cells run in its kernel."""

    server: NotebookServer
    session_id: str
    kernel_id: str

    def rename(self, path: str) -> None:
        """What JupyterLab does after a rename."""
        answer = self.server.api("PATCH", f"api/sessions/{self.session_id}", json={"path": path, "name": path})
        assert answer.status_code == 200, answer.text

    async def run(self, code: str, cell: str = "", seconds: float = LIMIT) -> Outcome:
        """Run a cell (of this id, as JupyterLab says it); wait for its end, with at most ``seconds`` of silence."""
        url = f"{self.server.url.replace('http', 'ws', 1)}api/kernels/{self.kernel_id}/channels"
        outcome, message_id = Outcome(), uuid.uuid4().hex
        async with (
            aiohttp.ClientSession(headers=self.server.headers) as client,
            client.ws_connect(url, timeout=aiohttp.ClientWSTimeout(ws_receive=seconds)) as socket_,
        ):
            await socket_.send_json(_execute_request(code, message_id, cell))
            done = set()
            while done != {"idle", "reply"}:
                message = await socket_.receive_json()
                if message.get("parent_header", {}).get("msg_id") == message_id:
                    done |= _take(outcome, message)
        return outcome


def _execute_request(code: str, message_id: str, cell: str = "") -> dict[str, Any]:
    header = {"msg_id": message_id, "msg_type": "execute_request", "username": "ann", "session": "s", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    return {
        "header": header,
        "parent_header": {},
        "metadata": {"cellId": cell} if cell else {},
        "content": content,
        "channel": "shell",
        "buffers": [],
    }


def _take(outcome: Outcome, message: Mapping[str, Any]) -> set[str]:
    """Add a message of the kernel to the outcome; which end it is, if it is one."""
    content, kind = message["content"], message["header"]["msg_type"]
    if kind == "stream":
        outcome.text += content["text"]
    elif kind in ("display_data", "execute_result"):
        outcome.shown.append(content["data"])
    elif kind == "error":
        outcome.text += "\n".join(content["traceback"])
    elif kind == "execute_reply":
        outcome.status = content["status"]
        return {"reply"}
    elif kind == "status" and content["execution_state"] == "idle":
        return {"idle"}
    return set()


@contextmanager
def running(
    command: Sequence[str], environ: Mapping[str, str], url: str, log: Path, fds: Sequence[int] = ()
) -> Iterator[NotebookServer]:
    """The server of a command line, from its first answer to its end with all that it started."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=dict(environ), stdout=output, stderr=output, start_new_session=True, pass_fds=tuple(fds)
        )
    server = NotebookServer(url, process, log)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            return server.api("GET", "api/status").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(ready, "the notebook server's first answer")
        yield server
    finally:
        for kernel in _kernels(server):
            server.api("DELETE", f"api/kernels/{kernel}")
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(LIMIT)


def _kernels(server: NotebookServer) -> list[str]:
    try:
        return [kernel["id"] for kernel in server.api("GET", "api/kernels").json()]
    except (httpx.TransportError, ValueError):
        return []


def has_bubblewrap() -> bool:
    """Whether sandboxes can be made here."""
    probe = ["bwrap", "--unshare-user", "--uid", "1000", "--ro-bind", "/", "/", "true"]
    return bool(shutil.which("bwrap")) and subprocess.run(probe, capture_output=True, check=False).returncode == 0


@dataclass
class Opened:
    """A launch that runs.

    Attributes:
        workspace, home, env: the folders outside of what is /workspace, the home and the environment inside.
    """

    server: NotebookServer
    workspace: Path
    home: Path
    env: Path


@contextmanager
def opened(
    folder: Path,
    tracking_uri: str = NO_TRACKING,
    role: Role = Role.EDITOR,
    program: Sequence[str] = (),
    more_options: Sequence[str] = (),
    **variables: str,
) -> Iterator[Opened]:
    """Start a server as the local spawner does: the plan's sandbox around the plan's environment.

    Args:
        program: what runs inside in front of maestro-singleuser; more_options: of bubblewrap, after the plan's.
    """
    places = {name: folder / name for name in ("workspace", "home", "env", "etc", "system")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    for name, text in sandbox.system_files().items():
        (places["system"] / name).write_text(text)
    plan = LaunchPlan(
        launch_id="l-1",
        user="ann",
        server_name="demo",
        workspace=PlanWorkspace(workspace_id="w-1", name="demo", gid=5000),
        role=role,
        profile="small",
        resources=Resources(cpu=1, memory="1Gi"),
        mounts=(
            Mount(name="workspace", kind="directory", source=str(places["workspace"]), target=WORKSPACE_DIR),
            Mount(name="home", kind="directory", source=str(places["home"]), target=HOME_DIR),
        ),
    )
    port = free_port()
    with hub_answers("ann", "demo") as hub_api:
        given = hub_variables(hub_api, port) | launch_variables(tracking_uri)
        given |= {"MAESTRO_ROLE": role.value} | variables
        environ = sandbox.server_environment(given, str(prefix()))
        binds = sandbox.launch_binds(plan, str(folder), runtime_paths())
        command, fds = in_sandbox((*sandbox.bwrap_options(binds, environ), *more_options), program)
        url = f"http://127.0.0.1:{port}/user/ann/demo/"
        with running(command, sandbox.HELPER_ENVIRONMENT, url, folder / "log", fds) as server:
            yield Opened(server, places["workspace"], places["home"], places["env"])


def launch_variables(tracking_uri: str) -> dict[str, str]:
    """What a plan's environment holds."""
    return {
        "MAESTRO_LAUNCH_ID": "l-1",
        "MAESTRO_WORKSPACE": "demo",
        "MAESTRO_WORKSPACE_DIR": WORKSPACE_DIR,
        "MAESTRO_ENV": ENVIRONMENT_DIR,
        "MAESTRO_USER": "ann",
        "MAESTRO_PUBLIC_PREFIX": "/",
        "MAESTRO_EXPERIMENT": EXPERIMENT,
        "MLFLOW_EXPERIMENT_NAME": EXPERIMENT,
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_TRACKING_AUTH": "maestro",
        "MLFLOW_WORKSPACE": "demo",
    }


def runtime_paths() -> list[str]:
    """The single-user environment and the Python behind it."""
    return [str(prefix()), str((prefix() / "bin/python").resolve().parents[1])]


def in_sandbox(options: tuple[str, ...], program: Sequence[str] = ()) -> tuple[list[str], list[int]]:
    """The command line of maestro-singleuser in bubblewrap, and the descriptor with bubblewrap's options."""
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    fd = os.memfd_create("options")
    os.write(fd, sandbox.encode_options(options))
    os.lseek(fd, 0, os.SEEK_SET)
    return sandbox.bwrap_command([*program, str(prefix() / "bin/maestro-singleuser")], fd), [fd]
