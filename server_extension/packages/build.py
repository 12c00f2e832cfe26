"""Builds the version of the workspace's environment that the launch names, before the server starts.

Files come from the index with the launch's own password and their hashes are required. What cannot be had is left out
and named; the server starts with the rest, and never with another version than the record's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..launch import Launch
from .installed import of_prefix, packages_folder, target_of, versions
from .record import NotTold, Record
from .uv import NeedsSource, OutOfTime, Package, Uv, UvError

#: how long a start may take for it; the Hub gives up after 60 seconds
START_SECONDS = 40.0
OUTCOME = "environment.json"


@dataclass
class Outcome:
    """What came of it; kept in the launch's private folder for the server.

    Attributes:
        version: that the launch names; 0: none.
        requirements: what people ask for in it.
        python_version: what the workspace asks for, or None.
        target, locked_for: this server's, and that of the lock from which it was resolved (as they are shown).
        missing: name or requirement -> why it is not there.
        moved: what another version than in ``locked_for`` was taken of, as lines.
        unfinished: the time was over, or something has to be built from source; that is done beside the server.
        problem: why nothing could be done.
    """

    version: int = 0
    requirements: list[str] = field(default_factory=list)
    python_version: str | None = None
    target: str = ""
    locked_for: str | None = None
    missing: dict[str, str] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    packages: int = 0
    seconds: float = 0.0
    unfinished: bool = False
    problem: str | None = None

    def keep(self, folder: Path) -> None:
        """Write it where the server finds it.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / OUTCOME).write_text(json.dumps(asdict(self)))

    @classmethod
    def kept(cls, folder: Path) -> Outcome:
        """What :meth:`keep` wrote; an empty one where there is none."""
        try:
            return cls(**json.loads((folder / OUTCOME).read_text()))
        except (OSError, ValueError, TypeError):
            return cls()


def uv_of(launch: Launch, environ: Mapping[str, str], seconds: float, *, sources: bool) -> Uv:
    """uv for the launch's environment."""
    return Uv(launch.prefix / "bin" / "uv", launch.python, launch.uv_cache, environ, seconds, sources=sources)


def build(
    launch: Launch, environ: Mapping[str, str], seconds: float = START_SECONDS, *, sources: bool = False
) -> Outcome:
    """Build it; whatever goes wrong is in the outcome.

    Args:
        seconds: how long it may take.
        sources: whether packages may be built from source. Not before the server runs: their code could leave it a
            configuration.
    """
    began = time.monotonic()
    named = environ.get("MAESTRO_ENVIRONMENT", "")
    outcome = Outcome(version=int(named) if named.isdecimal() else 0)
    record = Record.of(environ)
    if outcome.version and record is not None:
        try:
            _Build(launch, record, uv_of(launch, environ, seconds, sources=sources), outcome).run()
        except NotTold as error:
            outcome.problem = str(error)
        except OutOfTime:
            outcome.unfinished = True
    outcome.seconds = round(time.monotonic() - began, 2)
    if outcome.version:
        _log(outcome)
    return outcome


def _log(outcome: Outcome) -> None:
    told = f"{outcome.packages} packages in {outcome.seconds:g} s"
    if outcome.problem or outcome.missing or outcome.unfinished:
        told += f"; {outcome.problem or 'not complete'}; missing: {', '.join(outcome.missing) or 'nothing'}"
    _say(f"version {outcome.version} of the environment: {told}")


def _say(text: str) -> None:
    """A line for the log, and for the Hub's progress page (``maestro_spawner.local.SAID``)."""
    print(f"maestro-singleuser: {text}", file=sys.stderr, flush=True)


class _Build:
    """One build, step by step."""

    def __init__(self, launch: Launch, record: Record, uv: Uv, outcome: Outcome) -> None:
        self._launch, self._record, self._uv, self._outcome = launch, record, uv, outcome
        self._prefix = of_prefix()

    def run(self) -> None:
        """All of it.

        Raises:
            NotTold: the record is not to be had. OutOfTime.
        """
        target = target_of(self._prefix)
        what = self._record.build(self._outcome.version, target)
        self._outcome.target, self._outcome.locked_for = target, what.get("locked_for")
        self._outcome.requirements = list(what["requirements"])
        self._outcome.python_version = what.get("python_version")
        packages = what["packages"] if what["complete"] else self._resolved(what, target)
        _say(f"installing {len(packages)} packages of version {self._outcome.version} of the workspace's environment")
        try:
            if packages:
                self._uv.install(packages)
        except OutOfTime:
            raise
        except UvError:
            self._one_by_one(packages)
        self._outcome.packages = len(versions(packages_folder(self._launch.environment)))

    def _resolved(self, what: dict[str, Any], target: str) -> list[Package]:
        """The files for this Python, platform and image; kept for the next server where they are all there."""
        before = {it["name"]: it["version"] for it in what["packages"]}
        packages = self._without_prefix(self._lock(what["requirements"], self._prefix | before))
        if not (self._outcome.missing or self._outcome.unfinished or self._launch.viewer):
            try:
                packages = self._record.deposit(self._outcome.version, target, packages)["packages"]
            except NotTold as error:
                _say(f"the lock was not kept: {error}")
        if what.get("locked_for") not in (None, target):
            self._outcome.moved = _moved(before, {it["name"]: it["version"] for it in packages} | self._shared(before))
        return packages

    def _lock(self, requirements: Sequence[str], prefer: Mapping[str, str]) -> list[Package]:
        """All that can be had of the requirements together; the others are named."""
        if not requirements:
            return []
        try:
            return self._uv.lock(requirements, prefer)
        except OutOfTime:
            raise
        except UvError as error:
            together = str(error)
        # Perhaps it is a package that the image has already, and the index does not give: pip would take the image's.
        hidden = [name for name in self._prefix if name not in {_name(text) for text in requirements}]
        good = [text for text in requirements if self._can_be_had(text, prefer, hidden)]
        if not good:
            return []
        try:
            return self._uv.lock(good, prefer, hidden)
        except OutOfTime:
            raise
        except NeedsSource:
            self._outcome.unfinished = True
            return []
        except UvError:
            self._outcome.missing |= dict.fromkeys(good, together)
            return []

    def _can_be_had(self, requirement: str, prefer: Mapping[str, str], hidden: Sequence[str]) -> bool:
        try:
            self._uv.lock([requirement], prefer, hidden)
        except OutOfTime:
            raise
        except NeedsSource:
            self._outcome.unfinished = True
            return False
        except UvError as error:
            self._outcome.missing[requirement] = str(error)
            return False
        return True

    def _without_prefix(self, packages: list[Package]) -> list[Package]:
        """What the image has in the same version is seen there."""
        return [it for it in packages if self._prefix.get(it["name"]) != it["version"]]

    def _shared(self, before: Mapping[str, str]) -> dict[str, str]:
        return {name: version for name, version in before.items() if self._prefix.get(name) == version}

    def _one_by_one(self, packages: Sequence[Package]) -> None:
        """Everything that can be had."""
        for package in packages:
            try:
                self._uv.install([package])
            except OutOfTime:
                raise
            except NeedsSource:
                self._outcome.unfinished = True
            except UvError as error:
                self._outcome.missing[f"{package['name']} {package['version']}"] = str(error)


def _name(requirement: str) -> str:
    import re

    from .installed import normal

    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return normal(found[0]) if found else requirement


def _moved(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return [f"{name} {before.get(name, 'new')} -> {after.get(name, 'gone')}" for name in names]
