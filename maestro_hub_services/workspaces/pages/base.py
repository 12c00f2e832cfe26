"""What every page has: the Hub's sign-in, its headers, errors as one sentence, and the flash after a redirect."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from maestro_core.errors import MaestroError

from ..identity import ADMIN, MANAGE, USE, Caller, Identity
from .desk import Desk
from .links import Links
from .views import Person

log = logging.getLogger("maestro.pages")

FLASH_COOKIE = "maestro-flash"
FLASH_SECONDS = 60
FLASH_LENGTH = 400  # a cookie holds 4096 bytes
NO_SESSION = (
    "This form does not belong to your present sign-in, or you were signed out meanwhile; "
    "go back, reload the page and send it again."
)


@dataclass(frozen=True)
class Site:
    """What the pages are built with, once a process.

    Attributes:
        templates: the folder ``templates/pages``.
        identity: asks the Hub who somebody is.
        links: prefixes of this installation.
        desk_for: the domain for one signed-in person.
        accounts: whether the Hub has the pages of Maestro's authenticator: accounts, and one's own password.
    """

    templates: Path
    identity: Identity
    links: Links
    desk_for: Callable[[Caller], Desk]
    accounts: bool = False


def environment(templates: Path) -> Environment:
    """Jinja2 for our templates: everything is escaped, and a name that is missing is a mistake."""
    return Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def security_headers(links: Links) -> dict[str, str]:
    """Headers of every page: nothing inline, nothing from elsewhere than us and the Hub, no frames."""
    host = urlsplit(links.base)
    sources = "'self'" + (f" {host.scheme}://{host.netloc}" if host.netloc else "")
    policy = {
        "default-src": "'none'",
        "script-src": sources,
        "style-src": sources,
        "font-src": sources,
        "img-src": f"{sources} data:",  # Bootstrap's own icons are data: URLs
        "connect-src": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


class PageError(HTTPError):
    """An error whose sentence is for the person.

    Args:
        status: HTTP status.
        sentence: what, why, what to do.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status)
        self.sentence = sentence


class Page(HubOAuthenticated, RequestHandler):
    """A page for a person in a browser. Tokens are for the API: a notebook server's token opens no page."""

    #: what the session must hold to see the page; to send a form it must hold ``custom:maestro:manage`` too
    scope = USE
    person: Person | None = None
    desk: Desk

    def initialize(self, site: Site, jinja: Environment) -> None:
        """Called by tornado with the route's arguments."""
        self.site = site
        self.jinja = jinja
        self.hub_auth = site.identity.auth

    def set_default_headers(self) -> None:
        """Also called by tornado before an error is written."""
        self.clear_header("Server")
        self._more_headers()

    def _more_headers(self) -> None:
        site = getattr(self, "site", None)
        for name, value in security_headers(site.links if site else Links()).items():
            self.set_header(name, value)

    async def prepare(self) -> None:
        """Find out who it is without blocking the loop, or send them to the Hub's sign-in."""
        self._more_headers()
        self.current_user = None  # so that nothing asks the Hub again, in a way that blocks
        caller = await self.site.identity.by_cookie(self)
        if getattr(self, "_token_authenticated", False):
            raise PageError(403, "Pages are for people in a browser; a token speaks to the API.")
        if caller is None:
            self._ask_for_sign_in()
            return
        self.current_user = caller
        self.person = Person(caller.person.name, caller.admin)
        self._check_scopes(caller.scopes)
        self.desk = self.site.desk_for(caller)

    def get_current_user(self) -> None:
        """Never asked: ``prepare`` has set it. The Hub's own answer blocks the loop."""
        return None

    def _ask_for_sign_in(self) -> None:
        if self.request.headers.get("HX-Request"):
            self.set_header("HX-Refresh", "true")  # a fetch cannot follow to the sign-in; a page can
            self.set_status(401)
            self.finish()
        elif self.request.method in ("GET", "HEAD"):
            self.redirect(self.get_login_url())
        else:
            raise PageError(403, NO_SESSION)

    def _check_scopes(self, scopes: frozenset[str]) -> None:
        if self.scope == ADMIN and self.scope not in scopes:
            raise PageError(403, "This page is for admins of Maestro; ask one for what you need.")
        needed = {self.scope} if self.request.method in ("GET", "HEAD") else {self.scope, MANAGE}
        if not needed <= scopes:
            raise PageError(403, "Your session may not do this; log out, sign in again, or ask an admin of the Hub.")

    @property
    def me(self) -> Person:
        """The signed-in person; ``prepare`` has answered everybody else."""
        if self.person is None:
            raise PageError(403, NO_SESSION)
        return self.person

    @property
    def links(self) -> Links:
        """Addresses of this installation."""
        return self.site.links

    def show(self, template: str, status: int = 200, here: str = "workspaces", **values: Any) -> None:
        """Answer with a template of ``service/``.

        Args:
            template: its name without folder and ending.
            status: HTTP status.
            here: the navigation's item that is open.
            values: what the template shows.
        """
        admin = self.person is not None and self.person.admin
        nav = {
            "hub": self.links.hub(),
            "services": self.links.services,
            "admin": admin,
            "hub_admin": admin,
            "accounts": self.links.hub("accounts") if admin and self.site.accounts else None,
            "here": here,
        }
        text = self.jinja.get_template(f"service/{template}.html").render(
            links=self.links,
            person=self.person,
            nav=nav,
            own_password=self.site.accounts,
            xsrf=self._token(),
            flash=self._take_flash(),
            **values,
        )
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(text)

    def _token(self) -> str:
        token = self.xsrf_token if self.person else b""
        return token.decode("ascii") if isinstance(token, bytes) else token

    def say(self, sentence: str, to: str, good: bool = True) -> None:
        """Go on to another page (so that a reload repeats nothing) and show the sentence there."""
        value = json.dumps({"sentence": sentence[:FLASH_LENGTH], "good": good}, ensure_ascii=False)
        secure = self.request.protocol == "https"
        self.set_signed_cookie(
            FLASH_COOKIE,
            value,
            expires_days=None,
            max_age=FLASH_SECONDS,
            path=self.links.prefix,
            httponly=True,
            secure=secure,
            samesite="Lax",
        )
        self.redirect(to, status=303)

    def _take_flash(self) -> dict[str, Any] | None:
        if self.request.headers.get("HX-Request"):
            return None
        value = self.get_signed_cookie(FLASH_COOKIE, max_age_days=1)
        if value is None:
            return None
        self.clear_cookie(FLASH_COOKIE, path=self.links.prefix)
        found = json.loads(value)
        return {"sentence": str(found["sentence"]), "good": bool(found["good"])}

    def field(self, name: str) -> str:
        """A form field as text, stripped; empty when it is missing."""
        return str(self.get_body_argument(name, "")).strip().replace("\r\n", "\n")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """One sentence on a page of its own, whatever happened; details go to the log only."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        status, sentence = _sentence(status_code, error)
        try:
            self.show("error", status, here="", title=_title(status), sentence=sentence)
        except Exception:
            log.exception("the error page itself failed")
            self.finish(sentence)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Refusals are no faults: they are not logged with a traceback."""
        if not isinstance(value, MaestroError | PageError):
            super().log_exception(typ, value, tb)


