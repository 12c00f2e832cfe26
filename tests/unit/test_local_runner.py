"""Jobs of one machine: started detached, found again by another service, asked to end, killed, and what is said of it.

The worker is a stand-in here, and there is no sandbox: the sandbox is the servers' own (test_sandbox_real.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan
from maestro_hub_services.settings import Settings
from maestro_hub_services.workspaces.runners import Ended, JobAddress
from maestro_hub_services.workspaces.runners import local as local_runner
from maestro_hub_services.workspaces.runners.local import FOLDERS, LocalRunner, end_all
from maestro_spawner.machine import host
from tests.unit.test_processes import make_plan

#: a worker that notes its environment and does what its first word says
WORKER = """
import os, signal, sys, time
open(sys.argv[2], "w").write("\\0".join(f"{k}={v}" for k, v in os.environ.items()))
if sys.argv[1] == "kindly":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] == "ends":
    sys.exit("this went wrong")
open(sys.argv[2] + ".up", "w").close()
time.sleep(60)
"""


def settings(tmp_path: Path, **changes: Any) -> Settings:
    """A service's, with the stand-in's interpreter."""
    given = {"state": tmp_path / "state", "singleuser_prefix": str(tmp_path / "prefix"), "provider": "local"}
    unread: dict[str, Any] = dict.fromkeys(
        ("policy", "host", "port", "public_url", "service_url", "mlflow_url", "index_url"), ""
    ) | dict.fromkeys(("hub_api_url", "hub_api_token", "base_url", "prefix"), "")
    return Settings(**unread | given | changes)


WORK = JobAddress(
    api_url="http://127.0.0.1:9/api", job_id="j-1", attempt=2, token="mjob_0123456789abcdef", timeout_seconds=60
)


@pytest.fixture
async def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalRunner]:
    monkeypatch.setattr(host, "bubblewrap_problem", lambda user: "bubblewrap is not installed here.")
    made = LocalRunner(settings(tmp_path, allow_unisolated=True))
    yield made
    for launch_id in await made.look():
        await made.clean(launch_id)


@pytest.fixture
def plan(tmp_path: Path) -> LaunchPlan:
    return make_plan(tmp_path)


def does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str) -> Path:
    """Let the worker do ``what``; where it notes its environment."""
    note = tmp_path / "environment"
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "prefix/bin").mkdir(parents=True, exist_ok=True)
    link = tmp_path / "prefix/bin/python"
    if not link.exists():
        link.symlink_to(sys.executable)
    monkeypatch.setattr(local_runner, "ARGUMENTS", (str(tmp_path / "worker.py"), what, str(note)))
    return note


async def until(condition: Any, limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while True:
        if condition():
            return
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def over(runner: LocalRunner, launch_id: str) -> Ended:
    end = time.monotonic() + 60
    while True:
        if (found := (await runner.look())[launch_id]) is not None:
            return found
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def test_a_worker_gets_its_token_in_its_environment_and_nowhere_else(
    runner: LocalRunner, plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = does(monkeypatch, tmp_path, "waits")
    await runner.start(plan, WORK)
    await until(lambda: note.with_suffix(".up").exists())
    assert await runner.look() == {plan.launch_id: None}
    await until(lambda: "\0" in note.read_text())
    inside = dict(pair.split("=", 1) for pair in note.read_text().split("\0"))
    assert inside["JUPYTERHUB_API_TOKEN"] == WORK.token and inside["MAESTRO_SERVICE_URL"] == WORK.api_url
    assert (inside["MAESTRO_JOB"], inside["MAESTRO_JOB_ATTEMPT"]) == ("j-1", "2")
    state = runner._machine.state
    written = [path for path in state.rglob("*") if path.is_file() and WORK.token.encode() in path.read_bytes()]
    assert written == []
    assert WORK.token not in repr(WORK)
    await runner.clean(plan.launch_id)
    assert await runner.look() == {} and not (state / FOLDERS / plan.launch_id).exists()
    assert list((state / "log/jobs").iterdir()) == []


async def test_another_service_finds_a_running_job_and_sees_its_end(
    runner: LocalRunner, plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = does(monkeypatch, tmp_path, "kindly")
    await runner.start(plan, WORK)
    await until(lambda: note.with_suffix(".up").exists())
    after = LocalRunner(settings(tmp_path, allow_unisolated=True))
    assert await after.look() == {plan.launch_id: None}
    await after.stop(plan.launch_id, 60)
    assert await after.look() == {plan.launch_id: Ended(None, "its worker is gone, and did not say why")}
    # who started it knows how it ended
    assert await over(runner, plan.launch_id) == Ended(7, "its worker ended by itself (exit code 7)")
    await after.clean(plan.launch_id)
    assert await after.look() == {}


async def test_who_does_not_end_when_asked_is_killed(
    runner: LocalRunner, plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = does(monkeypatch, tmp_path, "stubborn")
    await runner.start(plan, WORK)
    await until(lambda: note.with_suffix(".up").exists())
    await runner.stop(plan.launch_id, 0.3)
    assert await over(runner, plan.launch_id) == Ended(-signal.SIGKILL, "its worker was killed")
    await runner.stop(plan.launch_id, 60)  # may be repeated, and waits for nobody


async def test_what_a_worker_said_last_is_in_the_services_log(
    runner: LocalRunner,
    plan: LaunchPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    does(monkeypatch, tmp_path, "ends")
    await runner.start(plan, WORK)
    assert await over(runner, plan.launch_id) == Ended(1, "its worker ended by itself (exit code 1)")
    await runner.look()
    assert [record.getMessage() for record in caplog.records].count(
        f"The worker of launch {plan.launch_id} said: 'this went wrong'"
    ) == 1


async def test_a_service_that_was_killed_while_it_started_a_job_finds_it_ended(
    runner: LocalRunner, plan: LaunchPlan, tmp_path: Path
) -> None:
    (runner._machine.launches / plan.launch_id).mkdir(parents=True)
    assert await runner.look() == {plan.launch_id: Ended(None, "its worker is gone, and did not say why")}


async def test_of_a_start_that_fails_nothing_is_left(
    runner: LocalRunner, plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    does(monkeypatch, tmp_path, "waits")
    os.unlink(tmp_path / "prefix/bin/python")
    with pytest.raises(MaestroError, match=r"could not be started on this machine \(No such file") as refused:
        await runner.start(plan, WORK)
    assert refused.value.code == "start_failed"
    assert await runner.look() == {} and not (runner._machine.launches / plan.launch_id).exists()


async def test_where_there_can_be_no_sandbox_no_job_runs_unless_an_admin_allows_it(
    runner: LocalRunner, plan: LaunchPlan, tmp_path: Path
) -> None:
    strict = LocalRunner(settings(tmp_path))
    with pytest.raises(MaestroError, match="bubblewrap is not installed here; nothing was started"):
        await strict.start(plan, WORK)


async def test_a_maestro_that_ends_takes_its_jobs_along(
    runner: LocalRunner, plan: LaunchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = does(monkeypatch, tmp_path, "stubborn")
    await runner.start(plan, WORK)
    await until(lambda: note.with_suffix(".up").exists())
    assert end_all(runner._machine.state) == 1
    assert (await over(runner, plan.launch_id)).reason == "Maestro itself was ended while it ran"
    assert end_all(runner._machine.state) == 0
