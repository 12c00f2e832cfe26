"""A sync that is asked for outside the workspace: a job of the workspace does it, because only there are its files."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from maestro_core.errors import MaestroError
from maestro_core.jobs import JobView

from ..api import Api
from ..jobs import JobManager

#: the experiment of such jobs' own runs: what is synced is not counted among what is synced
EXPERIMENT = "syncs"
_SCRIPT = """import os
os.environ.pop("PYTHONPATH", None)  # the workspace's files are not what the command runs
os.execvp("maestro", {command!r})
"""


def queue_sync(api: Api, workspace: str, options: Sequence[str]) -> JobView:
    """Queue ``maestro sync`` as a job of the workspace.

    Args:
        options: of the command, ``--full`` for example.

    Raises:
        MaestroError: as the service refuses the job; ``invalid_request`` where zstandard is missing.
    """
    try:
        import zstandard
    except ImportError:
        raise MaestroError(
            "invalid_request",
            "A sync from outside is a job, and sending it takes zstandard: run 'pip install zstandard', or "
            "run this command in a terminal of the workspace.",
        ) from None
    script = _SCRIPT.format(command=["maestro", "sync", workspace, *options]).encode()
    content = base64.b64encode(zstandard.ZstdCompressor().compress(script)).decode()
    return JobManager(api=api).queue(
        workspace, name="sync", script="maestro-sync.py", content=content, experiment=EXPERIMENT
    )
