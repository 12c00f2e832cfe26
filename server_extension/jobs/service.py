"""The worker's side of the workspaces service: its own job's routes, with the job's own token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

CONNECT_SECONDS, ANSWER_SECONDS = 3.0, 20.0
#: bytes of an answer: a work order holds a notebook
MAX_ANSWER = 64 * 1024 * 1024
#: statuses that are about the moment
_FOR_NOW = (408, 425, 429)
#: the token is known no longer: the attempt has ended for the service
_OVER = (401, 403, 404, 409, 410)


class NotAnswered(Exception):
    """The service did not answer as it should; the message says how, without a secret.

    Attributes:
        refused: it did answer, and will say the same again.
        over: this attempt has ended for it.
    """

    def __init__(self, message: str, refused: bool = False, over: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.over = over


class JobService:
    """A client for one attempt.

    Args:
        url: the API's base. job_id, attempt: which. token: the job's. Secret.
    """

    def __init__(self, url: str, job_id: str, attempt: int, token: str) -> None:
        self._base = f"{url.rstrip('/')}/jobs/{job_id}"
        self._attempt = attempt
        self._token = token
        self._client = AsyncHTTPClient(
            force_instance=True, defaults={"user_agent": "maestro-job"}, max_body_size=MAX_ANSWER
        )

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> JobService:
        """The service of this attempt.

        Raises:
            ValueError: the environment is no worker's.
        """
        url, job_id = environ.get("MAESTRO_SERVICE_URL", ""), environ.get("MAESTRO_JOB", "")
        attempt, token = environ.get("MAESTRO_JOB_ATTEMPT", ""), environ.get("JUPYTERHUB_API_TOKEN", "")
        if not (url and job_id and attempt.isdecimal() and token):
            raise ValueError("this program runs a job and is started by Maestro, not by hand")
        return cls(url, job_id, int(attempt), token)

    async def work(self) -> Any:
        """What is to run.

        Raises:
            NotAnswered: the service does not answer, or refuses.
        """
        return await self._ask("GET", "work", None)

    async def progress(self, said: Mapping[str, Any]) -> bool:
        """A sign of life; whether the attempt is to end.

        Raises:
            NotAnswered: as :meth:`work`.
        """
        answer = await self._ask("POST", "progress", said)
        return isinstance(answer, dict) and bool(answer.get("cancel"))

    async def log(self, offset: int, text: str) -> None:
        """A piece of the log, from this byte on.

        Raises:
            NotAnswered: as :meth:`work`.
        """
        await self._ask("POST", "log", {"offset": offset, "text": text})

    async def notebook(self, packed: str) -> None:
        """The executed notebook so far.

        Raises:
            NotAnswered: as :meth:`work`.
        """
        await self._ask("PUT", "notebook", {"content": packed})

    async def done(self, said: Mapping[str, Any]) -> None:
        """How it ended.

        Raises:
            NotAnswered: as :meth:`work`.
        """
        await self._ask("POST", "done", said)

    async def _ask(self, method: str, what: str, body: Mapping[str, Any] | None) -> Any:
        request = HTTPRequest(
            f"{self._base}/{what}",
            method=method,
            headers={"Authorization": f"token {self._token}", "Content-Type": "application/json"},
            body=None if body is None else json.dumps({"attempt": self._attempt, **body}),
            connect_timeout=CONNECT_SECONDS,
            request_timeout=ANSWER_SECONDS,
            follow_redirects=False,  # the token goes to this address alone
        )
        try:
            answer = await self._client.fetch(request)
            return json.loads(answer.body or b"null")
        except HTTPClientError as error:
            refused = 400 <= error.code < 500 and error.code not in _FOR_NOW
            said = f"{what}: {error.code} {error.message or ''}".strip()
            raise NotAnswered(said, refused, error.code in _OVER) from None
        except (OSError, ValueError) as error:
            raise NotAnswered(f"{what}: {type(error).__name__}") from None
