"""What one process knows about the way to MLflow: open, or so bad that calls are kept and sent beside the user's code.

With the road open a call goes to MLflow at once, so that what is wrong with it is said where it stands. A call that is
not answered closes it: that call and all after it are kept, in order, and a thread sends them. When nothing waits any
more and MLflow answers fast, the road is open again.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .. import address, kernel
from . import folder
from .journal import Journal, JournalFull
from .sender import Away, Sender

#: seconds after which an answer is a slow one
SLOW = 0.5
#: seconds that a read waits for what is being sent, that the end of a process does
FLUSH_SECONDS, LAST_SECONDS = 10.0, 2.0
#: seconds between two tries while MLflow is away: the first, the longest
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
#: seconds for which a failure is taken to go on
SURE_SECONDS = 1.0
#: seconds from one line about it to the next
QUIET_SECONDS = 60.0
AWAY = "MLflow does not answer; what you log is kept here and sent when it does."
SLOWLY = "MLflow answers slowly; what you log is sent in the background."
FULL = "MLflow does not answer, and there is no room to keep more here: what you log from now on is lost."
log = logging.getLogger("maestro")


class Road:
    """The way to one MLflow, for one process.

    Args:
        sender: of what waits. place: the folder of journals. owner: of this process, for its journal.
        say: tells the user one line.
    """

    def __init__(self, sender: Sender, place: Path, owner: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self._sender = sender
        self._place = place
        self._owner = owner
        self._say = say
        self._journal: Journal | None = None
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._turn = threading.Condition()  # of what follows
        self._work = self._hurry = False
        self._tries = 0
        self._full = False
        self._said = float("-inf")
        self._news = ""
        self._failed = float("-inf")  # when MLflow was last seen to be away
        self.closed = False

    @property
    def waiting(self) -> bool:
        """Whether something is still to be sent."""
        return self._journal is not None and self._journal.waiting

    def keep(self, record: Mapping[str, Any], file: Path | None = None) -> None:
        """Keep a call (with a copy of a file), close the road, and send it beside. It raises nothing: code goes on."""
        with self._lock:
            self.closed = True
            self._tell()
            try:
                journal = self._its_journal()
                if file is not None:
                    record = {**record, "file": journal.copy(file)}
                journal.append(record)
                self._full = False
            except (OSError, JournalFull):
                if not self._full:
                    self._full = True
                    self._say(FULL)
                return
        self._send_beside()

    def answered(self, seconds: float, entities: int = 1) -> None:
        """MLflow has answered a call in that time: if slowly, calls are kept while it is seen whether that stays so."""
        self._failed = float("-inf")
        if seconds > SLOW + entities / 1000:
            self.closed = True
            self._send_beside()

    def failed(self, surely: bool = True) -> None:
        """MLflow has not answered; not ``surely`` where it may only be slow."""
        if surely:
            self._failed = time.monotonic()
            self._news = AWAY

    def _tell(self) -> None:
        """One line about what is the matter, under the cell that logs: not from the thread, and not for a hiccup."""
        if self._news and time.monotonic() - self._said > QUIET_SECONDS:
            self._said = time.monotonic()
            self._say(self._news)
            self._news = ""

    @property
    def surely_away(self) -> bool:
        """Whether MLflow was seen to be away a moment ago: nobody needs to wait for it again."""
        return time.monotonic() - self._failed < SURE_SECONDS

    def note(self, line: str) -> None:
        """Note in the journal that a run was begun or ended here. Without a note nothing but a kill is worse off."""
        with contextlib.suppress(OSError), self._lock:
            if line.startswith("+") or self._journal is not None:
                self._its_journal().note(line)

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until everything is sent, or until that is seen to fail.

        Returns:
            whether nothing waits.
        """
        if not self.waiting:
            return True
        if self.surely_away:
            return False
        self._send_beside(hurry=True)
        with self._turn:
            before = self._tries
            self._turn.wait_for(lambda: not self.waiting or (self._tries > before and self.surely_away), seconds)
        return not self.waiting

    def end(self) -> None:
        """The process ends: send what can be sent at once. The notebook server, or the next one, sends the rest."""
        if self._journal is None:
            return
        self.flush(LAST_SECONDS)
        with self._lock, contextlib.suppress(OSError):
            if not self._owner.get("kernel"):
                self._journal.note("bye")  # what a program leaves open, another may go on with; a kernel's is nobody's
            if not self._journal.waiting and not self._journal.open_runs():
                self._journal.remove()
                self._journal = None

    def _its_journal(self) -> Journal:
        if self._journal is None:
            self._journal = Journal.create(self._place, self._owner)
        return self._journal

    def _send_beside(self, hurry: bool = False) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="maestro-tracking", daemon=True)
                self._thread.start()
        with self._turn:
            self._work, self._hurry = True, self._hurry or hurry
            self._turn.notify_all()

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._work)
                self._turn.wait_for(lambda: self._hurry, pause)
                self._work = self._hurry = False
            done = self._try()
            pause = 0.0 if done else min(max(pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
            with self._turn:
                self._tries += 1
                self._work |= not done
                self._turn.notify_all()

    def _try(self) -> bool:
        """Send what waits; whether that is done."""
        try:
            journal = self._journal
            if journal is not None and journal.waiting:
                journal.sync()
                self._sender.send(journal)
            else:
                self._sender.probe()
            self._open_again()
            return True
        except Away:
            self.failed()
        except Exception:  # a disk that fails, a journal that ended: nothing that a cell should see
            log.debug("What waits for MLflow could not be sent.", exc_info=True)
            self.failed()
        finally:
            self._tell_what_was_lost()
        return False

    def _open_again(self) -> None:
        with self._lock:
            if self._sender.took > SLOW:
                self._news = SLOWLY
            elif not self.waiting:
                self.closed, self._news = False, ""
                self._failed = float("-inf")

    def _tell_what_was_lost(self) -> None:
        lost, self._sender.dropped[:] = list(self._sender.dropped), []
        for sentence in lost[:3]:
            log.warning("%s", sentence)
        if len(lost) > 3:
            log.warning("MLflow refused %d more that had waited.", len(lost) - 3)


_road: Road | None = None
_making = threading.Lock()


def road() -> Road | None:
    """This process' way to MLflow; None outside a launch."""
    global _road
    if _road is None:
        with _making:
            if _road is None and address.TRACKING is not None and os.environ.get("MAESTRO_LAUNCH_ID"):
                _road = Road(Sender(address.TRACKING), folder(), _owner(), _say)
    return _road


def _owner() -> dict[str, Any]:
    return {
        "kernel": kernel.own_id() or "",
        "launch": os.environ.get("MAESTRO_LAUNCH_ID", ""),
        "workspace": os.environ.get("MLFLOW_WORKSPACE", ""),
    }


def _say(sentence: str) -> None:
    """Under the cell; in a program, where its output is not disturbed."""
    print(sentence, file=None if kernel.is_kernel() else sys.stderr)


def _forget() -> None:
    """A forked child has neither the thread nor the lock: it makes its own with the first thing that it keeps."""
    global _road, _making
    _road, _making = None, threading.Lock()


def _end() -> None:
    if _road is not None:
        _road.end()


os.register_at_fork(after_in_child=_forget)
# Registered when mlflow is being imported, before mlflow's own, which ends active runs: so it is called after that.
atexit.register(_end)
