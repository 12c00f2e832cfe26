"""A workspace from its YAML to its end: created, changed, archived, restored, purged, and nothing handed on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from maestro_core.names import home_directory_name
from maestro_hub_services.store import Place, clock
from maestro_hub_services.workspaces.domain import lifecycle
from tests.workspaces_kit import CREATED, POLICY_TEXT, World, running_world

NO_WAIT = POLICY_TEXT + "\nretention: {archived_days: 0}\n"
LATER = "2026-06-01T00:00:00.000000Z"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Where an archived workspace may be purged at once."""
    async with running_world(tmp_path / "state", NO_WAIT) as made:
        yield made


async def call(world: World, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
    async with world.client(who) as client:
        return await client.request(method, path, json=body)


async def create(world: World, name: str = "demo", **spec: Any) -> httpx.Response:
    return await call(world, "ann", "POST", "/workspaces", {"name": name, **spec})


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def launch(world: World, who: str = "ann", **ask: Any) -> Any:
    answer = await call(world, who, "POST", "/launches", {"workspace": "demo", **ask})
    assert answer.status_code == 201, answer.text
    return world.hub.servers[who, "demo"].plan


async def stop(world: World, plan: Any, who: str = "ann") -> None:
    assert (await call(world, who, "DELETE", f"/launches/{plan.launch_id}")).status_code == 200


class TestSettings:
    async def test_its_servers_get_its_amounts_and_its_variables(self, world: World) -> None:
        made = await create(world, resources={"cpu": 4, "memory": "8g"}, environment={"PYTHONPATH": "/workspace"})
        assert made.json()["settings"]["resources"]["cpu"] == 4
        plan = await launch(world)
        assert plan.resources.show() == "4 cpu, 8 GiB"
        assert json.loads(plan.environment["MAESTRO_KERNEL_ENV"]) == {"PYTHONPATH": "/workspace"}
        assert "PYTHONPATH" not in plan.environment, "the server itself imports nothing from the workspace"

    async def test_who_asks_for_something_else_gets_that(self, world: World) -> None:
        await create(world, resources={"cpu": 4, "memory": "8g"})
        plan = await launch(world, profile="small")
        assert plan.resources.show() == "1 cpu, 2 GiB"

    async def test_without_variables_there_is_no_such_thing(self, world: World) -> None:
        await create(world)
        assert "MAESTRO_KERNEL_ENV" not in (await launch(world)).environment

    async def test_a_variable_outside_the_list_is_refused_by_name(self, world: World) -> None:
        answer = await create(world, environment={"LD_PRELOAD": "/workspace/x.so"})
        assert code(answer) == (400, "invalid_request")
        assert "'LD_PRELOAD'" in answer.json()["error"]["message"]
        assert (await call(world, "ann", "GET", "/workspaces/demo")).status_code == 404, "nothing half-made"

    async def test_amounts_that_no_profile_covers_are_refused_at_once(self, world: World) -> None:
        assert code(await create(world, resources={"cpu": 64})) == (403, "profile_closed")

    async def test_a_disk_over_the_limit_is_refused(self, tmp_path: Path) -> None:
        policy = POLICY_TEXT.replace("everyone: {", "everyone: {max_storage_per_workspace: 10Gi, ")
        async with running_world(tmp_path / "state", policy) as world:
            answer = await create(world, resources={"disk": "20g"})
            assert code(answer) == (403, "quota_exceeded")
            assert (await create(world, resources={"disk": "5g"})).status_code == 201

    async def test_a_disk_is_what_its_files_may_take(self, world: World) -> None:
        await create(world, resources={"disk": "1g"})
        async with world.client("ann") as client:
            shown = (await client.get("/workspaces/demo/usage")).json()
            limits = {one["name"]: one for one in (await client.get("/workspaces/demo/limits")).json()["limits"]}
        assert (shown["storage_limit"], shown["storage_held"]) == (1024**3, False)
        storage = limits["max_storage_per_workspace"]
        assert (storage["source"], storage["origin"], storage["shown"]) == ("workspace demo", "its owners", "1 GiB")
        async with world.authority.store.write() as unit:
            row = await unit.workspaces.by_name("demo")
            await unit.workspaces.change(row.id, storage_used=2 * 1024**3)
        refused = await call(world, "ann", "POST", "/launches", {"workspace": "demo"})
        assert code(refused) == (403, "quota_exceeded")
        assert "max_storage_per_workspace 1 GiB, set for workspace demo by its owners" in refused.text

    async def test_its_settings_can_be_sent_back_as_they_came(self, world: World) -> None:
        spec = {
            "resources": {"cpu": 1, "memory": "1g", "disk": "1g"},
            "environment": {"python_version": "3.11", "MY_PLACE": "here"},
            "packages": ["numpy<3"],
            "security": {"blocked_packages": ["aiohttp"]},
        }
        settings = (await create(world, **spec)).json()["settings"]
        again = await call(world, "ann", "PATCH", "/workspaces/demo", settings)
        assert (again.status_code, again.json()["settings"]) == (200, settings)

    async def test_its_rules_for_packages_are_in_force(self, world: World) -> None:
        await create(world, security={"blocked_packages": ["aiohttp"], "trusted_channels": ["conda-forge"]})
        await create(world, "other")
        async with world.client("packages") as index:
            here = (await index.get("/policy/packages?workspace=demo")).json()
            there = (await index.get("/policy/packages?workspace=other")).json()
        assert [(rule["name"], rule["action"], rule["level"]) for rule in here["rules"]] == [
            ("aiohttp", "block", "workspace")
        ]
        assert here["channels"]["names"] == ["conda-forge"]
        assert there["rules"] == []

    async def test_changed_by_section(self, world: World) -> None:
        await create(world, resources={"cpu": 4, "memory": "8g"}, packages=["numpy"])
        changed = await call(world, "ann", "PATCH", "/workspaces/demo", {"packages": ["pandas<3"], "resources": None})
        assert changed.json()["settings"]["packages"] == ["pandas<3"]
        assert changed.json()["settings"] == {"packages": ["pandas<3"]}
        assert (await launch(world)).resources.show() == "1 cpu, 2 GiB"

    async def test_a_change_that_cannot_be_is_none(self, world: World) -> None:
        await create(world)
        for body, expected in (
            ({}, (400, "invalid_request")),
            ({"resources": {"cpu": 64}}, (403, "profile_closed")),
            ({"template": "no-such-thing"}, (404, "unknown_template")),
            ({"name": "other"}, (400, "invalid_request")),
        ):
            assert code(await call(world, "ann", "PATCH", "/workspaces/demo", body)) == expected
        assert code(await call(world, "eve", "PATCH", "/workspaces/demo", {"packages": []})) == (
            404,
            "unknown_workspace",
        )


class TestArchive:
    async def test_is_listed_and_restored_by_an_owner(self, world: World) -> None:
        await create(world, members=[{"user": "bob", "role": "editor"}])
        await call(world, "ann", "DELETE", "/workspaces/demo")
        listed = (await call(world, "ann", "GET", "/workspaces?archived=1")).json()["workspaces"]
        assert [(one["name"], one["archived_at"] is not None) for one in listed] == [("demo", True)]
        assert (await call(world, "bob", "GET", "/workspaces?archived=1")).json() == {"workspaces": []}
        assert code(await call(world, "bob", "POST", "/workspaces/demo/restore")) == (403, "forbidden")
        assert code(await call(world, "eve", "POST", "/workspaces/demo/restore")) == (404, "unknown_workspace")
        restored = await call(world, "ann", "POST", "/workspaces/demo/restore")
        assert (restored.status_code, restored.json()["archived_at"]) == (200, None)
        assert (await call(world, "bob", "GET", "/workspaces/demo")).json()["role"] == "editor"

    async def test_an_admin_lists_and_restores_any(self, world: World) -> None:
        await create(world)
        await call(world, "root", "DELETE", "/workspaces/demo")
        listed = (await call(world, "root", "GET", "/workspaces?all=1&archived=1")).json()["workspaces"]
        assert [one["name"] for one in listed] == ["demo"]
        assert (await call(world, "root", "POST", "/workspaces/demo/restore")).status_code == 200

    async def test_twice_is_as_once(self, world: World) -> None:
        await create(world)
        for method, path in (("DELETE", ""), ("DELETE", ""), ("POST", "/restore"), ("POST", "/restore")):
            assert (await call(world, "ann", method, f"/workspaces/demo{path}")).status_code in (200, 204)

    async def test_a_personal_one_goes_when_its_user_has_gone(self, world: World) -> None:
        (personal,) = (await call(world, "bob", "GET", "/workspaces")).json()["workspaces"]
        name = personal["name"]
        assert code(await call(world, "root", "DELETE", f"/workspaces/{name}")) == (409, "conflict")
        world.hub.add("bob", created=LATER)
        world.authority.hub._users.clear()
        assert (await call(world, "root", "DELETE", f"/workspaces/{name}")).status_code == 204
        report = await call(world, "root", "POST", f"/workspaces/{name}/purge")
        assert report.status_code == 202


def directories(world: World, workspace_id: str) -> tuple[Path, Path]:
    state = world.authority.settings.state
    home = state / "homes" / home_directory_name("ann", CREATED) / workspace_id
    return state / "workspaces" / workspace_id, home


async def tracking_removes(world: World, **counts: int) -> list[str]:
    """What the tracking service does every few seconds."""
    async with world.client("mlflow") as tracking:
        names = (await tracking.get("/authorize/purged")).json()["workspaces"]
        for name in names:
            answer = await tracking.post("/authorize/purged", json={"workspace": name, **counts})
            assert answer.status_code == 204
    return list(names)


async def purged(world: World) -> dict[str, Any]:
    """demo, archived and purged."""
    await call(world, "ann", "DELETE", "/workspaces/demo")
    begun = await call(world, "ann", "POST", "/workspaces/demo/purge")
    assert begun.status_code == 202, begun.text
    await tracking_removes(world, experiments=1, runs=7, models=2, bytes=4096)
    done = await call(world, "ann", "POST", f"/workspaces/{begun.json()['workspace_id']}/purge")
    assert done.status_code == 200, done.text
    return dict(done.json())


class TestPurge:
    async def test_removes_everything_and_says_what(self, world: World) -> None:
        workspace = (await create(world, members=[{"user": "bob", "role": "editor"}])).json()
        await call(world, "ann", "POST", "/workspaces/demo/invitations", {"user": "zoe"})
        plan = await launch(world)
        files, home = directories(world, workspace["workspace_id"])
        (files / "deep").mkdir()
        (files / "deep" / "data.csv").write_bytes(b"x" * 1000)
        (files / "link").symlink_to("/etc/passwd")
        (home / "note.txt").write_bytes(b"y" * 10)
        await stop(world, plan)
        async with world.authority.store.write() as unit:
            place = Place("workspace", "demo", workspace["workspace_id"])
            await unit.quotas.put(place, "max_concurrent_notebooks", 9, "root")

        report = await purged(world)
        assert report["state"] == "purged"
        removed = {one["what"]: one for one in report["removed"]}
        link = len("/etc/passwd")
        assert (removed["files"]["count"], removed["files"]["bytes"]) == (2, 1000 + link), "the link, not its target"
        assert (removed["files in private homes"]["count"], removed["files in private homes"]["bytes"]) == (1, 10)
        assert (removed["MLflow runs"]["count"], removed["MLflow runs"]["bytes"]) == (7, 4096)
        assert (removed["members"]["count"], removed["invitations"]["count"], removed["quotas"]["count"]) == (2, 1, 1)
        assert [(one["what"], one["why"]) for one in report["kept"]] == [("launches", "1 in the figures of budgets")]
        assert not files.exists() and not home.exists()
        assert Path("/etc/passwd").exists()
        async with world.authority.store.read() as unit:
            (event,) = await unit.events.latest(kinds=["workspace_purged"])
        assert event.actor == "ann" and "files: 2" in event.fields["removed"][0]

    async def test_waits_for_the_retention_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with running_world(tmp_path / "state") as world:
            await create(world)
            assert code(await call(world, "ann", "POST", "/workspaces/demo/purge")) == (409, "conflict")
            await call(world, "ann", "DELETE", "/workspaces/demo")
            early = await call(world, "ann", "POST", "/workspaces/demo/purge")
            assert code(early) == (409, "conflict") and "restore it" in early.json()["error"]["message"]
            assert code(await call(world, "root", "POST", "/workspaces/demo/purge")) == (409, "conflict")
            later = clock.now() + timedelta(days=31)
            monkeypatch.setattr(lifecycle, "now", lambda: later)
            assert (await call(world, "ann", "POST", "/workspaces/demo/purge")).status_code == 202

    async def test_is_for_owners_and_admins(self, world: World) -> None:
        await create(world, members=[{"user": "bob", "role": "editor"}])
        await call(world, "ann", "DELETE", "/workspaces/demo")
        assert code(await call(world, "bob", "POST", "/workspaces/demo/purge")) == (403, "forbidden")
        assert code(await call(world, "eve", "POST", "/workspaces/demo/purge")) == (404, "unknown_workspace")
        assert (await call(world, "root", "POST", "/workspaces/demo/purge")).status_code == 202

    async def test_the_name_is_taken_until_nothing_is_left(self, world: World) -> None:
        old = (await create(world)).json()
        await call(world, "ann", "DELETE", "/workspaces/demo")
        await call(world, "ann", "POST", "/workspaces/demo/purge")
        assert code(await create(world)) == (409, "name_taken")
        assert code(await call(world, "ann", "POST", "/workspaces/demo/restore")) == (409, "conflict")
        assert await tracking_removes(world) == ["demo"]
        new = await create(world)
        assert new.status_code == 201
        assert new.json()["workspace_id"] != old["workspace_id"]
        assert await tracking_removes(world) == [], "the new one's data is its own"

    async def test_the_next_one_of_the_name_inherits_nothing(self, world: World) -> None:
        old = (await create(world, members=[{"user": "bob", "role": "editor"}], resources={"cpu": 4})).json()
        plan = await launch(world, "bob")
        files, _ = directories(world, old["workspace_id"])
        (files / "secret.txt").write_text("old")
        await stop(world, plan, "bob")
        async with world.authority.store.write() as unit:
            place = Place("workspace", "demo", old["workspace_id"])
            await unit.quotas.put(place, "max_concurrent_notebooks", 9, "root")
        await purged(world)
        new = (await create(world)).json()
        assert code(await call(world, "bob", "GET", "/workspaces/demo")) == (404, "unknown_workspace")
        assert new["settings"] == {} and new["members"] == 1
        assert not list(directories(world, new["workspace_id"])[0].iterdir())
        limits = (await call(world, "ann", "GET", "/workspaces/demo/limits")).json()["limits"]
        assert 9 not in [limit["value"] for limit in limits]
        async with world.client("packages") as index:
            answer = await index.post("/policy/tokens", json={"token": plan.index_token})
        assert answer.status_code == 404
        usage = (await call(world, "ann", "GET", "/workspaces/demo/usage")).json()
        assert usage["month"] == {"cpu": 0, "gpu": 0} and usage["launches"] == []
        async with world.authority.store.read() as unit:
            gids = [row.gid for row in (await unit.workspaces.by_id(old["workspace_id"]),) if row is not None]
            made = await unit.workspaces.by_name("demo")
        assert made is not None and made.gid not in gids

    async def test_gids_are_never_handed_out_again(self, world: World) -> None:
        await create(world)
        async with world.authority.store.read() as unit:
            first = await unit.workspaces.by_name("demo")
        await purged(world)
        await create(world)
        async with world.authority.store.read() as unit:
            second = await unit.workspaces.by_name("demo")
        assert first is not None and second is not None and second.gid > first.gid

    async def test_hours_of_the_purged_still_count_for_their_user(self, world: World) -> None:
        await create(world)
        plan = await launch(world)
        await stop(world, plan)
        await purged(world)
        shown = (await call(world, "ann", "GET", f"/launches/{plan.launch_id}")).json()
        assert (shown["status"], shown["workspace"]) == ("ended", "demo")

    async def test_goes_on_after_a_restart(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Killed after the first piece."""
        async with running_world(tmp_path / "state", NO_WAIT) as world:
            workspace = (await create(world)).json()["workspace_id"]
            await call(world, "ann", "DELETE", "/workspaces/demo")
            monkeypatch.setattr(lifecycle, "_purge", _nothing)
            await call(world, "ann", "POST", "/workspaces/demo/purge")
            monkeypatch.undo()
            assert directories(world, workspace)[0].exists()
        async with running_world(tmp_path / "state", NO_WAIT) as world:
            await lifecycle.go_on(world.authority)
            assert not directories(world, workspace)[0].exists()
            assert await tracking_removes(world) == ["demo"]
            assert (await create(world)).status_code == 201

    async def test_what_cannot_be_removed_keeps_the_name(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        workspace = (await create(world)).json()["workspace_id"]
        await call(world, "ann", "DELETE", "/workspaces/demo")
        monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
        report = (await call(world, "ann", "POST", "/workspaces/demo/purge")).json()
        assert report["state"] == "purging" and "the files" in report["left"]
        await tracking_removes(world)
        assert code(await create(world)) == (409, "name_taken")
        monkeypatch.undo()
        await lifecycle.go_on(world.authority)
        assert not directories(world, workspace)[0].exists()
        assert (await create(world)).status_code == 201

    async def test_folders_without_the_right_to_write_go_too(self, world: World) -> None:
        workspace = (await create(world)).json()["workspace_id"]
        files, _ = directories(world, workspace)
        (files / "closed" / "inner").mkdir(parents=True)
        (files / "closed" / "inner" / "file").write_text("x")
        (files / "closed" / "inner").chmod(0o500)
        (files / "closed").chmod(0o500)
        assert (await purged(world))["state"] == "purged"
        assert not files.exists()

    async def test_where_there_is_no_mlflow_nothing_is_waited_for(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        object.__setattr__(world.authority.settings, "tracking", False)
        await create(world)
        await call(world, "ann", "DELETE", "/workspaces/demo")
        assert (await call(world, "ann", "POST", "/workspaces/demo/purge")).status_code == 200

    async def test_the_report_is_not_for_everybody(self, world: World) -> None:
        workspace = (await create(world)).json()["workspace_id"]
        await purged(world)
        assert (await call(world, "root", "POST", f"/workspaces/{workspace}/purge")).status_code == 200
        assert code(await call(world, "eve", "POST", f"/workspaces/{workspace}/purge")) == (404, "unknown_workspace")


async def _nothing(*_: Any) -> None:
    return None
