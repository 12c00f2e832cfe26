"""Signing a browser in at the Hub: OAuth 2 with PKCE (RFC 7636), the state held by the browser that began."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass
from urllib.parse import urlencode

import httpx
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response

from .answers import Refused, page, way_in
from .identity import TIMEOUT, Hub
from .session import Cookies, SignIn


@dataclass(frozen=True)
class OAuth:
    """This service as the Hub's OAuth client.

    Attributes:
        authorize_url: where the browser is sent, a path or an address with the Hub's public host.
        token_url: where the code is exchanged, at the Hub's own API.
        client_id, client_secret: the service's id and its Hub token. The second is secret.
        redirect_uri: where the browser comes back, as registered.
        prefix: the service's URL prefix.
    """

    authorize_url: str
    token_url: str
    client_id: str
    client_secret: str
    redirect_uri: str
    prefix: str


class SignInPages:
    """The way to the Hub, and the way back."""

    def __init__(self, client: httpx.AsyncClient, oauth: OAuth, cookies: Cookies, hub: Hub) -> None:
        self._client = client
        self._oauth = oauth
        self._cookies = cookies
        self._hub = hub

    def start(self, next_path: str) -> Response:
        """Send the browser to the Hub; it comes back to ``next_path`` if that is a path below the prefix."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        sign_in = SignIn(secrets.token_urlsafe(24), verifier, safe_next(next_path, self._oauth.prefix))
        query = {
            "client_id": self._oauth.client_id,
            "redirect_uri": self._oauth.redirect_uri,
            "response_type": "code",
            "state": sign_in.state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        response = RedirectResponse(f"{self._oauth.authorize_url}?{urlencode(query)}", status_code=302)
        response.headers["Cache-Control"] = "no-store"
        self._cookies.begin_sign_in(response, sign_in)
        return response

    async def finish(self, request: HTTPConnection) -> Response:
        """The Hub sent the browser back: exchange the code, begin the session."""
        query = request.query_params
        state = query.get("state", "")
        sign_in = self._cookies.sign_in(request, state) if state else None
        if sign_in is None:
            return self._again(400, "This sign-in was not begun in this browser, or too long ago.")
        if "code" not in query:
            return self._again(403, "The Hub did not let this sign-in through.")
        try:
            token = await self._exchange(query["code"], sign_in.verifier)
            await self._hub.who(token)
        except Refused as refused:
            return self._again(refused.status, refused.message)
        response = way_in(sign_in.next_path)
        self._cookies.end_sign_in(response, state)
        self._cookies.begin_session(response, token)
        return response

    def _again(self, status: int, sentence: str) -> Response:
        return page(status, "Not signed in to MLflow", sentence, link=self._oauth.prefix, link_text="Sign in again")

    async def _exchange(self, code: str, verifier: str) -> str:
        form = {
            "client_id": self._oauth.client_id,
            "client_secret": self._oauth.client_secret,
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._oauth.redirect_uri,
            "code_verifier": verifier,
        }
        try:
            answer = await self._client.post(self._oauth.token_url, data=form, timeout=TIMEOUT)
            token = answer.json().get("access_token")
        except (httpx.HTTPError, ValueError, AttributeError):
            raise Refused(503, "The Hub does not answer; try again in a moment.") from None
        if not isinstance(token, str):
            raise Refused(400, "The Hub did not accept this sign-in; it may have been used already.")
        return token


def safe_next(path: str, prefix: str) -> str:
    """``path`` if a browser stays below ``prefix`` when sent there, else the prefix.

    Browsers read ``\\`` as ``/`` and ``%2e`` as a dot.
    """
    place = path.partition("?")[0].lower().replace("%2e", ".")
    stays = place.startswith(prefix) and not any(trick in place for trick in ("..", "//", "\\", "%5c"))
    return path if stays and path.isascii() and path.isprintable() else prefix
