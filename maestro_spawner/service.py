"""The spawner's side of the workspaces service: five questions, each with a time-out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

import aiohttp
from pydantic import BaseModel

from maestro_core.errors import MaestroError
from maestro_core.launches import FormRequest, FormView, LaunchPlan, PlanRequest, ReleaseRequest
from maestro_core.models import read_model

ModelT = TypeVar("ModelT", bound=BaseModel)

NOT_ANSWERING = (
    "The workspaces service does not answer, so nothing was started; try again in a minute, or tell an admin."
)
NOT_KNOWN = "The workspaces service does not accept the Hub's token, so nothing was started; tell an admin."
MAX_ANSWER_BYTES = 1024 * 1024
#: for a connection, of the time of an answer
CONNECT_SECONDS = 3.0
#: pauses between tries of what may be repeated, in seconds
PAUSES = (0.3, 1.0, 3.0, 10.0, 30.0)

log = logging.getLogger(__name__)


class PlanService:
    """A client of the service's ``/plan`` routes; its connections are shared by all spawners.

    Args:
        url: base of the API (``http://127.0.0.1:8181/services/workspaces/api/v1/jupyter``).
        token: of the Hub service ``maestro-spawner``. Secret.
        timeout: seconds that one answer may take.
    """

    _shared: ClassVar[dict[tuple[Any, ...], PlanService]] = {}

    def __init__(self, url: str, token: str, timeout: float) -> None:
        self._base = url.rstrip("/") + "/"
        # aiohttp, which the Hub has anyway: a question costs it 0.15 ms, where httpx takes 1.6 with fifty at once
        self._client = aiohttp.ClientSession(
            headers={"Authorization": f"token {token}"},
            timeout=aiohttp.ClientTimeout(total=timeout, connect=min(timeout, CONNECT_SECONDS)),
            connector=aiohttp.TCPConnector(limit=100, keepalive_timeout=3.0),
            trust_env=False,  # a proxy of the machine is not for us
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.close()

    @classmethod
    def shared(cls, url: str, token: str, timeout: float) -> PlanService:
        """The one client of this loop for this address and token."""
        key = (asyncio.get_running_loop(), url, token, timeout)
        for other in [other for other in cls._shared if other[0].is_closed()]:
            del cls._shared[other]
        if key not in cls._shared:
            cls._shared[key] = cls(url, token, timeout)
        return cls._shared[key]

    async def reserve(self, question: PlanRequest) -> LaunchPlan:
        """Admit one launch. Asked once: a repeated question could be counted twice.

        Raises:
            MaestroError: the service's refusal, or ``service_unavailable``.
        """
        return _read(LaunchPlan, await self._post("plan/launches", question))

    async def form(self, question: FormRequest) -> FormView:
        """What the spawn form shows; asked again once, because it changes nothing.

        Raises:
            MaestroError: as :meth:`reserve`.
        """
        try:
            answer = await self._post("plan/form", question)
        except MaestroError as error:
            if error.code != "service_unavailable":
                raise
            answer = await self._post("plan/form", question)
        return _read(FormView, answer)

    async def confirm(self, launch_id: str) -> None:
        """Say that the server is up. Idempotent.

        Raises:
            MaestroError: as :meth:`reserve`.
        """
        await self._post(f"plan/launches/{launch_id}/confirm", None)

    async def release(self, launch_id: str, reason: str) -> None:
        """Say that the launch is over, or never was. Idempotent.

        Raises:
            MaestroError: as :meth:`reserve`.
        """
        await self._post(f"plan/launches/{launch_id}/release", ReleaseRequest(reason=reason))

    async def _post(self, path: str, body: BaseModel | None) -> Any:
        content = {} if body is None else body.model_dump(mode="json")
        try:
            try:
                status, answer = await self._send(path, content)
            except aiohttp.ConnectionTimeoutError:
                # Nothing was sent, so it can be said again. Its time may have run out while the Hub's own loop stood
                # still, as it does for seconds when fifty people start a server at once.
                status, answer = await self._send(path, content)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("The workspaces service does not answer POST %s: %s", path, type(error).__name__)
            raise MaestroError("service_unavailable", NOT_ANSWERING) from None
        return _answer(path, status, answer)

    async def _send(self, path: str, content: Any) -> tuple[int, bytes]:
        """One request: the status, and the body unless it is larger than any of ours."""
        async with self._client.post(self._base + path, json=content, allow_redirects=False) as response:
            body = b""
            async for part in response.content.iter_any():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    response.close()
                    return response.status, b""
            return response.status, body


def _answer(path: str, status: int, content: bytes) -> Any:
    try:
        body = json.loads(content) if content else None
    except ValueError:
        body = None
    if 200 <= status < 300:
        return body
    log.info("The workspaces service answers POST %s with %s", path, status)
    if status == 401:
        raise MaestroError("service_unavailable", NOT_KNOWN)
    error = MaestroError.from_json(body, fallback="service_unavailable")
    raise error if error.code != "service_unavailable" else MaestroError("service_unavailable", NOT_ANSWERING)


def _read(model: type[ModelT], answer: Any) -> ModelT:
    try:
        return read_model(model, answer)
    except MaestroError as error:
        # The answer may hold the launch's token, so the log gets the place of the mistake alone.
        log.error("The workspaces service sent no %s: %s", model.__name__, error.details.get("field"))
        raise MaestroError(
            "internal", "The workspaces service gave an answer that the Hub does not understand; tell an admin."
        ) from None


async def try_again(what: Callable[[], Awaitable[None]]) -> bool:
    """Do something idempotent until it succeeds, with a pause of :data:`PAUSES` after each failure.

    Returns:
        whether it succeeded. An error other than "does not answer" is not tried again.
    """
    for pause in (*PAUSES, None):
        try:
            await what()
            return True
        except MaestroError as error:
            if error.code != "service_unavailable" or pause is None:
                return False
        await asyncio.sleep(pause)
    return False
