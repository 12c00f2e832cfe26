"""What the recorder wrote, read again: the cells of a stretch, how it ended, and the notebook that they make.

The file is the kernel's, so anything may stand in it: what cannot be read is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maestro_core.executions import PARAMETER_TAGS, parameters_of
from maestro_core.snapshots import cell_digest, source_of

#: bytes of a file; the recorder's own bounds are below it
MAX_FILE = 64 * 1024 * 1024


@dataclass
class Cell:
    """A cell that was executed.

    Attributes:
        began, ended: seconds since 1970; ended None: it never did.
        size: characters of its source, of which ``source`` may be the start.
        error: name, message, traceback, interrupted. outputs: kind, size, data by type.
    """

    number: int
    cell_id: str
    source: str
    size: int
    began: float
    ended: float | None = None
    error: dict[str, Any] | None = None
    outputs: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Stretch:
    """What was executed from one pause to the next.

    Attributes:
        name: of its file; no other stretch has it.
        session: the notebook's absolute path when the kernel started; may be empty.
    """

    name: str
    kernel: str
    launch: str
    session: str
    began: float
    cells: list[Cell] = field(default_factory=list)
    closed: float | None = None

    @property
    def ended(self) -> float:
        """When the last of its cells ended, as far as is known."""
        times = [one.ended or one.began for one in self.cells]
        running = any(one.ended is None for one in self.cells)
        return max([self.began, *times, *([self.closed] if running and self.closed else [])])

    @property
    def outcome(self) -> tuple[str, str]:
        """MLflow's status, and the reason where it is not FINISHED."""
        for cell in reversed(self.cells):
            if cell.error is not None and cell.error["interrupted"]:
                return "KILLED", "the cell was interrupted"
            if cell.error is not None:
                return "FAILED", f"{cell.error['name']}: {cell.error['message']}".strip(": ")[:500]
            if cell.ended is None:
                how = "was shut down or restarted" if self.closed else "was killed"
                return "KILLED", f"the kernel {how} while cell [{cell.number}] ran"
        return "FINISHED", ""


