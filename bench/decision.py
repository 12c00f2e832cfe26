"""How long a decision on a launch takes: ``python -m bench.decision [-n 500]``.

A store with 1,000 users, 200 workspaces, 10,000 past launches of this month and 300 that run, on sqlite (the default of
one machine) and on Postgres (with its ordinary durability; skipped where it is not installed). A decision is the whole
transaction, from the question to the commit: who the user is in the workspace, which profile, every quota that applies,
the reservation, its event. It is measured under the quotas of our own ``maestro.yaml``, and under as many as can be set
(totals, and budgets of a month, for persons, workspaces, groups and pools, each with a figure of runtime).

Measures (goals for the machine that is named): on sqlite with our own quotas p50 at most 3 ms and p99 at most 15 ms;
listing 200 workspaces for a member at most 20 ms (median).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, insert

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.launch import machine  # noqa: E402
from maestro_core.budget import month_of  # noqa: E402
from maestro_core.errors import MaestroError  # noqa: E402
from maestro_core.launches import LaunchStatus, PlanRequest  # noqa: E402
from maestro_core.workspaces import UserRef  # noqa: E402
from maestro_hub_services.settings import Settings  # noqa: E402
from maestro_hub_services.store import Place, tables  # noqa: E402
from maestro_hub_services.store.clock import now  # noqa: E402
from maestro_hub_services.workspaces.app import open_authority  # noqa: E402
from maestro_hub_services.workspaces.authority import Authority  # noqa: E402
from maestro_hub_services.workspaces.domain import admission, workspaces  # noqa: E402
from maestro_hub_services.workspaces.identity import MANAGE, USE, Caller  # noqa: E402
from tests.postgres import binaries, running_postgres  # noqa: E402

RESULT = ROOT / "bench/results/decision.json"
USERS, WORKSPACES, PAST, RUNNING, GROUPS = 1000, 200, 10_000, 300, 20
P50, P99, LISTING = 3.0, 15.0, 20.0
CREATED = "2026-01-01T00:00:00.000000Z"
#: as many figures as can hold for one launch, all of them far away
EVERYTHING = """
quotas:
  everyone: &all {max_concurrent_notebooks: 1000, max_cpu_per_notebook: 16, max_memory_per_notebook: 64Gi,
    max_gpu_per_notebook: 4, max_cpu_total: 10000, max_memory_total: 100Ti, max_gpu_total: 1000,
    max_cpu_hours_per_month: 1000000, max_gpu_hours_per_month: 1000000, max_storage_per_workspace: 100Gi}
  groups: {%(groups)s}
  pools:
    everyone: &pool {max_concurrent_notebooks: 1000, max_cpu_total: 10000, max_memory_total: 100Ti,
      max_gpu_total: 1000, max_cpu_hours_per_month: 1000000, max_gpu_hours_per_month: 1000000}
    groups: {%(pools)s}
  workspaces: {%(workspaces)s}
"""


@dataclass(frozen=True)
class Scene:
    """One measured case."""

    database: str
    quotas: str


def person(number: int) -> UserRef:
    """A user, in three of the groups."""
    groups = {f"g{(number * step) % GROUPS}" for step in (1, 7, 11)}
    return UserRef(name=f"user{number}", created=CREATED, groups=tuple(sorted(groups)))


def policy_of(quotas: str) -> str:
    """The policy's text: our own ``maestro.yaml``, or our profiles under as many figures as there can be."""
    own = (ROOT / "maestro.yaml").read_text()
    if quotas == "own":
        return own
    groups = ", ".join(f"g{number}: *all" for number in range(GROUPS))
    places = ", ".join(f"ws{number}: *pool" for number in range(WORKSPACES))
    everything = EVERYTHING % {"groups": groups, "pools": groups.replace("*all", "*pool"), "workspaces": places}
    return own[: own.index("\nquotas:")] + everything


@asynccontextmanager
async def opened(folder: Path, quotas: str, url: str) -> AsyncIterator[Authority]:
    """The service's domain on a store that is filled."""
    state = folder / "state"
    state.mkdir(parents=True)
    (state / "maestro.yaml").write_text(policy_of(quotas))
    address = "http://127.0.0.1:1"
    settings = Settings(
        state=state, policy=state / "maestro.yaml", host="127.0.0.1", port=0, public_url=f"{address}/",
        service_url=address, mlflow_url=address, index_url=address, provider="local", hub_api_url=address,
        hub_api_token="none", base_url="/", prefix="/services/workspaces/", store_db=url,
    )  # fmt: skip
    async with open_authority(settings) as authority:
        await fill(authority, quotas)
        yield authority


