"""Jobs in a terminal: the real commands against the real service; the workers are the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from maestro_core.errors import MaestroError
from notebooks.cli import main
from notebooks.jobs import parameter
from tests.job_kit import NOTEBOOK, Jobs, packed, running_jobs, save_notebook


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with running_jobs(tmp_path / "state") as made:
        yield made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in."""
    folder = tmp_path / "here"
    (folder / "work").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


async def maestro(jobs: Jobs, *arguments: str, who: str = "ann", code: int = 0, **variables: str) -> str:
    """What a command prints; ``code``: its exit code."""
    env = {"MAESTRO_URL": jobs.world.address, "MAESTRO_TOKEN": f"token-of-{who}", **variables}
    result: Result = await asyncio.to_thread(CliRunner().invoke, main, list(arguments), env=env)
    assert result.exit_code == code, result.output
    return result.output


async def only(jobs: Jobs) -> Any:
    """The one job that there is."""
    found = (await jobs.call("root", "GET", "jobs?all=1"))["jobs"]
    assert len(found) == 1
    return found[0]


async def test_a_file_is_sent_along_with_options(jobs: Jobs, here: Path) -> None:
    (here / "work/train.ipynb").write_text(json.dumps(NOTEBOOK))
    said = await maestro(
        jobs, "queue", "-w", "demo", "-e", "wine", "--notebook", "./work/train.ipynb", "-p", "lr=0.1", "-p", "name=a",
        "-p", "layers=[1, 2]", "--retries", "2", "--timeout", "2h", "--tag", "team=a", "--cpu", "1",
    )  # fmt: skip
    job = await only(jobs)
    assert said.splitlines()[0] == f"Queued {job['job_id']}: work/train.ipynb in demo, experiment wine."
    assert job["parameters"] == {"lr": 0.1, "name": "a", "layers": [1, 2]}
    assert (job["retries"], job["timeout"], job["tags"], job["resources"]["cpu"]) == (2, 7200, {"team": "a"}, 1)


async def test_inside_a_server_the_path_is_the_workspaces(
    jobs: Jobs, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "work/train.ipynb").write_text(json.dumps(NOTEBOOK))
    monkeypatch.chdir(here / "work")
    await jobs.call("ann", "POST", "launches", {"workspace": "demo"}, 201)
    inside = {
        "MAESTRO_URL": "", "MAESTRO_TOKEN": "", "MAESTRO_SERVICE_URL": jobs.world.address + "/api/v1/jupyter",
        "JUPYTERHUB_API_TOKEN": jobs.world.hub.server_token("ann", "demo"), "MAESTRO_WORKSPACE": "demo",
        "MAESTRO_WORKSPACE_DIR": str(here),
    }  # fmt: skip
    await maestro(jobs, "queue", "--notebook", "train.ipynb", **inside)
    assert (await only(jobs))["path"] == "work/train.ipynb"


async def test_a_config_says_it_all_and_options_win(jobs: Jobs, here: Path) -> None:
    (here / "work/train.py").write_text("print(1)\n")
    (here / "work/experiment-config.yaml").write_text(
        "workspace: demo\nscript: train.py\nexperiment: wine\nparameters: {lr: 1, n: 2}\nmax_concurrency: 2\n"
        "resources: {cpu: 1, memory: 1Gi}\nschedule: 0 6 * * 1-5\n"
    )
    said = await maestro(jobs, "queue", "--config", "work/experiment-config.yaml", "-p", "lr=3", "--memory", "2Gi")
    job = await only(jobs)
    assert (job["path"], job["kind"], job["schedule"]) == ("train.py", "script", "0 6 * * 1-5")
    assert (job["parameters"], job["resources"]["memory"]) == ({"lr": 3, "n": 2}, 2 * 1024**3)
    assert ", first at " in said


async def test_mistakes_are_one_sentence(jobs: Jobs, here: Path) -> None:
    (here / "bad.yaml").write_text("notebok: a.ipynb\n")
    assert "there is no such setting" in await maestro(jobs, "queue", "--config", "bad.yaml", code=2)
    (here / "broken.yaml").write_text("a: [\n")
    assert "is not YAML (line" in await maestro(jobs, "queue", "--config", "broken.yaml", code=2)
    (here / "a.ipynb").write_text("no notebook")
    assert "is no notebook" in await maestro(jobs, "queue", "-w", "demo", "--notebook", "a.ipynb", code=2)
    assert "is no parameter" in await maestro(jobs, "queue", "-w", "demo", "-p", "lr", code=2)
    await save_notebook(jobs, "work/a.ipynb", NOTEBOOK)
    said = await maestro(jobs, "queue", "-w", "demo", "-e", "bread", code=2)
    assert "stored notebooks of demo are work/a.ipynb" in " ".join(said.split())


