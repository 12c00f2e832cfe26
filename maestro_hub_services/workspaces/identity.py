"""Who is asking: Hub tokens on the API, Hub cookies on the service's own pages. Believed for 5 s.

A notebook server's token is known by its scopes (``access:servers!server=<user>/<server>``): it acts in the workspace
of that server only, and at most as an editor.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from jupyterhub.services.auth import HubOAuth
from tornado.web import HTTPError, RequestHandler

from maestro_core.errors import MaestroError
from maestro_core.jobs import JOB_MARK
from maestro_core.scopes import bound_servers
from maestro_core.workspaces import UserRef

from .hub import Hub

CACHE_SECONDS = 5
TIMEOUT_SECONDS = 10

USE, MANAGE, REVIEW, ADMIN, AUDIT = (f"custom:maestro:{name}" for name in ("use", "manage", "review", "admin", "audit"))
PLAN, POLICY, AUTHORIZE, CULL = (f"custom:maestro:{name}" for name in ("plan", "policy", "authorize", "cull"))

_HEADER = re.compile(r"(?:token|bearer)\s+(\S+)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class JobClaim:
    """The attempt of a job whose worker asks."""

    job_id: str
    attempt: int
    launch_id: str


@dataclass(frozen=True)
class Caller:
    """Somebody that the Hub knows.

    Attributes:
        user: the Hub user; None for a service of the Hub.
        name: of the user or the service.
        scopes: what the token may do.
        servers: None for a person; else the names of the notebook servers that the token belongs to.
        job: of a job's token alone: which attempt it is; ``servers`` then holds what stands for its server's name.
    """

    name: str
    user: UserRef | None
    scopes: frozenset[str]
    servers: tuple[str, ...] | None = None
    job: JobClaim | None = None

    @property
    def notebook(self) -> bool:
        """Whether it is a notebook server's token."""
        return self.servers is not None

    @property
    def admin(self) -> bool:
        """Whether it may act on what is others': a person with ``custom:maestro:admin``."""
        return ADMIN in self.scopes and not self.notebook

    @property
    def person(self) -> UserRef:
        """The Hub user.

        Raises:
            MaestroError: ``forbidden`` for a service.
        """
        if self.user is None:
            raise MaestroError("forbidden", f"This is for people; {self.name} is a service of the Hub.")
        return self.user

    def check(self, scope: str | None) -> None:
        """See that the token holds a scope.

        Raises:
            MaestroError: ``forbidden``, with what to do.
        """
        if scope is None or scope in self.scopes:
            return
        if self.notebook:
            hint = "do this in the browser or with 'maestro login', a notebook server's token is kept from it"
        else:
            hint = "take a token that has it, or ask an admin"
        raise MaestroError("forbidden", f"The token does not hold the scope {scope}: {hint}.", {"scope": scope})


class _Auth(HubOAuth):
    """The Hub's own client, without tokens in URLs (it would take them where a header says "websocket")."""

    def _get_token_url(self, handler: RequestHandler) -> str:
        return ""


class Identity:
    """Asks the Hub who somebody is.

    Args:
        jobs: who acts with a job's token, or None where it is dead; these are ours, and the Hub is not asked.
        auth: options of :class:`jupyterhub.services.auth.HubOAuth`; what is left out comes from ``JUPYTERHUB_*``.
    """

    def __init__(self, hub: Hub, jobs: Callable[[str], Awaitable[Caller | None]] | None = None, **auth: Any) -> None:
        self._hub, self._jobs = hub, jobs
        self.auth = _Auth(cache_max_age=CACHE_SECONDS, **auth)
        self._asking: dict[str, asyncio.Task[Any]] = {}

    async def by_token(self, handler: RequestHandler) -> Caller | None:
        """The owner of the token in the ``Authorization`` header; None without one.

        Raises:
            MaestroError: ``not_signed_in`` for a token that the Hub does not know, ``hub_unavailable``.
        """
        header = handler.request.headers.get("Authorization", "")
        if not header:
            return None
        match = _HEADER.fullmatch(header)
        if match is not None and match[1].startswith(JOB_MARK):
            return await self._of_job(match[1])
        model = None if match is None else await self._ask(self._owner(match[1]))
        if model is None:
            raise MaestroError(
                "not_signed_in", "The Hub does not know this token (any more); make a new one on its token page."
            )
        return await self._caller(model)

    async def _of_job(self, token: str) -> Caller:
        caller = None if self._jobs is None else await self._jobs(token)
        if caller is None:
            raise MaestroError("not_signed_in", "This token is of no running job (any more).")
        return caller

    async def by_cookie(self, handler: RequestHandler) -> Caller | None:
        """The signed-in person of a browser; None for a stranger, or where the XSRF token is missing.

        Raises:
            MaestroError: ``hub_unavailable``, ``forbidden``.
        """
        model = await self._ask(self.auth.get_user(handler, sync=False))
        return None if model is None else await self._caller(model)

    async def _owner(self, token: str) -> Any:
        """The Hub's word on a token; whoever asks while it is asked for gets the same answer.

        The spawner's token comes with each start: without this fifty starts at once would be fifty questions, and each
        costs the Hub more than the rest of what we add to a start.
        """
        asking = self._asking.get(token)
        if asking is None:
            asking = asyncio.ensure_future(self.auth.user_for_token(token, sync=False))
            self._asking[token] = asking
            asking.add_done_callback(lambda _: self._asking.pop(token, None))
        return await asyncio.shield(asking)  # one who gives up does not take it from the others

    async def _ask(self, question: Any) -> Any:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await question
        except (HTTPError, TimeoutError, OSError):
            raise MaestroError("hub_unavailable", "The Hub does not answer; try again in a moment.") from None

    async def _caller(self, model: dict[str, Any]) -> Caller:
        if not self.auth.check_scopes(self.auth.access_scopes, model):
            raise MaestroError(
                "forbidden", "The token does not reach this service; make one with access to it, or ask an admin."
            )
        scopes = frozenset(model["scopes"])
        name = model["name"]
        if model.get("kind", "user") != "user":
            return Caller(name, None, scopes)
        return Caller(name, await self._hub.user(name), scopes, bound_servers(name, scopes))
