"""Totals, budgets and pools in the decision: no number of askers at the same moment gets past one, on any database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from maestro_core.errors import MaestroError
from maestro_core.launches import FormRequest, LaunchPlan
from maestro_core.roles import Role
from maestro_core.room import Node
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import Place, clock
from maestro_hub_services.workspaces.app import open_authority
from maestro_hub_services.workspaces.authority import Authority
from maestro_hub_services.workspaces.domain import admission, forms, launches
from tests.workspaces_kit import CREATED, ask, person, settings_for, user

ANN, BOB = user("ann"), user("bob")
PROFILES = """
profiles:
  - {name: small, cpu: 1, memory: 2Gi}
  - {name: large, cpu: 8, memory: 32Gi}
  - {name: gpu, cpu: 8, memory: 32Gi, gpu: 1}
"""
Opened = Callable[[str], Awaitable[Authority]]


@pytest.fixture
async def opened(tmp_path: Path, database_url: str) -> AsyncIterator[Opened]:
    """The service's domain under the quotas that a test writes."""
    async with AsyncExitStack() as stack:

        async def open_with(quotas: str) -> Authority:
            made = open_authority(settings_for(tmp_path / "state", policy=PROFILES + quotas, store_db=database_url))
            return await stack.enter_async_context(made)

        yield open_with


async def make(authority: Authority, name: str, *groups: str) -> str:
    """A workspace of ann's in which these Hub groups are editors."""
    async with authority.store.write() as unit:
        row = await unit.workspaces.add(name, "ann")
        await unit.members.put(row.id, "user", "ann", CREATED, Role.OWNER, "ann")
        for group in groups:
            await unit.members.put(row.id, "group", group, "", Role.EDITOR, "ann")
        return row.id


async def plan(authority: Authority, who: UserRef, server: str = "", **options: Any) -> LaunchPlan:
    return await admission.plan(authority, ask(who, server, **options))


async def refused(authority: Authority, who: UserRef, server: str = "", **options: Any) -> MaestroError:
    with pytest.raises(MaestroError) as caught:
        await plan(authority, who, server, **options)
    assert caught.value.code == "quota_exceeded", caught.value.message
    async with authority.store.read() as unit:
        (event,) = await unit.events.latest(limit=1)
    assert event.kind == "launch_refused" and event.user == who.name
    assert event.fields["limit"] == caught.value.details["limit"]
    assert event.fields["message"] == caught.value.message and event.fields["limit"] in caught.value.message
    return caught.value


async def override(authority: Authority, place: Place, limit: str, value: float) -> None:
    async with authority.store.write() as unit:
        await unit.quotas.put(place, limit, value, "root")


