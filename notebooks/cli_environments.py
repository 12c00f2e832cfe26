"""The CLI's commands about a workspace's packages: look, add, remove, go back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from maestro_core.environments import (
    EnvironmentDiff,
    EnvironmentSummary,
    EnvironmentView,
    by_name,
    name_of,
    show_target,
)
from maestro_core.errors import MaestroError

from .api import Api
from .cli_conda import check_options, install_with_conda
from .cli_requests import force_package
from .console import as_json, print_json, say, table
from .environments import EnvironmentManager

#: what a change means for servers that run
LATER = "Servers that start from now on have it so; in a running one, use pip."


@click.command()
@click.argument("workspace")
@click.argument("packages", nargs=-1)
@click.option("--conda", is_flag=True, help="From conda's channels, into a conda environment of the server you are in.")
@click.option("--force", is_flag=True, help="Admins: let NAME==VERSION in for 15 minutes, whatever the rules say.")
@click.option("--sha256", metavar="HASH", help="With --force: of the file that you have looked at.")
@click.option("--reason", default="", metavar="TEXT", help="A line for the history.")
@as_json
@click.pass_obj
def install(
    connect: Callable[[], Api], /, workspace: str, packages: Sequence[str], conda: bool, force: bool,
    sha256: str | None, reason: str, json_: bool,
) -> None:  # fmt: skip
    """Add packages to a workspace's environment: maestro install W rich 'polars<2'

    Servers that start from now on have them. Inside a notebook, '!pip install' does the same and has them at once.

    With --conda: inside a server of the workspace, at once, as a kernel of its own. Without a package, what conda.yml
    in the workspace says.

    With --force nothing is added: this one file, in this one workspace, installs with pip for 15 minutes. Known
    malware never does.
    """
    if force or sha256:
        return force_package(connect(), workspace, packages, sha256 if force else None, reason, json_)
    check_options(packages, conda, reason)
    if conda:
        return install_with_conda(workspace, packages, json_)
    manager = EnvironmentManager(api=connect())
    before = manager.get(workspace)
    _tell_change(manager.install(workspace, packages, reason), before, packages, json_)


@click.command()
@click.argument("workspace")
@click.argument("packages", nargs=-1, required=True)
@click.option("--reason", default="", metavar="TEXT", help="A line for the history.")
@as_json
@click.pass_obj
def uninstall(connect: Callable[[], Api], workspace: str, packages: Sequence[str], reason: str, json_: bool) -> None:
    """Remove packages from a workspace's environment, with what only they need."""
    manager = EnvironmentManager(api=connect())
    before = manager.get(workspace)
    asked = by_name(before.requirements)
    missing = [name for name in packages if name_of_package(name) not in asked]
    if missing:
        raise MaestroError(
            "invalid_request",
            f"Nobody asked for {missing[0]} in {before.workspace}; see 'maestro packages {before.workspace}'.",
        )
    _tell_change(manager.uninstall(workspace, packages, reason), before, packages, json_)


@click.command("packages")
@click.argument("workspace", required=False)
@click.option("--version", type=click.IntRange(1), metavar="N", help="That version [default: the current one].")
@click.option("--history", is_flag=True, help="List the versions: who made them, when, from what.")
@click.option("--diff", nargs=2, type=click.IntRange(0), metavar="A B", help="What version B has that A has not.")
@click.option("--rollback", type=click.IntRange(1), metavar="N", help="Bring the content of version N back.")
@as_json
@click.pass_obj
def show_packages(
    connect: Callable[[], Api], /, workspace: str | None, version: int | None, history: bool,
    diff: tuple[int, int] | None, rollback: int | None, json_: bool,
) -> None:  # fmt: skip
    """Show the packages of a workspace's environment, and its versions."""
    manager = EnvironmentManager(api=connect())
    if sum(map(bool, (version, history, diff, rollback))) > 1:
        raise MaestroError("invalid_request", "Take one of --version, --history, --diff and --rollback.")
    if history:
        return _show_history(manager, workspace, json_)
    if diff:
        return _show_diff(manager.diff(workspace, *diff), json_)
    if rollback:
        before = manager.get(workspace)
        return _tell_change(manager.rollback(workspace, rollback), before, (), json_)
    _show(manager.get(workspace, version), json_)


def name_of_package(text: str) -> str:
    """The normal name in what somebody typed.

    Raises:
        MaestroError: ``invalid_name``.
    """
    try:
        return name_of(text)
    except ValueError:
        raise MaestroError("invalid_name", f"{text[:60]!r} is no package; write a name, like 'numpy'.") from None


def _tell_change(made: EnvironmentView, before: EnvironmentView, packages: Sequence[str], json_: bool) -> None:
    if json_:
        return print_json(made.model_dump(mode="json"))
    if made.version == before.version:
        return say(f"Nothing to change: {', '.join(packages)} stands in version {made.version} of {made.workspace}.")
    say(f"Version {made.version} of the environment of {made.workspace}: {', '.join(made.requirements) or 'empty'}.")
    say(LATER)


def _show(view: EnvironmentView, json_: bool) -> None:
    if json_:
        return print_json(view.model_dump(mode="json"))
    if not view.version:
        return say(f"Nothing was installed in {view.workspace} yet. Use pip in a notebook, or 'maestro install'.")
    what = f", {view.reason}" if view.reason else ""
    say(f"Version {view.version} of the environment of {view.workspace}, by {view.author}, {_when(view)}{what}.")
    if not view.settled:
        say("The next server that starts finds out which versions that means; below is what was known before.")
    asked = by_name(view.requirements)
    known = {it.name: it.version for it in view.packages}
    rows = [[name, known.get(name, "-"), asked.get(name, "-")] for name in sorted(known.keys() | asked.keys())]
    table(["package", "version", "asked for as"], rows)
    for target in view.targets:
        say(f"Known for {show_target(target)}.")


def _when(version: EnvironmentSummary) -> str:
    return f"{version.at:%Y-%m-%d %H:%M}" if version.at else "-"


def _show_history(manager: EnvironmentManager, workspace: str | None, json_: bool) -> None:
    versions = manager.history(workspace)
    if json_:
        return print_json([it.model_dump(mode="json") for it in versions])
    rows = [
        [str(it.version), str(it.parent or "-"), it.author, _when(it), it.reason, ", ".join(it.requirements)]
        for it in versions
    ]
    table(["version", "from", "by", "when", "why", "asked for"], rows)


def _show_diff(diff: EnvironmentDiff, json_: bool) -> None:
    if json_:
        return print_json(diff.model_dump(mode="json"))
    moves: dict[str, Any] = {"asked for": diff.requirements, "packages": diff.packages}
    if not any(moves.values()):
        return say(f"Versions {diff.before} and {diff.after} of {diff.workspace} are the same.")
    for title, found in moves.items():
        if found:
            say(f"{title}:")
            for move in found:
                say(f"  {move.show()}")


COMMANDS = (install, uninstall, show_packages)
