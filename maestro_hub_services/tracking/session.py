"""A browser's session: one encrypted cookie on the service's own prefix, and the check that a page of ours sent it.

The cookie holds the Hub's OAuth token, encrypted with a key of this installation; signing out at the Hub revokes that
token, so the session ends within 5 s. A second cookie, readable by the page, holds the session's XSRF token: MLflow's
pages copy a cookie named ``mlflow-request-header-<name>`` into the header ``<name>`` of each of their requests. No page
of another origin can read it; one of the same origin can, whatever the cookie's path says (it may frame one of ours):
where people do not trust each other's notebook servers, each has a subdomain.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response

SESSION_COOKIE = "maestro-mlflow"
XSRF_HEADER = "X-XSRFToken"
XSRF_COOKIE = f"mlflow-request-header-{XSRF_HEADER}"
STATE_COOKIE = "maestro-mlflow-signin-"
STATE_SECONDS = 600


@dataclass(frozen=True)
class Session:
    """What the session cookie holds."""

    token: str
    xsrf: str


@dataclass(frozen=True)
class SignIn:
    """A sign-in that is under way, held by the browser that began it."""

    state: str
    verifier: str
    next_path: str


class Cookies:
    """Writes and reads the cookies.

    Args:
        key: 32 random bytes in hex, of this installation.
        prefix: the service's URL prefix; no cookie is sent to anything else.
        secure: whether people reach the Hub by https.
    """

    def __init__(self, key: str, prefix: str, secure: bool) -> None:
        from cryptography.fernet import Fernet  # by now MLflow has loaded it; before, it would delay the first answer

        self._fernet = Fernet(base64.urlsafe_b64encode(bytes.fromhex(key)))
        self._attributes: dict[str, Any] = {"path": prefix, "secure": secure, "samesite": "lax"}

    def session(self, request: HTTPConnection) -> Session | None:
        """The session of a request, or None."""
        for value in _all(request, SESSION_COOKIE):
            content = self._open(value)
            if content is not None:
                return Session(str(content.get("token", "")), str(content.get("xsrf", "")))
        return None

    def begin_session(self, response: Response, token: str) -> None:
        """Set both cookies of a new session; they last as long as the browser."""
        xsrf = secrets.token_urlsafe(24)
        value = self._seal({"token": token, "xsrf": xsrf})
        response.set_cookie(SESSION_COOKIE, value, httponly=True, **self._attributes)
        response.set_cookie(XSRF_COOKIE, xsrf, **self._attributes)

    def begin_sign_in(self, response: Response, sign_in: SignIn) -> None:
        """Let the browser hold a sign-in: one cookie each, so that two tabs may sign in at once."""
        response.set_cookie(
            STATE_COOKIE + sign_in.state[:8],
            self._seal(vars(sign_in)),
            httponly=True,
            max_age=STATE_SECONDS,
            **self._attributes,
        )

    def sign_in(self, request: HTTPConnection, state: str) -> SignIn | None:
        """The sign-in that this browser began with ``state``, or None: begun elsewhere, too old, or made up."""
        for value in _all(request, STATE_COOKIE + state[:8]):
            content = self._open(value, STATE_SECONDS)
            if content is not None and hmac.compare_digest(str(content.get("state", "")).encode(), state.encode()):
                return SignIn(state, str(content.get("verifier", "")), str(content.get("next_path", "")))
        return None

    def end_sign_in(self, response: Response, state: str) -> None:
        """A sign-in works once."""
        response.delete_cookie(STATE_COOKIE + state[:8], httponly=True, **self._attributes)

    def _seal(self, content: dict[str, Any]) -> str:
        return self._fernet.encrypt(json.dumps(content).encode()).decode()

    def _open(self, value: str, seconds: int | None = None) -> dict[str, Any] | None:
        from cryptography.fernet import InvalidToken

        try:
            content = json.loads(self._fernet.decrypt(value.encode(), ttl=seconds))
        except (InvalidToken, ValueError):
            return None
        return content if isinstance(content, dict) else None


def forged(request: HTTPConnection, session: Session) -> bool:
    """Whether a request that came with a session cookie may have been made by a page that is not ours.

    Opening a page, and loading an image from one of ours, needs no proof, and neither does a GET of a client that says
    nothing of its mode. Everything else does: the XSRF token in a header. A foreign ``Origin`` is refused besides.
    JupyterHub's own rule for its services lets every request of the mode ``no-cors`` pass, from other sites too.
    """
    headers = request.headers
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return True
    if request.scope["method"] in ("GET", "HEAD"):
        mode, site = headers.get("sec-fetch-mode", ""), headers.get("sec-fetch-site", "")
        if mode in ("", "navigate") or (mode == "no-cors" and site == "same-origin"):
            return False
    sent = headers.get(XSRF_HEADER, "")
    return not session.xsrf or not hmac.compare_digest(sent.encode(), session.xsrf.encode())


def _all(request: HTTPConnection, name: str) -> list[str]:
    """Every cookie of that name: a page on a shorter path may have planted one before ours."""
    found = []
    for chunk in "; ".join(request.headers.getlist("cookie")).split(";"):
        if chunk.split("=", 1)[0].strip() == name:
            try:
                found.append(SimpleCookie(chunk.strip())[name].value)
            except (CookieError, KeyError):
                continue
    return found
