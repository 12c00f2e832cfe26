"""Which files of the checkout the installed project consists of, and how it is built from them."""

from __future__ import annotations

import configparser
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from steps import Log

METADATA = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
NOT_SOURCE = ("__pycache__", ".ipynb_checkpoints")
# PEP 517: what `pip` would run, without its throw-away environment, which would need the network.
BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"


def sources(root: Path) -> list[Path]:
    """The files, relative to ``root`` and sorted, that setup.cfg's packages and data_files name, and the metadata."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(root / "setup.cfg")
    packages = config.get("options.packages.find", "include").split()
    data = [
        pattern
        for _, patterns in (config.items("options.data_files") if config.has_section("options.data_files") else [])
        for pattern in patterns.replace(",", " ").split()
    ]
    found = {root / name for name in METADATA if (root / name).is_file()}
    for pattern in [*packages, *data]:
        found.update(_files(root, pattern))
    return sorted(file.relative_to(root) for file in found)


def _files(root: Path, pattern: str) -> Iterator[Path]:
    for match in root.glob(pattern):
        for file in [match] if match.is_file() else match.rglob("*"):
            if file.is_file() and file.suffix != ".pyc" and not any(part in NOT_SOURCE for part in file.parts):
                yield file


def build(kind: str, root: Path, python: Path, into: Path, log: Log) -> Path:
    """Build the project's wheel.

    Args:
        kind: ``wheel``, a copy of the sources with their data files, or ``editable`` (PEP 660), whose imports come
            from ``root`` and which brings the entry points alone.
        python: An interpreter that has setuptools.
        into: A folder that is emptied first.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="maestro-build-") as copy:
        # From a copy, so that no stale build/ of the checkout gets in.
        place = root if kind == "editable" else _copy(root, Path(copy))
        log.run([python, "-c", BUILD, kind, into], cwd=place)
    (wheel,) = into.glob("*.whl")
    return wheel


def _copy(root: Path, target: Path) -> Path:
    for file in sources(root):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / file, target / file)
    return target
