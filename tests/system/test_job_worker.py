"""The worker of a job, in the sandbox that the service's runner gives it: real kernels, real deaths, and a service and
an MLflow that go away.

At first both are stand-ins, which remember what the worker told them; then it is the whole Maestro.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
import zstandard

from maestro_core.launches import ENVIRONMENT_DIR, HOME_DIR, WORKSPACE_DIR, LaunchPlan, Mount, PlanWorkspace
from maestro_core.resources import Resources
from maestro_core.roles import Role
from maestro_hub_services.settings import Settings
from maestro_hub_services.workspaces.runners import Ended, JobAddress
from maestro_hub_services.workspaces.runners.local import FOLDERS, LocalRunner
from maestro_spawner.machine import host
from maestro_spawner.machine.launched import Processes
from maestro_spawner.machine.process import Process
from tests.job_service import TOKEN, JobServiceStub, job_service
from tests.system.house import Maestro
from tests.system.singleuser import prefix

LIMIT = 90.0
LAUNCH = "l-job"


def notebook(*cells: str, parameters: str = "") -> str:
    """A notebook's JSON; the first cell is tagged ``parameters`` where there is one."""
    made = [nbformat.v4.new_code_cell(cell) for cell in cells]
    if parameters:
        made.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    return str(nbformat.writes(nbformat.v4.new_notebook(cells=made)))


