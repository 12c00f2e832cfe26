"""Whether a package exists: asked of the index's service, which alone reaches upstream and asks here what is asked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict

from maestro_core.requests import NameAnswer, NameQuestion

#: seconds that somebody's command waits for the answer; for which one counts; after which the index is away
PATIENCE, FRESH, AWAY = 5.0, 60.0, 40.0
_KEPT = 1000


class NamesAsked:
    """Questions that wait for the index's service, and its answers of the last minute."""

    def __init__(self) -> None:
        self._waiting: dict[NameQuestion, asyncio.Future[NameAnswer]] = {}
        self._known: OrderedDict[NameQuestion, tuple[float, NameAnswer]] = OrderedDict()
        self._news = asyncio.Event()
        self._listened = 0.0

    async def exists(self, workspace: str, package: str) -> bool | None:
        """Whether the index behind ours has a project of that name (normal); None: nobody says so in time."""
        question = NameQuestion(workspace=workspace, package=package)
        at, known = self._known.get(question, (0.0, None))
        if known is not None and time.monotonic() - at < FRESH:
            return known.exists
        if time.monotonic() - self._listened > AWAY or len(self._waiting) >= _KEPT:
            return None
        future = self._waiting.setdefault(question, asyncio.get_running_loop().create_future())
        self._news.set()
        try:
            async with asyncio.timeout(PATIENCE):
                return (await asyncio.shield(future)).exists
        except TimeoutError:
            self._waiting.pop(question, None)
            return None

    async def wait(self, seconds: float) -> list[NameQuestion]:
        """What is asked; waits for something."""
        self._listened = time.monotonic() + seconds
        if not self._waiting:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        return list(self._waiting)[:20]

    def tell(self, answer: NameAnswer) -> None:
        """The index's service has looked."""
        question = NameQuestion(workspace=answer.workspace, package=answer.package)
        self._known.pop(question, None)
        self._known[question] = (time.monotonic(), answer)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        future = self._waiting.pop(question, None)
        if future is not None and not future.done():
            future.set_result(answer)
