"""A package that needs an approval, as people meet it: refused under the cell, asked for, approved, installed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import package_kit as kit
from tests.system.chromium import chromium  # noqa: F401
from tests.system.house import Maestro, Person, until
from tests.system.singleuser import has_bubblewrap

pytestmark = [pytest.mark.browser, pytest.mark.bwrap, pytest.mark.timeout(300)]

WORKSPACE = "approvals"
LONG = 60_000  # ms
CELL = "!pip install --no-cache-dir small-model"
NOTEBOOK = {
    "cells": [
        {"cell_type": "code", "id": "a", "source": CELL, "metadata": {}, "outputs": [], "execution_count": None},
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def shot(page: Page, name: str) -> None:
    """Keep a picture, when pictures are asked for."""
    if folder := os.environ.get("MAESTRO_SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def upstream(maestro: Maestro) -> Iterator[kit.Upstream]:
    """An index of small wheels behind the house's own."""
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    with kit.upstream_and_authority() as (upstream, _):
        upstream.add("small-model", "1.0", ("small-weights",))
        upstream.add("small-model", "2.3", ("small-weights>=1",))
        upstream.add("small-weights", "1.4")
        with maestro.packages_from(upstream.url):
            yield upstream


@pytest.fixture
def asker(maestro: Maestro, upstream: kit.Upstream) -> Iterator[Person]:
    """The owner of a workspace whose policy asks about both packages, with a server and a notebook in it."""
    person = maestro.person("petra")
    with person.api() as api:
        rules = {"approval_required": ["small-model", "small-weights"]}
        made = api.post("workspaces", json={"name": WORKSPACE, "security": rules})
        assert made.status_code == 201, made.text
        started = api.post("launches", json={"workspace": WORKSPACE})
        assert started.status_code in (201, 202), started.text
        launch = f"launches/{started.json()['session_id']}"
        until(lambda: api.get(launch).json()["status"] == "running", 60, "the server does not come up")
        put = api.put(
            f"{maestro.url}user/{person.name}/{WORKSPACE}/api/contents/ask.ipynb",
            json={"type": "notebook", "content": NOTEBOOK},
        )
        assert put.is_success, put.text
        yield person
        api.delete(launch)
        until(lambda: api.get(launch).json()["status"] == "ended", 60, "the server does not stop")


def signed_in(chromium: Browser, url: str, person: Person) -> Page:  # noqa: F811
    page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(30_000)
    page.goto(url)
    page.get_by_label("Username").fill(person.name)
    page.get_by_label("Password").first.fill(person.password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Workspaces")).to_be_visible()
    return page


def run(page: Page) -> str:
    """Run the one cell, and wait for its end; what then stands under it."""
    prompt = page.locator(".jp-InputPrompt")
    before = prompt.inner_text()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    done = re.compile(r"\[\d+\]:")
    until(lambda: prompt.inner_text() != before and done.match(prompt.inner_text()), 60, "the cell does not end")
    return page.locator(".jp-OutputArea").inner_text()


def test_asked_from_the_cell_approved_by_the_reviewer_installed_without_a_restart(
    maestro: Maestro,
    chromium: Browser,  # noqa: F811
    asker: Person,
) -> None:
    lab = signed_in(chromium, maestro.url, asker)
    lab.goto(f"{maestro.url}user/{asker.name}/{WORKSPACE}/lab/tree/ask.ipynb")
    notebook = lab.locator(".jp-Notebook")
    expect(lab.get_by_text(re.compile("Python 3 .*Idle"))).to_be_visible(timeout=LONG)

    # pip says it in its own words, and the line under the cell leads to the filled-in form
    run(lab)
    link = notebook.get_by_role("link", name="Request access")
    expect(link).to_be_visible(timeout=LONG)
    expect(notebook).to_contain_text("403 Client Error: small-model needs an approval by the policy of workspace")
    shot(lab, "denial")
    with lab.context.expect_page() as opened:
        link.click()
    form = opened.value
    expect(form.get_by_role("textbox", name="Package")).to_have_value("small-model")
    expect(form.get_by_role("combobox", name="Workspace")).to_have_value(WORKSPACE)
    form.get_by_label("What it is for").fill("the course")
    form.get_by_role("button", name="Ask").click()
    expect(form.get_by_role("status")).to_contain_text("A reviewer is asked")

    # the reviewer sees what would come with it, and approves it all at once
    reviewer = signed_in(chromium, maestro.url, maestro.admin)
    reviewer.get_by_role("link", name="Packages").click()
    reviewer.locator("#waiting").get_by_role("link", name="small-model").click()
    closure = reviewer.locator("#closure")

    def looked() -> bool:
        reviewer.reload()
        return closure.count() == 1

    until(looked, 20, "the index's service finds out the facts")
    expect(closure).to_contain_text("small-weights 1.4")
    expect(reviewer.locator("#notes")).to_contain_text("waits for an approval too: small-weights")
    expect(reviewer.get_by_text("small-model<3,>=2")).to_be_visible()
    shot(reviewer, "request")
    reviewer.get_by_role("button", name="Approve").click()
    expect(reviewer.get_by_role("status")).to_contain_text("small-model<3,>=2, small-weights<2,>=1 in approvals")

    # the notebook hears of it, and the same cell installs
    expect(lab.get_by_text("small-model is approved by admin").first).to_be_visible()

    installed = "Successfully installed small-model-2.3 small-weights-1.4"
    until(lambda: installed in run(lab), 20, "the index hears of the approval")
    expect(notebook.get_by_role("link", name="Request access")).to_have_count(0)
    with asker.api() as api:
        (mine,) = api.get("requests").json()["requests"]
    assert (mine["status"], mine["decided_by"]) == ("approved", "admin"), json.dumps(mine)