def read(file: Path) -> Stretch | None:
    """The stretch of a file; None where no cell stands in it."""
    if file.stat().st_size > MAX_FILE:
        return None
    lines = [_line(text) for text in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    head = lines[0] if lines else {}
    stretch = Stretch(
        file.stem,
        _text(head.get("kernel")),
        _text(head.get("launch")),
        _text(head.get("session")),
        _time(head.get("at")),
    )
    for line in lines[1:]:
        if "cell" in line:
            source = _text(line.get("source"))
            stretch.cells.append(
                Cell(
                    _whole(line["cell"]), _text(line.get("id")), source, _whole(line.get("size")), _time(line.get("at"))
                )
            )
        elif "done" in line and stretch.cells:
            cell = stretch.cells[-1]
            cell.number = _whole(line["done"]) or cell.number
            cell.ended, cell.error = _time(line.get("at")), _error(line.get("error"))
            cell.outputs = [one for one in map(_output, line.get("outputs") or ()) if one]
        elif "end" in line:
            stretch.closed = _time(line["end"])
    return stretch if stretch.cells else None


def is_worth_a_run(stretch: Stretch) -> bool:
    """Whether more ran than questions to MLflow's magics."""
    return any(one.source.strip() and not one.source.lstrip().startswith("%mlflow_") for one in stretch.cells)


def parameters(stretch: Stretch, saved: Mapping[str, Any] | None) -> dict[str, str]:
    """What cells tagged ``parameters`` set, where they ran; those tagged ``injected-parameters`` win."""
    found: dict[str, str] = {}
    for tag in PARAMETER_TAGS:
        for cell in (saved or {}).get("cells", ()):
            if tag in (cell.get("metadata") or {}).get("tags", ()):
                for ran in stretch.cells:
                    if _is_same(ran, cell):
                        found |= parameters_of(ran.source)
    return found


def as_json(stretch: Stretch, about: Mapping[str, Any]) -> dict[str, Any]:
    """The history as it is logged: sources, times, errors, and the sizes of outputs."""
    status, reason = stretch.outcome
    return {
        **about, "status": status, "reason": reason, "began": _moment(stretch.began), "ended": _moment(stretch.ended),
        "cells": [_cell_json(cell) for cell in stretch.cells],
    }  # fmt: skip


def as_notebook(stretch: Stretch, saved: Mapping[str, Any] | None) -> tuple[dict[str, Any], bool]:
    """The notebook with what was executed, and whether it is the saved one: all that ran stands in that as it ran.

    Else the cells stand in the order in which they ran.
    """
    if saved is not None:
        pairs = [(cell, _last_of(stretch, cell)) for cell in saved["cells"]]
        newest = {cell.cell_id or cell_digest(cell.source): cell for cell in stretch.cells}.values()
        if all(any(ran is shown for _, shown in pairs) for ran in newest):
            return _notebook([_filled(cell, ran) for cell, ran in pairs]), True
    return _notebook([_executed(cell) for cell in stretch.cells]), False


def _last_of(stretch: Stretch, cell: Mapping[str, Any]) -> Cell | None:
    """The last time that a saved cell ran as it is saved."""
    for ran in reversed(stretch.cells):
        if _is_same_text(ran, cell) and (not ran.cell_id or not cell.get("id") or ran.cell_id == cell["id"]):
            return ran
    return None


def _is_same(ran: Cell, cell: Mapping[str, Any]) -> bool:
    return (bool(ran.cell_id) and ran.cell_id == cell.get("id")) or _is_same_text(ran, cell)


def _is_same_text(ran: Cell, cell: Mapping[str, Any]) -> bool:
    return cell.get("cell_type") == "code" and source_of(cell).strip() == ran.source.strip()


def _filled(cell: Mapping[str, Any], ran: Cell | None) -> dict[str, Any]:
    if cell.get("cell_type") == "code" and ran is not None:
        return _executed(ran)
    source = source_of(cell)
    if cell.get("cell_type") == "code":
        return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
    return {"cell_type": "markdown" if cell.get("cell_type") == "markdown" else "raw", "source": source, "metadata": {}}


def _executed(cell: Cell) -> dict[str, Any]:
    outputs = [_nb_output(one, cell.number) for one in cell.outputs]
    if cell.error is not None:
        error = cell.error
        outputs.append({
            "output_type": "error", "ename": error["name"], "evalue": error["message"],
            "traceback": [*error["traceback"], f"{error['name']}: {error['message']}"],
        })  # fmt: skip
    return {
        "cell_type": "code", "source": cell.source, "metadata": {}, "execution_count": cell.number, "outputs": outputs,
    }  # fmt: skip


def _nb_output(output: Mapping[str, Any], number: int) -> dict[str, Any]:
    data, kind = output["data"], output["kind"]
    if kind in ("stdout", "stderr"):
        text = data.get("text/plain", "")
        cut = "" if len(text) >= output["size"] else f"\n({output['size'] - len(text)} more characters were not kept)"
        return {"output_type": "stream", "name": kind, "text": text + cut}
    shown = {"data": data or {"text/plain": f"({output['size']} bytes were not kept)"}, "metadata": {}}
    if kind == "execute_result":
        return {"output_type": kind, "execution_count": number, **shown}
    return {"output_type": "display_data", **shown}


def _notebook(cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}


def _cell_json(cell: Cell) -> dict[str, Any]:
    error = cell.error and {name: cell.error[name] for name in ("name", "message")}
    return {
        "number": cell.number, "id": cell.cell_id, "source": cell.source, "source_size": cell.size,
        "began": _moment(cell.began), "seconds": None if cell.ended is None else round(cell.ended - cell.began, 3),
        "error": error,
        "outputs": [{"kind": one["kind"], "size": one["size"], "types": sorted(one["data"])} for one in cell.outputs],
    }  # fmt: skip


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _line(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _time(value: object) -> float:
    """Seconds since 1970, of this century."""
    return float(value) if isinstance(value, int | float) and 0 <= value < 4e9 else 0.0


def _error(value: object) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    frames = value.get("traceback")
    return {
        "name": _text(value.get("name")) or "Error", "message": _text(value.get("message")),
        "interrupted": value.get("interrupted") is True,
        "traceback": [_text(one) for one in frames] if isinstance(frames, list) else [],
    }  # fmt: skip


def _output(value: object) -> dict[str, Any] | None:
    if not isinstance(value, dict) or not isinstance(value.get("data"), dict):
        return None
    data = {_text(name): one for name, one in value["data"].items() if isinstance(one, str)}
    return {"kind": _text(value.get("kind")), "size": _whole(value.get("size")), "data": data}
