"""Maestro's own MLflow behind its own gate, in a process of its own, with faults on demand.

Everything is real but who somebody is: every token is ann's, and she edits the workspace ``demo``. Run as a program it
serves; :class:`FlakyMlflow` starts that and tells it how to misbehave.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "/services/mlflow/"


class FlakyMlflow:
    """One MLflow on a folder of its own; its methods set what it does from now on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}{PREFIX.rstrip('/')}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "MAESTRO_"))}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.flaky_mlflow", str(self._folder), str(self.port)],
                cwd=ROOT,
                env=environ | {"PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self._process.poll() is None and time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """As ``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def behave(self, mode: str = "well", seconds: float = 0.0, member: bool = True) -> None:
        """How it answers.

        Args:
            mode: ``well``, ``away`` (503, nothing is done), ``lost`` (done, but the answer is 504).
            seconds: that it waits before each answer. member: whether ann belongs to the workspace.
        """
        told = {"mode": mode, "seconds": seconds, "member": member}
        assert httpx.post(f"{self.root}/control", json=told).status_code == 200

    def calls(self) -> list[str]:
        """Method and path of each request since it was asked last, in the order in which they came."""
        return list(httpx.get(f"{self.root}/control").json())


def main(folder: Path, port: int) -> None:
    """Serve until killed."""
    import uvicorn

    from maestro_core.roles import Role
    from maestro_core.workspaces import TrackingGrant
    from maestro_hub_services.tracking.gate import Behind, Gate
    from maestro_hub_services.tracking.identity import Identity
    from maestro_hub_services.tracking.mlflow_server import LoadedMlflow, Stores, environment

    told: dict[str, Any] = {"mode": "well", "seconds": 0.0, "member": True}
    calls: list[str] = []

    class Hub:
        async def who(self, token: str) -> Identity:
            return Identity("ann", None)

    class Service:
        async def memberships(self, identity: Identity) -> dict[str, TrackingGrant]:
            return (
                {"demo": TrackingGrant(role=Role.EDITOR)}
                if told["member"]
                else {"another": TrackingGrant(role=Role.EDITOR)}
            )

    stores = Stores(f"sqlite:///{folder}/mlflow.sqlite", str(folder / "artifacts"))
    mlflow = LoadedMlflow(environment(stores, PREFIX, [f"http://127.0.0.1:{port}"], os.environ))
    gate = Gate(PREFIX)
    gate.open(Behind(mlflow, Hub(), Service(), None, None))  # type: ignore[arg-type]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"].endswith("/health"):
            await gate(scope, receive, send)
        elif scope["path"] == "/control":
            body = (await receive()).get("body", b"")
            answer = json.dumps(calls).encode()
            calls.clear()
            if body:
                told.update(json.loads(body))
            await _say(send, 200, answer)
        else:
            calls.append(f"{scope['method']} {scope['path'].removeprefix(PREFIX)}")
            await asyncio.sleep(told["seconds"])
            if told["mode"] == "away":
                await _say(send, 503, b"{}")
            elif told["mode"] == "lost":
                await gate(scope, receive, _nowhere)
                await _say(send, 504, b"{}")
            else:
                await gate(scope, receive, send)

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")


async def _nowhere(message: Any) -> None:
    """An answer that is lost."""


async def _say(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
