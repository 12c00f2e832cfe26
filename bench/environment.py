"""How long a start takes to install a workspace's environment: ``python -m bench.environment [--rounds 10]``.

Thirty wheels of a hundred files and half a megabyte each come from our index, whose cache is warm, into a new
environment with an empty cache of uv's, as every launch has them: once from a lock, once resolved anew. It runs in the
notebook servers' own prefix, by the code that a start runs; the workspaces service is stood in for by two answers.

Goal: at most 5 seconds from a lock.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

RESULT = ROOT / "bench/results/environment.json"
WHEELS, FILES, FILE_BYTES, SECONDS = 30, 100, 5_000, 5.0
TOP = "part0"


def parts() -> list[str]:
    """The wheels' names; the first one requires all others."""
    return [f"part{number}" for number in range(WHEELS)]


def big_wheel(name: str, requires: tuple[str, ...]) -> bytes:
    """A wheel with as many files as an ordinary one has."""
    import hashlib
    import io
    import zipfile

    from tests import package_kit as kit

    plain = kit.wheel(name, "1.0", requires)
    buffer = io.BytesIO(plain)
    with zipfile.ZipFile(buffer, "a") as archive:
        for number in range(FILES):
            content = hashlib.shake_128(f"{name} {number}".encode()).digest(FILE_BYTES // 2).hex()
            entry = zipfile.ZipInfo(f"{name}_files/module{number}.py", (2020, 1, 1, 0, 0, 0))
            archive.writestr(entry, f"# {content}\n")
    return buffer.getvalue()


def serve() -> None:
    """The upstream, in a process of its own until its standard input ends (``--upstream``)."""
    from tests import package_kit as kit

    with kit.upstream_and_authority() as (upstream, authority):
        upstream.max_age = 600
        for name in parts():
            requires = tuple(parts()[1:]) if name == TOP else ()
            told = kit.metadata(name, "1.0", requires)
            upstream.add_file(name, kit.wheel_name(name, "1.0"), big_wheel(name, requires), told)
        print(json.dumps({"upstream": upstream.port, "authority": authority.port}), flush=True)
        sys.stdin.read()


def build_once(folder: Path) -> None:
    """One build, in the notebook servers' prefix (``--build FOLDER``): seconds and what came of it, as JSON."""
    from server_extension.environment import make_environment
    from server_extension.launch import Launch
    from server_extension.packages.build import build

    launch = Launch("bench", folder, folder / "env", folder, Path(sys.prefix))
    make_environment(launch)
    outcome = build(launch, os.environ)
    print(json.dumps({"seconds": outcome.seconds, "packages": outcome.packages, "missing": outcome.missing}))


@contextlib.contextmanager
def service(lock: list[dict[str, Any]] | None) -> Iterator[str]:
    """The workspaces service's two answers: what to build, and that the lock is kept; its address."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({"requirements": [TOP], "complete": lock is not None, "packages": lock or []})

        def do_PUT(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def build(prefix: Path, clients: dict[str, str], lock: list[dict[str, Any]] | None) -> float:
    """Seconds that one build takes, as a start counts them.

    Raises:
        SystemExit: something is missing of it.
    """
    with tempfile.TemporaryDirectory() as folder, service(lock) as address:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "PYTHONPATH": str(ROOT),
            "MAESTRO_ENVIRONMENT": "1",
            "MAESTRO_SERVICE_URL": address,
            "MAESTRO_WORKSPACE": "bench",
            "JUPYTERHUB_API_TOKEN": "none",
            **clients,
        }
        command = [str(prefix / "bin/python"), "-m", "bench.environment", "--build", folder]
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        outcome = json.loads(done.stdout)
        if outcome["packages"] != WHEELS or outcome["missing"]:
            raise SystemExit(f"The build was not complete: {outcome}")
        return float(outcome["seconds"])


def locked() -> list[dict[str, Any]]:
    """The lock, as the record has it."""
    from tests import package_kit as kit

    made = []
    for name in sorted(parts()):
        digest = kit.sha256(big_wheel(name, tuple(parts()[1:]) if name == TOP else ()))
        made.append({"name": name, "version": "1.0", "hashes": [f"sha256:{digest}"]})
    return made


def measure(prefix: Path, rounds: int) -> dict[str, list[float]]:
    """Both ways in turns, after one build that fills the index's cache."""
    from bench import index_world as world

    lock = locked()
    took: dict[str, list[float]] = {"from a lock": [], "resolved anew": []}
    command = [sys.executable, "-m", "bench.environment", "--upstream"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    stub = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    try:
        assert stub.stdout is not None
        ports = json.loads(stub.stdout.readline())
        with tempfile.TemporaryDirectory() as name, world.maestro(ports, Path(name) / "state") as index:
            clients = world.client_variables(index, Path(name) / "etc")
            build(prefix, clients, None)
            for number in range(rounds):
                took["from a lock"].append(build(prefix, clients, lock))
                took["resolved anew"].append(build(prefix, clients, None))
                last = ", ".join(f"{way} {values[-1]:.2f} s" for way, values in took.items())
                print(f"  {number + 1:2d} of {rounds}: {last}", flush=True)
    finally:
        assert stub.stdin is not None
        stub.stdin.close()
        stub.wait(60)
    return took


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write :data:`RESULT`; 0 if the goal holds."""
    parser = argparse.ArgumentParser(prog="python -m bench.environment", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="builds of each kind (10)")
    parser.add_argument("--prefix", type=Path, help="the notebook servers' prefix (.venv-singleuser)")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--upstream", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.upstream:
        serve()
        return 0
    if options.build:
        build_once(options.build)
        return 0
    from bench.launch import machine

    before = machine()
    prefix = options.prefix or Path(os.environ.get("MAESTRO_SINGLEUSER_PREFIX") or ROOT / ".venv-singleuser")
    print(f"Building an environment of {WHEELS} wheels, {options.rounds} times each way ...", flush=True)
    took = measure(prefix, options.rounds)
    medians = {way: round(statistics.median(values), 3) for way, values in took.items()}
    result = {
        "made_by": f"python -m bench.environment --rounds {options.rounds}",
        "machine": before,
        "wheels": {"count": WHEELS, "files": FILES, "bytes": FILES * FILE_BYTES},
        "goal_seconds_from_a_lock": SECONDS,
        "median_seconds": medians,
        "seconds": {way: [round(value, 3) for value in values] for way, values in took.items()},
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(", ".join(f"{way} {seconds:.2f} s" for way, seconds in medians.items()) + f" (asked {SECONDS:g} s)")
    print(f"written to {RESULT.relative_to(ROOT)}")
    return 0 if medians["from a lock"] <= SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
