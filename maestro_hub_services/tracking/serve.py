"""The process: it holds the port from its first moment, and loads MLflow beside that.

Until MLflow is there (about 5 s) every request is answered 503: people see a page that opens by itself, MLflow's
clients wait and try again. The port is never taken by a process that does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn

from ..keys import ensure_key
from ..settings import Settings
from .gate import Behind, Gate
from .mlflow_server import LoadedMlflow, Stores, environment

if TYPE_CHECKING:
    from .orphans import Orphans
    from .purge import Purger

#: this service's name at the Hub
SERVICE = "mlflow"
GRACE_SECONDS = 5
T = TypeVar("T")
log = logging.getLogger("maestro.tracking")


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT.

    Returns:
        The exit code: 0 after a signal, 1 if MLflow could not be loaded.

    Raises:
        OSError: if the port is taken.
    """
    listener = _listen(settings.host, settings.port)
    gate = Gate(settings.prefix)
    server = uvicorn.Server(
        uvicorn.Config(
            gate,
            log_level="warning",
            access_log=False,  # a query string may hold a sign-in's code
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=75,  # longer than a client in front keeps an idle connection
            timeout_graceful_shutdown=GRACE_SECONDS,
            lifespan="on",
        )
    )
    failures: list[BaseException] = []
    asyncio.run(_run(server, listener, gate, settings, failures))
    return 1 if failures else 0


async def _run(
    server: uvicorn.Server, listener: socket.socket, gate: Gate, settings: Settings, failures: list[BaseException]
) -> None:
    loading = asyncio.create_task(_load(gate, settings))

    def loaded(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            failures.append(task.exception() or RuntimeError())
            log.error("MLflow could not be started: %s", failures[0])
            server.should_exit = True

    loading.add_done_callback(loaded)
    try:
        await server.serve(sockets=[listener])
    finally:
        loading.cancel()


async def _load(gate: Gate, settings: Settings) -> None:
    began = time.monotonic()
    behind, loops = await _in_daemon_thread(lambda: _behind(settings))
    gate.open(behind)
    log.info("MLflow is ready after %.1f s.", time.monotonic() - began)
    await asyncio.gather(*(loop.run() for loop in loops))


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread that does not hold up the process's end, as an executor's would."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            value = work()
        except BaseException as problem:
            loop.call_soon_threadsafe(_settle, result.set_exception, problem, result)
        else:
            loop.call_soon_threadsafe(_settle, result.set_result, value, result)

    threading.Thread(target=run, name="load-mlflow", daemon=True).start()
    return await result


def _settle(how: Callable[[Any], None], what: object, result: asyncio.Future[Any]) -> None:
    if not result.done():  # cancelled meanwhile
        how(what)


def _behind(settings: Settings) -> tuple[Behind, tuple[Purger | Orphans, ...]]:
    """Everything that takes time to import or open."""
    import httpx

    from .identity import Hub
    from .membership import WorkspacesService
    from .orphans import Orphans
    from .purge import Purger
    from .session import Cookies
    from .signin import OAuth, SignInPages

    addresses = [settings.public_url, settings.mlflow_url, f"http://{settings.host}:{settings.port}"]
    mlflow = LoadedMlflow(environment(Stores.of(settings), settings.prefix, addresses, os.environ))
    client = httpx.AsyncClient(follow_redirects=False, trust_env=False)
    hub = Hub(client, settings.hub_api_url, SERVICE)
    cookies = Cookies(
        ensure_key(settings.state, "mlflow-cookie"), settings.prefix, settings.public_url.startswith("https:")
    )
    oauth = OAuth(
        authorize_url=os.environ.get("JUPYTERHUB_HOST", "") + settings.base_url + "hub/api/oauth2/authorize",
        token_url=settings.hub_api_url + "/oauth2/token",
        client_id=os.environ.get("JUPYTERHUB_CLIENT_ID") or f"service-{SERVICE}",
        client_secret=settings.hub_api_token,
        redirect_uri=os.environ.get("JUPYTERHUB_OAUTH_CALLBACK_URL") or settings.prefix + "oauth_callback",
        prefix=settings.prefix,
    )
    behind = Behind(
        mlflow=mlflow,
        hub=hub,
        service=WorkspacesService(client, settings.service_url, settings.hub_api_token),
        cookies=cookies,
        sign_in=SignInPages(client, oauth, cookies, hub),
    )
    service = (client, settings.service_url, settings.hub_api_token)
    return behind, (
        Purger(*service, mlflow.remove_workspace),
        Orphans(*service, mlflow.launches_of_active_runs, mlflow.end_runs),
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; without it each answer waits 40 ms for an ACK
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.listen(2048)
    listener.set_inheritable(False)
    return listener


def main() -> int:
    """``python -m maestro_hub_services.tracking``."""
    from ..parent import exit_with_parent
    from ..settings import load_settings

    exit_with_parent()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every question to the Hub
    settings = load_settings()
    try:
        return serve(settings)
    except OSError as error:
        log.error("MLflow cannot listen at %s:%d: %s", settings.host, settings.port, error.strerror)
        return 1