def _sentence(status: int, error: BaseException | None) -> tuple[int, str]:
    if isinstance(error, MaestroError):
        return error.status, error.message
    if isinstance(error, PageError):
        return error.status_code, error.sentence
    if status == 404:
        return status, "There is no such page; it may have moved, or the address has a typing mistake."
    if status < 500:
        return status, "The page could not read this request; go back, reload the page and try again."
    mark = uuid.uuid4().hex[:8]
    log.error("fault %s", mark, exc_info=error)
    return status, f"Something went wrong on our side; an admin finds it in the log of the service under {mark}."


def _title(status: int) -> str:
    return {403: "Not allowed", 404: "Not found", 503: "Not reachable"}.get(
        status, HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"
    )


class UnknownPage(Page):
    """Every address of this service that is none."""

    async def get(self, *_: str) -> None:
        """404."""
        raise HTTPError(404)

    async def post(self, *_: str) -> None:
        """404."""
        raise HTTPError(404)


class SignInCallback(HubOAuthCallbackHandler):
    """The end of the Hub's sign-in. ``HubOAuth`` does it all; errors get a page."""

    def initialize(self, site: Site, jinja: Environment) -> None:
        """Called by tornado with the route's arguments."""
        self.site = site
        self.jinja = jinja
        self.hub_auth = site.identity.auth

    def get_current_user(self) -> None:
        """Nobody yet; the Hub's own answer blocks the loop."""
        return None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """One sentence, and the way to try again."""
        for name, value in security_headers(self.site.links).items():
            self.set_header(name, value)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        text = self.jinja.get_template("service/error.html").render(
            links=self.site.links,
            person=None,
            nav={},
            own_password=False,
            xsrf="",
            flash=None,
            title="Signing in failed",
            sentence="The sign-in took too long or was begun in another window; open the workspaces again.",
        )
        self.finish(text)


class PageFiles(StaticFileHandler):
    """Our stylesheet and htmx: open to everybody, checked for changes at each use."""

    def set_default_headers(self) -> None:
        """Also of refusals."""
        self.clear_header("Server")

    def set_extra_headers(self, path: str) -> None:
        """Headers besides tornado's own."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-cache")
