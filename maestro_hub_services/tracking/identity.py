"""Whose token is this? Asked at the Hub: ``GET /hub/api/user`` with the token itself.

A token is accepted if it is a user's and holds ``access:services!service=mlflow``. A notebook server's token names its
server in its scopes (``access:servers!server=<user>/<server>``) and holds nothing over the user's other servers; so a
token that is narrowed to servers acts for those servers, and every other one for the person. A token without that
scope, but with ``custom:maestro:models!server=<user>/<workspace>``, loads registered models there (``loading.py``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Any

import httpx

from maestro_core.scopes import bound_servers, loadable_workspaces

from .answers import Refused
from .fresh import Fresh, Unreachable

TIMEOUT = httpx.Timeout(5.0, connect=1.0)


@dataclass(frozen=True)
class Identity:
    """Somebody the Hub knows.

    Attributes:
        user: the Hub's name for them.
        servers: names of the servers that the token is bound to, or None for the person themself.
        models: the workspaces of which the token loads models, if that is all that it may do.
    """

    user: str
    servers: tuple[str, ...] | None
    models: tuple[str, ...] = ()


class Hub:
    """Answers :meth:`who` from the Hub, kept for 5 s.

    Args:
        client: an HTTP client without default credentials.
        api_url: the Hub's API, ``http://.../hub/api``.
        service: this service's name at the Hub.
    """

    def __init__(self, client: httpx.AsyncClient, api_url: str, service: str) -> None:
        self._client = client
        self._url = api_url.rstrip("/") + "/user"
        self._access = {"access:services", f"access:services!service={service}"}
        self._known: Fresh[bytes, dict[str, Any] | None] = Fresh()

    async def who(self, token: str) -> Identity:
        """The owner of ``token``.

        Raises:
            Refused: 401 if the Hub does not know it, 403 if it is not a user's or may not enter, 503 if the Hub
                is away.
        """
        key = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        try:
            model = await self._known.get(key, lambda: self._fetch(token))
        except Unreachable:
            raise Refused(503, "The Hub does not answer, so nobody can be told from anybody; try again.") from None
        return self._identity(model)

    def _identity(self, model: dict[str, Any] | None) -> Identity:
        if model is None:
            raise Refused(401, "The Hub does not know this token (any more); sign in again or make a new one.")
        scopes = {scope for scope in model.get("scopes", ()) if isinstance(scope, str)}
        if model.get("kind") != "user" or not isinstance(model.get("name"), str):
            raise Refused(403, "MLflow is for users; this token is a service's.")
        if not scopes & self._access:
            models = loadable_workspaces(model["name"], scopes)
            if not models:
                raise Refused(
                    403, "This token may not enter MLflow; make one with the scope access:services!service=mlflow."
                )
            return Identity(model["name"], None, models)
        return Identity(model["name"], bound_servers(model["name"], scopes))

    async def _fetch(self, token: str) -> dict[str, Any] | None:
        if not token.isascii() or not token.isprintable():
            return None
        try:
            answer = await self._client.get(self._url, headers={"Authorization": f"token {token}"}, timeout=TIMEOUT)
        except httpx.HTTPError as error:
            raise Unreachable(type(error).__name__) from None
        if answer.status_code in (401, 403, 404):
            return None
        if answer.status_code != 200:
            raise Unreachable(f"status {answer.status_code}")
        try:
            model = answer.json()
        except ValueError:
            raise Unreachable("no JSON") from None
        return model if isinstance(model, dict) else None


def header_token(authorization: str) -> str:
    """The token of an ``Authorization`` header: Bearer, token, or the password of Basic.

    Raises:
        Refused: 401 if the header holds none.
    """
    scheme, _, credentials = authorization.strip().partition(" ")
    credentials = credentials.strip()
    if scheme.lower() in ("bearer", "token") and credentials:
        return credentials
    if scheme.lower() == "basic":
        try:
            _, _, password = base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            password = ""
        if password:
            return password
    raise Refused(401, "The Authorization header holds no token; send `Bearer <a token of the Hub>`.")