class TestAtTheSameMoment:
    async def test_200_launches_by_40_people_of_a_group_with_8_gpus_admit_8(self, opened: Opened) -> None:
        """Whatever workspace each names: the group's pool counts them together."""
        authority = await opened("quotas: {pools: {groups: {ml: {max_gpu_total: 8}}}}")
        names = [f"lab-{number}" for number in range(5)]
        for name in names:
            await make(authority, name, "ml")
        people = [user(f"p{number}", "ml", "all") for number in range(40)]
        asked = [plan(authority, people[number % 40], names[number // 40], profile="gpu") for number in range(200)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        admitted = [one for one in outcomes if isinstance(one, LaunchPlan)]
        refusals = [one for one in outcomes if isinstance(one, MaestroError)]
        assert (len(admitted), len(refusals)) == (8, 192)
        assert sum(one.resources.gpu for one in admitted) == 8
        assert {one.details["limit"] for one in refusals} == {"max_gpu_total"}
        assert all("max_gpu_total 8, set for the pool of group ml" in one.message for one in refusals)
        async with authority.store.read() as unit:
            events = await unit.events.latest(limit=500)
        kinds = Counter(event.kind for event in events)
        assert (kinds["launch_reserved"], kinds["launch_refused"]) == (8, 192)
        assert {e.fields["limit"] for e in events if e.kind == "launch_refused"} == {"max_gpu_total"}

    async def test_50_launches_at_3_servers_and_5_cpu_admit_what_fits_both(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_concurrent_notebooks: 30, max_cpu_total: 5}}")
        outcomes = await asyncio.gather(
            *(plan(authority, ANN, f"s{number}", workspace="personal") for number in range(50)), return_exceptions=True
        )
        assert sum(isinstance(one, LaunchPlan) for one in outcomes) == 5

    async def test_the_pool_of_everyone_holds_for_everyone(self, opened: Opened) -> None:
        authority = await opened("quotas: {pools: {everyone: {max_memory_total: 10Gi}}}")
        people = [user(f"p{number}") for number in range(20)]
        outcomes = await asyncio.gather(*(plan(authority, who) for who in people), return_exceptions=True)
        assert sum(isinstance(one, LaunchPlan) for one in outcomes) == 5


class TestTotals:
    async def test_of_a_person_over_all_workspaces(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_cpu_total: 10}}")
        await make(authority, "demo")
        await plan(authority, ANN, "demo", profile="large")
        refusal = await refused(authority, ANN, profile="large")
        assert refusal.message == (
            "You have 8 of 10 cpu in use (demo), and this asks for 8 more (max_cpu_total 10, set for everyone); stop "
            "one, ask for less, or ask an admin for more."
        )
        await plan(authority, ANN)  # one core fits
        await plan(authority, BOB, profile="large")

    async def test_of_a_workspace_for_all_its_members(self, opened: Opened) -> None:
        authority = await opened("quotas: {workspaces: {demo: {max_gpu_total: 1}}}")
        await make(authority, "demo", "team")
        await plan(authority, ANN, "demo", profile="gpu")
        refusal = await refused(authority, user("eve", "team"), "demo", profile="gpu")
        assert "Workspace demo has 1 of 1 GPUs in use, and this asks for 1 more" in refusal.message
        assert "ann" not in refusal.message, "who holds them is nobody's business"
        await plan(authority, user("eve", "team"), "demo")

    async def test_a_group_that_is_left_or_joined_counts_from_the_next_decision(self, opened: Opened) -> None:
        authority = await opened("quotas: {pools: {groups: {ml: {max_gpu_total: 2}}}}")
        first, second, third = (user(name, "ml") for name in ("u1", "u2", "u3"))
        await plan(authority, first, profile="gpu")
        await plan(authority, second, profile="gpu")
        await refused(authority, third, profile="gpu")
        await plan(authority, user("u1"), "more", workspace="personal")  # u1 has left the group: a decision notes it
        await plan(authority, third, profile="gpu")
        await refused(authority, user("u1", "ml"), "again", workspace="personal", profile="gpu")

    async def test_both_pools_of_a_person_in_two_groups_hold(self, opened: Opened) -> None:
        authority = await opened("quotas: {pools: {groups: {a: {max_gpu_total: 1}, b: {max_gpu_total: 5}}}}")
        await plan(authority, user("u1", "a", "b"), profile="gpu")
        assert (await refused(authority, user("u2", "a", "b"), profile="gpu")).details[
            "source"
        ] == "the pool of group a"
        await plan(authority, user("u3", "b"), profile="gpu")

    async def test_a_release_makes_room_at_once(self, opened: Opened) -> None:
        authority = await opened("quotas: {pools: {groups: {ml: {max_gpu_total: 1}}}}")
        made = await plan(authority, user("u1", "ml"), profile="gpu")
        await refused(authority, user("u2", "ml"), profile="gpu")
        await admission.release(authority, made.launch_id, "stopped")
        await plan(authority, user("u2", "ml"), profile="gpu")

    async def test_what_starts_anew_takes_its_own_place(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_gpu_total: 1}}")
        await plan(authority, ANN, profile="gpu")
        await plan(authority, ANN, profile="gpu")


class TestRuntime:
    async def test_a_row_wins_over_the_files_figure_of_its_level(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_gpu_total: 0}, users: {bob: {max_gpu_total: 0}}}")
        await override(authority, Place("everyone"), "max_gpu_total", 1)
        await plan(authority, ANN, profile="gpu")
        assert (await refused(authority, BOB, profile="gpu")).details["origin"] == "maestro.yaml"
        await override(authority, Place("user", "bob", CREATED), "max_gpu_total", 1)
        await plan(authority, BOB, profile="gpu")
        refusal = await refused(authority, BOB, "more", workspace="personal", profile="gpu")
        assert f"set for user bob by root on {clock.now():%Y-%m-%d}" in refusal.message

    async def test_somebody_of_the_same_name_inherits_none(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_gpu_total: 0}}")
        await override(authority, Place("user", "ann", CREATED), "max_gpu_total", 4)
        await plan(authority, ANN, profile="gpu")
        again = user("ann", created="2027-01-01T00:00:00Z")
        assert (await refused(authority, again, profile="gpu")).details["source"] == "everyone"

    async def test_a_workspace_of_the_same_name_inherits_none(self, opened: Opened) -> None:
        authority = await opened("quotas: {}")
        await make(authority, "demo")
        await override(authority, Place("workspace", "demo", "w-of-an-earlier-one"), "max_gpu_total", 0)
        await plan(authority, ANN, "demo", profile="gpu")


