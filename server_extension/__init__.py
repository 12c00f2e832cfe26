"""What Maestro adds to a notebook server.

``start`` runs before the server and prepares it; ``extension`` is the Jupyter Server extension in it. Loading this
package costs nothing: the extension is installed for every server of its prefix, and returns at once unless Maestro
launched the server.
"""

from __future__ import annotations

import os
from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Called by Jupyter Server to find the extensions of this package."""
    return [{"module": "server_extension"}]


def _load_jupyter_server_extension(server: Any) -> None:
    """Called by Jupyter Server when it starts.

    Args:
        server: the ``jupyter_server.serverapp.ServerApp``.
    """
    if not os.environ.get("MAESTRO_LAUNCH_ID"):
        return
    from .extension import load

    load(server, os.environ)


async def _start_jupyter_server_extension(server: Any) -> None:
    """Called by Jupyter Server when it runs."""
    if life := server.web_app.settings.get("maestro_life"):
        await life.start()
