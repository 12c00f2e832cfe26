"""The pages about packages over the real domain: asked from a denial's link, reviewed, approved and denied by forms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from bs4 import BeautifulSoup
from tornado.web import create_signed_value

from maestro_hub_services.workspaces.identity import MANAGE, USE
from tests.workspaces_kit import POLICY_TEXT, PREFIX, World, running_world

POLICY = (
    POLICY_TEXT
    + """
packages:
  approval_required: [tensorflow, keras]
  blocked_packages: [requests]
  reviewers: [{user: kim}]
"""
)


class Browser:
    """Somebody's browser, signed in."""

    def __init__(self, world: World, name: str) -> None:
        cookie = create_signed_value("secret", "service-workspaces", f"token-of-{name}").decode()
        headers = {"Sec-Fetch-Mode": "navigate"}
        self.client = httpx.AsyncClient(base_url=world.address, headers=headers, follow_redirects=True)
        self.client.cookies.set("service-workspaces", cookie, path=PREFIX)
        self.page = BeautifulSoup("", "html.parser")

    async def get(self, path: str) -> httpx.Response:
        return self._seen(await self.client.get(PREFIX + path))

    async def send(self, action: str, **fields: str) -> httpx.Response:
        """Send the form of this action on the present page, with what stands in it unless ``fields`` say otherwise."""
        form = self.page.find("form", action=PREFIX + action)
        assert form is not None, f"the page has no form for {action}"
        typed = {tag["name"]: tag.get("value", "") for tag in form.find_all("input") if tag["type"] not in _CHOSEN}
        typed |= {tag["name"]: tag["value"] for tag in form.find_all("input", checked=True)}
        for tag in form.find_all("select"):
            typed[tag["name"]] = (tag.find("option", selected=True) or tag.find("option"))["value"]
        return self._seen(await self.client.post(PREFIX + action, data=typed | fields))

    def _seen(self, answer: httpx.Response) -> httpx.Response:
        self.page = BeautifulSoup(answer.text, "html.parser")
        for tag in self.page.find_all("input"):
            tag["type"] = tag.get("type", "text")
        return answer

    @property
    def text(self) -> str:
        return " ".join(self.page.get_text(" ").split())

    def said(self, role: str = "status") -> str:
        tag = self.page.find(role=role)
        return "" if tag is None else " ".join(tag.get_text().split())


_CHOSEN = ("radio", "checkbox")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state", POLICY) as world:
        world.hub.add("kim")
        async with world.client("ann") as client:
            assert (await client.post("/workspaces", json={"name": "demo"})).status_code == 201
        yield world


async def asked(world: World, package: str = "tensorflow") -> str:
    async with world.client("ann") as client:
        answer = await client.post("/workspaces/demo/packages", json={"package": package, "reason": "for <b>ml</b>"})
    return str(answer.json()["request"]["request_id"])


async def facts(world: World, request_id: str) -> None:
    items = [
        {"name": "tensorflow", "version": "2.16.1", "licence": "Apache-2.0"},
        {"name": "keras", "version": "3.4", "required_by": ["tensorflow"], "wheel": False},
        {"name": "requests", "version": "2.32", "required_by": ["keras"]},
    ]
    found = {
        "checked_at": datetime.now(UTC).isoformat(), "version": "2.16.1", "closure": items, "licence": "Apache-2.0",
        "versions": [{"version": "2.16.1", "wheel": True}, {"version": "2.0", "wheel": False, "yanked": "old"}],
        "version_count": 40,
    }  # fmt: skip
    async with world.client("packages") as client:
        assert (await client.post("/policy/requests", json={"request_id": request_id, "facts": found})).is_success


async def test_a_link_fills_the_form_in_and_asks_nothing(world: World) -> None:
    ann = Browser(world, "ann")
    answer = await ann.get("requests?workspace=demo&package=tensorflow&version=%3E%3D2")
    assert answer.status_code == 200
    assert ann.page.find(id="ask-workspace").find("option", selected=True)["value"] == "demo"
    assert (ann.page.find(id="ask-package")["value"], ann.page.find(id="ask-version")["value"]) == ("tensorflow", ">=2")
    assert "Nothing yet." in ann.text and ann.page.find(id="waiting") is None
    await ann.send("requests", reason="the course")
    assert ann.said().startswith(
        "tensorflow needs an approval by the global policy (rule tensorflow). A reviewer is asked"
    )
    assert "ann , version >=2: the course" in ann.text
    assert ann.page.find("form", action=lambda action: action and "approve" in action) is None


async def test_the_personal_workspace_is_called_that_where_a_package_is_asked_for(world: World) -> None:
    ann = Browser(world, "ann")
    await ann.get("")  # makes the personal workspace
    await ann.get("requests")
    offered = {tag.get_text(): tag["value"] for tag in ann.page.find(id="ask-workspace").find_all("option")}
    assert offered["demo"] == "demo" and offered["Personal workspace"].startswith("u-ann-")
    await ann.send("requests", workspace=offered["Personal workspace"], package="tensorflow")
    await ann.get("requests")
    assert "Personal workspace" in ann.page.find(id="mine").find("td", attrs={"data-title": "Workspace"}).get_text()