class TestBudgets:
    @pytest.fixture(autouse=True)
    def clocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
        monkeypatch.setattr(clock, "read_wall", lambda: self.wall)
        monkeypatch.setattr(clock, "read_steady", lambda: self.wall)

    async def running(self, authority: Authority, who: UserRef, server: str = "", **options: Any) -> str:
        made = await plan(authority, who, server, workspace="personal", **options)
        await admission.confirm(authority, made.launch_id)
        return made.launch_id

    def passes(self, hours: float) -> None:
        self.wall += hours * 3600

    async def test_a_launch_is_refused_when_it_is_used_up_and_what_runs_goes_on(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_gpu_hours_per_month: 10}}")
        launch_id = await self.running(authority, ANN, profile="gpu")
        self.passes(9.9)
        await plan(authority, ANN, "more", workspace="personal", profile="gpu")
        self.passes(0.1)
        refusal = await refused(authority, ANN, "third", workspace="personal", profile="gpu")
        assert refusal.message == (
            "You have used 10 of 10 GPU hours in November 2026 (UTC), and none remain (max_gpu_hours_per_month 10, set "
            "for everyone); there are new ones on 1 December, or ask an admin for more."
        )
        async with authority.store.read() as unit:
            running = await unit.launches.get(launch_id)
        assert running is not None and running.status.active
        await plan(authority, ANN, "plain", workspace="personal")  # which asks for no GPU

    async def test_the_next_month_has_new_ones(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_cpu_hours_per_month: 16}}")
        launch_id = await self.running(authority, ANN, profile="large")
        self.passes(2)
        await refused(authority, ANN, "more", workspace="personal")
        await admission.release(authority, launch_id, "stopped")
        self.wall = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
        await plan(authority, ANN)

    async def test_of_a_workspace_a_group_and_everyone(self, opened: Opened) -> None:
        authority = await opened(
            "quotas: {workspaces: {demo: {max_gpu_hours_per_month: 1}}, pools: {everyone: {max_gpu_hours_per_month: 9},"
            " groups: {ml: {max_gpu_hours_per_month: 3}}}}"
        )
        await make(authority, "demo", "ml")
        made = await plan(authority, user("u1", "ml"), "demo", profile="gpu")
        await admission.confirm(authority, made.launch_id)
        self.passes(1)
        assert (await refused(authority, ANN, "demo", profile="gpu")).details["scope"] == "workspace"
        self.passes(2)
        refusal = await refused(authority, user("u2", "ml"), profile="gpu")
        assert "All members of group ml together have used 3 of 3 GPU hours in November 2026" in refusal.message
        self.passes(6)
        assert (await refused(authority, user("u3"), profile="gpu")).details["source"] == "the pool of everyone"

    async def test_a_recreated_user_begins_anew(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_cpu_hours_per_month: 1}}")
        await self.running(authority, ANN)
        self.passes(1)
        await refused(authority, ANN, "more", workspace="personal")
        await plan(authority, user("ann", created="2027-01-01T00:00:00Z"))


ALLOWING = """
profiles:
  - {name: small, cpu: 1, memory: 2Gi, allow: {cpu: 4, images: [r]}, idle: 90}
  - {name: gpu, cpu: 2, memory: 4Gi, gpu: 1, idle: 20, image: "cuda:1"}
  - {name: plain}
images: [{name: r, image: "registry.example.org/r:1", title: R}]
quotas: {everyone: {max_cpu_total: 3}}
"""


