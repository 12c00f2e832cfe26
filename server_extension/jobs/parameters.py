"""A notebook's parameters, set as papermill does: in a cell of their own behind the one tagged ``parameters``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TAG, INJECTED = "parameters", "injected-parameters"


def inject(notebook: Any, parameters: Mapping[str, Any]) -> None:
    """Put the values into a notebook; what an earlier run put there goes.

    Args:
        notebook: nbformat 4, changed. Without a tagged cell they stand in front of everything.
    """
    import nbformat

    cells = [cell for cell in notebook.cells if INJECTED not in _tags(cell)]
    if parameters:
        lines = ["# Parameters", *(f"{name} = {value!r}" for name, value in parameters.items())]
        added = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": [INJECTED]})
        if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
            added.pop("id", None)
        at = next((index + 1 for index, cell in enumerate(cells) if TAG in _tags(cell)), 0)
        cells.insert(at, added)
    notebook.cells = cells


def options(parameters: Mapping[str, Any]) -> list[str]:
    """The same as a script's options: ``--lr 0.1 --layers 64 32 --bias true``; what is null is left out."""
    said: list[str] = []
    for name, value in parameters.items():
        values = value if isinstance(value, list) else [value]
        if value is not None:
            said += [f"--{name}", *(_text(one) for one in values)]
    return said


def shown(parameters: Mapping[str, Any]) -> dict[str, str]:
    """As MLflow keeps them."""
    return {name: _text(value) if not isinstance(value, list) else str(value) for name, value in parameters.items()}


def _text(value: Any) -> str:
    if value is True or value is False:
        return str(value).lower()
    return str(value)


def _tags(cell: Any) -> list[Any]:
    tags = cell.get("metadata", {}).get("tags")
    return list(tags) if isinstance(tags, list) else []
