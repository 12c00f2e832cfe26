"""Jobs on the real house: queued in a terminal, run in sandboxes, seen in MLflow, through failures and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import nbformat
import psutil
import pytest

from tests.system.house import ROOT, Maestro, Person, until
from tests.system.singleuser import has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(600)]
WORKSPACE = "jobs"
LIMIT = 120.0


def notebook(path: Path, *cells: str, parameters: str = "") -> str:
    """A notebook file; the first cell is tagged ``parameters`` where there is one."""
    made = [nbformat.v4.new_code_cell(cell) for cell in cells]
    if parameters:
        made.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path.name


class House:
    """ann's workspace, her terminal in a folder of her own machine, and what she sees; ``files``: of the workspace."""

    def __init__(self, maestro: Maestro, folder: Path) -> None:
        self.maestro, self.folder = maestro, folder
        self.ann, self.ben = maestro.person("jobs-ann"), maestro.person("jobs-ben")
        self.tokens = {person.name: person.token() for person in (self.ann, self.ben)}
        self.api = self.ann.api(self.tokens[self.ann.name])
        members = [{"user": self.ben.name, "role": "editor"}]
        made = self.api.post("workspaces", json={"name": WORKSPACE, "members": members})
        assert made.status_code == 201, made.text
        (self.files,) = (maestro.state / "workspaces").glob(f"{made.json()['workspace_id']}*")

    def maestro_says(self, *arguments: str, who: Person | None = None, code: int = 0) -> str:
        """What the command prints."""
        variables = {
            **os.environ, "MAESTRO_URL": self.maestro.url, "MAESTRO_TOKEN": self.tokens[(who or self.ann).name],
            "PYTHONPATH": str(ROOT), "COLUMNS": "200",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "notebooks.cli", *arguments], cwd=self.folder, env=variables, capture_output=True,
            text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def queue(self, *arguments: str, who: Person | None = None) -> str:
        """Queue a job in a terminal; its id."""
        said = json.loads(self.maestro_says("queue", "-w", WORKSPACE, "--json", *arguments, who=who))
        return str(said["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.api.get(f"jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def reaches(self, job_id: str, *statuses: str, seconds: float = LIMIT) -> dict[str, Any]:
        """Wait until the job has one of these statuses."""

        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["status"] in statuses else None

        try:
            return until(look, seconds, f"the job is not {' or '.join(statuses)}")
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{self.job(job_id)}\n{self.log(job_id)}\n{self.maestro.log()[-3000:]}"
            ) from None

    def log(self, job_id: str) -> str:
        return str(self.api.get(f"jobs/{job_id}/log").json()["text"])

    def run_of(self, job: dict[str, Any]) -> dict[str, Any]:
        """Its run, read from MLflow as its owner."""
        headers = {"Authorization": f"token {self.tokens[self.ann.name]}", "X-MLFLOW-WORKSPACE": WORKSPACE}
        url = f"{self.maestro.url}services/mlflow/api/2.0/mlflow/runs/get"
        answer = httpx.get(url, params={"run_id": job["run_id"]}, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["run"])


@pytest.fixture(scope="module")
def house(maestro: Maestro, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    yield House(maestro, tmp_path_factory.mktemp("terminal"))


def test_a_notebook_runs_without_a_browser_and_its_run_is_in_mlflow(house: House) -> None:
    notebook(
        house.folder / "train.ipynb",
        "import mlflow, time\nprint('rate is', lr)\nmlflow.log_metric('loss', lr * 2)",
        "go = __import__('pathlib').Path('/workspace/go')\nwhile not go.exists(): time.sleep(0.1)\nprint('went on')",
        parameters="lr = 1.0",
    )
    job_id = house.queue("-e", "wine", "--notebook", "train.ipynb", "-p", "lr=0.25", "--tag", "team=a")
    until(lambda: "rate is 0.25" in house.log(job_id), LIMIT, "nothing is in the log while it runs")
    job = house.reaches(job_id, "running")
    until(lambda: "cell 4 of 4" in house.maestro_says("status") or "cell 3 of 4" in house.maestro_says("status"), LIMIT,
          f"no progress by cell: {house.maestro_says('status')}")  # fmt: skip
    until(lambda: "rate is 0.25" in house.api.get(f"jobs/{job_id}/notebook").text, 60, "no outputs as they come")

    (house.files / "go").touch()
    job = house.reaches(job_id, "succeeded", "failed", "cancelled")
    assert (job["status"], job["metrics"]) == ("succeeded", {"loss": 0.5}), job
    run = house.run_of(job)
    assert (run["info"]["status"], run["info"]["user_id"]) == ("FINISHED", house.ann.name)
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert (tags["maestro.job"], tags["maestro.snapshot"], tags["team"]) == (job_id, job["snapshot"], "a")
    assert {one["key"]: one["value"] for one in run["data"]["params"]}["lr"] == "0.25"

    assert "went on" in house.maestro_says("logs", job_id, "-f")
    house.maestro_says("outputs", job_id, "-o", "done.ipynb")
    assert "went on" in (house.folder / "done.ipynb").read_text()
    assert list((house.files / "jobs" / job_id).glob("*.ipynb")), "the executed notebook is not in the workspace"
    _nothing_is_left(house)


def test_a_failure_has_its_reason_and_is_tried_again(house: House) -> None:
    notebook(
        house.folder / "twice.ipynb",
        "from pathlib import Path\nonce = Path('/workspace/once')\n"
        "if not once.exists():\n    once.touch()\n    raise ValueError('no such column')",
    )
    job_id = house.queue("--notebook", "twice.ipynb", "--retries", "1")
    job = house.reaches(job_id, "succeeded", "failed")
    assert job["status"] == "succeeded", job
    first, second = job["attempts"]
    assert first["outcome"] == "failed" and "ValueError: no such column" in first["reason"]
    assert second["outcome"] == "succeeded"
    assert "twice succeeded" not in house.maestro_says("logs", job_id, "--attempt", "2")
    assert house.run_of({"run_id": first["run_id"]})["info"]["status"] == "FAILED"

    (house.folder / "fails.py").write_text("raise SystemExit('nothing to do')\n")
    said = house.maestro_says("queue", "-w", WORKSPACE, "--script", "fails.py", "--wait", code=6)
    assert "fails failed: " in said and "nothing to do" in said


def test_what_does_not_fit_waits_and_what_runs_is_cancelled_kindly(house: House) -> None:
    (house.folder / "sleep.py").write_text("import time\nprint('begins', flush=True)\ntime.sleep(600)\n")
    jobs = [house.queue("--script", "sleep.py", "--name", f"sleep{number}") for number in range(4)]
    for job_id in jobs[:3]:
        until(lambda job_id=job_id: "begins" in house.log(job_id), LIMIT, f"{job_id} does not begin")
    last = until(lambda: house.job(jobs[3]).get("waits") and house.job(jobs[3]), 30, "it does not say why it waits")
    assert (last["status"], "3 of 3 servers" in last["waits"]) == ("queued", True), last

    house.maestro_says("cancel", jobs[0])
    ended = house.reaches(jobs[0], "cancelled", "failed")
    assert (ended["status"], ended["reason"]) == ("cancelled", f"cancelled by {house.ann.name}")
    assert house.run_of(ended)["info"]["status"] == "KILLED"
    house.reaches(jobs[3], "starting", "running")  # there is room now
    for job_id in jobs[1:]:
        house.maestro_says("cancel", job_id)
    for job_id in jobs[1:]:
        house.reaches(job_id, "cancelled")
    _nothing_is_left(house)


def test_a_job_outlives_kill_nine_of_the_service_and_a_dead_worker_is_noticed(house: House) -> None:
    notebook(
        house.folder / "long.ipynb",
        "import mlflow, time\nprint('begins')\nmlflow.log_metric('m', 1)",
        "go = __import__('pathlib').Path('/workspace/go-on')\nwhile not go.exists(): time.sleep(0.1)\nprint('went on')",
    )
    goes_on, dies = house.queue("--notebook", "long.ipynb"), house.queue("--notebook", "long.ipynb", "--name", "dies")
    for job_id in (goes_on, dies):
        until(lambda job_id=job_id: "begins" in house.log(job_id), LIMIT, f"{job_id} does not begin")

    _service(house.maestro).send_signal(signal.SIGKILL)
    until(lambda: not _answers(house), 30, "the service answers still")
    until(lambda: _answers(house), 120, "the service does not come back")
    assert house.job(goes_on)["status"] == "running"

    for process in _workers(house.job(dies)["launch_id"]):
        process.send_signal(signal.SIGKILL)
    dead = house.reaches(dies, "failed", seconds=30)
    assert dead["reason"].startswith("its worker"), dead
    (house.files / "go-on").touch()
    job = house.reaches(goes_on, "succeeded", "failed")
    assert (job["status"], job["attempt"], job["metrics"]) == ("succeeded", 1, {"m": 1.0}), job
    assert house.log(goes_on).count("went on") == 1
    until(lambda: house.run_of(dead)["info"]["status"] != "RUNNING", 60, "the dead job's run still runs")


def test_who_loses_the_role_loses_the_job(house: House) -> None:
    job_id = house.queue("--script", "sleep.py", who=house.ben)
    until(lambda: "begins" in house.log(job_id), LIMIT, "it does not begin")
    assert house.api.delete(f"workspaces/{WORKSPACE}/members/user/{house.ben.name}?now=1").status_code == 204
    ended = house.reaches(job_id, "failed", seconds=60)
    assert ended["reason"] == f"{house.ben.name} is no member of {WORKSPACE} any more"
    said = house.maestro_says("queue", "-w", WORKSPACE, "--script", "sleep.py", who=house.ben, code=3)
    assert "There is no workspace" in said
    _nothing_is_left(house)


def _service(maestro: Maestro) -> psutil.Process:
    """The workspaces service, which the Hub starts."""
    for process in psutil.Process(maestro.ready["pids"]["hub"]).children(recursive=True):
        if "maestro_hub_services.workspaces" in process.cmdline():
            return process
    raise AssertionError("there is no service")


def _answers(house: House) -> bool:
    try:
        return house.api.get("health").status_code == 200
    except httpx.HTTPError:
        return False


def _workers(launch_id: str) -> list[psutil.Process]:
    """The processes of an attempt's sandbox."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MAESTRO_LAUNCH_ID") == launch_id:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    assert found, f"no process of {launch_id} runs"
    return found


def _nothing_is_left(house: House) -> None:
    """What a job held is free, and its sandbox is gone."""

    def held() -> list[Any]:
        limits = house.api.get(f"workspaces/{WORKSPACE}/limits").json()["limits"]
        return [one["in_use"] for one in limits if one["name"] == "max_concurrent_notebooks" and one["in_use"]]

    until(lambda: not held(), 60, f"{held()} servers are still counted")
    until(lambda: not list((house.maestro.state / "run/jobs").glob("l-*")), 30, "folders of jobs are left")


def test_a_sync_from_outside_is_a_job_of_the_workspace(house: House) -> None:
    """Its files are there; what the job's own run would add is in an experiment of its own. Again: nothing changes."""
    (house.folder / "logs.py").write_text("import mlflow\nmlflow.log_metric('loss', 0.5)\n")
    house.maestro_says("queue", "-w", WORKSPACE, "-e", WORKSPACE, "--script", "logs.py", "--wait")
    said = house.maestro_says("sync", WORKSPACE, "--full")
    assert f"Wrote experiments/{WORKSPACE} from {WORKSPACE}" in said and "Stored in the run" in said, said
    shown = house.files / "experiments" / WORKSPACE
    before = os.readlink(shown), (shown / "runs.csv").read_text()
    assert "metrics.loss" in before[1] and (shown / "runs.parquet").is_file()
    again = house.maestro_says("sync", WORKSPACE, "--from-experiment")
    assert f"experiments/{WORKSPACE} is as {WORKSPACE} has it" in again, again
    assert (os.readlink(shown), (shown / "runs.csv").read_text()) == before
