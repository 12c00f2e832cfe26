"""Packages that are installed: the image's, the launch's, and those in environments that people made.

Read from what installers leave (PEP 376 and the core metadata; conda's ``conda-meta``); nothing of it is imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from maestro_core.scans import MAX_PACKAGES, Package

#: folders below home and workspace in which environments are looked for
_DEPTH = 6
_MAX_FOLDERS = 20_000


def installed(prefix: Path, environment: Path | None, others: Iterable[Path] = ()) -> tuple[list[Package], list[str]]:
    """Every package, and a sentence for what could not be looked at.

    Args:
        prefix: what the server runs from ("image").
        environment: of the launch.
        others: folders in which people may have made environments.
    """
    found: dict[Package, None] = {}
    notes: list[str] = []
    for place, folder in _prefixes(prefix, environment, others, notes):
        for package in _of_prefix(folder, place):
            found[package] = None
    if len(found) > MAX_PACKAGES:
        notes.append(f"More than {MAX_PACKAGES} packages are installed; the others were not looked at.")
    return sorted(found, key=lambda one: (one.name.lower(), one.version, one.place))[:MAX_PACKAGES], notes


def _prefixes(
    prefix: Path, environment: Path | None, others: Iterable[Path], notes: list[str]
) -> Iterator[tuple[str, Path]]:
    yield "image", prefix
    if environment is not None:
        yield "this server", environment
    for folder in others:
        for one in _environments(folder, notes):
            yield str(one), one


def _environments(folder: Path, notes: list[str]) -> Iterator[Path]:
    """Virtual and conda environments below a folder; links are not followed."""
    for seen, (root, folders, files) in enumerate(os.walk(folder, followlinks=False), 1):
        if seen > _MAX_FOLDERS:
            notes.append(f"{folder} has more than {_MAX_FOLDERS} folders; the others were not searched.")
            return
        if "pyvenv.cfg" in files or "conda-meta" in folders:
            yield Path(root)
            folders.clear()
        elif len(Path(root).relative_to(folder).parts) >= _DEPTH:
            folders.clear()


def _of_prefix(prefix: Path, place: str) -> Iterator[Package]:
    conda = list(_conda(prefix, place))
    yield from conda
    names = {package.name for package in conda}
    packages = [str(path) for path in prefix.glob("lib*/python*/site-packages")]
    for one in distributions(path=packages):
        name, version = _name(one)
        if name and name not in names:
            yield Package(name=name, version=version, place=place)


def _name(one: Distribution) -> tuple[str, str]:
    try:
        return one.metadata["Name"] or "", one.version or ""
    except Exception:  # whatever a stranger wrote there
        return "", ""


def _conda(prefix: Path, place: str) -> Iterator[Package]:
    for path in prefix.glob("conda-meta/*.json"):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(record, Mapping) and isinstance(record.get("name"), str):
            channel = str(record.get("channel") or "").rstrip("/")
            # .../conda-forge/linux-64
            parts = [part for part in channel.split("/") if part]
            subdir = str(record.get("subdir") or "")
            if parts and parts[-1] == subdir:
                parts.pop()
            yield Package(
                name=record["name"],
                version=str(record.get("version") or ""),
                place=place,
                channel=parts[-1] if parts else "conda",
            )
