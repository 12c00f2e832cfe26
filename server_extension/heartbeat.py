"""Tells the service now and then what this server uses, and takes from it what the user is to be told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.usage import Heartbeat, Notices

from .board import Board
from .service import NotAnswered, Service

#: the longest pause while the service does not answer, seconds
MAX_PAUSE = 300.0
#: how long the service may hold the question for notices; the shortest time from one to the next
WAIT_SECONDS, LEAST_SECONDS = 50.0, 1.0


class Pulse:
    """The heartbeat of one launch.

    Args:
        beat: gives what the server uses now.
        seconds: from one heartbeat to the next.
    """

    def __init__(
        self,
        service: Service,
        board: Board,
        beat: Callable[[], Awaitable[Heartbeat]],
        log: logging.Logger,
        seconds: float,
    ) -> None:
        self._service = service
        self._board = board
        self._beat = beat
        self._log = log
        self._seconds = seconds
        self._failures = 0

    async def run(self) -> None:
        """Beat for as long as the server runs."""
        while True:
            await self.once()
            await asyncio.sleep(self.pause)

    @property
    def pause(self) -> float:
        """Seconds until the next one: doubled with each that found no service, since it may be starting or be gone."""
        return min(self._seconds * 2 ** min(self._failures, 10), MAX_PAUSE)

    async def listen(self) -> None:
        """Hear of notices as soon as the service has them, as long as the server runs: a minute's grace is short."""
        seen, failures = "", 0
        while True:
            try:
                answer, seen = await self._service.notices(seen, WAIT_SECONDS)
                self._take(answer)
                failures = 0
            except NotAnswered:
                seen, failures = "", failures + 1  # the heartbeat's line in the log tells of it
            await asyncio.sleep(min(LEAST_SECONDS * 2**failures, MAX_PAUSE) if failures < 10 else MAX_PAUSE)

    async def once(self) -> bool:
        """One heartbeat.

        Returns:
            whether the service took it.
        """
        beat = await self._beat()
        try:
            self._take(await self._service.heartbeat(beat.model_dump_json()))
        except NotAnswered as error:
            self._failures += 1
            # one line for all of an outage; the notebook goes on without the service
            self._log.log(logging.INFO if self._failures == 1 else logging.DEBUG, "Maestro's service: %s", error)
            return False
        if self._failures:
            self._log.info("Maestro's service answers again.")
        self._failures = 0
        return True

    async def keep(self) -> None:
        """The user has pressed "Keep it running".

        Raises:
            NotAnswered: the service does not answer, or refuses.
        """
        self._take(await self._service.keep())

    def _take(self, answer: Any) -> None:
        try:
            self._board.take(read_model(Notices, answer if isinstance(answer, dict) else {}).notices)
        except MaestroError as error:
            self._log.info("Maestro's service sent notices that are not understood here: %s", error.message)
