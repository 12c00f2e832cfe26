"""Versions of conda's packages, compared by conda's own order: letters come before nothing (``1.1.1w`` < ``1.1.1``).

The order is py-rattler's. A rule is written as pip writes it, and read as conda would; a rule about a conda channel may
also name a version that is none to pip (``conda-forge::openssl<1.1.1w``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rattler import Version, VersionSpec


def contains(specifier: str, version: str) -> bool:
    """Whether a version is one of those that a specifier names (``<2,>=1.0``, ``==1.*``).

    Raises:
        ValueError: either cannot be read, or nothing here can read it.
    """
    return all(_meets(part.strip(), version) for part in specifier.split(","))


def check_specifier(specifier: str) -> str:
    """The same without spaces.

    Raises:
        ValueError: it is no specifier of conda's versions.
    """
    parts = [part.strip() for part in specifier.split(",")]
    for part in parts:
        _spec(part)
    return ",".join(parts)


def _meets(part: str, version: str) -> bool:
    if part.startswith("==="):
        return part[3:].strip() == version
    return _spec(part).matches(_version(version))


@lru_cache(maxsize=4096)
def _spec(part: str) -> VersionSpec:
    # `==1.*` is `1.*` to conda, and `==1` to a lenient reader of it
    written = part.removeprefix("==") if part.startswith("==") and part.endswith(".*") else part
    try:
        from rattler import VersionSpec

        return VersionSpec(written)
    except Exception as error:
        raise ValueError(f"{part[:60]!r} is no condition on versions that conda knows") from error


@lru_cache(maxsize=65536)
def _version(text: str) -> Version:
    try:
        from rattler import Version

        return Version(text)
    except Exception as error:
        raise ValueError(f"{text[:60]!r} is no version that conda knows") from error
