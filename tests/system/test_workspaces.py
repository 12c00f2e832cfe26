"""Workspaces and launches on the real Hub: its tokens, its start-server API, its rows."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from bs4 import BeautifulSoup

from tests.system.house import Maestro, Person, until

pytestmark = pytest.mark.timeout(300)
ACCESS = "access:services!service=workspaces"
USE, MANAGE = "custom:maestro:use", "custom:maestro:manage"


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture(scope="module")
def owner(maestro: Maestro) -> Person:
    return maestro.person("wanda")


@pytest.fixture(scope="module")
def workspace(owner: Person, maestro: Maestro) -> str:
    """One with an owner and a viewer."""
    maestro.person("vic")
    made = owner.api().post("workspaces", json={"name": "house", "members": [{"user": "vic", "role": "viewer"}]})
    assert made.status_code == 201, made.text
    return "house"


def stop_all(api: httpx.Client) -> None:
    for launch in api.get("launches").json()["launches"]:
        api.delete(f"launches/{launch['session_id']}")
    until(lambda: not api.get("launches").json()["launches"], 60, "servers do not stop")


class TestTokens:
    def test_a_token_with_few_scopes_does_little(self, owner: Person, workspace: str) -> None:
        reads = owner.api(owner.token([ACCESS, USE]))
        assert reads.get(f"workspaces/{workspace}").json()["role"] == "owner"
        refused = reads.put(f"workspaces/{workspace}/members", json={"user": "vic", "role": "editor"})
        assert code(refused) == (403, "forbidden")
        assert code(owner.api(owner.token([USE])).get("me")) == (403, "forbidden")
        assert code(owner.api("guessed").get("me")) == (401, "not_signed_in")

    def test_nobody_has_a_machines_scope_or_an_admins(self, owner: Person, maestro: Maestro) -> None:
        api = owner.api()
        assert code(api.post("plan/launches", json={})) == (403, "forbidden")
        assert code(api.get("workspaces?all=1")) == (403, "forbidden")
        assert maestro.admin.api().get("workspaces?all=1").status_code == 200
        assert code(maestro.admin.api().post("policy/tokens", json={"token": "x"})) == (403, "forbidden")

    def test_the_api_lies_at_the_hubs_root_for_tokens_alone(self, owner: Person, maestro: Maestro) -> None:
        at_root = f"{maestro.url}api/v1/jupyter/me"
        token = {"Authorization": f"token {owner.token()}"}
        assert httpx.get(at_root, headers=token).json()["user"] == owner.name
        owner.get("services/workspaces/")
        assert code(owner.browser.get(at_root)) == (401, "not_signed_in")

    def test_a_browser_changes_something_only_with_its_xsrf_token(self, owner: Person, workspace: str) -> None:
        page = BeautifulSoup(owner.get(f"services/workspaces/w/{workspace}").text, "html.parser")
        token = page.find("input", {"name": "_xsrf"})
        assert token is not None
        path, body = f"services/workspaces/api/v1/jupyter/workspaces/{workspace}", {"description": "By browser"}
        assert code(owner.browser.patch(path, json=body)) == (401, "not_signed_in")
        done = owner.browser.patch(path, json=body, headers={"X-XSRFToken": str(token["value"])})
        assert done.json()["description"] == "By browser"

    def test_members_are_people_that_the_hub_knows(self, owner: Person, workspace: str) -> None:
        api = owner.api()
        unknown = api.put(f"workspaces/{workspace}/members", json={"user": "nobody-here", "role": "viewer"})
        assert code(unknown) == (404, "unknown_user")
        unknown = api.put(f"workspaces/{workspace}/members", json={"group": "no-team", "role": "viewer"})
        assert code(unknown) == (404, "unknown_group")


class TestLaunches:
    def test_ten_at_once_through_the_hub_at_limit_three_admit_exactly_three(
        self, owner: Person, workspace: str
    ) -> None:
        api = owner.api()
        stop_all(api)

        def start(number: int) -> httpx.Response:
            return api.post("launches", json={"workspace": workspace, "server_name": f"s{number}", "profile": "small"})

        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(start, range(10)))
        try:
            counted = Counter(answer.status_code in (201, 202) or code(answer) for answer in answers)
            assert counted == {True: 3, (403, "quota_exceeded"): 7}, counted
            refusal = next(answer for answer in answers if answer.status_code == 403).json()["error"]
            assert refusal["details"]["limit"] == "max_concurrent_notebooks"
            assert "3 of 3 servers" in refusal["message"]
            assert len(api.get("launches").json()["launches"]) == 3
        finally:
            stop_all(api)

    def test_every_way_in_is_told_the_same(self, owner: Person, maestro: Maestro, workspace: str) -> None:
        """The service, the Hub's own API and the Hub's form, each with its own wrapping of one sentence."""
        said = owner.api().post("launches", json={"workspace": workspace, "resources": {"cpu": 64}})
        assert code(said) == (403, "profile_closed")
        sentence = said.json()["error"]["message"]
        body = {"resources": {"cpu": 64}}
        by_hub = owner.hub("POST", f"users/{owner.name}/servers/{workspace}", {"user_options": body})
        assert (by_hub.status_code, by_hub.json()["message"]) == (403, sentence)
        page = BeautifulSoup(owner.get(f"hub/spawn/{owner.name}/{workspace}").text, "html.parser")
        form = page.find("form", id="spawn_form")
        assert form is not None
        by_form = owner.browser.post(str(form["action"]), data={"cpu": "64"})
        assert sentence in " ".join(BeautifulSoup(by_form.text, "html.parser").get_text(" ").split())

    def test_a_workspace_of_others_leaves_no_row_at_the_hub(
        self, owner: Person, workspace: str, maestro: Maestro
    ) -> None:
        stranger = maestro.person("sam")
        said = stranger.api().post("launches", json={"workspace": workspace})
        assert code(said) == (404, "unknown_workspace")
        assert (
            workspace not in stranger.hub("GET", f"users/{stranger.name}?include_stopped_servers=1").json()["servers"]
        )

        page = stranger.get(f"hub/spawn/{stranger.name}/{workspace}").text  # the Hub writes a row for it
        assert "that you belong to" in page

        def gone() -> bool:
            shown = stranger.hub("GET", f"users/{stranger.name}?include_stopped_servers=1").json()["servers"]
            return workspace not in shown

        until(gone, 40, "the row is still there")

    def test_an_admin_starts_for_somebody_and_others_may_not(self, owner: Person, maestro: Maestro) -> None:
        sam = maestro.person("sam")
        assert code(sam.api().post("launches", json={"user": owner.name})) == (403, "forbidden")
        admin = maestro.admin.api()
        launch = admin.post("launches", json={"user": "sam"})
        assert launch.status_code in (201, 202), launch.text
        session = launch.json()["session_id"]
        assert launch.json()["user"] == "sam"
        assert code(owner.api().get(f"launches/{session}")) == (404, "unknown_launch")
        admin.delete(f"launches/{session}")
        until(lambda: sam.api().get(f"launches/{session}").json()["status"] == "ended", 60, "it does not stop")

    def test_a_launchs_index_password_opens_the_index_alone_and_ends_with_it(self, maestro: Maestro) -> None:
        """netrc knows hosts and no paths, so programs send it to whatever else is on the index's host."""
        sam = maestro.person("sam")
        session = sam.api().post("launches", json={}).json()["session_id"]
        file = maestro.state / "run/launches" / session / "etc/netrc"
        until(file.exists, 60, "the launch has no netrc")
        _, user, password = file.read_text().split()[1::2]
        until(lambda: sam.api().get(f"launches/{session}").json()["status"] == "running", 60, "it does not start")

        def ask(path: str, **credentials: Any) -> int:
            return httpx.get(f"{maestro.url}{path}", follow_redirects=False, timeout=30, **credentials).status_code

        index = "services/packages/denials"
        assert ask(index, auth=(user, password)) == 200
        elsewhere = ("services/workspaces/api/v1/jupyter/me", "api/v1/jupyter/me", "hub/api/user",
                     "services/mlflow/api/2.0/mlflow/experiments/search", f"user/sam/{session}/api")  # fmt: skip
        for path in elsewhere:
            assert ask(path, auth=(user, password)) in (302, 400, 401, 403, 404), path
            for scheme in ("token", "Bearer"):
                assert ask(path, headers={"Authorization": f"{scheme} {password}"}) in (302, 400, 401, 403, 404), path
        sam.api().delete(f"launches/{session}")
        until(lambda: ask(index, auth=(user, password)) == 403, 60, "the password outlives its launch")
