"""What somebody wants of conda: packages named in a command, an ``environment.yml``, or an ``@EXPLICIT`` file.

Channels and packages are names, which lead to the server's own index. Addresses in an explicit file are read for the
channel and the file that they name, and the file is taken from the index too, with the hash that stands there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import yaml

from maestro_core.conda import conda_channel
from maestro_core.conda_environments import channel_of, check_spec, from_pip
from maestro_core.conda_files import check_subdir, parse_file_name
from maestro_core.errors import MaestroError
from maestro_core.packages import PYPI

EXPLICIT = "@EXPLICIT"
_MAX_BYTES = 1024**2
#: MD5 or SHA-256, in hex, maybe with its name
_DIGEST = re.compile(r"(?:(?:md5|sha256)[:=])?(?P<hex>[0-9a-fA-F]{32}|[0-9a-fA-F]{64})")
#: of an environment.yml: what says which packages, and what is of conda's own machine
_KEYS, _LEFT_OUT = frozenset({"channels", "dependencies", "name", "prefix"}), frozenset({"variables"})

T = TypeVar("T")


@dataclass(frozen=True)
class ExplicitFile:
    """One line of an explicit file.

    Attributes:
        digest: MD5 or SHA-256, hex; empty where the line has none.
    """

    channel: str
    subdir: str
    filename: str
    digest: str = ""

    @property
    def name(self) -> str:
        """Of the package."""
        found = parse_file_name(self.filename)
        return found.name if found else self.filename


@dataclass(frozen=True)
class Wish:
    """What is to be installed.

    Attributes:
        specs: as :func:`~maestro_core.conda_environments.check_spec` has them.
        channels: those that are looked in besides. files: exactly these, and nothing is solved.
        left_out: keys of a file that mean nothing here.
    """

    specs: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    files: tuple[ExplicitFile, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is named."""
        return not (self.specs or self.files)


def named(packages: Iterable[str]) -> Wish:
    """Packages of a command.

    Raises:
        MaestroError: ``invalid_request`` for what names none.
    """
    specs = tuple(_said(check_spec, text) for text in packages)
    return Wish(specs, tuple(dict.fromkeys(_own_channels(specs))))


def read_file(path: Path) -> Wish:
    """An environment.yml or an explicit file.

    Raises:
        MaestroError: ``invalid_request``, naming the file and what in it cannot be.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise MaestroError("invalid_request", f"{path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise MaestroError("invalid_request", f"{path} is no text.") from None
    if len(content) > _MAX_BYTES:
        raise MaestroError("invalid_request", f"{path} is larger than 1 MiB, which no environment is.")
    lines = [line.strip() for line in text.splitlines()]
    try:
        return _explicit(lines) if EXPLICIT in lines else _environment(text)
    except MaestroError as error:
        raise MaestroError(error.code, f"{path.name}: {error.message}", error.details) from None


def _explicit(lines: Iterable[str]) -> Wish:
    wanted = [line for line in lines if line and not line.startswith("#") and line != EXPLICIT]
    files = tuple(_said(_explicit_file, line) for line in wanted)
    if not files:
        raise MaestroError("invalid_request", "it names no package; below @EXPLICIT stands an address a line.")
    return Wish(files=files, channels=tuple(dict.fromkeys(it.channel for it in files)))


def _explicit_file(line: str) -> ExplicitFile:
    """The channel, folder and file at the end of an address: whose host that is does not matter, it is not asked.

    Raises:
        ValueError: it names none.
    """
    address, _, digest = line.partition("#")
    parts = [part for part in urlsplit(address).path.split("/") if part]
    found = _DIGEST.fullmatch(digest.strip())
    if "://" not in address or len(parts) < 3 or parse_file_name(parts[-1]) is None or (digest and not found):
        raise ValueError(f"{_shown(line)!r} is no address of a conda package, maybe with #hash after it")
    labelled = parts[-5:-2] if len(parts) >= 5 and parts[-4] == "label" else parts[-3:-2]
    channel = conda_channel("/".join(labelled))
    return ExplicitFile(channel, check_subdir(parts[-2]), parts[-1], found["hex"].lower() if found else "")


def _shown(line: str) -> str:
    """A line without what may be a token in it."""
    return re.sub(r"/t/[^/\s]+", "/t/***", line)[:120]


def _environment(text: str) -> Wish:
    try:
        told = yaml.safe_load(text)
    except yaml.YAMLError:
        told = None
    if not isinstance(told, Mapping) or not isinstance(told.get("dependencies"), list):
        raise MaestroError("invalid_request", "it is no environment.yml: a list 'dependencies' is missing.")
    if unknown := sorted(str(key) for key in told if key not in _KEYS | _LEFT_OUT):
        raise MaestroError("invalid_request", f"what {unknown[0][:60]!r} is, nobody here knows; take it out.")
    channels = [_said(conda_channel, name) for name in _listed(told.get("channels")) if name != "nodefaults"]
    specs = [spec for entry in told["dependencies"] for spec in _dependency(entry)]
    if not specs:
        raise MaestroError("invalid_request", "it names no package.")
    found = dict.fromkeys([*channels, *_own_channels(specs)])
    return Wish(tuple(specs), tuple(found), left_out=tuple(sorted(_LEFT_OUT & told.keys())))


def _dependency(entry: Any) -> list[str]:
    """One entry: a package, or the pip section."""
    if isinstance(entry, str):
        return [_said(check_spec, entry)]
    if isinstance(entry, Mapping) and list(entry) == ["pip"]:
        return [_said(from_pip, line) for line in _listed(entry["pip"])]
    raise MaestroError("invalid_request", f"{str(entry)[:60]!r} is neither a package nor the list of 'pip'.")


def _listed(value: Any) -> list[str]:
    return [str(it) for it in value] if isinstance(value, list) else [] if value is None else [str(value)]


def _own_channels(specs: Iterable[str]) -> list[str]:
    """The channels that are written before packages (``pytorch::pytorch``)."""
    return [channel for spec in specs if (channel := channel_of(spec)) and channel != PYPI]


def _said(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise MaestroError("invalid_request", f"{error}.") from None