async def fill(authority: Authority, quotas: str) -> None:
    """Users by their memberships, workspaces, launches with their charges and groups, figures of runtime."""
    dice, moment = random.Random(1), now()
    spaces = [
        {"id": f"w-{n}", "name": f"ws{n}", "description": f"Workspace {n} of the benchmark", "personal": False,
         "gid": 200_000 + n, "created_by": "user0", "created_at": moment}
        for n in range(WORKSPACES)
    ]  # fmt: skip
    members = [
        {"workspace_id": f"w-{n}", "kind": "user", "name": f"user{who}", "created": CREATED, "role": "editor",
         "added_by": "user0", "added_at": moment}
        for n in range(WORKSPACES)
        for who in {0, *dice.sample(range(USERS), 20)}
    ]  # fmt: skip
    members += [
        {"workspace_id": f"w-{n}", "kind": "group", "name": f"g{n % GROUPS}", "created": "", "role": "viewer",
         "added_by": "user0", "added_at": moment}
        for n in range(WORKSPACES)
    ]  # fmt: skip
    start = month_of(moment).start
    passed = (moment - start).total_seconds()
    launches, charges, groups = [], [], []
    for n in range(PAST + RUNNING):
        who, over = person(dice.randrange(USERS)), n < PAST
        place, gpu = f"w-{dice.randrange(WORKSPACES)}", int(dice.random() < 0.1)
        began = start + timedelta(seconds=dice.uniform(0, passed * 0.9))
        ended = min(moment, began + timedelta(hours=dice.uniform(0.1, 9))) if over else None
        launches.append({
            "id": f"l-{n}", "kind": "server", "workspace_id": place, "user": who.name, "user_created": CREATED,
            "server_name": f"s{n}", "role": "editor", "profile": "medium", "cpu": 2.0, "memory": 8 * 1024**3,
            "gpu": gpu, "experiment": "e", "default_url": "/lab", "created_at": began, "started_at": began,
            "ended_at": ended, "status": (LaunchStatus.ENDED if over else LaunchStatus.RUNNING).value,
            "token_mac": None if over else f"m{n}",
        })  # fmt: skip
        charges.append({
            "launch_id": f"l-{n}", "workspace_id": place, "user": who.name, "user_created": CREATED, "cpu": 2.0,
            "gpu": gpu, "began": began.timestamp(), "ended": None if ended is None else ended.timestamp(),
        })  # fmt: skip
        groups += [{"launch_id": f"l-{n}", "group_name": name} for name in who.groups]
    async with authority.store._begin.begin() as connection:
        for table, rows in (
            (tables.workspace, spaces), (tables.member, members), (tables.launch, launches), (tables.charge, charges),
            (tables.launch_group, groups),
        ):  # fmt: skip
            for at in range(0, len(rows), 1000):
                await connection.execute(insert(table), rows[at : at + 1000])
        if not authority.store._sqlite:
            await connection.exec_driver_sql("ANALYZE")
    if quotas == "every":
        async with authority.store.write() as unit:
            for n in range(100):
                await unit.quotas.put(Place("user", f"user{n}", CREATED), "max_cpu_total", 9000, "root")
    for n in range(USERS):  # whoever launches has a personal workspace by then
        async with authority.store.write() as unit:
            await admission.ensure_personal(unit, person(n))


