"""MLflow's own pages in a browser, through the Hub: sign-in, one's workspaces, a new experiment, an artifact."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from tests.system.chromium import chromium  # noqa: F401
from tests.system.tracking_hub import PASSWORD, PREFIX, TrackingHub

pytestmark = pytest.mark.browser

#: what MLflow's pages ask for although it is closed; they go on without
EXPECTED = re.compile(r"/(users/current|assistant/\w+)$")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingHub]:
    hub = TrackingHub(tmp_path_factory.mktemp("tracking"))
    hub.workspaces.member("olga", reef="owner", lagoon="viewer")
    hub.workspaces.member("paul", atoll="owner")
    try:
        yield hub.start()
    finally:
        hub.close()


@pytest.fixture
def page(hub: TrackingHub, chromium: Browser) -> Iterator[Page]:  # noqa: F811
    """Olga's browser at MLflow; every refusal that her clicks run into fails the test."""
    context = chromium.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    refused: list[str] = []

    def note(response: Response) -> None:
        address = response.url.partition("?")[0]
        if PREFIX in address and response.status in (400, 401, 403, 500) and not EXPECTED.search(address):
            refused.append(f"{response.status} {response.request.method} {response.url}")

    page.on("response", note)
    page.goto(f"{hub.url}{PREFIX}")  # not signed in: the Hub asks first
    page.fill("#username_input", "olga")
    page.fill("#password_input", PASSWORD)
    page.click("#login_submit")
    page.wait_for_url(f"{hub.url}{PREFIX}**")
    yield page
    context.close()
    assert not refused


def test_the_first_page_lists_ones_own_workspaces(page: Page) -> None:
    table = page.get_by_role("table")
    expect(table).to_contain_text("reef")
    expect(table).to_contain_text("You are viewer here.")
    assert "atoll" not in page.inner_text("body")
    assert page.get_by_text("Welcome to MLflow Assistant").count() == 0


def test_a_workspaces_experiments_runs_and_artifacts(hub: TrackingHub, page: Page) -> None:
    """Creating an experiment is a write from MLflow's page: it carries the session's XSRF token by itself."""
    olga = hub.client("olga", "reef")
    olga.experiment("an older one")  # the page of a workspace without any looks different
    page.get_by_role("link", name="reef", exact=True).click()
    page.get_by_role("link", name="Experiments", exact=True).first.click()
    expect(page.get_by_role("heading", name="Experiments")).to_be_visible()
    page.get_by_role("button", name="Create", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox").first.fill("from the page")
    dialog.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_text("from the page").first).to_be_visible()

    experiment = olga.get("experiments/get-by-name", experiment_name="from the page").json()["experiment"]
    run = olga.run(experiment["experiment_id"], run_name="a first run")
    assert olga.put_artifact(run, "notes.txt", b"what we saw").status_code == 200
    place = f"#/experiments/{experiment['experiment_id']}/runs"
    page.goto(f"{hub.url}{PREFIX}{place}?workspace=reef")
    expect(page.get_by_text("a first run").first).to_be_visible()
    page.goto(f"{hub.url}{PREFIX}{place}/{run['info']['run_id']}?workspace=reef")
    expect(page.get_by_text("olga").first).to_be_visible()
    page.goto(f"{hub.url}{PREFIX}{place}/{run['info']['run_id']}/artifacts/notes.txt?workspace=reef")
    expect(page.get_by_text("what we saw").first).to_be_visible()
