"""From a request to one function and back: the only place that knows statuses, headers and JSON of the API."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jupyterhub.services.auth import HubOAuthenticated
from pydantic import BaseModel
from tornado.web import HTTPError, RequestHandler

from maestro_core.errors import MaestroError
from maestro_core.models import read_model

from .authority import Authority
from .identity import Caller, Identity

#: bytes; the largest body is a workspace with 200 members
MAX_BODY = 256 * 1024
log = logging.getLogger("maestro.api")
#: how JSON writes half a character (RFC 8259, 8.2): no text, so it could be kept and never be shown again
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Query:
    """One parameter of a query string."""

    name: str
    description: str


@dataclass(frozen=True)
class Call:
    """What a handler gets.

    Attributes:
        caller: who asks; only routes without a scope have nobody.
        path: the parts of the path by name. query: the parameters that the route knows, those that were given.
        body: the route's request model, read from the JSON.
    """

    authority: Authority
    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = None


@dataclass(frozen=True)
class Answer:
    """A model with another status than the route's first, or with an ETag."""

    model: BaseModel | None
    status: int | None = None
    etag: str | None = None


@dataclass(frozen=True)
class Route:
    """One line of the API.

    Attributes:
        path: below the API's base, with ``{names}``.
        scope: what the caller's token must hold; None: open to everyone.
        handler: parses nothing, calls one function of the domain, answers a model.
        response: the model of a success; None: no body.
        request: the model of the body; None: the body is not read.
        statuses: of success; the first is the usual one.
        job: whether a job's token may call it; it may look (GET) wherever a notebook server's may.
        most: bytes of the largest body.
    """

    method: str
    path: str
    scope: str | None
    handler: Callable[[Call], Awaitable[BaseModel | Answer | None]]
    response: type[BaseModel] | None
    summary: str
    request: type[BaseModel] | None = None
    query: tuple[Query, ...] = ()
    statuses: tuple[int, ...] = field(default=(200,))
    job: bool = False
    most: int = MAX_BODY


class ApiHandler(HubOAuthenticated, RequestHandler):
    """All routes of one path. Tokens count everywhere, cookies only below the service's own prefix."""

    def initialize(
        self,
        authority: Authority,
        identity: Identity,
        routes: Mapping[str, Route],
        names: tuple[str, ...],
        cookies: bool,
    ) -> None:
        """Called by tornado with the arguments of :func:`.routes.api_rules`."""
        self.authority, self.identity, self.routes, self.names = authority, identity, routes, names
        self.hub_auth = identity.auth
        self._cookies = cookies
        self._etag: str | None = None

    def set_default_headers(self) -> None:
        """Also called by tornado before an error is written."""
        self.clear_header("Server")
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    async def prepare(self) -> None:
        """Answer here, whatever the method is; tornado's own methods are never reached."""
        self.current_user = None  # so that nothing asks the Hub again, in a way that blocks
        try:
            await self._answer()
        except MaestroError as error:
            self._refuse(error)
        except HTTPError as error:
            self._refuse(MaestroError("invalid_request", f"The request cannot be read ({error.status_code})."))
        except Exception:
            mark = uuid.uuid4().hex[:8]
            log.exception("Fault %s at %s %s", mark, self.request.method, self.request.path)
            self._refuse(
                MaestroError(
                    "internal",
                    f"Something went wrong on our side; an admin finds it in the log of the service under {mark}.",
                    {"id": mark},
                )
            )

    async def _answer(self) -> None:
        route = self.routes.get(self.request.method or "")
        if route is None:
            raise _unknown_path(self.request.method, sorted(self.routes))
        caller = await self._caller(route)
        path = dict(zip(self.names, (_text(part) for part in self.path_args), strict=True))
        call = Call(self.authority, caller, path, self._query(route), self._body(route))
        answer = await route.handler(call)
        if not isinstance(answer, Answer):
            answer = Answer(answer)
        self.set_status(answer.status or route.statuses[0])
        self._etag = answer.etag and f'"{answer.etag}"'
        if answer.model is None:
            self.clear_header("Content-Type")
            await self.finish()
        else:
            await self.finish(answer.model.model_dump_json())

    async def _caller(self, route: Route) -> Caller:
        if route.scope is None:
            return NOBODY
        caller = await self.identity.by_token(self)
        if caller is None and self._cookies:
            caller = await self.identity.by_cookie(self)
        if caller is None:
            raise MaestroError(
                "not_signed_in",
                "Send a Hub token in the header 'Authorization: token ...'; the Hub's token page makes one."
                if not self._cookies
                else "Sign in at the Hub, or send a Hub token in the header 'Authorization: token ...'.",
            )
        caller.check(route.scope)
        if caller.job is not None and not (route.job or route.method == "GET"):
            raise MaestroError(
                "forbidden", "A job's token only runs its job; do this in the browser or with 'maestro'."
            )
        return caller

    def _query(self, route: Route) -> dict[str, str]:
        found = {}
        for query in route.query:
            value = self.get_query_argument(query.name, None)
            if value is not None:
                found[query.name] = value
        return found

    def _body(self, route: Route) -> Any:
        if len(self.request.body) > route.most:
            raise MaestroError("too_large", f"The request is larger than {route.most // 1024} KiB; send less.")
        if route.request is None:
            return None
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise MaestroError("invalid_request", "Send JSON, with the header 'Content-Type: application/json'.")
        try:
            data = json.loads(self.request.body.decode(), parse_constant=_no_constant)
            if _HALF.search(self.request.body):
                json.dumps(data, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise MaestroError("invalid_request", "The body is not JSON; send one object.") from None
        if not isinstance(data, dict):
            raise MaestroError("invalid_request", "The body is not a JSON object; send one.")
        return read_model(route.request, data)

    def _refuse(self, error: MaestroError) -> None:
        if self._finished:
            return
        self.clear()
        self.set_status(error.status)
        if error.status == 401:
            self.set_header("WWW-Authenticate", "token")
        self.finish(error.as_json())

    def compute_etag(self) -> str | None:
        """The handler's own; tornado answers 304 where the client has it."""
        return self._etag

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """What tornado itself refuses, before ``prepare``."""
        self._refuse(MaestroError("invalid_request", f"The request cannot be read ({status_code})."))


class UnknownPath(ApiHandler):
    """Every address of the API that is none."""

    async def prepare(self) -> None:
        """404."""
        self._refuse(_unknown_path(self.request.method, []))


#: stands where nobody is asked for
NOBODY = Caller("", None, frozenset())


def _unknown_path(method: str | None, known: list[str]) -> MaestroError:
    hint = f"it knows {', '.join(known)}" if known else "its description is at openapi.json"
    return MaestroError("unknown_path", f"The API has no {method} here; {hint}.", {"methods": known})


def _text(part: Any) -> str:
    return part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part)


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")
