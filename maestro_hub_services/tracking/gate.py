"""The gate: the ASGI application that sees every request before MLflow does, and hands on what may pass.

The order is the whole security of this service, so it stands in one function, :meth:`Gate._admit`: address, identity,
forgery, row of the table, workspace, role. What has no row is refused. MLflow gets the request without cookies and
tokens, with exactly one workspace header, and with the :class:`Caller` in the context.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from maestro_core.experiments import version_page
from maestro_core.jobs import JOB_MARK
from maestro_core.roles import Role
from maestro_core.workspaces import TrackingGrant

from . import versions
from .answers import Refused, error_json, page
from .caller import CALLER, Caller
from .identity import Hub, Identity, header_token
from .loading import Registered, check_loading
from .membership import Memberships, WorkspacesService
from .routes import ACCOUNTS, REASONS, Access, Match, Table
from .session import Cookies, forged
from .signin import SignInPages

WORKSPACE_HEADER = "x-mlflow-workspace"
#: JSON bodies are held in memory by MLflow; artifacts are streamed and have no limit here
MAX_BODY_BYTES = 64 * 1024 * 1024
#: what MLflow never sees
_SECRET_HEADERS = {b"authorization", b"cookie", b"x-xsrftoken", WORKSPACE_HEADER.encode()}

#: of files that anybody may have written: opened by themselves they are of no origin, and no script in them runs
_FILE_HEADERS = {b"content-security-policy": b"sandbox", b"x-content-type-options": b"nosniff"}

log = logging.getLogger("maestro.tracking")


class MlflowServer(Protocol):
    """MLflow, loaded."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    async def ensure_workspace(self, name: str) -> None: ...

    async def made_by(self, workspace: str, address: str) -> list[versions.Made]: ...

    async def registered(self, name: str) -> Registered: ...


@dataclass(frozen=True)
class Admitted:
    """A request that MLflow gets: its row, and who calls; nobody on public rows."""

    match: Match
    caller: Caller | None


@dataclass(frozen=True)
class Behind:
    """What the gate needs once MLflow is there; before, every answer is "starting"."""

    mlflow: MlflowServer
    hub: Hub
    service: WorkspacesService
    cookies: Cookies
    sign_in: SignInPages


