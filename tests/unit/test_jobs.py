"""Jobs at the service: queued, admitted, run by a worker, ended; with which code, by whom, and what each may see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from maestro_core.jobs import KEPT_LOG
from maestro_hub_services.store import clock
from maestro_hub_services.workspaces.domain import departures, job_queue, job_watch, reconcile
from maestro_hub_services.workspaces.domain import jobs as domain_jobs
from maestro_hub_services.workspaces.domain.schedules import next_time
from maestro_hub_services.workspaces.job_board import JobBoard
from maestro_hub_services.workspaces.runners import PATIENCE, Ended
from tests.job_kit import NOTEBOOK, Jobs, packed, running_jobs, save_notebook


@pytest.fixture
async def jobs(tmp_path: Path) -> AsyncIterator[Jobs]:
    async with running_jobs(tmp_path) as made:
        yield made


class Time:
    """The wall clock and the steady one, put forward by a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        wall, steady = clock.read_wall, clock.read_steady
        monkeypatch.setattr(clock, "read_wall", lambda: wall() + self.ahead)
        monkeypatch.setattr(clock, "read_steady", lambda: steady() + self.ahead)

    def pass_by(self, seconds: float) -> None:
        self.ahead += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


async def events(jobs: Jobs, kind: str) -> list[dict[str, Any]]:
    async with jobs.world.authority.store.read() as unit:
        return [event.fields for event in await unit.events.latest(kinds=(kind,), limit=50)]


