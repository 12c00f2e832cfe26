"""Requests for packages: asked, joined, reviewed, approved, denied; what installs afterwards, and who may do which."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from pydantic import ValidationError

from maestro_core.errors import MaestroError
from maestro_core.packages import CompiledPolicy, decide
from maestro_core.requests import (
    MAX_PENDING,
    Approval,
    ForceSpec,
    PackageAsk,
    RequestView,
    approved_versions,
    major_range,
)
from maestro_hub_services.store.events import DIFFERENT
from maestro_hub_services.workspaces.domain.packages import overlap
from notebooks.cli import main as cli
from tests.workspaces_kit import POLICY_TEXT, World, running_world

POLICY = (
    POLICY_TEXT
    + """
packages:
  approval_required: [tensorflow, keras, pandas>=3]
  blocked_packages: [{package: requests, reason: use our client}]
  reviewers:
    - {user: kim, workspaces: [demo]}
    - {group: leads}
"""
)


class Team:
    """A workspace ``demo`` of ann's with bob in it; kim reviews for it, lea for all, root is admin."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def call(self, who: str, method: str, path: str, body: Any = None, **query: Any) -> httpx.Response:
        async with self.world.client(who) as client:
            return await client.request(method, path, json=body, params=query)

    async def ask(self, who: str = "ann", package: str = "tensorflow", workspace: str = "demo", **more: Any) -> Any:
        answer = await self.call(who, "POST", f"/workspaces/{workspace}/packages", {"package": package, **more})
        return answer.json() | {"status": answer.status_code}

    async def approve(self, request_id: str, who: str = "kim", **body: Any) -> httpx.Response:
        return await self.call(who, "POST", f"/requests/{request_id}/approve", body)

    async def policy(self, workspace: str = "demo") -> CompiledPolicy:
        async with self.world.client("packages") as client:
            answer = await client.get("/policy/packages", params={"workspace": workspace})
        return CompiledPolicy.model_validate_json(answer.content)

    async def allowed(self, package: str, version: str, workspace: str = "demo") -> bool:
        return decide(await self.policy(workspace), package, version).allowed

    async def facts(self, request_id: str, *closure: tuple[str, str], version: str = "2.16.1", **more: Any) -> None:
        """What the index's service finds."""
        items = [{"name": name, "version": number} for name, number in closure]
        facts = {"checked_at": datetime.now(UTC).isoformat(), "version": version, "closure": items, **more}
        async with self.world.client("packages") as client:
            answer = await client.post("/policy/requests", json={"request_id": request_id, "facts": facts})
        assert answer.status_code == 204, answer.text

    async def events(self, *kinds: str) -> list[str]:
        async with self.world.authority.store.read() as unit:
            return [event.kind for event in await unit.events.latest(kinds=kinds)]


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat()


@pytest.fixture
async def team(tmp_path: Path) -> AsyncIterator[Team]:
    async with running_world(tmp_path / "state", POLICY) as world:
        world.hub.add("kim")
        world.hub.add("lea", "leads")
        team = Team(world)
        for name in ("demo", "other"):
            assert (await team.call("ann", "POST", "/workspaces", {"name": name})).status_code == 201
        member = {"user": "bob", "role": "editor"}
        assert (await team.call("ann", "PUT", "/workspaces/demo/members", member)).status_code == 200
        yield team


