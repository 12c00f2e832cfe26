"""Maestro's MLflow as a process of its own, with stand-ins for the Hub and the workspaces service that tests steer.

What a Hub and a proxy add is shown in ``test_tracking.py``; here a test may call a thousand addresses in seconds.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.system.singleuser import free_port, until
from tests.system.tracking_hub import PREFIX, Client, StandInWorkspaces, mlflow_environment

ENTER = "access:services!service=mlflow"


class StandInHub:
    """The Hub's answer to ``GET /hub/api/user``: whose token it is, and its scopes."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}
        tokens = self.tokens

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                model = tokens.get((self.headers["Authorization"] or "").removeprefix("token "))
                body = json.dumps(model or {}).encode()
                self.send_response(200 if model and self.path == "/hub/api/user" else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hub/api"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class MlflowAlone:
    """One MLflow process on a folder of its own.

    Args:
        folder: everything lies below it.

    Attributes:
        url: where it listens; ``workspaces``: the stand-in that says who belongs where.
    """

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        token, port = secrets.token_hex(16), free_port()
        self.hub, self.workspaces = StandInHub(), StandInWorkspaces(token)
        self.url = f"http://127.0.0.1:{port}"
        environment = mlflow_environment(self.state, port, self.url, self.workspaces.url) | {
            "PATH": os.environ["PATH"],
            "JUPYTERHUB_API_URL": self.hub.url,
            "JUPYTERHUB_API_TOKEN": token,
        }
        self._log = folder / "mlflow.log"
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", "maestro_hub_services.tracking"]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        until(self._ready, f"MLflow is ready: {self._log}")

    def _ready(self) -> bool:
        assert self._process.poll() is None, self.log
        try:
            return httpx.get(f"{self.url}{PREFIX}health").status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="replace")

    def token(self, user: str, server: str | None = None, scopes: list[str] | None = None) -> str:
        """A token of ``user``; of their notebook server, where one is named."""
        token = secrets.token_hex(16)
        scopes = [ENTER] if scopes is None else scopes
        if server is not None:
            scopes = [*scopes, f"access:servers!server={user}/{server}"]
        self.hub.tokens[token] = {"kind": "user", "name": user, "scopes": scopes}
        return token

    def client(self, user: str, workspace: str | None = None, server: str | None = None) -> Client:
        """MLflow's REST API as that user (or as their notebook server) in that workspace."""
        return Client(self.url, self.token(user, server), workspace)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)
        self.hub.close()
        self.workspaces.close()
