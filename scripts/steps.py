"""How set-up shows and remembers its work: one line a slow step, logs in files, a stamp in whatever a step made.

A *stamp* is a small JSON file inside the thing made (an environment, ``node_modules``), so deleting the thing
deletes the stamp. It goes before its step begins and comes back when the step is done: an interrupted step is
done again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

STAMP = ".maestro-setup.json"


class SetupError(Exception):
    """Set-up cannot go on; the text is one sentence: what, why, what to do."""


class Log:
    """The log file of one step; programs write into it, people read it when a step fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    def run(self, argv: Iterable[object], *, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        """Run a program to its end, its output in the log.

        Raises:
            SetupError: the program is missing or ended with another code than 0.
        """
        command = [str(part) for part in argv]
        with self.path.open("a") as out:
            out.write(f"$ {' '.join(command)}\n")
            out.flush()
            try:
                code = subprocess.run(
                    command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
                ).returncode
            except OSError as error:
                raise SetupError(f"{command[0]} could not be started: {error.strerror}.") from error
        if code != 0:
            raise SetupError(f"{Path(command[0]).name} ended with code {code}; the whole log is {self.path}.")

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.path.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def step(title: str, log: Path) -> Iterator[Log]:
    """Show ``title``, then the seconds that the body took; on failure the end of the log goes to stderr.

    Raises:
        SetupError: the body's own, with the title in front.
    """
    began = time.monotonic()
    record = Log(log)
    print(f"  {title:.<58} ", end="", flush=True)
    try:
        yield record
    except SetupError as error:
        print("failed")
        print(record.tail(), file=sys.stderr)
        raise SetupError(f'Set-up stopped at "{title.rstrip(" .")}": {error}') from error
    except BaseException:
        print("stopped")
        raise
    print(f"{time.monotonic() - began:6.1f} s")


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``: two set-ups of one folder wait for each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("  Another set-up of this folder is running; waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(*files: Path, root: Path, salt: str = "") -> str:
    """SHA-256 over the names and contents of ``files`` (relative to ``root``, in the order given) and the ``salt``."""
    total = hashlib.sha256(salt.encode())
    for file in files:
        total.update(f"\0{file}\0".encode())
        total.update(hashlib.sha256((root / file).read_bytes()).digest())
    return total.hexdigest()


def read_stamp(folder: Path) -> dict[str, str]:
    """What the stamp in ``folder`` says; empty when there is none or it is broken."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(folder: Path, stamp: Mapping[str, str]) -> None:
    """Replace the stamp in ``folder``; an empty one is removed."""
    if not stamp:
        (folder / STAMP).unlink(missing_ok=True)
        return
    fresh = folder / f"{STAMP}.new"
    fresh.write_text(json.dumps(stamp, indent=1))
    fresh.replace(folder / STAMP)
