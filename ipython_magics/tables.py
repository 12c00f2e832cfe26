"""Runs as tables: those of this notebook, and two beside each other."""

from __future__ import annotations

import html
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maestro_core.experiments import TAG_DIRTY, TAG_NOTEBOOK, TAG_SNAPSHOT

from . import kernel, links
from .refusal import NotDone

#: parameters and metrics that a row shows
_SHOWN = 4
#: characters of a version's address, and of a run's id that finds it
_SHORT, _LEAST = 8, 6
_FOUND = 200


def of_notebook(mlflow: Any, count: int) -> list[Any]:
    """The newest runs of this notebook; of the whole workspace where no notebook is known."""
    path = kernel.notebook_path()
    quoted = path.replace("'", "\\'") if path else ""
    return _search(mlflow, f"tags.`{TAG_NOTEBOOK}` = '{quoted}'" if path else "", count)


def models_of(mlflow: Any, runs: Sequence[Any]) -> dict[str, list[str]]:
    """The registered model versions that runs made, by run."""
    if not runs:
        return {}
    ids = ", ".join(f"'{run.info.run_id}'" for run in runs)
    found: dict[str, list[str]] = {}
    for one in mlflow.MlflowClient().search_model_versions(f"run_id IN ({ids})", max_results=_FOUND):
        found.setdefault(one.run_id, []).append(f"{one.name}/{one.version}")
    return found


def find(mlflow: Any, wanted: str) -> Any:
    """The run of that name, or whose id begins so; the newest of several of a name.

    Raises:
        NotDone: there is none.
    """
    runs = _search(mlflow, "", _FOUND)
    named = [run for run in runs if run.info.run_name == wanted]
    by_id = [run for run in runs if len(wanted) >= _LEAST and run.info.run_id.startswith(wanted)]
    if found := (by_id if len(by_id) == 1 else named):
        return found[0]
    raise NotDone(
        f"There is no run {wanted[:60]} among the newest {_FOUND} of this workspace; %mlflow_runs lists some."
    )


def _search(mlflow: Any, wanted: str, count: int) -> list[Any]:
    client = mlflow.MlflowClient()
    ids = [one.experiment_id for one in client.search_experiments(max_results=1000)]
    if not ids:
        return []
    found = client.search_runs(ids, filter_string=wanted, max_results=count, order_by=["attributes.start_time DESC"])
    return list(found)


@dataclass(frozen=True)
class RunTable:
    """Runs, a row each.

    Attributes:
        linked: whether they are in the MLflow of this launch, whose pages can be linked to.
        models: registered model versions (``churn/3``) by the run that made them.
    """

    runs: Sequence[Any]
    linked: bool
    models: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        if not self.runs:
            return "This notebook has no run yet."
        rows = [[run.info.run_name or run.info.run_id, *_cells(run), self._models(run)] for run in self.runs]
        return text_table([HEAD, *rows])

    def _repr_html_(self) -> str:
        """Shown by JupyterLab; names and values are anybody's text."""
        if not self.runs:
            return "This notebook has no run yet."
        rows = [[self._name(run), *map(html.escape, [*_cells(run), self._models(run)])] for run in self.runs]
        return html_table(HEAD, rows)

    def _models(self, run: Any) -> str:
        return ", ".join(self.models.get(run.info.run_id, ())) or "-"

    def _name(self, run: Any) -> str:
        name = html.escape(run.info.run_name or run.info.run_id)
        if not self.linked:
            return name
        url = html.escape(links.run_url(run.info.experiment_id, run.info.run_id))
        return f'<a href="{url}" target="_blank" rel="noopener">{name}</a>'


HEAD = ("run", "began", "took", "status", "parameters", "metrics", "version", "models")


def _cells(run: Any) -> list[str]:
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.info.start_time / 1000))
    end = run.info.end_time
    took = f"{(end - run.info.start_time) / 1000:.1f} s" if end else "-"
    return [
        began, took, run.info.status.lower(), _few(run.data.params),
        _few({name: f"{value:.6g}" for name, value in run.data.metrics.items()}), _version(run),
    ]  # fmt: skip


def _few(values: Mapping[str, str]) -> str:
    shown = [f"{name}={value[:40]}" for name, value in sorted(values.items())]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def _version(run: Any) -> str:
    address = run.data.tags.get(TAG_SNAPSHOT, "")
    return address[:_SHORT] + ("*" if address and run.data.tags.get(TAG_DIRTY) == "true" else "")


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side; a row where they differ."""

    first: Any
    second: Any

    def __repr__(self) -> str:
        head = ("", *(run.info.run_name or run.info.run_id for run in (self.first, self.second)))
        return "\n\n".join(part for part in (text_table([head, *self._rows()]), self._code()) if part)

    def _repr_html_(self) -> str:
        """Shown by JupyterLab; names, values and code are anybody's text."""
        head = ("", *(html.escape(run.info.run_name or run.info.run_id) for run in (self.first, self.second)))
        rows = [[html.escape(cell) for cell in row] for row in self._rows()]
        code = self._code()
        return html_table(head, rows) + (f"<pre>{html.escape(code)}</pre>" if code else "")

    def _rows(self) -> list[list[str]]:
        rows = [
            ["status", self.first.info.status.lower(), self.second.info.status.lower()],
            ["version", _version(self.first) or "-", _version(self.second) or "-"],
        ]
        for kind in ("params", "metrics"):
            one, other = (getattr(run.data, kind) for run in (self.first, self.second))
            for name in sorted({*one, *other}):
                pair = [_shown(values.get(name)) for values in (one, other)]
                if pair[0] != pair[1]:
                    rows.append([name, *pair])
        return rows

    def _code(self) -> str:
        one, other = (run.data.tags.get(TAG_SNAPSHOT, "") for run in (self.first, self.second))
        if not one or not other:
            return "The code is not compared: a run without a saved version of its notebook has none."
        unsaved = [run for run in (self.first, self.second) if run.data.tags.get(TAG_DIRTY) == "true"]
        who = "both" if len(unsaved) == 2 else f"run {_named(unsaved[0])}" if unsaved else ""
        if one == other and not unsaved:
            return "Both ran the same saved version of the code."
        if one == other:
            return f"Both began on the same saved version, but {who} ran other code besides, which was not saved."
        beside = f"Beside what is saved, {who} ran other code.\n" if unsaved else ""
        return beside + code_difference(one, other)


def _named(run: Any) -> str:
    return str(run.info.run_name or run.info.run_id)


def code_difference(one: str, other: str) -> str:
    """What changed from one saved version to another, or why that cannot be shown."""
    from maestro_core.errors import MaestroError
    from notebooks.versions import VersionManager, difference

    try:
        manager = VersionManager()
        workspace = os.environ.get("MAESTRO_WORKSPACE")
        before, after = (manager.content(workspace, address).notebook for address in (one, other))
        return difference(before, after, (one[:_SHORT], other[:_SHORT]))
    except MaestroError as error:
        return f"The code is not compared: {error.message}"


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def html_table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """The same as HTML, of cells that are HTML."""

    def row(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f'<{tag} style="text-align: left">{cell}</{tag}>' for cell in cells) + "</tr>"

    return (
        f"<table><thead>{row(head, 'th')}</thead><tbody>{''.join(row(cells, 'td') for cells in rows)}</tbody></table>"
    )


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows for reading, the first of them the heads."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