class Gate:
    """The service's ASGI application.

    Args:
        prefix: URL prefix of the service, with slashes at both ends.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._table = Table()
        self._behind: Behind | None = None

    def open(self, behind: Behind) -> None:
        """MLflow is there: let requests in."""
        self._behind = behind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. WebSockets are refused: MLflow has none."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HTTPConnection(scope)
        if self._behind is None:
            await _starting(request)(scope, receive, send)
            return
        try:
            decision = await self._admit(self._behind, request)
        except Refused as refused:
            decision = _refusal(request, refused, self._prefix)
        except Exception:
            log.exception("A request could not be decided about, and was refused.")
            decision = error_json(Refused(500, "This service failed to decide about the request; its log says why."))
        if isinstance(decision, Response):
            await decision(scope, receive, send)
        else:
            await _hand_on(self._behind.mlflow, decision, request, receive, send)

    async def _admit(self, behind: Behind, request: HTTPConnection) -> Admitted | Response:
        """The decision: an answer of our own, or the request that MLflow gets.

        Raises:
            Refused: with the sentence for the caller.
        """
        method, path = _method(request), self._below_prefix(request)
        if path is None:
            return RedirectResponse(self._prefix, status_code=302)
        if path == "/oauth_callback" and method == "GET":
            return await behind.sign_in.finish(request)
        match = self._table.find(method, path)
        if match is not None and match.route.access is Access.PUBLIC:
            return Admitted(match, None)
        identity = await self._identify(behind, request)
        if identity is None:
            if _is_page_visit(request):
                return behind.sign_in.start(_target(request))
            raise Refused(401, "Send `Authorization: Bearer <a token of the Hub>`, or open MLflow from the Hub.")
        if method == "GET" and (version := versions.PATH.fullmatch(path)):
            return await self._version(behind, request, identity, version[1])
        if match is None:
            raise _no_such_address(path)
        if not match.route.streamed:
            _refuse_large_body(request)
            _refuse_packed_body(request)
        if match.route.access is Access.CLOSED:
            raise Refused(403, REASONS[match.route.why])
        memberships = await behind.service.memberships(identity)
        caller = _caller(identity, match, memberships, _workspace_headers(request))
        if identity.models and caller.workspace is not None:
            registered = await behind.mlflow.registered(caller.workspace)
            check_loading(match, caller.workspace, request.query_params.getlist("path"), registered)
        if caller.workspace is not None:
            await behind.mlflow.ensure_workspace(caller.workspace)
        return Admitted(match, caller)

    async def _version(self, behind: Behind, request: HTTPConnection, identity: Identity, address: str) -> Response:
        """The page of what a saved version made, for members of its workspace.

        Raises:
            Refused: 404 for anybody else.
        """
        workspace = request.query_params.get("workspace", "")
        grant = (await behind.service.memberships(identity)).get(workspace)
        if grant is None or grant.experiment is not None or identity.models:  # those two see less than a member
            raise Refused(404, f"There is no workspace {workspace[:40]!r} that you belong to.")
        made = await behind.mlflow.made_by(workspace, address)
        title = f"Version {address[:12]} in {workspace}"
        rows = [(one.name, self._prefix + one.href, one.what) for one in made]
        back = version_page(self._prefix.rstrip("/").rpartition("/")[0] + "/", workspace, address)
        return page(200, title, versions.sentence(made), link=back, link_text="What stands in it", rows=rows)

    def _below_prefix(self, request: HTTPConnection) -> str | None:
        """The path below the prefix with a leading slash; None for the prefix without its last slash.

        Raises:
            Refused: 404 for anything outside.
        """
        path: str = request.scope["path"]
        if path == self._prefix.rstrip("/"):
            return None
        if not path.startswith(self._prefix):
            raise Refused(404, f"Nothing is here; MLflow is below {self._prefix}.")
        return path[len(self._prefix) - 1 :]

    async def _identify(self, behind: Behind, request: HTTPConnection) -> Identity | None:
        """Who sent it: a token in the header counts alone; a cookie counts if a page of ours sent it."""
        authorization = request.headers.get("authorization")
        if authorization is not None:
            token = header_token(authorization)
            return await (behind.service.job(token) if token.startswith(JOB_MARK) else behind.hub.who(token))
        session = behind.cookies.session(request)
        if session is None:
            return None
        if forged(request, session):
            raise Refused(403, "This request did not come from MLflow's own page; reload the page and try again.")
        try:
            return await behind.hub.who(session.token)
        except Refused as refused:
            if refused.status == 401:
                return None  # signed out at the Hub: sign in again
            raise


async def _hand_on(
    mlflow: MlflowServer, admitted: Admitted, request: HTTPConnection, receive: Receive, send: Send
) -> None:
    match, caller = admitted.match, admitted.caller
    scope = _cleaned(request.scope, caller)
    if match.route.streamed and caller is not None and caller.experiment is None:
        # MLflow's streaming router is not below the prefix; the same address there is buffered in memory
        scope["path"] = match.rule.partition("<")[0] + match.values["artifact_path"]
        scope["raw_path"] = quote(scope["path"]).encode()
    else:
        receive = _limited(request, receive)
    if "artifact" in match.rule:
        send = _as_file(send)
    token = CALLER.set(caller)
    try:
        await mlflow(scope, receive, send)
    finally:
        CALLER.reset(token)


def _caller(identity: Identity, match: Match, memberships: Memberships, named: list[str]) -> Caller:
    """The workspace and role of a request.

    Raises:
        Refused: 400 if the request names none or several, 404 if the caller does not belong to it, 403 if the role is
            not enough.
    """
    least = match.route.access.role
    if identity.models:
        if not match.route.loads:
            raise Refused(
                403, "This token loads registered models and does nothing else; use another one for the rest."
            )
        memberships = {name: _reading(one) for name, one in memberships.items() if name in identity.models}
    if least is None:
        return Caller(identity.user, match, memberships)
    name = match.values.get("workspace_name") or _one_workspace(named, memberships)
    membership = memberships.get(name)
    if membership is None:
        raise Refused(404, f"There is no workspace {name!r} that you belong to.")
    if membership.experiment is not None:
        if not match.route.confined:
            raise Refused(
                403,
                f"A viewer's server may only log runs to the experiment {membership.experiment!r} of {name!r}; "
                "open MLflow from the Hub to do more.",
            )
    elif not membership.role.covers(least):
        raise Refused(403, _too_low(match, name, membership.role.value, least.value))
    return Caller(identity.user, match, memberships, name, membership.role, membership.experiment)


def _reading(grant: TrackingGrant) -> TrackingGrant:
    return grant.model_copy(update={"role": Role.VIEWER})


def _too_low(match: Match, workspace: str, role: str, least: str) -> str:
    if match.route.access is not Access.MANAGE:
        return f"In {workspace!r} you are {role}, and this takes {least}; ask an owner of the workspace."
    return f"Only owners of {workspace!r} may do this (a notebook server never may); ask one, or do it from the Hub."


def _one_workspace(named: list[str], memberships: Memberships) -> str:
    if len(named) == 1 and named[0]:
        return named[0]
    if not any(named) and len(memberships) == 1:
        return next(iter(memberships))
    known = ", ".join(sorted(memberships)[:10]) or "none yet"
    raise Refused(400, f"Name one workspace: set MLFLOW_WORKSPACE to one of yours ({known}).")


def _workspace_headers(request: HTTPConnection) -> list[str]:
    return [value.strip() for value in request.headers.getlist(WORKSPACE_HEADER)]


def _cleaned(scope: Scope, caller: Caller | None) -> Scope:
    """The scope that MLflow gets: no secrets, one workspace."""
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in _SECRET_HEADERS]
    if caller is not None and caller.workspace is not None:
        headers.append((WORKSPACE_HEADER.encode(), caller.workspace.encode()))
    return {**scope, "headers": headers, "state": {}}


def _no_such_address(path: str) -> Refused:
    if any(word in path for word in ACCOUNTS):
        return Refused(403, REASONS["accounts"])
    return Refused(404, "MLflow has no such address here; use mlflow 3.17 on the client's side.")


def _method(request: HTTPConnection) -> str:
    method: str = request.scope["method"]
    if method == "OPTIONS":
        raise Refused(405, "Other sites may not call MLflow from a browser.")
    return "GET" if method == "HEAD" else method


def _is_page_visit(request: HTTPConnection) -> bool:
    """Somebody opens an address in a browser, as opposed to a program or a script of a page."""
    mode = request.headers.get("sec-fetch-mode", "navigate")
    return (
        request.scope["method"] == "GET"
        and mode == "navigate"
        and "text/html" in request.headers.get("accept", "")
        and "authorization" not in request.headers
    )


def _target(request: HTTPConnection) -> str:
    query = request.scope.get("query_string", b"").decode("latin-1")
    return quote(request.scope["path"]) + (f"?{query}" if query else "")


def _refusal(request: HTTPConnection, refused: Refused, prefix: str) -> Response:
    if _is_page_visit(request):
        return page(refused.status, "MLflow", refused.message, link=prefix, link_text="To MLflow's first page")
    return error_json(refused)


def _starting(request: HTTPConnection) -> Response:
    if _is_page_visit(request):
        return page(503, "MLflow is starting", "This takes a few seconds; the page opens by itself.", refresh=2)
    return error_json(Refused(503, "MLflow is starting; try again in a few seconds."))


def _refuse_large_body(request: HTTPConnection) -> None:
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise Refused(413, "The request is larger than 64 MiB; log in smaller batches, or log a file as an artifact.")


def _refuse_packed_body(request: HTTPConnection) -> None:
    """MLflow unpacks spans without a limit: 64 MiB of them could be 64 GiB."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Refused(400, "Bodies are taken as they are, not compressed; unset OTEL_EXPORTER_OTLP_COMPRESSION.")


def _limited(request: HTTPConnection, receive: Receive) -> Receive:
    """``receive`` that hangs up after :data:`MAX_BODY_BYTES`, for bodies that do not say their length."""
    left = MAX_BODY_BYTES

    async def limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            log.warning("A body of more than %d bytes was refused at %s.", MAX_BODY_BYTES, request.scope["path"])
            return {"type": "http.disconnect"}
        return message

    return limited


def _as_file(send: Send) -> Send:
    """``send`` for an address that serves files: MLflow sends each as an attachment, which is one header's word."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in _FILE_HEADERS]
            message = {**message, "headers": [*kept, *_FILE_HEADERS.items()]}
        await send(message)

    return marked


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