async def test_what_needs_no_approval_and_what_is_blocked_are_said(world: World) -> None:
    ann = Browser(world, "ann")
    await ann.get("requests")
    await ann.send("requests", workspace="demo", package="numpy")
    assert ann.said() == "numpy may be installed in demo."
    answer = await ann.send("requests", workspace="demo", package="requests", reason="kept")
    assert answer.status_code == 403 and "requests is blocked by the global policy" in ann.said("alert")
    assert ann.page.find(id="ask-reason").get_text() == "kept"


async def test_the_reviewer_sees_what_there_is_to_know_and_approves(world: World) -> None:
    request_id = await asked(world)
    kim = Browser(world, "kim")
    await kim.get("requests")
    assert kim.page.find(id="waiting").find("a")["href"] == f"{PREFIX}requests/{request_id}"
    await kim.get(f"requests/{request_id}")
    assert "The package index has not looked into it yet" in kim.text
    await facts(world, request_id)
    answer = await kim.get(f"requests/{request_id}")
    assert "for &lt;b&gt;ml&lt;/b&gt;" in answer.text
    notes = kim.page.find(id="notes").get_text()
    assert "It needs requests, which no approval opens" in notes and "no wheel for servers here of keras" in notes
    rows = [" ".join(row.get_text(" ").split()) for row in kim.page.find(id="closure").find_all("tr")[1:]]
    assert rows[0].startswith("tensorflow 2.16.1 Apache-2.0 – needs an approval")
    assert rows[2].startswith("requests 2.32 not stated keras blocked")
    assert "tensorflow<3,>=2" in kim.text and "and 38 more" in kim.text
    assert kim.page.find(id="approve-everywhere") is None, "everywhere is an admin's"
    await kim.send(f"requests/{request_id}/approve", reason="fine")
    assert kim.said().endswith("on. kim allows tensorflow<3,>=2, keras<4,>=3 in demo: fine")
    ann = Browser(world, "ann")
    await ann.get("requests")
    assert "approved kim allows tensorflow<3,>=2, keras<4,>=3 in demo: fine" in ann.text


async def test_facts_that_changed_meanwhile_are_looked_at_before_the_click_counts(world: World) -> None:
    request_id = await asked(world)
    kim = Browser(world, "kim")
    await kim.get(f"requests/{request_id}")
    await facts(world, request_id)
    answer = await kim.send(f"requests/{request_id}/approve", reason="fine")
    assert answer.status_code == 409 and "has changed since you looked" in kim.said("alert")
    assert "tensorflow<3,>=2" in kim.text, "what is known now is on the page"
    await kim.send(f"requests/{request_id}/approve")
    assert "kim allows tensorflow<3,>=2, keras<4,>=3 in demo: fine" in kim.said()


async def test_a_refused_decision_keeps_what_was_typed(world: World) -> None:
    request_id = await asked(world)
    kim = Browser(world, "kim")
    await kim.get(f"requests/{request_id}")
    answer = await kim.send(f"requests/{request_id}/approve", choice="range", range="nonsense", reason="kept")
    assert answer.status_code == 400 and "'nonsense' is no version" in kim.said("alert")
    assert kim.page.find("input", {"name": "range"})["value"] == "nonsense"
    assert kim.page.find(id="choice-range").has_attr("checked")
    await kim.send(f"requests/{request_id}/approve", choice="version", version="")
    assert "Write which versions" in kim.said("alert")
    await kim.send(f"requests/{request_id}/deny", reason=" ")
    assert "reason" in kim.said("alert")
    await kim.send(f"requests/{request_id}/deny", reason="too large")
    assert kim.said() == "tensorflow is denied for demo."
    await kim.get(f"requests/{request_id}")
    assert kim.page.find(id="answer").get_text() == "kim denied it: too large"
    assert kim.page.find(id="deny-reason") is None


async def test_an_admin_approves_everywhere(world: World) -> None:
    request_id = await asked(world)
    root = Browser(world, "root")
    await root.get(f"requests/{request_id}")
    await root.send(f"requests/{request_id}/approve", choice="all", everywhere="1", until="2999-12-31")
    assert root.said() == ("Approved, and it installs from now on. root allows tensorflow everywhere until 2999-12-31.")


async def test_who_may_not_sees_no_forms_and_no_request(world: World) -> None:
    request_id = await asked(world)
    bob = Browser(world, "bob")
    hidden, missing = await bob.get(f"requests/{request_id}"), await bob.get("requests/r-none")
    assert (hidden.status_code, hidden.text.replace(request_id, "r-none")) == (404, missing.text)
    ann = Browser(world, "ann")
    await ann.get(f"requests/{request_id}")
    forged = await ann.client.post(f"{PREFIX}requests/{request_id}/approve", data={"choice": "all"})
    assert forged.status_code == 403  # without the XSRF token
    token = ann.page.find("input", {"name": "_xsrf"})["value"]
    refused = await ann.client.post(f"{PREFIX}requests/{request_id}/approve", data={"choice": "all", "_xsrf": token})
    assert refused.status_code == 403
    await ann.send(f"requests/{request_id}/withdraw")
    assert ann.said() == "You ask for it no longer."


async def test_an_old_session_without_the_scope_decides_nothing(world: World) -> None:
    request_id = await asked(world)
    world.hub.add("kim", scopes=(USE, MANAGE))
    kim = Browser(world, "kim")
    await kim.get(f"requests/{request_id}")
    answer = await kim.send(f"requests/{request_id}/approve", choice="all")
    assert answer.status_code == 403 and "custom:maestro:review" in kim.said("alert")
