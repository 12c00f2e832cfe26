"""Work on repodata apart from the index's loop: in a thread what is small, else in a process of its own.

A process gives its memory back and takes no turn of the loop's. The task is JSON on its standard input:
``{"do": "take_in" | "change", ...arguments}``; the answer is JSON too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import repodata

TIMEOUT_SECONDS = 300.0
#: documents up to that size, on disk and unpacked, are worked on in a thread: faster than a process starts
SMALL_BYTES, SMALL_UNPACKED = 256 * 1024, 8 * 1024**2
_TASKS: dict[str, Callable[..., dict[str, Any] | None]] = {"take_in": repodata.take_in, "change": repodata.change}
_PATHS = ("source", "body", "catalog", "target")


class WorkerError(Exception):
    """The task failed; one part of a sentence: why."""


async def run(task: dict[str, Any], size: int) -> dict[str, Any]:
    """Do a task.

    Args:
        task: ``do`` names a function of :mod:`.repodata`, the rest is its arguments; paths as text.
        size: of the document, in bytes on disk.

    Raises:
        WorkerError: it failed, or took longer than 5 minutes.
    """
    if size > SMALL_BYTES:
        answer = await _in_process(task)
    else:
        try:
            answer = await asyncio.to_thread(do, task, most=SMALL_UNPACKED)
        except repodata.TooLargeError:
            answer = await _in_process(task)
    if "error" in answer:
        raise WorkerError(str(answer["error"]))
    return answer


async def _in_process(task: dict[str, Any]) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTERHUB_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(json.dumps(task).encode()), TIMEOUT_SECONDS)
    except TimeoutError:
        raise WorkerError("it took longer than 5 minutes") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise WorkerError("the process that reads it ended")
    return dict(json.loads(out))


def do(task: dict[str, Any], most: int | None = None) -> dict[str, Any]:
    """The task itself: what its function returned, or ``error``.

    Raises:
        TooLargeError: the document has more bytes than ``most``, if that is given.
    """
    arguments = {name: Path(value) if name in _PATHS else value for name, value in task.items() if name != "do"}
    try:
        return _TASKS[task["do"]](**arguments, **({} if most is None else {"most": most})) or {}
    except repodata.TooLargeError as error:
        if most is not None:
            raise
        return {"error": str(error)}
    except repodata.RepodataError as error:
        return {"error": str(error)}
    except (OSError, sqlite3.Error) as error:
        return {"error": f"it could not be stored: {type(error).__name__}"}


if __name__ == "__main__":
    gc.disable()  # millions of objects that all stay until the end: looking through them takes a third of the time
    print(json.dumps(do(json.load(sys.stdin))))
