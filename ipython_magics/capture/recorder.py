"""Notes what a kernel executes, stretch by stretch, in files of this launch; nothing of it is on a cell's path.

A cell pays for two notes in a queue. What it printed and showed is what IPython itself keeps of it
(``history_manager.outputs``, IPython 9.1); a thread takes it from there and appends lines of JSON to the file.

A stretch ends when nothing ran for half a minute, when a cell raises, when its first cell runs again (*Run all* once
more), and with the kernel. Its file then has a line that says so; where it is missing and the kernel is gone, the
kernel was killed.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: seconds without a cell after which a stretch is over, and the variable that says another number
QUIET, QUIET_VARIABLE = 30.0, "MAESTRO_CAPTURE_QUIET"
#: of one stretch: cells, characters of sources and of outputs; of one cell's source, of one output
MAX_CELLS, MAX_SOURCES, MAX_OUTPUTS = 1000, 2_000_000, 4_000_000
MAX_SOURCE, MAX_OUTPUT = 100_000, 500_000
#: of an error: characters of its message, frames that are kept
MAX_MESSAGE, MAX_FRAMES = 500, 50
#: kinds of output whose content is kept; of others only the size
KEPT = ("text/plain", "text/html", "text/markdown", "text/latex", "image/png", "image/jpeg", "image/svg+xml")
#: below the home, one a launch; as in server_extension.executions
FOLDER = ".local/share/maestro/executions"
_STREAMS = {"out_stream": "stdout", "err_stream": "stderr"}


def folder_of(environ: Mapping[str, str]) -> Path:
    """Where this launch's stretches wait for MLflow."""
    return Path.home() / FOLDER / environ.get("MAESTRO_LAUNCH_ID", "")


class Recorder:
    """The recorder of one shell.

    Args:
        kernel_id: of this kernel.
        folder: where its files go, made with the first of them.
        quiet: seconds, as :data:`QUIET`.
    """

    def __init__(
        self, shell: Any, kernel_id: str, folder: Path, quiet: float = QUIET, clock: Callable[[], float] = time.time
    ) -> None:
        self._shell = shell
        self._kernel_id = kernel_id
        self._folder = folder
        self._quiet = quiet
        self._clock = clock
        self._notes: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stretch: _File | None = None
        self._running: int | None = None
        self._pid = os.getpid()
        self._shown: list[_Output] = []
        self._hooked = hasattr(shell.display_pub, "register_hook")
        self.on = False

    def start(self) -> None:
        """Record from the next cell on."""
        if not self.on and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="maestro-capture", daemon=True)
            self._thread.start()
            # ipykernel 7 notes displays under another cell's number where IPython counts before the cell
            if self._hooked:
                self._shell.display_pub.register_hook(self._displayed)
            self._shell.events.register("pre_run_cell", self.before)
            self._shell.events.register("post_run_cell", self.after)
            atexit.register(self._kernel_ends)
        self.on = True

    def stop(self) -> None:
        """Record no longer; the stretch ends with what ran before."""
        self.on = False
        self._running = None
        self._notes.put(("end", self._clock()))

    def before(self, info: Any) -> None:
        """IPython's ``pre_run_cell``."""
        if self.on and info.store_history and not info.silent:
            # IPython counts before or after this event, by its version; what it stores comes after
            self._running = len(self._shell.history_manager.input_hist_raw)
            self._notes.put(("cell", self._running, info.raw_cell, info.cell_id, self._clock()))

    def after(self, result: Any) -> None:
        """IPython's ``post_run_cell``."""
        if self._running is not None:
            error = getattr(result, "error_before_exec", None) or getattr(result, "error_in_exec", None)
            number = getattr(result, "execution_count", None) or self._running
            self._notes.put(("done", number, error, self._shown, self._clock()))
            self._running, self._shown = None, []

    def _displayed(self, message: dict[str, Any]) -> dict[str, Any]:
        """ipykernel's hook for what is displayed."""
        if self._running is not None and message.get("msg_type") == "display_data":
            self._shown.append(_Output("display_data", message["content"]["data"]))
        return message

    def flush(self, seconds: float = 5.0) -> None:
        """Wait until what was noted so far is written."""
        written = threading.Event()
        self._notes.put(("flush", written))
        written.wait(seconds)

    def _kernel_ends(self) -> None:
        if os.getpid() != self._pid:  # a forked worker's end
            return
        self._notes.put(("end", self._clock()))
        self.flush(2.0)

    def _work(self) -> None:
        while True:
            try:
                note = self._notes.get(timeout=self._patience())
            except queue.Empty:
                note = ("end", self._clock())
            try:
                self._take(*note)
            except Exception:  # the disk is full, the folder is gone: the notebook goes on, this stretch is not kept
                self._stretch = None

    def _patience(self) -> float | None:
        """Seconds to wait for the next note; None: as long as it takes."""
        if self._stretch is None or self._stretch.running is not None:
            return None
        return max(0.0, self._stretch.done_at + self._quiet - time.monotonic())

    def _take(self, kind: str, *note: Any) -> None:
        if kind == "cell":
            number, source, cell_id, at = note
            if self._stretch is not None and self._stretch.ends_before(cell_id):
                self._end(at)
            if self._stretch is None:
                self._stretch = _File(self._folder, self._kernel_id, at)
            self._stretch.began(number, source, cell_id, at)
        elif kind == "done" and self._stretch is not None:
            number, error, shown, at = note
            history = getattr(self._shell.history_manager, "outputs", {})
            kept = [one for one in history.get(number, ()) if not self._hooked or one.output_type != "display_data"]
            self._stretch.done(number, error, [*kept, *shown], at)
            if error is not None:
                self._end(at)
        elif kind == "end":
            self._end(note[0])
        elif kind == "flush":
            note[0].set()

    def _end(self, at: float) -> None:
        if self._stretch is not None:
            self._stretch.end(at)
            self._stretch = None