async def test_status_shows_servers_and_jobs_with_progress_by_cell(jobs: Jobs) -> None:
    running, waiting = await jobs.queue(name="first"), await jobs.queue(name="second", schedule="0 6 * * *")
    await jobs.turn()
    worker = await jobs.worker(running["job_id"])
    await worker.progress("running", 3, 12)
    said = await maestro(jobs, "status")
    assert "No server is running" in said
    assert "cell 3 of 12" in said
    assert "waits for its time" in said
    one = await maestro(jobs, "status", running["job_id"])
    assert "progress:     cell 3 of 12" in one
    assert waiting["job_id"] in await maestro(jobs, "jobs", "demo", who="bob")


async def test_a_log_is_followed_through_a_retry_to_the_end(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maestro_hub_services.workspaces.domain.job_ends.retry_pause", lambda attempt: 0)
    monkeypatch.setattr("notebooks.jobs._POLL", 0.01)
    job = await jobs.queue(retries=1)
    await jobs.turn()
    following = asyncio.create_task(maestro(jobs, "logs", job["job_id"], "-f"))
    for attempt, outcome in ((1, "failed"), (2, "succeeded")):
        worker = await jobs.worker(job["job_id"])
        await worker.progress()
        await worker.own("POST", "log", 204, offset=0, text=f"attempt {attempt}\n\x1b[31mred\x07")
        await worker.done(outcome, "no" if outcome == "failed" else "")
        worker.exits()
        await jobs.turn()
        await jobs.turn()
    async with asyncio.timeout(60):
        said = await following
    assert [line for line in said.splitlines() if line.startswith("attempt")] == ["attempt 1", "attempt 2"]
    assert "\x1b" not in said and "\x07" not in said  # a job's words do not steer the terminal


async def test_waiting_fails_where_the_job_does(jobs: Jobs, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notebooks.jobs._POLL", 0.01)
    (here / "train.py").write_text("raise ValueError\n")
    waiting = asyncio.create_task(maestro(jobs, "queue", "-w", "demo", "--script", "train.py", "--wait", code=6))
    for _ in range(1000):
        if (await jobs.call("ann", "GET", "jobs"))["jobs"]:
            break
        await asyncio.sleep(0.01)
    await jobs.turn()
    worker = await jobs.worker((await only(jobs))["job_id"])
    await worker.done("failed", "ValueError")
    async with asyncio.timeout(60):
        assert "train failed: ValueError" in await waiting


async def test_cancel_and_the_end_of_a_schedule(jobs: Jobs) -> None:
    job, scheduled = await jobs.queue(), await jobs.queue(schedule="0 6 * * *")
    assert "train is cancelled." in await maestro(jobs, "cancel", job["job_id"])
    assert "has ended" in await maestro(jobs, "cancel", scheduled["job_id"], "--schedule")
    assert "train is cancelled." in await maestro(jobs, "cancel", job["job_id"])  # again
    assert "There is no job" in await maestro(jobs, "cancel", "j-none", code=3)


async def test_cancelling_what_succeeded_says_so(jobs: Jobs) -> None:
    job = await jobs.queue()
    await jobs.turn()
    await (await jobs.worker(job["job_id"])).done()
    assert await maestro(jobs, "cancel", job["job_id"]) == "train was over already: it succeeded.\n"


async def test_a_watched_job_is_shown_until_it_is_over(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notebooks.cli_jobs.time.sleep", lambda seconds: None)
    job = await jobs.queue()
    await jobs.turn()
    worker = await jobs.worker(job["job_id"])
    await worker.progress("running", 1, 2)
    watching = asyncio.create_task(maestro(jobs, "status", job["job_id"], "--watch"))
    await asyncio.sleep(0.05)
    await worker.done()
    async with asyncio.timeout(60):
        said = await watching
    assert "cell 1 of 2" in said and said.count("status:       succeeded") == 1


async def test_outputs_are_written_once(jobs: Jobs, here: Path) -> None:
    job = await jobs.queue()
    await jobs.turn()
    worker = await jobs.worker(job["job_id"])
    await worker.own("PUT", "notebook", 204, content=packed(NOTEBOOK))
    assert await maestro(jobs, "outputs", job["job_id"], "-o", "done.ipynb") == "Wrote done.ipynb.\n"
    assert json.loads((here / "done.ipynb").read_text())["cells"][0]["source"] == "lr = 1"
    assert "is there already" in await maestro(jobs, "outputs", job["job_id"], "-o", "done.ipynb", code=6)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1", 1), ("a=0.5", 0.5), ("a=true", True), ("a=x=y", "x=y"), ("a=[1, b]", [1, "b"]), ("a=", None),
     ("a=2026-01-01", "2026-01-01"), ("a={b: 1}", "{b: 1}"), ("a='1'", "1"), ("a=: [", ": [")],
)  # fmt: skip
def test_parameters_are_read_as_yaml_does(text: str, value: object) -> None:
    assert parameter(text) == ("a", value)


def test_what_is_no_parameter() -> None:
    with pytest.raises(MaestroError):
        parameter("=1")
