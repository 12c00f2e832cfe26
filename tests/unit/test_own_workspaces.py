"""How many workspaces a person may make: counted under the admission lock, shown by `limits`, set like every figure."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic import command
from sqlalchemy import create_engine, text

from maestro_core.errors import MaestroError
from maestro_core.policy import parse_policy
from maestro_hub_services.store.migrate import alembic_config
from tests.workspaces_kit import CREATED, World, running_world

POLICY = """
profiles: [{name: small, cpu: 1, memory: 2Gi}]
quotas:
  everyone: {max_workspaces_per_user: 3}
  groups: {teachers: {max_workspaces_per_user: 5}}
retention: {archived_days: 0}
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state", POLICY) as made:
        yield made


async def call(world: World, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
    async with world.client(who) as client:
        return await client.request(method, path, json=body)


async def make(world: World, name: str, who: str = "ann") -> httpx.Response:
    return await call(world, who, "POST", "/workspaces", {"name": name})


async def made(world: World, *names: str, who: str = "ann") -> None:
    for name in names:
        answer = await make(world, name, who)
        assert answer.status_code == 201, answer.text


async def refused(world: World, name: str, who: str = "ann") -> dict[str, Any]:
    answer = await make(world, name, who)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "quota_exceeded"), answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


async def figure(world: World, who: str = "ann") -> dict[str, Any]:
    limits = (await call(world, who, "GET", "/workspaces/personal/limits")).json()["limits"]
    found: dict[str, Any] = next(one for one in limits if one["name"] == "max_workspaces_per_user")
    return found


async def test_one_too_many_is_refused_and_says_the_limit_and_what_to_do(world: World) -> None:
    await made(world, "one", "two", "three")
    error = await refused(world, "four")
    assert error["message"] == (
        "You have made 3 of 3 workspaces (max_workspaces_per_user 3, set for everyone); archive and purge one that "
        "nobody needs, or ask an admin for more."
    )
    assert (error["details"]["limit"], error["details"]["in_use"], error["details"]["value"]) == (
        "max_workspaces_per_user", 3, 3,
    )  # fmt: skip
    volumes = {path.name for path in (world.authority.settings.state / "workspaces").iterdir()}
    async with world.authority.store.read() as unit:
        assert volumes <= {row.id for row in await unit.workspaces.every()}, "no volume is made for it"


async def test_twelve_at_once_make_three(world: World) -> None:
    answers = await asyncio.gather(*(make(world, f"lab-{number}") for number in range(12)))
    assert Counter(answer.status_code for answer in answers) == {201: 3, 403: 9}
    volumes = list((world.authority.settings.state / "workspaces").iterdir())
    assert len(volumes) == 3, "those that were refused left none"


async def test_limits_show_it_and_who_set_it_and_a_start_does_not_speak_of_it(world: World) -> None:
    await made(world, "one", "two")
    shown = await figure(world)
    assert (shown["value"], shown["in_use"], shown["left"], shown["source"]) == (3, 2, 1, "everyone")
    left = (await call(world, "ann", "GET", "/profiles?workspace=personal")).json()["left"]
    assert not any("workspaces" in sentence for sentence in left)


async def test_archived_ones_count_until_they_are_purged(world: World) -> None:
    await made(world, "one", "two", "three")
    await call(world, "ann", "DELETE", "/workspaces/one")
    await refused(world, "four")
    begun = await call(world, "ann", "POST", "/workspaces/one/purge")
    await call(world, "mlflow", "POST", "/authorize/purged", {"workspace": "one"})
    done = await call(world, "ann", "POST", f"/workspaces/{begun.json()['workspace_id']}/purge")
    assert done.status_code == 200, done.text
    await made(world, "four")


async def test_it_counts_for_who_made_it_whoever_owns_it_now(world: World) -> None:
    await made(world, "one", "two", "three")
    await call(world, "ann", "POST", "/workspaces/one/transfer", {"user": "bob"})
    await refused(world, "four")
    assert (await figure(world, "bob"))["in_use"] == 0


async def test_a_group_and_a_figure_of_runtime_give_more(world: World) -> None:
    await made(world, "one", "two", "three")
    world.hub.move("ann", "teachers")
    world.authority.hub._users.clear()  # five seconds later
    await made(world, "four", "five")
    assert (await refused(world, "six"))["details"]["source"] == "group teachers"
    body = {"level": "user", "name": "ann", "value": 6}
    assert (await call(world, "root", "PUT", "/quotas/max_workspaces_per_user", body)).is_success
    await made(world, "six")
    near = (await call(world, "root", "GET", "/quotas/near")).json()["near"]
    assert [(one["who"], one["in_use_shown"], one["shown"]) for one in near] == [("ann", "6", "6")]


async def test_who_comes_later_under_the_name_begins_anew(world: World) -> None:
    await made(world, "one", "two", "three")
    world.hub.add("ann", created="2027-01-01T00:00:00.000000Z")
    world.authority.hub._users.clear()
    await made(world, "four")


async def test_a_workspace_or_pool_has_no_such_limit(world: World) -> None:
    await made(world, "one")
    for level, name in (("workspace", "one"), ("pool", "")):
        body = {"level": level, "name": name, "value": 6}
        answer = await call(world, "root", "PUT", "/quotas/max_workspaces_per_user", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    with pytest.raises(MaestroError, match=r"max_workspaces_per_user"):
        parse_policy("quotas: {workspaces: {demo: {max_workspaces_per_user: 3}}}")


def test_those_that_were_there_before_count_for_their_creators(tmp_path: Path) -> None:
    with create_engine(f"sqlite:///{tmp_path / 'old.sqlite'}").begin() as database:
        command.upgrade(alembic_config(database), "0003")
        for number, (name, by, personal) in enumerate((("a", "ann", 0), ("b", "gone", 0), ("c", "ann", 1))):
            database.execute(
                text(
                    "INSERT INTO workspace (id, name, description, personal, gid, created_by, created_at) "
                    f"VALUES ('w-{name}', '{name}', '', {personal}, {number}, '{by}', '2026-01-01 00:00:00')"
                )
            )
        for name in ("a", "c"):
            database.execute(
                text(
                    "INSERT INTO member (workspace_id, kind, name, created, role, added_by, added_at) "
                    f"VALUES ('w-{name}', 'user', 'ann', '{CREATED}', 'owner', 'ann', '2026-01-01 00:00:00')"
                )
            )
        command.upgrade(alembic_config(database), "head")
        found = database.execute(text("SELECT name, creator_created FROM workspace ORDER BY name")).all()
    assert [tuple(row) for row in found] == [("a", CREATED), ("b", None), ("c", CREATED)]
