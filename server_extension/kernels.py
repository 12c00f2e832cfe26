"""Which notebook a kernel belongs to: asked by the magics and the MLflow plugins in that kernel.

The server's sessions know it, after a rename too; the kernel's own JPY_SESSION_NAME is stale then.
"""

from __future__ import annotations

from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

PATH = r"/maestro/kernels/(?P<kernel_id>[\w-]{1,64})"


class KernelHandler(APIHandler):
    """``GET /maestro/kernels/<kernel id>``: ``{"kernel_id", "path", "snapshot", "cells"}``.

    The path is below the workspace's folder; ``snapshot`` is the address of the notebook as it is saved, ``cells`` are
    the digests of its code cells (:mod:`maestro_core.snapshots`); both are left out where there is none.
    """

    auth_resource = "sessions"

    @web.authenticated
    @authorized
    async def get(self, kernel_id: str) -> None:
        """Answer with the kernel's notebook.

        Raises:
            web.HTTPError: 404, no notebook is open with this kernel.
        """
        sessions: list[dict[str, Any]] = await ensure_async(self.session_manager.list_sessions())
        path = notebook_of(kernel_id, sessions)
        if path is None:
            raise web.HTTPError(404, "No notebook is open with this kernel.")
        answer: dict[str, Any] = {"kernel_id": kernel_id, "path": path}
        if (life := self.settings.get("maestro_life")) and (state := await life.snapshot_of(path)):
            answer |= {"snapshot": state.address, "cells": state.digests}
        self.finish(answer)


def notebook_of(kernel_id: str, sessions: list[dict[str, Any]]) -> str | None:
    """The path of the kernel's notebook; a console that shares the kernel has a session too."""
    mine = [session for session in sessions if (session.get("kernel") or {}).get("id") == kernel_id]
    paths = [session["path"] for session in mine if session.get("type") == "notebook" and session.get("path")]
    return paths[0] if paths else None
