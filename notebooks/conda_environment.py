"""A conda environment inside a running notebook server: made with py-rattler, and registered as a kernel.

It lies on the server's own disk beside the environment of kernels, and ends with the server. What was asked for, and
which files that meant, is a version of the workspace's conda environment at the service, from which the next server
builds the same again. Every file comes through the package index, which decides.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from maestro_core.conda_environments import (
    CondaBuild,
    CondaBuilt,
    CondaChange,
    LockedCondaPackage,
    conda_specs,
    pip_requirements,
    spec_name,
    specs_by_name,
)
from maestro_core.errors import MaestroError
from maestro_core.packages import PYPI

from .conda_files import ExplicitFile, Wish
from .conda_pip import install_requirements
from .conda_place import Place, register_kernel
from .conda_solver import KERNEL_PACKAGES, locked, look_up, pin, refusal, see_same_files, solve

if TYPE_CHECKING:
    from rattler import RepoDataRecord


class Record(Protocol):
    """The workspace's conda environment at the service."""

    def current(self, target: str) -> CondaBuild:
        """What it says now, with the files for a platform."""

    def keep(self, change: CondaChange) -> int:
        """Make a change a version; its number."""


@dataclass(frozen=True)
class Installed:
    """What an installation did.

    Attributes:
        packages: name -> version, of all that is in the environment. changed: the names that are new or of another
            version than before. gone: that were there before.
        kernel: whether notebooks can use it.
        differs: names that are not what the workspace's record had, though nobody asked for another.
        version: of the workspace's conda environment; None: it was not changed (a viewer's server).
    """

    packages: dict[str, str]
    changed: tuple[str, ...]
    gone: tuple[str, ...]
    kernel: bool
    differs: tuple[str, ...]
    version: int | None


def install(place: Place, wish: Wish, record: Record, *, remove: Sequence[str] = (), reason: str = "") -> Installed:
    """Add and remove packages, or, where nothing is named, build what the workspace's record says.

    Args:
        wish: what to add; an explicit file takes the place of all that there was.
        remove: names, as :func:`~maestro_core.conda_environments.spec_name` has them.
        reason: for the history.

    Raises:
        MaestroError: ``package_blocked`` with the policy's sentence; ``conflict`` when no set of packages fits, with
            the solver's explanation, or somebody else changed the same package; ``invalid_request``;
            ``upstream_unavailable``.
    """
    if importlib.util.find_spec("rattler") is None:
        raise MaestroError(
            "conflict",
            "The Python of this server has no py-rattler, which installs from conda's channels; tell an admin.",
        )
    if not (wish.empty and not remove) and not place.writable:
        raise MaestroError(
            "forbidden",
            f"A viewer cannot change the packages of {place.workspace}; 'maestro install {place.workspace} --conda' "
            "builds what it has.",
        )
    return asyncio.run(_install(place, wish, record, remove, reason))


async def _install(place: Place, wish: Wish, record: Record, remove: Sequence[str], reason: str) -> Installed:
    import rattler

    target = str(rattler.Subdir.current())
    known = record.current(target)
    before = {it.name.normalized: str(it.version) for it in _in_prefix(place)}
    if wish.files:
        found = await look_up(place, wish.files)
        asked = specs_by_name(map(_as_spec, wish.files))
    else:
        asked = specs_by_name([*known.requirements, *wish.specs])
        asked = {name: spec for name, spec in asked.items() if name not in remove}
        if not asked and not remove:
            raise MaestroError(
                "invalid_request", f"Nothing was installed with conda in {place.workspace}; name a package."
            )
        found = await _solved(place, known, wish, list(asked.values()))
    files = [locked(place, it) for it in found]
    see_same_files(files, known.packages)
    try:
        await rattler.install(found, place.folder, cache_dir=place.cache, show_progress=False)
    except Exception as error:
        raise refusal(error) from None
    conda = {it.key for it in files}
    files += _with_pip(place, pip_requirements(asked.values()), known, wish, conda)
    kernel = conda.issuperset(KERNEL_PACKAGES)
    if kernel:
        register_kernel(place)
    version = None
    if place.writable:
        change = CondaChange(
            parent=known.version,
            add=tuple(asked.values()) if wish.files else wish.specs,
            remove=tuple(specs_by_name(known.requirements).keys() - asked.keys()),
            channels=_channels(place, wish),
            reason=reason,
            built=CondaBuilt(target=target, packages=tuple(files)),
        )
        version = record.keep(change)
    now = {it.name: it.version for it in files}
    return Installed(
        packages=now,
        changed=tuple(sorted(name for name in now if before.get(name) != now[name])),
        gone=tuple(sorted(before.keys() - now.keys())),
        kernel=kernel,
        differs=tuple(sorted(_differing(known, wish, files, remove))),
        version=version,
    )


async def _solved(place: Place, known: CondaBuild, wish: Wish, asked: Sequence[str]) -> list[RepoDataRecord]:
    specs = conda_specs(asked)
    if not specs and not pip_requirements(asked):
        return []
    channels = tuple(dict.fromkeys([*place.channels, *known.channels, *wish.channels]))
    anew = set(map(spec_name, wish.specs))
    pins = {it.key: pin(it) for it in known.packages if it.channel != PYPI and it.key not in anew}
    return await solve(place, channels, specs, pins)


def _with_pip(
    place: Place, requirements: Sequence[str], known: CondaBuild, wish: Wish, conda: set[str]
) -> list[LockedCondaPackage]:
    """The pip section, in the versions that are known where nobody asks for others."""
    if not requirements:
        return []
    anew = set(map(spec_name, wish.specs))
    pins = {it.name: it.version for it in known.packages if it.channel == PYPI and it.key not in anew}
    found = install_requirements(place, requirements, pins)
    return [
        LockedCondaPackage(name=name, version=version, channel=PYPI)
        for name, version in sorted(found.items())
        if name not in conda
    ]


def _channels(place: Place, wish: Wish) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*place.channels, *wish.channels]))


def _as_spec(file: ExplicitFile) -> str:
    """This very file, for the record: the next server finds it by version and build."""
    version, build = file.filename.removesuffix(".conda").removesuffix(".tar.bz2").rsplit("-", 2)[1:]
    return f"{file.channel}::{file.name} =={version} {build}"


def _differing(
    known: CondaBuild, wish: Wish, files: Iterable[LockedCondaPackage], remove: Sequence[str]
) -> Iterable[str]:
    """What another version was taken of than the record has, though nobody asked for that."""
    if wish.files:
        return
    before = {it.key: it.version for it in known.packages}
    anew = {*map(spec_name, wish.specs), *remove}
    for it in files:
        if it.key not in anew and before.get(it.key, it.version) != it.version:
            yield it.name


def _in_prefix(place: Place) -> list[RepoDataRecord]:
    import rattler

    return [rattler.PrefixRecord.from_path(path) for path in (place.folder / "conda-meta").glob("*.json")]
