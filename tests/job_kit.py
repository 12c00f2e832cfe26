"""Jobs as tests see them: a runner that starts nothing, and workers that are the test itself."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import zstandard

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan
from maestro_core.snapshots import address_of, stripped
from maestro_hub_services.workspaces.domain import job_queue, job_watch
from maestro_hub_services.workspaces.runners import PATIENCE, Ended, JobAddress
from tests.workspaces_kit import API, POLICY_TEXT, World, running_world, until

NOTEBOOK = {
    "cells": [
        {"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "source": "lr = 1", "outputs": []},
        {"cell_type": "code", "id": "b", "metadata": {}, "source": "print(lr)", "outputs": []},
    ],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def packed(data: object) -> str:
    """As clients and workers send a notebook or script: zstd, base64."""
    text = data if isinstance(data, str) else json.dumps(data)
    return base64.b64encode(zstandard.ZstdCompressor().compress(text.encode())).decode()


@dataclass
class FakeRunner:
    """Remembers what it was asked; what runs ends when the test says so.

    Attributes:
        started: by launch id. states: as :meth:`look` answers. refuses: the next starts fail with this sentence.
        hold: starts take until it is set.
    """

    started: dict[str, tuple[LaunchPlan, JobAddress]] = field(default_factory=dict)
    states: dict[str, Ended | None] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    cleaned: list[str] = field(default_factory=list)
    refuses: str | None = None
    patience: float = PATIENCE
    hold: asyncio.Event | None = None

    async def start(self, plan: LaunchPlan, work: JobAddress) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.refuses:
            raise MaestroError("start_failed", self.refuses)
        self.started[plan.launch_id] = plan, work
        self.states[plan.launch_id] = None

    async def look(self) -> Mapping[str, Ended | None]:
        return dict(self.states)

    async def stop(self, launch_id: str, seconds: float) -> None:
        self.stopped.append(launch_id)
        self.states[launch_id] = Ended(143, "it was stopped")

    async def clean(self, launch_id: str) -> None:
        self.cleaned.append(launch_id)
        self.states.pop(launch_id, None)

    async def close(self) -> None:
        pass


@dataclass
class Jobs:
    """The service with ann's workspace ``demo``, in which bob is an editor; its loops turn when the test says so."""

    world: World
    runner: FakeRunner

    async def call(self, who: str, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        """One request of a person; its JSON."""
        async with self.world.client(who) as client:
            return await _answer(client, method, path, body, status)

    async def queue(self, who: str = "ann", *, status: int = 201, workspace: str = "demo", **spec: Any) -> Any:
        """Queue the notebook ``work/train.ipynb``, or what ``spec`` says."""
        if not {"notebook", "script"} & spec.keys():
            spec |= {"notebook": "work/train.ipynb", "content": packed(NOTEBOOK)}
        spec = {name: value for name, value in spec.items() if value is not None}
        return await self.call(who, "POST", f"workspaces/{workspace}/jobs", spec, status)

    async def job(self, job_id: str, who: str = "ann") -> Any:
        return await self.call(who, "GET", f"jobs/{job_id}", status=200)

    async def turn(self) -> None:
        """One turn of both loops, and the end of all starts and stops."""
        await job_queue.look(self.world.authority)
        await self.settled()
        await job_watch.watch(self.world.authority)
        await self.settled()

    async def settled(self) -> None:
        await until(lambda: not self.world.authority.board.tasks, "starts and stops are not over")

    async def worker(self, job_id: str) -> Worker:
        """The worker of the job's running attempt."""
        launch = (await self.job(job_id))["launch_id"]
        plan, address = self.runner.started[launch]
        return Worker(self, plan, address)


@dataclass
class Worker:
    """Speaks to the service as an attempt's worker does."""

    jobs: Jobs
    plan: LaunchPlan
    address: JobAddress

    async def call(self, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        async with self.jobs.world.client(token=self.address.token) as client:
            return await _answer(client, method, path, body, status)

    async def own(self, method: str, path: str, status: int | None = None, **body: Any) -> Any:
        """A call about its own job."""
        sent = {"attempt": self.address.attempt, **body} if body or method != "GET" else None
        return await self.call(method, f"jobs/{self.address.job_id}/{path}", sent, status)

    async def progress(self, phase: str = "running", cell: int = 0, cells: int = 0, **more: Any) -> bool:
        """A sign of life; whether it is to end."""
        answer = await self.own("POST", "progress", 200, phase=phase, cell=cell, cells=cells, **more)
        return bool(answer["cancel"])

    async def done(self, outcome: str = "succeeded", reason: str = "", **more: Any) -> None:
        await self.own("POST", "done", 204, outcome=outcome, reason=reason, **more)

    def exits(self, code: int = 0, reason: str = "it exited with 0") -> None:
        self.jobs.runner.states[self.plan.launch_id] = Ended(code, reason)


async def _answer(client: httpx.AsyncClient, method: str, path: str, body: Any, status: int | None) -> Any:
    answer = await client.request(method, f"{API}/{path}" if path.startswith("/") else path, json=body)
    assert status is None or answer.status_code == status, (answer.status_code, answer.text)
    return answer.json() if answer.content else None


@asynccontextmanager
async def running_jobs(state: Path, policy: str = POLICY_TEXT) -> AsyncIterator[Jobs]:
    """A service whose loops stand still."""
    runner = FakeRunner()
    async with running_world(state, policy, runner) as world:
        jobs = Jobs(world, runner)
        await jobs.call("ann", "POST", "workspaces", {"name": "demo", "members": [{"user": "bob"}]}, 201)
        yield jobs


async def save_notebook(jobs: Jobs, path: str, notebook: dict[str, Any], experiment: str | None = None) -> str:
    """A notebook server of ann's in ``demo`` saves a notebook; the address of that version."""
    options = {"workspace": "demo"} | ({"mlflow_experiment": experiment} if experiment else {})
    launch = await jobs.call("ann", "POST", "launches", options, 201)
    token = jobs.world.hub.server_token("ann", "demo")
    body = {"path": path, "address": address_of(notebook), "content": packed(stripped(notebook))}
    async with jobs.world.client(token=token) as client:
        answer = await client.post(f"launches/{launch['session_id']}/snapshots", json=body)
        assert answer.status_code == 200, answer.text
    await jobs.call("ann", "DELETE", f"launches/{launch['session_id']}", status=200)
    return str(body["address"])
