"""Accounts: which names and passwords are taken, who may sign in, and how guessing is slowed down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace

import pytest
from argon2 import PasswordHasher
from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError

from maestro_authenticator import MaestroAuthenticator
from maestro_authenticator.accounts import MAX_PENDING, Accounts, NewerDatabase, Status, schema_table
from maestro_authenticator.address import client_address
from maestro_authenticator.authenticator import PasswordChangeDue
from maestro_authenticator.passwords import Passwords
from maestro_authenticator.rules import check_new_name, check_new_password, normal_name, one_time_password
from maestro_authenticator.throttle import LIMITS, Limit, Throttle, TooMany
from maestro_core.errors import MaestroError

PASSWORD = "four words in a row"


@pytest.fixture
def authenticator(tmp_path: Path) -> MaestroAuthenticator:
    """An authenticator on an empty database, with one admin by configuration; its hashes are cheap ones."""
    made = MaestroAuthenticator(accounts_path=str(tmp_path / "accounts" / "accounts.sqlite"), admin_users={"admin"})
    made.passwords = Passwords(PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    return made


def request_from(address: str = "192.0.2.1", browser: dict[str, bytes] | None = None) -> SimpleNamespace:
    """What the Hub hands to ``authenticate``: a handler, of which the address matters and the browser's cookies."""
    cookies = {} if browser is None else browser
    connection = SimpleNamespace(context=None)
    request = SimpleNamespace(remote_ip=address, headers=HTTPHeaders(), connection=connection, protocol="https")

    def set_cookie(name: str, value: str, **attributes: object) -> None:
        assert attributes["httponly"] and attributes["secure"] and attributes["path"] == "/hub/"
        cookies[name] = value.encode()

    return SimpleNamespace(
        request=request,
        hub=SimpleNamespace(base_url="/hub/"),
        get_secure_cookie=lambda name, max_age_days: cookies.get(name),
        set_secure_cookie=set_cookie,
    )


def test_the_address_is_the_one_that_the_proxy_saw() -> None:
    """Whatever a client writes into X-Real-Ip or in front of X-Forwarded-For."""
    request = request_from("198.51.100.7").request  # tornado's reading of X-Real-Ip
    request.connection.context = SimpleNamespace(_orig_remote_ip="127.0.0.1", trusted_downstream=("192.0.2.9",))
    request.headers = HTTPHeaders({"X-Real-Ip": "198.51.100.7", "X-Forwarded-For": "203.0.113.1, 192.0.2.1"})
    assert client_address(request) == "192.0.2.1"
    request.headers = HTTPHeaders({"X-Forwarded-For": "203.0.113.1, 192.0.2.1, 192.0.2.9"})  # a proxy of the admin's
    assert client_address(request) == "192.0.2.1"
    for nonsense in ("", "unknown", "203.0.113.1, <script>"):
        request.headers = HTTPHeaders({"X-Forwarded-For": nonsense, "X-Real-Ip": "198.51.100.7"})
        assert client_address(request) == "127.0.0.1"


async def sign_in(
    authenticator: MaestroAuthenticator,
    name: str,
    password: str,
    address: str = "192.0.2.1",
    browser: dict[str, bytes] | None = None,
) -> str | None:
    """Sign in as the Hub's form does; the name that the Hub would know, or None."""
    typed = {"username": name, "password": password}
    model = await authenticator.get_authenticated_user(request_from(address, browser), typed)
    return model["name"] if model else None


async def refused(what: Awaitable[object]) -> HTTPError:
    with pytest.raises(HTTPError) as caught:
        await what
    return caught.value


# --- names and passwords


@pytest.mark.parametrize(
    "name", ["a", "ann", "a-b", "ann_b.c+d", "7of9", "john@example.com", "j.d+x@mail.example-a.org"]
)
def test_a_user_name_may_be_a_word_or_an_e_mail_address(name: str) -> None:
    assert check_new_name(f" {name.upper()} ") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "-a",
        "a-",
        "a b",
        "a/b",
        "a%2fb",
        "a!b",
        "a\nb",
        "a@b@c",
        "@b",
        "a@",
        "x" * 65,
        "аdmin",  # a Cyrillic a
        "\u212aate",  # the Kelvin sign lowers to k
        "ann\u200b",
        "<script>",
    ],
)
def test_other_names_are_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(MaestroError) as caught:
        check_new_name(name)
    assert caught.value.code == "invalid_name"
    assert "e-mail address" in caught.value.message


