"""The workspaces service as its tests see it: the real program's parts on a random port, over a small Hub of the tests.

The Hub is a real HTTP server with the handful of routes that the service asks, and a spawner that does what ours does:
it asks for a plan, and says when the server is up and when it is over.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from jupyterhub.httpclient import JupyterHubHTTPClient
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from maestro_core.launches import LaunchPlan, PlanRequest
from maestro_core.workspaces import UserRef
from maestro_hub_services.settings import Settings
from maestro_hub_services.workspaces.app import MAX_REQUEST, make_app, open_authority
from maestro_hub_services.workspaces.authority import Authority
from maestro_hub_services.workspaces.domain.job_tokens import caller_of
from maestro_hub_services.workspaces.identity import (
    ADMIN,
    AUTHORIZE,
    CULL,
    MANAGE,
    PLAN,
    POLICY,
    REVIEW,
    USE,
    Caller,
    Identity,
)
from maestro_hub_services.workspaces.runners import Runner
from tests.databases import place_sqlite

PREFIX = "/services/workspaces/"
API = f"{PREFIX}api/v1/jupyter"
ACCESS = "access:services!service=workspaces"
CREATED = "2026-01-01T00:00:00.000000Z"
MACHINES = {"maestro-spawner": PLAN, "packages": POLICY, "mlflow": AUTHORIZE, "maestro-idle-culler": CULL}
POLICY_TEXT = """
profiles:
  - {name: small, cpu: 1, memory: 2Gi}
  - {name: large, cpu: 8, memory: 32Gi}
  - {name: gpu, cpu: 8, memory: 32Gi, gpu: 4, gpu_type: v100, groups: [gpu-users]}
quotas:
  everyone: {max_concurrent_notebooks: 3, max_cpu_per_notebook: 16, max_gpu_per_notebook: 4}
"""


def user(name: str, *groups: str, created: str = CREATED, admin: bool = False) -> UserRef:
    return UserRef(name=name, created=created, admin=admin, groups=tuple(sorted(groups)))


def person(ref: UserRef, *scopes: str) -> Caller:
    """Somebody in a browser or with a token of their own."""
    return Caller(ref.name, ref, frozenset({USE, MANAGE, *scopes}))


def notebook(ref: UserRef, *servers: str) -> Caller:
    """A notebook server's token."""
    return Caller(ref.name, ref, frozenset({USE}), servers)


def ask(ref: UserRef, server: str = "", **options: Any) -> PlanRequest:
    return PlanRequest(user=ref, server_name=server, ask=options)


# -- the Hub ----------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server of the fake Hub."""

    name: str
    ready: bool = False
    pending: str | None = None
    started: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    plan: LaunchPlan | None = None

    def model(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ready": self.ready,
            "pending": self.pending,
            "started": self.started,
            "last_activity": self.started,
            "user_options": self.options,
        }


