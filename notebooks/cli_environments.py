"""The CLI's commands about a workspace's packages: look, add, remove, go back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from maestro_core.conda_environments import CONDA, specs_by_name
from maestro_core.environments import (
    PYTHON,
    TITLES,
    EnvironmentDiff,
    EnvironmentSummary,
    EnvironmentView,
    Kind,
    by_name,
    name_of,
    show_target,
)
from maestro_core.errors import MaestroError

from .api import Api
from .cli_conda import check_options, install_with_conda, uninstall_with_conda
from .cli_requests import force_package
from .console import as_json, print_json, say, table
from .environments import EnvironmentManager

#: what a change means for servers that run
LATER: Mapping[Kind, str] = {
    "python": "Servers that start from now on have it so; in a running one, use pip.",
    "conda": "A server has it so after 'maestro install {} --conda'.",
}


@click.command()
@click.argument("workspace")
@click.argument("packages", nargs=-1)
@click.option("--conda", is_flag=True, help="From conda's channels, into a conda environment of the server you are in.")
@click.option(
    "--file",
    "-f",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --conda: what an environment.yml or an @EXPLICIT file names.",
)
@click.option("--force", is_flag=True, help="Admins: let NAME==VERSION in for 15 minutes, whatever the rules say.")
@click.option("--sha256", metavar="HASH", help="With --force: of the file that you have looked at.")
@click.option("--reason", default="", metavar="TEXT", help="A line for the history.")
@as_json
@click.pass_obj
def install(
    connect: Callable[[], Api], /, workspace: str, packages: Sequence[str], conda: bool, file: Path | None, force: bool,
    sha256: str | None, reason: str, json_: bool,
) -> None:  # fmt: skip
    """Add packages to a workspace's environment: maestro install W rich 'polars<2'

    Servers that start from now on have them. Inside a notebook, '!pip install' does the same and has them at once.

    With --conda: inside a server of the workspace, at once, as a kernel of its own. Without a package, what the
    workspace's conda environment has.

    With --force nothing is added: this one file, in this one workspace, installs with pip for 15 minutes. Known
    malware never does.
    """
    if force or sha256:
        return force_package(connect(), workspace, packages, sha256 if force else None, reason, json_)
    check_options(packages, conda, file)
    if conda:
        return install_with_conda(connect, workspace, packages, file, reason, json_)
    manager = EnvironmentManager(api=connect())
    before = manager.get(workspace)
    _tell_change(manager.install(workspace, packages, reason), before, packages, json_)


@click.command()
@click.argument("workspace")
@click.argument("packages", nargs=-1, required=True)
@click.option("--conda", is_flag=True, help="From the conda environment, in the server you are in.")
@click.option("--reason", default="", metavar="TEXT", help="A line for the history.")
@as_json
@click.pass_obj
def uninstall(
    connect: Callable[[], Api], /, workspace: str, packages: Sequence[str], conda: bool, reason: str, json_: bool
) -> None:
    """Remove packages from a workspace's environment, with what only they need."""
    if conda:
        return uninstall_with_conda(connect, workspace, packages, reason, json_)
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
@click.option("--conda", is_flag=True, help="Those of conda's channels [default: Python's].")
@click.option("--history", is_flag=True, help="List the versions: who made them, when, from what; of both kinds.")
@click.option("--diff", nargs=2, type=click.IntRange(0), metavar="A B", help="What version B has that A has not.")
@click.option("--rollback", type=click.IntRange(1), metavar="N", help="Bring the content of version N back.")
@as_json
@click.pass_obj
def show_packages(
    connect: Callable[[], Api], /, workspace: str | None, version: int | None, conda: bool, history: bool,
    diff: tuple[int, int] | None, rollback: int | None, json_: bool,
) -> None:  # fmt: skip
    """Show the packages of a workspace's environment, and its versions."""
    api = connect()
    manager = EnvironmentManager(api=api, kind=CONDA if conda else PYTHON)
    if sum(map(bool, (version, history, diff, rollback))) > 1:
        raise MaestroError("invalid_request", "Take one of --version, --history, --diff and --rollback.")
    if history:
        kinds = (CONDA,) if conda else (PYTHON, CONDA)
        return _show_history([EnvironmentManager(api=api, kind=kind) for kind in kinds], workspace, json_)
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
    title, asked = TITLES[made.kind], ", ".join(made.requirements) or "empty"
    say(f"Version {made.version} of the {title} of {made.workspace}: {asked}.")
    say(LATER[made.kind].format(made.workspace))


def _show(view: EnvironmentView, json_: bool) -> None:
    if json_:
        return print_json(view.model_dump(mode="json"))
    conda = view.kind == CONDA
    if not view.version:
        how = (
            "'maestro install W PACKAGE --conda' in a notebook" if conda else "pip in a notebook, or 'maestro install'"
        )
        what = "with conda " if conda else ""
        return say(f"Nothing was installed {what}in {view.workspace} yet. Use {how}.")
    what = f", {view.reason}" if view.reason else ""
    say(
        f"Version {view.version} of the {TITLES[view.kind]} of {view.workspace}, by {view.author}, {_when(view)}{what}."
    )
    if not view.settled:
        say("The next server that starts finds out which versions that means; below is what was known before.")
    asked = (specs_by_name if conda else by_name)(view.requirements)
    known = {it.name: it.version for it in view.packages}
    names = {name.removeprefix("pypi::"): text for name, text in asked.items()}
    rows = [[name, known.get(name, "-"), names.get(name, "-")] for name in sorted(known.keys() | names.keys())]
    table(["package", "version", "asked for as"], rows)
    if view.channels:
        say(f"From the channels {', '.join(view.channels)}.")
    for target in view.targets:
        say(f"Known for {target if conda else show_target(target)}.")


def _when(version: EnvironmentSummary) -> str:
    return f"{version.at:%Y-%m-%d %H:%M}" if version.at else "-"


def _show_history(managers: Sequence[EnvironmentManager], workspace: str | None, json_: bool) -> None:
    versions = [it for manager in managers for it in manager.history(workspace)]
    if json_:
        return print_json([it.model_dump(mode="json") for it in versions])
    rows = [
        [it.kind, str(it.version), str(it.parent or "-"), it.author, _when(it), it.reason, ", ".join(it.requirements)]
        for it in versions
    ]
    table(["of", "version", "from", "by", "when", "why", "asked for"], rows)


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
