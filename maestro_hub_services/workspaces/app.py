"""The program: opens the store, listens, watches the policy and the Hub, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from maestro_core.errors import MaestroError
from maestro_core.jobs import MAX_OUTPUT
from maestro_hub_services.keys import KeyFileError, ensure_key, make_private_directory, make_state_directory
from maestro_hub_services.parent import exit_with_parent
from maestro_hub_services.settings import Settings, SettingsError, load_settings
from maestro_hub_services.store import Store, StoreLocked

from .authority import Authority
from .domain.advisories import load_malware
from .domain.job_tokens import caller_of
from .domain.reconcile import reconcile_for_ever
from .domain.usage import flush
from .hub import Hub
from .identity import Identity
from .index_tokens import IndexTokens
from .loops import LOOPS, run_for_ever
from .network import make_network
from .nodes import make_nodes
from .pages import page_routes, site_of
from .policy_file import PolicyFile
from .resizing import make_resizer
from .routes import api_rules
from .runners import make_runner
from .templates import Templates
from .volumes import make_volumes

#: bytes that are read of any request: an executed notebook; the API refuses far less with a sentence elsewhere
MAX_REQUEST = MAX_OUTPUT + 64 * 1024
#: how long a database may be away when the service starts; the Hub gives the service 60 s
DATABASE_SECONDS = 40.0
log = logging.getLogger("maestro.workspaces")


@asynccontextmanager
async def open_authority(settings: Settings) -> AsyncIterator[Authority]:
    """The parts of the service, from its settings; closed in order at the end.

    Raises:
        StoreLocked: another process has the store open.
    """
    state = make_state_directory(settings.state)
    folder = make_private_directory(state / "service")
    async with AsyncExitStack() as stack:
        store = await Store.open(
            settings.store_db or f"sqlite+aiosqlite:///{folder / 'maestro.sqlite'}",
            folder / "lock",
            patience=DATABASE_SECONDS if settings.store_db else 0,
        )
        stack.push_async_callback(store.close)
        hub = Hub(settings.hub_api_url, settings.hub_api_token)
        stack.push_async_callback(hub.close)
        volumes = make_volumes(settings)
        stack.push_async_callback(volumes.close)
        policy = PolicyFile(settings.policy, folder / "maestro.last-good.yaml", settings.package_lists)
        await policy.reload(store)
        tokens = IndexTokens(ensure_key(state, "index_token"))
        nodes = make_nodes(settings)
        stack.push_async_callback(nodes.close)
        resizer = make_resizer(settings)
        stack.push_async_callback(resizer.close)
        runner = make_runner(settings)
        stack.push_async_callback(runner.close)
        network = make_network(settings)
        stack.push_async_callback(network.close)
        authority = Authority(
            settings, store, hub, policy, volumes, tokens, Templates(), nodes, resizer, runner, network
        )
        stack.push_async_callback(authority.board.close)
        await load_malware(authority)
        yield authority


def make_app(authority: Authority, identity: Identity, cookie_secret: str) -> Application:
    """Every address of the service: the API, then the pages."""
    rules: list[Any] = [*api_rules(authority, identity), *page_routes(site_of(authority, identity))]
    return Application(
        rules,
        cookie_secret=cookie_secret,
        log_function=_log_request,
        # tornado's own XSRF check comes before anyone is known; HubOAuth checks it for cookies
        xsrf_cookies=False,
    )


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set.

    Raises:
        StoreLocked, OSError: the store or the port is taken.
    """
    async with open_authority(settings) as authority:
        identity = Identity(
            authority.hub,
            partial(caller_of, authority),
            api_url=settings.hub_api_url,
            api_token=settings.hub_api_token,
            base_url=settings.prefix,
        )
        app = make_app(authority, identity, ensure_key(settings.state, "service_cookie_secret"))
        server = HTTPServer(app, max_body_size=MAX_REQUEST, max_header_size=64 * 1024, xheaders=True)
        server.listen(settings.port, settings.host)
        log.info("Listening on %s:%s%s", settings.host, settings.port, settings.prefix)
        loops = [
            asyncio.create_task(authority.policy.watch(authority.store)),
            asyncio.create_task(reconcile_for_ever(authority)),
            *(asyncio.create_task(run_for_ever(authority, loop)) for loop in LOOPS),
        ]
        try:
            await stop.wait()
        finally:
            server.stop()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await flush(authority)
            await server.close_all_connections()


def main() -> None:
    """The program: settings from the environment, until SIGTERM, SIGINT or the end of the Hub."""
    exit_with_parent()
    settings = load_settings()
    logging.basicConfig(level=logging.INFO, format="[%(levelname).1s %(asctime)s workspaces] %(message)s")
    # tornado.application is where the Hub's client tells every sign-in, with ids of sessions
    for noisy in ("httpx", "alembic", "tornado.application"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(settings, stop)

    try:
        asyncio.run(run())
    except (StoreLocked, KeyFileError, SettingsError) as error:
        sys.exit(str(error))
    except MaestroError as error:
        sys.exit(f"The workspaces service cannot start: {error.message}")
    except OSError as error:
        sys.exit(f"The workspaces service cannot start on {settings.host}:{settings.port}: {error.strerror or error}.")


def _log_request(handler: RequestHandler) -> None:
    """One line for what went wrong; a refusal is in the events."""
    status = handler.get_status()
    if status >= 500:
        log.warning("%s %s %s", status, handler.request.method, handler.request.path)
