"""The CLI's command about saved versions of notebooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from maestro_core.snapshots import SHORT, SnapshotView

from .api import Api
from .console import as_json, print_json, say, table
from .versions import VersionManager, copy_name, difference, write_copy


@click.command()
@click.argument("workspace")
@click.argument("notebook", required=False)
@click.option("--diff", nargs=2, metavar="OLD NEW", help="Show what changed between two versions.")
@click.option("--show", metavar="VERSION", help="Print a version as JSON, without outputs.")
@click.option("--restore", metavar="VERSION", help="Write a version as a copy into the folder that you are in.")
@click.option("--as", "as_", type=click.Path(path_type=Path), metavar="FILE", help="Where --restore writes it.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many to list.")
@as_json
@click.pass_obj
def version(
    connect: Callable[[], Api], workspace: str, notebook: str | None, diff: tuple[str, str] | None, show: str | None,
    restore: str | None, as_: Path | None, limit: int, json_: bool,
) -> None:  # fmt: skip
    """List the saved versions of a notebook with who saved them, their runs and models; compare or restore them.

    Every save whose cells changed is a version. NOTEBOOK is its path in the workspace; without it, all are listed. A
    version is named by the start of its address, or by what it made: run:NAME (or a run's id), model:NAME/3. A restored
    one is a copy: nothing is overwritten.
    """
    manager = VersionManager(api=connect())
    if diff is not None:
        old, new = (manager.content(workspace, manager.address(workspace, one)) for one in diff)
        names = (old.address[:SHORT], new.address[:SHORT])
        return say(difference(old.notebook, new.notebook, names) or "Both have the same cells.")
    if show is not None:
        return print_json(manager.content(workspace, manager.address(workspace, show)).notebook)
    if restore is not None:
        found = manager.content(workspace, manager.address(workspace, restore))
        path = as_ or Path(Path(copy_name(notebook or "notebook.ipynb", found.address)).name)
        write_copy(found.notebook, path)
        return say(f"Wrote {path}.")
    versions = manager.versions(workspace, notebook, limit)
    runs, models = manager.runs(workspace), manager.models(workspace)
    if json_:
        return print_json([
            {**one.model_dump(mode="json"), "runs": runs.get(one.address, []), "models": models.get(one.address, [])}
            for one in versions
        ])  # fmt: skip
    if not versions:
        return say("No version was saved yet: a version is kept when a notebook is saved in a running server.")
    head = ["version", "notebook", "saved", "by", "cells", "runs", "models"]
    table(head, [[*_row(one), _few(runs, one), _few(models, one)] for one in versions])


def _row(one: SnapshotView) -> list[str]:
    return [one.address[:SHORT], one.path, f"{one.saved_at:%Y-%m-%d %H:%M}", one.author, str(one.cells)]


def _few(made: dict[str, list[str]], by: SnapshotView) -> str:
    names = made.get(by.address, [])
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "-"
