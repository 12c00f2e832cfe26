"""What MLflow could not be told yet: kept on the server's private disk, and sent later, in order, once.

``journal`` is the file, ``sender`` what brings it to MLflow, ``road`` what one process knows about the way there, and
``leftovers`` sends what processes left that have ended. Nothing here imports mlflow: the notebook server uses it too.
The store that MLflow's client goes through is ``ipython_magics.mlflow_plugins.store``.
"""

from __future__ import annotations

import os
from pathlib import Path

#: names the folder of the journals; set by server_extension.start, where user code cannot change it any more
FOLDER = "MAESTRO_TRACKING_SPOOL"


def folder() -> Path:
    """Where this user's journals of this workspace lie, from launch to launch."""
    return Path(os.environ.get(FOLDER) or Path.home() / ".local/state/maestro/tracking")
