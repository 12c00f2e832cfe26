"""The pages about jobs over the real domain: lists, one job that runs, its log, its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.job_kit import NOTEBOOK, Jobs, packed, running_jobs
from tests.unit.test_request_pages import Browser


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with running_jobs(tmp_path) as made:
        yield made


async def test_a_job_is_followed_and_cancelled_on_its_page(jobs: Jobs) -> None:
    job = await jobs.queue(name="nightly <b>run</b>", parameters={"lr": 0.1}, experiment="wine", retries=1)
    await jobs.turn()
    worker = await jobs.worker(job["job_id"])
    await worker.progress("running", 3, 12, run_id="r1")
    await worker.own("POST", "log", 204, offset=0, text="epoch <script>1</script>\n")
    await worker.own("PUT", "notebook", 204, content=packed(NOTEBOOK))

    ann = Browser(jobs.world, "ann")
    assert (await ann.get("jobs?workspace=demo")).status_code == 200
    assert "nightly <b>run</b>" in ann.text and "cell 3 of 12" in ann.text
    page = await ann.get(f"jobs/{job['job_id']}")
    assert ann.page.find(id="log").get_text() == "epoch <script>1</script>\n"
    assert "<script>1" not in page.text
    assert ann.page.find("progress")["value"] == "25"
    assert "lr=0.1" in ann.page.find(id="facts").get_text()
    assert ann.page.find("a", string="Run in MLflow")["href"].endswith("/mlflow/#/runs/r1?workspace=demo")
    live = ann.page.find(id="live")["hx-get"].removeprefix("/services/workspaces/")
    assert (await ann.get(live)).status_code == 204  # nothing is new
    await worker.progress("running", 4, 12)
    assert "cell 4 of 12" in (await ann.get(live)).text

    await ann.get(f"jobs/{job['job_id']}")
    await ann.send(f"jobs/{job['job_id']}/cancel")
    assert ann.said() == "nightly <b>run</b> is told to end."
    assert await worker.progress() is True
    await worker.done("cancelled")
    await ann.get(f"jobs/{job['job_id']}")
    assert ann.page.find(id="why").get_text() == "cancelled by ann"
    assert (
        "hx-get" not in ann.page.find(id="live").attrs and ann.page.find("form", action=lambda a: "cancel" in a) is None
    )


async def test_an_executed_notebook_is_a_download(jobs: Jobs) -> None:
    job = await jobs.queue()
    await jobs.turn()
    await (await jobs.worker(job["job_id"])).own("PUT", "notebook", 204, content=packed(NOTEBOOK))
    ann = Browser(jobs.world, "ann")
    answer = await ann.get(f"jobs/{job['job_id']}/notebook")
    assert answer.headers["Content-Disposition"].startswith("attachment; filename*=UTF-8''train%20%28j-")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.json()["cells"][1]["source"] == "print(lr)"


async def test_members_look_and_strangers_learn_nothing(jobs: Jobs) -> None:
    job = await jobs.queue(schedule="0 6 * * *")
    bob, eve, root = (Browser(jobs.world, name) for name in ("bob", "eve", "root"))
    await bob.get(f"jobs/{job['job_id']}")
    assert "waits for its time" in bob.text and bob.page.find("form", method="post") is None
    for path in ("", "/live", "/notebook"):
        assert (await eve.get(f"jobs/{job['job_id']}{path}")).status_code == 404
    assert (await eve.get("jobs?all=1")).status_code == 403
    await root.get("jobs?all=1")
    assert "train" in root.page.find(id="jobs").get_text()
    ann = Browser(jobs.world, "ann")
    await ann.get(f"jobs/{job['job_id']}")
    await ann.send(f"jobs/{job['job_id']}/schedule")
    assert ann.said() == "The schedule of train has ended."


async def test_no_form_counts_without_its_token(jobs: Jobs) -> None:
    job = await jobs.queue()
    ann = Browser(jobs.world, "ann")
    await ann.get(f"jobs/{job['job_id']}")
    answer = await ann.client.post(f"/services/workspaces/jobs/{job['job_id']}/cancel")
    assert answer.status_code == 403
    assert (await jobs.job(job["job_id"]))["status"] == "queued"