class TestAsking:
    async def test_what_is_allowed_becomes_part_of_the_environment(self, team: Team) -> None:
        answer = await team.ask(package="numpy", version="1.24.0")  # as the second seed writes it
        assert (answer["status"], answer["answer"], answer["version"]) == (200, "allowed", "==1.24.0")
        assert answer["message"].startswith("numpy==1.24.0 is part of demo: version 1 of its environment")
        environment = (await team.call("ann", "GET", "/workspaces/demo/environment")).json()
        assert environment["requirements"] == ["numpy==1.24.0"]

    async def test_who_asks_only_whether_it_may_be_installed_is_told_so(self, team: Team) -> None:
        answer = await team.ask(package="numpy", version="1.24.0", install=False)
        assert answer["message"] == "numpy==1.24.0 may be installed in demo."
        assert (await team.call("ann", "GET", "/workspaces/demo/environment")).json()["version"] == 0

    async def test_what_is_blocked_is_refused_with_the_policys_sentence(self, team: Team) -> None:
        answer = await team.ask(package="Requests")
        assert (answer["status"], answer["error"]["code"]) == (403, "package_blocked")
        assert "requests is blocked by the global policy (rule requests): use our client." in answer["error"]["message"]
        assert await team.events("package_refused") == ["package_refused"]

    async def test_a_loop_of_questions_is_counted_on_few_events(self, team: Team) -> None:
        for number in range(DIFFERENT + 3):
            await team.ask(package="requests")
            await team.ask("bob", reason=f"reason {number}")
        await team.ask(package="requests", workspace="other")
        async with team.world.authority.store.read() as unit:
            other, refused = await unit.events.latest(kinds=("package_refused",))
            asked = await unit.events.latest(kinds=("package_requested",))
            places = [(await unit.workspaces.by_name(name)).id for name in ("demo", "other")]
        assert (refused.count, refused.workspace_id, refused.fields["package"]) == (
            DIFFERENT + 3,
            places[0],
            "requests",
        )
        assert (other.count, other.workspace_id) == (1, places[1])
        assert [one.count for one in asked] == [3] + [1] * DIFFERENT
        assert (asked[0].workspace_id, asked[1].workspace_id) == (None, places[0])

    async def test_what_is_held_back_becomes_a_request(self, team: Team) -> None:
        answer = await team.ask(version="2.16.1", reason="For the\n demo")
        assert (answer["status"], answer["answer"]) == (202, "requested")
        request = answer["request"]
        assert (request["status"], request["package"], request["version"]) == ("pending", "tensorflow", "==2.16.1")
        assert request["askers"][0] | {"asked_at": None} == {
            "user": "ann", "version": "==2.16.1", "reason": "For the demo", "asked_at": None,
        }  # fmt: skip
        assert request["may_decide"] is False
        mine = (await team.call("ann", "GET", "/requests")).json()["requests"]
        assert [one["request_id"] for one in mine] == [request["request_id"]]
        assert await team.events("package_requested") == ["package_requested"]

    async def test_a_rule_about_versions_holds_back_these_alone(self, team: Team) -> None:
        assert (await team.ask(package="pandas"))["answer"] == "allowed"
        assert (await team.ask(package="pandas", version="2.2"))["answer"] == "allowed"
        assert (await team.ask(package="pandas", version="3.0"))["answer"] == "requested"

    async def test_whoever_asks_for_the_same_joins_and_asking_again_replaces(self, team: Team) -> None:
        first = await team.ask("ann", reason="one")
        second = await team.ask("bob", "TensorFlow", version="2.15", reason="two")
        assert second["request"]["request_id"] == first["request"]["request_id"]
        again = await team.ask("ann", reason="three")
        assert [(one["user"], one["reason"]) for one in again["request"]["askers"]] == [
            ("bob", "two"),
            ("ann", "three"),
        ]

    async def test_a_twin_in_other_letters_is_no_package(self, team: Team) -> None:
        answer = await team.ask(package="tensorfl\u043ew")
        assert (answer["status"], answer["error"]["code"]) == (400, "invalid_request")
        assert "only looks like a-z" in answer["error"]["message"]

    async def test_strangers_find_neither_workspace_nor_request(self, team: Team) -> None:
        assert (await team.ask("eve"))["error"]["code"] == "unknown_workspace"
        made = (await team.ask())["request"]["request_id"]
        hidden = await team.call("eve", "GET", f"/requests/{made}")
        missing = await team.call("eve", "GET", "/requests/r-none")
        assert hidden.status_code == missing.status_code == 404
        assert hidden.json()["error"]["code"] == missing.json()["error"]["code"] == "unknown_request"
        assert (await team.call("bob", "GET", f"/requests/{made}")).status_code == 200  # a member of the workspace

    async def test_who_has_left_the_workspace_sees_their_own_words_alone(self, team: Team) -> None:
        made = (await team.ask("bob", reason="mine"))["request"]["request_id"]
        await team.ask("ann", reason="hers")
        assert len((await team.call("bob", "GET", f"/requests/{made}")).json()["askers"]) == 2
        assert (await team.call("ann", "DELETE", "/workspaces/demo/members/user/bob")).status_code == 204
        seen = (await team.call("bob", "GET", "/requests")).json()["requests"]
        assert [one["reason"] for one in seen[0]["askers"]] == ["mine"]

    async def test_a_person_has_so_many_pending(self, team: Team) -> None:
        async with team.world.authority.store.write() as unit:
            place = await unit.workspaces.by_name("demo")
            ann = team.world.hub.users["ann"]
            for number in range(MAX_PENDING):
                row = await unit.requests.add(place.id, f"package-{number}", "pypi", "", rule="", sentence="")
                await unit.requests.join(row.id, "ann", ann.created, "", "")
        answer = await team.ask()
        assert (answer["status"], answer["error"]["details"]["value"]) == (409, MAX_PENDING)
        assert (await team.call("ann", "DELETE", f"/requests/{row.id}")).status_code == 204
        assert (await team.ask())["status"] == 202

    async def test_withdrawn_by_the_last_who_asks(self, team: Team) -> None:
        made = (await team.ask("ann"))["request"]["request_id"]
        await team.ask("bob")
        assert (await team.call("ann", "DELETE", f"/requests/{made}")).status_code == 204
        seen = (await team.call("bob", "GET", f"/requests/{made}")).json()
        assert (seen["status"], [one["user"] for one in seen["askers"]]) == ("pending", ["bob"])
        assert (await team.call("bob", "DELETE", f"/requests/{made}")).status_code == 204
        assert (await team.call("bob", "GET", f"/requests/{made}")).json()["status"] == "withdrawn"
        assert (await team.call("bob", "DELETE", f"/requests/{made}")).json()["error"]["code"] == "conflict"

    async def test_a_check_asks_nobody(self, team: Team) -> None:
        found = {
            package: (await team.call("ann", "GET", f"/packages/{package}", workspace="demo")).json()["answer"]
            for package in ("numpy", "tensorflow", "requests")
        }
        assert found == {"numpy": "allowed", "tensorflow": "held_back", "requests": "blocked"}
        assert (await team.call("ann", "GET", "/requests")).json() == {"requests": []}


