"""Executed cells as runs on the real system: kernel, server, MLflow, and what a browser makes of a notebook's page."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Frame, Page, expect

from tests.system.chromium import chromium  # noqa: F401
from tests.system.house import Maestro, Person, until
from tests.system.singleuser import Notebook, NotebookServer, Outcome, has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.browser, pytest.mark.timeout(400)]
WORKSPACE = "captured"
#: what somebody would put into an output to act as whoever looks at it
EVIL = (
    "<h2 id='seen'>An output</h2><script>document.getElementById('seen').textContent = 'it ran';"
    "fetch('/hub/api/user').then(r => r.text()).then(t => document.body.append(t));"
    "top.location = '/hub/logout';</script>"
    "<img src=x onerror=\"document.getElementById('seen').textContent = 'it ran'\">"
)
PARAMETERS = "lr = 0.5\nname = 'adam'"


@dataclass
class Place:
    """Somebody's server in a workspace that captures always.

    Attributes:
        runs: all of the workspace's runs, the newest first.
    """

    maestro: Maestro
    person: Person
    server: NotebookServer
    mlflow: httpx.Client

    def runs(self) -> list[dict[str, Any]]:
        experiments = self.mlflow.post("experiments/search", json={"max_results": 50}).json().get("experiments", [])
        ids = [one["experiment_id"] for one in experiments]
        return list(self.mlflow.post("runs/search", json={"experiment_ids": ids}).json().get("runs", []))

    def captured(self, count: int) -> list[dict[str, Any]]:
        """The runs that cells became, the newest first, as soon as there are so many."""

        def look() -> list[dict[str, Any]] | None:
            found = [
                run for run in self.runs() if "maestro.captured" in tags_of(run) and run["info"]["status"] != "RUNNING"
            ]
            return found if len(found) >= count else None

        return until(look, 90, f"there are no {count} captured runs")

    def open(self, page: Page, info: dict[str, Any], below: str) -> None:
        """MLflow's page of a run, or something below it."""
        page.goto("about:blank")
        run = f"experiments/{info['experiment_id']}/runs/{info['run_id']}"
        page.goto(f"{self.maestro.url}services/mlflow/#/{run}{below}?workspace={WORKSPACE}")

    def files(self, run: dict[str, Any], folder: str = "executed") -> list[str]:
        query = {"run_id": run["info"]["run_id"], "path": folder}
        return [one["path"] for one in self.mlflow.get("artifacts/list", params=query).json().get("files", [])]

    def save(self, path: str, *sources: str) -> None:
        cells: list[dict[str, Any]] = [
            {"cell_type": "code", "source": one, "metadata": {}, "outputs": [], "execution_count": None}
            for one in sources
        ]
        cells[0]["metadata"] = {"tags": ["parameters"]}
        content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
        saved = self.server.api("PUT", f"api/contents/{path}", json={"type": "notebook", "content": content})
        assert saved.is_success, saved.text


@pytest.fixture(scope="module")
def place(maestro: Maestro) -> Iterator[Place]:
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    person = maestro.person("capture-owner")
    with person.api() as api:
        made = api.post("workspaces", json={"name": WORKSPACE, "description": "", "capture": "always"})
        assert made.status_code == 201, made.text
        started = api.post("launches", json={"workspace": WORKSPACE})
        assert started.is_success, started.text
        launch = f"launches/{started.json()['session_id']}"
        until(lambda: api.get(launch).json()["status"] == "running", 120, "the server does not come up")
        url, token = f"{maestro.url}user/{person.name}/{WORKSPACE}/", person.token()
        server = NotebookServer(url, None, Path(), token=token)  # type: ignore[arg-type]
        headers = {"Authorization": f"token {token}", "X-MLFLOW-WORKSPACE": WORKSPACE}
        with httpx.Client(
            base_url=f"{maestro.url}services/mlflow/api/2.0/mlflow/", headers=headers, timeout=60
        ) as mlflow:
            yield Place(maestro, person, server, mlflow)
        api.delete(launch)


@pytest.fixture
def run_cells() -> Iterator[Callable[..., list[Outcome]]]:
    """Run cells in a thread: Playwright has this one's loop."""
    with ThreadPoolExecutor(1) as threads:

        async def all_of(notebook: Notebook, *sources: str) -> list[Outcome]:
            return [await notebook.run(source) for source in sources]

        yield lambda notebook, *sources: threads.submit(asyncio.run, all_of(notebook, *sources)).result()


@pytest.fixture
def page(place: Place, chromium: Browser) -> Iterator[Page]:  # noqa: F811
    context = chromium.new_context(viewport={"width": 1500, "height": 1000})
    page = context.new_page()
    page.goto(f"{place.maestro.url}services/mlflow/")
    page.fill("#username_input", place.person.name)
    page.fill("#password_input", place.person.password)
    page.click("#login_submit")
    page.wait_for_url(f"{place.maestro.url}services/mlflow/**")
    yield page
    context.close()


