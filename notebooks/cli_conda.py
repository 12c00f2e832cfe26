"""``maestro install W PACKAGE --conda`` and the like: what they say and show."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from maestro_core.conda_environments import CondaBuild, CondaChange, spec_name
from maestro_core.environments import EnvironmentView
from maestro_core.errors import MaestroError

from .api import Api
from .conda_environment import Installed, install
from .conda_files import Wish, named, read_file
from .conda_place import Place, place_of
from .console import print_json, say
from .environments import EnvironmentManager


class ServiceRecord:
    """The workspace's conda environment, at the service."""

    def __init__(self, api: Api, workspace: str) -> None:
        self._manager, self._workspace = EnvironmentManager(api=api, kind="conda"), workspace

    def current(self, target: str) -> CondaBuild:
        """What it says now, with the files for a platform."""
        return self._manager.conda_build(self._workspace, target)

    def keep(self, change: CondaChange) -> int:
        """Make a change a version; its number."""
        return self._manager.conda_change(self._workspace, change).version


def install_with_conda(
    connect: Callable[[], Api], workspace: str, packages: Sequence[str], file: Path | None, reason: str, json_: bool
) -> None:
    """Install into the conda environment of the server that this runs in, and tell what happened.

    Raises:
        MaestroError: as :func:`~notebooks.conda_place.place_of` and :func:`~notebooks.conda_environment.install`.
    """
    place = place_of(os.environ, workspace)
    wish = read_file(file) if file else named(packages)
    done = install(place, wish, ServiceRecord(connect(), place.workspace), reason=reason)
    _tell(place, wish, done, json_)


def uninstall_with_conda(
    connect: Callable[[], Api], workspace: str, packages: Sequence[str], reason: str, json_: bool
) -> None:
    """Take packages out of it, with what only they need.

    Raises:
        MaestroError: as :func:`install_with_conda`; ``invalid_request`` for what nobody asked for.
    """
    place, api = place_of(os.environ, workspace), connect()
    view: EnvironmentView = EnvironmentManager(api=api, kind="conda").get(place.workspace)
    names = list(map(spec_name, named(packages).specs))
    asked = set(map(spec_name, view.requirements))
    if missing := [name for name in names if name not in asked]:
        raise MaestroError(
            "invalid_request",
            f"Nobody asked for {missing[0]} with conda in {place.workspace}; see 'maestro packages {place.workspace} "
            "--conda'.",
        )
    done = install(place, Wish(), ServiceRecord(api, place.workspace), remove=names, reason=reason)
    _tell(place, Wish(), done, json_)


def _tell(place: Place, wish: Wish, done: Installed, json_: bool) -> None:
    if json_:
        return print_json(dataclasses.asdict(done))
    changed = ", ".join(f"{name} {done.packages[name]}" for name in done.changed)
    if changed:
        say(f"Installed with conda: {changed}.")
    if done.gone:
        say(f"Removed: {', '.join(done.gone)}.")
    if not (changed or done.gone):
        say("Everything is there already.")
    if done.differs:
        say(f"Of another version than the record has, which cannot be had so: {', '.join(done.differs)}.")
    for key in wish.left_out:
        say(f"'{key}' of the file was left out: it means nothing here.")
    if done.kernel:
        say(f"Notebooks use it with the kernel 'conda ({place.workspace})', which shows up within a minute.")
    elif done.packages:
        say(f"The channels have no ipykernel, so there is no kernel; programs are in {place.folder}/bin.")
    if done.version is not None:
        say(
            f"Version {done.version} of the conda environment of {place.workspace}: 'maestro install {place.workspace} "
            "--conda' builds it in another server."
        )


def check_options(packages: Sequence[str], conda: bool, file: Path | None) -> None:
    """Raises:
    MaestroError: ``invalid_request`` for options that mean nothing together.
    """
    if file and not conda:
        raise MaestroError(
            "invalid_request",
            "--file is for conda's files; a requirements file is for pip: '!pip install -r requirements.txt'.",
        )
    if file and packages:
        raise MaestroError("invalid_request", "Name packages or a file, not both.")
    if not conda and not packages:
        raise MaestroError("invalid_request", "Name a package to install, like 'numpy'.")
