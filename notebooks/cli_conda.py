"""``maestro install W PACKAGE --conda``: what it says and shows."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from maestro_core.errors import MaestroError

from .conda_environment import RECORD, install, place_of
from .console import print_json, say


def install_with_conda(workspace: str, packages: Sequence[str], json_: bool) -> None:
    """Install into the conda environment of the server that this runs in, and tell what happened.

    Raises:
        MaestroError: as :func:`~notebooks.conda_environment.place_of` and :func:`~notebooks.conda_environment.install`.
    """
    place = place_of(os.environ, workspace)
    done = install(place, packages)
    if json_:
        return print_json(dataclasses.asdict(done))
    changed = ", ".join(f"{name} {done.packages[name]}" for name in done.changed)
    say(f"Installed with conda: {changed}." if changed else "Everything is there already.")
    if done.differs:
        say(f"Of another version than {RECORD} had, since the old one cannot be had so: {', '.join(done.differs)}.")
    if done.kernel:
        say(f"Notebooks use it with the kernel 'conda ({place.workspace})', which shows up within a minute.")
    else:
        say(f"The channels have no ipykernel, so there is no kernel; programs are in {place.folder}/bin.")
    if place.writable:
        say(f"Kept in {RECORD}: 'maestro install {place.workspace} --conda' builds it again in another server.")


def check_options(packages: Sequence[str], conda: bool, reason: str) -> None:
    """Raises:
    MaestroError: ``invalid_request`` for options that mean nothing together.
    """
    if conda and reason:
        raise MaestroError("invalid_request", "--reason is for the history, which a conda environment does not have.")
    if not conda and not packages:
        raise MaestroError("invalid_request", "Name a package to install, like 'numpy'.")
