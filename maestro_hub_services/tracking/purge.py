"""Asks the workspaces service now and then which workspaces were purged, and removes what MLflow keeps of them.

The names are taken until this has answered, so that a new workspace never finds the old one's runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import httpx

from maestro_core.lifecycle import PurgedTracking, TrackingRemoved

from .again import for_ever
from .fresh import FRESH_SECONDS

#: seconds between two questions
INTERVAL = 15.0
TIMEOUT_SECONDS = 10.0
COUNTS = ("experiments", "runs", "models", "bytes")
log = logging.getLogger("maestro.tracking")


class Purger:
    """The loop.

    Args:
        client: an HTTP client without default credentials. api_url, token: of the workspaces service, and this one's.
        remove: removes one MLflow workspace; safe to repeat.
        settle: seconds after which nobody writes any more who was a member a moment ago.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        api_url: str,
        token: str,
        remove: Callable[[str], Awaitable[TrackingRemoved]],
        settle: float = FRESH_SECONDS + 1,
    ) -> None:
        self._client = client
        self._url = api_url.rstrip("/") + "/authorize/purged"
        self._headers = {"Authorization": f"token {token}"}
        self._remove = remove
        self._settle = settle

    async def run(self) -> None:
        """Look for ever; a look that fails is made again."""
        await for_ever(self.once, "Purged workspaces", INTERVAL)

    async def once(self) -> None:
        """Remove what is to go, and say what it was.

        Raises:
            httpx.HTTPError: the service does not answer, or refuses.
            Exception: whatever MLflow or its storage raises.
        """
        answer = await self._client.get(self._url, headers=self._headers, timeout=TIMEOUT_SECONDS)
        for name in PurgedTracking.model_validate(answer.raise_for_status().json()).workspaces:
            await self._purge(name)

    async def _purge(self, name: str) -> None:
        gone = await self._remove(name)
        # memberships are believed for some seconds: what somebody wrote meanwhile goes too
        await asyncio.sleep(self._settle)
        late = await self._remove(name)
        told = TrackingRemoved(
            workspace=name, **{field: getattr(gone, field) + getattr(late, field) for field in COUNTS}
        )
        answer = await self._client.post(
            self._url, json=told.model_dump(), headers=self._headers, timeout=TIMEOUT_SECONDS * 3
        )
        answer.raise_for_status()
        log.info("Removed MLflow's workspace %s: %d runs in %d experiments.", name, told.runs, told.experiments)