class TestProfiles:
    @pytest.fixture
    async def authority(self, tmp_path: Path) -> AsyncIterator[Authority]:
        async with open_authority(settings_for(tmp_path / "state", policy=ALLOWING)) as made:
            yield made

    async def on_kubernetes(self, authority: Authority, nodes: Any) -> Authority:
        return replace(authority, settings=replace(authority.settings, provider="kubernetes"), nodes=nodes)

    async def test_the_plan_carries_image_and_idle_time_and_the_launch_shows_them(self, authority: Authority) -> None:
        cluster = await self.on_kubernetes(authority, Nodes(None))
        made = await plan(cluster, ANN, image="r")
        assert (made.image, made.idle_minutes) == ("registry.example.org/r:1", 90)
        assert made.labels["maestro.idle-minutes"] == made.environment["MAESTRO_IDLE_MINUTES"] == "90"
        shown = await launches.view_launch(cluster, person(ANN), made.launch_id)
        assert (shown.image, shown.idle_minutes) == ("registry.example.org/r:1", 90)
        gpu = await plan(cluster, BOB, profile="gpu")
        assert (gpu.image, gpu.idle_minutes) == ("cuda:1", 20)
        plain = await plan(cluster, user("eve"), profile="plain")
        assert plain.idle_minutes is None and "maestro.idle-minutes" not in plain.labels

    async def test_one_machine_has_no_images_and_says_so(self, authority: Authority) -> None:
        with pytest.raises(MaestroError, match="servers are containers on Kubernetes alone") as caught:
            await plan(authority, ANN, image="r")
        assert caught.value.code == "invalid_request"
        form = await forms.form_view(authority, FormRequest(user=ANN))
        assert form.profiles[0].images == ()

    async def test_the_form_shows_the_most_that_may_be_had_now_and_what_is_left(self, authority: Authority) -> None:
        small = (await forms.form_view(authority, FormRequest(user=ANN))).profiles[0]
        assert (small.cpu, small.max_cpu, small.room) == (1, 3, None)
        await plan(authority, ANN, "more", workspace="personal")
        form = await forms.form_view(authority, FormRequest(user=ANN))
        assert (form.profiles[0].max_cpu, form.left) == (2, ("1 of 3 cpu",))
        await plan(authority, ANN)
        again = await forms.form_view(authority, FormRequest(user=ANN))
        assert again.left == ("1 of 3 cpu",), "the place of this server is free when it starts anew"
        await plan(authority, ANN, resources={"cpu": 2})
        refusal = await refused(authority, ANN, resources={"cpu": 3})
        assert "and this asks for 3 more" in refusal.message

    async def test_the_form_says_whether_a_node_has_room(self, authority: Authority) -> None:
        free = {"cpu": 1.5, "memory": 8 * 1024.0**3, "pods": 5.0}
        for nodes, rooms in (([Node({}, free)], ["now", "busy", "now"]), (None, ["unknown"] * 3)):
            cluster = await self.on_kubernetes(authority, Nodes(nodes))
            form = await forms.form_view(cluster, FormRequest(user=ANN))
            assert [profile.room for profile in form.profiles] == rooms
            assert [image.title for image in form.profiles[0].images] == ["R"]


class Nodes:
    """Nodes of a test."""

    placed = True

    def __init__(self, nodes: list[Node] | None) -> None:
        self.nodes = nodes

    async def look(self) -> list[Node] | None:
        return self.nodes


class TestStorage:
    async def measured(self, authority: Authority, workspace_id: str, used: int) -> None:
        async with authority.store.write() as unit:
            await unit.workspaces.change(workspace_id, storage_used=used, storage_measured_at=clock.now())

    async def test_files_over_the_limit_start_no_new_server_and_the_sentence_has_the_figures(
        self, opened: Opened
    ) -> None:
        authority = await opened("quotas: {everyone: {max_storage_per_workspace: 2Gi}}")
        workspace_id = await make(authority, "demo")
        await self.measured(authority, workspace_id, 2 * 1024**3)
        await plan(authority, ANN, "demo")
        await self.measured(authority, workspace_id, 3 * 1024**3)
        refusal = await refused(authority, ANN, "more", workspace="demo")
        assert refusal.message.startswith(
            "The files of this workspace take 3 GiB of 2 GiB (max_storage_per_workspace 2 GiB, set for everyone, "
            "measured at "
        )
        await plan(authority, ANN)  # elsewhere

    async def test_what_was_never_measured_is_not_refused(self, opened: Opened) -> None:
        authority = await opened("quotas: {everyone: {max_storage_per_workspace: 1Gi}}")
        await plan(authority, ANN)

    async def test_a_storage_that_holds_the_size_itself_is_left_to_it(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority = await opened("quotas: {everyone: {max_storage_per_workspace: 1Gi}}")
        workspace_id = await make(authority, "demo")
        await self.measured(authority, workspace_id, 2 * 1024**3)
        monkeypatch.setattr(authority.volumes, "holds_size", True, raising=False)
        await plan(authority, ANN, "demo")

    async def test_a_workspaces_own_figure_holds_and_a_personal_one_goes_by_its_owner(
        self, opened: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority = await opened(
            "quotas: {everyone: {max_storage_per_workspace: 1Gi}, users: {ann: {max_storage_per_workspace: 9Gi}}, "
            "workspaces: {demo: {max_storage_per_workspace: 5Gi}}}"
        )
        sizes: dict[str, int | None] = {}
        ensure = authority.volumes.ensure

        async def noted(workspace_id: str, name: str, size: int | None) -> None:
            sizes[name] = size
            await ensure(workspace_id, name, size)

        monkeypatch.setattr(authority.volumes, "ensure", noted)
        await make(authority, "demo")
        await make(authority, "plain")
        for server in ("demo", "plain", ""):
            await plan(authority, ANN, server)
        assert sorted(size // 1024**3 for size in sizes.values() if size) == [1, 5, 9]
        assert sizes["demo"] == 5 * 1024**3 and sizes["plain"] == 1024**3
