"""Quotas that admins set at runtime: by the API and by the command, over the running service."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from maestro_hub_services.store import clock
from maestro_hub_services.workspaces.domain import admission
from notebooks.cli import main
from tests.workspaces_kit import World, ask, running_world

POLICY = """
profiles:
  - {name: small, cpu: 1, memory: 2Gi}
  - {name: gpu, cpu: 8, memory: 32Gi, gpu: 1}
quotas:
  everyone: {max_concurrent_notebooks: 3, max_gpu_per_notebook: 4, max_gpu_hours_per_month: 10}
  users: {bob: {max_gpu_per_notebook: 0}}
  pools: {groups: {ml: {max_gpu_total: 2}}}
"""
TODAY = f"{clock.now():%Y-%m-%d}"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state", POLICY) as made:
        made.hub.groups |= {"ml"}
        yield made


async def call(world: World, name: str, method: str, path: str, body: Any = None) -> httpx.Response:
    async with world.client(name) as client:
        return await client.request(method, path, json=body)


async def figure(world: World, limit: str, set_for: str) -> dict[str, Any]:
    found = (await call(world, "root", "GET", "/quotas")).json()["quotas"]
    return next(one for one in found if (one["limit"], one["set_for"]) == (limit, set_for))


async def events(world: World, kind: str) -> list[dict[str, Any]]:
    async with world.authority.store.read() as unit:
        return [{**event.fields, "actor": event.actor} for event in await unit.events.latest(kinds=[kind])]


class TestTheList:
    async def test_is_of_the_file_and_of_runtime_in_the_order_of_the_file(self, world: World) -> None:
        await call(world, "root", "PUT", "/quotas/max_cpu_total", {"level": "group", "name": "ml", "value": 32})
        found = (await call(world, "root", "GET", "/quotas")).json()["quotas"]
        assert [(one["set_for"], one["limit"], one["shown"], one["origin"]) for one in found] == [
            ("everyone", "max_concurrent_notebooks", "3", "maestro.yaml"),
            ("everyone", "max_gpu_per_notebook", "4", "maestro.yaml"),
            ("everyone", "max_gpu_hours_per_month", "10", "maestro.yaml"),
            ("group ml", "max_cpu_total", "32", f"root on {TODAY}"),
            ("user bob", "max_gpu_per_notebook", "0", "maestro.yaml"),
            ("the pool of group ml", "max_gpu_total", "2", "maestro.yaml"),
        ]

    @pytest.mark.parametrize(
        "method, path", [("GET", ""), ("GET", "/near"), ("PUT", "/max_cpu_total"), ("DELETE", "/x")]
    )
    async def test_is_for_admins(self, world: World, method: str, path: str) -> None:
        answer = await call(world, "ann", method, f"/quotas{path}", {"value": 1} if method == "PUT" else None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


class TestSetting:
    async def test_wins_over_the_file_from_the_next_decision_on_and_says_who_did(self, world: World) -> None:
        made = await call(world, "root", "PUT", "/quotas/max_concurrent_notebooks", {"value": 1})
        assert made.status_code == 200
        assert (made.json()["shown"], made.json()["file_shown"], made.json()["set_by"]) == ("1", "3", "root")
        await call(world, "ann", "POST", "/launches", {})
        refusal = (await call(world, "ann", "POST", "/launches", {"server_name": "more"})).json()["error"]
        assert f"max_concurrent_notebooks 1, set for everyone by root on {TODAY}" in refusal["message"]
        shown = (await call(world, "ann", "GET", "/workspaces/personal")).json()["servers"]
        assert shown == {"used": 1, "limit": 1}
        assert await events(world, "quota_set") == [
            {"level": "everyone", "name": "", "limit": "max_concurrent_notebooks", "value": 1, "was": None,
             "actor": "root"}
        ]  # fmt: skip

    async def test_taken_back_the_file_counts_again(self, world: World) -> None:
        await call(world, "root", "PUT", "/quotas/max_concurrent_notebooks", {"value": 1})
        await call(world, "root", "PUT", "/quotas/max_concurrent_notebooks", {"value": 2})
        assert (await events(world, "quota_set"))[0]["was"] == 1
        assert (await call(world, "root", "DELETE", "/quotas/max_concurrent_notebooks")).status_code == 204
        assert (await figure(world, "max_concurrent_notebooks", "everyone"))["origin"] == "maestro.yaml"
        (removed,) = await events(world, "quota_removed")
        assert (removed["was"], removed["actor"]) == (2, "root")
        again = await call(world, "root", "DELETE", "/quotas/max_concurrent_notebooks")
        assert (again.status_code, again.json()["error"]["code"]) == (404, "unknown_quota")

    async def test_a_users_name_is_the_hubs_and_a_stranger_is_refused(self, world: World) -> None:
        made = await call(world, "root", "PUT", "/quotas/max_gpu_total", {"level": "user", "name": "ANN", "value": 4})
        assert made.json()["set_for"] == "user ann"
        for level, name, code in (
            ("user", "nobody", "unknown_user"),
            ("group", "nobodies", "unknown_group"),
            ("group-pool", "nobodies", "unknown_group"),
            ("workspace", "nowhere", "unknown_workspace"),
        ):
            answer = await call(
                world, "root", "PUT", "/quotas/max_gpu_total", {"level": level, "name": name, "value": 4}
            )
            assert answer.json()["error"]["code"] == code

    @pytest.mark.parametrize(
        "limit, body, part",
        [
            ("max_gpus", {"value": 1}, "There is no limit 'max_gpus'; take one of: max_concurrent_notebooks"),
            ("max_gpu_total", {"value": 1.5}, "'1.5' is not an amount of gpu"),
            ("max_memory_total", {"value": "much"}, "'much' is not an amount of memory"),
            ("max_gpu_hours_per_month", {"value": -1}, "greater than or equal to 0"),
            ("max_gpu_hours_per_month", {"value": "nan"}, "less than or equal to"),
            ("max_gpu_total", {"value": True}, "write a number, or an amount like 64Gi"),
            ("max_gpu_total", {"value": 1, "level": "team"}, "There is no level 'team'"),
            ("max_gpu_total", {"value": 1, "level": "group"}, "say whose with its name"),
            ("max_gpu_total", {"value": 1, "name": "ann"}, "has no name; leave 'ann' out"),
            ("max_cpu_per_notebook", {"value": 1, "level": "pool"}, "The pool of everyone has no limit"),
        ],
    )
    async def test_a_mistake_is_one_sentence(self, world: World, limit: str, body: Any, part: str) -> None:
        answer = await call(world, "root", "PUT", f"/quotas/{limit}", body)
        assert answer.status_code == 400 and part in answer.json()["error"]["message"]

    async def test_limits_name_each_figure_with_what_is_in_use_and_left_and_who_set_it(self, world: World) -> None:
        await call(world, "root", "PUT", "/quotas/max_gpu_total", {"level": "user", "name": "ann", "value": 4})
        await call(world, "ann", "POST", "/launches", {"profile": "gpu"})
        shown = (await call(world, "ann", "GET", "/workspaces/personal/limits")).json()["limits"]
        by_name = {limit["name"]: limit for limit in shown}
        gpus = by_name["max_gpu_total"]
        assert (gpus["shown"], gpus["in_use_shown"], gpus["left_shown"]) == ("4", "1", "3")
        assert (gpus["source"], gpus["origin"], gpus["set_by"]) == ("user ann", f"root on {TODAY}", "root")
        assert by_name["max_gpu_hours_per_month"]["left_shown"] in ("9.9", "10")
        assert by_name["max_gpu_per_notebook"]["left"] is None


class TestNear:
    async def test_persons_workspaces_and_pools_the_nearest_first(self, world: World) -> None:
        people = [world.hub.add(name, "ml") for name in ("u1", "u2")]
        for person in people:
            await admission.plan(world.authority, ask(person, profile="gpu"))
        await call(world, "ann", "POST", "/workspaces", {"name": "demo"})
        await call(world, "root", "PUT", "/quotas/max_cpu_total", {"level": "workspace", "name": "demo", "value": 1})
        await call(world, "ann", "POST", "/launches", {"workspace": "demo"})
        await call(world, "root", "PUT", "/quotas/max_cpu_total", {"level": "group", "name": "ml", "value": 9})
        found = (await call(world, "root", "GET", "/quotas/near")).json()["near"]
        assert [(one["who"], one["limit"], one["in_use_shown"], one["shown"]) for one in found[:2]] == [
            ("workspace demo", "max_cpu_total", "1", "1"),
            ("group ml together", "max_gpu_total", "2", "2"),
        ]
        assert {one["who"]: one["share"] for one in found[2:]} == {"u1": 0.889, "u2": 0.889}


class TestTheCommand:
    async def run(self, world: World, *arguments: str) -> Result:
        environment = {"MAESTRO_URL": world.address, "MAESTRO_TOKEN": "token-of-root"}
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=environment)

    async def test_sets_lists_and_takes_back(self, world: World) -> None:
        made = await self.run(world, "quota", "set", "max_gpu_total", "8", "--group", "ml", "--pool")
        assert made.output == "max_gpu_total is 8 for the pool of group ml.\n"
        listed = json.loads((await self.run(world, "quota", "list", "--json")).output)
        assert listed[-1]["shown"] == "8" and listed[-1]["file_shown"] == "2"
        assert "the pool of group ml" in (await self.run(world, "quota", "list")).output
        assert (await self.run(world, "quota", "unset", "max_gpu_total", "--group", "ml", "--pool")).exit_code == 0
        assert (await figure(world, "max_gpu_total", "the pool of group ml"))["shown"] == "2"

    async def test_for_everyone_a_user_and_a_workspace(self, world: World) -> None:
        await call(world, "ann", "POST", "/workspaces", {"name": "demo"})
        for arguments, set_for in (
            ((), "everyone"),
            (("--user", "ann"), "user ann"),
            (("-w", "demo"), "workspace demo"),
            (("--pool",), "the pool of everyone"),
        ):
            made = await self.run(world, "quota", "set", "max_memory_total", "64Gi", *arguments)
            assert made.output == f"max_memory_total is 64 GiB for {set_for}.\n"

    async def test_refuses_in_a_sentence_with_its_exit_code(self, world: World) -> None:
        two = await self.run(world, "quota", "set", "max_gpu_total", "8", "--group", "ml", "--user", "ann")
        assert two.exit_code == 2 and "one of --user, --group, --workspace" in two.output
        assert (await self.run(world, "quota", "unset", "max_gpu_total")).exit_code == 3

    async def test_tells_who_is_near_a_limit(self, world: World) -> None:
        assert (await self.run(world, "quota", "near")).output == "Nobody has 80 % of a limit in use.\n"
        for number in range(3):
            await call(world, "ann", "POST", "/launches", {"server_name": f"s{number}"})
        assert "ann  max_concurrent_notebooks  3" in (await self.run(world, "quota", "near")).output
