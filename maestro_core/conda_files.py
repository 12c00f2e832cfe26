"""The names of files and folders in a conda channel."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SUBDIR = re.compile(r"noarch|[a-z0-9]{1,20}-[a-z0-9_]{1,20}")
#: name, version, build (neither of which has a hyphen) and ending, of what conda allows in them
_FILE = re.compile(r"([A-Za-z0-9_.-]{1,200})-([A-Za-z0-9_.+!]{1,100})-([A-Za-z0-9_.+!]{1,100})(?:\.conda|\.tar\.bz2)")


@dataclass(frozen=True, slots=True)
class CondaFile:
    """A package's file, as its name tells it."""

    name: str
    version: str
    build: str


def parse_file_name(filename: str) -> CondaFile | None:
    """``numpy-2.1.0-py312_0.conda`` in its parts; None if it is no package's file."""
    found = _FILE.fullmatch(filename)
    return CondaFile(*found.groups()) if found else None


def check_subdir(text: str) -> str:
    """A platform's folder of a channel: ``linux-64``, ``noarch``.

    Raises:
        ValueError: if it is none.
    """
    if not _SUBDIR.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no folder of a channel; linux-64 and noarch are some")
    return text
