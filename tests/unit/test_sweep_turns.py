"""Sweeps at the service: trials that follow each other, one parent run, the end, and what a kill leaves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from maestro_core.workspaces import EndedQuestion
from maestro_hub_services.workspaces.domain import sweep_turns, tracking
from maestro_hub_services.workspaces.job_board import JobBoard
from tests.job_kit import NOTEBOOK, Jobs, Worker, packed, running_jobs

GRID = {"grid": {"depth": [2, 4], "rate": [0.1, 0.5]}, "metric": "loss", "goal": "minimize"}
SEARCH = {
    "search": {"x": {"low": -5.0, "high": 5.0}},
    "trials": 4,
    "metric": "loss",
    "goal": "minimize",
    "max_parallel": 1,
}


@pytest.fixture
async def sweeps(tmp_path: Path) -> AsyncIterator[Sweeps]:
    async with running_jobs(tmp_path) as jobs:
        yield Sweeps(jobs)


class Sweeps:
    """Ann's sweeps; loops turn when a test says so, and workers are the test itself."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    async def start(self, status: int = 201, **spec: Any) -> Any:
        spec = {"notebook": "work/train.ipynb", "content": packed(NOTEBOOK), **spec}
        return await self.jobs.call("ann", "POST", "workspaces/demo/sweeps", spec, status)

    async def look(self, sweep: Any, who: str = "ann") -> Any:
        return await self.jobs.call(who, "GET", f"sweeps/{sweep['sweep_id']}", status=200)

    async def cancel(self, sweep: Any, who: str = "ann", status: int = 200) -> Any:
        return await self.jobs.call(who, "POST", f"sweeps/{sweep['sweep_id']}/cancel", status=status)

    async def turn(self) -> None:
        await sweep_turns.turn(self.jobs.world.authority)
        await self.jobs.turn()

    async def working(self) -> dict[str, tuple[Worker, Any]]:
        """By job's name, the workers of what runs with their orders."""
        found = {}
        for job in (await self.jobs.call("ann", "GET", "jobs?workspace=demo", status=200))["jobs"]:
            if job["status"] in ("starting", "running"):
                worker = await self.jobs.worker(job["job_id"])
                found[job["name"]] = worker, await worker.own("GET", "work", 200)
        return found

    async def finish(self, worker: Worker, outcome: str = "succeeded", **more: Any) -> None:
        await worker.done(outcome, **more)
        worker.exits()
        await self.turn()

    async def run_out(self, losses: Any) -> list[Any]:
        """Let workers do all that there is to do; the orders that they had."""
        orders = []
        await self.turn()
        while working := await self.working():
            for worker, order in working.values():
                orders.append(order)
                if order["open_parent"]:
                    await worker.progress("running", run_id=f"r{len(orders)}", parent_run="parent")
                else:
                    await worker.progress("running", run_id=f"r{len(orders)}")
                await worker.done(metrics=losses(order["parameters"]), run_id=f"r{len(orders)}")
                worker.exits()
            await self.turn()
            await self.turn()
        return orders


