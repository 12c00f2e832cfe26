"""What happens around a cell: a cell that is a run, ``__file__``, and how a run ends whose cell or kernel ended.

A cell costs a look into ``sys.modules`` here, as long as nobody has imported mlflow.
"""

from __future__ import annotations

import atexit
import re
import sys
import traceback
from typing import Any

from IPython.display import display

from . import jobs, kernel, links
from .runs import Runs

_CELL_RUN = re.compile(r"^%%mlflow_run(?![\w])[ \t]*(.*?)[ \t]*$")
#: what MLflow keeps of a tag
_MAX_REASON = 500
KERNEL_ENDED = "the kernel was shut down or restarted"


def as_line_magic(lines: list[str]) -> list[str]:
    """A cell that begins with ``%%mlflow_run NAME``, as plain code whose first line starts the run.

    So the rest is run as any cell is: what it raises has its own traceback and line numbers, its last value is shown,
    and it may await. IPython's documentation calls this a transformer of ``input_transformers_cleanup``.
    """
    found = _CELL_RUN.match(lines[0].rstrip("\n")) if lines else None
    if found is None:
        return lines
    return [f"get_ipython().run_line_magic('mlflow_run', {found[1]!r})\n", *lines[1:]]


class Around:
    """Registered for every cell of one shell.

    Args:
        runs: what the magics started.
    """

    def __init__(self, shell: Any, runs: Runs) -> None:
        self._shell = shell
        self._runs = runs
        self._before: tuple[str, ...] = ()
        self._last: str | None = None
        self._file = False
        self._at_exit = False

    def register(self) -> None:
        """From now on, around every cell."""
        self._shell.input_transformers_cleanup.append(as_line_magic)
        self._shell.events.register("pre_run_cell", self.before)
        self._shell.events.register("post_run_cell", self.after)

    def before(self, info: Any) -> None:
        """Called by IPython before a cell runs."""
        source = getattr(info, "raw_cell", None) or ""
        self._runs.cell_is_run = (
            source.startswith("%%mlflow_run") and _CELL_RUN.match(source.partition("\n")[0]) is not None
        )
        if "__file__" in source and "__file__" not in self._shell.user_ns:
            self._file = self._name_file()
        if fluent := _fluent():
            self._before, self._last = _active(fluent), _last(fluent)

    def after(self, result: Any) -> None:
        """Called by IPython after a cell has run, whatever became of it. Nothing of ours reaches the cell."""
        if self._file:
            self._shell.user_ns.pop("__file__", None)
            self._file = False
        fluent = _fluent()
        if fluent is None:
            return
        try:
            self._after(fluent, result)
        except Exception:  # tracking stops no notebook
            return

    def _after(self, fluent: Any, result: Any) -> None:
        error = getattr(result, "error_in_exec", None) or getattr(result, "error_before_exec", None)
        mine = self._runs.of_cell
        self._runs.of_cell = None
        for run_id in reversed(_active(fluent)):
            began_here = run_id not in self._before
            if run_id == mine and error is None:
                self._show(self._runs.finish(run_id, "FINISHED"))
            elif error is not None and (began_here or run_id == mine):
                self._show(self._runs.finish(run_id, _status(error), reason_of(error), _text(error)))
        self._link_what_ended(fluent)
        self._before, self._last = _active(fluent), _last(fluent)
        if not self._at_exit:
            # after mlflow's own, which says FINISHED of whatever is left: the last registered is the first called
            atexit.register(self._kernel_ends)
            self._at_exit = True

    def _link_what_ended(self, fluent: Any) -> None:
        """One line for a run that plain code started and ended in this cell."""
        last = _last(fluent)
        if last is None or last == self._last or last in self._runs.shown or last in _active(fluent):
            return
        if line := self._runs.line_of(last):
            self._show(line)

    def _kernel_ends(self) -> None:
        fluent = _fluent()
        job = jobs.told() if jobs.is_job() else {}  # a job's kernel is shut down when its notebook has ended
        status, reason = job.get("status", "KILLED"), job.get("reason", "") if "status" in job else KERNEL_ENDED
        for run_id in reversed(_active(fluent) if fluent else ()):
            self._runs.finish(run_id, status, reason)

    def _name_file(self) -> bool:
        """``__file__`` is the notebook, in cells that say it: always there, it would mislead multiprocessing."""
        path = kernel.notebook_path()
        if path is None:
            return False
        self._shell.user_ns["__file__"] = str(kernel.notebook_file(path))
        return True

    def _show(self, line: links.RunLine | None) -> None:
        if line is not None:
            display(line)


def reason_of(error: BaseException) -> str:
    """Why a run ended, for its tag."""
    if isinstance(error, KeyboardInterrupt):
        return "the cell was interrupted"
    return f"{type(error).__name__}: {error}".strip(": ")[:_MAX_REASON]


def _status(error: BaseException) -> str:
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _fluent() -> Any:
    """mlflow's module of active runs, if anybody has imported it."""
    return sys.modules.get("mlflow.tracking.fluent")


def _active(fluent: Any) -> tuple[str, ...]:
    """The runs that are active in this thread; none where an mlflow that a user installed keeps them elsewhere."""
    try:
        return tuple(run.info.run_id for run in fluent._active_run_stack.get())
    except (AttributeError, TypeError):
        return ()


def _last(fluent: Any) -> str | None:
    try:
        found = fluent._last_active_run_id.get()
    except (AttributeError, TypeError):
        return None
    return found if isinstance(found, str) else None
