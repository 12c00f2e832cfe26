"""What the benchmark of the package index runs against: an upstream on loopback, our index, and others before it.

``python -m bench.index_world`` is the upstream and the service that the index asks, in a process of their own, until
its standard input ends; it prints their ports.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from maestro_core.clients import client_environment, client_files  # noqa: E402
from tests import package_kit as kit  # noqa: E402

PREFIX = "/services/packages/"
#: a page of 2.2 MB
BIG, BIG_FILES = "big", 4400
#: a wheel that requires 29 others of 300 kB
BUNDLE, WHEELS, WHEEL_BYTES = "bundle", 30, 300_000
HUGE, HUGE_BYTES = "huge", 200_000_000
START_SECONDS = 60.0


def publish(upstream: kit.Upstream) -> None:
    """Fill the upstream; its pages are made once, and say that they stay fresh as those of large indexes do."""
    upstream.max_age = 600
    upstream.projects[BIG] = [_big_entry(number, upstream.port) for number in range(BIG_FILES)]
    parts = tuple(f"part{number}" for number in range(1, WHEELS))
    for name in parts:
        upstream.add(name, "1.0", padding=WHEEL_BYTES)
    upstream.add(BUNDLE, "1.0", parts, padding=WHEEL_BYTES)
    upstream.add(HUGE, "1.0", padding=HUGE_BYTES)
    upstream.page = functools.cache(upstream.page)  # type: ignore[method-assign]


def _big_entry(number: int, port: int) -> dict[str, Any]:
    version = f"{number // 40}.{number % 40}"
    filename = f"{BIG}-{version}-cp3{number % 4 + 10}-cp3{number % 4 + 10}-manylinux_2_17_x86_64.whl"
    digest = kit.sha256(filename.encode())
    return {
        "filename": filename,
        "url": f"http://localhost:{port}/packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{filename}",
        "hashes": {"sha256": digest},
        "requires-python": ">=3.10",
        "size": 1_000_000 + number,
        "upload-time": f"2024-01-01T{number % 24:02}:{number % 60:02}:00.000000Z",
        "yanked": False,
        "core-metadata": {"sha256": digest[::-1]},
    }


def serve() -> None:
    """The program of this module."""
    with kit.upstream_and_authority() as (upstream, authority):
        publish(upstream)
        print(json.dumps({"upstream": upstream.port, "authority": authority.port}), flush=True)
        sys.stdin.read()


@dataclass(frozen=True)
class Server:
    """Something that answers like an index: where, and as which process."""

    name: str
    port: int
    prefix: str
    pid: int
    headers: dict[str, str]

    @property
    def simple(self) -> str:
        """The path of its root."""
        return f"{self.prefix}simple/" if self.prefix else "/simple/"


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def stub() -> Iterator[dict[str, int]]:
    """The upstream and the service that the index asks: their ports."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.index_world"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(START_SECONDS)


@contextlib.contextmanager
def maestro(ports: dict[str, int], state: Path) -> Iterator[Server]:
    """Our index, with an empty cache; it knows already where packages come from, which pip takes a second to say."""
    port = free_port()
    url = f"http://localhost:{port}"
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {
        "MAESTRO_STATE": str(state),
        "MAESTRO_POLICY": str(state / "maestro.yaml"),
        "MAESTRO_BIND": f"127.0.0.1:{port}",
        "MAESTRO_PUBLIC_URL": url,
        "MAESTRO_SERVICE_URL": f"http://127.0.0.1:{ports['authority']}/api",
        "MAESTRO_MLFLOW_URL": url,
        "MAESTRO_INDEX_URL": f"{url}{PREFIX}",
        "JUPYTERHUB_API_URL": url,
        "JUPYTERHUB_API_TOKEN": kit.SERVICE_TOKEN,
        "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "maestro_hub_services.packages"]
    with running("maestro", command, environment, port, PREFIX, {"Authorization": "Bearer alive"}) as server:
        read_all(f"http://127.0.0.1:{port}{server.simple}", server.headers)
        yield server


@contextlib.contextmanager
def rivals(ports: dict[str, int], folder: Path) -> Iterator[list[Server]]:
    """proxpi and simple-repository-server, installed by name into an environment of their own."""
    uv, environment = shutil.which("uv") or str(Path(sys.executable).parent / "uv"), folder / "rivals"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, environment], check=True)
    wanted = ["proxpi", "gunicorn", "simple-repository-server"]
    subprocess.run([uv, "pip", "install", "-q", "--python", environment / "bin/python", *wanted], check=True)
    upstream = f"http://127.0.0.1:{ports['upstream']}/simple/"
    plain = {"PATH": os.environ["PATH"], "PROXPI_INDEX_URL": upstream, "PROXPI_CACHE_DIR": str(folder / "proxpi")}
    first, second = free_port(), free_port()
    gunicorn = ["gunicorn", "--workers=1", "--threads=4", f"--bind=127.0.0.1:{first}", "proxpi.server:app"]
    server = ["simple-repository-server", f"--port={second}", upstream]
    with (
        running("proxpi", [f"{environment}/bin/{gunicorn[0]}", *gunicorn[1:]], plain, first, "/index/") as one,
        running("simple-repository-server", [f"{environment}/bin/{server[0]}", *server[1:]], plain, second) as other,
    ):
        yield [one, other]


@contextlib.contextmanager
def running(
    name: str,
    command: list[str],
    environment: dict[str, str],
    port: int,
    prefix: str = "",
    headers: dict[str, str] | None = None,
) -> Iterator[Server]:
    """A server as a process, from its first answer on."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"{name} does not start")
        yield Server(name, port, prefix, process.pid, headers or {})
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


def client_variables(server: Server, folder: Path) -> dict[str, str]:
    """The environment with which pip installs from our index, as a launch has it."""
    folder.mkdir(exist_ok=True)
    for name, text in client_files(f"http://localhost:{server.port}{PREFIX}".rstrip("/"), "alive").items():
        (folder / name).write_text(text)
    return client_environment(str(folder))


def read_all(url: str, headers: dict[str, str]) -> int:
    """Fetch a file and throw it away; its bytes."""
    size = 0
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        while part := answer.read(1024**2):
            size += len(part)
    return size


if __name__ == "__main__":
    serve()
