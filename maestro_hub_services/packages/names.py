"""Says whether a package exists, to whoever asks the workspaces service about it: that service reaches no upstream."""

from __future__ import annotations

import asyncio
import logging
import time

from maestro_core.errors import MaestroError
from maestro_core.requests import NameAnswer, NameQuestion

from .authority import Authority
from .index import Index

#: seconds that the service holds a question open; between two where it does not; for one name
WAIT, INTERVAL, STEP_SECONDS = 20, 2.0, 10.0
_log = logging.getLogger(__name__)


async def answer_for_ever(authority: Authority, index: Index) -> None:
    """Answer every question that comes, until it is cancelled."""
    away = False
    while True:
        began = time.monotonic()
        asked: tuple[NameQuestion, ...] = ()
        try:
            asked = (await authority.asked_names(WAIT)).asked
            await asyncio.gather(*(_answer(authority, index, question) for question in asked))
            away = False
        except MaestroError as error:
            if not away:
                _log.warning("Whether packages exist is answered later: %s", error.message)
            away = True
        except Exception:
            _log.exception("Looking for a package failed")
            away = True
        if away or (not asked and time.monotonic() - began < INTERVAL):
            await asyncio.sleep(INTERVAL)


async def _answer(authority: Authority, index: Index, question: NameQuestion) -> None:
    exists: bool | None
    try:
        async with asyncio.timeout(STEP_SECONDS):
            shelf = await index.shelf(await authority.policy(question.workspace))
            exists = await shelf.library.listing(question.package) is not None
    except (MaestroError, TimeoutError):  # a name of one's own, or upstream is away
        exists = None
    await authority.tell_name(NameAnswer(**question.model_dump(), exists=exists))
