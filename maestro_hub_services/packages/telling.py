"""Tells the workspaces service what was refused, so that a denial outlives this process: there it is an event."""

from __future__ import annotations

import asyncio
import logging

from maestro_core.denials import DenialReport
from maestro_core.errors import MaestroError

from .authority import Authority
from .index import Index

#: seconds between two reports
INTERVAL = 5.0
_log = logging.getLogger(__name__)


async def tell_for_ever(authority: Authority, index: Index) -> None:
    """Tell what there is now and then, until it is cancelled."""
    while True:
        await asyncio.sleep(INTERVAL)
        await tell(authority, index)


async def tell(authority: Authority, index: Index) -> None:
    """Tell all that is not told yet; what cannot be told now is kept."""
    while denials := index.denials.untold():
        try:
            await authority.tell_denials(DenialReport(denials=tuple(denials)))
        except MaestroError:
            index.denials.tell_again(denials)
            return
        except Exception:
            _log.exception("Denials could not be told")
            return
