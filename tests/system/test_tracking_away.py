"""Kernels, MLflow and servers killed at random moments: no run stays RUNNING, no metric is lost or doubled.

A story on one workspace. What the code logged is noted by it in a file of the workspace, step by step, after the call
that logged it; so whatever was killed, MLflow has to have at least that, and each step once.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.house import Maestro, Person, until
from tests.system.singleuser import NotebookServer, has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(400)]
WORKSPACE = "away"
#: logs until it is told to end, and notes what was logged
LOOP = """
import mlflow, os, pathlib, time
with mlflow.start_run(run_name={name!r}) as run:
    pathlib.Path({name!r} + ".run").write_text(run.info.run_id)
    for step in range({steps}):
        mlflow.log_metric("m", step / 2, step=step)
        with open({name!r} + ".steps", "a") as done:
            done.write(f"{{step}}\\n")
        time.sleep(0.01)
"""
#: kills the kernel when it is told to, in the middle of whatever it does
DIE = """
import os, pathlib, signal, threading, time
def die():
    while not pathlib.Path("kernel.die").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=die, daemon=True).start()
"""


@pytest.fixture(scope="module")
def person(maestro: Maestro) -> Person:
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    person = maestro.person("away-owner")
    with person.api() as api:
        assert api.post("workspaces", json={"name": WORKSPACE, "description": "Kills"}).status_code == 201
    return person


class Launched:
    """The person's server in the workspace; it can be started again."""

    def __init__(self, maestro: Maestro, person: Person) -> None:
        self._maestro = maestro
        self._person = person
        self.launch = ""
        self.server = NotebookServer("")

    def start(self) -> None:
        with self._person.api() as api:
            started = api.post("launches", json={"workspace": WORKSPACE})
            assert started.status_code in (201, 202), started.text
            self.launch = started.json()["session_id"]
            until(lambda: api.get(f"launches/{self.launch}").json()["status"] == "running" or None, 120, "no server")
        url = f"{self._maestro.url}user/{self._person.name}/{WORKSPACE}/"
        self.server = NotebookServer(url, token=self._person.token())

    def kill(self) -> None:
        """As when the machine runs out of memory: the server and all that it started, at once."""
        for pid in _pids(f"MAESTRO_LAUNCH_ID={self.launch}".encode(), "environ"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with self._person.api() as api:
            over = ("ended", "stopped", "failed")
            until(lambda: api.get(f"launches/{self.launch}").json()["status"] in over or None, 90, "it does not end")

    def file(self, name: str) -> str | None:
        answer = self.server.api("GET", f"api/contents/{name}", params={"type": "file", "format": "text"})
        return str(answer.json()["content"]) if answer.status_code == 200 else None


@pytest.fixture(scope="module")
def launched(maestro: Maestro, person: Person) -> Iterator[Launched]:
    launched = Launched(maestro, person)
    launched.start()
    yield launched
    with person.api() as api:
        api.delete(f"launches/{launched.launch}")


class Runs:
    """What MLflow has, asked as the person."""

    def __init__(self, maestro: Maestro, person: Person) -> None:
        headers = {"Authorization": f"token {person.token()}", "X-MLFLOW-WORKSPACE": WORKSPACE}
        base = f"{maestro.url}services/mlflow/api/2.0/mlflow/"
        self._http = httpx.Client(base_url=base, headers=headers, timeout=60)

    def run(self, run_id: str) -> dict[str, Any] | None:
        """A run; None while MLflow is away, or has not heard of it."""
        with suppress(httpx.TransportError):
            answer = self._http.get("runs/get", params={"run_id": run_id})
            if answer.status_code == 200:
                return dict(answer.json()["run"])
        return None

    def ended(self, run_id: str, seconds: float) -> tuple[str, str]:
        """The status that a run ends with, and the reason."""

        def look() -> dict[str, Any] | None:
            run = self.run(run_id)
            return run if run and run["info"]["status"] != "RUNNING" else None

        run = until(look, seconds, f"the run is still active after {seconds} s")
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        return run["info"]["status"], tags.get("maestro.reason", "")

    def steps(self, run_id: str) -> list[int]:
        """The steps of all values of ``m``."""
        asked = {"run_id": run_id, "metric_key": "m", "max_results": 5000}
        points = self._http.get("metrics/get-history", params=asked).json().get("metrics", [])
        assert all(point["value"] == point["step"] / 2 for point in points)
        return sorted(int(point["step"]) for point in points)


@pytest.fixture(scope="module")
def runs(maestro: Maestro, person: Person) -> Runs:
    return Runs(maestro, person)


def _pids(wanted: bytes, file: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / file).read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def mlflow_pid(maestro: Maestro) -> int:
    """MLflow's process of this run of Maestro, and of no other."""
    state = f"MAESTRO_STATE={maestro.state}".encode()
    both = set(_pids(b"maestro_hub_services.tracking", "cmdline")) & set(_pids(state, "environ"))
    return until(lambda: next(iter(both), None), 1, "MLflow does not run")


def answers(maestro: Maestro) -> None:
    def look() -> bool | None:
        with suppress(httpx.TransportError):
            return httpx.get(f"{maestro.url}services/mlflow/health", timeout=5).status_code == 200 or None
        return None

    until(look, 120, "MLflow does not come back")


def logged(launched: Launched, name: str) -> list[int]:
    return [int(step) for step in (launched.file(f"{name}.steps") or "").split()]


def some(launched: Launched, name: str) -> None:
    """Wait until the loop has logged a little, and then for a random moment."""
    until(lambda: len(logged(launched, name)) > 5 or None, 90, "nothing was logged")
    time.sleep(random.uniform(0, 0.5))


async def test_mlflow_is_killed_and_a_notebook_goes_on(maestro: Maestro, launched: Launched, runs: Runs) -> None:
    notebook = launched.server.open_notebook("mlflow.ipynb")
    await notebook.run("import mlflow, os, signal, threading")
    code = LOOP.format(name="mlflow", steps=300) + "print('gone on')"
    # The kill comes from the test, at a random moment of the loop.
    cell = asyncio.ensure_future(notebook.run(code))
    await asyncio.to_thread(some, launched, "mlflow")
    os.kill(mlflow_pid(maestro), signal.SIGKILL)
    outcome = await cell
    assert outcome.status == "ok" and "gone on" in outcome.text, outcome.text
    assert outcome.text.count("MLflow does not answer; what you log is kept here") <= 1
    assert "Traceback" not in outcome.text and logged(launched, "mlflow") == list(range(300))
    answers(maestro)
    run_id = launched.file("mlflow.run") or ""
    assert runs.ended(run_id, 60) == ("FINISHED", "")
    assert runs.steps(run_id) == list(range(300))


async def test_a_kernel_is_killed_and_its_run_ends(launched: Launched, runs: Runs) -> None:
    notebook = launched.server.open_notebook("kernel.ipynb")
    await notebook.run(DIE)
    cell = asyncio.ensure_future(notebook.run(LOOP.format(name="kernel", steps=100_000)))
    await asyncio.to_thread(some, launched, "kernel")
    now = {"type": "file", "format": "text", "content": "now"}
    assert launched.server.api("PUT", "api/contents/kernel.die", json=now).status_code == 201
    run_id = launched.file("kernel.run") or ""
    status, reason = await asyncio.to_thread(runs.ended, run_id, 30)
    cell.cancel()
    assert status == "KILLED" and reason.startswith("the kernel ended without ending its run")
    steps, done = runs.steps(run_id), logged(launched, "kernel")
    assert steps == list(range(len(steps))) and len(done) <= len(steps) <= len(done) + 1


async def test_a_kernel_is_restarted_within_a_run(launched: Launched, runs: Runs) -> None:
    notebook = launched.server.open_notebook("restart.ipynb")
    outcome = await notebook.run("import mlflow\nmlflow.start_run()\nprint(mlflow.active_run().info.run_id)")
    run_id = outcome.text.split()[-1]
    assert launched.server.api("POST", f"api/kernels/{notebook.kernel_id}/restart").status_code == 200
    status, reason = runs.ended(run_id, 30)
    assert status == "KILLED" and "kernel" in reason


async def test_a_server_is_killed_while_mlflow_hangs(maestro: Maestro, launched: Launched, runs: Runs) -> None:
    """The next server of the same person and workspace sends what was kept, and ends the run that nobody else can."""
    notebook = launched.server.open_notebook("server.ipynb")
    hanging = mlflow_pid(maestro)
    os.kill(hanging, signal.SIGSTOP)
    try:
        began = time.monotonic()
        outcome = await notebook.run(
            "import mlflow\n"
            "with mlflow.start_run(run_name='whole') as whole:\n"
            "    for step in range(50): mlflow.log_metric('m', step / 2, step=step)\n"
            "    mlflow.log_text('hello', 'a/b.txt')\n"
            "cut = mlflow.start_run(run_name='cut')\n"
            "for step in range(50): mlflow.log_metric('m', step / 2, step=step)\n"
            "print(whole.info.run_id, cut.info.run_id)"
        )
        assert outcome.status == "ok", outcome.text
        assert time.monotonic() - began < 30
        whole, cut = outcome.text.split()[-2:]
        launched.kill()
    finally:
        os.kill(hanging, signal.SIGCONT)
    answers(maestro)
    launched.start()
    assert runs.ended(whole, 60) == ("FINISHED", "")
    status, reason = runs.ended(cut, 60)
    assert status == "KILLED" and reason.startswith("the server ended")
    assert runs.steps(whole) == runs.steps(cut) == list(range(50))
    listed = runs._http.get("artifacts/list", params={"run_id": whole, "path": "a"}).json()
    assert [file["path"] for file in listed["files"]] == ["a/b.txt"]
