"""The REST API, over real HTTP: the service's own application, and a small Hub that answers what it asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from maestro_core.errors import ERRORS
from maestro_core.names import personal_workspace_name
from maestro_hub_services.workspaces.identity import ADMIN, MANAGE, USE
from maestro_hub_services.workspaces.routes import ROUTES
from tests.workspaces_kit import ACCESS, API, CREATED, MACHINES, World, ask, running_world, until, user

PERSONAL_OF_ANN = personal_workspace_name("ann", CREATED)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state") as made:
        yield made


async def call(
    world: World, who: str | None, method: str, path: str, body: Any = None, **options: Any
) -> httpx.Response:
    async with world.client(who, **options) as client:
        return await client.request(method, path, json=body) if body is not None else await client.request(method, path)


async def make_demo(world: World, *members: dict[str, str]) -> dict[str, Any]:
    answer = await call(world, "ann", "POST", "/workspaces", {"name": "demo", "members": list(members)})
    assert answer.status_code == 201, answer.text
    return answer.json()


def error(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()["error"]
    assert set(body) == {"code", "message", "details"}
    assert answer.status_code == ERRORS[body["code"]].status
    assert body["message"].endswith(".") and "\n" not in body["message"], body["message"]
    return answer.status_code, body["code"]


class TestWhoMayAsk:
    async def test_health_and_the_description_are_for_everyone(self, world: World) -> None:
        assert (await call(world, None, "GET", "/health")).json() == {"status": "ok"}
        document = (await call(world, None, "GET", "/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        assert {(route.method.lower(), route.path) for route in ROUTES} == {
            (method, path) for path, item in document["paths"].items() for method in item
        }

    @pytest.mark.parametrize("route", [route for route in ROUTES if route.scope], ids=lambda r: f"{r.method} {r.path}")
    async def test_every_route_needs_a_token_with_its_scope(self, world: World, route: Any) -> None:
        path = route.path.replace("{kind}", "user")
        for part in ("workspace", "name", "session_id", "launch_id"):
            path = path.replace(f"{{{part}}}", "x")
        assert error(await call(world, None, route.method, path)) == (401, "not_signed_in")
        others = {"use", "manage", "review", "admin", "audit", "plan", "policy", "authorize"}
        scopes = [f"custom:maestro:{name}" for name in others if f"custom:maestro:{name}" != route.scope]
        world.hub.tokens["narrow"] = {"kind": "user", "name": "ann", "scopes": [ACCESS, *scopes]}
        assert error(await call(world, None, route.method, path, token="narrow")) == (403, "forbidden")

    async def test_a_token_that_the_hub_does_not_know_is_told_so(self, world: World) -> None:
        assert error(await call(world, None, "GET", "/me", token="guessed")) == (401, "not_signed_in")

    async def test_a_token_in_the_url_counts_nowhere(self, world: World) -> None:
        async with world.client() as client:
            for mode in ("websocket", "navigate"):
                answer = await client.get("/me?token=token-of-ann", headers={"Sec-Fetch-Mode": mode})
                assert error(answer) == (401, "not_signed_in")

    async def test_a_token_without_access_to_the_service_is_kept_out(self, world: World) -> None:
        world.hub.tokens["elsewhere"] = {"kind": "user", "name": "ann", "scopes": [USE]}
        assert error(await call(world, None, "GET", "/me", token="elsewhere")) == (403, "forbidden")

    async def test_the_api_lies_at_the_hubs_root_too_where_a_cookie_is_nothing(self, world: World) -> None:
        root = {"base": "/api/v1/jupyter"}
        assert (await call(world, "ann", "GET", "/me", **root)).json()["user"] == "ann"
        async with world.client(base="/api/v1/jupyter") as client:
            client.cookies.set("service-workspaces", "token-of-ann")
            assert error(await client.get("/me")) == (401, "not_signed_in")

    async def test_a_hub_that_does_not_answer_is_said_and_lets_nobody_in(self, world: World) -> None:
        world.hub.down = True
        assert error(await call(world, "ann", "GET", "/me")) == (503, "hub_unavailable")

    async def test_a_service_is_no_person(self, world: World) -> None:
        world.hub.tokens["bot"] = {"kind": "service", "name": "bot", "scopes": [ACCESS, USE, MANAGE]}
        assert error(await call(world, None, "GET", "/workspaces", token="bot")) == (403, "forbidden")


class TestWhatIsSent:
    async def test_an_unknown_path_and_method_are_json_too(self, world: World) -> None:
        assert error(await call(world, "ann", "GET", "/nothing")) == (404, "unknown_path")
        assert error(await call(world, "ann", "PUT", "/workspaces")) == (404, "unknown_path")

    @pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"name": NaN}', "[" * 50_000, '{"name": "ab", "x": 1}'])
    async def test_a_body_that_is_no_such_object_is_refused_with_a_sentence(self, world: World, body: str) -> None:
        async with world.client("ann") as client:
            answer = await client.post("/workspaces", content=body, headers={"Content-Type": "application/json"})
        assert error(answer) == (400, "invalid_request")

    async def test_a_form_is_not_json(self, world: World) -> None:
        async with world.client("ann") as client:
            answer = await client.post("/workspaces", data={"name": "demo"})
            assert error(answer) == (400, "invalid_request")
            # what a page of somebody else's could send without being asked
            plain = await client.post("/workspaces", content='{"name": "demo"}', headers={"Content-Type": "text/plain"})
            assert error(plain) == (400, "invalid_request")

    async def test_a_large_body_is_refused(self, world: World) -> None:
        answer = await call(world, "ann", "POST", "/workspaces", {"name": "demo", "description": "x" * 300_000})
        assert error(answer) == (413, "too_large")

    async def test_a_fault_of_ours_shows_a_mark_and_no_traceback(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(world.authority.templates), "all", lambda self: 1 / 0)
        answer = await call(world, "ann", "GET", "/templates")
        assert error(answer) == (500, "internal")
        assert "ZeroDivision" not in answer.text and answer.json()["error"]["details"]["id"] in answer.text


class TestWorkspaces:
    async def test_the_personal_one_is_there_from_the_first_look(self, world: World) -> None:
        (personal,) = (await call(world, "ann", "GET", "/workspaces")).json()["workspaces"]
        assert personal["name"] == PERSONAL_OF_ANN
        assert personal["personal"] and personal["role"] == "owner" and personal["servers"] == {"used": 0, "limit": 3}
        for name in ("personal", PERSONAL_OF_ANN):
            found = (await call(world, "ann", "GET", f"/workspaces/{name}")).json()
            assert found["workspace_id"] == personal["workspace_id"]

    async def test_who_creates_one_owns_it_and_it_has_its_directory(self, world: World) -> None:
        made = await make_demo(world)
        assert made["role"] == "owner" and made["members"] == 1
        assert (world.authority.settings.state / "workspaces" / made["workspace_id"]).is_dir()
        assert error(await call(world, "bob", "POST", "/workspaces", {"name": "demo"})) == (409, "name_taken")

    @pytest.mark.parametrize("name", ["", "Demo", "a" * 31, "1a", "a--b", "personal", "u-ann-0123ab", "../x", "dемо"])
    async def test_a_name_that_is_none_is_refused(self, world: World, name: str) -> None:
        assert error(await call(world, "ann", "POST", "/workspaces", {"name": name})) == (400, "invalid_name")

    async def test_a_member_that_the_hub_does_not_know_leaves_nothing_half_made(self, world: World) -> None:
        body = {"name": "demo", "members": [{"user": "nobody"}]}
        assert error(await call(world, "ann", "POST", "/workspaces", body)) == (404, "unknown_user")
        assert error(await call(world, "ann", "GET", "/workspaces/demo")) == (404, "unknown_workspace")
        assert not list((world.authority.settings.state / "workspaces").glob("*"))

    async def test_others_get_the_same_sentence_as_for_none(self, world: World) -> None:
        await make_demo(world)
        foreign = await call(world, "eve", "GET", "/workspaces/demo")
        missing = await call(world, "eve", "GET", "/workspaces/mode")
        assert error(foreign) == error(missing) == (404, "unknown_workspace")
        assert foreign.text.replace("demo", "mode") == missing.text

    async def test_owners_link_an_experiment_for_launches_that_name_none(self, world: World) -> None:
        await make_demo(world, {"user": "bob", "role": "editor"}, {"user": "eve", "role": "viewer"})
        link, place = {"experiment_id": "exp-123"}, "/workspaces/demo/experiments"
        assert error(await call(world, "bob", "POST", place, link)) == (403, "forbidden")
        assert error(await call(world, "ann", "POST", place, {"experiment_id": " "})) == (400, "invalid_name")
        assert error(await call(world, "ann", "POST", place, {"experiment_id": "7"})) == (400, "invalid_request")
        linked = await call(world, "ann", "POST", place, link)
        assert (linked.status_code, linked.json()["settings"]) == (200, {"experiment": "exp-123"})

        async def runs_go_to(who: str, **ask: str) -> str:
            answer = await call(world, who, "POST", "/launches", {"workspace": "demo", **ask})
            return str(answer.json()["mlflow_experiment"])

        assert await runs_go_to("bob") == "exp-123"
        assert await runs_go_to("ann", mlflow_experiment="mine") == "mine"
        assert await runs_go_to("eve") == "from-demo"  # a viewer writes nothing here, whatever is linked
        assert (await call(world, "ann", "PATCH", "/workspaces/demo", {"experiment": None})).json()["settings"] == {}

    async def test_a_workspace_is_made_with_its_experiment(self, world: World) -> None:
        await call(world, "ann", "POST", "/workspaces", {"name": "demo", "experiment": "exp-123"})
        launch = (await call(world, "ann", "POST", "/launches", {"workspace": "demo"})).json()
        assert launch["mlflow_experiment"] == "exp-123"

    async def test_owners_change_and_archive(self, world: World) -> None:
        await make_demo(world, {"user": "bob", "role": "editor"})
        change = {"description": "Churn, Q3"}
        assert error(await call(world, "bob", "PATCH", "/workspaces/demo", change)) == (403, "forbidden")
        assert (await call(world, "ann", "PATCH", "/workspaces/demo", change)).json()["description"] == "Churn, Q3"
        assert error(await call(world, "bob", "DELETE", "/workspaces/demo")) == (403, "forbidden")
        assert (await call(world, "ann", "DELETE", "/workspaces/demo")).status_code == 204
        assert error(await call(world, "ann", "GET", "/workspaces/demo")) == (404, "unknown_workspace")
        # the volume has the name still
        assert error(await call(world, "bob", "POST", "/workspaces", {"name": "demo"})) == (409, "name_taken")

    async def test_one_in_which_servers_run_is_not_archived(self, world: World) -> None:
        await make_demo(world)
        assert (await call(world, "ann", "POST", "/launches", {"workspace": "demo"})).status_code == 201
        assert error(await call(world, "ann", "DELETE", "/workspaces/demo")) == (409, "conflict")

    async def test_a_personal_one_is_its_users_alone_and_stays(self, world: World) -> None:
        assert error(await call(world, "ann", "DELETE", "/workspaces/personal")) == (409, "conflict")
        put = await call(world, "ann", "PUT", "/workspaces/personal/members", {"user": "bob"})
        assert error(put) == (409, "conflict")

    async def test_an_admin_sees_every_workspace_and_others_do_not(self, world: World) -> None:
        await make_demo(world)
        names = [one["name"] for one in (await call(world, "root", "GET", "/workspaces?all=1")).json()["workspaces"]]
        assert "demo" in names
        assert (await call(world, "root", "GET", "/workspaces/demo")).json()["role"] is None
        assert error(await call(world, "ann", "GET", "/workspaces?all=1")) == (403, "forbidden")

    async def test_a_recreated_user_inherits_nothing(self, world: World) -> None:
        await make_demo(world, {"user": "bob", "role": "editor"})
        assert (await call(world, "bob", "GET", "/workspaces/demo")).status_code == 200
        world.hub.add("bob", created="2026-06-01T00:00:00.000000Z")
        world.authority.hub._users.clear()  # five seconds later
        assert error(await call(world, "bob", "GET", "/workspaces/demo")) == (404, "unknown_workspace")


class TestMembers:
    async def test_added_changed_listed_removed(self, world: World) -> None:
        await make_demo(world)
        added = await call(world, "ann", "PUT", "/workspaces/demo/members", {"user": "bob", "role": "viewer"})
        assert added.status_code == 200 and added.json()["role"] == "viewer"
        changed = await call(world, "ann", "PUT", "/workspaces/demo/members", {"user": "bob", "role": "collaborator"})
        assert changed.json()["role"] == "editor"
        listed = (await call(world, "bob", "GET", "/workspaces/demo/members")).json()["members"]
        assert [(one["name"], one["role"]) for one in listed] == [("ann", "owner"), ("bob", "editor")]
        assert (await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")).status_code == 204
        assert error(await call(world, "bob", "GET", "/workspaces/demo")) == (404, "unknown_workspace")
        again = await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")
        assert error(again) == (404, "unknown_member")

    async def test_a_group_brings_its_people_and_the_higher_role_counts(self, world: World) -> None:
        await make_demo(world)
        world.hub.add("eve", "team")
        world.authority.hub._users.clear()
        await call(world, "ann", "PUT", "/workspaces/demo/members", {"group": "team", "role": "viewer"})
        assert (await call(world, "eve", "GET", "/workspaces/demo")).json()["role"] == "viewer"
        await call(world, "ann", "PUT", "/workspaces/demo/members", {"user": "eve", "role": "editor"})
        assert (await call(world, "eve", "GET", "/workspaces/demo")).json()["role"] == "editor"
        assert len((await call(world, "eve", "GET", "/workspaces")).json()["workspaces"]) == 2

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({"user": "nobody"}, "unknown_user"),
            ({"group": "no-team"}, "unknown_group"),
            ({"user": "bob", "group": "team"}, "invalid_request"),
            ({}, "invalid_request"),
            ({"user": "bob", "role": "king"}, "invalid_request"),
            ({"user": "b\x00b"}, "invalid_name"),
        ],
    )
    async def test_what_is_no_member_is_refused(self, world: World, body: dict[str, str], code: str) -> None:
        await make_demo(world)
        assert error(await call(world, "ann", "PUT", "/workspaces/demo/members", body))[1] == code

    async def test_names_are_found_as_the_hub_writes_them(self, world: World) -> None:
        world.hub.add("john@example.org")
        await make_demo(world)
        added = await call(world, "ann", "PUT", "/workspaces/demo/members", {"user": "John@Example.org"})
        assert added.json()["name"] == "john@example.org"
        assert (await call(world, "ann", "DELETE", "/workspaces/demo/members/user/john@example.org")).status_code == 204

    async def test_the_last_owner_stays(self, world: World) -> None:
        await make_demo(world, {"user": "bob", "role": "editor"})
        for method, path, body in (
            ("DELETE", "/workspaces/demo/members/user/ann", None),
            ("PUT", "/workspaces/demo/members", {"user": "ann", "role": "viewer"}),
        ):
            assert error(await call(world, "ann", method, path, body)) == (409, "conflict")
        await call(world, "ann", "PUT", "/workspaces/demo/members", {"user": "bob", "role": "owner"})
        assert (await call(world, "ann", "DELETE", "/workspaces/demo/members/user/ann")).status_code == 204

    async def test_anybody_may_leave_but_manage_nobody_else(self, world: World) -> None:
        await make_demo(world, {"user": "bob", "role": "viewer"}, {"user": "eve", "role": "viewer"})
        assert error(await call(world, "bob", "DELETE", "/workspaces/demo/members/user/eve")) == (403, "forbidden")
        assert (await call(world, "bob", "DELETE", "/workspaces/demo/members/user/bob")).status_code == 204


class TestANotebooksToken:
    """What a notebook server holds is weak: whoever edits the workspace's files can run code with it."""

    @pytest.fixture
    async def token(self, world: World) -> str:
        await make_demo(world)
        await call(world, "ann", "POST", "/workspaces", {"name": "other"})
        assert (await call(world, "ann", "POST", "/launches", {"workspace": "demo"})).status_code == 201
        return world.hub.server_token("ann", "demo")

    async def test_it_sees_its_own_workspace_only_and_is_at_most_an_editor(self, world: World, token: str) -> None:
        (seen,) = (await call(world, None, "GET", "/workspaces", token=token)).json()["workspaces"]
        assert (seen["name"], seen["role"]) == ("demo", "editor")
        for name in ("other", "personal", PERSONAL_OF_ANN):
            answer = await call(world, None, "GET", f"/workspaces/{name}", token=token)
            assert error(answer) == (404, "unknown_workspace")
        assert (await call(world, None, "GET", "/me", token=token)).json()["servers"] == ["demo"]

    async def test_it_manages_nothing_even_of_an_admin(self, world: World, token: str) -> None:
        world.hub.tokens[token]["scopes"] += [ADMIN]  # an admin's server, set up with too much
        for method, path, body in (
            ("PUT", "/workspaces/demo/members", {"user": "bob"}),
            ("DELETE", "/workspaces/demo", None),
            ("POST", "/workspaces", {"name": "more"}),
        ):
            assert error(await call(world, None, method, path, body, token=token)) == (403, "forbidden")
        assert error(await call(world, None, "GET", "/launches?all=1", token=token)) == (403, "forbidden")
        world.hub.tokens[token]["scopes"] += [MANAGE]
        world.hub.tokens["again"] = world.hub.tokens[token]
        answer = await call(world, None, "PUT", "/workspaces/demo/members", {"user": "bob"}, token="again")
        assert error(answer) == (403, "forbidden")  # as an editor

    async def test_it_starts_and_stops_in_its_own_workspace_only(self, world: World, token: str) -> None:
        second = await call(world, None, "POST", "/launches", {"workspace": "demo", "server_name": "more"}, token=token)
        assert second.status_code == 201
        for name in ("other", "personal"):
            answer = await call(world, None, "POST", "/launches", {"workspace": name}, token=token)
            assert error(answer) == (404, "unknown_workspace")
        elsewhere = (await call(world, "ann", "POST", "/launches", {"workspace": "other"})).json()["session_id"]
        for method in ("GET", "DELETE"):
            assert error(await call(world, None, method, f"/launches/{elsewhere}", token=token))[1] == "unknown_launch"
        assert len((await call(world, None, "GET", "/launches", token=token)).json()["launches"]) == 2

    async def test_it_is_nothing_once_its_launch_has_ended(self, world: World, token: str) -> None:
        (launch,) = (await call(world, "ann", "GET", "/launches")).json()["launches"]
        await call(world, "ann", "DELETE", f"/launches/{launch['session_id']}")
        assert (await call(world, None, "GET", "/workspaces", token=token)).json() == {"workspaces": []}


