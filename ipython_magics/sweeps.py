"""``%mlflow_sweep``: a sweep over this notebook, started from it, and what has become of it."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import jobs, kernel, links
from .refusal import NotDone
from .tables import html_table, text_table

if TYPE_CHECKING:
    from maestro_core.sweeps import SweepView

#: sweeps and trials that a table shows
_SHOWN = 20
IN_A_JOB = "This is a job: it starts no sweep."


def act(line: str, cell: str | None) -> Any:
    """What the magic does: start the sweep of a cell or file, show one by its id, or list the workspace's.

    Raises:
        NotDone: it is refused, or the service does not answer.
    """
    if (cell is not None or (line and not line.startswith("w-"))) and jobs.is_job():
        return IN_A_JOB  # a trial runs this notebook from its first cell to its last
    from maestro_core.errors import MaestroError  # not at a kernel's start
    from notebooks.sweeps import SweepManager, is_sweep

    try:
        manager = SweepManager()
        if cell is not None:
            return _start(manager, _of_cell(cell, line), None)
        if is_sweep(line):
            return SweepTrials(manager.sweep(line))
        if line:
            return _start(manager, _of_file(line), Path(line).parent)
        return SweepTable(manager.sweeps(_workspace(), limit=_SHOWN))
    except MaestroError as error:
        raise NotDone(error.message) from None


def _of_cell(cell: str, name: str) -> dict[str, Any]:
    from notebooks.yaml_files import parse_keys

    spec = parse_keys(cell, "this cell")
    return {**({"name": name} if name else {}), **spec}


def _of_file(path: str) -> dict[str, Any]:
    from notebooks.sweeps import read_sweep_file

    return read_sweep_file(path)


def _start(manager: Any, spec: dict[str, Any], base: Path | None) -> SweepStarted:
    """Start it; without a file's name it is this notebook, as it was last saved."""
    workspace = spec.pop("workspace", None) or _workspace()
    if not spec.get("notebook") and not spec.get("script") and (path := kernel.notebook_path()):
        spec["notebook"] = path
    return SweepStarted(manager.start(workspace, base=base, **spec))


def _workspace() -> str | None:
    return os.environ.get("MAESTRO_WORKSPACE") or None


@dataclass(frozen=True)
class SweepStarted:
    """One line about a sweep that has begun."""

    sweep: SweepView

    def __repr__(self) -> str:
        return self._line(self.sweep.name, f"%mlflow_sweep {self.sweep.sweep_id}")

    def _repr_html_(self) -> str:
        """Shown by JupyterLab; a name is anybody's text."""
        show = f"<code>%mlflow_sweep {html.escape(self.sweep.sweep_id)}</code>"
        url = html.escape(links.public("services/workspaces/jobs"))
        page = f'<a href="{url}" target="_blank" rel="noopener">the page of jobs</a>'
        return self._line(f"<b>{html.escape(self.sweep.name)}</b>", f"{show} or {page}", html.escape(self.sweep.path))

    def _line(self, name: str, shows: str, path: str = "") -> str:
        trials = f"{self.sweep.total} trials of {path or self.sweep.path}, {self.sweep.max_parallel} at a time"
        return f"Sweep {name} has begun: {trials}. See {shows}."


@dataclass(frozen=True)
class SweepTable:
    """The sweeps of a workspace, a row each."""

    sweeps: Sequence[SweepView]

    def __repr__(self) -> str:
        return text_table([list(HEAD), *self._rows()]) if self.sweeps else NONE

    def _repr_html_(self) -> str:
        """Shown by JupyterLab; names and reasons are anybody's text."""
        return html_table(HEAD, [list(map(html.escape, row)) for row in self._rows()]) if self.sweeps else NONE

    def _rows(self) -> list[list[str]]:
        return [
            [
                one.sweep_id,
                one.name,
                one.user,
                one.status.value,
                f"{one.done} of {one.total}",
                _best(one),
                one.reason or "",
            ]
            for one in self.sweeps
        ]


HEAD = ("sweep", "name", "by", "status", "trials", "best", "")
NONE = "This workspace has no sweep yet."


@dataclass(frozen=True)
class SweepTrials:
    """One sweep with its trials, the best first."""

    sweep: SweepView

    def __repr__(self) -> str:
        return f"{self._line()}\n{text_table([self._head(), *self._rows()])}"

    def _repr_html_(self) -> str:
        """Shown by JupyterLab; names, values and reasons are anybody's text."""
        rows = [list(map(html.escape, row)) for row in self._rows()]
        return f"{html.escape(self._line())}{html_table(map(html.escape, self._head()), rows)}"

    def _line(self) -> str:
        sweep = self.sweep
        why = f" ({sweep.reason})" if sweep.reason else ""
        return f"Sweep {sweep.name}: {sweep.status.value}{why}, {sweep.done} of {sweep.total} trials are over."

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for trial in self.sweep.trials for name in trial.parameters))

    def _head(self) -> list[str]:
        return ["trial", *self._names(), self.sweep.metric or "value", "status", ""]

    def _rows(self) -> list[list[str]]:
        names = self._names()
        return [
            [
                str(one.number),
                *(str(one.parameters.get(name))[:40] for name in names),
                "-" if one.value is None else f"{one.value:.6g}",
                one.status.value,
                one.reason or "",
            ]
            for one in self.sweep.ranked[:_SHOWN]
        ]


def _best(sweep: SweepView) -> str:
    return "-" if sweep.best is None or sweep.best.value is None else f"{sweep.metric} {sweep.best.value:.6g}"