class TestOneJob:
    async def test_a_job_runs_from_the_queue_to_its_end(self, jobs: Jobs) -> None:
        job = await jobs.queue(parameters={"lr": 0.1}, experiment="wine", tags={"team": "a"})
        assert (job["status"], job["name"], job["attempt"]) == ("queued", "train", 0)
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["status"] == "starting"

        worker = await jobs.worker(job["job_id"])
        assert worker.plan.server_name == f"job:{job['job_id']}"
        assert worker.plan.environment["MLFLOW_EXPERIMENT_NAME"] == "wine"
        order = await worker.own("GET", "work", 200)
        assert [cell["source"] for cell in json.loads(order["content"])["cells"]] == ["lr = 1", "print(lr)"]
        assert (order["parameters"], order["experiment"], order["tags"]) == ({"lr": 0.1}, "wine", {"team": "a"})
        assert order["launch_id"] == worker.plan.launch_id

        assert await worker.progress("environment") is False
        assert await worker.progress("running", 1, 2, run_id="r1") is False
        seen = await jobs.job(job["job_id"], "bob")
        assert (seen["status"], seen["run_id"], seen["progress"]["cell"]) == ("running", "r1", 1)
        await worker.own("POST", "log", 204, offset=0, text="epoch 1\n")
        await worker.own("PUT", "notebook", 204, content=packed(NOTEBOOK))
        await worker.done(metrics={"loss": 0.5}, run_id="r1")
        ended = await jobs.job(job["job_id"])
        assert (ended["status"], ended["reason"], ended["metrics"], ended["output"]) == (
            "succeeded", None, {"loss": 0.5}, True,
        )  # fmt: skip

        worker.exits()
        await jobs.turn()
        assert jobs.runner.cleaned == [worker.plan.launch_id]
        assert (await worker.own("GET", "work"))["error"]["code"] == "not_signed_in"  # its token is dead
        log = await jobs.call("bob", "GET", f"jobs/{job['job_id']}/log")
        assert (log["text"], log["complete"]) == ("epoch 1\n", True)
        output = await jobs.call("bob", "GET", f"jobs/{job['job_id']}/notebook")
        assert output["notebook"]["cells"][0]["source"] == "lr = 1"
        assert [event["status"] for event in await events(jobs, "job_ended")] == ["succeeded"]

    async def test_an_attempt_is_a_launch_and_no_server(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        await worker.progress()
        limits = await jobs.call("ann", "GET", "workspaces/demo/limits")
        assert next(one for one in limits["limits"] if one["name"] == "max_concurrent_notebooks")["in_use"] == 1
        assert (await jobs.call("ann", "GET", "launches"))["launches"] == []
        refused = await jobs.call("ann", "DELETE", f"launches/{worker.plan.launch_id}")
        assert f"maestro cancel {job['job_id']}" in refused["error"]["message"]
        time.pass_by(60)
        await reconcile.release_leaked(jobs.world.authority)  # the Hub has no such server
        await departures.review_everything(jobs.world.authority)  # ann has no server that would show who she is
        time.pass_by(61)
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["status"] == "running"
        assert jobs.runner.stopped == []
        await worker.own("GET", "work", 200)

    async def test_a_failure_is_tried_again_and_its_reason_is_kept(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue(retries=1)
        await jobs.turn()
        first = await jobs.worker(job["job_id"])
        await first.progress()
        await first.done("failed", "ValueError: no such column")
        again = await jobs.job(job["job_id"])
        assert (again["status"], again["reason"]) == ("queued", "ValueError: no such column")
        assert again["waits"].startswith("tries again at")
        first.exits(1, "it exited with 1")
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["attempt"] == 1  # not before its pause is over

        time.pass_by(11)
        await jobs.turn()
        second = await jobs.worker(job["job_id"])
        assert (second.address.attempt, second.plan.launch_id != first.plan.launch_id) == (2, True)
        await second.progress()
        await second.done("failed", "ValueError: still none")
        ended = await jobs.job(job["job_id"])
        assert (ended["status"], ended["reason"]) == ("failed", "ValueError: still none")
        assert [attempt["reason"] for attempt in ended["attempts"]] == [
            "ValueError: no such column", "ValueError: still none",
        ]  # fmt: skip

    async def test_the_next_attempt_waits_until_the_one_before_is_gone(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue(retries=1)
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        await worker.progress()
        await worker.done("failed", "no")
        time.pass_by(11)
        await job_queue.look(jobs.world.authority)
        waiting = await jobs.job(job["job_id"])
        assert (waiting["status"], waiting["waits"]) == ("queued", "waits: its attempt before is not gone yet")

    async def test_a_worker_that_dies_is_noticed(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        await worker.progress("running", 1, 2)
        worker.exits(137, "it was killed by signal 9")
        await jobs.turn()
        ended = await jobs.job(job["job_id"])
        assert (ended["status"], ended["reason"]) == ("failed", "its worker ended: it was killed by signal 9")

    async def test_a_worker_that_nobody_knows_any_more_is_gone(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        await worker.progress()
        del jobs.runner.states[worker.plan.launch_id]
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["status"] == "running"  # one look is no proof
        time.pass_by(6)
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["reason"] == "its worker is gone"

    async def test_a_start_that_takes_long_is_waited_for(self, jobs: Jobs, time: Time) -> None:
        jobs.runner.hold = asyncio.Event()
        job = await jobs.queue()
        await job_queue.look(jobs.world.authority)
        for _ in range(2):
            await job_watch.watch(jobs.world.authority)
            time.pass_by(60)
        assert (await jobs.job(job["job_id"]))["status"] == "starting"
        jobs.runner.hold.set()
        await jobs.turn()
        await (await jobs.worker(job["job_id"])).progress()
        assert (await jobs.job(job["job_id"]))["attempt"] == 1

    async def test_a_metric_that_is_no_number_keeps_nobody_from_reading(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        body = '{"attempt": 1, "outcome": "succeeded", "metrics": {"loss": 1e999, "m": 2}}'
        async with jobs.world.client(token=worker.address.token) as client:
            headers = {"Content-Type": "application/json"}
            answer = await client.post(f"jobs/{job['job_id']}/done", content=body, headers=headers)
        assert answer.status_code == 204
        assert (await jobs.job(job["job_id"]))["metrics"] == {"m": 2.0}

    async def test_a_start_that_fails_says_why(self, jobs: Jobs) -> None:
        jobs.runner.refuses = "The image cannot be pulled."
        job = await jobs.queue()
        await jobs.turn()
        ended = await jobs.job(job["job_id"])
        assert (ended["status"], ended["reason"]) == ("failed", "The image cannot be pulled.")

    async def test_what_takes_longer_than_its_time_out_is_stopped(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue(timeout="1m")
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        await worker.progress()
        time.pass_by(95)
        await jobs.turn()
        assert jobs.runner.stopped == [worker.plan.launch_id]
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["reason"] == "it took longer than its time-out of 1 min"

    async def test_a_worker_that_never_begins_is_given_up(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue()
        await jobs.turn()
        time.pass_by(PATIENCE + 1)
        await jobs.turn()
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["reason"] == "its worker did not begin within 10 min"


class TestTheQueue:
    async def test_what_does_not_fit_waits_with_the_sentence_and_starts_when_there_is_room(self, jobs: Jobs) -> None:
        made = [await jobs.queue() for _ in range(5)]
        others = await jobs.queue("bob")
        await jobs.turn()
        states = [(await jobs.job(job["job_id"]))["status"] for job in made]
        assert states == ["starting"] * 3 + ["queued"] * 2
        assert (await jobs.job(others["job_id"]))["status"] == "starting"  # ann's jobs hold up nobody
        waits = (await jobs.job(made[3]["job_id"]))["waits"]
        assert waits.startswith("waits: ")
        assert "3" in waits
        await jobs.turn()
        assert await events(jobs, "launch_refused") == []

        worker = await jobs.worker(made[0]["job_id"])
        await worker.done()
        worker.exits()
        await jobs.turn()
        await jobs.turn()
        states = [(await jobs.job(job["job_id"]))["status"] for job in made]
        assert states == ["succeeded", "starting", "starting", "starting", "queued"]

    async def test_what_can_never_be_had_is_refused_at_once(self, jobs: Jobs) -> None:
        too_much = await jobs.queue(resources={"cpu": 64}, status=403)
        assert too_much["error"]["code"] in ("quota_exceeded", "profile_closed")
        closed = await jobs.queue(profile="gpu", status=403)
        assert closed["error"]["code"] == "profile_closed"

    async def test_a_loop_fills_neither_the_queue_nor_the_store(
        self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(domain_jobs, "MAX_OPEN", 2)
        monkeypatch.setattr(domain_jobs, "MAX_AN_HOUR", 3)
        first = await jobs.queue()
        await jobs.queue()
        refused = await jobs.queue(status=403)
        assert "2 jobs waiting or running" in refused["error"]["message"]
        await jobs.call("ann", "POST", f"jobs/{first['job_id']}/cancel", status=200)
        again = await jobs.queue()
        await jobs.call("ann", "POST", f"jobs/{again['job_id']}/cancel", status=200)
        refused = await jobs.queue(status=403)
        assert "3 jobs within the last hour" in refused["error"]["message"]

    async def test_one_persons_many_kinds_of_jobs_cost_few_decisions(
        self, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job_queue, "_DECISIONS", 1)
        for _ in range(3):
            await jobs.queue()
        kinds = [await jobs.queue(queue=f"q{number}") for number in range(3)]
        await jobs.turn()
        waits = [(await jobs.job(kind["job_id"]))["waits"] for kind in kinds]
        assert waits[1:] == ["waits: other jobs of yours wait before it"] * 2
        assert "3 of 3" in waits[0]

    async def test_at_most_so_many_of_a_queue_run(self, jobs: Jobs) -> None:
        made = [await jobs.queue(max_concurrency=1, experiment="wine") for _ in range(2)]
        await jobs.turn()
        second = await jobs.job(made[1]["job_id"])
        assert (second["status"], second["waits"]) == ("queued", "waits: 1 of at most 1 of wine run (max_concurrency)")

    async def test_the_service_may_be_killed_while_jobs_run(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        await worker.progress("running", 1, 2)
        _forget_everything(jobs)
        await jobs.turn()
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["status"] == "running"
        await worker.done()
        assert (await jobs.job(job["job_id"]))["status"] == "succeeded"

    async def test_a_start_that_a_kill_cut_off_is_made_again(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue()
        await jobs.turn()
        jobs.runner.states.clear()  # it was reserved, and nothing was started
        _forget_everything(jobs)
        await jobs.turn()
        time.pass_by(6)
        await jobs.turn()
        cut_off = await jobs.job(job["job_id"])
        assert (cut_off["status"], cut_off["reason"]) == ("queued", "the service was stopped while it started")
        time.pass_by(11)
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["status"] == "starting"  # though it has no retries

    async def test_one_that_a_kill_left_half_started_is_started_again(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        jobs.runner.states[worker.plan.launch_id] = Ended(None, "its worker is gone, and did not say why")
        _forget_everything(jobs)
        await jobs.turn()
        cut_off = await jobs.job(job["job_id"])
        assert (cut_off["status"], cut_off["reason"]) == ("queued", "the service was stopped while it started")

    async def test_what_runs_without_a_launch_is_stopped_and_put_away(self, jobs: Jobs) -> None:
        jobs.runner.states["l-of-nobody"] = None
        await jobs.turn()
        assert jobs.runner.stopped == ["l-of-nobody"]
        await jobs.turn()
        assert jobs.runner.cleaned == ["l-of-nobody"]


def _forget_everything(jobs: Jobs) -> None:
    """What a process knew when it was killed."""
    object.__setattr__(jobs.world.authority, "board", JobBoard())


class TestCancelling:
    async def test_one_that_waits_is_over_at_once(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        ended = await jobs.call("ann", "POST", f"jobs/{job['job_id']}/cancel", status=200)
        assert (ended["status"], ended["reason"]) == ("cancelled", "cancelled by ann")
        await jobs.turn()
        assert jobs.runner.started == {}

    async def test_one_that_runs_is_told_and_ends_kindly(self, jobs: Jobs) -> None:
        job = await jobs.queue(retries=3)
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        await worker.progress()
        await jobs.call("ann", "POST", f"jobs/{job['job_id']}/cancel", status=200)
        assert await worker.progress() is True
        await worker.done("cancelled")
        ended = await jobs.job(job["job_id"])
        assert (ended["status"], ended["reason"]) == ("cancelled", "cancelled by ann")

    async def test_one_that_does_not_hear_is_stopped(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue(retries=3)
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        await worker.progress()
        await jobs.call("ann", "POST", f"jobs/{job['job_id']}/cancel", status=200)
        await jobs.turn()
        assert jobs.runner.stopped == []
        time.pass_by(16)
        await jobs.turn()
        assert jobs.runner.stopped == [worker.plan.launch_id]
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["status"] == "cancelled"

    async def test_its_submitter_and_owners_cancel_and_nobody_else(self, jobs: Jobs) -> None:
        mine, bobs = await jobs.queue("ann"), await jobs.queue("bob")
        refused = await jobs.call("bob", "POST", f"jobs/{mine['job_id']}/cancel", status=403)
        assert "an owner of the workspace" in refused["error"]["message"]
        assert (await jobs.call("ann", "POST", f"jobs/{bobs['job_id']}/cancel"))["status"] == "cancelled"
        assert (await jobs.call("root", "POST", f"jobs/{mine['job_id']}/cancel"))["status"] == "cancelled"


class TestWhichCode:
    async def test_the_newest_stored_version_of_a_notebook(self, jobs: Jobs) -> None:
        address = await save_notebook(jobs, "work/a.ipynb", NOTEBOOK)
        job = await jobs.queue(notebook="work/a.ipynb")
        assert job["snapshot"] == address

    async def test_a_notebook_that_was_never_saved_says_what_to_do(self, jobs: Jobs) -> None:
        refused = await jobs.queue(notebook="work/none.ipynb", status=404)
        assert "save it once in JupyterLab" in refused["error"]["message"]
        script = await jobs.queue(script="train.py", status=404)
        assert "sent along" in script["error"]["message"]

    async def test_nothing_named_takes_what_was_last_used_for_the_experiment(self, jobs: Jobs) -> None:
        await save_notebook(jobs, "work/a.ipynb", NOTEBOOK, "wine")
        await save_notebook(jobs, "work/b.ipynb", NOTEBOOK, "cheese")
        job = await jobs.call("ann", "POST", "workspaces/demo/jobs", {"experiment": "wine"}, 201)
        assert job["path"] == "work/a.ipynb"
        refused = await jobs.call("ann", "POST", "workspaces/demo/jobs", {"experiment": "bread"}, 400)
        assert refused["error"]["details"]["candidates"] == ["work/b.ipynb", "work/a.ipynb"]

    async def test_nothing_named_takes_the_entrypoint_first(self, jobs: Jobs) -> None:
        await save_notebook(jobs, "work/a.ipynb", NOTEBOOK, "wine")
        await save_notebook(jobs, "main.ipynb", NOTEBOOK)
        await jobs.call("ann", "PATCH", "workspaces/demo", {"entrypoint": "main.ipynb"}, 200)
        job = await jobs.call("ann", "POST", "workspaces/demo/jobs", {"experiment": "wine"}, 201)
        assert job["path"] == "main.ipynb"

    async def test_a_script_is_sent_along(self, jobs: Jobs) -> None:
        job = await jobs.queue(script="train.py", content=packed("print(1)\n"))
        await jobs.turn()
        order = await (await jobs.worker(job["job_id"])).own("GET", "work")
        assert (order["kind"], order["content"]) == ("script", "print(1)\n")

    @pytest.mark.parametrize("content", ["AAAA", packed("{}"), packed("[1]"), packed("x" * 5_000_000)])
    async def test_what_is_no_notebook_is_refused(self, jobs: Jobs, content: str) -> None:
        refused = await jobs.queue(notebook="a.ipynb", content=content, status=400)
        assert "content" in refused["error"]["message"]


class TestTokens:
    async def test_a_jobs_token_acts_for_its_own_job_in_its_own_workspace_alone(self, jobs: Jobs) -> None:
        await jobs.call("ann", "POST", "workspaces", {"name": "other"}, 201)
        job, another = await jobs.queue(), await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        assert (await worker.call("GET", "workspaces/demo", status=200))["role"] == "editor"  # though ann is owner
        await worker.call("GET", "workspaces/other", status=404)
        refusals = [
            await worker.call("POST", "workspaces/demo/jobs", {"notebook": "a.ipynb"}),
            await worker.call("POST", f"jobs/{another['job_id']}/cancel"),
            await worker.call("POST", "launches", {"workspace": "demo"}),
            await worker.call("POST", "workspaces/demo/environment", {"add": ["numpy"]}),
        ]
        assert {refusal["error"]["code"] for refusal in refusals} == {"forbidden"}
        foreign = await worker.call("POST", f"jobs/{another['job_id']}/done", {"attempt": 1, "outcome": "succeeded"})
        assert foreign["error"]["code"] == "unknown_job"
        stale = await worker.call("POST", f"jobs/{job['job_id']}/done", {"attempt": 2, "outcome": "succeeded"})
        assert stale["error"]["code"] == "unknown_job"

    async def test_people_and_servers_cannot_speak_for_a_worker(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        await jobs.turn()
        for path in ("done", "progress"):
            body = {"attempt": 1, "outcome": "succeeded", "phase": "running"}
            refused = await jobs.call("ann", "POST", f"jobs/{job['job_id']}/{path}", body, 404)
            assert refused["error"]["code"] == "unknown_job"
        assert (await jobs.call("ann", "GET", f"jobs/{job['job_id']}/work"))["error"]["code"] == "unknown_job"

    async def test_mlflow_learns_whose_it_is(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        async with jobs.world.client("mlflow") as mlflow:
            answer = await mlflow.post("authorize/jobs", json={"token": worker.address.token})
            owner = answer.json()
            assert (owner["user"], owner["workspace"], owner["job_id"]) == ("ann", "demo", job["job_id"])
            question = {"user": "ann", "servers": [owner["server"]]}
            grants = (await mlflow.post("authorize/tracking", json=question)).json()["workspaces"]
            assert {name: grant["role"] for name, grant in grants.items()} == {"demo": "editor"}
            assert (await mlflow.post("authorize/jobs", json={"token": "mjob_no"})).status_code == 404

    async def test_a_token_dies_at_its_time(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue(timeout="1m")
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        time.pass_by(60 + 900 + 1)
        assert (await worker.own("GET", "work"))["error"]["code"] == "not_signed_in"

    async def test_the_token_is_not_kept(self, jobs: Jobs, tmp_path: Path) -> None:
        job = await jobs.queue()
        await jobs.turn()
        token = (await jobs.worker(job["job_id"])).address.token
        for file in (tmp_path / "service").iterdir():
            assert token.encode() not in file.read_bytes()
        assert token not in repr((await jobs.worker(job["job_id"])).address)


class TestRoles:
    async def test_who_is_removed_loses_the_job_with_the_reason_and_without_another_try(
        self, jobs: Jobs, time: Time
    ) -> None:
        job = await jobs.queue("bob", retries=5)
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        await worker.progress()
        await jobs.call("ann", "DELETE", "workspaces/demo/members/user/bob?now=1", status=204)
        await jobs.turn()
        assert jobs.runner.stopped == [worker.plan.launch_id]
        await jobs.turn()
        ended = await jobs.job(job["job_id"])
        assert (ended["status"], ended["reason"]) == ("failed", "bob is no member of demo any more")

    async def test_who_was_removed_while_it_waited(self, jobs: Jobs) -> None:
        job = await jobs.queue("bob")
        await jobs.call("ann", "DELETE", "workspaces/demo/members/user/bob", status=204)
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["reason"] == "bob is no member of demo any more."

    async def test_a_group_that_is_left_at_the_hub_counts_within_a_minute(self, jobs: Jobs, time: Time) -> None:
        jobs.world.hub.move("eve", "team")
        await jobs.call("ann", "PUT", "workspaces/demo/members", {"group": "team", "role": "editor"}, 200)
        job = await jobs.queue("eve")
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        await worker.progress()
        jobs.world.hub.move("eve")
        jobs.world.authority.hub._users.clear()  # 5 s are over
        await departures.review_everything(jobs.world.authority)
        time.pass_by(61)
        await jobs.turn()
        assert jobs.runner.stopped == [worker.plan.launch_id]

    async def test_an_account_that_is_gone_ends_its_jobs(self, jobs: Jobs) -> None:
        job = await jobs.queue("bob")
        await jobs.turn()
        del jobs.world.hub.users["bob"]
        jobs.world.authority.hub._users.clear()
        await departures.review_everything(jobs.world.authority)
        await jobs.turn()
        await jobs.turn()
        assert (await jobs.job(job["job_id"]))["reason"] == "the account bob is gone"

    async def test_members_see_a_job_and_strangers_learn_nothing(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        assert (await jobs.call("bob", "GET", "jobs?workspace=demo"))["jobs"][0]["mine"] is False
        for path in ("", "/log", "/notebook"):
            refused = await jobs.call("eve", "GET", f"jobs/{job['job_id']}{path}", status=404)
            assert refused["error"]["code"] == "unknown_job"
        assert (await jobs.call("eve", "GET", "jobs"))["jobs"] == []
        await jobs.call("eve", "GET", "jobs?workspace=demo", status=404)
        await jobs.call("eve", "GET", "jobs?all=1", status=403)
        assert len((await jobs.call("root", "GET", "jobs?all=1"))["jobs"]) == 1

    async def test_a_notebook_server_queues_in_its_own_workspace(self, jobs: Jobs) -> None:
        await jobs.call("ann", "POST", "workspaces", {"name": "other"}, 201)
        await jobs.call("ann", "POST", "launches", {"workspace": "demo"}, 201)
        body = {"notebook": "a.ipynb", "content": packed(NOTEBOOK)}
        async with jobs.world.client(token=jobs.world.hub.server_token("ann", "demo")) as server:
            assert (await server.post("workspaces/demo/jobs", json=body)).status_code == 201
            assert (await server.post("workspaces/other/jobs", json=body)).status_code == 404
            assert len((await server.get("jobs")).json()["jobs"]) == 1


class TestWhatTheyWrite:
    async def test_pieces_of_a_log_may_be_sent_twice(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        for offset, text in ((0, "abc"), (0, "abc"), (2, "cd"), (4, "é!")):
            await worker.own("POST", "log", 204, offset=offset, text=text)
        log = await jobs.call("ann", "GET", f"jobs/{job['job_id']}/log")
        assert (log["text"], log["next"], log["complete"]) == ("abcdé!", 7, False)
        assert (await jobs.call("ann", "GET", f"jobs/{job['job_id']}/log?offset=4"))["text"] == "é!"

    async def test_the_end_of_a_long_log_is_kept(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        piece = "x" * 60_000
        for number in range(20):
            await worker.own("POST", "log", 204, offset=number * len(piece), text=piece)
        log = await jobs.call("ann", "GET", f"jobs/{job['job_id']}/log")
        assert 0 < log["offset"] <= 20 * len(piece) - KEPT_LOG + len(piece)
        assert log["next"] == 20 * len(piece)

    async def test_half_a_character_is_no_text(self, jobs: Jobs) -> None:
        half = json.dumps({"notebook": "a.ipynb", "content": packed(NOTEBOOK), "parameters": {"name": "\ud800"}})
        async with jobs.world.client("ann") as client:
            for body in (half.encode(), half.replace("\\ud800", "\ud800").encode("utf-8", "surrogatepass")):
                headers = {"Content-Type": "application/json"}
                assert (await client.post("workspaces/demo/jobs", content=body, headers=headers)).status_code == 400
        assert (await jobs.call("bob", "GET", "jobs?workspace=demo", status=200))["jobs"] == []
        whole = await jobs.queue(parameters={"name": "\U0001f600"})
        assert whole["parameters"] == {"name": "\U0001f600"}

        await jobs.turn()  # in an output it is one character less, and the rest can be read
        worker = await jobs.worker(whole["job_id"])
        shown = {"output_type": "stream", "name": "stdout", "text": "a\ud800b"}
        cell = {"cell_type": "code", "source": "", "outputs": [shown], "metadata": {}, "execution_count": 1}
        await worker.own("PUT", "notebook", 204, content=packed({**NOTEBOOK, "cells": [cell]}))
        found = await jobs.call("ann", "GET", f"jobs/{whole['job_id']}/notebook", status=200)
        assert found["notebook"]["cells"][0]["outputs"][0]["text"] == "a?b"

    async def test_what_is_no_executed_notebook_is_refused(self, jobs: Jobs) -> None:
        job = await jobs.queue()
        await jobs.turn()
        worker = await jobs.worker(job["job_id"])
        for content in ("AAAA", packed("[]"), packed("{}"), packed("x" * 9_000_000)):
            await worker.own("PUT", "notebook", 400, content=content)
        refused = await jobs.call("ann", "GET", f"jobs/{job['job_id']}/notebook", status=409)
        assert "has no executed notebook" in refused["error"]["message"]


class TestSchedules:
    async def test_a_scheduled_job_waits_for_its_time_and_another_one_follows(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue(schedule="0 * * * *")
        assert job["waits"].startswith("waits for its time, ")
        await jobs.turn()
        assert jobs.runner.started == {}

        time.pass_by(3600)
        await jobs.turn()
        run, following = await jobs.job(job["job_id"]), (await jobs.call("ann", "GET", "jobs"))["jobs"][0]
        assert (run["status"], run["schedule"]) == ("starting", None)
        assert (following["status"], following["schedule"], following["series"]) == (
            "queued", "0 * * * *", job["job_id"],
        )  # fmt: skip

    async def test_a_time_zone_that_is_gone_ends_its_schedule_and_holds_up_nobody(self, jobs: Jobs, time: Time) -> None:
        lost, fine = await jobs.queue(schedule="0 * * * *"), await jobs.queue(schedule="0 * * * *")
        async with jobs.world.authority.store.write() as unit:
            await unit.jobs.change(lost["job_id"], timezone="Gone/Zone")
        time.pass_by(3600)
        await jobs.turn()
        ended = await jobs.job(lost["job_id"])
        assert ended["status"] == "failed"
        assert "There is no time zone 'Gone/Zone'" in ended["reason"]
        assert (await jobs.job(fine["job_id"]))["status"] == "starting"

    async def test_runs_of_a_schedule_do_not_pile_up(self, jobs: Jobs, time: Time) -> None:
        await jobs.queue(schedule="0 * * * *")
        for _ in range(3):
            time.pass_by(3600)
            await jobs.turn()
        assert len((await jobs.call("ann", "GET", "jobs"))["jobs"]) == 2

    async def test_a_schedule_ends_and_its_run_goes_on(self, jobs: Jobs, time: Time) -> None:
        job = await jobs.queue(schedule="0 * * * *")
        time.pass_by(3600)
        await jobs.turn()
        ended = await jobs.call("ann", "DELETE", f"jobs/{job['job_id']}/schedule", status=200)
        assert ended["status"] == "starting"
        time.pass_by(7200)
        await jobs.turn()
        assert len(jobs.runner.started) == 1

    async def test_a_schedule_ends_where_its_user_does_not_belong_any_more(self, jobs: Jobs, time: Time) -> None:
        await jobs.queue("bob", schedule="0 * * * *")
        await jobs.call("ann", "DELETE", "workspaces/demo/members/user/bob", status=204)
        time.pass_by(3600)
        await jobs.turn()
        rows = (await jobs.call("ann", "GET", "jobs?workspace=demo"))["jobs"]
        assert [row["status"] for row in rows] == ["failed", "failed"]

    @pytest.mark.parametrize(
        ("spec", "sentence"),
        [
            ({"schedule": "99 * * * *"}, "cannot be read"),
            ({"schedule": "0 0 31 2 *"}, "cannot be read"),
            ({"schedule": "* * * * *"}, "more often than every 5 minutes"),
            ({"schedule": "0,1 6 * * *"}, "more often than every 5 minutes"),
            ({"schedule": "0 6 * * *", "timezone": "Mars/Base"}, "no time zone"),
            ({"schedule": "0 6 * * *", "timezone": "../../etc/passwd"}, "no time zone"),
        ],
    )
    async def test_a_schedule_with_a_mistake_is_refused(self, jobs: Jobs, spec: Any, sentence: str) -> None:
        refused = await jobs.queue(status=400, **spec)
        assert sentence in refused["error"]["message"]

    def test_a_schedule_follows_its_zone_through_the_clock_change(self) -> None:
        before = datetime(2026, 3, 28, 12, tzinfo=UTC)
        first = next_time("0 6 * * *", "Europe/Berlin", before)
        assert first == datetime(2026, 3, 29, 4, tzinfo=UTC)
        assert first - next_time("0 6 * * *", "Europe/Berlin", before - timedelta(days=1)) == timedelta(hours=23)
