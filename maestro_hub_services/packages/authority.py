"""Whose index token is this, and which policy is in force: asked at the workspaces service, kept for seconds.

"At once" means within 5 s, so nothing known is used longer without asking again; a policy, of which mostly the revision
travels, is asked for again after a second. While the service does not answer, what was known serves for 5 minutes, and
what was not known is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeGuard, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from maestro_core.advisories import Malware
from maestro_core.denials import DenialReport
from maestro_core.errors import MaestroError
from maestro_core.packages import CompiledPolicy, TokenOwner, TokenQuestion
from maestro_core.requests import FactsReport, NameAnswer, NameList, WantedList

from .once import shared

_log = logging.getLogger(__name__)

FRESH_SECONDS = 5.0
POLICY_FRESH_SECONDS = 1.0
GRACE_SECONDS = 300.0
#: after a failure the service is left alone that long by those who have an older answer
RETRY_SECONDS = 2.0
_TIMEOUT = httpx.Timeout(5, connect=2)
_MAX_KNOWN = 20_000

T = TypeVar("T")


@dataclass(frozen=True)
class _Known(Generic[T]):
    """An answer, or the refusal that was the answer, and when it was given."""

    at: float
    value: T | None = None
    refusal: MaestroError | None = None

    def get(self) -> T:
        if self.refusal is not None or self.value is None:
            raise self.refusal or MaestroError("internal", "The service gave no answer.")
        return self.value


class _Answers(Generic[T]):
    """Answers by question, with the two ages of this module's first lines.

    Args:
        fresh: seconds for which an answer is not asked for again.
    """

    def __init__(self, clock: Callable[[], float], fresh: float) -> None:
        self._clock = clock
        self._fresh = fresh
        self._known: OrderedDict[str, _Known[T]] = OrderedDict()
        self._running: dict[str, asyncio.Task[_Known[T]]] = {}
        self._leave_alone_until = 0.0

    def last(self, key: str) -> T | None:
        """The last answer, however old."""
        known = self._known.get(key)
        return known.value if known else None

    async def get(self, key: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The answer to ``ask``, of the last seconds, or asked for now.

        Raises:
            MaestroError: the service's refusal; ``service_unavailable`` if it is away and nothing young is known.
        """
        now = self._clock()
        known = self._known.get(key)
        if known is not None and now - known.at < self._fresh:
            return known.get()
        if self._serves_still(known, now) and now < self._leave_alone_until:
            return known.get()
        try:
            return (await shared(self._running, key, lambda: self._ask(key, ask))).get()
        except MaestroError as error:
            if error.code != "service_unavailable" or not self._serves_still(known, self._clock()):
                raise
            return known.get()

    @staticmethod
    def _serves_still(known: _Known[T] | None, now: float) -> TypeGuard[_Known[T]]:
        """Whether this is an answer (no refusal) that may be used while the service is away."""
        return known is not None and known.value is not None and now - known.at <= GRACE_SECONDS

    async def _ask(self, key: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> _Known[T]:
        began = self._clock()  # the answer is as old as the question
        try:
            known = _Known(began, value=await ask())
        except MaestroError as error:
            if error.code == "service_unavailable":
                self._leave_alone_until = self._clock() + RETRY_SECONDS
                raise
            known = _Known(began, refusal=error)
        self._known.pop(key, None)
        self._known[key] = known
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return known


class Authority:
    """The workspaces service as the index sees it.

    Args:
        url: its API (``.../api/v1/jupyter``).
        token: this service's own Hub token, with the scope ``custom:maestro:policy``.
        clock: seconds that only grow.
    """

    def __init__(self, url: str, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"token {token}"}, timeout=_TIMEOUT, follow_redirects=False, trust_env=False
        )
        self._owners: _Answers[TokenOwner] = _Answers(clock, FRESH_SECONDS)
        self._policies: _Answers[CompiledPolicy] = _Answers(clock, POLICY_FRESH_SECONDS)
        self._malware: dict[str, asyncio.Task[Malware]] = {}
        self._book = Malware()

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()

    async def owner(self, token: str) -> TokenOwner:
        """The launch that holds an index token.

        Raises:
            MaestroError: ``forbidden`` for a token that no running launch holds; ``service_unavailable``.
        """
        key = hashlib.sha256(token.encode()).hexdigest()  # no secret lies about in memory
        return await self._owners.get(key, lambda: self._ask_owner(token))

    async def policy(self, workspace: str) -> CompiledPolicy:
        """The policy in force for a workspace.

        Raises:
            MaestroError: ``service_unavailable``; ``unknown_workspace``.
        """
        return await self._policies.get(workspace, lambda: self._ask_policy(workspace))

    async def wanted_facts(self) -> WantedList:
        """The requests for packages into which somebody should look.

        Raises:
            MaestroError: ``service_unavailable``.
        """
        return _read(WantedList, await self._send("GET", "/policy/requests"))

    async def tell_facts(self, report: FactsReport) -> None:
        """What was found out about one.

        Raises:
            MaestroError: ``service_unavailable``.
        """
        await self._post("/policy/requests", report)

    async def asked_names(self, wait: int) -> NameList:
        """The names of which somebody wants to know whether there is such a package; waits for one.

        Raises:
            MaestroError: ``service_unavailable``.
        """
        patience = httpx.Timeout(wait + 10, connect=2)
        return _read(NameList, await self._send("GET", "/policy/names", params={"wait": wait}, timeout=patience))

    async def tell_name(self, answer: NameAnswer) -> None:
        """Whether there is one.

        Raises:
            MaestroError: ``service_unavailable``.
        """
        await self._post("/policy/names", answer)

    async def tell_denials(self, report: DenialReport) -> None:
        """What was refused.

        Raises:
            MaestroError: ``service_unavailable``.
        """
        await self._post("/policy/denials", report)

    async def _post(self, path: str, body: BaseModel) -> None:
        headers = {"Content-Type": "application/json"}
        response = await self._send("POST", path, content=body.model_dump_json().encode(), headers=headers)
        if response.status_code != 204:
            _log.error("The workspaces service answered %s to POST %s", response.status_code, path)

    async def _ask_owner(self, token: str) -> TokenOwner:
        try:
            question = TokenQuestion(token=token)
        except ValidationError:
            raise _dead_token() from None
        response = await self._send("POST", "/policy/tokens", json=question.model_dump())
        if response.status_code == 404:
            raise _dead_token()
        return _read(TokenOwner, response)

    async def _ask_policy(self, workspace: str) -> CompiledPolicy:
        last = self._policies.last(workspace)
        headers = {"If-None-Match": f'"{last.revision}"'} if last is not None else {}
        response = await self._send("GET", "/policy/packages", params={"workspace": workspace}, headers=headers)
        if response.status_code == 304 and last is not None:
            return last
        policy = _read(CompiledPolicy, response)
        if policy.malware:
            policy = policy.knowing(await self._known_malware(policy.malware))
        # The same revision is the same policy: keeping the object keeps what was computed on it.
        return last if last is not None and last == policy else policy

    async def _known_malware(self, revision: str) -> Malware:
        """The book that a policy counts on; it is the same for all workspaces, and asked for when it has changed.

        Raises:
            MaestroError: ``service_unavailable``, also while the service is between two books.
        """
        if self._book.revision != revision:
            book = await shared(self._malware, revision, self._ask_malware)
            if book.revision != revision:
                raise _away()
            self._book = book
        return self._book

    async def _ask_malware(self) -> Malware:
        response = await self._send("GET", "/policy/malware")
        # ten thousand models are not read on the loop
        return await asyncio.to_thread(_read, Malware, response)

    async def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            response = await self._client.request(method, self._url + path, **more)
        except httpx.HTTPError as error:
            _log.warning("The workspaces service does not answer: %s", type(error).__name__)
            raise _away() from None
        if response.status_code >= 500 or response.status_code in (401, 403):
            # 401 and 403 are about this service's own token: a fault of the set-up, not of the person who installs.
            _log.error("The workspaces service answered %s to %s %s", response.status_code, method, path)
            raise _away()
        return response


def _read(model: type[T], response: httpx.Response) -> T:
    if response.status_code == 404:
        raise MaestroError.from_json(_json(response), "unknown_workspace")
    try:
        if response.status_code != 200:
            raise ValueError
        return model.model_validate_json(response.content)  # type: ignore[attr-defined]
    except ValueError:
        _log.error("The workspaces service gave an answer (%s) that cannot be read", response.status_code)
        raise _away() from None


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _dead_token() -> MaestroError:
    return MaestroError(
        "forbidden",
        "The package index does not know this password: it belongs to a notebook server that has ended. "
        "Install from a running notebook server.",
    )


def _away() -> MaestroError:
    return MaestroError(
        "service_unavailable",
        "The package policy cannot be asked for just now, so nothing is installed; try again in a minute, "
        "or tell an admin.",
    )
