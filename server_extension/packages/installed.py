"""What is installed in a folder of packages, read from the names of its ``.dist-info`` folders."""

from __future__ import annotations

import hashlib
import os
import re
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_INFO = ".dist-info"


@dataclass(frozen=True)
class Installed:
    """One package.

    Attributes:
        name: normal name (PEP 503).
        asked: somebody asked for it (``REQUESTED``, PEP 376), and not only another package that needs it.
        elsewhere: it came from an address or a folder (``direct_url.json``, PEP 610) and not from the index.
    """

    name: str
    version: str
    asked: bool = False
    elsewhere: bool = False


def normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages_folder(environment: Path) -> Path:
    """Where a virtual environment has its packages."""
    base = str(environment)
    return Path(sysconfig.get_path("purelib", "venv", vars={"base": base, "platbase": base}))


def stamp(folder: Path) -> int:
    """A number that changes whenever a package comes or goes: one call of the system, microseconds. 0: no folder."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def versions(folder: Path | str) -> dict[str, str]:
    """Name and version of everything in a folder, by the names of the entries alone."""
    return {name: version for name, version, _ in _infos(folder)}


def look(folder: Path) -> dict[str, Installed]:
    """Everything that is installed to its end; what pip or uv is still writing has no RECORD yet."""
    found = {}
    for name, version, entry in _infos(folder):
        info = folder / entry
        if (info / "RECORD").is_file():
            asked, elsewhere = (info / "REQUESTED").is_file(), (info / "direct_url.json").is_file()
            found[name] = Installed(name, version, asked, elsewhere)
    return found


def of_prefix() -> dict[str, str]:
    """What the server's own prefix has, which kernels see behind their own packages."""
    found: dict[str, str] = {}
    for folder in reversed(site.getsitepackages()):
        found |= versions(folder)
    return found


def target_of(prefix: dict[str, str]) -> str:
    """For what a lock is good: this Python, this platform, and these packages of the image.

    Args:
        prefix: :func:`of_prefix`.
    """
    try:
        libc = (os.confstr("CS_GNU_LIBC_VERSION") or "musl").replace(" ", "")
    except (OSError, ValueError):
        libc = "musl"
    platform = re.sub(r"[^a-z0-9_.-]", "", f"{sysconfig.get_platform()}-{libc}".lower())[:40]
    image = "\n".join(f"{name}=={version}" for name, version in sorted(prefix.items()))
    digest = hashlib.sha256(image.encode()).hexdigest()[:12]
    return f"{sys.version_info.major}.{sys.version_info.minor}/{platform}/{digest}"


def _infos(folder: Path | str) -> Iterator[tuple[str, str, str]]:
    try:
        entries = os.listdir(folder)
    except OSError:
        return
    for entry in entries:
        name, dash, version = entry.removesuffix(_INFO).partition("-")
        if entry.endswith(_INFO) and dash:
            yield normal(name), version, entry