def test_a_look_alike_never_becomes_the_name_that_it_imitates() -> None:
    assert normal_name("\u212aate") is None
    assert normal_name("Kate") == "kate"


@pytest.mark.parametrize(
    ("password", "again", "says"),
    [
        (PASSWORD, "another", "differ"),
        ("tiny one", "tiny one", "too short"),
        ("aaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaa", "different"),
        ("margaret12", "margaret12", "user name"),
        ("x1" * 600, "x1" * 600, "longer"),
    ],
)
def test_a_bad_password_is_refused_in_one_sentence(password: str, again: str, says: str) -> None:
    with pytest.raises(MaestroError) as caught:
        check_new_password(password, again, "margaret@example.com")
    assert says in caught.value.message
    assert password not in caught.value.message


def test_one_time_passwords_are_typeable_and_never_the_same() -> None:
    made = {one_time_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(password) == 19 and not set(password) & set("01ilo") for password in made)


# --- signing up and in


async def test_a_sign_up_waits_for_the_admin_and_then_signs_in(authenticator: MaestroAuthenticator) -> None:
    await authenticator.sign_up("ann", PASSWORD, free=True)
    error = await refused(sign_in(authenticator, "ann", PASSWORD))
    assert error.status_code == 403
    assert "approval" in str(error)

    assert await authenticator.accounts.approve("ann")
    assert await sign_in(authenticator, " Ann ", PASSWORD) == "ann"
    assert await sign_in(authenticator, "ann", PASSWORD + " ") is None


async def test_without_the_password_nobody_learns_that_an_account_waits(authenticator: MaestroAuthenticator) -> None:
    await authenticator.sign_up("ann", PASSWORD, free=True)
    assert await sign_in(authenticator, "ann", "not the password") is None
    assert await sign_in(authenticator, "nobody", "not the password") is None


async def test_signing_up_under_a_taken_name_changes_nothing(authenticator: MaestroAuthenticator) -> None:
    await authenticator.sign_up("ann", PASSWORD, free=True)
    await authenticator.accounts.approve("ann")
    await authenticator.sign_up("ann", "the thief's own password", free=True)
    assert await sign_in(authenticator, "ann", PASSWORD) == "ann"
    assert await sign_in(authenticator, "ann", "the thief's own password") is None


async def test_an_admins_name_cannot_be_signed_up_for(authenticator: MaestroAuthenticator) -> None:
    await authenticator.sign_up("admin", PASSWORD, free=True)
    assert await authenticator.accounts.find("admin") is None


async def test_a_name_that_the_hub_knows_cannot_be_signed_up_for(authenticator: MaestroAuthenticator) -> None:
    await authenticator.sign_up("bob", PASSWORD, free=False)
    assert await authenticator.accounts.find("bob") is None


async def test_a_user_whom_the_hub_gets_otherwise_does_not_take_over_a_waiting_sign_up(
    authenticator: MaestroAuthenticator,
) -> None:
    await authenticator.sign_up("bob", PASSWORD, free=True)
    await authenticator.add_user(SimpleNamespace(name="bob"))
    assert await authenticator.accounts.find("bob") is None


async def test_no_more_sign_ups_are_kept_than_an_admin_can_read(authenticator: MaestroAuthenticator) -> None:
    for number in range(MAX_PENDING):
        assert await authenticator.accounts.ask(f"user{number}", "hash")
    assert not await authenticator.accounts.ask("one-more", "hash")


async def test_long_passwords_count_to_their_last_character(authenticator: MaestroAuthenticator) -> None:
    long = "0123456789" * 50
    await authenticator.accounts.give("ann", await authenticator.passwords.hash(long), must_change=False)
    assert await sign_in(authenticator, "ann", long) == "ann"
    assert await sign_in(authenticator, "ann", long[:-1] + "x") is None
    assert await sign_in(authenticator, "ann", "x" * 100_000) is None