def tags_of(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


def test_cells_become_runs_and_a_page_that_acts_for_nobody(
    place: Place, run_cells: Callable[..., list[Outcome]], page: Page
) -> None:
    show = f"from IPython.display import HTML, display\ndisplay(HTML({EVIL!r}))"
    sources = (PARAMETERS, "print('trained with', lr)", show, "raise ValueError('no such column')")
    place.save("work.ipynb", *sources)
    notebook = place.server.open_notebook("work.ipynb")
    outcomes = run_cells(notebook, *sources)
    assert [one.status for one in outcomes] == ["ok", "ok", "ok", "error"]
    assert "ipython_magics" not in outcomes[3].text, "no frame of ours"

    (run,) = place.captured(1)
    assert run["info"]["status"] == "FAILED" and run["info"]["run_name"].startswith("work 20")
    tags = tags_of(run)
    assert tags["maestro.reason"] == "ValueError: no such column" and tags["mlflow.user"] == place.person.name
    assert tags["maestro.notebook"] == "work.ipynb" and tags["maestro.dirty"] == "false"
    assert {one["key"]: one["value"] for one in run["data"]["params"]} == {"lr": "0.5", "name": "adam"}
    with place.person.api() as api:
        versions = api.get(f"workspaces/{WORKSPACE}/snapshots", params={"path": "work.ipynb"}).json()["snapshots"]
    assert versions[0]["address"] == tags["maestro.snapshot"]
    assert place.files(run) == ["executed/history.json", "executed/notebook.html"]

    # the page in MLflow's artifact view
    info = run["info"]
    place.open(page, info, "/artifacts/executed/notebook.html")
    frame = page.frame_locator("iframe.mlflow-html-iframe, iframe#html, iframe[sandbox]").first
    expect(frame.get_by_text("trained with 0.5")).to_be_visible(timeout=60_000)
    expect(frame.get_by_role("heading", name="An output")).to_be_visible()
    expect(frame.get_by_text("4 cells ran in")).to_be_visible()
    if shots := os.environ.get("MAESTRO_TEST_SHOTS"):
        page.screenshot(path=f"{shots}/executed.png")
    inner = next(one for one in page.frames if one != page.main_frame and one.url.startswith("blob:"))
    assert origin_of(inner) == "null"
    assert inner.inner_text("#seen") == "An output", "no script ran"
    assert page.url.startswith(f"{place.maestro.url}services/mlflow/")

    # the description leads to the version that ran, and that one back
    short = tags["maestro.snapshot"][:12]
    place.open(page, info, "")
    link = page.get_by_role("link", name=f"version {short}")
    expect(link).to_be_visible(timeout=60_000)
    page.goto(f"{place.maestro.url.rstrip('/')}{link.get_attribute('href')}")
    expect(page.get_by_role("heading", name=f"work.ipynb version {short}")).to_be_visible()
    assert page.locator(".maestro-source").first.inner_text() == PARAMETERS
    if shots := os.environ.get("MAESTRO_TEST_SHOTS"):
        page.screenshot(path=f"{shots}/version.png")
    page.get_by_role("link", name="Its runs and models").click()
    made = page.get_by_role("link", name=info["run_name"])
    assert f"/runs/{info['run_id']}?" in (made.get_attribute("href") or "")

    # the same output as a file of somebody's own making, which has no policy: it runs, and is nobody
    run_cells(notebook, (
        "import mlflow\nwith mlflow.start_run(run_name='mine'):\n"
        f"    mlflow.log_text('<body>' + {EVIL!r}, 'evil.html')"
    ))  # fmt: skip
    run_id = next(one for one in place.runs() if one["info"]["run_name"] == "mine")["info"]["run_id"]
    place.open(page, {**info, "run_id": run_id}, "/artifacts/evil.html")
    expect(frame.get_by_text("it ran").first).to_be_visible(timeout=60_000)
    inner = next(one for one in page.frames if one != page.main_frame and one.url.startswith("blob:"))
    assert origin_of(inner) == "null", "what runs there has no origin"
    assert place.person.name not in inner.content(), "the Hub answers it as a stranger"
    assert page.url.startswith(f"{place.maestro.url}services/mlflow/"), "it cannot lead the window away"
    asked = {"run_uuid": run_id, "path": "evil.html", "workspace": WORKSPACE}
    for path in (
        "get-artifact",
        "ajax-api/2.0/mlflow-artifacts/artifacts/" + artifact_path(place, run_id, "evil.html"),
    ):
        answer = place.mlflow.get(f"{place.maestro.url}services/mlflow/{path}", params=asked)
        assert answer.status_code == 200 and b"it ran" in answer.content, answer.text
        assert answer.headers["content-security-policy"] == "sandbox"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"

    # a run of one's own is not doubled: it gets the history when its stretch is over (the cell raises)
    run_cells(notebook, "1 / 0")
    mine = next(one for one in place.runs() if one["info"]["run_id"] == run_id)
    until(lambda: place.files(mine), 90, "the own run has no history")
    assert len(place.captured(1)) == 1 and tags_of(mine)["maestro.notebook"] == "work.ipynb"
    assert not mine["data"].get("params")

    # a kernel that dies says nothing; its server does
    pid = int(run_cells(notebook, "import os; print(os.getpid())")[0].text)
    run_cells(place.server.open_notebook("other.ipynb"), f"import os; os.kill({pid}, 9)")
    killed = place.captured(2)[0]
    assert json.dumps(tags_of(killed)).count("work.ipynb") >= 1 and killed["info"]["status"] == "FINISHED"


def artifact_path(place: Place, run_id: str, name: str) -> str:
    uri: str = place.mlflow.get("runs/get", params={"run_id": run_id}).json()["run"]["info"]["artifact_uri"]
    return f"{uri.partition(':/')[2].lstrip('/')}/{name}"


def origin_of(frame: Frame) -> str:
    return str(frame.evaluate("() => String(self.origin)"))
