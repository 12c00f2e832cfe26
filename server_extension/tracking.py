"""What kernels and programs left for MLflow that have ended: this server sends it, and ends their runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipython_magics.spool.sender import Sender

#: seconds from one look to the next: a run whose kernel was killed is to end within 30 s, busy machines included
LOOK_SECONDS = 5.0


class Leftovers:
    """Looks for as long as the server runs; the first look is for what an earlier server left.

    Args:
        environ: the server's environment.
    """

    def __init__(self, environ: Mapping[str, str], log: logging.Logger) -> None:
        self._place = Path(environ.get("MAESTRO_TRACKING_SPOOL", ""))
        self._launch = environ.get("MAESTRO_LAUNCH_ID", "")
        self._log = log
        self._sender: Sender | None = None

    async def run(self) -> None:
        """Look again and again; whatever is wrong with a journal is wrong at the next look too, and no server's end."""
        if not self._place.is_absolute():
            return
        failing = False
        while True:
            try:
                await asyncio.to_thread(self._look)
                failing = False
            except Exception as error:
                level = logging.DEBUG if failing else logging.WARNING
                self._log.log(level, "Maestro: what waits for MLflow is looked at later: %s", error)
                failing = True
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        if not self._place.is_dir() or not any(self._place.iterdir()):
            return
        from ipython_magics.spool.leftovers import send_leftovers, sender_of_launch

        self._sender = self._sender or sender_of_launch()
        if self._sender is not None:
            send_leftovers(self._sender, self._place, self._launch, self._log)
