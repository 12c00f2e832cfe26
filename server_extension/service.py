"""This server's side of the workspaces service: questions about its own launch, with the server's own Hub token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

CONNECT_SECONDS, ANSWER_SECONDS = 3.0, 10.0
#: bytes of an answer about notices, and of one that was asked for by name
_MAX_ANSWER, _MAX_ASKED = 256 * 1024, 2 * 1024 * 1024


#: statuses that are about the moment, or about the token: sign-ins that are being renewed, time-outs, too many
_FOR_NOW = (401, 403, 404, 408, 425, 429)


class NotAnswered(Exception):
    """The service did not answer as it should; the message says how, without a secret, for the log.

    Attributes:
        refused: it did answer, and will say the same again.
    """

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Service:
    """A client for one launch.

    Args:
        url: the API's base as this server reaches it (``MAESTRO_SERVICE_URL``).
        launch_id: the launch.
        token: ``JUPYTERHUB_API_TOKEN``. Secret.
    """

    def __init__(self, url: str, launch_id: str, token: str) -> None:
        self._base = f"{url.rstrip('/')}/launches/{launch_id}"
        self._token = token
        # its own: the server's shared client may wait for somebody else's slow downloads
        self._client = AsyncHTTPClient(force_instance=True, defaults={"user_agent": "maestro-notebook-server"})

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Service | None:
        """The service of this launch; None where the launch names none."""
        url, launch_id = environ.get("MAESTRO_SERVICE_URL", ""), environ.get("MAESTRO_LAUNCH_ID", "")
        token = environ.get("JUPYTERHUB_API_TOKEN", "")
        return cls(url, launch_id, token) if url and launch_id and token else None

    async def heartbeat(self, beat: str) -> Any:
        """Tell what the server uses (JSON of a ``Heartbeat``); the answer is that of :meth:`keep`.

        Raises:
            NotAnswered: the service does not answer, or refuses.
        """
        return (await self._ask("heartbeat", beat))[0]

    async def keep(self) -> Any:
        """Ask that the launch is not ended for being idle.

        Returns:
            JSON of ``Notices``, as the service sent it.

        Raises:
            NotAnswered: as :meth:`heartbeat`.
        """
        return (await self._ask("keep", "{}"))[0]

    async def notices(self, seen: str, seconds: float) -> tuple[Any, str]:
        """Wait for notices other than those that are known; the answer comes at once when there are such.

        Args:
            seen: of the answer before, or empty.
            seconds: the longest that the service may wait.

        Returns:
            JSON of ``Notices``, and what is ``seen`` with it.

        Raises:
            NotAnswered: as :meth:`heartbeat`.
        """
        query = urlencode({"seen": seen, "wait": f"{seconds:g}"})
        return await self._ask(f"notices?{query}", None, seconds)

    async def ask(self, what: str, body: str) -> Any:
        """POST a question about this launch; the answer's JSON.

        Raises:
            NotAnswered: as :meth:`heartbeat`.
        """
        return (await self._ask(what, body, most=_MAX_ASKED))[0]

    async def _ask(self, what: str, body: str | None, wait: float = 0.0, most: int = _MAX_ANSWER) -> tuple[Any, str]:
        """POST a body, or GET; the answer's JSON and its ETag."""
        shown = what.partition("?")[0]
        request = HTTPRequest(
            f"{self._base}/{what}",
            method="GET" if body is None else "POST",
            headers={"Authorization": f"token {self._token}", "Content-Type": "application/json"},
            body=body,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=ANSWER_SECONDS + wait,
            follow_redirects=False,  # the token goes to this address alone
        )
        try:
            answer = await self._client.fetch(request)
        except HTTPClientError as error:
            refused = 400 <= error.code < 500 and error.code not in _FOR_NOW
            raise NotAnswered(f"{shown}: {error.code} {error.message or ''}".strip(), refused) from None
        except (OSError, ValueError) as error:
            raise NotAnswered(f"{shown}: {type(error).__name__}") from None
        if len(answer.body) > most:
            raise NotAnswered(f"{shown}: {len(answer.body)} bytes")
        try:
            return json.loads(answer.body or b"null"), answer.headers.get("ETag", "").strip('"')
        except ValueError:
            raise NotAnswered(f"{shown}: no JSON") from None