@dataclass(frozen=True, slots=True)
class _Output:
    """As IPython's own ``HistoryOutput``."""

    output_type: str
    bundle: Mapping[str, Any]


class _File:
    """The file of one stretch, written line by line."""

    def __init__(self, folder: Path, kernel_id: str, at: float) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{time.time_ns()}-{kernel_id[:64]}.jsonl"
        self._first: str | None = None
        self._cells = 0
        self._left = {"source": MAX_SOURCES, "output": MAX_OUTPUTS}
        self.running: int | None = None
        self.done_at = time.monotonic()
        self._write({
            "kernel": kernel_id, "pid": os.getpid(), "born": born(os.getpid()), "at": at,
            "launch": os.environ.get("MAESTRO_LAUNCH_ID", ""), "session": os.environ.get("JPY_SESSION_NAME", ""),
        })  # fmt: skip

    def ends_before(self, cell_id: str | None) -> bool:
        """Whether a cell is the next stretch's: the first one again, with others between, or one too many."""
        again = cell_id is not None and cell_id == self._first and self._cells > 1
        return again or self._cells >= MAX_CELLS

    def began(self, number: int, source: str, cell_id: str | None, at: float) -> None:
        """A cell begins."""
        if not self._cells:
            self._first = cell_id
        self._cells += 1
        self.running = number
        kept = source[: min(MAX_SOURCE, self._left["source"])]
        self._left["source"] -= len(kept)
        self._write({"cell": number, "id": cell_id, "source": kept, "size": len(source), "at": at})

    def done(self, number: int, error: BaseException | None, outputs: list[Any], at: float) -> None:
        """A cell has ended."""
        self.running, self.done_at = None, time.monotonic()
        shown = [self._output(one.output_type, one.bundle) for one in outputs]
        self._write({"done": number, "at": at, "error": _error(error), "outputs": shown})

    def end(self, at: float) -> None:
        """The stretch is over."""
        self._write({"end": at, "running": self.running})

    def _output(self, kind: str, bundle: Mapping[str, Any]) -> dict[str, Any]:
        if kind in _STREAMS:
            text = "".join(bundle.get("stream", ()))
            return {"kind": _STREAMS[kind], "size": len(text), "data": {"text/plain": self._cut(text)}}
        sizes = {str(name): len(value) if isinstance(value, str | bytes) else 0 for name, value in bundle.items()}
        data = {name: self._whole(bundle[name]) for name in KEPT if name in bundle}
        return {"kind": kind, "size": sum(sizes.values()), "data": {name: one for name, one in data.items() if one}}

    def _cut(self, text: str) -> str:
        kept = text[: max(0, min(MAX_OUTPUT, self._left["output"]))]
        self._left["output"] -= len(kept)
        return kept

    def _whole(self, value: Any) -> str:
        """Half a picture is none."""
        text = base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
        return self._cut(text) if len(text) <= min(MAX_OUTPUT, self._left["output"]) else ""

    def _write(self, line: dict[str, Any]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        text = (json.dumps(line) + "\n").encode()
        handle = os.open(self._path, flags, 0o600)
        try:
            if os.write(handle, text) != len(text):
                raise OSError("no space is left")
        finally:
            os.close(handle)


def _error(error: BaseException | None) -> dict[str, Any] | None:
    if error is None:
        return None
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    mine = [frame for frame in frames if "/IPython/core/" not in frame.filename]
    lines = ["Traceback (most recent call last):", *"".join(traceback.format_list(mine)).splitlines()]
    return {
        "name": type(error).__name__,
        "message": str(error)[:MAX_MESSAGE],
        "interrupted": isinstance(error, KeyboardInterrupt),
        "traceback": lines,
    }


def born(pid: int) -> str:
    """When a process began, in Linux' own count: an id that is used again is another process. Empty: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def quiet_seconds(environ: Mapping[str, str]) -> float:
    """:data:`QUIET`, or another number up to 600 where the environment has one."""
    try:
        seconds = float(environ.get(QUIET_VARIABLE, ""))
    except ValueError:
        return QUIET
    return seconds if 0 < seconds <= 600 else QUIET