@dataclass
class Decisions:
    """What decisions took, each: milliseconds on the clock, of this process's own CPU, and statements of SQL."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    statements: list[int] = field(default_factory=list)


async def decisions(authority: Authority, count: int) -> Decisions:
    """So many decisions, each taken back afterwards; the first 20 are left out."""
    dice = random.Random(2)
    async with authority.store.read() as unit:
        homes = [(await unit.workspaces.of_member(f"user{n}", CREATED, ()))[0][0].name for n in range(USERS)]
    took, statements = Decisions(), 0

    @event.listens_for(authority.store._engine.sync_engine, "after_cursor_execute")
    def count_one(*_: Any) -> None:
        nonlocal statements
        statements += 1

    for number in range(count + 20):
        n = dice.randrange(USERS)
        ask = {"workspace": homes[n], "profile": "medium"}
        request = PlanRequest(user=person(n), server_name=f"bench{number}", ask=ask)
        began, cpu, statements = time.perf_counter(), time.process_time(), 0
        try:
            admitted = await admission.decide(authority, request, f"mac-{number}")
        except MaestroError as refusal:  # who has three already; its event is written too
            if refusal.code != "quota_exceeded":
                raise
            admitted = None
        if number >= 20:
            took.wall.append((time.perf_counter() - began) * 1000)
            took.cpu.append((time.process_time() - cpu) * 1000)
            took.statements.append(statements)
        if admitted is not None:
            await admission.release(authority, admitted.launch.id, "measured")
    return took


async def listings(authority: Authority, count: int) -> list[float]:
    """Milliseconds of so many lists of 200 workspaces."""
    caller = Caller("user0", person(0), frozenset({USE, MANAGE}))
    took = []
    for _ in range(count + 5):
        began = time.perf_counter()
        found = await workspaces.list_workspaces(authority, caller)
        took.append((time.perf_counter() - began) * 1000)
        if len(found.workspaces) < WORKSPACES:
            raise SystemExit(f"Only {len(found.workspaces)} workspaces were listed.")
    return took[5:]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    named = {"min": min(values), "p25": cuts[24], "p50": cuts[49], "p75": cuts[74], "p99": cuts[98], "max": max(values)}
    return {name: round(value, 3) for name, value in named.items()}


async def measure(scene: Scene, url: str, count: int) -> dict[str, Any]:
    """One case."""
    with tempfile.TemporaryDirectory(prefix="maestro-bench-") as folder:
        async with opened(Path(folder), scene.quotas, url) as authority:
            took = await decisions(authority, count)
            listed = await listings(authority, max(20, count // 10))
    figures = {
        "decision_ms": spread(took.wall),
        "decision_cpu_ms": spread(took.cpu),  # of the service alone, whatever else the machine does
        "statements": round(statistics.median(took.statements)),  # with BEGIN or the lock, without COMMIT
        "listing_ms": spread(listed),
    }
    return {**vars(scene), **figures}


@contextlib.contextmanager
def databases() -> Iterator[dict[str, Any]]:
    """What makes an empty database, by kind."""

    async def sqlite() -> str:
        return ""

    programs = binaries()
    with contextlib.ExitStack() as stack:
        found: dict[str, Any] = {"sqlite": sqlite}
        if programs is None:
            print("Postgres is not installed (Debian: postgresql), so it is left out.")
        else:
            found["postgres"] = stack.enter_context(running_postgres(programs, durable=True)).database
        yield found


async def run(count: int) -> list[dict[str, Any]]:
    """Every case."""
    results = []
    with databases() as kinds:
        for database, make in kinds.items():
            for quotas in ("own", "every"):
                result = await measure(Scene(database, quotas), await make(), count)
                results.append(result)
                decision, listing = result["decision_ms"], result["listing_ms"]
                figures = (
                    f"p50 {decision['p50']:.2f} (cpu {result['decision_cpu_ms']['p50']:.2f}), "
                    f"p99 {decision['p99']:.2f} ms, {result['statements']} statements; listing {listing['p50']:.1f} ms"
                )
                print(f"  {database:8} {quotas:5} quotas: decision {figures}", flush=True)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write :data:`RESULT`; 0 if the goals hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.decision", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", "--count", type=int, default=500, help="decisions in each case (500)")
    options = parser.parse_args(arguments)
    before = machine()
    print(f"{USERS} users, {WORKSPACES} workspaces, {PAST} past launches, {RUNNING} running ...", flush=True)
    results = asyncio.run(run(options.count))
    first = results[0]
    goals = {
        "decision_p50_ms": [first["decision_ms"]["p50"], P50],
        "decision_p99_ms": [first["decision_ms"]["p99"], P99],
        "listing_p50_ms": [first["listing_ms"]["p50"], LISTING],
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    everything = {
        "made_by": f"python -m bench.decision -n {options.count}",
        "machine": before,
        "store": {"users": USERS, "workspaces": WORKSPACES, "past_launches": PAST, "running": RUNNING},
        "measured_and_asked": goals,
        "cases": results,
    }
    RESULT.write_text(json.dumps(everything, indent=2) + "\n")
    print(f"written to {RESULT.relative_to(ROOT)}")
    return 0 if all(measured <= asked for measured, asked in goals.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