class TestDeciding:
    async def test_an_approval_installs_its_major_version_in_its_workspace(self, team: Team) -> None:
        made = (await team.ask(version="2.16.1"))["request"]["request_id"]
        before = (await team.policy()).revision
        answer = (await team.approve(made, reason="fine")).json()
        assert (answer["status"], answer["decided_by"], answer["answer"]) == ("approved", "kim", "fine")
        assert answer["approved"] == [
            {"package": "tensorflow", "versions": "<3,>=2", "channel": "pypi", "level": "workspace"}
        ]
        assert (await team.policy()).revision != before
        assert await team.allowed("tensorflow", "2.19")
        assert not await team.allowed("tensorflow", "3.0")
        assert not await team.allowed("tensorflow", "2.16.1", "other")
        assert (await team.ask())["answer"] == "allowed"
        assert await team.events("package_approved") == ["package_approved"]

    @pytest.mark.parametrize(
        ("body", "versions"),
        [({"version": "2.16.1"}, "==2.16.1"), ({"range": ">=2,<2.17"}, "<2.17,>=2"), ({"all": True}, "")],
    )
    async def test_or_what_the_reviewer_says(self, team: Team, body: dict[str, Any], versions: str) -> None:
        made = (await team.ask())["request"]["request_id"]
        assert (await team.approve(made, **body)).json()["approved"][0]["versions"] == versions

    async def test_one_decision_covers_what_comes_with_it(self, team: Team) -> None:
        made = (await team.ask())["request"]["request_id"]
        wanted = (await team.call("packages", "GET", "/policy/requests")).json()["wanted"]
        assert wanted == [
            {"request_id": made, "workspace": "demo", "package": "tensorflow", "version": "", "channel": "pypi"}
        ]
        await team.facts(made, ("tensorflow", "2.16.1"), ("keras", "3.4"), ("numpy", "1.26"), ("requests", "2.32"))
        assert (await team.call("packages", "GET", "/policy/requests")).json()["wanted"] == []
        review = (await team.call("kim", "GET", f"/requests/{made}")).json()["review"]
        assert (review["held_back"], review["blocked"], review["proposed"]) == (["keras"], ["requests"], "<3,>=2")
        assert [item["action"] for item in review["closure"]] == ["ask", "ask", "allow", "block"]
        assert (await team.call("ann", "GET", f"/requests/{made}")).json()["review"] is None
        rules = (await team.approve(made)).json()["approved"]
        assert {rule["package"]: rule["versions"] for rule in rules} == {"tensorflow": "<3,>=2", "keras": "<4,>=3"}
        assert await team.allowed("keras", "3.9") and not await team.allowed("keras", "4.0")
        assert not await team.allowed("requests", "2.32")

    async def test_what_nobody_has_looked_into_comes_first_then_what_was_longest_ago(self, team: Team) -> None:
        async def wanted() -> list[str]:
            answer = await team.call("packages", "GET", "/policy/requests")
            return [one["package"] for one in answer.json()["wanted"]]

        made = [(await team.ask(package=name))["request"]["request_id"] for name in ("tensorflow", "keras")]
        assert await wanted() == ["tensorflow", "keras"]
        await team.facts(made[0], problem="It cannot be known.", checked_at=ago(minutes=11))
        assert await wanted() == ["keras", "tensorflow"]
        await team.facts(made[1], problem="It cannot be known.", checked_at=ago(minutes=12))
        assert await wanted() == ["keras", "tensorflow"]

    async def test_the_reviewer_sees_advisories_near_misses_and_sources(self, team: Team) -> None:
        made = (await team.ask())["request"]["request_id"]
        record = {"id": "GHSA-1", "package": "keras", "ranges": [{"introduced": "0", "fixed": "3.5"}]}
        batch = {"import_id": "0" * 16, "advisories": [record], "last": True}
        taken = await team.call("root", "POST", "/advisories", batch)
        assert taken.status_code == 200, taken.text
        items = [
            {"name": "tensorflow", "version": "2.16"},
            {"name": "keras", "version": "3.4", "required_by": ["tensorflow"]},
            {"name": "reqeusts", "version": "1", "required_by": ["keras"], "wheel": False},
        ]
        facts = {"checked_at": datetime.now(UTC).isoformat(), "version": "2.16", "closure": items}
        await team.call("packages", "POST", "/policy/requests", {"request_id": made, "facts": facts})
        answer = await team.call("kim", "GET", f"/requests/{made}")
        review = RequestView.model_validate_json(answer.content).review
        assert review is not None
        notes = " ".join(review.notes())
        assert "keras 3.4 has known advisories: GHSA-1." in notes
        assert "reqeusts, which it needs, is almost the name of requests" in notes
        assert "no wheel for servers here of reqeusts" in notes
        assert "part of the environment" not in notes
        async with team.world.authority.store.write() as unit:
            other = await unit.workspaces.by_name("other")
            await unit.environments.add(other.id, 0, "ann", ("TensorFlow<3",), reason="")
        answer = await team.call("kim", "GET", f"/requests/{made}")
        assert (
            "It is part of the environment of other." in RequestView.model_validate_json(answer.content).review.notes()
        )

    async def test_of_a_conda_channel_nobody_looks_into_it_and_the_reviewer_is_told(self, team: Team) -> None:
        made = (await team.ask(package="conda-forge::tensorflow"))["request"]["request_id"]
        assert (await team.call("packages", "GET", "/policy/requests")).json()["wanted"] == []
        review = RequestView.model_validate((await team.call("kim", "GET", f"/requests/{made}")).json()).review
        assert review is not None and "its solver is conda's" in " ".join(review.notes())
        approved = (await team.approve(made, range="<3")).json()["approved"]
        assert approved == [{"package": "tensorflow", "versions": "<3", "channel": "conda-forge", "level": "workspace"}]
        assert decide(await team.policy(), "tensorflow", "2.16", "conda-forge").allowed

    @pytest.mark.parametrize(("asked", "other"), [("conda-forge", "pypi"), ("pypi", "conda-forge")])
    async def test_an_approval_opens_the_package_of_its_channel_alone(self, team: Team, asked: str, other: str) -> None:
        made = (await team.ask(package="tensorflow", channel=asked))["request"]["request_id"]
        assert (await team.approve(made, all=True)).status_code == 200
        policy = await team.policy()
        assert decide(policy, "tensorflow", "2.16", asked).allowed
        assert not decide(policy, "tensorflow", "2.16", other).allowed, "another package of the same name"

    async def test_an_approval_means_what_the_reviewer_has_seen(self, team: Team) -> None:
        made = (await team.ask(version=">=0.1"))["request"]["request_id"]
        await team.facts(made, ("tensorflow", "2.16.1"), ("keras", "3.4"), checked_at=ago(minutes=2))
        review = (await team.call("kim", "GET", f"/requests/{made}")).json()["review"]
        seen = review["facts"]["checked_at"]
        assert (await team.call("ann", "POST", "/workspaces/demo/packages/clear-cache")).status_code == 200
        refused = await team.approve(made, checked_at=seen)
        assert (refused.status_code, refused.json()["error"]["details"]) == (409, {"checked_at": "none"})
        assert (await team.approve(made)).json()["error"]["code"] == "invalid_request", "what was asked is no answer"
        assert (await team.call("kim", "GET", f"/requests/{made}")).json()["review"]["proposed"] == ""
        await team.facts(made, ("tensorflow", "3.0"), version="3.0")
        for old in (seen, "none"):
            assert (await team.approve(made, checked_at=old)).status_code == 409
        seen = (await team.call("kim", "GET", f"/requests/{made}")).json()["review"]["facts"]["checked_at"]
        assert (await team.approve(made, checked_at=seen)).json()["approved"][0]["versions"] == "<4,>=3"

    async def test_without_any_known_version_the_reviewer_has_to_say_which(self, team: Team) -> None:
        made = (await team.ask())["request"]["request_id"]
        assert (await team.approve(made)).json()["error"]["details"] == {"field": "range"}

    async def test_a_block_holds_whatever_a_reviewer_approves(self, team: Team) -> None:
        made = (await team.ask(version="2.16"))["request"]["request_id"]
        assert (await team.approve(made)).status_code == 200
        later = (await team.ask(package="keras", version="3.4"))["request"]["request_id"]
        await self.rewrite(team, "approval_required: [tensorflow, keras", "blocked_packages: [tensorflow, keras")
        assert not await team.allowed("tensorflow", "2.16")
        refused = await team.approve(later, who="root", everywhere=True)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert "An approval would change nothing: keras is blocked" in refused.json()["error"]["message"]

    @staticmethod
    async def rewrite(team: Team, old: str, new: str) -> None:
        authority = team.world.authority
        text = authority.settings.policy.read_text()
        assert old in text
        blocked = "  blocked_packages: [{package: requests, reason: use our client}]\n"
        authority.settings.policy.write_text(text.replace(blocked, "").replace(old, new))
        await authority.policy.reload(authority.store)

    async def test_everywhere_is_an_admins_and_answers_the_same_elsewhere(self, team: Team) -> None:
        here = (await team.ask())["request"]["request_id"]
        there = (await team.ask(workspace="other"))["request"]["request_id"]
        assert (await team.approve(here, everywhere=True, all=True)).json()["error"]["code"] == "forbidden"
        assert (await team.approve(here, who="root", everywhere=True, all=True)).status_code == 200
        assert await team.allowed("tensorflow", "9", "other")
        assert (await team.call("ann", "GET", f"/requests/{there}")).json()["status"] == "approved"

    async def test_until_a_date(self, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
        made = (await team.ask())["request"]["request_id"]
        yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
        assert (await team.approve(made, all=True, until=yesterday)).status_code == 400
        day = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
        answer = (await team.approve(made, all=True, until=day)).json()
        assert answer["until"] == f"{day}T23:59:59Z"
        assert await team.allowed("tensorflow", "2.16")
        from maestro_hub_services.store import clock

        wall = clock.read_wall
        monkeypatch.setattr(clock, "read_wall", lambda: wall() + 4 * 86400)
        assert not await team.allowed("tensorflow", "2.16")

    async def test_denied_with_a_reason(self, team: Team) -> None:
        made = (await team.ask())["request"]["request_id"]
        assert (await team.call("kim", "POST", f"/requests/{made}/deny", {})).status_code == 400
        answer = (await team.call("kim", "POST", f"/requests/{made}/deny", {"reason": "too large"})).json()
        assert (answer["status"], answer["answer"]) == ("denied", "too large")
        assert not await team.allowed("tensorflow", "2.16")
        again = await team.approve(made)
        assert "is denied by kim already" in again.json()["error"]["message"]
        assert (await team.ask())["request"]["request_id"] != made


class TestAnswers:
    async def test_the_notebook_of_whoever_asked_hears_at_once(self, team: Team) -> None:
        hub = team.world.hub
        assert (await hub.start("ann", "demo", {"workspace": "demo"}))[0] == 201
        launch = hub.servers["ann", "demo"].plan.launch_id
        first, second = (await team.ask())["request"]["request_id"], (await team.ask(package="keras"))["request"]
        async with team.world.client(token=hub.server_token("ann", "demo")) as client:
            asked = await client.get(f"/launches/{launch}/notices")
            assert asked.json() == {"notices": []}
            seen = asked.headers["ETag"].strip('"')
            waiting = asyncio.create_task(client.get(f"/launches/{launch}/notices", params={"wait": 20, "seen": seen}))
            await asyncio.sleep(0)
            await team.approve(first, all=True, reason="fine.")
            (notice,) = (await asyncio.wait_for(waiting, 10)).json()["notices"]
            assert notice["message"] == "tensorflow is approved by kim: fine. Install it now, no restart is needed."
            await team.call("kim", "POST", f"/requests/{second['request_id']}/deny", {"reason": "too large"})
            (notice,) = (await client.get(f"/launches/{launch}/notices")).json()["notices"]
        assert notice["message"].startswith("keras is denied by kim: too large. tensorflow is approved")

    async def test_for_others_of_the_workspace_it_is_no_news(self, team: Team) -> None:
        made = (await team.ask("ann"))["request"]["request_id"]
        await team.approve(made, all=True)
        hub = team.world.hub
        told = {}
        for name in ("ann", "bob"):
            await hub.start(name, "demo", {"workspace": "demo"})
            launch = hub.servers[name, "demo"].plan.launch_id
            async with team.world.client(token=hub.server_token(name, "demo")) as client:
                told[name] = len((await client.get(f"/launches/{launch}/notices")).json()["notices"])
        assert told == {"ann": 1, "bob": 0}


class TestReviewers:
    async def test_who_is_named_sees_what_waits(self, team: Team) -> None:
        await team.ask()
        await team.ask(workspace="other")
        seen = {
            who: [one["workspace"] for one in (await team.call(who, "GET", "/requests", review=1)).json()["requests"]]
            for who in ("ann", "kim", "lea", "root")
        }
        assert seen == {"ann": [], "kim": ["demo"], "lea": ["demo", "other"], "root": ["demo", "other"]}

    async def test_others_do_not_decide(self, team: Team) -> None:
        made = (await team.ask("bob", workspace="demo"))["request"]["request_id"]
        refused = (await team.approve(made, who="ann")).json()["error"]  # an owner is no reviewer
        assert refused["code"] == "forbidden" and "You do not decide about packages of demo" in refused["message"]
        elsewhere = (await team.ask(workspace="other"))["request"]["request_id"]
        assert (await team.approve(elsewhere, who="kim")).status_code == 404

    async def test_nobody_but_an_admin_approves_what_they_ask_themselves(self, team: Team) -> None:
        await team.call("ann", "PUT", "/workspaces/demo/members", {"user": "kim", "role": "editor"})
        made = (await team.ask("kim"))["request"]
        assert not made["may_decide"]
        refused = await team.approve(made["request_id"], who="kim", all=True)
        assert "another reviewer decides" in refused.json()["error"]["message"]

    async def test_a_notebook_servers_token_asks_in_its_workspace_and_decides_nothing(self, team: Team) -> None:
        hub = team.world.hub
        status, _ = await hub.start("root", "", {})
        assert status == 201
        token = hub.server_token("root", "")
        async with team.world.client(token=token) as client:
            made = (await client.post("/workspaces/personal/packages", json={"package": "tensorflow"})).json()
            assert made["answer"] == "requested" and made["request"]["may_decide"] is False
            request_id = made["request"]["request_id"]
            assert len((await client.get("/requests")).json()["requests"]) == 1
            assert (await client.get("/requests?review=1")).json() == {"requests": []}
            refused = await client.post(f"/requests/{request_id}/approve", json={"all": True})
        assert refused.json()["error"]["details"] == {"scope": "custom:maestro:review"}
        await hub.start("lea", "", {})
        async with team.world.client(token=hub.server_token("lea", "")) as client:  # she is named as reviewer
            await client.post("/workspaces/personal/packages", json={"package": "tensorflow"})
            assert (await client.get("/requests?review=1")).json() == {"requests": []}
            assert (await client.get(f"/requests/{request_id}")).status_code == 404
        other = (await team.ask("root", workspace="demo"))["request"]["request_id"]
        async with team.world.client(token=token) as client:
            assert (await client.get(f"/requests/{other}")).status_code == 404


class TestCommands:
    @pytest.fixture(autouse=True)
    def elsewhere(self, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("MAESTRO_SERVICE_URL", "JUPYTERHUB_API_TOKEN", "MAESTRO_WORKSPACE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("MAESTRO_URL", team.world.address)
        self.env = monkeypatch

    async def run(self, who: str, *arguments: str) -> Any:
        self.env.setenv("MAESTRO_TOKEN", f"token-of-{who}")
        return await asyncio.to_thread(CliRunner().invoke, cli, list(arguments), catch_exceptions=False)

    async def test_asked_reviewed_and_approved_in_a_terminal(self, team: Team) -> None:
        found = await self.run("ann", "check-package", "TensorFlow", "demo", "--version", "2.16.1")
        assert found.stdout.startswith(
            "held back: tensorflow needs an approval by the global policy (rule tensorflow)."
        )
        asked = await self.run("ann", "request", "demo", "tensorflow", "--reason", "for the demo", "--json")
        made = json.loads(asked.stdout)["request"]["request_id"]
        await team.facts(made, ("tensorflow", "2.16.1"), ("keras", "3.4"), ("reqeusts", "1"))
        listed = await self.run("kim", "review", "--pending")
        assert made in listed.stdout and "ann" in listed.stdout
        shown = (await self.run("kim", "review", made)).stdout
        assert "ann asks for tensorflow: for the demo" in shown
        assert "One decision covers what it needs and waits for an approval too: keras." in shown
        assert "No advisories are known here" in shown
        seen = shown.rpartition("--seen ")[2].strip()
        await team.facts(made, ("tensorflow", "2.16.1"), ("keras", "3.4"), ("torch", "1"))
        refused = await self.run("kim", "approve", made, "--seen", seen)
        assert refused.exit_code == 6 and "has changed since you looked" in refused.stderr
        done = await self.run("kim", "approve", made, "--reason", "fine")
        assert done.stdout == "Approved tensorflow<3,>=2, keras<4,>=3 in demo.\n"
        mine = await self.run("ann", "request", "--list")
        assert "approved" in mine.stdout and "by kim: fine" in mine.stdout
        assert (await self.run("ann", "request", "demo", "tensorflow")).stdout == (
            "tensorflow may be installed in demo.\n"
        )

    async def test_denied_and_withdrawn_in_a_terminal(self, team: Team) -> None:
        made = (await team.ask())["request"]["request_id"]
        assert (await self.run("kim", "deny", made, "--reason", "too large")).stdout == "Denied tensorflow for demo.\n"
        assert "by kim: too large" in (await self.run("ann", "request", "demo", "--list")).stdout
        again = (await team.ask())["request"]["request_id"]
        assert (await self.run("ann", "request", "--withdraw", again)).exit_code == 0
        assert (await self.run("kim", "review")).stdout == "Nothing waits for your decision.\n"

    async def test_refusals_are_one_sentence(self, team: Team) -> None:
        refused = await self.run("ann", "request", "demo", "requests")
        assert refused.exit_code == 5 and refused.stderr.startswith("Error: requests is blocked by the global policy")
        assert (await self.run("ann", "request", "demo")).exit_code == 2
        assert "with all of it said" in (await self.run("root", "install", "demo", "requests", "--force")).stderr
        forced = ("install", "demo", "requests==2.32", "--force", "--sha256", "A" * 64, "--reason", "an incident")
        assert (await self.run("root", *forced)).stdout.endswith("pip install requests==2.32\n")
        assert (await self.run("ann", *forced)).exit_code == 4
        assert "is no package name" in (await self.run("ann", "check-package", "a/b", "demo")).stderr


class TestLoops:
    """What one person can do over and over leaves no endless rows."""

    async def test_asked_and_withdrawn_again_is_the_same_request(self, team: Team) -> None:
        made = {(await team.ask())["request"]["request_id"]}
        for number in range(3):
            (own,) = made
            assert (await team.call("ann", "DELETE", f"/requests/{own}")).status_code == 204
            again = (await team.ask(reason=f"try {number}", version="2.16.1"))["request"]
            made.add(again["request_id"])
        assert len(made) == 1 and (again["status"], again["version"]) == ("pending", "==2.16.1")
        await team.call("ann", "DELETE", f"/requests/{own}")
        other = (await team.ask("bob"))["request"]["request_id"]
        assert other != own, "somebody else's is their own"

    async def test_of_what_somebody_has_withdrawn_the_newest_stay(self, team: Team) -> None:
        rules = {"approval_required": [f"thing-{number}" for number in range(MAX_PENDING + 5)]}
        await team.call("ann", "PATCH", "/workspaces/demo", {"security": rules})
        for number in range(MAX_PENDING + 5):
            made = (await team.ask(package=f"thing-{number}"))["request"]["request_id"]
            await team.call("ann", "DELETE", f"/requests/{made}")
        left = [one["package"] for one in (await team.call("ann", "GET", "/requests")).json()["requests"]]
        assert left == [f"thing-{number}" for number in reversed(range(5, MAX_PENDING + 5))]

    async def test_denials_of_the_index_are_counted_events(self, team: Team) -> None:
        hub = team.world.hub
        assert (await hub.start("ann", "demo", {}))[0] == 201
        (launch,) = (await team.call("ann", "GET", "/launches")).json()["launches"]
        denial = {"launch_id": launch["session_id"], "package": "requests", "action": "block", "rule": "requests",
                  "message": "no", "count": 3}  # fmt: skip
        stranger = denial | {"launch_id": "l-unknown"}
        async with team.world.client("packages") as client:
            for version in ("2.31", "2.32"):
                told = [denial | {"version": version}, stranger]
                assert (await client.post("/policy/denials", json={"denials": told})).status_code == 204
        async with team.world.client("ann") as client:
            assert (await client.post("/policy/denials", json={"denials": []})).status_code == 403
        async with team.world.authority.store.read() as unit:
            (event,) = await unit.events.latest(kinds=["download_denied"])
        assert (event.user, event.launch_id, event.count) == ("ann", launch["session_id"], 6)
        assert (event.fields["package"], event.fields["version"]) == ("requests", "2.32")


class TestForce:
    FILE = {"package": "Requests", "version": "2.32", "sha256": "a" * 64, "reason": "an incident"}

    async def test_an_admin_lets_one_file_into_one_workspace_for_a_while(self, team: Team) -> None:
        before = (await team.policy()).revision
        answer = await team.call("root", "POST", "/workspaces/demo/packages/force", self.FILE)
        assert answer.status_code == 200, answer.text
        policy, now = await team.policy(), datetime.now(UTC)
        assert policy.revision != before
        assert policy.grants_file("requests", "a" * 64, now + timedelta(minutes=14))
        assert not policy.grants_file("requests", "a" * 64, now + timedelta(minutes=16))
        assert not policy.grants_file("requests", "b" * 64, now)
        assert not policy.grants_file("urllib3", "a" * 64, now)
        assert not decide(policy, "requests", "2.32").allowed, "the rule stands"
        assert (await team.policy("other")).grants == ()
        assert await team.events("package_forced") == ["package_forced"]

    async def test_nobody_else_and_no_notebook_and_never_malware(self, team: Team) -> None:
        hub = team.world.hub
        assert (await hub.start("root", "", {}))[0] == 201
        for token in ("token-of-ann", "token-of-kim", hub.server_token("root", "")):
            async with team.world.client(token=token) as client:
                refused = await client.post("/workspaces/demo/packages/force", json=self.FILE)
            assert refused.json()["error"]["code"] == "forbidden"
        batch = {"import_id": "0" * 16, "advisories": [{"id": "MAL-1", "package": "requests"}], "last": True}
        assert (await team.call("root", "POST", "/advisories", batch)).status_code == 200
        refused = await team.call("root", "POST", "/workspaces/demo/packages/force", self.FILE)
        assert "known malware (MAL-1)" in refused.json()["error"]["message"]
        assert (await team.policy()).grants == ()

    @pytest.mark.parametrize("wrong", [{"sha256": "A" * 64}, {"version": ">=1"}, {"reason": " "}, {"package": "a/b"}])
    async def test_all_of_it_has_to_be_said(self, wrong: dict[str, str]) -> None:
        with pytest.raises(ValidationError):
            ForceSpec.model_validate(self.FILE | wrong)


class TestClearing:
    async def test_the_index_is_told_to_ask_anew_and_facts_are_found_anew(self, team: Team) -> None:
        made = (await team.ask())["request"]["request_id"]
        await team.facts(made, ("tensorflow", "2.16"), checked_at=ago(minutes=2))
        assert (await team.policy()).anew is None
        path = "/workspaces/demo/packages/clear-cache"
        cleared = (await team.call("bob", "POST", path)).json()["at"]
        for workspace in ("demo", "other"):
            assert (await team.policy(workspace)).anew == datetime.fromisoformat(cleared)
        assert len((await team.call("packages", "GET", "/policy/requests")).json()["wanted"]) == 1
        await team.facts(made, ("tensorflow", "2.16"))
        assert (await team.call("bob", "POST", path)).json()["at"] == cleared, "again at once is the same"
        assert (await team.call("packages", "GET", "/policy/requests")).json()["wanted"] == [], (
            "and looks at nothing anew"
        )
        assert (await team.call("eve", "POST", path)).status_code == 404


class TestRules:
    @pytest.mark.parametrize(
        ("version", "versions"),
        [("1.24.0", "<2,>=1"), ("0.3", "<1,>=0"), ("1!2.0", "<1!3,>=1!2"), ("2.0rc1", "<3,>=2.0rc1"), ("x", "===x")],
    )
    def test_up_to_the_next_major_version(self, version: str, versions: str) -> None:
        assert major_range(version) == versions

    @given(st.from_regex(r"([0-9]{1,2}!)?[0-9]{1,4}(\.[0-9]{1,3}){0,2}(rc[0-9])?", fullmatch=True))
    def test_a_major_range_covers_its_version_and_not_the_next_major(self, text: str) -> None:
        allowed = SpecifierSet(major_range(text))
        known = Version(text)
        assert allowed.contains(known, prereleases=True)
        assert not allowed.contains(f"{known.epoch}!{known.release[0] + 1}.0", prereleases=True)
        assert not allowed.contains(f"{known.epoch}!{known.release[0] + 1}.0rc1", prereleases=True)

    @pytest.mark.parametrize(
        ("asked", "kept"),
        [
            ({"package": "Typing.Extensions"}, ("typing-extensions", "", "pypi")),
            ({"package": "numpy", "version": "1.24.0"}, ("numpy", "==1.24.0", "pypi")),
            ({"package": "numpy<2"}, ("numpy", "<2", "pypi")),
            ({"package": "conda-forge::numpy"}, ("numpy", "", "conda-forge")),
        ],
    )
    def test_what_is_asked_is_kept_in_one_spelling(self, asked: dict[str, str], kept: tuple[str, str, str]) -> None:
        made = PackageAsk.model_validate(asked)
        assert (made.package, made.version, made.channel) == kept
        assert PackageAsk.model_validate(made.model_dump()) == made

    @pytest.mark.parametrize(
        "asked",
        [
            {"package": "numpy<2", "version": "1"},
            {"package": "numpy", "version": "latest"},
            {"package": "numpy @ https://example.org/x.whl"},
            {"package": "numpy", "reason": "x" * 501},
            {"package": ""},
            {"package": "a::b", "channel": "c"},
        ],
    )
    def test_what_is_no_question(self, asked: dict[str, str]) -> None:
        with pytest.raises(ValidationError):
            PackageAsk.model_validate(asked)

    def test_one_way_to_say_which_versions(self) -> None:
        for body in ({"version": "1", "all": True}, {"version": ">=1"}, {"range": "x"}, {"until": "soon"}):
            with pytest.raises(ValidationError):
                Approval.model_validate(body)
        for asked in ("", ">=0.1"):
            with pytest.raises(MaestroError, match="say what is approved"):
                approved_versions(Approval(), asked, None)

    @pytest.mark.parametrize(
        ("one", "other", "both"),
        [("", "<2", True), (">=1.2", "<2,>=1", True), (">=2", "<2,>=1", False), ("==1.*", "<2", True)],
    )
    def test_specifiers_that_share_a_version(self, one: str, other: str, both: bool) -> None:
        assert overlap(one, other) is both