class Job:
    """One attempt in its sandbox.

    Attributes:
        service: what it was told. runner: who runs it. folder: of its workspace.
    """

    def __init__(self, service: JobServiceStub, runner: LocalRunner, state: Path) -> None:
        self.service, self.runner, self._state = service, runner, state
        self.workspace = state / "workspaces/w-1"

    async def over(self) -> Ended:
        """Wait for the end of its processes."""
        return await until(lambda: self._ended, "the job's processes end")

    async def _look(self) -> Ended | None:
        return (await self.runner.look())[LAUNCH]

    @property
    def _ended(self) -> Any:
        return self._look()

    def worker(self) -> Process:
        """The worker itself, inside."""
        first = self.runner._known[LAUNCH].first
        assert first is not None
        return first.children()[0]

    def kernel(self) -> Process:
        """The worker's child that runs cells."""
        return self.worker().children()[0]

    @property
    def done(self) -> dict[str, Any]:
        """What it said at its end; once."""
        assert len(self.service.dones) == 1, self.service.log
        return self.service.dones[0]

    @property
    def run(self) -> dict[str, Any]:
        """Its run."""
        found = [run for run in self.service.runs.values() if run["tags"].get("maestro.job") == "j-1"]
        assert len(found) == 1
        return found[0]


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Ask until the answer is true; it may be a coroutine."""
    end = time.monotonic() + LIMIT
    while True:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < end, f"{what}: not within {LIMIT:g} s"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def job(
    content: str, *, mlflow_away: bool = False, runner: type[LocalRunner] = LocalRunner, **changes: Any
) -> AsyncIterator[Job]:
    """Start a job and end what is left of it; ``changes``: of its order."""
    order: Mapping[str, Any] = {
        "job_id": "j-1", "launch_id": LAUNCH, "attempt": 1, "kind": "notebook", "path": "sub/train.ipynb",
        "content": content, "parameters": {}, "experiment": "demo", "snapshot": "a" * 64, "name": "train",
        "timeout_seconds": 600, "tags": {"team": "blue"}, "parent_run": None, "open_parent": None, "metric": None,
    }  # fmt: skip
    async with AsyncExitStack() as stack:
        service = stack.enter_context(job_service({**order, **changes}))
        service.mlflow_status = 503 if mlflow_away else 200
        base = Path(tempfile.mkdtemp(prefix="maestro-job-"))
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        places = {name: base / "state" / name for name in ("workspaces/w-1", "homes/ann/w-1")}
        owner = host.owner_of_servers()
        for place in (*places.values(), places["workspaces/w-1"] / "sub"):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            if owner is not None:
                os.chown(place, *owner)
        (places["workspaces/w-1"] / "sub/beside.py").write_text("WHERE = 'beside'\n")
        runs = runner(_settings(base / "state"))
        plan = LaunchPlan(
            launch_id=LAUNCH, user="ann", server_name="job:j-1", role=Role.EDITOR, profile="small",
            workspace=PlanWorkspace(workspace_id="w-1", name="demo", gid=5000),
            resources=Resources(cpu=1, memory="1Gi"),
            mounts=(
                Mount(name="workspace", kind="directory", source=str(places["workspaces/w-1"]), target=WORKSPACE_DIR),
                Mount(name="home", kind="directory", source=str(places["homes/ann/w-1"]), target=HOME_DIR),
            ),
            environment={
                "MAESTRO_LAUNCH_ID": LAUNCH, "MAESTRO_WORKSPACE": "demo", "MAESTRO_USER": "ann",
                "MAESTRO_ROLE": "editor", "MAESTRO_WORKSPACE_DIR": WORKSPACE_DIR, "MAESTRO_ENV": ENVIRONMENT_DIR,
                "MAESTRO_EXPERIMENT": "demo", "MLFLOW_TRACKING_URI": service.mlflow_url,
                "MLFLOW_TRACKING_AUTH": "maestro", "MLFLOW_WORKSPACE": "demo",
            },
        )  # fmt: skip
        stack.push_async_callback(runs.clean, LAUNCH)
        await runs.start(plan, JobAddress(service.url, "j-1", 1, TOKEN, 600))
        yield Job(service, runs, base / "state")


def _settings(state: Path) -> Settings:
    unread: dict[str, Any] = dict.fromkeys(("host", "public_url", "service_url", "mlflow_url", "index_url"), "")
    unread |= dict.fromkeys(("hub_api_url", "hub_api_token", "base_url", "prefix"), "")
    return Settings(**unread, state=state, policy=state, port=0, provider="local", singleuser_prefix=str(prefix()))


async def test_a_notebook_runs_with_its_parameters_and_everything_of_it_is_told() -> None:
    cells = (
        "print('lr is', lr, sizes)",
        "import os, sys, beside\nprint(os.getcwd(), beside.WHERE, os.environ['VIRTUAL_ENV'])",
        "open('/workspace/sub/result', 'w').write('done')",
    )
    content = notebook(*cells, parameters="lr, sizes = 1, []")
    async with job(content, parameters={"lr": 0.5, "sizes": [64, 32]}) as one:
        assert (await one.over()).code == 0
        assert one.done["outcome"] == "succeeded" and one.done["reason"] == ""
        assert one.service.log.splitlines()[:2] == ["lr is 0.5 [64, 32]", "/workspace/sub beside /opt/maestro/env"]
        assert (one.workspace / "sub/result").read_text() == "done"
        kept = json.loads((one.workspace / "jobs/j-1/train.ipynb").read_text())
        assert kept == one.service.notebooks[-1] == json.loads(*one.service.artifacts.values())
        tags = [cell["metadata"].get("tags") for cell in kept["cells"]]
        assert tags[:2] == [["parameters"], ["injected-parameters"]]
        assert kept["cells"][1]["source"] == "# Parameters\nlr = 0.5\nsizes = [64, 32]"
        assert one.run["info"]["status"] == "FINISHED" and one.run["params"] == {"lr": "0.5", "sizes": "[64, 32]"}
        assert (
            one.run["tags"].items() >= {"team": "blue", "maestro.launch": LAUNCH, "maestro.snapshot": "a" * 64}.items()
        )
        last = one.service.beats[-1]
        assert last["run_id"] == one.done["run_id"] == one.run["info"]["run_id"]


async def test_a_cell_that_raises_ends_the_job_and_its_run_with_the_reason() -> None:
    async with job(notebook("print('before')", "raise ValueError('no such data')", "print('after')")) as one:
        await one.over()
        assert (one.done["outcome"], one.done["reason"]) == ("failed", "Cell 2 raised ValueError: no such data.")
        assert one.run["info"]["status"] == "FAILED" and one.run["tags"]["maestro.reason"] == one.done["reason"]
        assert "before" in one.service.log and "after" not in one.service.log
        outputs = [cell["outputs"] for cell in one.service.notebooks[-1]["cells"]]
        assert outputs[1][0]["ename"] == "ValueError" and outputs[2] == []


#: writes a line every tenth of a second, for longer than any test
COUNTS = "import time\nfor n in range(600):\n    print('line', n, flush=True)\n    time.sleep(0.1)"


async def test_a_kernel_that_is_killed_ends_the_job_with_the_reason_and_all_until_then() -> None:
    async with job(notebook("print('first')", COUNTS)) as one:
        await until(lambda: "line 2" in one.service.log, "the second cell runs")
        await asyncio.sleep(random.uniform(0, 2))  # at any moment
        one.kernel().kill()
        killed = time.monotonic()
        await one.over()
        assert time.monotonic() - killed < 30
        assert (one.done["outcome"], one.done["reason"]) == ("failed", "The kernel died while it ran cell 2.")
        assert one.run["info"]["status"] == "FAILED"
        assert one.service.log.startswith("first\nline 0\nline 1\n")
        first, second = one.service.notebooks[-1]["cells"]
        assert first["outputs"][0]["text"] == "first\n" and "line 2" in json.dumps(second["outputs"])


async def test_a_worker_that_is_killed_leaves_nothing_running_and_what_it_told_stays() -> None:
    async with job(notebook("print('first')", COUNTS)) as one:
        await until(lambda: "line 2" in one.service.log and one.service.notebooks, "the second cell runs")
        await asyncio.sleep(random.uniform(0, 2))  # at any moment
        worker, kernel = one.worker(), one.kernel()
        worker.kill()
        killed = time.monotonic()
        assert await one.over() == Ended(137, "its worker was killed")
        await until(lambda: not worker.alive() and not kernel.alive(), "the kernel ends too")
        assert time.monotonic() - killed < 10
        assert one.service.dones == [] and "line 2" in one.service.log
        assert one.service.notebooks[-1]["cells"][0]["outputs"][0]["text"] == "first\n"


async def test_while_service_and_mlflow_are_away_the_job_goes_on_and_tells_it_all_later() -> None:
    async with job(notebook("print('one')", "import time; time.sleep(4)", "print('two ÄÖ')"), mlflow_away=True) as one:
        await until(lambda: "one" in one.service.log, "the first cell has run")
        one.service.status = 503
        kept = one.workspace / "jobs/j-1/train.ipynb"
        await until(kept.is_file, "the notebook has run to its end")
        assert one.service.dones == [] and one.service.runs == {}
        one.service.status = 200
        one.service.mlflow_status = 200
        await one.over()
        assert one.done["outcome"] == "succeeded" and one.run["info"]["status"] == "FINISHED"
        assert one.service.log == "one\ntwo ÄÖ\n"
        assert one.run["info"]["start_time"] < one.run["info"]["end_time"] - 4000  # when it began, not when it was told


CLEANS = """
import time, pathlib
try:
    print("up", flush=True)
    time.sleep(600)
