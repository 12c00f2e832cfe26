"""A role is gone or lower while a server runs: its user is told at once, the token dies, the server ends in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan, LaunchStatus
from maestro_core.packages import TokenQuestion
from maestro_hub_services.store import LaunchRow
from maestro_hub_services.store.clock import now
from maestro_hub_services.workspaces.domain import departures, missing_groups, packages
from maestro_hub_services.workspaces.loops import LOOPS
from tests.workspaces_kit import POLICY_TEXT, World, running_world

BEAT = {"cpu_seconds": 1.0, "memory": 1, "busy": False, "kernels": 0}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state") as made:
        yield made


async def call(world: World, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
    async with world.client(who) as client:
        return await client.request(method, path, json=body)


async def demo(world: World, *members: dict[str, str]) -> None:
    answer = await call(world, "ann", "POST", "/workspaces", {"name": "demo", "members": list(members)})
    assert answer.status_code == 201, answer.text


async def launched(world: World, who: str = "bob") -> LaunchPlan:
    answer = await call(world, who, "POST", "/launches", {"workspace": "demo"})
    assert answer.status_code == 201, answer.text
    plan = world.hub.servers[who, "demo"].plan
    assert plan is not None
    return plan


async def row(world: World, plan: LaunchPlan) -> LaunchRow:
    async with world.authority.store.read() as unit:
        found = await unit.launches.get(plan.launch_id)
    assert found is not None
    return found


async def notices(world: World, who: str = "bob") -> list[dict[str, Any]]:
    """What the notebook is told with its next heartbeat."""
    plan = world.hub.servers[who, "demo"].plan
    assert plan is not None
    async with world.client(token=world.hub.server_token(who, "demo")) as client:
        answer = await client.post(f"/launches/{plan.launch_id}/heartbeat", json=BEAT)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["notices"])


async def index_token_lives(world: World, plan: LaunchPlan) -> bool:
    try:
        await packages.token_owner(world.authority, TokenQuestion(token=plan.index_token))
    except MaestroError as error:
        assert error.code == "unknown_launch"
        return False
    return True


async def end_due(world: World) -> None:
    await departures.Ender().end_due(world.authority)


class TestRemoval:
    async def test_is_told_at_once_and_ends_the_server_after_the_grace_time(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"})
        plan = await launched(world)
        assert await notices(world) == []
        assert await index_token_lives(world, plan)
        assert (await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")).status_code == 204

        (notice,) = await notices(world)
        assert (notice["id"], notice["kind"], notice["level"]) == ("role", "role", "error")
        assert "bob is no member of demo any more" in notice["message"]
        ends = (await row(world, plan)).ends_at
        assert ends is not None and timedelta(seconds=55) < ends - now() <= timedelta(seconds=60)
        assert not await index_token_lives(world, plan)

        await end_due(world)
        assert (await row(world, plan)).status is LaunchStatus.RUNNING, "before its time"
        async with world.authority.store.write() as unit:
            await unit.launches.will_end(plan.launch_id, "role", now(), "bob is no member of demo any more")
        await end_due(world)
        ended = await row(world, plan)
        assert (ended.status, ended.ended_reason) == (LaunchStatus.ENDED, "bob is no member of demo any more")
        assert not world.hub.servers["bob", "demo"].ready

    async def test_closes_the_saved_notebooks_to_them_and_to_their_server(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"})
        await launched(world)
        tokens = ["token-of-bob", world.hub.server_token("bob", "demo")]

        async def answers() -> list[int]:
            found = []
            for token in tokens:
                async with world.client(token=token) as client:
                    found.append((await client.get("/workspaces/demo/snapshots")).status_code)
            return found

        assert await answers() == [200, 200]
        await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")
        assert await answers() == [404, 404]

    async def test_an_owner_may_say_now(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"})
        plan = await launched(world)
        await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob?now=1")
        await end_due(world)
        assert (await row(world, plan)).status is LaunchStatus.ENDED

    async def test_an_owner_may_say_now_afterwards_too(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"}, {"user": "eve", "role": "editor"})
        plan = await launched(world)
        path = f"/launches/{plan.launch_id}"
        assert (await call(world, "ann", "DELETE", path)).status_code == 404, "a member's server is the member's"
        await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")
        assert (await call(world, "eve", "DELETE", path)).status_code == 404
        assert (await call(world, "ann", "DELETE", path)).json()["status"] == "ended"

    async def test_leaves_other_servers_alone(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"}, {"user": "eve", "role": "viewer"})
        plans = [await launched(world, name) for name in ("ann", "eve")]
        await launched(world)
        await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob?now=1")
        await end_due(world)
        assert [(await row(world, plan)).ends_at for plan in plans] == [None, None]

    async def test_whoever_is_a_member_twice_stays(self, world: World) -> None:
        world.hub.move("bob", "team")
        await demo(world, {"user": "bob", "role": "editor"}, {"group": "team", "role": "editor"})
        plan = await launched(world)
        await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")
        assert (await row(world, plan)).ends_at is None

    async def test_somebody_who_leaves_ends_their_own_server(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"})
        plan = await launched(world)
        await call(world, "bob", "DELETE", "/workspaces/demo/members/user/bob")
        assert (await row(world, plan)).ends_kind == "role"

    async def test_who_is_added_again_in_time_goes_on(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"})
        plan = await launched(world)
        await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")
        await call(world, "ann", "PUT", "/workspaces/demo/members", {"user": "bob", "role": "editor"})
        assert await notices(world) == []
        assert await index_token_lives(world, plan)
        async with world.authority.store.read() as unit:
            kinds = [event.kind for event in await unit.events.latest(limit=4)]
        assert "launch_spared" in kinds

    async def test_the_grace_time_is_the_policys(self, tmp_path: Path) -> None:
        async with running_world(tmp_path / "state", POLICY_TEXT + "\nmembers: {grace_seconds: 0}\n") as world:
            await demo(world, {"user": "bob", "role": "editor"})
            plan = await launched(world)
            await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")
            await end_due(world)
            assert (await row(world, plan)).status is LaunchStatus.ENDED


class TestDemotion:
    async def test_to_viewer_ends_a_server_that_changes_files(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"})
        plan = await launched(world)
        await call(world, "ann", "PUT", "/workspaces/demo/members?now=1", {"user": "bob", "role": "viewer"})
        assert not await index_token_lives(world, plan)
        await end_due(world)
        assert "bob is viewer of demo now" in str((await row(world, plan)).ended_reason)
        again = await launched(world)
        assert (again.role.value, again.mounts[0].read_only) == ("viewer", True)
        assert await notices(world) == []

    async def test_from_owner_to_editor_changes_nothing_that_runs(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "owner"})
        plan = await launched(world)
        await call(world, "ann", "PUT", "/workspaces/demo/members", {"user": "bob", "role": "editor"})
        assert (await row(world, plan)).ends_at is None

    async def test_a_viewer_who_may_write_now_is_told_to_start_again(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "viewer"})
        await launched(world)
        await call(world, "ann", "PUT", "/workspaces/demo/members", {"user": "bob", "role": "editor"})
        (notice,) = await notices(world)
        assert (notice["level"], notice["until"]) == ("info", None)
        assert "start this server again" in notice["message"]


class TestGroups:
    @pytest.mark.parametrize("look", [departures.review_everything, missing_groups.forget_missing])
    def test_are_looked_at_often_enough_for_a_change_to_count_within_60_seconds(self, look: object) -> None:
        """With half of the time left for the look itself."""
        assert [loop.seconds <= 30 for loop in LOOPS if loop.do is look] == [True]

    async def test_leaving_a_group_ends_what_runs_at_the_next_look(self, world: World) -> None:
        world.hub.move("bob", "team")
        await demo(world, {"group": "team", "role": "editor"})
        plan = await launched(world)
        world.hub.move("bob")
        await departures.review_everything(world.authority)
        assert (await row(world, plan)).ends_kind == "role"

    async def test_removing_a_group_now_ends_its_members_servers(self, world: World) -> None:
        world.hub.move("bob", "team")
        world.hub.move("eve", "team")
        await demo(world, {"group": "team", "role": "editor"}, {"user": "eve", "role": "editor"})
        bobs, eves = await launched(world), await launched(world, "eve")
        await call(world, "ann", "DELETE", "/workspaces/demo/members/group/team?now=1")
        await end_due(world)
        assert [(await row(world, plan)).status for plan in (bobs, eves)] == [LaunchStatus.ENDED, LaunchStatus.RUNNING]

    async def test_one_that_the_hub_has_no_longer_loses_its_roles(self, world: World) -> None:
        world.hub.move("bob", "team")
        await demo(world, {"group": "team", "role": "editor"})
        world.hub.groups.discard("team")
        await missing_groups.forget_missing(world.authority)
        world.hub.groups.add("team")  # made anew, with the same people in it
        assert (await call(world, "bob", "GET", "/workspaces/demo")).status_code == 404
        async with world.authority.store.read() as unit:
            (event,) = await unit.events.latest(limit=1)
        assert (event.kind, event.actor, event.fields["member"]) == ("member_removed", "membership", "team")

    async def test_a_hub_that_does_not_answer_costs_nobody_a_role(self, world: World) -> None:
        world.hub.move("bob", "team")
        await demo(world, {"group": "team", "role": "editor"})
        world.hub.down = True
        with pytest.raises(MaestroError, match="does not answer"):
            await missing_groups.forget_missing(world.authority)
        world.hub.down = False
        await missing_groups.forget_missing(world.authority)
        assert (await call(world, "bob", "GET", "/workspaces/demo")).status_code == 200


class TestFaults:
    async def test_what_was_not_finished_before_a_crash_is_found(self, world: World) -> None:
        """Killed between the member's row and the look at servers."""
        await demo(world, {"user": "bob", "role": "editor"})
        plan = await launched(world)
        async with world.authority.store.write() as unit:
            member = await unit.members.get(plan.workspace.workspace_id, "user", "bob")
            assert member is not None
            await unit.members.remove(member.id)
        await departures.review_everything(world.authority)
        assert (await row(world, plan)).ends_kind == "role"

    async def test_a_second_look_does_not_put_the_end_off(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"})
        plan = await launched(world)
        await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")
        first = (await row(world, plan)).ends_at
        await departures.review_everything(world.authority)
        assert (await row(world, plan)).ends_at == first

    async def test_the_moment_survives_a_restart_of_the_service(self, tmp_path: Path) -> None:
        async with running_world(tmp_path / "state") as world:
            await demo(world, {"user": "bob", "role": "editor"})
            plan = await launched(world)
            await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob?now=1")
            servers = world.hub.servers
        async with running_world(tmp_path / "state") as world:
            world.hub.servers = servers
            await end_due(world)
            assert (await row(world, plan)).status is LaunchStatus.ENDED

    async def test_a_server_that_the_hub_does_not_know_is_released(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"})
        plan = await launched(world)
        world.hub.servers.clear()
        await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob?now=1")
        await end_due(world)
        assert (await row(world, plan)).status is LaunchStatus.ENDED

    async def test_members_change_while_the_hub_is_away_for_servers(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The change counts; the servers are found by the next look."""
        await demo(world, {"user": "bob", "role": "editor"})
        plan = await launched(world)
        world.authority.hub._users.clear()

        async def away(name: str) -> None:
            raise MaestroError("hub_unavailable", "The Hub does not answer.")

        ann = world.authority.hub._users
        answer = None
        async with world.client("ann") as client:
            await client.get("/me")  # the caller is known for five seconds
            assert ann
            monkeypatch.setattr(world.authority.hub, "_fetch_user", away)
            answer = await client.delete("/workspaces/demo/members/user/bob")
        assert answer.status_code == 204
        assert (await row(world, plan)).ends_at is None
        monkeypatch.undo()
        await departures.review_everything(world.authority)
        assert (await row(world, plan)).ends_kind == "role"