class TestAGrid:
    async def test_one_parent_run_then_so_many_trials_at_a_time_then_a_summary(self, sweeps: Sweeps) -> None:
        sweep = await sweeps.start(**GRID, parameters={"epochs": 3}, name="depths", tags={"team": "blue"})
        assert (sweep["status"], sweep["total"], sweep["max_parallel"]) == ("running", 4, 2)
        await sweeps.turn()
        await sweeps.turn()
        working = await sweeps.working()
        assert list(working) == ["depths 1"], "nobody else begins before there is a parent run"
        worker, order = working["depths 1"]
        assert order["parameters"] == {"epochs": 3, "depth": 2, "rate": 0.1} and order["metric"] == "loss"
        parent = order["open_parent"]
        assert (parent["name"], order["parent_run"]) == ("depths", None)
        assert parent["tags"]["maestro.sweep"] == parent["tags"]["maestro.launch"] == sweep["sweep_id"]
        assert order["tags"] == {"team": "blue", "maestro.sweep": sweep["sweep_id"], "maestro.trial": "1"}

        await worker.progress("running", run_id="r1", parent_run="parent")
        await sweeps.turn()
        working = await sweeps.working()
        assert set(working) == {"depths 1", "depths 2"}
        assert working["depths 2"][1]["parent_run"] == "parent" and working["depths 2"][1]["open_parent"] is None
        assert (await sweeps.look(sweep))["parent_run"] == "parent"

        await sweeps.finish(worker, metrics={"loss": 0.5}, run_id="r1")
        assert set(await sweeps.working()) == {"depths 2", "depths 3"}
        orders = await sweeps.run_out(lambda parameters: {"loss": parameters.get("rate", 0) * 2})
        summary = json.loads(orders[-1]["content"])
        assert (orders[-1]["kind"], orders[-1]["parent_run"], summary["status"]) == (
            "sweep-summary",
            "parent",
            "FINISHED",
        )
        assert [trial["value"] for trial in summary["trials"]] == [0.5, 1.0, 0.2, 1.0]
        ended = await sweeps.look(sweep, "bob")
        assert (ended["status"], ended["done"], ended["failed"], ended["reason"]) == ("succeeded", 4, 0, None)
        assert ended["best"]["parameters"] == {"depth": 4, "rate": 0.1} and ended["mine"] is False
        (listed,) = (await sweeps.jobs.call("bob", "GET", "sweeps?workspace=demo", status=200))["sweeps"]
        assert (listed["status"], listed["trials"]) == ("succeeded", [])

    async def test_a_trial_that_fails_holds_nothing_up(self, sweeps: Sweeps) -> None:
        sweep = await sweeps.start(**GRID, max_parallel=1)
        await sweeps.run_out(lambda parameters: {} if parameters.get("depth") == 2 else {"loss": 1.0})
        ended = await sweeps.look(sweep)
        assert (ended["status"], ended["reason"]) == ("succeeded", "2 of 4 trials failed")
        assert ended["trials"][0]["reason"] == "it ran, and logged no metric loss"

    async def test_the_parent_run_is_opened_by_the_next_trial_where_the_first_never_did(self, sweeps: Sweeps) -> None:
        sweep = await sweeps.start(**GRID)
        await sweeps.turn()
        ((worker, _),) = (await sweeps.working()).values()
        await sweeps.finish(worker, "failed", reason="no environment")
        ((_, order),) = (await sweeps.working()).values()
        assert order["name"] == "train 2" and order["open_parent"]["name"] == "train"
        assert (await sweeps.look(sweep))["trials"][0]["reason"] == "no environment"

    async def test_a_second_attempt_opens_no_second_parent_run(self, sweeps: Sweeps) -> None:
        await sweeps.start(**GRID, retries=1)
        await sweeps.turn()
        ((worker, order),) = (await sweeps.working()).values()
        await worker.progress("running", parent_run="parent")
        await sweeps.finish(worker, "failed", reason="out of memory")
        job = await sweeps.jobs.job(order["job_id"])
        assert job["status"] == "queued"
        async with sweeps.jobs.world.authority.store.read() as unit:
            row = await unit.jobs.get(order["job_id"])
        assert row is not None and row.work == {"metric": "loss", "parent_run": "parent", "open_parent": None}

    async def test_a_broken_notebook_is_not_run_to_the_end(self, sweeps: Sweeps) -> None:
        sweep = await sweeps.start(grid={"x": list(range(20))}, max_parallel=1)
        await sweeps.turn()
        for _ in range(5):
            ((worker, _),) = (await sweeps.working()).values()
            await sweeps.finish(worker, "failed", reason="NameError: name 'modle' is not defined")
        await sweeps.turn()
        ended = await sweeps.look(sweep)
        assert (ended["status"], ended["done"], len(ended["trials"])) == ("failed", 5, 5)
        assert ended["reason"] == "its first 5 trials failed, the last one so: NameError: name 'modle' is not defined"


