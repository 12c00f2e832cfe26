"""The files of a launch, with a sentence where a volume is full."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado import web

from .usage import disk


class LaunchContents(AsyncLargeFileManager):
    """Jupyter's own contents manager. What is deleted is gone: a trash on the same volume would free nothing."""

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Save a file.

        Raises:
            web.HTTPError: 507, the volume is full; a file that was there is as it was, a new one is not there.
        """
        file = Path(self._get_os_path(path))
        new = not await asyncio.to_thread(os.path.lexists, file)
        try:
            saved: dict[str, Any] = await super().save(model, path)
            return saved
        except (OSError, web.HTTPError) as error:
            if getattr(error, "status_code", 500) != 500 or not self._full():
                raise
            if new:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(file.unlink)
            raise web.HTTPError(
                507, f"There is no space left, so {file.name} was not saved; delete something, then save again."
            ) from None

    def _full(self) -> bool:
        try:
            return disk.room(Path(self.root_dir)).full
        except OSError:
            return False
