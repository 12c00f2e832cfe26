"""Jobs in the store, on each database: whose turn it is, logs that stay short, what is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from maestro_core.jobs import JobStatus
from maestro_hub_services.store import JobRow, Store, jobs
from maestro_hub_services.store.clock import now


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    made = await Store.open(database_url)
    async with made.write() as unit:
        await unit.workspaces.add("demo", "ann", workspace_id="w-1")
        await unit.jobs.keep_code("w-1", "a" * 64, b"code")
    yield made
    await made.close()


async def add(store: Store, name: str, user: str = "ann", minutes: int = 0, **values: Any) -> None:
    row = JobRow(
        id=name, workspace_id="w-1", user=user, user_created="1", name=name, kind="notebook", path="a.ipynb",
        address="a" * 64, experiment="demo", queue="demo", created_at=now() - timedelta(hours=1, minutes=-minutes),
        **values,
    )  # fmt: skip
    async with store.write() as unit:
        await unit.jobs.add(row)


async def test_the_oldest_come_first_and_nobody_keeps_others_out(store: Store) -> None:
    for number in range(5):
        await add(store, f"ann{number}", minutes=number)
    await add(store, "bob", "bob", minutes=9)
    await add(store, "later", "eve", not_before=now() + timedelta(hours=1))
    await add(store, "over", "eve", status=JobStatus.FAILED, ended_at=now())
    async with store.read() as unit:
        assert [job.id for job in await unit.jobs.waiting(now(), 100)] == [*(f"ann{n}" for n in range(5)), "bob"]
        assert [job.id for job in await unit.jobs.waiting(now(), 3)] == ["ann0", "ann1", "bob"]


async def test_what_is_over_never_changes(store: Store) -> None:
    await add(store, "over", status=JobStatus.SUCCEEDED, ended_at=now())
    async with store.write() as unit:
        await unit.jobs.change("over", status="failed", reason="late")
        found = await unit.jobs.get("over")
    assert found is not None and (found.status, found.reason) == (JobStatus.SUCCEEDED, None)


async def test_a_log_keeps_its_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_PIECES", 3)
    await add(store, "one")
    async with store.write() as unit:
        for offset in range(0, 50, 10):
            await unit.jobs.add_log("one", 1, offset, b"x" * 10, 25)
        kept = [offset for offset, _ in await unit.jobs.log("one", 1, 0, 100)]
        assert kept == [20, 30, 40]
        for offset in range(50, 56):
            await unit.jobs.add_log("one", 1, offset, b"y", 1000)
        assert [offset for offset, _ in await unit.jobs.log("one", 1, 0, 100)] == [53, 54, 55]
        assert await unit.jobs.log_end("one", 1) == 56


async def test_code_is_forgotten_with_its_last_job(store: Store) -> None:
    for name in ("one", "two"):
        await add(store, name, status=JobStatus.FAILED, ended_at=now() - timedelta(days=2))
        async with store.write() as unit:
            await unit.jobs.add_log(name, 1, 0, b"x", 10)
            await unit.jobs.put_output(name, 1, b"out")
    async with store.write() as unit:
        assert await unit.jobs.forget_ended(now() - timedelta(days=1), 1) == 1
        assert await unit.jobs.code("w-1", "a" * 64) == b"code"
        assert await unit.jobs.forget_ended(now() - timedelta(days=1), 10) == 1
        assert await unit.jobs.code("w-1", "a" * 64) is None


async def test_a_persons_oldest_go_and_what_is_open_stays(store: Store) -> None:
    for number in range(20):
        over = {"status": JobStatus.FAILED, "ended_at": now()} if number % 2 else {}
        await add(store, f"j{number}", minutes=number, **over)
    async with store.write() as unit:
        await unit.jobs.fit("ann", "1", 19)
        left = {job.id for job in await unit.jobs.newest(user=("ann", "1"), limit=100)}
    assert {f"j{n}" for n in range(20)} - left == {"j1"}


async def test_a_purged_workspace_keeps_no_job(store: Store) -> None:
    await add(store, "one")
    async with store.write() as unit:
        assert await unit.jobs.forget_workspace("w-1") == 1
        assert await unit.jobs.code("w-1", "a" * 64) is None
