"""Brings what kernels recorded (``ipython_magics.capture``) to MLflow, stretch by stretch, in order.

Kernels write files into a folder of their launch, in the private home. Each that is over, or whose kernel is gone, is
handed to a program of the server's own Python; what MLflow cannot take now stays, and is tried again. A server holds a
lock on its folder: one that nobody holds is of a server that has ended, and its stretches are sent by this one.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from .provisioner import raise_oom_score

#: below the home; as in ipython_magics.capture.recorder
FOLDER = Path(".local/share/maestro/executions")
LOOK_SECONDS, FIRST_PAUSE, LONGEST_PAUSE = 1.0, 5.0, 300.0
#: seconds for one stretch; its exit code for "MLflow is away"; how often another failure is tried again
PATIENCE, LATER, TRIES = 120.0, 75, 3
#: stretches that wait; the oldest go first
MAX_WAITING = 500
_TAIL = 4096
#: mlflow's own client would try for minutes, and ask its makers for what notebooks use
_QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}  # fmt: skip


class Executions:
    """The loop of one launch.

    Args:
        environ: the server's environment.
        notebook_of: the path of a kernel's notebook, which is also brought to the service as it is saved.
    """

    def __init__(
        self, environ: Mapping[str, str], notebook_of: Callable[[str], Awaitable[str | None]], log: logging.Logger,
        home: Path,
    ) -> None:  # fmt: skip
        self._environ = {**environ, **_QUICK}
        self._notebook_of = notebook_of
        self._log = log
        self._root = home / FOLDER
        self._own = self._root / environ.get("MAESTRO_LAUNCH_ID", "")
        self._paths: dict[Path, str] = {}
        self._failures: dict[Path, int] = {}
        self._pause = LOOK_SECONDS
        self._away = False

    async def run(self) -> None:
        """Send, for as long as the server runs."""
        lock = await asyncio.to_thread(_locked, self._own)
        try:
            left = await asyncio.to_thread(self._left_folders)
            while True:
                if await self.once(self._own) and left and await self._take_over(left[0]):
                    left.pop(0)
                await asyncio.sleep(self._pause)
        finally:
            if lock is not None:
                os.close(lock)

    async def once(self, folder: Path, ended: bool = False) -> bool:
        """Send what is over.

        Args:
            ended: whether the server that this folder was of has ended, and all its kernels.

        Returns:
            whether nothing is left that could be sent now.
        """
        for file, head, over in await asyncio.to_thread(_look, folder):
            if file not in self._paths and (path := await self._notebook_of(str(head.get("kernel", "")))):
                self._paths[file] = path
            if not (over or ended):
                continue
            if not await self._send(file, head):
                return False
        self._pause = LOOK_SECONDS
        return True

    async def _take_over(self, folder: Path) -> bool:
        """Send what an earlier server left; whether that is done."""
        lock = await asyncio.to_thread(_locked, folder)
        if lock is None:
            return True  # of a server that runs
        try:
            done = await self.once(folder, ended=True)
            if done:
                await asyncio.to_thread(_remove, folder)
            return done
        finally:
            os.close(lock)

    async def _send(self, file: Path, head: Mapping[str, Any]) -> bool:
        # once more: renamed meanwhile, or its last cells were saved now
        path = await self._notebook_of(str(head.get("kernel", ""))) or self._paths.get(file, "")
        code, said = await self._program(file, path)
        if code == LATER:
            if not self._away:
                self._log.info("Maestro: executed cells wait for MLflow: %s", said)
            self._away = True
            self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
            return False
        self._away = False
        self._failures[file] = self._failures.get(file, 0) + (1 if code else 0)
        if code and self._failures[file] < TRIES:
            return False
        if code:
            self._log.warning("Maestro: a stretch of executed cells was not logged: %s", said)
        self._failures.pop(file, None)
        self._paths.pop(file, None)
        await asyncio.to_thread(file.unlink, True)
        return True

    async def _program(self, file: Path, path: str) -> tuple[int, str]:
        """Its exit code, and the last line that it said."""
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-s", "-m", "ipython_magics.capture.send", str(file), path),
            env=self._environ, cwd="/", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        raise_oom_score(program.pid)
        try:
            _, said = await asyncio.wait_for(program.communicate(), PATIENCE)
        except (TimeoutError, asyncio.CancelledError) as ended:
            program.kill()
            await program.wait()
            if isinstance(ended, asyncio.CancelledError):
                raise
            return LATER, f"no end within {PATIENCE:.0f} s"
        lines = said.decode(errors="replace").strip().splitlines()
        return program.returncode or 0, lines[-1][:300] if lines else ""

    def _left_folders(self) -> list[Path]:
        try:
            return sorted(one for one in self._root.iterdir() if one.is_dir() and one != self._own)
        except OSError:
            return []


def _locked(folder: Path) -> int | None:
    """The lock on a folder, held until it is closed; None where another server holds it, or nothing can be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _look(folder: Path) -> list[tuple[Path, dict[str, Any], bool]]:
    """The stretches of a folder, the oldest first: file, first line, whether it is over."""
    try:
        files = sorted(one for one in folder.iterdir() if one.suffix == ".jsonl")
    except OSError:
        return []
    for file in files[:-MAX_WAITING]:
        file.unlink(missing_ok=True)
    found = []
    for file in files[-MAX_WAITING:]:
        head, last = _ends_of(file)
        found.append((file, head, "end" in last or not _lives(head)))
    return found


def _ends_of(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first line of a file and, where it is a short one, its last."""
    try:
        with file.open("rb") as opened:
            first = opened.readline(_TAIL)
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - _TAIL))
            rest = opened.read(_TAIL).splitlines()
    except OSError:
        return {}, {}
    return _json(first), _json(rest[-1]) if rest else {}


def _json(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _lives(head: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a file is there: an id may be used again, so it also says when it was born."""
    try:
        stat = Path(f"/proc/{int(head.get('pid', 0))}/stat").read_text()
        return stat.rpartition(")")[2].split()[19] == str(head.get("born"))
    except (OSError, ValueError, TypeError, IndexError):
        return False


def _remove(folder: Path) -> None:
    try:
        (folder / ".lock").unlink(missing_ok=True)
        folder.rmdir()
    except OSError:
        return  # something else lies in it
