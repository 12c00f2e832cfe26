"""Runs that a worker process of ``multiprocessing`` leaves open: they end with the worker.

A worker that was forked leaves by ``os._exit``, so MLflow's own end at exit never happens there, and what it logged
without ``start_run`` would be a run that is active for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import util

import mlflow

from maestro_core.experiments import TAG_REASON

from ..cells import reason_of

_watched: set[int] = set()  # pids, since a fork of a worker has its memory


def end_with_worker() -> None:
    """Called whenever a run starts: in a worker, see to it that the worker's end is the run's."""
    if multiprocessing.parent_process() is None or os.getpid() in _watched:
        return
    _watched.add(os.getpid())
    util.Finalize(None, _worker_ends, exitpriority=0)


def _worker_ends() -> None:
    """Called by multiprocessing in a worker's last moment, while what its target raised is on the way out."""
    error = sys.exc_info()[1]
    failed = error is not None and not (isinstance(error, SystemExit) and not error.code)
    try:
        while (run := mlflow.active_run()) is not None:
            if error is not None and failed:
                mlflow.MlflowClient().set_tag(run.info.run_id, TAG_REASON, reason_of(error))
            mlflow.end_run("FAILED" if failed else "FINISHED")
    except Exception:  # tracking stops no program; the run ends with its launch
        return
