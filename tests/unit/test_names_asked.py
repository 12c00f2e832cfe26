"""Whether a package exists: somebody's command asks the service, the index's service looks, and both are quick."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from maestro_hub_services.packages.authority import Authority
from maestro_hub_services.packages.index import Index
from maestro_hub_services.packages.names import answer_for_ever
from maestro_hub_services.packages.pip_config import PipConfig
from maestro_hub_services.workspaces import names_asked
from tests import package_kit as kit
from tests.unit.test_environments import call, maestro
from tests.workspaces_kit import POLICY_TEXT, World, running_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with kit.upstream_and_authority() as (upstream, _):
        upstream.add("small-model", "1.0")
        text = f"{POLICY_TEXT}\npackages: {{approval_required: [sma1l-model2, small-model]}}\n"
        async with running_world(tmp_path / "state", text) as made:
            assert (await call(made, "ann", "POST", "/workspaces", {"name": "demo"})).status_code == 201
            async with index_of(made, upstream, tmp_path):
                yield made


@contextlib.asynccontextmanager
async def index_of(world: World, upstream: kit.Upstream, folder: Path) -> AsyncIterator[None]:
    """The index's service, as far as it answers such questions."""

    async def read_config() -> PipConfig:
        return PipConfig(indexes=(upstream.url,))

    authority = Authority(f"{world.address}/services/workspaces/api/v1/jupyter", "token-of-packages")
    index = Index(authority, folder / "packages", "/", read_config)
    await index.open()
    answering = asyncio.create_task(answer_for_ever(authority, index))
    try:
        for _ in range(500):
            if world.authority.names._listened:
                break
            await asyncio.sleep(0.01)
        yield
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        await index.close()


async def test_a_name_that_nobody_has_is_refused_at_once(world: World) -> None:
    code, told = await asyncio.wait_for(maestro(world, "install", "demo", "does-not-exist"), 5)
    sentence = "Error: There is no package does-not-exist at the index behind this one; check the spelling."
    assert code == 3 and told.startswith(sentence)
    code, told = await maestro(world, "check-package", "reqeusts", "demo")
    assert code == 3 and told.endswith("at the index behind this one; did you mean requests?")
    code, told = await maestro(world, "request", "demo", "sma1l-model2")
    assert code == 3, "no reviewer looks for what is not there"
    assert (await call(world, "ann", "GET", "/requests")).json()["requests"] == []
    code, told = await maestro(world, "request", "demo", "small-model")
    assert code == 0 and "A reviewer is asked" in told


async def test_what_is_there_is_taken_and_who_is_no_member_learns_nothing(world: World) -> None:
    await call(world, "ann", "PATCH", "/workspaces/demo", {"security": {}})
    assert (await maestro(world, "check-package", "does-not-exist", "demo", who="eve"))[1].startswith(
        "Error: There is no workspace"
    )


async def test_nobody_waits_for_an_index_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = names_asked.NamesAsked()
    assert await asyncio.wait_for(asked.exists("demo", "x"), 1) is None, "it has never listened"
    await asked.wait(0)
    monkeypatch.setattr(names_asked, "PATIENCE", 0.05)
    assert await asyncio.wait_for(asked.exists("demo", "x"), 1) is None, "it does not answer"
    assert asked._waiting == {}
