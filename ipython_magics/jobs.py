"""What the worker of a job tells its kernel: the job's run, and how the job ended.

The file is written by ``server_extension.jobs``, the end while the kernel still runs.
"""

from __future__ import annotations

import json
import os

#: variables that the worker sets
JOB, ATTEMPT, STATE, SNAPSHOT = (
    "MAESTRO_JOB",
    "MAESTRO_JOB_ATTEMPT",
    "MAESTRO_JOB_STATE",
    "MAESTRO_JOB_SNAPSHOT",
)


def is_job() -> bool:
    """Whether this process belongs to a job."""
    return bool(os.environ.get(JOB))


def tags() -> dict[str, str]:
    """The tags of a run that a job's notebook or script starts: it goes under the job's own run."""
    if not is_job():
        return {}
    from maestro_core.experiments import TAG_DIRTY, TAG_SNAPSHOT

    found = {
        "maestro.job": os.environ.get(JOB, ""),
        "maestro.attempt": os.environ.get(ATTEMPT, ""),
        TAG_SNAPSHOT: os.environ.get(SNAPSHOT, ""),
        TAG_DIRTY: "false",  # what runs is that version
        "mlflow.parentRunId": told().get("run", ""),
    }
    return {tag: value for tag, value in found.items() if value}


def told() -> dict[str, str]:
    """What the worker has told so far: ``run``, and at the end ``status`` and ``reason``."""
    try:
        with open(os.environ.get(STATE, ""), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
