"""A running Maestro for tests, and people who use it as a browser does: pages, forms with their XSRF token, cookies."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parent.parent.parent
API = "services/workspaces/api/v1/jupyter/"
START_SECONDS = 150.0
STOP_SECONDS = 60.0

T = TypeVar("T")


def until(what: Callable[[], T | None], seconds: float, why: str) -> T:
    """Call ``what`` until it gives something true.

    Raises:
        AssertionError: with ``why`` after ``seconds``.
    """
    limit = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < limit, f"{why} (waited {seconds:.0f} s)"
        time.sleep(0.05)


class Run:
    """One ``python -m maestro_hub_services.run`` on a state directory.

    Args:
        state: MAESTRO_STATE.
        arguments: of the program.
        environment: further variables.
        before: a command that goes before it (``unshare ...``) and becomes it.

    Attributes:
        output: file with what it printed.
    """

    def __init__(
        self, state: Path, *arguments: str, environment: Mapping[str, str] | None = None, before: Sequence[str] = ()
    ) -> None:
        self.state = state
        self.output = state.parent / f"{state.name}.{secrets.token_hex(3)}.out"
        variables = os.environ | {"MAESTRO_STATE": str(state), "MAESTRO_PORT": "0"} | dict(environment or {})
        variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "maestro_hub_services.run", *arguments],
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        return self.output.read_text()

    @property
    def ready(self) -> dict[str, Any]:
        """``run/ready.json``; waits for the box, which comes right after it.

        Raises:
            AssertionError: with all that it printed, if it ends or takes too long.
        """

        def look() -> dict[str, Any] | None:
            assert self.process.poll() is None, f"Maestro ended:\n{self.printed}\n{self._log()}"
            box = "Ctrl-C ends it" in self.printed
            return json.loads((self.state / "run/ready.json").read_text()) if box else None

        return until(look, START_SECONDS, f"Maestro is not ready:\n{self.printed}\n{self._log()}")

    def passwords(self) -> dict[str, str]:
        """User name -> password, from the box."""
        return dict(re.findall(r"^│\s+(\S+)\s+((?:[a-z2-9]{4}-){3}[a-z2-9]{4})\b", self.printed, re.MULTILINE))

    def stop(self, number: int = signal.SIGINT) -> int:
        """Press Ctrl-C (or send another signal) and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def _log(self) -> str:
        log = self.state / "log/hub.log"
        return log.read_text()[-3000:] if log.exists() else ""


