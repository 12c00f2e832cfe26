"""The names of files and folders in a conda channel."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: the two formats of packages, by the ending of their files
ENDINGS = (".conda", ".tar.bz2")

_SUBDIR = re.compile(r"noarch|[a-z0-9]{1,20}-[a-z0-9_]{1,20}")
#: what conda allows in the parts of a file's name (no hyphen in version and build)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_PART = re.compile(r"[A-Za-z0-9_.+!]{1,200}")


@dataclass(frozen=True, slots=True)
class CondaFile:
    """A package's file, as its name tells it."""

    name: str
    version: str
    build: str


def parse_file_name(filename: str) -> CondaFile | None:
    """``numpy-2.1.0-py312_0.conda`` in its parts; None if it is no package's file."""
    ending = next((it for it in ENDINGS if filename.endswith(it)), None)
    parts = filename.removesuffix(ending).rsplit("-", 2) if ending else []
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]) or not all(_PART.fullmatch(part) for part in parts[1:]):
        return None
    return CondaFile(*parts)


def check_subdir(text: str) -> str:
    """A platform's folder of a channel: ``linux-64``, ``noarch``.

    Raises:
        ValueError: if it is none.
    """
    if not _SUBDIR.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no folder of a channel; linux-64 and noarch are some")
    return text
