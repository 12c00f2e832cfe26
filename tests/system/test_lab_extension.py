"""What Maestro adds to JupyterLab, in a browser: notices, "Keep it running", and a viewer's copy.

The notebook server is a real one in its sandbox; the service's answers are the test's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from maestro_core.roles import Role
from tests.system.chromium import chromium  # noqa: F401
from tests.system.singleuser import TOKEN, Opened, ServiceAnswers, opened, prefix, service_answers, until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.bwrap,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not (prefix() / "bin/maestro-singleuser").is_file(), reason="no single-user environment here"),
]
LONG = 90_000  # ms, JupyterLab's first page on a cold machine
CULL = {
    "id": "cull",
    "kind": "cull",
    "level": "warning",
    "message": "This server has been idle for 50 minutes and will be stopped.",
    "until": "2099-01-01T12:00:00Z",
    "action": "keep",
}
ROLE = {"id": "role", "kind": "role", "level": "error", "message": "You were removed from demo.", "action": None}
NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code", "id": "a", "source": "print('ran as', 6 * 7)",
            "metadata": {}, "outputs": [], "execution_count": None,
        }
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}  # fmt: skip


@contextmanager
def lab(folder: Path, service: ServiceAnswers, role: Role) -> Iterator[Opened]:
    (folder / "workspace").mkdir(parents=True)
    (folder / "workspace/report.ipynb").write_text(json.dumps(NOTEBOOK))
    # The browser signs in by the address here; with a Hub, the Hub's OAuth does that.
    variables = {"MAESTRO_SERVICE_URL": service.url, "MAESTRO_HEARTBEAT_SECONDS": "1"}
    with opened(folder, role=role, JUPYTERHUB_ALLOW_TOKEN_IN_URL="1", **variables) as launch:
        yield launch


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceAnswers]:
    with service_answers() as answers:
        yield answers


@pytest.fixture(scope="module")
def editors(tmp_path_factory: pytest.TempPathFactory, service: ServiceAnswers) -> Iterator[Opened]:
    with lab(tmp_path_factory.mktemp("editor"), service, Role.EDITOR) as launch:
        yield launch


@pytest.fixture(autouse=True)
def nothing_to_say(service: ServiceAnswers) -> None:
    service.notices, service.status = [], 200


def open_page(browser: Browser, launch: Opened, path: str = "lab") -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
    page.set_default_timeout(30_000)
    page.goto(f"{launch.server.url}{path}?token={TOKEN}")
    expect(page.get_by_role("menuitem", name="File", exact=True)).to_be_visible(timeout=LONG)
    return page


def shot(page: Page, name: str) -> None:
    """Keep a picture, when pictures are asked for."""
    if folder := os.environ.get("MAESTRO_SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def toast(page: Page, text: str | re.Pattern[str]) -> Any:
    return page.locator(".Toastify__toast", has_text=text)


def test_a_notice_appears_by_itself_and_keep_it_running_answers_it(
    editors: Opened,
    service: ServiceAnswers,
    chromium: Browser,  # noqa: F811
) -> None:
    page = open_page(chromium, editors)
    service.notices = [CULL]
    notice = toast(page, re.compile(r"idle for 50 minutes and will be stopped \(1/1/2099 .+\)\."))
    expect(notice).to_be_visible()
    shot(page, "notice")

    page.reload()  # it is still there
    expect(notice).to_be_visible(timeout=LONG)

    service.status = 503
    notice.get_by_role("button", name="Keep it running").click()
    expect(toast(page, "press the button again")).to_be_visible()
    expect(notice).to_be_visible()

    service.status = 200
    notice.get_by_role("button", name="Keep it running").click()
    expect(toast(page, "The server is kept running.")).to_be_visible()
    expect(notice).to_have_count(0)
    assert service.keeps == 1


def test_what_was_read_stays_away_and_what_was_taken_back_goes(
    editors: Opened,
    service: ServiceAnswers,
    chromium: Browser,  # noqa: F811
) -> None:
    page = open_page(chromium, editors)
    service.notices = [ROLE, {"id": "hello", "message": "Maintenance on Friday."}]
    expect(toast(page, "You were removed from demo.")).to_be_visible()
    toast(page, "Maintenance on Friday.").get_by_role("button", name="Got it").click()
    until(
        lambda: [one["id"] for one in editors.server.api("GET", "maestro/notices").json()["notices"]] == ["role"],
        "the server knows that it was read",
    )
    page.reload()
    expect(toast(page, "You were removed from demo.")).to_be_visible(timeout=LONG)
    expect(toast(page, "Maintenance on Friday.")).to_have_count(0)
    service.notices = [ROLE | {"message": "You are viewer of demo now."}]
    expect(toast(page, "You are viewer of demo now.")).to_be_visible()
    expect(toast(page, "You were removed from demo.")).to_have_count(0)
    service.notices = []
    expect(page.locator(".Toastify__toast")).to_have_count(0)


def test_a_long_notice_can_be_read_to_its_end(
    editors: Opened,
    service: ServiceAnswers,
    chromium: Browser,  # noqa: F811
) -> None:
    """JupyterLab cuts notifications at 140 characters. What the service says is text, whatever it looks like."""
    page = open_page(chromium, editors)
    service.notices = [
        ROLE | {"id": "full", "message": "<b>The volume is full</b> " + "and so on " * 20 + "to the end."}
    ]
    notice = toast(page, "<b>The volume is full</b>")
    expect(notice).not_to_contain_text("to the end.")
    notice.get_by_role("button", name="Read it all").click()
    expect(page.locator(".jp-Dialog")).to_contain_text("<b>The volume is full</b>")
    expect(page.locator(".jp-Dialog")).to_contain_text("to the end.")
    shot(page, "notice-dialog")
    page.locator(".jp-Dialog").get_by_role("button", name="Ok").click()
    expect(notice).to_be_visible()


def test_an_editor_sees_nothing_of_what_viewers_need(editors: Opened, chromium: Browser) -> None:  # noqa: F811
    page = open_page(chromium, editors)
    page.get_by_role("menuitem", name="File", exact=True).click()
    expect(page.get_by_text("Save All", exact=True)).to_be_visible()
    expect(page.get_by_text("Save a Copy to My Home")).not_to_be_visible()


@pytest.mark.parametrize("way", ["keyboard", "menu"])
def test_a_viewer_who_saves_is_told_why_not_and_keeps_a_copy_with_its_outputs_and_kernel(
    way: str,
    tmp_path: Path,
    service: ServiceAnswers,
    chromium: Browser,  # noqa: F811
) -> None:
    with lab(tmp_path, service, Role.VIEWER) as launch:
        page = open_page(chromium, launch, "lab/tree/report.ipynb")
        expect(toast(page, "You are viewer of demo: files are read-only for you.")).to_be_visible()
        expect(page.get_by_text(re.compile("Python 3 .*Idle"))).to_be_visible(timeout=LONG)
        page.locator(".jp-Notebook .cm-content").first.click()
        page.keyboard.press("Control+Enter")
        expect(page.locator(".jp-OutputArea-output")).to_contain_text("ran as 42", timeout=LONG)
        if way == "keyboard":
            page.keyboard.press("Control+s")
            offer = toast(page, "Files of this workspace are read-only for you.")
            shot(page, "viewer-save")
            offer.get_by_role("button", name="Save a copy to my home").click()
        else:
            page.get_by_role("menuitem", name="File", exact=True).click()
            page.get_by_text("Save a Copy to My Home", exact=True).click()
        expect(toast(page, "Saved as My home/report.ipynb.")).to_be_visible()
        shot(page, "viewer-copy")
        copied = json.loads((launch.home / "report.ipynb").read_text())
        assert "ran as 42" in json.dumps(copied["cells"][0]["outputs"])
        # the copy stands where the notebook stood, and goes on in the same kernel, which knows its new notebook
        expect(page.get_by_role("tab", name="report.ipynb")).to_have_count(1)
        expect(page.get_by_text("notebook is read-only")).to_have_count(0)
        expect(page.get_by_text(re.compile("Python 3 .*Idle"))).to_be_visible(timeout=LONG)
        (session,) = launch.server.api("GET", "api/sessions").json()
        assert session["path"] == "My home/report.ipynb"
        asked = launch.server.api("GET", f"maestro/kernels/{session['kernel']['id']}")
        assert asked.json()["path"] == "My home/report.ipynb"
        page.locator(".jp-Notebook .cm-content").first.click()
        page.keyboard.press("Control+s")
        until(lambda: list(launch.home.glob(".ipynb_checkpoints/report*")), "it was saved")
        expect(toast(page, "Files of this workspace are read-only for you.")).to_have_count(0)