async def test_a_letter_is_the_same_letter_however_it_was_typed(authenticator: MaestroAuthenticator) -> None:
    await authenticator.accounts.give("ann", await authenticator.passwords.hash("caf\u00e9 au lait"), must_change=False)
    assert await sign_in(authenticator, "ann", "cafe\u0301 au lait") == "ann"


async def test_a_one_time_password_signs_nobody_in(authenticator: MaestroAuthenticator) -> None:
    given = one_time_password()
    await authenticator.accounts.give("ann", await authenticator.passwords.hash(given), must_change=True)
    with pytest.raises(PasswordChangeDue):
        await sign_in(authenticator, "ann", given)
    assert await authenticator.accounts.choose("ann", await authenticator.passwords.hash(PASSWORD))
    assert await sign_in(authenticator, "ann", PASSWORD) == "ann"
    assert await sign_in(authenticator, "ann", given) is None


async def test_a_disabled_account_is_out_and_stays_out_of_running_sessions(authenticator: MaestroAuthenticator) -> None:
    await authenticator.accounts.give("ann", await authenticator.passwords.hash(PASSWORD), must_change=False)
    ann = SimpleNamespace(name="ann")
    assert await authenticator.refresh_user(ann)
    assert await authenticator.accounts.disable("ann")
    assert not await authenticator.refresh_user(ann)
    assert "disabled" in str(await refused(sign_in(authenticator, "ann", PASSWORD)))
    assert await authenticator.accounts.enable("ann")
    assert await sign_in(authenticator, "ann", PASSWORD) == "ann"


async def test_deleting_the_hubs_user_deletes_the_account(authenticator: MaestroAuthenticator) -> None:
    await authenticator.accounts.give("ann", await authenticator.passwords.hash(PASSWORD), must_change=False)
    await authenticator.delete_user(SimpleNamespace(name="ann"))
    assert await authenticator.accounts.find("ann") is None


async def test_allowed_users_narrows_who_may_come_in(authenticator: MaestroAuthenticator) -> None:
    authenticator.allow_all = False
    authenticator.allowed_users = {"admin"}
    hashed = await authenticator.passwords.hash(PASSWORD)
    for name in ("admin", "ann"):
        await authenticator.accounts.give(name, hashed, must_change=False)
    assert await sign_in(authenticator, "admin", PASSWORD) == "admin"
    assert await sign_in(authenticator, "ann", PASSWORD) is None
    assert not await authenticator.refresh_user(SimpleNamespace(name="ann"))


async def test_the_loop_goes_on_while_a_password_is_checked(authenticator: MaestroAuthenticator) -> None:
    authenticator.passwords = Passwords()
    longest, last = 0.0, time.monotonic()
    check = asyncio.ensure_future(sign_in(authenticator, "nobody", PASSWORD))
    while not check.done():
        await asyncio.sleep(0)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    hashing = time.monotonic()
    await authenticator.passwords.hash(PASSWORD)
    assert longest < (time.monotonic() - hashing) / 2