class FakeHub:
    """Users, groups, tokens and servers, changed by the tests as they like.

    Attributes:
        slow: the spawner asks for its plan after the Hub has answered 202.
        fails: the server does not come up after it was admitted.
        silent: the spawner never asks.
        down: every answer is 503.
        asked: method and path of every request of the service.
    """

    def __init__(self) -> None:
        self.users: dict[str, UserRef] = {}
        self.groups: set[str] = set()
        self.tokens: dict[str, dict[str, Any]] = {}
        self.servers: dict[tuple[str, str], Server] = {}
        self.slow = self.fails = self.silent = self.down = False
        self.asked: list[tuple[str, str]] = []
        self.service_url = ""
        self.background: set[asyncio.Task[Any]] = set()
        for name, scope in MACHINES.items():
            self.tokens[f"token-of-{name}"] = {"kind": "service", "name": name, "scopes": [ACCESS, scope]}

    def add(
        self, name: str, *groups: str, scopes: tuple[str, ...] = (USE, MANAGE, REVIEW), created: str = CREATED
    ) -> UserRef:
        """A user with a token of their own, ``token-of-<name>``."""
        self.groups |= set(groups)
        self.users[name] = user(name, *groups, created=created)
        own = [ACCESS, f"access:servers!user={name}", *scopes]
        self.tokens[f"token-of-{name}"] = {"kind": "user", "name": name, "scopes": own}
        return self.users[name]

    def server_token(self, name: str, server: str) -> str:
        """A notebook server's token."""
        token = f"token-of-{name}-{server}"
        scopes = [ACCESS, f"access:servers!server={name}/{server}", "users:activity!user=" + name, USE]
        self.tokens[token] = {"kind": "user", "name": name, "scopes": scopes}
        return token

    async def start(self, name: str, server_name: str, options: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """What the Hub does for POST .../servers/..."""
        server = self.servers.setdefault((name, server_name), Server(server_name))
        if server.ready:
            return 400, {"message": f"{name}:{server_name} is already running"}
        if server.pending:
            return 202, {}
        server.pending, server.options = "spawn", options
        if self.silent:
            return 202, {}
        if self.slow:
            self._later(self._spawn(name, server))
            return 202, {}
        refusal = await self._spawn(name, server)
        return (201, {}) if refusal is None else refusal

    async def _spawn(self, name: str, server: Server) -> tuple[int, dict[str, Any]] | None:
        question = ask(self.users[name], server.name, **server.options)
        async with httpx.AsyncClient(base_url=self.service_url, headers=bearer("maestro-spawner")) as service:
            answer = await service.post("plan/launches", json=question.model_dump(mode="json"))
            if answer.status_code != 201:
                server.pending = None
                return answer.status_code, {"message": answer.json()["error"]["message"]}
            server.plan = LaunchPlan.model_validate(answer.json())
            path = f"plan/launches/{server.plan.launch_id}"
            if self.fails:
                server.pending = None
                await service.post(f"{path}/release", json={"reason": "the image cannot be pulled"})
                return 500, {"message": "Server failed to start"}
            await service.post(f"{path}/confirm", json={})
        server.ready, server.pending, server.started = True, None, CREATED
        return None

    async def stop(self, name: str, server_name: str, remove: bool) -> int:
        """What the Hub does for DELETE .../servers/..."""
        server = self.servers.get((name, server_name))
        if server is None:
            return 404
        if server.plan is not None and (server.ready or server.pending):
            async with httpx.AsyncClient(base_url=self.service_url, headers=bearer("maestro-spawner")) as service:
                await service.post(f"plan/launches/{server.plan.launch_id}/release", json={"reason": "stopped"})
        self.servers[name, server_name] = Server(server_name, options=server.options)
        if remove:
            del self.servers[name, server_name]
        return 204

    def crash(self, name: str, server_name: str) -> None:
        """The server is gone, and nobody told the service."""
        self.servers[name, server_name] = Server(server_name, started=None)

    def group_model(self, name: str) -> dict[str, Any]:
        return {"name": name, "users": [user.name for user in self.users.values() if name in user.groups]}

    def move(self, name: str, *groups: str) -> UserRef:
        """A user is in these groups from now on, and keeps their account and token."""
        self.groups |= set(groups)
        self.users[name] = user(name, *groups, created=self.users[name].created)
        return self.users[name]

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    def user_model(self, ref: UserRef, stopped: bool) -> dict[str, Any]:
        servers = {
            key[1]: server.model()
            for key, server in self.servers.items()
            if key[0] == ref.name and (stopped or server.ready or server.pending)
        }
        return {"kind": "user", **ref.model_dump(mode="json"), "servers": servers}


class _HubHandler(RequestHandler):
    def initialize(self, hub: FakeHub) -> None:
        self.hub = hub

    def prepare(self) -> None:
        self.hub.asked.append((self.request.method or "", self.request.path))
        if self.hub.down:
            self.send_error(503)

    def answer(self, status: int, body: Any = None) -> None:
        self.set_status(status)
        self.finish(body)


class _Me(_HubHandler):
    def get(self) -> None:
        token = self.request.headers.get("Authorization", "").partition(" ")[2]
        model = self.hub.tokens.get(token)
        self.answer(200, model) if model else self.answer(403, {"message": "unknown"})


class _User(_HubHandler):
    def get(self, name: str) -> None:
        ref = self.hub.users.get(name)
        self.answer(200, self.hub.user_model(ref, True)) if ref else self.answer(404)


class _Users(_HubHandler):
    def get(self) -> None:
        active = self.get_query_argument("state", "") == "active"
        models = [self.hub.user_model(ref, not active) for ref in self.hub.users.values()]
        found = [model for model in models if model["servers"] or not active]
        offset, limit = int(self.get_query_argument("offset", "0")), min(3, int(self.get_query_argument("limit", "50")))
        more = offset + limit < len(found)
        pages = {"next": {"offset": offset + limit, "limit": limit} if more else None}
        self.answer(200, {"items": found[offset : offset + limit], "_pagination": pages})


class _Groups(_HubHandler):
    def get(self) -> None:
        items = [self.hub.group_model(name) for name in sorted(self.hub.groups)]
        self.answer(200, {"items": items, "_pagination": {"next": None}})


class _Group(_HubHandler):
    def get(self, name: str) -> None:
        self.answer(200, self.hub.group_model(name)) if name in self.hub.groups else self.answer(404)


class _Server(_HubHandler):
    def get(self, name: str, server: str | None = None) -> None:
        found = self.hub.servers.get((name, server or ""))
        self.answer(200, found.model()) if found else self.answer(404)

    async def post(self, name: str, server: str | None = None) -> None:
        if name not in self.hub.users:
            return self.answer(404, {"message": "no such user"})
        self.answer(*await self.hub.start(name, server or "", json.loads(self.request.body)["user_options"]))

    async def delete(self, name: str, server: str | None = None) -> None:
        remove = bool(self.request.body) and json.loads(self.request.body).get("remove", False)
        self.answer(await self.hub.stop(name, server or "", remove))


def _hub_app(hub: FakeHub) -> Application:
    rules = [
        ("/hub/api/user", _Me),
        ("/hub/api/users", _Users),
        ("/hub/api/users/([^/]+)", _User),
        ("/hub/api/users/([^/]+)/server", _Server),
        ("/hub/api/users/([^/]+)/servers/([^/]+)", _Server),
        ("/hub/api/groups", _Groups),
        ("/hub/api/groups/([^/]+)", _Group),
    ]
    return Application([(pattern, handler, {"hub": hub}) for pattern, handler in rules], log_function=lambda _: None)


# -- the service ------------------------------------------------------------------------------------------------------


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"token token-of-{name}"}


