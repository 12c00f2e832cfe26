"""The page of a sweep over the real domain: in the list, its trials, its end, and who may look."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from maestro_hub_services.workspaces.domain import sweep_turns
from tests.job_kit import NOTEBOOK, Jobs, packed, running_jobs
from tests.unit.test_request_pages import Browser


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with running_jobs(tmp_path) as made:
        yield made


async def test_a_sweep_is_followed_and_cancelled_on_its_page(jobs: Jobs) -> None:
    spec = {"name": "depths <b>", "notebook": "train.ipynb", "content": packed(NOTEBOOK), "grid": {"x": ["<i>", 4, 5]}}
    spec |= {"metric": "loss", "goal": "minimize", "max_parallel": 1}
    sweep = await jobs.call("ann", "POST", "workspaces/demo/sweeps", spec, 201)
    place = f"sweeps/{sweep['sweep_id']}"
    await jobs.turn()
    (trial,) = (await jobs.call("ann", "GET", place))["trials"]
    worker = await jobs.worker(trial["job_id"])
    await worker.progress("running", run_id="r1", parent_run="p1")
    await worker.done(metrics={"loss": 0.25}, run_id="r1")
    await sweep_turns.turn(jobs.world.authority)

    ann, bob, eve = (Browser(jobs.world, name) for name in ("ann", "bob", "eve"))
    await ann.get("jobs?workspace=demo")
    row = ann.page.find(id="sweeps").find("a", string="depths <b>")
    assert row["href"].endswith(place) and "1 of 3" in ann.page.find(id="sweeps").get_text()
    page = await ann.get(place)
    assert "best loss 0.25" in ann.text and "<i>" not in page.text and ann.page.find("progress")["value"] == "1"
    first, second = (row.get_text(" ", strip=True) for row in ann.page.find(id="trials").find("tbody").find_all("tr"))
    assert first.startswith("1 x=<i> 0.25") and second.startswith("2 x=4 –")
    assert ann.page.find("a", string="Run in MLflow")["href"].endswith("/mlflow/#/runs/p1?workspace=demo")
    await bob.get(place)
    assert "depths" in bob.text and bob.page.find("form", method="post") is None
    assert (await eve.get(place)).status_code == 404

    await ann.send(f"{place}/cancel")
    assert ann.said() == "depths <b> and its trials are told to end."
    await ann.get(place)
    assert ann.page.find(id="why").get_text() == "cancelled by ann"
