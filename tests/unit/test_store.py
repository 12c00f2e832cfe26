"""The store: what it keeps, that it keeps it through kill -9, and that one process alone opens it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import IntegrityError

from maestro_core.environments import LockedPackage
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchStatus
from maestro_core.resources import Resources
from maestro_core.roles import Role
from maestro_hub_services.store import LaunchRow, Store, StoreLocked, WorkspaceRow, environments
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.tables import Moment, metadata
from maestro_hub_services.store.workspaces import FIRST_GID
from tests.postgres import Postgres, binaries, running_postgres

ROOT = Path(__file__).parents[2]


def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'maestro.sqlite'}"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = await Store.open(database_url)
    yield store
    await store.close()


async def workspace(store: Store, name: str) -> WorkspaceRow:
    async with store.write() as unit:
        return await unit.workspaces.add(name, "ann")


def launch(row: WorkspaceRow, number: int = 1, server: str = "demo", user: str = "ann") -> LaunchRow:
    return LaunchRow(
        id=f"l-{number}",
        kind="server",
        workspace_id=row.id,
        user=user,
        user_created="c",
        server_name=server,
        role=Role.OWNER,
        profile="small",
        resources=Resources(cpu=0.5, memory="3Gi", gpu=1, gpu_type="v100"),
        experiment="demo",
        default_url="/lab",
        status=LaunchStatus.RESERVED,
        token_mac=f"mac-{number}",
        created_at=now(),
    )


class TestTables:
    async def test_migrations_make_exactly_the_tables_that_the_code_speaks_of(self, store: Store) -> None:
        async with store._engine.connect() as connection:
            differences = await connection.run_sync(
                lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), metadata)
            )
        assert differences == []

    async def test_opening_again_changes_nothing(self, database_url: str, store: Store) -> None:
        made = await workspace(store, "demo")
        again = await Store.open(database_url)
        async with again.read() as unit:
            assert await unit.workspaces.by_name("demo") == made
        await again.close()

    def test_a_moment_without_a_zone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="without a zone"):
            Moment().process_bind_param(datetime(2026, 1, 1), _Sqlite())

    def test_a_moment_of_any_zone_is_utc(self) -> None:
        east = datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=2)))
        kept = Moment().process_bind_param(east, _Sqlite())
        assert Moment().process_result_value(kept, _Sqlite()) == datetime(2026, 3, 29, 0, 30, tzinfo=UTC)


class _Sqlite:
    name = "sqlite"


class TestWorkspaces:
    async def test_gids_are_never_handed_out_twice(self, store: Store) -> None:
        made = [await workspace(store, name) for name in ("a", "b", "c")]
        async with store.write() as unit:
            await unit.workspaces.archive(made[-1].id, "ann")
        later = await workspace(store, "d")
        assert [row.gid for row in (*made, later)] == [FIRST_GID, FIRST_GID + 1, FIRST_GID + 2, FIRST_GID + 3]

    async def test_a_name_is_taken_once_of_archived_ones_too(self, store: Store) -> None:
        made = await workspace(store, "demo")
        async with store.write() as unit:
            await unit.workspaces.archive(made.id, "ann")
        with pytest.raises(IntegrityError):
            await workspace(store, "demo")

    async def test_a_person_has_one_personal_workspace_and_a_recreated_one_another(self, store: Store) -> None:
        async with store.write() as unit:
            first = await unit.workspaces.add("u-ann-1", "ann", personal_of=("ann", "c1"))
            second = await unit.workspaces.add("u-ann-2", "ann", personal_of=("ann", "c2"))
            assert await unit.workspaces.personal_of("ann", "c1") == first
            assert await unit.workspaces.personal_of("ann", "c2") == second
        with pytest.raises(IntegrityError):
            async with store.write() as unit:
                await unit.workspaces.add("u-ann-3", "ann", personal_of=("ann", "c1"))

    async def test_members_by_name_and_group_have_the_highest_role_and_strangers_none(self, store: Store) -> None:
        made = await workspace(store, "demo")
        async with store.write() as unit:
            await unit.members.put(made.id, "user", "ann", "c", Role.VIEWER, "root")
            await unit.members.put(made.id, "group", "team", "", Role.EDITOR, "root")
            assert await unit.members.role_of(made.id, "ann", "c", ["team", "other"]) is Role.EDITOR
            assert await unit.members.role_of(made.id, "ann", "c", []) is Role.VIEWER
            assert await unit.members.role_of(made.id, "ann", "recreated", []) is None
            assert await unit.members.role_of(made.id, "team", "", []) is None
            assert await unit.workspaces.of_member("ann", "c", ["team"]) == [(made, Role.EDITOR)]
            assert await unit.workspaces.of_member("eve", "c", ["others"]) == []
            assert await unit.members.counts([made.id]) == {made.id: 2}


class TestLaunches:
    async def test_it_comes_back_as_it_went_in(self, store: Store) -> None:
        row = launch(await workspace(store, "demo"))
        async with store.write() as unit:
            await unit.launches.add(row)
        async with store.read() as unit:
            assert await unit.launches.get(row.id) == row
            assert await unit.launches.by_token("mac-1") == row

    async def test_reserved_running_ended_and_never_back(self, store: Store) -> None:
        made = await workspace(store, "demo")
        async with store.write() as unit:
            await unit.launches.add(launch(made))
            assert [await unit.launches.confirm("l-1"), await unit.launches.confirm("l-1")] == [True, False]
            assert [await unit.launches.end("l-1", "stopped"), await unit.launches.end("l-1", "again")] == [True, False]
            assert not await unit.launches.confirm("l-1")
            ended = await unit.launches.get("l-1")
        assert ended is not None and ended.status is LaunchStatus.ENDED and ended.ended_reason == "stopped"
        assert ended.token_mac is None and ended.started_at is not None and ended.ended_at is not None
        async with store.read() as unit:
            assert await unit.launches.by_token("mac-1") is None
            assert await unit.launches.active() == [] and await unit.launches.in_workspace(made.id) == []

    async def test_a_server_has_one_active_launch(self, store: Store) -> None:
        made = await workspace(store, "demo")
        async with store.write() as unit:
            await unit.launches.add(launch(made, 1))
            await unit.launches.end("l-1", "stopped")
            await unit.launches.add(launch(made, 2))
        with pytest.raises(IntegrityError):
            async with store.write() as unit:
                await unit.launches.add(launch(made, 3))

    async def test_what_is_active_is_found_by_an_index_however_many_have_ended(self, tmp_path: Path) -> None:
        store = await Store.open(url(tmp_path))  # Postgres chooses by its statistics, and an empty table has none
        async with store._engine.connect() as connection:
            query = "EXPLAIN QUERY PLAN SELECT * FROM launch WHERE status != 'ended' AND workspace_id = 'w'"
            plan = [row[-1] for row in await connection.exec_driver_sql(query)]
        await store.close()
        assert "ix_launch_active_workspace" in " ".join(plan)


class TestTransactions:
    async def test_an_exception_takes_everything_back(self, store: Store) -> None:
        with pytest.raises(RuntimeError):
            async with store.write() as unit:
                await unit.workspaces.add("demo", "ann")
                raise RuntimeError
        async with store.read() as unit:
            assert await unit.workspaces.by_name("demo") is None

    async def test_admissions_come_one_after_the_other_whoever_has_the_database_open(
        self, database_url: str, store: Store
    ) -> None:
        """The lock is the database's: a second service (a rolling update) waits for it too."""
        other = await Store.open(database_url)
        inside, most = 0, 0

        async def admit(through: Store) -> None:
            nonlocal inside, most
            async with through.write() as unit:
                inside += 1
                most = max(most, inside)
                await unit.launches.active()
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(admit(through) for through in (store, other) for _ in range(20)))
        await other.close()
        assert most == 1

    async def test_readers_do_not_wait_for_a_writer(self, store: Store) -> None:
        async with store.write() as unit:
            await unit.workspaces.add("demo", "ann")
            async with asyncio.timeout(2), store.read() as reader:
                assert await reader.workspaces.by_name("demo") is None

    async def test_an_event_with_an_unknown_field_is_a_mistake_of_ours(self, store: Store) -> None:
        with pytest.raises(KeyError):
            async with store.write() as unit:
                await unit.events.append("workspace_created", "ann", colour="red")


