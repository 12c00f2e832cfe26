"""A managed service ends with the Hub that started it.

After ``kill -9`` of the Hub a service would live on with a dead token and keep its port, and the next Hub would take
its answers for those of the new one (seen with JupyterHub 6.1). So each service calls :func:`exit_with_parent` first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PARENT_VARIABLE = "MAESTRO_PARENT_PID"
GRACE_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def exit_with_parent(poll_seconds: float = 1.0) -> None:
    """Ask the kernel for SIGTERM when the parent dies, and watch the parent's pid besides.

    ``MAESTRO_PARENT_PID`` (set by ``compose.add_services``) names the parent; without it, it is whoever the parent is
    now. Does nothing in a container, where the parent is pid 0 or 1 and the kubelet ends the process. A process that
    ignores SIGTERM is ended by ``os._exit`` after 5 s.

    Args:
        poll_seconds: how often the watching thread looks.
    """
    named = os.environ.pop(PARENT_VARIABLE, "")  # of this process alone: its own children have another parent
    parent = int(named) if named.isdigit() else os.getppid()
    if parent <= 1:
        return
    signal_on_parent_death(signal.SIGTERM)
    threading.Thread(target=_watch, args=(parent, poll_seconds), name="parent-watch", daemon=True).start()


def signal_on_parent_death(number: int) -> None:
    """Linux: the kernel sends ``number`` when the parent (the thread that forked us) dies. Elsewhere: nothing."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Linux: orphaned descendants become our children instead of init's, so that we can end them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _watch(parent: int, poll_seconds: float) -> None:
    while os.getppid() == parent:
        time.sleep(poll_seconds)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)
