"""The idle culler's arbiter: the service's word decides, and without it every server stays."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from maestro_hub_services.culler import Arbiter
from tests.workspaces_kit import API, World, running_world

HOUR = timedelta(hours=1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state") as made:
        yield made


def arbiter(world: World, token: str = "token-of-maestro-idle-culler") -> Arbiter:
    return Arbiter(world.address + API, token)


async def launched(world: World) -> None:
    async with world.client("ann") as client:
        await client.post("/workspaces", json={"name": "demo"})
        assert (await client.post("/launches", json={"workspace": "demo"})).status_code == 201


async def test_a_server_is_asked_about_by_the_hubs_name_for_it(world: World) -> None:
    await launched(world)
    ask = arbiter(world)
    server = {"full_name": "ann/demo", "name": "demo"}
    # it came up just now, so it is not idle, whatever the Hub has seen
    assert not await ask(inactive=24 * HOUR, inactive_limit=3600, server=server)
    assert not await ask(inactive=None, inactive_limit=3600, server={"full_name": "bob/", "name": ""})


@pytest.mark.parametrize("token", ["token-of-ann", "token-of-mlflow", "guessed"])
async def test_nobody_elses_token_counts(world: World, token: str) -> None:
    server = {"full_name": "ann/demo", "name": "demo"}
    assert not await arbiter(world, token)(inactive=24 * HOUR, inactive_limit=60, server=server)


async def test_without_the_service_every_server_stays_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    ask = Arbiter("http://127.0.0.1:1/api", "token")
    with caplog.at_level(logging.WARNING, "maestro.culler"):
        for name in ("a", "b", "c"):
            server = {"full_name": f"ann/{name}", "name": name}
            assert not await ask(inactive=24 * HOUR, inactive_limit=60, server=server)
    assert len(caplog.records) == 1
    assert "token" not in caplog.text