def settings_for(
    state: Path, hub_url: str = "http://127.0.0.1:1", policy: str = POLICY_TEXT, store_db: str = ""
) -> Settings:
    state.mkdir(parents=True, exist_ok=True)
    file = state / "maestro.yaml"
    if not file.exists():
        file.write_text(policy)
    if not store_db:
        place_sqlite(state / "service/maestro.sqlite")
    return Settings(
        state=state,
        policy=file,
        host="127.0.0.1",
        port=0,
        public_url="http://hub.example.org/",
        service_url="http://127.0.0.1:8181/services/workspaces/api/v1/jupyter",
        mlflow_url="http://hub.example.org/services/mlflow",
        index_url="http://127.0.0.1:8182/services/packages",
        provider="local",
        hub_api_url=f"{hub_url}/hub/api",
        hub_api_token="token-of-the-service",
        base_url="/",
        prefix=PREFIX,
        store_db=store_db,
    )


@dataclass
class World:
    """The running service and its Hub."""

    hub: FakeHub
    authority: Authority
    address: str

    def client(self, name: str | None = None, *, token: str | None = None, base: str = API) -> httpx.AsyncClient:
        """A client of the API for somebody; without a name and token for nobody."""
        token = token or (name and f"token-of-{name}")
        headers = {"Authorization": f"token {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.address + base, headers=headers, timeout=30)


@asynccontextmanager
async def running_world(state: Path, policy: str = POLICY_TEXT, runner: Runner | None = None) -> AsyncIterator[World]:
    """The service on a random port, over a Hub with ann, bob, eve and the admin root."""
    hub = FakeHub()
    for name in ("ann", "bob", "eve"):
        hub.add(name)
    hub.add("root", scopes=(USE, MANAGE, REVIEW, ADMIN))
    async with AsyncExitStack() as stack:
        hub_address = await stack.enter_async_context(_listening(_hub_app(hub)))
        authority = await stack.enter_async_context(open_authority(settings_for(state, hub_address, policy)))
        if runner is not None:
            authority = replace(authority, runner=runner)
            stack.push_async_callback(authority.board.close)
        identity = Identity(
            authority.hub,
            partial(caller_of, authority),
            api_url=f"{hub_address}/hub/api",
            api_token="token-of-the-service",
            base_url=PREFIX,
            oauth_client_id="service-workspaces",
            access_scopes={ACCESS},
        )
        address = await stack.enter_async_context(_listening(make_app(authority, identity, "secret")))
        hub.service_url = address + API + "/"
        stack.push_async_callback(JupyterHubHTTPClient.loop_instance().close)  # one for each loop, or it stays open
        yield World(hub, authority, address)


@asynccontextmanager
async def _listening(app: Application) -> AsyncIterator[str]:
    server = HTTPServer(app, max_body_size=MAX_REQUEST)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server.add_socket(listener)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.stop()
        await server.close_all_connections()


async def until(what: Callable[[], Any], why: str, seconds: float = 10) -> Any:
    """Look at ``what`` (or await it) until it gives something true."""
    limit = asyncio.get_running_loop().time() + seconds
    while True:
        found = what()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < limit, f"{why} (waited {seconds:g} s)"
        await asyncio.sleep(0.01)
