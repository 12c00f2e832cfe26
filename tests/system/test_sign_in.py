"""Signing up, in and out of a real Hub, and what the accounts page can do; and who is nobody there."""

from __future__ import annotations

import time

import httpx
import pytest
from bs4 import BeautifulSoup

from tests.system.house import Maestro, Person, until


def waiting(maestro: Maestro) -> set[str]:
    """The names that the accounts page offers to approve."""
    page = BeautifulSoup(maestro.admin.get("hub/accounts").text, "html.parser")
    return {row["data-account"] for row in page.select("tr[data-account]") if row.select("button[value=approve]")}


def test_the_first_password_of_the_admin_opens_nothing_but_its_change(maestro: Maestro) -> None:
    again = Person(maestro.url, "admin").sign_in(maestro.one_time_password)
    assert again.status_code == 403, "it was for one use, and the fixture has used it"
    assert maestro.one_time_password not in maestro.log()
    assert maestro.admin.signed_in()


def test_somebody_signs_up_waits_and_comes_in_once_approved(maestro: Maestro) -> None:
    ann = Person(maestro.url, "ann.lee@example.com")
    assert "The admin now decides" in ann.sign_up().text

    too_early = ann.sign_in()
    assert too_early.status_code == 403
    assert "waits for the admin" in too_early.text
    assert not ann.signed_in()

    assert ann.name in waiting(maestro)
    maestro.account(ann.name, "approve")
    ann.sign_in()
    assert ann.signed_in()
    assert ann.hub("GET", "user").json()["admin"] is False


def test_a_refused_sign_up_is_forgotten(maestro: Maestro) -> None:
    bob = Person(maestro.url, "bob.refused")
    bob.sign_up()
    maestro.account(bob.name, "refuse")
    assert bob.name not in waiting(maestro)
    assert "Invalid username or password" in bob.sign_in().text


def test_nobody_becomes_admin_by_being_first_under_the_name(maestro: Maestro) -> None:
    """An admin's name and one that the Hub knows get the same answer as any other, and no account."""
    maestro.admin.hub("POST", "users/known-to-the-hub", {"admin": True})
    for name in ("admin", "known-to-the-hub", "Known-To-The-Hub"):
        thief = Person(maestro.url, name)
        assert "The admin now decides" in thief.sign_up().text
        assert thief.sign_in().status_code == 403
        assert not thief.signed_in()
    assert not waiting(maestro) & {"admin", "known-to-the-hub"}


def test_a_taken_name_is_answered_like_a_free_one_and_as_fast(maestro: Maestro) -> None:
    taken = maestro.person("taken")
    seconds, texts = [], []
    for name in (taken.name, "surely-free"):
        began = time.monotonic()
        texts.append(Person(maestro.url, name).sign_up().text.replace(name, "NAME"))
        seconds.append(time.monotonic() - began)
    assert texts[0].partition("<body>")[2] == texts[1].partition("<body>")[2]
    assert min(seconds) >= 0.5
    maestro.account("surely-free", "refuse")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"username": "no spaces"}, "e-mail address"),
        ({"username": "аdmin"}, "e-mail address"),
        ({"password": "short", "password_again": "short"}, "at least 10"),
        ({"password_again": "something else"}, "differ"),
    ],
)
def test_a_mistake_in_the_form_is_told_in_one_sentence_and_the_name_stays(
    maestro: Maestro, fields: dict[str, str], says: str
) -> None:
    good = {"username": "carl", "password": "four words in a row", "password_again": "four words in a row"}
    answer = Person(maestro.url, "carl").submit("hub/signup", good | fields)
    assert answer.status_code == 400
    assert says in answer.text
    assert (good | fields)["username"] in answer.text
    assert "four words in a row" not in answer.text


def test_what_somebody_types_never_becomes_markup(maestro: Maestro) -> None:
    name = '"><script>alert(1)</script>'
    fields = {"username": name, "password": "x", "password_again": "x"}
    for page in ("hub/signup", "hub/password"):
        assert "<script>alert(1)" not in Person(maestro.url, name).submit(page, fields | {"current": "x"}).text
    assert (
        "<script>alert(1)" not in httpx.get(maestro.url + "hub/password", params={"username": name, "next": name}).text
    )


def test_only_admins_see_the_accounts(maestro: Maestro) -> None:
    dora = maestro.person("dora")
    assert dora.get("hub/accounts").status_code == 403
    assert "hub/accounts" not in dora.get("hub/token").text
    assert "hub/accounts" in maestro.admin.get("hub/token").text
    assert Person(maestro.url, "nobody").get("hub/accounts").url.path == "/hub/login"
    sent = {"_xsrf": dora.xsrf(), "username": "dora", "action": "disable"}
    answer = dora.browser.post("hub/accounts", data=sent)
    assert answer.status_code == 403
    assert dora.signed_in()


def test_no_link_and_no_other_site_changes_anything(maestro: Maestro) -> None:
    eve = Person(maestro.url, "eve")
    eve.sign_up()
    for action in ("approve", "refuse", "reset"):
        maestro.admin.get("hub/accounts", params={"action": action, "username": "eve"})
        assert maestro.admin.browser.post("hub/accounts", data={"action": action, "username": "eve"}).status_code == 403
    assert "waits for the admin" in eve.sign_in().text
    unprotected = {"username": "frank", "password": "four words in a row", "password_again": "four words in a row"}
    assert httpx.post(maestro.url + "hub/signup", data=unprotected).status_code == 403
    assert "frank" not in waiting(maestro)
    maestro.account("eve", "refuse")