@pytest.fixture(scope="module")
def mortal() -> Iterator[Postgres]:
    """A Postgres that may be killed: what it has committed is on the disk."""
    programs = binaries()
    if programs is None:
        pytest.skip("Postgres is not installed (Debian: postgresql)")
    with running_postgres(programs, durable=True) as server:
        yield server


class TestADatabaseThatIsAway:
    async def test_is_said_as_such_until_it_is_back(self, mortal: Postgres) -> None:
        store = await Store.open(await mortal.database())
        try:
            await workspace(store, "demo")
            mortal.kill()
            with pytest.raises(MaestroError, match="does not answer; try again") as caught:
                async with store.write():
                    pytest.fail("a transaction without a database")
            assert caught.value.code == "service_unavailable"
            with pytest.raises(MaestroError, match="does not answer; try again"):
                async with store.read() as unit:
                    await unit.workspaces.every()
            await asyncio.to_thread(mortal.start)
            await workspace(store, "again")
        finally:
            await store.close()

    async def test_in_the_middle_of_a_transaction_too(self, mortal: Postgres) -> None:
        store = await Store.open(await mortal.database())
        try:
            with pytest.raises(MaestroError, match="does not answer; try again"):
                async with store.write() as unit:
                    mortal.kill()
                    while True:  # its child ends by itself, a moment later
                        await unit.workspaces.every()
            await asyncio.to_thread(mortal.start)
            await workspace(store, "demo")
        finally:
            await store.close()

    async def test_is_waited_for_at_the_start(self, mortal: Postgres) -> None:
        url = await mortal.database()
        mortal.kill()
        with pytest.raises(MaestroError, match="does not answer"):
            await Store.open(url)
        opening = asyncio.create_task(Store.open(url, patience=30))
        await asyncio.to_thread(mortal.start)
        await (await opening).close()


