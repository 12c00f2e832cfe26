"""Ending servers: the progress page's own button, and an account that is disabled while its servers run and start."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.system.chromium import chromium  # noqa: F401
from tests.system.house import Maestro, Person, until
from tests.system.singleuser import prefix

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not (prefix() / "bin/python").is_file(), reason="no single-user environment here: scripts/setup.py test"
    ),
]


def servers(maestro: Maestro, person: Person) -> dict[str, Any]:
    """The person's servers that run or start, as the Hub knows them."""
    return dict(maestro.admin.hub("GET", f"users/{person.name}").json()["servers"])


def counting(person: Person) -> set[str]:
    """The servers whose launches count against the person's limits, as Maestro knows them."""
    answer = person.api().get("launches")
    assert answer.is_success, answer.text
    return {launch["server_name"] for launch in answer.json()["launches"]}


def start_personal(maestro: Maestro, person: Person) -> None:
    """Start the unnamed server and wait until it is ready."""
    answer = person.api().post("launches", json={"workspace": "personal"})
    assert answer.is_success, answer.text
    until(lambda: servers(maestro, person).get("", {}).get("ready"), 120, "the personal server does not start")


@pytest.mark.browser
def test_the_stop_button_of_a_starting_server_stops_that_server(maestro: Maestro, chromium: Browser) -> None:  # noqa: F811
    """JupyterHub's own button would stop the unnamed server."""
    nina = maestro.person("nina")
    start_personal(maestro, nina)
    nina.api().post("workspaces", json={"name": "nina-lab"}).raise_for_status()

    page = chromium.new_context().new_page()
    page.goto(maestro.url + "hub/login")
    page.get_by_label("Username").fill(nina.name)
    page.get_by_label("Password").first.fill(nina.password)
    page.get_by_role("button", name="Sign in").click()
    page.goto(maestro.url + "hub/spawn/nina/nina-lab")
    page.get_by_role("button", name="Start").click()
    button = page.get_by_role("button", name="Stop this server")
    expect(button).to_be_visible(timeout=30_000)
    button.click()
    until(lambda: "nina-lab" not in servers(maestro, nina), 60, "the starting server goes on")
    until(lambda: "nina-lab" not in counting(nina), 30, "its reservation is left behind")
    assert servers(maestro, nina)[""]["ready"], "the personal one is left alone"


def test_disabling_an_account_ends_its_servers(maestro: Maestro) -> None:
    otto = maestro.person("otto")
    start_personal(maestro, otto)
    otto.api().post("workspaces", json={"name": "otto-lab"}).raise_for_status()
    assert otto.api().post("launches", json={"workspace": "otto-lab"}).is_success
    assert set(servers(maestro, otto)) == {"", "otto-lab"}
    maestro.account("otto", "disable")
    until(lambda: not servers(maestro, otto), 60, "servers of a disabled account go on")