class TestASearch:
    async def test_a_killed_service_goes_on_where_it_was_with_the_same_trials(self, sweeps: Sweeps) -> None:
        def losses(parameters: dict[str, Any]) -> dict[str, float]:
            return {"loss": (parameters["x"] - 1) ** 2} if parameters else {}

        undisturbed = await sweeps.start(**SEARCH)
        await sweeps.run_out(losses)
        killed = await sweeps.start(**SEARCH, name="again")
        await sweeps.turn()
        ((worker, _),) = (await sweeps.working()).values()
        await worker.progress("running", parent_run="parent")
        # all that the process remembers is gone
        object.__setattr__(sweeps.jobs.world.authority, "board", JobBoard())
        await sweeps.run_out(losses)
        first, second = await sweeps.look(undisturbed), await sweeps.look(killed)
        assert second["status"] == first["status"] == "succeeded"
        points = [[trial["parameters"] for trial in one["trials"]] for one in (first, second)]
        assert points[0] == points[1] and len(points[0]) == 4
        assert first["best"]["value"] == min(trial["value"] for trial in first["trials"])


class TestItsEnd:
    async def test_a_cancelled_one_ends_its_trials_and_its_parent_run(self, sweeps: Sweeps) -> None:
        sweep = await sweeps.start(**GRID)
        await sweeps.turn()
        ((worker, _),) = (await sweeps.working()).values()
        await worker.progress("running", parent_run="parent")
        await sweeps.turn()
        assert (await sweeps.cancel(sweep, "bob", 403))["error"]["message"].startswith("train is ann's; they, an owner")
        told = await sweeps.cancel(sweep)
        assert told["reason"] == "cancelled by ann" and (await sweeps.cancel(sweep))["status"] == "running"
        for worker, _ in (await sweeps.working()).values():
            assert await worker.progress("running") is True
            await sweeps.finish(worker, "cancelled")
        ((worker, order),) = (await sweeps.working()).values()
        assert json.loads(order["content"])["status"] == "KILLED"
        await sweeps.finish(worker)
        ended = await sweeps.look(sweep)
        assert (ended["status"], ended["reason"], ended["total"], ended["done"]) == (
            "cancelled", "cancelled by ann", 4, 2,
        )  # fmt: skip

    async def test_whose_role_is_gone_begins_no_more_trials(self, sweeps: Sweeps) -> None:
        bobs = await sweeps.jobs.call(
            "bob",
            "POST",
            "workspaces/demo/sweeps",
            {"notebook": "a.ipynb", "content": packed(NOTEBOOK), **GRID},
            201,
        )
        await sweeps.turn()
        ((worker, _),) = (await sweeps.working()).values()
        await sweeps.jobs.call("ann", "DELETE", "workspaces/demo/members/user/bob?now=1", status=204)
        await sweeps.finish(worker, "failed", reason="told to end")
        await sweeps.turn()
        ended = await sweeps.look(bobs)
        assert ended["status"] == "failed" and "be a member" in ended["reason"]

    async def test_a_parent_run_ends_with_its_sweep_where_no_summary_ended_it(self, sweeps: Sweeps) -> None:
        sweep = await sweeps.start(**GRID)
        question = EndedQuestion(launches=(sweep["sweep_id"], "l-unknown"))
        assert not (await tracking.ended(sweeps.jobs.world.authority, question)).ended
        await sweeps.cancel(sweep)
        await sweeps.turn()
        said = (await tracking.ended(sweeps.jobs.world.authority, question)).ended
        assert said == {sweep["sweep_id"]: "cancelled by ann"}

    async def test_too_many_at_a_time_are_refused(self, sweeps: Sweeps) -> None:
        for _ in range(20):
            await sweeps.start(**GRID)
        assert "You have 20 sweeps running" in (await sweeps.start(403, **GRID))["error"]["message"]

    async def test_strangers_and_workers_learn_and_do_nothing(self, sweeps: Sweeps) -> None:
        sweep = await sweeps.start(**GRID)
        await sweeps.turn()
        ((worker, _),) = (await sweeps.working()).values()
        refused = await worker.call("POST", "workspaces/demo/sweeps", {"notebook": "a.ipynb", **GRID})
        assert refused["error"]["code"] == "forbidden"
        sweeps.jobs.world.hub.add("sam")
        unknown = await sweeps.jobs.call("sam", "GET", f"sweeps/{sweep['sweep_id']}", status=404)
        assert unknown["error"]["code"] == "unknown_sweep"
        assert (await sweeps.jobs.call("sam", "GET", "sweeps", status=200))["sweeps"] == []
