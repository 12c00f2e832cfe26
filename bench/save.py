"""How much longer a save takes where each is a version of the notebook: ``python -m bench.save [-n 150]``.

Two notebook servers of the same environment, alike but for Maestro's extension: one keeps versions, at a service that
answers at once, and one does not. A notebook of 100 cells with outputs (some 200 KB), each time with another source, is
saved through the contents API of both, in turns. What the extension does about a save comes after its answer; 200 ms
between two saves let it.

The measure is the ratio of the medians, asked to be at most 1.02; beside it stand the quartiles and what a bootstrap
over the pairs says of the ratio's uncertainty.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.launch import _spread, machine, until  # noqa: E402

RESULT = ROOT / "bench/results/save.json"
ASKED = 1.02
KINDS = ("without", "with")
SECONDS, BETWEEN = 60.0, 0.2
TOKEN = "of-the-bench"


@contextmanager
def server(folder: Path, kind: str, service_url: str) -> Iterator[httpx.Client]:
    """A notebook server, as a client of its contents API."""
    from tests.system.singleuser import free_port, prefix

    for name in ("workspace", "home", "env"):
        (folder / name).mkdir(parents=True)
    port = free_port()
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    if kind == "with":
        variables |= {
            "MAESTRO_LAUNCH_ID": "l-bench", "MAESTRO_WORKSPACE": "bench", "MAESTRO_ROLE": "editor",
            "MAESTRO_WORKSPACE_DIR": str(folder / "workspace"), "MAESTRO_ENV": str(folder / "env"),
            "MAESTRO_SERVICE_URL": service_url, "JUPYTERHUB_API_TOKEN": "of-the-bench",
        }  # fmt: skip
    command = [
        *(str(prefix() / "bin/python"), "-P", "-m", "jupyter_server", "--ServerApp.open_browser=False"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"),
        f"--ServerApp.root_dir={folder / 'workspace'}",
        "--ServerApp.contents_manager_class=server_extension.contents.LaunchContents", "--ServerApp.log_level=ERROR",
        "--ServerApp.jpserver_extensions={'server_extension': True}", *(["--allow-root"] if os.geteuid() == 0 else []),
    ]  # fmt: skip
    process = subprocess.Popen(command, env=variables, cwd=folder, stdin=subprocess.DEVNULL)
    try:
        headers = {"Authorization": f"token {TOKEN}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/", headers=headers, timeout=SECONDS) as client:
            until(lambda: _answers(client), SECONDS, "the notebook server does not come up")
            yield client
    finally:
        process.terminate()
        process.wait(SECONDS)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("api/status").is_success
    except httpx.TransportError:
        return False


class Service(BaseHTTPRequestHandler):
    """The workspaces service, as far as a server that keeps versions asks it."""

    kept: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Notices: none, after a while."""
        time.sleep(5)
        self._answer({"notices": []})

    def do_POST(self) -> None:
        """A version is wanted where its content is missing."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if self.path.endswith("/snapshots"):
            if "content" in body:
                self.kept.append(body["address"])
            self._answer({"address": body["address"], "wanted": "content" not in body})
        else:
            self._answer({"notices": []})

    def _answer(self, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the server has ended
            self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def notebook(turn: int) -> dict[str, Any]:
    """A notebook that was never saved before."""
    cells = []
    for at in range(100):
        outputs = [{"output_type": "stream", "name": "stdout", "text": f"line {at} {turn}\n" * 100}]
        source = f"x{at} = {turn} + {at}\n" * 5
        cells.append({
            "cell_type": "code", "id": f"c{at}", "metadata": {}, "execution_count": at, "source": source,
            "outputs": outputs,
        })  # fmt: skip
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def measure(count: int) -> dict[str, list[float]]:
    """Milliseconds of the saves on both servers, in turns.

    Raises:
        RuntimeError: not every save was a version.
    """
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{listening.server_port}/api"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.callback(listening.shutdown)
        clients = {kind: stack.enter_context(server(Path(folder) / kind, kind, url)) for kind in KINDS}
        for turn in range(count + 10):
            body = {"type": "notebook", "format": "json", "content": notebook(turn)}
            for kind in KINDS if turn % 2 else reversed(KINDS):
                began = time.perf_counter()
                clients[kind].put("api/contents/work.ipynb", json=body).raise_for_status()
                if turn >= 10:
                    took[kind].append((time.perf_counter() - began) * 1000)
                time.sleep(BETWEEN)
    if len(set(Service.kept)) < count:
        raise RuntimeError(f"of {count + 10} saves, {len(set(Service.kept))} were kept as versions")
    return took


def summary(took: Mapping[str, Sequence[float]], samples: int = 5000) -> dict[str, Any]:
    """The ratio, its uncertainty, and the quartiles in milliseconds."""
    pairs = list(zip(took["with"], took["without"], strict=True))
    chance = random.Random(1)
    drawn = sorted(_of(chance.choices(pairs, k=len(pairs))) for _ in range(samples))
    return {
        "ratio_of_medians": round(_of(pairs), 4),
        "ratio_95_percent": [round(drawn[int(samples * share)], 4) for share in (0.025, 0.975)],
        "asked": ASKED,
        "milliseconds": {kind: _spread(took[kind]) for kind in KINDS},
    }


def _of(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(one for one, _ in pairs) / statistics.median(other for _, other in pairs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write :data:`RESULT`; 0 if the ratio is at most :data:`ASKED`."""
    parser = argparse.ArgumentParser(prog="python -m bench.save", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", "--count", type=int, default=150, help="saves on each server (150)")
    options = parser.parse_args(arguments)
    before = machine()
    took = measure(options.count)
    result = summary(took)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    everything = {"made_by": f"python -m bench.save -n {options.count}", "machine": before, **result}
    RESULT.write_text(json.dumps(everything, indent=2) + "\n")
    low, high = result["ratio_95_percent"]
    print(f"ratio {result['ratio_of_medians']:.3f} ({low:.3f} to {high:.3f}), asked {ASKED:.2f}")
    print(f"written to {RESULT.relative_to(ROOT)}")
    return 0 if result["ratio_of_medians"] <= ASKED else 1


if __name__ == "__main__":
    raise SystemExit(main())