class TestOneProcess:
    async def test_a_second_one_is_told_to_go(self, tmp_path: Path) -> None:
        first = await Store.open(url(tmp_path), tmp_path / "lock")
        with pytest.raises(StoreLocked, match="stop it first"):
            await Store.open(url(tmp_path), tmp_path / "lock")
        await first.close()
        await (await Store.open(url(tmp_path), tmp_path / "lock")).close()

    async def test_what_was_committed_survives_kill_9_and_so_does_the_lock_not(self, tmp_path: Path) -> None:
        program = f"""
import asyncio, sys
from pathlib import Path
from maestro_hub_services.store import Store
async def main():
    store = await Store.open({url(tmp_path)!r}, Path({str(tmp_path / "lock")!r}))
    for number in range(10_000):
        async with store.write() as unit:
            await unit.workspaces.add(f"w{{number}}", "ann")
        print(number, flush=True)
asyncio.run(main())
"""
        child = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.strip() == "30":
                    break
        finally:
            child.send_signal(signal.SIGKILL)
        told = [30, *(int(line) for line in child.stdout if line.strip())]
        child.wait()
        store = await Store.open(url(tmp_path), tmp_path / "lock")
        async with store.read() as unit:
            kept = len(await unit.workspaces.every())
        await store.close()
        assert kept in (told[-1] + 1, told[-1] + 2)  # all that it told, and one at most that it did not come to tell


def test_rows_are_values() -> None:
    row = launch(WorkspaceRow("w", "n", "", False, None, None, 1, None, "a", now(), None, None))
    assert replace(row) == row


class TestEnvironments:
    async def test_versions_count_up_and_old_locks_go(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environments, "LOCKS_KEPT", 2)
        row = await workspace(store, "demo")
        package = LockedPackage(name="rich", version="13.2", hashes=("sha256:" + "0" * 64,))
        for number in (1, 2, 3):
            async with store.write() as unit:
                made = await unit.environments.add(row.id, number - 1, "ann", ["rich"], python_version="3.11")
                assert made.number == number
                await unit.environments.put_lock(made.id, "a", [package], complete=False)
                await unit.environments.put_lock(made.id, "a", [package], complete=number != 2)
        async with store.read() as unit:
            newest = await unit.environments.newest(row.id)
            assert newest is not None and newest.requirements == ("rich",) and newest.python_version == "3.11"
            versions = await unit.environments.history(row.id, 10)
            assert [version.number for version in versions] == [3, 2, 1]
            assert await unit.environments.targets([version.id for version in versions]) == {newest.id: ("a",)}
            assert await unit.environments.lock(versions[2].id, "a") is None  # older than what is kept
            kept = await unit.environments.nearest_lock(versions[1], "a")
            assert kept is not None and kept.packages == (package,) and not kept.complete
            assert await unit.environments.using("rich") == [row.id]
        async with store.write() as unit:
            other = await unit.workspaces.add("other", "ann")
            made = await unit.environments.add(other.id, 0, "ann", ["Rich_Click<3"])
            await unit.environments.put_lock(
                made.id, "a", [package.model_copy(update={"name": "pygments"})], complete=True
            )
        async with store.read() as unit:
            found = {
                name: await unit.environments.using(name) for name in ("rich", "rich-click", "pygments", "pyg%", "p")
            }
            there = [other.id]
            assert found == {"rich": [row.id], "rich-click": there, "pygments": there, "pyg%": [], "p": []}
        async with store.write() as unit:
            assert await unit.environments.forget_workspace(row.id) == 3
            assert await unit.environments.number(row.id) == 0
