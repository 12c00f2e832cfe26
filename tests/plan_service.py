"""A stand-in for the workspaces service in the spawner's tests: a real HTTP server with the five routes of the plan.

It admits everybody to every workspace, unless a test says otherwise, and remembers what it was asked.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from maestro_core.clients import client_environment
from maestro_core.errors import MaestroError
from maestro_core.launches import CLIENT_CONFIG_DIR, ENVIRONMENT_DIR, HOME_DIR, WORKSPACE_DIR

TOKEN = "token-of-the-spawner"
GIB = 1024**3
Answer = tuple[int, Any]


class PlanServiceStub:
    """The service's side of the spawner's questions.

    Args:
        workspaces: where directories for local launches are made; None: plans name claims.
        own: changes the owner of what is made, as the service does for a root Hub.
    """

    def __init__(self, workspaces: Path | None = None, own: Callable[[Path], None] = lambda path: None) -> None:
        self.workspaces, self.own = workspaces, own
        self.asked: list[tuple[str, Any]] = []
        self.tokens: set[str | None] = set()
        #: what to answer instead: path -> answer, or a function of the question
        self.instead: dict[str, Answer | Callable[[Any], Answer]] = {}
        #: what to change in the next plans
        self.changes: dict[str, Any] = {}
        self.roles: dict[tuple[str, str], str] = {}
        self.ended: dict[str, str] = {}
        self.running: set[str] = set()
        self._lock = threading.Lock()
        self._count = 0

    def questions(self, path: str) -> list[Any]:
        """The bodies of what was POSTed to a path (a regular expression)."""
        with self._lock:
            return [body for asked, body in self.asked if re.fullmatch(path, asked)]

    def answer(self, path: str, body: Any) -> Answer:
        """Answer one question."""
        with self._lock:
            self.asked.append((path, body))
        if path in self.instead:
            other = self.instead[path]
            return other(body) if callable(other) else other
        if path == "/plan/launches":
            return 201, self.plan(body)
        if path == "/plan/form":
            return 200, self.form(body)
        told = re.fullmatch(r"/plan/launches/([\w-]+)/(confirm|release)", path)
        if told is None:
            return 404, MaestroError("unknown_path", "There is no such path.").as_json()
        if told[2] == "confirm":
            self.running.add(told[1])
        else:
            self.ended[told[1]] = body["reason"]
        return 200, {}

    def plan(self, question: Any) -> dict[str, Any]:
        """A plan that fits the question."""
        user, server, ask = question["user"]["name"], question["server_name"], question["ask"]
        workspace = ask.get("workspace") or server or "personal"
        role = self.roles.get((user, workspace), "editor")
        with self._lock:
            self._count += 1
            launch_id = f"launch-{self._count}"
        plan = {
            "launch_id": launch_id,
            "user": user,
            "server_name": server,
            "workspace": {"workspace_id": f"id-{workspace}", "name": workspace, "gid": 20001},
            "role": role,
            "profile": "small",
            "resources": ask.get("resources") or {"cpu": 1, "memory": GIB},
            "mounts": self._mounts(user, workspace, role),
            "environment": {
                "MAESTRO_LAUNCH_ID": launch_id,
                "MAESTRO_WORKSPACE": workspace,
                "MAESTRO_WORKSPACE_DIR": WORKSPACE_DIR,
                "MAESTRO_ENV": ENVIRONMENT_DIR,
                "MAESTRO_ROLE": role,
                **client_environment(CLIENT_CONFIG_DIR),
            },
            "labels": {"maestro/workspace": workspace},
            "index_url": "http://127.0.0.1:8182/services/packages",
            "index_token": f"index-token-of-{launch_id}",
        }
        return {**plan, **self.changes}

    def _mounts(self, user: str, workspace: str, role: str) -> list[dict[str, Any]]:
        read_only = role == "viewer"
        if self.workspaces is None:
            home = {"name": "home", "kind": "claim", "source": "maestro-homes", "sub_path": f"{user}/{workspace}"}
            files = {"name": "workspace", "kind": "claim", "source": f"workspace-{workspace}", "read_only": read_only}
        else:
            home = {"name": "home", "kind": "directory", "source": self.directory("homes", user, workspace)}
            files = {"name": "workspace", "kind": "directory", "source": self.directory("workspaces", workspace)}
        return [{**files, "target": WORKSPACE_DIR, "read_only": read_only}, {**home, "target": HOME_DIR}]

    def directory(self, *parts: str) -> str:
        """A directory of this test, made as the service makes it."""
        assert self.workspaces is not None
        path = self.workspaces
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
        for part in parts:
            path = path / part
            if not path.exists():
                path.mkdir(mode=0o700)
                self.own(path)
        return str(path)

    def form(self, question: Any) -> dict[str, Any]:
        """A form that names the server that was asked about."""
        workspace = question["server_name"] or "personal"
        small = {"name": "small", "title": "Small", "description": "", "cpu": 1, "memory": GIB, "memory_shown": "1 GiB"}
        return {
            "workspace": workspace,
            "role": self.roles.get((question["user"]["name"], workspace), "editor"),
            "profiles": [{**small, "gpu": 0, "gpu_type": None, "allowed": True}],
            "experiment": f"experiment-of-{workspace}",
        }


class _Handler(BaseHTTPRequestHandler):
    stub: PlanServiceStub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")
        given = self.headers.get("Authorization")
        self.stub.tokens.add(given)
        if given != f"token {TOKEN}":
            status, answer = 401, MaestroError("not_signed_in", "No.").as_json()
        else:
            status, answer = self.stub.answer(self.path, body)
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(stub: PlanServiceStub, port: int = 0) -> Iterator[str]:
    """Serve it; yields the base of its API."""
    handler = type("Handler", (_Handler,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
