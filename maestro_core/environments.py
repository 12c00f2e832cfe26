"""The environment of a workspace: a row of versions, each with what was asked for and locks with hashes.

A version says what people asked for (``requirements``). What that means in files is a lock, one for each *target*: the
version of Python, the platform, and the packages that the image itself has. Two people's changes are merged by name
against the version that each of them knew (:func:`merged`).

(:mod:`maestro_core.environment` is about variables.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from packaging.requirements import Requirement
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .errors import MaestroError
from .packages import normal_name, normal_version
from .workspace_settings import MAX_PACKAGES, check_requirement

#: what manages the packages of a record; what people call such a record
Kind = Literal["python", "conda"]
PYTHON: Kind = "python"
TITLES: Mapping[Kind, str] = {"python": "environment", "conda": "conda environment"}

#: packages of one lock, and hashes of one package (a version's files for one platform are few)
MAX_LOCKED, MAX_HASHES = 1000, 20
MAX_REASON = 200
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_TARGET = re.compile(r"3\.[0-9]{1,2}/[a-z0-9_.-]{1,40}/[0-9a-f]{12}")


def _target(value: Any) -> Any:
    if not isinstance(value, str) or not _TARGET.fullmatch(value):
        raise ValueError("a target is Python, platform and the image's packages: 3.11/linux-x86_64/0123456789ab")
    return value


def _names(value: Any) -> Any:
    return tuple(normal_name(name) for name in value) if isinstance(value, list | tuple) else value


def _requirements(value: Any) -> Any:
    return tuple(check_requirement(entry) for entry in value) if isinstance(value, list | tuple) else value


def _line(value: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in value)


#: why a version was made, in one line
HistoryLine = Annotated[str, Field(max_length=MAX_REASON), AfterValidator(_line)]
Target = Annotated[str, BeforeValidator(_target)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Requirements = Annotated[tuple[str, ...], BeforeValidator(_requirements)]


def show_target(target: str) -> str:
    """A target for people: ``Python 3.11 on linux-x86_64``."""
    python, platform, _ = target.split("/")
    return f"Python {python} on {platform}"


class LockedPackage(BaseModel):
    """One package of a lock: a version, and the SHA-256 of the files that may be installed for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str = Field(max_length=60)
    hashes: tuple[str, ...] = Field(min_length=1, max_length=MAX_HASHES)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return normal_name(value)

    @field_validator("version")
    @classmethod
    def _version(cls, value: str) -> str:
        return normal_version(value)

    @field_validator("hashes")
    @classmethod
    def _hashes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HASH.fullmatch(text) for text in value):
            raise ValueError("a hash is sha256: and 64 hexadecimal digits")
        return value


Lock = Annotated[tuple[LockedPackage, ...], Field(max_length=MAX_LOCKED)]


def lock_text(packages: Iterable[LockedPackage]) -> str:
    """A lock as pip and uv read it with ``--require-hashes``."""
    lines = [f"{it.name}=={it.version} {' '.join(f'--hash={text}' for text in it.hashes)}" for it in packages]
    return "\n".join([*sorted(lines), ""])


class Built(BaseModel):
    """What a running server has installed and removed since the version that it knew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    installed: Lock = ()
    removed: Names = Field(default=(), max_length=MAX_LOCKED)


class EnvironmentChange(BaseModel):
    """The body of ``POST /workspaces/{workspace}/environment``.

    Attributes:
        parent: the version that the change was made on (0: none was there); left out: the current one.
        add: names, maybe with versions and extras; each replaces what was asked for under the name.
        remove: names.
        reason: one line for the history.
        built: from a running server: the files that go with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: int | None = Field(default=None, ge=0)
    add: Requirements = Field(default=(), max_length=MAX_PACKAGES)
    remove: Names = Field(default=(), max_length=MAX_PACKAGES)
    reason: HistoryLine = ""
    built: Built | None = None

    @model_validator(mode="after")
    def _something(self) -> EnvironmentChange:
        moved = self.built is not None and (self.built.installed or self.built.removed)
        if not (self.add or self.remove or moved):
            raise ValueError("name a package to add or to remove")
        twice = {name_of(text) for text in self.add} & set(self.remove)
        if twice:
            raise ValueError(f"{min(twice)} is to be added and removed; name it once")
        return self


class Rollback(BaseModel):
    """The body of ``POST /workspaces/{workspace}/environment/rollback``: the version whose content comes back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(ge=1)


class Deposit(BaseModel):
    """The body of ``PUT /workspaces/{workspace}/environment/build``: what a server resolved for its target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(ge=1)
    target: Target
    packages: Lock


class PackageShown(BaseModel):
    """A package of a lock, for people."""

    name: str
    version: str


class EnvironmentSummary(BaseModel):
    """One version in the history.

    Attributes:
        version: counts up from 1. parent: what it was made from; 0: nothing.
        author: who made it. reason: why, one line, perhaps empty.
        requirements: what people asked for.
        python_version: what the workspace asks for, or None.
        targets: for which its files are known.
        channels: of a conda environment: those that are looked in.
    """

    kind: Kind = PYTHON
    version: int
    parent: int
    author: str
    at: datetime | None
    reason: str = ""
    requirements: tuple[str, ...] = ()
    python_version: str | None = None
    targets: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