class Person:
    """Somebody with a browser.

    Args:
        url: the Hub's address, with a slash at the end.
    """

    def __init__(self, url: str, name: str, password: str = "") -> None:
        self.url = url
        self.name = name
        self.password = password or secrets.token_urlsafe(12)
        accept = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        self.browser = httpx.Client(base_url=url, follow_redirects=True, timeout=30.0, headers=accept)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Open a page."""
        return self.browser.get(path, **options)

    def submit(self, page: str, fields: Mapping[str, str], to: str | None = None) -> httpx.Response:
        """Open a page and send its form (to ``to``, or the page itself), with the XSRF token that it holds."""
        token = BeautifulSoup(self.get(page).text, "html.parser").find("input", {"name": "_xsrf"})
        hidden = {"_xsrf": str(token["value"])} if token else {}
        return self.browser.post(to or page, data={**hidden, **fields})

    def sign_up(self) -> httpx.Response:
        """Ask for an account."""
        fields = {"username": self.name, "password": self.password, "password_again": self.password}
        return self.submit("hub/signup", fields)

    def sign_in(self, password: str | None = None) -> httpx.Response:
        """Sign in at the Hub's form; the page that follows (or the form again)."""
        return self.submit("hub/login", {"username": self.name, "password": password or self.password})

    def change_password(self, current: str, new: str) -> httpx.Response:
        """Fill in the password page."""
        fields = {"username": self.name, "current": current, "password": new, "password_again": new}
        return self.submit("hub/password", fields)

    def signed_in(self) -> bool:
        """Whether the Hub's pages are open."""
        answer = self.get("hub/token", follow_redirects=False)
        return answer.status_code == 200

    def xsrf(self) -> str:
        """The token of the Hub's pages; a service's pages have another."""
        return self.browser.cookies.get("_xsrf", path=f"{httpx.URL(self.url).path}hub/") or ""

    def hub(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Call the Hub's API with the browser's cookie, as the Hub's own pages do."""
        headers = {"X-XSRFToken": self.xsrf(), "Sec-Fetch-Mode": "cors"}
        return self.browser.request(method, f"hub/api/{path}", json=body, headers=headers)

    def token(self, scopes: list[str] | None = None) -> str:
        """A new API token; without ``scopes`` it may do what the person may."""
        body = {"note": "test", "expires_in": 3600} | ({"scopes": scopes} if scopes else {})
        answer = self.hub("POST", f"users/{self.name}/tokens", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def api(self, token: str | None = None) -> httpx.Client:
        """A client of Maestro's REST API with a token of the person: ``person.api().get("workspaces")``."""
        return httpx.Client(
            base_url=self.url + API, headers={"Authorization": f"token {token or self.token()}"}, timeout=60.0
        )


class Maestro:
    """The running system.

    Args:
        run: a run that gets ready.
        policy: its ``maestro.yaml``, which tests may change.

    Attributes:
        url: the Hub's address, with a slash at the end; ready: the content of ``ready.json``.
        admin: signed in; has walked the first sign-in with the one-time password of the box.
    """

    def __init__(self, run: Run, policy: Path = ROOT / "maestro.yaml") -> None:
        self.run = run
        self.policy = policy
        self.ready = run.ready
        self.url: str = self.ready["url"]
        self.state = run.state
        self._people: dict[str, Person] = {}
        self.one_time_password = run.passwords()["admin"]
        self.admin = Person(self.url, "admin")
        answer = self.admin.sign_in(self.one_time_password)
        assert answer.url.path.endswith("/hub/password"), answer.text
        answer = self.admin.change_password(self.one_time_password, self.admin.password)
        assert self.admin.signed_in(), answer.text

    def person(self, name: str) -> Person:
        """Somebody whom the admin added, who chose a password and is signed in; the same one each time.

        Sign-ups of one address are counted, and all tests have one; those about sign-up sign up themselves.
        """
        if name not in self._people:
            page = BeautifulSoup(self.account(name, "add").text, "html.parser")
            given = page.find(id="one-time-password")
            assert given is not None, page.get_text(" ", strip=True)
            person = Person(self.url, name)
            person.sign_in(given.get_text(strip=True))
            person.change_password(given.get_text(strip=True), person.password)
            assert person.signed_in(), f"{name} cannot sign in"
            self._people[name] = person
        return self._people[name]

    def account(self, name: str, action: str) -> httpx.Response:
        """Press a button of the accounts page as the admin."""
        return self.admin.submit("hub/accounts", {"username": name, "action": action})

    @contextmanager
    def ruled(self, change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """Change ``maestro.yaml``, until the end of the block."""
        written = self.policy.read_text()
        policy = yaml.safe_load(written)
        change(policy)
        self._rule(yaml.safe_dump(policy))
        try:
            yield
        finally:
            self._rule(written)

    @contextmanager
    def packages_from(self, upstream: str, channels: str = "") -> Iterator[None]:
        """Let the package index ask this upstream, and that place of conda channels, until the end of the block."""

        def change(policy: dict[str, Any]) -> None:
            section = policy.setdefault("packages", {})
            section["index"] = {**section.get("index", {}), "upstream": upstream, "channel_alias": channels}

        with self.ruled(change):
            yield

    def _rule(self, policy: str) -> None:
        """Write ``maestro.yaml`` and wait until it is in force."""
        in_force = f"{self.policy.name} is in force"
        before = self.log().count(in_force)
        self.policy.write_text(policy)
        until(lambda: self.log().count(in_force) > before, 20, "the service reads its policy")

    def log(self) -> str:
        """What Hub, proxy and services have logged."""
        return (self.state / "log/hub.log").read_text()
