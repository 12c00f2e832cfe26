"""The pages on the real Hub, proxy and service: sign-in, cards, members, refusals, the spawn form, their look."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page, expect

from tests.system.chromium import chromium  # noqa: F401
from tests.system.house import Maestro, Person

HOME = "services/workspaces/"


def sentence(answer: httpx.Response) -> str:
    """What the page says of the last form: the alert, else the flash, else its paragraph of an error."""
    page = BeautifulSoup(answer.text, "html.parser")
    found = page.find(role="alert") or page.find(role="status") or page.select_one(".maestro-error p")
    return found.get_text().strip() if found else ""


@pytest.fixture
def pia(maestro: Maestro) -> Person:
    """An owner of the workspaces made here."""
    return maestro.person("pia")


def test_sign_in_leads_to_the_cards(pia: Person) -> None:
    answer = pia.get("")
    assert answer.url.path.endswith(f"/{HOME}")
    page = BeautifulSoup(answer.text, "html.parser")
    assert page.find("h2").get_text() == "Personal workspace"
    assert "You are owner, 0 of 3 servers" in page.find(id="cards").get_text()
    assert "Maestro admin" not in page.get_text()


def test_a_workspace_is_made_and_a_member_added(pia: Person, maestro: Maestro) -> None:
    kim = maestro.person("kim@example.org")
    answer = pia.submit(HOME, {"name": "pages-a", "description": "Ours"}, to=f"{HOME}new")
    assert answer.url.path.endswith("/w/pages-a")
    assert sentence(answer) == "The workspace pages-a is yours: open it, or add members."
    assert "pages-a" not in kim.get(HOME).text

    member = {"kind": "user", "name": "kim@example.org", "role": "viewer", "adding": "1"}
    answer = pia.submit(f"{HOME}w/pages-a", member, to=f"{HOME}w/pages-a/members")
    assert sentence(answer) == "kim@example.org is now viewer of pages-a."
    seen = kim.get(HOME)
    assert (
        "You are viewer, 0 of 3 servers" in BeautifulSoup(seen.text, "html.parser").find(id="card-pages-a").get_text()
    )

    answer = pia.submit(f"{HOME}w/pages-a", member | {"name": "nobody-here"}, to=f"{HOME}w/pages-a/members")
    assert answer.status_code == 404
    assert "does not know a user 'nobody-here'" in sentence(answer)


def test_a_refused_name_is_explained_over_what_was_typed(pia: Person) -> None:
    answer = pia.submit(HOME, {"name": "x" * 31, "description": "kept"}, to=f"{HOME}new")
    assert answer.status_code == 400
    assert "1 to 30 characters" in sentence(answer)
    page = BeautifulSoup(answer.text, "html.parser")
    assert page.find(id="create-name")["value"] == "x" * 31
    assert page.find(id="create-description").get_text() == "kept"


def test_an_unknown_workspace_and_one_of_others_are_the_same_page(pia: Person, maestro: Maestro) -> None:
    pia.submit(HOME, {"name": "pages-mine"}, to=f"{HOME}new")
    stranger = maestro.person("leo")
    pages = []
    for name in ("pages-mine", "pages-none"):
        answer = stranger.get(f"{HOME}w/{name}")
        assert answer.status_code == 404
        pages.append(answer.text.replace(name, "NAME"))
    assert pages[0] == pages[1]
    member = {"kind": "user", "name": "leo", "role": "owner"}
    for name in ("pages-mine", "pages-none"):
        assert stranger.submit(HOME, member, to=f"{HOME}w/{name}/members").status_code == 404


def test_the_last_owner_cannot_leave(pia: Person) -> None:
    pia.submit(HOME, {"name": "pages-last"}, to=f"{HOME}new")
    fields = {"kind": "user", "name": "pia"}
    answer = pia.submit(f"{HOME}w/pages-last", fields, to=f"{HOME}w/pages-last/members/remove")
    assert answer.status_code == 409
    assert "last owner" in sentence(answer)


def test_forms_without_the_xsrf_token_do_nothing(pia: Person) -> None:
    pia.get(HOME)
    answer = pia.browser.post(f"{HOME}new", data={"name": "pages-forged"})
    assert answer.status_code == 403
    assert "pages-forged" not in pia.get(HOME).text


def test_the_admin_page_is_for_admins(pia: Person, maestro: Maestro) -> None:
    pia.submit(HOME, {"name": "pages-seen"}, to=f"{HOME}new")
    assert pia.get(f"{HOME}admin").status_code == 403
    answer = maestro.admin.get(f"{HOME}admin")
    assert answer.status_code == 200
    assert "pages-seen" in answer.text
    assert "is in force" in answer.text
    hub_admin = BeautifulSoup(maestro.admin.get("hub/admin").text, "html.parser")
    assert hub_admin.find("a", string="Maestro admin")["href"].endswith("/services/workspaces/admin")


def test_the_spawn_form_of_an_unknown_workspace_says_so_and_starts_nothing(pia: Person) -> None:
    answer = pia.get("hub/spawn/pia/pages-none")
    page = BeautifulSoup(answer.text, "html.parser")
    assert "There is no workspace 'pages-none' that you belong to" in page.find(id="maestro-refused").get_text()
    assert page.find("button", string="Start").has_attr("disabled")


def test_a_link_fills_the_form_and_starts_nothing(pia: Person) -> None:
    pia.submit(HOME, {"name": "pages-link"}, to=f"{HOME}new")
    answer = pia.get("hub/spawn/pia/pages-link?opt-cpu=0.5&memory=512Mi&mlflow_experiment=%3Cb%3Enight")
    page = BeautifulSoup(answer.text, "html.parser")
    assert answer.status_code == 200
    assert page.find(id="maestro-notice") is not None
    assert page.select_one(".spawn-error-msg") is None, "a notice is no error"
    assert page.find(id="spawn-cpu")["value"] == "0.5"
    servers = pia.hub("GET", "users/pia?include_stopped_servers=1").json()["servers"]
    assert not servers.get("pages-link", {}).get("ready") and not servers.get("pages-link", {}).get("pending")


def test_a_refused_start_shows_its_sentence_on_the_form_of_its_workspace(pia: Person) -> None:
    pia.submit(HOME, {"name": "pages-lots"}, to=f"{HOME}new")
    form = BeautifulSoup(pia.get("hub/spawn/pia/pages-lots").text, "html.parser").find(id="spawn_form")
    answer = pia.browser.post(form["action"], data={"memory": "lots"})  # the Hub's token is in the address
    page = BeautifulSoup(answer.text, "html.parser")
    assert "'lots' is not an amount of memory" in page.get_text()
    assert page.get_text().count("is not an amount of memory") == 1
    assert page.find("h2").get_text() == "pages-lots"
    assert page.find(id="spawn-memory")["value"] == "lots", "what was typed is kept"


# In a browser


@pytest.fixture(params=[(1200, 850), (390, 844)], ids=["desk", "phone"])
def window(request: pytest.FixtureRequest, chromium: Browser, maestro: Maestro, pia: Person) -> Iterator[Page]:  # noqa: F811
    """Pia's browser, signed in, on the landing page; the test fails if anything was refused or missing meanwhile."""
    width, height = request.param
    context = chromium.new_context(viewport={"width": width, "height": height}, base_url=maestro.url)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("")
    page.get_by_label("Username").fill(pia.name)
    page.get_by_label("Password").fill(pia.password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Workspaces")).to_be_visible()
    yield page
    context.close()
    assert complaints == [], "the security policy, a missing file or a script's mistake"


@pytest.mark.browser
def test_a_person_makes_a_workspace_with_the_keyboard(window: Page) -> None:
    width = window.viewport_size["width"]  # type: ignore[index]
    name = f"pages-typed-{width}"
    window.locator("summary", has_text="New workspace").focus()
    window.keyboard.press("Enter")
    window.keyboard.press("Tab")
    window.keyboard.type(name)
    window.keyboard.press("Enter")
    expect(window.get_by_role("status")).to_contain_text(f"The workspace {name} is yours")
    for path in (HOME, f"{HOME}w/{name}", f"hub/spawn/pia/{name}"):
        window.goto(path)
        inside = window.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert inside, f"{path} scrolls sideways at {width} px"


@pytest.mark.browser
def test_the_cards_follow_what_happens_without_a_reload(window: Page, pia: Person) -> None:
    width = window.viewport_size["width"]  # type: ignore[index]
    name = f"pages-fresh-{width}"
    expect(window.locator("#cards")).to_be_visible()
    with pia.api() as api:
        assert api.post("workspaces", json={"name": name}).status_code == 201
    expect(window.locator(f"#card-{name}")).to_be_visible(timeout=30_000)