class TestLaunching:
    async def test_a_server_starts_by_the_hub_and_its_launch_is_answered(self, world: World) -> None:
        await make_demo(world)
        body = {"workspace": "demo", "resources": {"cpu": 2, "memory": "4Gi"}, "template": "data-exploration"}
        answer = await call(world, "ann", "POST", "/launches", body)
        assert answer.status_code == 201, answer.text
        launch = answer.json()
        assert launch["status"] == "running" and launch["profile"] == "large" and launch["resources"]["cpu"] == 2
        assert launch["notebook_url"] == "/user/ann/demo/lab/tree/data-exploration.ipynb"
        assert ("POST", "/hub/api/users/ann/servers/demo") in world.hub.asked
        shown = (await call(world, "ann", "GET", f"/launches/{launch['session_id']}")).json()
        assert shown == launch
        stopped = await call(world, "ann", "DELETE", f"/launches/{launch['session_id']}")
        assert (stopped.status_code, stopped.json()["status"]) == (200, "ended")
        assert stopped.json()["ended_reason"] == "stopped"

    async def test_the_personal_server_has_no_name(self, world: World) -> None:
        launch = (await call(world, "ann", "POST", "/launches", {})).json()
        assert (launch["server_name"], launch["notebook_url"]) == ("", "/user/ann/lab")
        assert ("POST", "/hub/api/users/ann/server") in world.hub.asked

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"workspace": "secret"}, 404, "unknown_workspace"),
            ({"workspace": "a" * 31}, 400, "invalid_name"),
            ({"workspace": "demo", "resources": {"memory": "lots"}}, 400, "invalid_resources"),
            ({"workspace": "demo", "template": "no-such"}, 404, "unknown_template"),
            ({"workspace": "demo", "profile": "no-such"}, 404, "unknown_profile"),
            ({"workspace": "demo", "profile": "gpu"}, 403, "profile_closed"),
            ({"workspace": "demo", "resources": {"cpu": 64}}, 403, "profile_closed"),
            ({"workspace": "demo", "user": "bob"}, 403, "forbidden"),
            ({"workspace": "demo", "git_repo": "x"}, 400, "invalid_request"),
        ],
    )
    async def test_a_refusal_keeps_its_code_and_leaves_nothing(
        self, world: World, body: dict[str, Any], status: int, code: str
    ) -> None:
        await make_demo(world)
        world.hub.add("eve", scopes=(USE, MANAGE))
        await call(world, "eve", "POST", "/workspaces", {"name": "secret"})
        assert error(await call(world, "ann", "POST", "/launches", body)) == (status, code)
        assert (await call(world, "ann", "GET", "/launches")).json() == {"launches": []}

    @pytest.mark.parametrize("slow", [False, True])
    async def test_the_limit_is_told_with_its_figures_however_late_the_spawner_asks(
        self, world: World, slow: bool
    ) -> None:
        await make_demo(world)
        for name in ("one", "two", "three"):
            await call(world, "ann", "POST", "/launches", {"workspace": "demo", "server_name": name})
        world.hub.slow = slow
        answer = await call(world, "ann", "POST", "/launches", {"workspace": "demo"})
        assert error(answer) == (403, "quota_exceeded")
        details = answer.json()["error"]["details"]
        assert (details["limit"], details["value"], details["in_use"]) == ("max_concurrent_notebooks", 3, 3)
        assert "one, three, two" in answer.json()["error"]["message"]

    async def test_a_slow_start_is_202_and_goes_on(self, world: World) -> None:
        world.hub.slow = True
        answer = await call(world, "ann", "POST", "/launches", {})
        assert answer.status_code in (201, 202)
        path = f"/launches/{answer.json()['session_id']}"

        async def runs() -> bool:
            return (await call(world, "ann", "GET", path)).json()["status"] == "running"

        await until(runs, "the server does not run")

    async def test_a_server_that_does_not_come_up_is_a_failure_with_the_reason(self, world: World) -> None:
        world.hub.fails = True
        answer = await call(world, "ann", "POST", "/launches", {})
        assert error(answer) == (502, "start_failed")
        assert "the image cannot be pulled" in answer.json()["error"]["message"]

    async def test_a_spawner_that_never_asks_is_a_time_out(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("maestro_hub_services.workspaces.domain.launching.DECISION_SECONDS", 0.05)
        world.hub.silent = True
        assert error(await call(world, "ann", "POST", "/launches", {})) == (504, "timeout")

    async def test_a_second_start_of_a_running_server_is_told_so(self, world: World) -> None:
        first = (await call(world, "ann", "POST", "/launches", {})).json()
        again = await call(world, "ann", "POST", "/launches", {})
        assert error(again) == (409, "server_running")
        assert again.json()["error"]["details"]["session_id"] == first["session_id"]

    async def test_two_starts_of_one_server_at_once_are_one_launch(self, world: World) -> None:
        world.hub.slow = True
        answers = await asyncio.gather(*(call(world, "ann", "POST", "/launches", {}) for _ in range(5)))
        assert {answer.status_code for answer in answers} <= {201, 202, 409}
        assert len((await call(world, "ann", "GET", "/launches")).json()["launches"]) == 1

    async def test_an_admin_starts_and_stops_for_others(self, world: World) -> None:
        launch = await call(world, "root", "POST", "/launches", {"user": "ann"})
        assert (launch.status_code, launch.json()["user"]) == (201, "ann")
        session = launch.json()["session_id"]
        assert error(await call(world, "bob", "DELETE", f"/launches/{session}")) == (404, "unknown_launch")
        everything = (await call(world, "root", "GET", "/launches?all=1")).json()["launches"]
        assert [one["session_id"] for one in everything] == [session]
        assert (await call(world, "root", "DELETE", f"/launches/{session}")).status_code == 200

    async def test_a_hub_that_is_away_starts_nothing(self, world: World) -> None:
        assert (await call(world, "ann", "GET", "/me")).status_code == 200
        world.hub.down = True  # the caller is still believed for a moment
        assert error(await call(world, "ann", "POST", "/launches", {})) == (503, "hub_unavailable")

    async def test_a_broken_policy_at_the_start_admits_nothing_and_says_the_line(self, tmp_path: Path) -> None:
        async with running_world(tmp_path / "broken", "quotas:\n  everyone: {max_cpu_per_notebook: lots}\n") as world:
            answer = await call(world, "ann", "POST", "/launches", {})
            assert error(answer) == (400, "invalid_policy")
            assert "max_cpu_per_notebook" in answer.text
            assert "max_cpu_per_notebook" in (await call(world, "root", "GET", "/me")).json()["notices"][0]


class TestForms:
    async def form(self, world: World, name: str, server: str) -> dict[str, Any]:
        body = {"user": world.hub.users[name].model_dump(mode="json"), "server_name": server}
        answer = await call(world, "maestro-spawner", "POST", "/plan/form", body)
        assert answer.status_code == 200
        return answer.json()

    async def test_it_shows_what_this_person_may_have_here(self, world: World) -> None:
        await make_demo(world)
        shown = await self.form(world, "ann", "demo")
        assert (shown["workspace"], shown["role"], shown["refusal"]) == ("demo", "owner", None)
        assert [profile["name"] for profile in shown["profiles"]] == ["small", "large"]
        assert shown["servers"] == {"used": 0, "limit": 3} and shown["experiment"] == "demo"
        assert {template["name"] for template in shown["templates"]} >= {"data-exploration", "start-here"}

    async def test_it_is_filled_in_with_the_workspaces_own_amounts_where_they_can_be_had(self, world: World) -> None:
        for name, cpu in (("modest", 0.5), ("greedy", 8)):
            spec = {"name": name, "resources": {"cpu": cpu, "memory": "1g"}}
            assert (await call(world, "ann", "POST", "/workspaces", spec)).status_code == 201
        own = (await self.form(world, "ann", "modest"))["own"]
        assert (own["shown"], own["profile"], own["refusal"]) == ("0.5 cpu, 1 GiB", "small", None)
        path = "/quotas/max_cpu_per_notebook"
        await call(world, "root", "PUT", path, {"level": "user", "name": "ann", "value": 2})
        own = (await self.form(world, "ann", "greedy"))["own"]
        assert own["profile"] is None and "at most 2 cpu a server" in own["refusal"]

    async def test_a_refusal_is_shown_and_its_row_at_the_hub_is_noted(self, world: World) -> None:
        shown = await self.form(world, "eve", "secret")
        assert shown["workspace"] is None and "'secret'" in shown["refusal"]
        assert world.authority.leftovers.take() == [("eve", "secret")]

    async def test_the_unnamed_server_opens_the_personal_workspace(self, world: World) -> None:
        shown = await self.form(world, "ann", "")
        assert (shown["workspace"], shown["personal"]) == (PERSONAL_OF_ANN, True)

    async def test_a_full_quota_refuses_every_profile_with_the_sentence(self, world: World) -> None:
        for name in ("one", "two", "three"):
            await call(world, "ann", "POST", "/launches", {"server_name": name})
        shown = await self.form(world, "ann", "")
        assert "3 of 3 servers" in shown["refusal"]
        assert not any(profile["allowed"] for profile in shown["profiles"])
        profiles = (await call(world, "ann", "GET", "/profiles")).json()["profiles"]
        assert profiles == shown["profiles"]


class TestLimits:
    async def test_each_figure_with_what_is_in_use_and_who_set_it(self, world: World) -> None:
        await call(world, "ann", "POST", "/launches", {})
        shown = (await call(world, "ann", "GET", "/workspaces/personal/limits")).json()
        assert shown["workspace"] == PERSONAL_OF_ANN
        by_name = {limit["name"]: limit for limit in shown["limits"]}
        servers = by_name["max_concurrent_notebooks"]
        assert (servers["value"], servers["in_use"], servers["source"]) == (3, 1, "everyone")
        assert by_name["max_cpu_per_notebook"]["in_use"] is None


class TestMachines:
    async def test_mlflow_hears_all_of_a_person_and_one_of_a_notebook(self, world: World) -> None:
        await make_demo(world, {"user": "bob", "role": "viewer"})
        mine = await call(world, "mlflow", "POST", "/authorize/tracking", {"user": "ann"})
        assert mine.json()["workspaces"] == {
            "demo": {"role": "owner", "experiment": None},
            PERSONAL_OF_ANN: {"role": "owner", "experiment": None},
        }
        await call(world, "ann", "POST", "/launches", {"workspace": "demo"})
        inside = await call(world, "mlflow", "POST", "/authorize/tracking", {"user": "ann", "servers": ["demo"]})
        assert inside.json()["workspaces"] == {"demo": {"role": "editor", "experiment": None}}
        stopped = await call(world, "mlflow", "POST", "/authorize/tracking", {"user": "ann", "servers": ["other"]})
        assert stopped.json()["workspaces"] == {}

    async def test_a_viewers_notebook_writes_to_one_experiment_of_the_personal_workspace(self, world: World) -> None:
        await make_demo(world, {"user": "bob", "role": "viewer"})
        launch = (await call(world, "bob", "POST", "/launches", {"workspace": "demo"})).json()
        assert launch["mlflow_experiment"] == "from-demo"
        answer = await call(world, "mlflow", "POST", "/authorize/tracking", {"user": "bob", "servers": ["demo"]})
        personal = personal_workspace_name("bob", CREATED)
        assert answer.json()["workspaces"] == {
            "demo": {"role": "viewer", "experiment": None},
            personal: {"role": "editor", "experiment": "from-demo"},
        }
        await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")
        answer = await call(world, "mlflow", "POST", "/authorize/tracking", {"user": "bob", "servers": ["demo"]})
        assert answer.json()["workspaces"] == {}

    async def test_mlflow_hears_that_a_user_is_unknown(self, world: World) -> None:
        answer = await call(world, "mlflow", "POST", "/authorize/tracking", {"user": "nobody"})
        assert error(answer) == (404, "unknown_user")

    async def test_who_leaves_a_group_is_out_in_the_next_answer(self, world: World) -> None:
        """MLflow and the index keep an answer for 5 s; what they get must not be 5 s old already."""
        world.hub.move("bob", "team")
        await make_demo(world, {"group": "team", "role": "editor"})
        await call(world, "bob", "POST", "/launches", {"workspace": "demo"})
        plan = world.hub.servers["bob", "demo"].plan
        assert plan is not None
        token = {"token": plan.index_token}
        assert "demo" in (await call(world, "mlflow", "POST", "/authorize/tracking", {"user": "bob"})).text
        assert (await call(world, "packages", "POST", "/policy/tokens", token)).status_code == 200
        world.hub.move("bob")
        assert "demo" not in (await call(world, "mlflow", "POST", "/authorize/tracking", {"user": "bob"})).text
        assert error(await call(world, "packages", "POST", "/policy/tokens", token)) == (404, "unknown_launch")

    async def test_an_index_token_lives_as_long_as_its_launch_and_membership(self, world: World) -> None:
        await make_demo(world, {"user": "bob", "role": "editor"})
        plans = []
        for name in ("ann", "bob"):
            await call(world, name, "POST", "/launches", {"workspace": "demo"})
            plans.append(world.hub.servers[name, "demo"].plan)

        async def owner(token: str) -> httpx.Response:
            return await call(world, "packages", "POST", "/policy/tokens", {"token": token})

        of_ann, of_bob = plans
        assert (await owner(of_ann.index_token)).json() == {
            "launch_id": of_ann.launch_id,
            "user": "ann",
            "workspace": "demo",
        }
        assert error(await owner("guessed")) == (404, "unknown_launch")
        await call(world, "ann", "DELETE", f"/launches/{of_ann.launch_id}")
        assert error(await owner(of_ann.index_token)) == (404, "unknown_launch")
        await call(world, "ann", "DELETE", "/workspaces/demo/members/user/bob")
        assert error(await owner(of_bob.index_token)) == (404, "unknown_launch")

    async def test_the_index_asks_for_a_policy_by_revision(self, world: World) -> None:
        await make_demo(world)
        async with world.client("packages") as client:
            answer = await client.get("/policy/packages", params={"workspace": "demo"})
            assert answer.status_code == 200
            etag = answer.headers["ETag"]
            assert answer.json()["revision"] in etag
            again = await client.get("/policy/packages", params={"workspace": "demo"}, headers={"If-None-Match": etag})
            assert (again.status_code, again.content) == (304, b"")
            assert (
                error(await client.get("/policy/packages", params={"workspace": "nothing"}))[1] == "unknown_workspace"
            )

    async def test_confirm_and_release_may_be_repeated(self, world: World) -> None:
        body = ask(user("ann")).model_dump(mode="json")
        launch_id = (await call(world, "maestro-spawner", "POST", "/plan/launches", body)).json()["launch_id"]
        path = f"/plan/launches/{launch_id}"
        for step, body, status in (("confirm", {}, "running"), ("release", {"reason": "x"}, "ended")):
            for _ in range(2):
                answer = await call(world, "maestro-spawner", "POST", f"{path}/{step}", body)
                assert answer.json() == {"launch_id": launch_id, "status": status}
        assert error(await call(world, "maestro-spawner", "POST", f"{path}/confirm", {})) == (409, "conflict")
        unknown = await call(world, "maestro-spawner", "POST", "/plan/launches/l-0/confirm", {})
        assert error(unknown) == (404, "unknown_launch")

    @pytest.mark.parametrize("name", MACHINES)
    async def test_a_machines_token_does_its_own_work_only(self, world: World, name: str) -> None:
        for route in ROUTES:
            if route.scope and route.scope != MACHINES[name] and "{" not in route.path:
                assert error(await call(world, name, route.method, route.path)) == (403, "forbidden")


def test_the_api_base_is_what_the_client_expects() -> None:
    from notebooks.settings import API_PATH

    assert f"/{API_PATH}" == API


async def test_fifty_questions_with_one_token_are_one_question_to_the_hub(world: World) -> None:
    """The spawner's token comes with each start; looking it up costs the Hub more than all else that we add to one."""
    async with world.client("maestro-spawner") as spawner:
        asked = [{"user": {"name": f"p{number}", "created": CREATED}, "server_name": ""} for number in range(50)]
        answers = await asyncio.gather(*(spawner.post("/plan/launches", json=question) for question in asked))
    assert {answer.status_code for answer in answers} == {201}
    assert sum(path == "/hub/api/user" for _, path in world.hub.asked) == 1
