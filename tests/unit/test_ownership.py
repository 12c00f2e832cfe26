"""Who owns a workspace: it never is without somebody who is there, it passes on, and people are invited."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from maestro_hub_services.store import clock
from maestro_hub_services.workspaces.domain import invitations
from tests.workspaces_kit import World, running_world

LATER = "2026-06-01T00:00:00.000000Z"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state") as made:
        yield made


async def call(world: World, who: str, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
    async with world.client(who, **options) as client:
        return await client.request(method, path, json=body)


async def demo(world: World, *members: dict[str, str]) -> None:
    answer = await call(world, "ann", "POST", "/workspaces", {"name": "demo", "members": list(members)})
    assert answer.status_code == 201, answer.text


async def put(world: World, who: str = "ann", **member: str) -> httpx.Response:
    return await call(world, who, "PUT", "/workspaces/demo/members", member)


async def roles(world: World) -> dict[str, str]:
    members = (await call(world, "root", "GET", "/workspaces/demo/members")).json()["members"]
    return {member["name"]: member["role"] for member in members}


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def leave(world: World, who: str = "ann") -> httpx.Response:
    return await call(world, who, "DELETE", f"/workspaces/demo/members/user/{who}")


class TestTheLastOwner:
    async def test_stays(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"})
        assert code(await leave(world)) == (409, "conflict")
        assert code(await put(world, user="ann", role="editor")) == (409, "conflict")

    async def test_goes_when_there_is_another(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "owner"})
        assert (await leave(world)).status_code == 204
        assert code(await leave(world, "bob")) == (409, "conflict")

    async def test_a_group_counts_while_somebody_is_in_it(self, world: World) -> None:
        world.hub.groups.add("team")
        await demo(world, {"group": "team", "role": "owner"})
        assert code(await leave(world)) == (409, "conflict")
        world.hub.move("bob", "team")
        assert (await leave(world)).status_code == 204
        assert (await call(world, "bob", "GET", "/workspaces/demo")).json()["role"] == "owner"

    async def test_a_deleted_owner_does_not_count(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "owner"})
        await call(world, "bob", "GET", "/workspaces/demo")  # the service has just seen them
        del world.hub.users["bob"]
        assert code(await leave(world)) == (409, "conflict")

    async def test_nor_does_somebody_who_took_the_deleted_ones_name(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "owner"})
        await call(world, "bob", "GET", "/workspaces/demo")
        world.hub.add("bob", created=LATER)
        assert code(await leave(world)) == (409, "conflict")


class TestTransfer:
    async def test_makes_another_the_owner_in_ones_place(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "viewer"})
        answer = await call(world, "ann", "POST", "/workspaces/demo/transfer", {"user": "bob"})
        assert (answer.status_code, answer.json()["role"]) == (200, "owner")
        assert await roles(world) == {"ann": "editor", "bob": "owner"}
        assert code(await put(world, user="eve")) == (403, "forbidden")

    async def test_goes_to_a_group_too(self, world: World) -> None:
        world.hub.move("bob", "team")
        await demo(world)
        await call(world, "ann", "POST", "/workspaces/demo/transfer", {"group": "team"})
        assert await roles(world) == {"ann": "editor", "team": "owner"}

    async def test_to_a_group_that_nobody_is_in_is_refused(self, world: World) -> None:
        world.hub.groups.add("empty")
        await demo(world)
        answer = await call(world, "ann", "POST", "/workspaces/demo/transfer", {"group": "empty"})
        assert code(answer) == (409, "conflict") and "Nobody is in the group empty" in answer.text
        assert await roles(world) == {"ann": "owner"}

    async def test_to_oneself_changes_nothing(self, world: World) -> None:
        await demo(world)
        await call(world, "ann", "POST", "/workspaces/demo/transfer", {"user": "ann"})
        assert await roles(world) == {"ann": "owner"}

    async def test_is_not_for_editors_and_strangers(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "editor"})
        for who, expected in (("bob", (403, "forbidden")), ("eve", (404, "unknown_workspace"))):
            assert code(await call(world, who, "POST", "/workspaces/demo/transfer", {"user": who})) == expected

    async def test_an_admin_helps_where_the_owner_is_gone(self, world: World) -> None:
        await demo(world)
        del world.hub.users["ann"]
        assert (await call(world, "root", "POST", "/workspaces/demo/transfer", {"user": "bob"})).status_code == 200
        assert (await roles(world))["bob"] == "owner"
        assert "root" not in await roles(world)

    async def test_an_unknown_user_gets_nothing(self, world: World) -> None:
        await demo(world)
        assert code(await call(world, "ann", "POST", "/workspaces/demo/transfer", {"user": "zoe"})) == (
            404,
            "unknown_user",
        )
        assert await roles(world) == {"ann": "owner"}


async def invite(world: World, user: str = "zoe", who: str = "ann", role: str = "editor") -> httpx.Response:
    return await call(world, who, "POST", "/workspaces/demo/invitations", {"user": user, "role": role})


async def invited(world: World, user: str = "zoe") -> list[dict[str, Any]]:
    return list((await call(world, user, "GET", "/invitations")).json()["invitations"])


class TestInvitations:
    async def test_a_colleague_signs_up_and_accepts(self, world: World) -> None:
        await demo(world)
        made = await invite(world)
        assert made.status_code == 201
        listed = (await call(world, "ann", "GET", "/workspaces/demo/invitations")).json()["invitations"]
        assert [(one["user"], one["role"], one["invited_by"]) for one in listed] == [("zoe", "editor", "ann")]
        world.hub.add("zoe")
        (mine,) = await invited(world)
        assert (mine["workspace"], mine["role"]) == ("demo", "editor")
        assert (await call(world, "zoe", "GET", "/workspaces/demo")).status_code == 404, "not before it is accepted"
        accepted = await call(world, "zoe", "POST", f"/invitations/{mine['invitation_id']}/accept")
        assert accepted.json()["role"] == "editor"
        assert (await call(world, "zoe", "GET", "/workspaces/demo")).json()["role"] == "editor"
        assert await invited(world) == []
        again = await call(world, "zoe", "POST", f"/invitations/{mine['invitation_id']}/accept")
        assert code(again) == (404, "unknown_invitation")

    async def test_somebody_whom_the_hub_knows_is_added_instead(self, world: World) -> None:
        await demo(world)
        assert code(await invite(world, "bob")) == (409, "conflict")

    async def test_it_is_nobody_elses(self, world: World) -> None:
        await demo(world)
        invitation = (await invite(world)).json()["invitation_id"]
        assert await invited(world, "eve") == []
        for method, path in (("POST", f"/invitations/{invitation}/accept"), ("DELETE", f"/invitations/{invitation}")):
            assert code(await call(world, "eve", method, path)) == (404, "unknown_invitation")

    async def test_the_first_account_of_the_name_that_looks_has_it_alone(self, world: World) -> None:
        """zoe looks, is deleted before she accepts, and somebody else takes the name."""
        await demo(world)
        await invite(world)
        world.hub.add("zoe")
        assert len(await invited(world)) == 1
        world.hub.add("zoe", created=LATER)
        world.authority.hub._users.clear()
        assert await invited(world) == []

    async def test_a_deleted_members_successor_has_no_role(self, world: World) -> None:
        await demo(world)
        invitation = (await invite(world)).json()["invitation_id"]
        world.hub.add("zoe")
        await call(world, "zoe", "POST", f"/invitations/{invitation}/accept")
        world.hub.add("zoe", created=LATER)
        world.authority.hub._users.clear()
        assert (await call(world, "zoe", "GET", "/workspaces/demo")).status_code == 404
        assert await invited(world) == []

    async def test_runs_out(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        await demo(world)
        invitation = (await invite(world)).json()["invitation_id"]
        world.hub.add("zoe")
        later = clock.now() + timedelta(days=8)
        monkeypatch.setattr("maestro_hub_services.store.invitations.now", lambda: later)
        assert await invited(world) == []
        answer = await call(world, "zoe", "POST", f"/invitations/{invitation}/accept")
        assert code(answer) == (404, "unknown_invitation")
        await invitations.forget_run_out(world.authority)
        async with world.authority.store.read() as unit:
            (event,) = await unit.events.latest(limit=1)
            assert await unit.invitations.get(invitation) is None
        assert (event.kind, event.fields["reason"]) == ("invitation_ended", "ran out")

    async def test_an_owner_who_is_none_any_more_has_invited_nobody(self, world: World) -> None:
        await demo(world, {"user": "bob", "role": "owner"})
        invitation = (await invite(world, who="bob", role="owner")).json()["invitation_id"]
        await put(world, user="bob", role="viewer")
        world.hub.add("zoe")
        answer = await call(world, "zoe", "POST", f"/invitations/{invitation}/accept")
        assert code(answer) == (404, "unknown_invitation")

    async def test_an_admins_invitation_needs_no_role(self, world: World) -> None:
        await demo(world)
        invitation = (await invite(world, who="root")).json()["invitation_id"]
        world.hub.add("zoe")
        assert (await call(world, "zoe", "POST", f"/invitations/{invitation}/accept")).status_code == 200

    async def test_withdrawn_and_declined(self, world: World) -> None:
        await demo(world)
        invitation = (await invite(world)).json()["invitation_id"]
        assert code(await call(world, "eve", "DELETE", f"/workspaces/demo/invitations/{invitation}")) == (
            404,
            "unknown_workspace",
        )
        assert (await call(world, "ann", "DELETE", f"/workspaces/demo/invitations/{invitation}")).status_code == 204
        invitation = (await invite(world)).json()["invitation_id"]
        world.hub.add("zoe")
        assert (await call(world, "zoe", "DELETE", f"/invitations/{invitation}")).status_code == 204
        assert (await call(world, "ann", "GET", "/workspaces/demo/invitations")).json() == {"invitations": []}

    async def test_inviting_again_replaces(self, world: World) -> None:
        await demo(world)
        first, second = [(await invite(world, role=role)).json()["invitation_id"] for role in ("editor", "viewer")]
        world.hub.add("zoe")
        (mine,) = await invited(world)
        assert (mine["invitation_id"], mine["role"]) == (second, "viewer")
        assert first != second

    async def test_it_lowers_no_role_that_was_given_meanwhile(self, world: World) -> None:
        await demo(world)
        invitation = (await invite(world, role="viewer")).json()["invitation_id"]
        world.hub.add("zoe")
        await put(world, user="zoe", role="editor")
        await call(world, "zoe", "POST", f"/invitations/{invitation}/accept")
        assert (await roles(world))["zoe"] == "editor"

    async def test_a_notebooks_token_neither_sees_nor_accepts(self, world: World) -> None:
        """Whoever edits the workspace's files runs code with it."""
        await demo(world)
        invitation = (await invite(world)).json()["invitation_id"]
        world.hub.add("zoe")
        token = world.hub.server_token("zoe", "")
        async with world.client(token=token) as client:
            assert (await client.get("/invitations")).json() == {"invitations": []}
            assert (await client.post(f"/invitations/{invitation}/accept")).status_code == 403

    async def test_there_are_not_endless_ones(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(invitations, "MAX_OPEN", 2)
        await demo(world)
        answers = [await invite(world, f"z{number}") for number in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 409]
