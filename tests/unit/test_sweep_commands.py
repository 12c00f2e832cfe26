"""Sweeps in a terminal: the real commands against the real service; the workers are the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from maestro_core.errors import MaestroError
from maestro_hub_services.workspaces.domain import sweep_turns
from notebooks.cli import main
from notebooks.jobs import parameter
from notebooks.sweeps import read_sweep_file
from tests.job_kit import NOTEBOOK, Jobs, running_jobs

SWEEP = """
workspace: demo
name: rates
notebook: train.ipynb
grid: {lr: [1e-3, 0.1]}
metric: loss
goal: minimize
max_parallel: 1
"""


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with running_jobs(tmp_path / "state") as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A sweep's file, with its notebook beside it."""
    (tmp_path / "train.ipynb").write_text(json.dumps(NOTEBOOK))
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path / "sweep.yaml"


async def maestro(jobs: Jobs, *arguments: str, code: int = 0) -> str:
    """What a command prints; ``code``: its exit code."""
    env = {"MAESTRO_URL": jobs.world.address, "MAESTRO_TOKEN": "token-of-ann"}
    result: Result = await asyncio.to_thread(CliRunner().invoke, main, list(arguments), env=env)
    assert result.exit_code == code, result.output
    return result.output


async def turn(jobs: Jobs) -> None:
    await sweep_turns.turn(jobs.world.authority)
    await jobs.turn()


async def finish_trial(jobs: Jobs, job_id: str, **done: Any) -> None:
    worker = await jobs.worker(job_id)
    await worker.progress("running", run_id=f"r-{job_id}", parent_run="parent")
    await worker.done(**done)
    worker.exits()
    await turn(jobs)


async def test_a_file_starts_a_sweep_and_status_shows_its_trials(jobs: Jobs, file: Path) -> None:
    said = await maestro(jobs, "queue", "--sweep", str(file), "--retries", "1", "--tag", "team=a")
    (sweep,) = (await jobs.call("ann", "GET", "sweeps"))["sweeps"]
    sweep_id = sweep["sweep_id"]
    assert f"Started {sweep_id}: 2 trials of train.ipynb in demo, 1 at a time." in said
    await turn(jobs)
    (trial,) = (await jobs.call("ann", "GET", f"sweeps/{sweep_id}"))["trials"]
    job = await jobs.job(trial["job_id"])
    assert (job["parameters"], job["retries"], job["sweep"]) == ({"lr": 0.001}, 1, sweep_id)
    assert job["tags"]["team"] == "a"

    await finish_trial(jobs, trial["job_id"], metrics={"loss": 0.25})
    shown = await maestro(jobs, "status", sweep_id)
    assert "1 of 2, 1 at a time" in shown and "loss 0.25, trial 1: lr=0.001" in shown
    assert "rates" in await maestro(jobs, "status") and "1 of 2" in await maestro(jobs, "status")
    assert json.loads(await maestro(jobs, "status", sweep_id, "--json"))["best"]["value"] == 0.25
    assert "rates and its trials are told to end." in await maestro(jobs, "cancel", sweep_id)
    assert json.loads(await maestro(jobs, "cancel", sweep_id, "--json"))["reason"] == "cancelled by ann"


async def test_who_waits_sees_how_it_goes_on_and_the_command_fails_where_it_does(
    jobs: Jobs, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notebooks.cli_sweeps._POLL", 0.05)
    waiting = asyncio.ensure_future(maestro(jobs, "queue", "--sweep", str(file), "--wait", code=6))
    while not waiting.done():
        await turn(jobs)
        for job in (await jobs.call("ann", "GET", "jobs"))["jobs"]:
            if job["status"] == "starting":
                await finish_trial(jobs, job["job_id"], outcome="failed", reason="it is too cold")
    said = await waiting
    assert "2 of 2 trials are over." in said and "Error: rates failed: all of its 2 trials failed" in said


async def test_a_mistake_in_the_file_is_named_before_anything_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    for text, sentence in (
        ("grid: {lr: [1, 1]}\nnotebook: a.ipynb", "grid: lr has one of its values twice."),
        ("grid: {lr: 1}\nnotebook: a.ipynb", "grid: lr has a list of 1 to 200 values."),
        ("grid: [", "is not YAML"),
        ("- a", "holds no keys"),
    ):
        path.write_text(text)
        with pytest.raises(MaestroError) as refusal:
            read_sweep_file(path)
        assert sentence in refusal.value.message and str(path) in refusal.value.message


def test_numbers_are_numbers_however_they_are_written() -> None:
    written = {
        "1e-3": 0.001,
        "2E5": 2e5,
        "-1.5e3": -1500.0,
        ".5": 0.5,
        "7": 7,
        "e3": "e3",
        "1e": "1e",
        "v1e-3": "v1e-3",
    }
    assert {text: parameter(f"a={text}")[1] for text in written} == written
