"""The package index as the process that it is, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests import package_kit as kit

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "/services/packages/"
LIMIT = 60.0  # seconds for a start or an end


@dataclass(frozen=True)
class IndexService:
    """A running one.

    Attributes:
        url: without a slash at its end. pid: of its process.
    """

    url: str
    pid: int


@contextlib.contextmanager
def index_service(authority: kit.Authority, state: Path) -> Iterator[IndexService]:
    """Start it as the Hub does, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = f"http://localhost:{port}"  # as clients.py calls it
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        "MAESTRO_STATE": str(state),
        "MAESTRO_POLICY": str(state / "maestro.yaml"),
        "MAESTRO_BIND": f"127.0.0.1:{port}",
        "MAESTRO_PUBLIC_URL": host,
        "MAESTRO_SERVICE_URL": authority.url,
        "MAESTRO_MLFLOW_URL": host,
        "MAESTRO_INDEX_URL": f"{host}{PREFIX}",
        "JUPYTERHUB_API_URL": host,
        "JUPYTERHUB_API_TOKEN": kit.SERVICE_TOKEN,
        "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen([sys.executable, "-m", "maestro_hub_services.packages"], env=environment)
    try:
        service = IndexService(host + PREFIX.rstrip("/"), process.pid)
        _wait(service, process)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


def _wait(service: IndexService, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT
    while True:
        assert process.poll() is None and time.monotonic() < deadline, "the index did not start"
        with contextlib.suppress(httpx.TransportError):
            assert httpx.get(f"{service.url}/health", trust_env=False).json() == {"status": "ok"}
            return
        time.sleep(0.05)