finally:
    pathlib.Path("/workspace/cleaned").touch()
"""


@pytest.mark.parametrize(
    ("how", "outcome", "status", "reason"),
    [
        ("cancel", "cancelled", "KILLED", "It was cancelled."),
        ("signal", "failed", "KILLED", "It was ended from outside while it ran."),
        ("signal of a cancel", "cancelled", "KILLED", "It was cancelled."),
        ("timeout", "failed", "FAILED", "It took longer than its timeout of 8 s."),
    ],
)
async def test_what_ends_a_job_early_lets_its_cell_clean_up_first(
    how: str, outcome: str, status: str, reason: str
) -> None:
    async with job(notebook(CLEANS), timeout_seconds=8 if how == "timeout" else 600) as one:
        if how != "timeout":  # which may come before the cell does, where much else runs
            await until(lambda: "up" in one.service.log, "the cell runs")
        if how == "cancel":
            one.service.cancel = True
        elif how.startswith("signal"):
            stopping = asyncio.ensure_future(one.runner.stop(LAUNCH, 60))
            one.service.cancel = how == "signal of a cancel"
            await stopping
        await one.over()
        assert (one.done["outcome"], one.done["reason"]) == (outcome, reason)
        assert one.run["info"]["status"] == status and one.run["tags"]["maestro.reason"] == reason
        assert (one.workspace / "cleaned").is_file() or "up" not in one.service.log


async def test_a_script_gets_its_parameters_as_options_and_what_lies_beside_it() -> None:
    script = "import beside, os, sys\nprint(sys.argv[1:], beside.WHERE, os.getcwd(), __file__)\nsys.exit('no data')\n"
    given = {"lr": 0.5, "deep": True, "sizes": [1, 2], "none": None}
    async with job(script, kind="script", path="sub/train.py", parameters=given) as one:
        await one.over()
        said = (
            "['--lr', '0.5', '--deep', 'true', '--sizes', '1', '2'] beside /workspace/sub /workspace/jobs/j-1/train.py"
        )
        assert one.service.log.splitlines()[:2] == [said, "no data"]
        assert (one.done["outcome"], one.done["reason"]) == ("failed", "The script ended with exit code 1: no data.")


async def test_a_service_that_was_killed_finds_its_job_again() -> None:
    async with job(notebook(COUNTS)) as one:
        await until(lambda: "line 2" in one.service.log, "the cell runs")
        after = LocalRunner(_settings(one._state))
        assert await after.look() == {LAUNCH: None}
        one.worker().signal(signal.SIGTERM)
        await until(lambda: one.service.dones, "the job tells its end")
        assert one.done["reason"] == "It was ended from outside while it ran."
        await one.over()
        assert (await after.look())[LAUNCH] is not None


# -- in the whole Maestro ---------------------------------------------------------------------------------------------

TRACKS = """
import mlflow, time
with mlflow.start_run(run_name="inner"):
    mlflow.log_metric("loss", 0.25)
