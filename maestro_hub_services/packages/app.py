"""The routes of the package index, all on this page, and its start and end."""

from __future__ import annotations

import asyncio
import logging
import signal

from tornado import web
from tornado.httpserver import HTTPServer

from ..parent import exit_with_parent
from ..settings import Settings, load_settings
from .authority import Authority
from .conda.handlers import CondaHandler
from .facts import look_for_ever
from .handlers import (
    DenialsHandler,
    FileHandler,
    HealthHandler,
    IndexHandler,
    MissingHandler,
    NamesHandler,
    ProjectHandler,
    RootHandler,
)
from .index import Index
from .masking import masked
from .names import answer_for_ever
from .telling import tell, tell_for_ever

#: path below the prefix -> handler
ROUTES: tuple[tuple[str, type[IndexHandler]], ...] = (
    (r"", RootHandler),
    (r"health", HealthHandler),
    (r"simple/?", NamesHandler),
    (r"simple/([^/]+)/?", ProjectHandler),
    (r"files/([^/]+)/([^/]+)/([^/]+)", FileHandler),
    (r"conda/t/([^/]+)/(.+)", CondaHandler),
    (r"denials", DenialsHandler),
)
#: what goes on beside the requests
WORK = (look_for_ever, answer_for_ever, tell_for_ever)
_MAX_REQUEST_BYTES = 64 * 1024


def make_app(index: Index) -> web.Application:
    """The tornado application: every route below the index's prefix."""
    routes = [(index.prefix + path, handler, {"index": index}) for path, handler in ROUTES]
    return web.Application(
        routes,
        default_handler_class=MissingHandler,
        default_handler_args={"index": index},
        log_function=_log_request,
    )


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set.

    Raises:
        OSError: if the port or the directory cannot be used.
    """
    authority = Authority(settings.service_url, settings.hub_api_token)
    index = Index(authority, settings.state / "packages", settings.prefix)
    await index.open()
    server = HTTPServer(make_app(index), max_body_size=_MAX_REQUEST_BYTES, max_header_size=_MAX_REQUEST_BYTES)
    server.listen(settings.port, settings.host)
    logging.getLogger(__name__).info("The package index listens on %s:%s%s", settings.host, settings.port, index.prefix)
    working = [asyncio.create_task(work(authority, index)) for work in WORK]
    try:
        await stop.wait()
    finally:
        server.stop()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await tell(authority, index)
        await index.close()
        await server.close_all_connections()


def main() -> None:
    """The program: settings from the environment, until SIGTERM, SIGINT or the end of the Hub."""
    exit_with_parent()
    settings = load_settings()
    logging.basicConfig(level=logging.INFO, format="[%(levelname).1s %(asctime)s packages] %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes addresses, which may hold passwords

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(settings, stop)

    asyncio.run(run())


def _log_request(handler: web.RequestHandler) -> None:
    """One line for what went wrong; the many requests that went well are not worth one."""
    status = handler.get_status()
    if status >= 500 or (status >= 400 and status not in (403, 404)):
        logging.getLogger(__name__).warning("%s %s %s", status, handler.request.method, masked(handler.request.path))
