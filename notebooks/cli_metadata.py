"""The CLI's commands about a workspace's experiment, and about what is kept of a workspace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from maestro_core.resources import show_memory

from .api import Api
from .console import as_json, plain, print_json, say, table
from .metadata import workspace_metadata
from .workspaces import WorkspaceManager


@click.command()
@click.argument("workspace")
@click.argument("experiment")
@click.pass_obj
def link(connect: Callable[[], Api], workspace: str, experiment: str) -> None:
    """Link a workspace to an MLflow experiment, by its name (owners).

    As in: maestro link team-a churn-2026. Runs go there when a launch names no other one; it counts for servers that
    start from now on. The workspace's own name brings back what there was.
    """
    made = WorkspaceManager(api=connect()).link_experiment(workspace, experiment)
    say(f"Runs in {made.name} go to the experiment {plain(experiment)} now, in servers that start from here on.")


@click.command()
@click.argument("workspace", required=False)
@as_json
@click.pass_obj
def metadata(connect: Callable[[], Api], workspace: str | None, json_: bool) -> None:
    """Show what is kept about a workspace.

    Its dates, experiments, members, packages and usage, its notebooks with their versions, and what they ran.
    """
    found = workspace_metadata(connect(), workspace)
    return print_json(found) if json_ else _show(found)


@click.command()
@click.argument("workspace")
@click.option("--format", "format_", type=click.Choice(["json"]), default="json", show_default=True, help="As what.")
@click.pass_obj
def export(connect: Callable[[], Api], workspace: str, format_: str) -> None:
    """Print what is kept about a workspace, as JSON for a program.

    For a file: maestro export team-a --format=json > team-a.json
    """
    print_json(workspace_metadata(connect(), workspace))


#: runs of notebooks, the newest
_SHOWN = 5
#: what the command says of each mode
_CAPTURES = {
    "off": "Nothing that runs in {} becomes a run by itself.",
    "on-request": "In {} what runs becomes runs where somebody asks for it: %mlflow_capture on.",
    "always": "In {} what runs becomes runs: one for each stretch of cells.",
}


@click.command()
@click.argument("workspace")
@click.argument("mode", required=False, type=click.Choice(list(_CAPTURES)))
@click.pass_obj
def capture(connect: Callable[[], Api], workspace: str, mode: str | None) -> None:
    """Show or set whether what runs in a workspace's notebooks becomes runs (owners set it).

    A stretch of cells (a Run All, say) becomes one run in MLflow: with what ran, its times, errors and parameters, the
    version of the notebook, and a page of it. It counts for servers that start from now on.
    """
    found = WorkspaceManager(api=connect()).capture(workspace, mode)
    say(_CAPTURES[found].format(plain(workspace)) + (" It counts for servers that start from here on." if mode else ""))


COMMANDS = (link, capture, metadata, export)


def _show(found: Mapping[str, Any]) -> None:
    about, environment, usage = found["workspace"], found["environment"], found["usage"]
    used, month = usage["storage_used"], usage["month"]
    packages = [f"{one['name']} {one['version'] or ''}".strip() for one in environment["packages"]]
    rows = {
        "workspace": f"{about['name']} ({about['workspace_id']})",
        "description": about["description"],
        "created": f"{_moment(about['created_at'])} by {about['created_by']}",
        "modified": _moment(about["modified_at"]),
        "experiment": _with_id(found["experiments"][0]),
        "others": ", ".join(_with_id(one) for one in found["experiments"][1:]),
        "members": ", ".join(f"{one['name']} ({one['role']})" for one in found["members"]),
        "environment": f"version {environment['version']}",
        "packages": ", ".join(packages or environment["requirements"]),  # before a server resolved them
        "files": "not measured yet" if used is None else show_memory(used),
        "this month": _hours(month),
        "before": "; ".join(f"{one['month']}: {_hours(one)}" for one in usage["months"][-3:]),
    }
    for title, value in rows.items():
        if value:
            say(f"{title + ':':<14}{plain(value)}")
    latest: dict[str, tuple[Mapping[str, Any], int, int]] = {}
    for one in reversed(found["notebooks"]):  # the newest last, so that it stays
        _, versions, runs = latest.get(one["path"], (one, 0, 0))
        latest[one["path"]] = one, versions + 1, runs + len(one["runs"])
    for run in found["runs"][:_SHOWN]:
        ended = (run["status"] or "").lower()
        say(f"{'ran:':<14}{plain(run['notebook'] or '')} {_moment(run['began_at'] or '')} by {run['user']}, {ended}")
    if latest:
        table(
            ["notebook", "versions", "runs", "saved", "by"],
            [
                [path, str(versions), str(runs), _moment(one["saved_at"]), one["author"]]
                for path, (one, versions, runs) in sorted(latest.items())
            ],
        )


def _with_id(experiment: Mapping[str, Any]) -> str:
    number = experiment["experiment_id"]
    return f"{experiment['name']} ({number})" if number else f"{experiment['name']} (no run yet)"


def _hours(used: Mapping[str, Any]) -> str:
    return f"{used['cpu']:.1f} cpu hours, {used['gpu']:.1f} gpu hours"


def _moment(text: str) -> str:
    return text[:16].replace("T", " ")