async def test_an_unknown_name_costs_as_much_work_as_a_known_one(
    authenticator: MaestroAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await authenticator.accounts.give("ann", await authenticator.passwords.hash(PASSWORD), must_change=False)
    checked: list[str] = []
    fits = authenticator.passwords._fits
    monkeypatch.setattr(
        authenticator.passwords, "_fits", lambda known, text: checked.append(known.split("$")[3]) or fits(known, text)
    )
    for name in ("ann", "nobody", "not/a name"):
        await sign_in(authenticator, name, "wrong")
    assert len(checked) == 3
    assert len(set(checked)) == 1, "the same argon2 parameters each time"


# --- guessing


async def test_guessing_is_slowed_down_and_a_restart_forgets_nothing(tmp_path: Path) -> None:
    now = 1_000_000.0
    keys = {"name and address": "ann\0192.0.2.1", "name": "ann", "address": "192.0.2.1"}
    throttle = Throttle(Accounts(tmp_path / "accounts.sqlite"), lambda: now)
    free = LIMITS["name and address"].free
    for _ in range(free + 1):
        await throttle.attempt(keys)
    with pytest.raises(TooMany):
        await throttle.attempt(keys)

    restarted = Throttle(Accounts(tmp_path / "accounts.sqlite"), lambda: now)
    with pytest.raises(TooMany) as caught:
        await restarted.attempt(keys)
    now += caught.value.seconds
    await restarted.attempt(keys)
    with pytest.raises(TooMany) as caught:
        await restarted.attempt(keys)
    assert caught.value.seconds >= 2, "each failure doubles the wait"

    await restarted.attempt(keys | {"name and address": "ann\0198.51.100.7", "address": "198.51.100.7"})
    now += 3601
    await restarted.attempt(keys)


async def test_parallel_guesses_cannot_slip_through(authenticator: MaestroAuthenticator) -> None:
    outcomes = await asyncio.gather(
        *(sign_in(authenticator, "ann", f"guess number {number}") for number in range(30)), return_exceptions=True
    )
    looked_at = [outcome for outcome in outcomes if outcome is None]
    turned_away = [outcome for outcome in outcomes if isinstance(outcome, HTTPError) and outcome.status_code == 429]
    assert len(looked_at) == LIMITS["name and address"].free + 1
    assert len(looked_at) + len(turned_away) == 30


async def test_the_right_password_clears_the_persons_failures(authenticator: MaestroAuthenticator) -> None:
    await authenticator.accounts.give("ann", await authenticator.passwords.hash(PASSWORD), must_change=False)
    for _ in range(3):
        for _ in range(LIMITS["name and address"].free):
            assert await sign_in(authenticator, "ann", "wrong") is None
        assert await sign_in(authenticator, "ann", PASSWORD) == "ann"


async def test_strangers_who_guess_make_nobody_wait_who_has_signed_in_here_before(
    authenticator: MaestroAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "name", Limit(free=2, longest=30))
    authenticator.throttle = Throttle(authenticator.accounts, lambda: 1_000_000.0)  # no wait ends by itself
    for name in ("ann", "bob"):
        await authenticator.accounts.give(name, await authenticator.passwords.hash(PASSWORD), must_change=False)
    laptop, phone = dict[str, bytes](), dict[str, bytes]()
    assert await sign_in(authenticator, "ann", PASSWORD, browser=laptop) == "ann"
    for number in range(3):
        assert await sign_in(authenticator, "ann", "guess", f"198.51.100.{number}") is None
    assert (await refused(sign_in(authenticator, "ann", PASSWORD, browser=phone))).status_code == 429
    assert await sign_in(authenticator, "ann", PASSWORD, "203.0.113.9", browser=laptop) == "ann"

    device = laptop.copy()
    await sign_in(authenticator, "bob", PASSWORD, browser=laptop)
    assert (await refused(sign_in(authenticator, "ann", PASSWORD, browser=laptop))).status_code == 429, "it is bob's"
    for number in range(LIMITS["name and device"].free + 1):  # who has the cookie may guess no more than others
        assert await sign_in(authenticator, "ann", "guess", f"203.0.113.{number}", browser=device) is None
    error = await refused(sign_in(authenticator, "ann", "guess", "203.0.113.200", browser=device))
    assert error.status_code == 429


def test_waits_double_up_to_the_longest() -> None:
    limit = Limit(free=2, longest=10)
    assert [limit.wait(failures) for failures in range(1, 9)] == [0, 0, 1, 2, 4, 8, 10, 10]
    assert limit.wait(10**9) == 10


# --- the database


async def test_the_database_is_closed_to_others_and_keeps_no_password(authenticator: MaestroAuthenticator) -> None:
    await authenticator.sign_up("ann", PASSWORD, free=True)
    path = Path(authenticator.accounts_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    account = await authenticator.accounts.find("ann")
    assert account is not None
    assert account.status is Status.PENDING
    assert account.password.startswith("$argon2id$")
    assert account.password not in repr(account)
    assert PASSWORD.encode() not in path.read_bytes()


async def test_what_people_type_by_mistake_is_not_kept(authenticator: MaestroAuthenticator) -> None:
    await sign_in(authenticator, "my secret typed as a name", "x")
    assert b"my secret" not in Path(authenticator.accounts_path).read_bytes()


async def test_a_database_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "accounts.sqlite")
    async with accounts.begin() as db:
        await db.execute(schema_table.insert().values(version=99))
    with pytest.raises(NewerDatabase, match="newer Maestro"):
        await Accounts(tmp_path / "accounts.sqlite").list()