def test_a_reset_gives_a_one_time_password_and_ends_the_sessions(maestro: Maestro) -> None:
    gina = maestro.person("gina")
    page = maestro.account("gina", "reset")
    given = page.text.partition('id="one-time-password"')[2].partition(">")[2].partition("<")[0]
    assert page.headers["cache-control"] == "no-store"
    assert len(given) == 19
    assert not gina.signed_in()
    assert gina.sign_in().status_code == 403, "the old password is gone"

    assert gina.sign_in(given).url.path == "/hub/password"
    assert not gina.signed_in(), "a one-time password opens no session"
    token = gina.browser.post(
        maestro.url + "hub/api/users/gina/tokens", json={"auth": {"username": "gina", "password": given}}
    )
    assert token.status_code == 403, "and gets no token"
    assert "current password" in gina.change_password(given, given).text
    gina.change_password(given, "another four words")
    assert gina.signed_in()
    assert given not in maestro.log()


def test_changing_the_password_signs_out_every_other_browser(maestro: Maestro) -> None:
    hana = maestro.person("hana")
    elsewhere = Person(maestro.url, "hana", hana.password)
    elsewhere.sign_in()
    assert elsewhere.signed_in()
    assert "is wrong" in hana.change_password("not mine", "another four words").text
    hana.change_password(hana.password, "another four words")
    assert hana.signed_in()
    assert not elsewhere.signed_in()
    assert elsewhere.sign_in().status_code == 403


def test_disabling_ends_sessions_and_tokens_at_once(maestro: Maestro) -> None:
    ivan = maestro.person("ivan")
    token = {"Authorization": f"token {ivan.token()}"}
    assert httpx.get(maestro.url + "hub/api/user", headers=token).status_code == 200
    maestro.account("ivan", "disable")
    assert httpx.get(maestro.url + "hub/api/user", headers=token).status_code == 403
    assert not ivan.signed_in()
    assert "disabled" in ivan.sign_in().text
    maestro.account("ivan", "enable")
    ivan.sign_in()
    assert ivan.signed_in()


def test_an_admin_cannot_shut_themself_out(maestro: Maestro) -> None:
    answer = maestro.account("admin", "disable")
    assert answer.status_code == 409
    assert "your own account" in answer.text
    assert maestro.admin.signed_in()


def test_a_button_pressed_too_late_says_how_things_stand(maestro: Maestro) -> None:
    answer = maestro.account("nobody-of-that-name", "approve")
    assert answer.status_code == 409
    assert "not in that state any more" in answer.text


def test_a_deleted_user_can_sign_up_anew_and_is_somebody_else(maestro: Maestro) -> None:
    jon = maestro.person("jon")
    before = maestro.admin.hub("GET", "users/jon").json()["created"]
    assert maestro.admin.hub("DELETE", "users/jon").status_code == 204
    assert not jon.signed_in()
    assert "Invalid username or password" in jon.sign_in().text

    again = Person(maestro.url, "jon")
    again.sign_up()
    assert "waits for the admin" in again.sign_in().text
    maestro.account("jon", "approve")
    again.sign_in()
    assert maestro.admin.hub("GET", "users/jon").json()["created"] != before


def test_a_user_whom_an_admin_made_at_the_hub_gets_a_password_on_the_accounts_page(maestro: Maestro) -> None:
    maestro.admin.hub("POST", "users/kim")
    page = maestro.account("kim", "reset").text
    given = page.partition('id="one-time-password"')[2].partition(">")[2].partition("<")[0]
    kim = Person(maestro.url, "kim")
    assert kim.sign_in(given).url.path == "/hub/password"


def test_guessing_is_answered_with_a_wait(maestro: Maestro) -> None:
    victim = maestro.person("lena")
    guesser, tries = Person(maestro.url, "lena", "a wrong guess"), 0

    def guess() -> httpx.Response | None:
        nonlocal tries
        tries += 1
        guesser.browser.headers["X-Real-Ip"] = f"10.9.8.{tries}"  # what a client says of itself counts for nothing
        answer = guesser.sign_in()
        return answer if answer.status_code == 429 else None

    answer = until(guess, 60, "guesses are not slowed down")
    assert tries < 10, "each made-up address was counted on its own"
    assert "try again in" in answer.text
    assert victim.signed_in(), "whoever is in stays in"


def test_admins_hold_maestros_scopes_and_others_do_not(maestro: Maestro) -> None:
    scopes = set(maestro.admin.hub("GET", "user").json()["scopes"])
    assert {"custom:maestro:use", "custom:maestro:manage", "custom:maestro:admin", "custom:maestro:audit"} <= scopes
    assert not {"custom:maestro:plan", "custom:maestro:policy", "custom:maestro:authorize"} & scopes

    mia = maestro.person("mia")
    scopes = set(mia.hub("GET", "user").json()["scopes"])
    assert {"custom:maestro:use", "custom:maestro:manage", "access:services!service=mlflow"} <= scopes
    assert "custom:maestro:admin" not in scopes
    assert mia.hub("POST", "users/mia/tokens", {"scopes": ["custom:maestro:admin"]}).status_code == 400

    maestro.admin.hub("POST", "groups/maestro-admins/users", {"users": ["mia"]})
    assert "custom:maestro:admin" in mia.hub("GET", "user").json()["scopes"]
    maestro.admin.hub("DELETE", "groups/maestro-admins/users", {"users": ["mia"]})
    assert "custom:maestro:admin" not in mia.hub("GET", "user").json()["scopes"]