mlflow.start_run(run_name="left open")
mlflow.log_param("lr", lr)
print("tracked", flush=True)
"""


class Queue:
    """Ann's jobs in a workspace of hers."""

    def __init__(self, maestro: Maestro, name: str) -> None:
        self.maestro, self.name = maestro, name
        ann = maestro.person("ann")
        self.token = ann.token()
        self.api = ann.api(self.token)
        answer = self.api.post("workspaces", json={"name": name, "description": "jobs"})
        assert answer.status_code == 201, answer.text

    def submit(self, *cells: str, **changes: Any) -> str:
        """A notebook's job; its id."""
        content = base64.b64encode(zstandard.ZstdCompressor().compress(notebook(*cells).encode())).decode()
        spec = {"notebook": "train.ipynb", "content": content, "resources": {"cpu": 0.5, "memory": "512Mi"}}
        answer = self.api.post(f"workspaces/{self.name}/jobs", json=spec | changes)
        assert answer.status_code in (200, 201, 202), answer.text
        return str(answer.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """As the API shows it."""
        return dict(self.api.get(f"jobs/{job_id}").raise_for_status().json())

    def log(self, job_id: str) -> str:
        """Its log."""
        return str(self.api.get(f"jobs/{job_id}/log").raise_for_status().json()["text"])

    def runs(self, job_id: str) -> dict[str, dict[str, Any]]:
        """The runs that name it at MLflow, by their names: ``status``, ``tags``, ``params``, ``metrics``, ``id``."""
        base = f"{self.maestro.url}services/mlflow/api/2.0/mlflow"
        headers = {"Authorization": f"token {self.token}", "X-MLFLOW-WORKSPACE": self.name}
        found = httpx.post(f"{base}/experiments/search", json={"max_results": 100}, headers=headers, timeout=30)
        ids = [one["experiment_id"] for one in found.raise_for_status().json().get("experiments", [])]
        wanted = {"experiment_ids": ids, "filter": f"tags.`maestro.job` = '{job_id}'"}
        found = httpx.post(f"{base}/runs/search", json=wanted, headers=headers, timeout=30)
        return {run["info"]["run_name"]: _read(run) for run in found.raise_for_status().json().get("runs", [])}

    def worker(self, job_id: str) -> Process:
        """Its worker, inside its sandbox."""
        launches = self.maestro.state / FOLDERS
        first = Processes.recall(launches / self.job(job_id)["launch_id"]).first
        assert first is not None
        return first.children()[0]


def _read(run: dict[str, Any]) -> dict[str, Any]:
    found = {"id": run["info"]["run_id"], "status": run["info"]["status"]}
    for kind in ("tags", "params", "metrics"):
        found[kind] = {one["key"]: one["value"] for one in run["data"].get(kind, ())}
    return found


@pytest.fixture(scope="module")
def queue(maestro: Maestro) -> Queue:
    return Queue(maestro, "jobworker")


async def test_runs_of_a_notebook_lie_below_its_jobs_run_and_end_as_it_does(queue: Queue) -> None:
    job_id = queue.submit(TRACKS, parameters={"lr": 0.5}, name="nightly")
    done = await until(lambda: queue.job(job_id) if queue.job(job_id)["ended_at"] else None, "the job ends")
    assert done["status"] == "succeeded", queue.log(job_id)
    assert done["metrics"] == {"loss": 0.25} and "tracked" in queue.log(job_id)
    runs = queue.runs(job_id)
    assert {name: run["status"] for name, run in runs.items()} == dict.fromkeys(
        ("nightly", "inner", "left open"), "FINISHED"
    )
    own = runs["nightly"]
    assert own["id"] == done["run_id"] and own["params"] == {"lr": "0.5"} and own["metrics"] == {"loss": 0.25}
    assert {runs[name]["tags"]["mlflow.parentRunId"] for name in ("inner", "left open")} == {own["id"]}
    assert runs["inner"]["tags"]["maestro.snapshot"] == done["snapshot"] == own["tags"]["maestro.snapshot"]


@pytest.mark.parametrize("victim", ["worker", "kernel"])
async def test_whatever_is_killed_the_job_and_its_runs_end_with_the_reason(queue: Queue, victim: str) -> None:
    job_id = queue.submit("lr = 2", TRACKS, COUNTS, name=f"killed {victim}")
    await until(lambda: "line 2" in queue.log(job_id), "the last cell runs")
    await asyncio.sleep(random.uniform(0, 2))  # at any moment
    worker = queue.worker(job_id)
    (worker if victim == "worker" else worker.children()[0]).kill()
    killed = time.monotonic()
    done = await until(lambda: queue.job(job_id) if queue.job(job_id)["ended_at"] else None, "the job ends")
    await until(lambda: all(run["status"] != "RUNNING" for run in queue.runs(job_id).values()), "its runs end")
    assert time.monotonic() - killed < 30
    assert done["status"] == "failed"
    assert ("worker was killed" if victim == "worker" else "The kernel died while it ran cell 3") in done["reason"]
    runs = queue.runs(job_id)
    assert runs["inner"]["status"] == "FINISHED" and runs["inner"]["metrics"] == {"loss": 0.25}
    for name in (f"killed {victim}", "left open"):
        assert runs[name]["status"] in ("FAILED", "KILLED") and runs[name]["tags"]["maestro.reason"]
    assert "line 2" in queue.log(job_id)
    shown = queue.api.get(f"jobs/{job_id}/notebook").raise_for_status().json()["notebook"]
    assert "tracked" in json.dumps(shown["cells"][1]["outputs"])
