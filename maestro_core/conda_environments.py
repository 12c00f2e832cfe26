"""The conda environment of a workspace: a row of versions beside that of Python's packages, changed in the same way.

A version says which packages of which channels people asked for, as conda writes them (``numpy``, ``numpy >=2``,
``pytorch::pytorch``), and from Python's own index what the pip section of an environment.yml holds (``pypi::rich<14``).
A lock names every file for one platform. What a notebook server solves is told to the service with the change
(:class:`CondaChange`); what two people add at the same time stands beside each other, and the next server solves it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .conda import conda_channel
from .conda_files import check_subdir
from .environments import MAX_LOCKED, TITLES, HistoryLine, Kind, merged_by_name
from .packages import PYPI, package_name
from .workspace_settings import MAX_PACKAGES, check_requirement

CONDA: Kind = "conda"
MAX_CHANNELS = 20
#: before a requirement of Python's own index
_PIP = f"{PYPI}::"
#: a name, then at most versions and a build; brackets, addresses and paths are ways to say where a package lies
_SPEC = re.compile(r"(?P<name>_?[A-Za-z0-9][A-Za-z0-9_.-]{0,99})(?P<rest>(?:[ =<>!~][A-Za-z0-9 =<>!~|,.*+_-]{0,150})?)")
_BUILD = re.compile(r"[A-Za-z0-9_.+!]{1,100}")
_VERSION = re.compile(r"[A-Za-z0-9_.+!-]{1,60}")
_HASH = re.compile(r"[0-9a-f]{64}")


def check_spec(text: Any) -> str:
    """One package as conda writes it, or ``pypi::`` and a requirement as pip writes it.

    Raises:
        ValueError: one sentence.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError("name a package, like 'numpy' or 'numpy >=2'")
    text = text.strip()
    if text.startswith(_PIP):
        return _PIP + check_requirement(text.removeprefix(_PIP))
    channel, separator, rest = text.rpartition("::")
    found = _SPEC.fullmatch(rest.strip())
    if found is None:
        raise ValueError(
            f"{text[:100]!r} is no package as conda writes it, like 'numpy', 'numpy >=2' or 'pytorch::numpy'"
        )
    package_name(found["name"], None)
    return f"{conda_channel(channel)}::{rest.strip()}" if separator else rest.strip()


def spec_name(spec: str) -> str:
    """Under which name a spec stands: ``numpy``; of Python's own index is another thing: ``pypi::rich``."""
    if spec.startswith(_PIP):
        return _PIP + package_name(re.split(r"[^A-Za-z0-9._-]", spec.removeprefix(_PIP), maxsplit=1)[0])
    found = _SPEC.fullmatch(spec.rpartition("::")[2])
    if found is None:
        raise ValueError(f"{spec[:100]!r} is no package")
    return package_name(found["name"], None)


def channel_of(spec: str) -> str | None:
    """The channel that a spec names; None: any."""
    return spec.rpartition("::")[0] or None


def pip_requirements(specs: Iterable[str]) -> list[str]:
    """What of it comes from Python's own index, as pip writes it."""
    return [spec.removeprefix(_PIP) for spec in specs if spec.startswith(_PIP)]


def conda_specs(specs: Iterable[str]) -> list[str]:
    """What of it comes from channels."""
    return [spec for spec in specs if not spec.startswith(_PIP)]


def from_pip(requirement: str) -> str:
    """A requirement of pip's as a spec.

    Raises:
        ValueError: it names an address or a file, or is none.
    """
    return check_spec(_PIP + requirement)


def specs_by_name(specs: Iterable[str]) -> dict[str, str]:
    """Specs by their name; of one that is there twice the last counts."""
    return {spec_name(spec): spec for spec in specs}


def _specs(value: Any) -> Any:
    return tuple(check_spec(entry) for entry in value) if isinstance(value, list | tuple) else value


def _names(value: Any) -> Any:
    return tuple(spec_name(check_spec(entry)) for entry in value) if isinstance(value, list | tuple) else value


def _channels(value: Any) -> Any:
    return tuple(conda_channel(str(entry)) for entry in value) if isinstance(value, list | tuple) else value


Specs = Annotated[tuple[str, ...], BeforeValidator(_specs), Field(max_length=MAX_PACKAGES)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names), Field(max_length=MAX_PACKAGES)]
ChannelNames = Annotated[tuple[str, ...], BeforeValidator(_channels), Field(max_length=MAX_CHANNELS)]


class LockedCondaPackage(BaseModel):
    """One package of a conda lock.

    Attributes:
        name: as its channel spells it.
        channel: where it lies; ``pypi``: Python's own index, and then ``build`` and ``sha256`` are empty.
        sha256: of its file, hex; empty where the channel names none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    build: str = ""
    channel: str
    sha256: str = ""

    @model_validator(mode="after")
    def _plain(self) -> LockedCondaPackage:
        if self.channel != PYPI:
            conda_channel(self.channel)
        package_name(self.name, self.channel)
        built = self.channel == PYPI or _BUILD.fullmatch(self.build)
        if not _VERSION.fullmatch(self.version) or not built or (self.sha256 and not _HASH.fullmatch(self.sha256)):
            raise ValueError(f"{self.name} has no version, build or SHA-256 that can be one")
        return self

    @property
    def key(self) -> str:
        """The name that a spec for it stands under (:func:`spec_name`)."""
        return package_name(self.name, self.channel) if self.channel != PYPI else _PIP + package_name(self.name)


CondaLock = Annotated[tuple[LockedCondaPackage, ...], Field(max_length=MAX_LOCKED)]


class CondaBuilt(BaseModel):
    """All that a server has in its conda environment after a change.

    Attributes:
        target: the platform, as conda calls it: ``linux-64``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str
    packages: CondaLock

    @field_validator("target")
    @classmethod
    def _target(cls, value: str) -> str:
        return check_subdir(value)


class CondaChange(BaseModel):
    """The body of ``POST /workspaces/{workspace}/conda``.

    Attributes:
        parent: the version that the change was made on (0: none was there); left out: the current one.
        add: specs; each replaces what was asked for under its name. remove: names.
        channels: those that are looked in besides the ones that are there, in their order.
        reason: one line for the history.
        built: from a running server: the files that go with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parent: int | None = Field(default=None, ge=0)
    add: Specs = ()
    remove: Names = ()
    channels: ChannelNames = ()
    reason: HistoryLine = ""
    built: CondaBuilt | None = None

    @model_validator(mode="after")
    def _something(self) -> CondaChange:
        if not (self.add or self.remove or self.built):
            raise ValueError("name a package to add or to remove")
        twice = specs_by_name(self.add).keys() & set(self.remove)
        if twice:
            raise ValueError(f"{min(twice)} is to be added and removed; name it once")
        return self


class CondaBuild(BaseModel):
    """What a server builds for its platform: specs and channels, with the files that they meant.

    Attributes:
        version: 0: nothing was installed yet.
        complete: ``packages`` is all of it; else the server solves, and takes these versions where they still fit.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 0
    requirements: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    complete: bool = False
    packages: tuple[LockedCondaPackage, ...] = ()


def merged_specs(
    change: CondaChange, base: Mapping[str, str], current: Mapping[str, str], version: int, author: str
) -> dict[str, str]:
    """What is asked for after a change, by name; as :func:`~maestro_core.environments.merged`.

    Raises:
        MaestroError: ``conflict`` when somebody else has changed the same name meanwhile into something else.
    """

    add = specs_by_name(change.add)
    return merged_by_name(add, change.remove, base, current, version, author, title=TITLES[CONDA])