class EnvironmentView(EnvironmentSummary):
    """One version with its packages, as the newest of its locks (or the one before it) has them.

    Attributes:
        current: the newest version's number; 0: there is none yet.
        settled: whether a lock of this very version is known; if not, the next server resolves it.
    """

    workspace: str
    current: int
    packages: tuple[PackageShown, ...] = ()
    settled: bool = True


class EnvironmentHistory(BaseModel):
    """The versions, the newest first."""

    workspace: str
    versions: tuple[EnvironmentSummary, ...]


class PackageMove(BaseModel):
    """A name of which two versions say something else; None: it is not there."""

    name: str
    before: str | None
    after: str | None

    def show(self) -> str:
        """For people: ``rich 13.0 -> 14.0``, ``+ rich 14.0``, ``- rich 13.0``."""
        if self.before is None:
            return f"+ {self.name} {self.after}"
        return f"- {self.name} {self.before}" if self.after is None else f"{self.name} {self.before} -> {self.after}"


class EnvironmentDiff(BaseModel):
    """What one version has that another has not: what was asked for, and packages."""

    workspace: str
    before: int
    after: int
    requirements: tuple[PackageMove, ...]
    packages: tuple[PackageMove, ...]


class EnvironmentBuild(BaseModel):
    """What a notebook server builds: for a target, a complete lock, or what to start resolving from.

    Attributes:
        complete: ``packages`` is all of it; else the server resolves ``requirements`` and takes these versions where
            they still fit.
        locked_for: the target that ``packages`` was locked for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int
    python_version: str | None = None
    requirements: tuple[str, ...] = ()
    complete: bool = False
    packages: tuple[LockedPackage, ...] = ()
    locked_for: str | None = None


def name_of(requirement: str) -> str:
    """The normal name in a requirement."""
    return normal_name(Requirement(requirement).name)


def by_name(requirements: Iterable[str]) -> dict[str, str]:
    """Requirements by their normal name; of a name that is there twice the last counts."""
    return {name_of(text): text for text in requirements}


def takes(requirement: str, version: str) -> bool:
    """Whether a version is one that the requirement asks for."""
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def merged(
    change: EnvironmentChange, base: Mapping[str, str], current: Mapping[str, str], version: int, author: str
) -> dict[str, str]:
    """What is asked for after a change: three ways, by name.

    Args:
        base: what the change was made on, by name; current: what is in force now.
        version, author: of what is in force, for the sentence.

    Raises:
        MaestroError: ``conflict`` when somebody else has changed the same name meanwhile into something else.
    """
    installed = {it.name: it.version for it in change.built.installed} if change.built else {}

    def content(name: str, text: str, there: str | None) -> bool:
        return _content_with(text, there, installed.get(name))

    return merged_by_name(by_name(change.add), change.remove, base, current, version, author, content=content)


def merged_by_name(
    add: Mapping[str, str],
    remove: Iterable[str],
    base: Mapping[str, str],
    current: Mapping[str, str],
    version: int,
    author: str,
    *,
    title: str = TITLES[PYTHON],
    content: Callable[[str, str, str | None], bool] = lambda name, text, there: False,
) -> dict[str, str]:
    """As :func:`merged`, of anything that stands under names.

    Args:
        content: of a name, what is to be added, and what is there: whether that is met already.

    Raises:
        MaestroError: as :func:`merged`.
    """
    made = dict(current)
    for name, text in add.items():
        there = current.get(name)
        if there == text or content(name, text, there):
            continue
        if there != base.get(name):
            raise _conflict(name, there, f"asks for {text}", version, author, title)
        made[name] = text
    for name in remove:
        there = current.get(name)
        if there is not None and there != base.get(name):
            raise _conflict(name, there, "removes it", version, author, title)
        made.pop(name, None)
    if len(made) > MAX_PACKAGES:
        raise MaestroError("invalid_request", f"An environment asks for at most {MAX_PACKAGES} packages; remove some.")
    return dict(sorted(made.items()))


def _content_with(text: str, there: str | None, installed: str | None) -> bool:
    """Whether a name without versions is met by what is asked for already."""
    wanted = Requirement(text)
    if there is None or wanted.specifier or wanted.extras - Requirement(there).extras:
        return False
    return installed is None or takes(there, installed)


def _conflict(name: str, there: str | None, ours: str, version: int, author: str, title: str) -> MaestroError:
    theirs = f"changed it to {there}" if there else "removed it"
    return MaestroError(
        "conflict",
        f"{name}: {author} {theirs} in version {version} of the {title}, and this change {ours}; look at that "
        "version first, then change it again.",
        {"package": name, "version": version},
    )


def moved(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[PackageMove, ...]:
    """What is different between two mappings of names."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return tuple(PackageMove(name=name, before=before.get(name), after=after.get(name)) for name in names)
