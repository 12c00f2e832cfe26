"""Files of a workspace as Python code: each line knows its cell. A notebook is read as text, never run.

Lines that only IPython understands (``%magic``, ``!shell``, ``help?``) become ``pass``, so that every other line stays
where it is.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: of one file, bytes; a notebook that is larger has pictures in it, and is looked at as far as its cells are
MAX_FILE = 32 * 1024 * 1024
MAX_FILES = 3000
#: folders that hold no code of the workspace's people
SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})
#: cell magics whose body is Python in this kernel
_PYTHON_MAGICS = frozenset({"time", "timeit", "capture", "prun", "mlflow_run"})
_IPYTHON = re.compile(r"^(\s*)(?:[%!?].*|.*\S\?{1,2}\s*)$")
_ASSIGNED = re.compile(r"^(\s*[\w.,\s\[\]'\"]+?=\s*)[%!].*$")


@dataclass(frozen=True)
class Text:
    """Something that a person may read: a file's or a cell's own lines, or what a cell wrote.

    Attributes:
        cell: from 1; None in a plain file.
        written: whether it is an output.
    """

    text: str
    cell: int | None = None
    written: bool = False


@dataclass(frozen=True)
class Source:
    """One file's code.

    Attributes:
        path: below the workspace. code: Python. cells: for each line of code (from 0) its cell and the line in it, from
            1; empty for a plain file. texts: all that is to be searched for secrets.
    """

    path: str
    code: str
    cells: tuple[tuple[int, int], ...] = ()
    texts: tuple[Text, ...] = ()

    def place(self, line: int) -> tuple[int | None, int]:
        """The cell, if there are any, and the line, of a line of the code (from 1)."""
        if self.cells and 1 <= line <= len(self.cells):
            return self.cells[line - 1]
        return None, line


@dataclass
class Files:
    """The files of a workspace; ``notes`` say what was left out."""

    folder: Path
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Source]:
        for number, path in enumerate(self._paths()):
            if number >= MAX_FILES:
                self.notes.append(f"There are more than {MAX_FILES} files with code; the others were not read.")
                return
            shown = str(path.relative_to(self.folder))
            try:
                source = self._read(path, shown)
            except (OSError, ValueError, RecursionError):
                self.notes.append(f"{shown} cannot be read as {'a notebook' if path.suffix == '.ipynb' else 'Python'}.")
                continue
            if source is not None:
                yield source

    def _paths(self) -> Iterator[Path]:
        for root, folders, files in os.walk(self.folder, followlinks=False):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED)
            if "pyvenv.cfg" in files or "conda-meta" in folders:
                folders.clear()
                continue
            for name in sorted(files):
                path = Path(root, name)
                if name.endswith((".ipynb", ".py")) and path.is_file() and not path.is_symlink():
                    yield path

    def _read(self, path: Path, shown: str) -> Source | None:
        if path.stat().st_size > MAX_FILE:
            self.notes.append(f"{shown} is larger than {MAX_FILE // 1024 // 1024} MiB and was not read.")
            return None
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".py":
            if not _parses([text]):
                self.notes.append(f"{shown} is no Python and was only searched for secrets.")
                return Source(shown, "", texts=(Text(text),))
            return Source(shown, text, texts=(Text(text),))
        return self._notebook(json.loads(text), shown)

    def _notebook(self, data: Any, shown: str) -> Source:
        cells = data["cells"] if isinstance(data, Mapping) and isinstance(data.get("cells"), list) else None
        if cells is None:
            raise ValueError("no notebook")
        lines: list[str] = []
        places: list[tuple[int, int]] = []
        texts: list[Text] = []
        for number, cell in enumerate(cells, 1):
            if not isinstance(cell, Mapping) or cell.get("cell_type") != "code":
                continue
            source = _text(cell.get("source"))
            code = python_of(source)
            if not _parses(code):
                if source.strip():
                    self.notes.append(f"{shown}, cell {number} is no Python and was only searched for secrets.")
                code = ["pass"] * len(code)
            lines += code
            places += [(number, line) for line in range(1, len(code) + 1)]
            texts.append(Text(source, number))
            texts += [Text(text, number, written=True) for text in _outputs(cell)]
        return Source(shown, "\n".join(lines) + "\n", tuple(places), tuple(texts))


def python_of(source: str) -> list[str]:
    """A cell's lines with what is IPython's own taken out; as many lines as before."""
    lines = source.split("\n")
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if lines[first].startswith("%%"):
        magic = lines[first][2:].split()
        if not magic or magic[0] not in _PYTHON_MAGICS:
            return ["pass"] * len(lines)
    code = "\n".join(lines)
    if _parses([code]):
        return lines
    return [_ASSIGNED.sub(r"\1None", _IPYTHON.sub(r"\1pass", line)) for line in lines]


def _parses(lines: list[str]) -> bool:
    try:
        ast.parse("\n".join(lines))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _text(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _outputs(cell: Mapping[str, Any]) -> Iterator[str]:
    for output in cell.get("outputs") or ():
        if not isinstance(output, Mapping):
            continue
        data = output.get("data")
        bundle = data if isinstance(data, Mapping) else {}
        texts = [output.get("text"), output.get("traceback"), *(bundle.get(kind) for kind in TEXT_KINDS)]
        yield from (_text(text) for text in texts if text)


#: kinds of output that hold text which somebody reads
TEXT_KINDS = ("text/plain", "text/html", "text/markdown", "application/json")
