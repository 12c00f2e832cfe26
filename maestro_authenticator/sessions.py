"""Ending what a person has open at the Hub: sessions in browsers, tokens, servers."""

from __future__ import annotations

import asyncio

from jupyterhub import orm
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.user import User
from jupyterhub.utils import new_token

#: how long a server may take to leave off starting or stopping before it is stopped
PENDING_SECONDS = 60


def end_browser_sessions(handler: BaseHandler, user: User) -> None:
    """Sign the person out of every browser: of the Hub's pages, of services, of their servers.

    The Hub's cookie holds ``cookie_id``, so a new one makes every old cookie invalid; what services and servers keep is
    an OAuth token (a server forgets a cached one within its ``cache_max_age``). Tokens made by hand stay.
    """
    db = handler.db
    user.orm_user.cookie_id = new_token()
    for token in list(user.orm_user.api_tokens):
        if token.client_id != "jupyterhub":
            db.delete(token)
    db.query(orm.OAuthCode).filter_by(user_id=user.id).delete()
    db.commit()


def end_everything(handler: BaseHandler, user: User) -> None:
    """:func:`end_browser_sessions`, and every token of the person, and (in the background) every server."""
    end_browser_sessions(handler, user)
    for token in list(user.orm_user.api_tokens):
        handler.db.delete(token)
    handler.db.commit()
    for name, spawner in list(user.spawners.items()):
        if spawner.active:
            task = asyncio.ensure_future(_stop(handler, user, name))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)


_tasks: set[asyncio.Future[None]] = set()  # asyncio itself keeps only weak references


async def _stop(handler: BaseHandler, user: User, name: str) -> None:
    spawner = user.spawners[name]
    if spawner.pending == "spawn" and spawner._spawn_future:
        spawner._spawn_future.cancel()  # as the Hub does when somebody stops a server that is starting
    for _ in range(PENDING_SECONDS):
        if not spawner.pending:
            break
        await asyncio.sleep(1)
    try:
        if spawner.active:
            await handler.stop_single_user(user, name)
    except Exception:
        handler.log.exception("Could not stop the server %s of a disabled account", spawner._log_name)
