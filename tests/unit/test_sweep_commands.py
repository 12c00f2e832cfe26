"""Sweeps in a terminal: the real commands against the real service; the workers are the test's."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ipython_magics import sweeps as magic
from ipython_magics.refusal import NotDone
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


class TestTheMagic:
    """``%mlflow_sweep`` in a notebook of the workspace's server."""

    @pytest.fixture(autouse=True)
    def in_a_notebook(self, jobs: Jobs, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        token = jobs.world.hub.server_token("ann", "demo")
        inside = {
            "MAESTRO_SERVICE_URL": jobs.world.address + "/api/v1/jupyter",
            "JUPYTERHUB_API_TOKEN": token,
            "MAESTRO_WORKSPACE": "demo",
            "MAESTRO_WORKSPACE_DIR": str(file.parent),
        }
        for name, value in inside.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("MAESTRO_URL", raising=False)
        monkeypatch.delenv("MAESTRO_TOKEN", raising=False)
        monkeypatch.setattr("ipython_magics.kernel.notebook_path", lambda: "train.ipynb")

    async def act(self, line: str, cell: str | None = None) -> Any:
        return await asyncio.to_thread(magic.act, line, cell)

    async def test_a_cell_starts_a_sweep_over_its_notebook(self, jobs: Jobs) -> None:
        await jobs.call("ann", "POST", "launches", {"workspace": "demo"}, 201)
        assert repr(await self.act("")) == magic.NONE
        begun = await self.act("my <rates>", "grid: {lr: [1e-3, 0.1]}")
        sweep_id = begun.sweep.sweep_id
        assert repr(begun) == (
            f"Sweep my <rates> has begun: 2 trials of train.ipynb, 2 at a time. See %mlflow_sweep {sweep_id}."
        )
        assert "<b>my &lt;rates&gt;</b>" in begun._repr_html_() and "services/workspaces/jobs" in begun._repr_html_()
        assert sweep_id in repr(await self.act("")) and "my &lt;rates&gt;" in (await self.act(""))._repr_html_()
        shown = repr(await self.act(sweep_id))
        assert shown.startswith("Sweep my <rates>: running, 0 of 2 trials are over.") and "0.001" in shown

    async def test_mistakes_are_a_sentence_and_a_job_starts_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for line, cell, sentence in (
            ("", "grid: {lr: 1}", "grid: lr has a list of 1 to 200 values."),
            ("", "[", "this cell is not YAML"),
            ("nowhere.yaml", None, "nowhere.yaml cannot be read"),
            ("w-unknown", None, "There is no sweep"),
        ):
            with pytest.raises(NotDone, match=re.escape(sentence)):
                await self.act(line, cell)
        monkeypatch.setenv("MAESTRO_JOB", "j-1")
        assert await self.act("", "grid: {lr: [1]}") == await self.act("sweep.yaml") == magic.IN_A_JOB


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
