"""Runs of servers that have ended: MLflow learns of it, whatever became of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx
import mlflow
import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from maestro_hub_services.tracking.orphans import Orphans, end_runs, launches_of_active_runs
from tests.workspaces_kit import World, running_world


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> mlflow.MlflowClient:
    folder = tmp_path_factory.mktemp("mlflow")
    return mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.sqlite")


@pytest.fixture
def store(client: mlflow.MlflowClient) -> SqlAlchemyStore:
    return client._tracking_client.store  # type: ignore[no-any-return]


def run(client: mlflow.MlflowClient, launch: str) -> str:
    return str(client.create_run("0", tags={"maestro.launch": launch}).info.run_id)


def test_what_is_active_is_ended_with_the_reason_and_nothing_else(
    client: mlflow.MlflowClient, store: SqlAlchemyStore
) -> None:
    gone, finished, alive = run(client, "l-gone"), run(client, "l-gone"), run(client, "l-alive")
    client.set_terminated(finished)
    assert launches_of_active_runs(store) == ["l-alive", "l-gone"]
    assert end_runs(store, {"l-gone": "culled as idle"}) == 1
    ended = client.get_run(gone)
    assert ended.info.status == "KILLED" and ended.info.end_time
    assert ended.data.tags["maestro.reason"] == "the server ended: culled as idle"
    assert client.get_run(finished).info.status == "FINISHED"
    assert client.get_run(alive).info.status == "RUNNING"
    assert end_runs(store, {"l-gone": "again"}) == 0
    client.set_terminated(alive)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state") as world:
        async with world.client("ann") as ann:
            assert (await ann.post("workspaces", json={"name": "demo"})).is_success
        yield world


async def test_the_service_says_which_launches_have_ended(world: World) -> None:
    async with world.client("ann") as ann:
        ids = []
        for name in ("demo", "other"):
            started = await ann.post("launches", json={"workspace": "demo", "server_name": name})
            assert started.status_code == 201, started.text
            ids.append(started.json()["session_id"])
        assert (await ann.delete(f"launches/{ids[0]}")).is_success
        refused = await ann.post("authorize/ended", json={"launches": ids})
        assert refused.status_code == 403
    told: list[Mapping[str, str]] = []

    async def named() -> list[str]:
        return [*ids, "l-nobody-has", "' OR 1=1"]

    async def end(reasons: Mapping[str, str]) -> int:
        told.append(reasons)
        return len(reasons)

    async with httpx.AsyncClient() as client:
        api = world.client().base_url
        await Orphans(client, str(api), "token-of-mlflow", named, end).once()
    assert told == [{ids[0]: "stopped"}]
