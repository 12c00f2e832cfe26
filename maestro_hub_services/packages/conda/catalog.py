"""The catalog of a folder: its files, and what of them a policy changes. Everything here blocks: call it in threads."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from maestro_core.conda import Fate, fate_of, has_varied_fates, hindrance, is_trusted
from maestro_core.packages import CompiledPolicy

_FIND = "SELECT name, version, sha256, md5, size FROM files WHERE file = ?"
_NAMES = "SELECT DISTINCT name FROM versions"
_VERSIONS = "SELECT version FROM versions WHERE name = ? ORDER BY version"


class Entry(NamedTuple):
    """One file of a folder."""

    name: str
    version: str
    sha256: str | None
    md5: str | None
    size: int | None

    @property
    def hashes(self) -> dict[str, str]:
        """Hex by algorithm."""
        return {key: value for key, value in (("sha256", self.sha256), ("md5", self.md5)) if value}


def find(catalog: Path, filename: str) -> Entry | None:
    """A file by its name, or None if the folder's repodata has none of it."""
    rows = _ask(catalog, _FIND, (filename,))
    return Entry(*rows[0]) if rows else None


def make_plan(catalog: Path, policy: CompiledPolicy, channel: str) -> dict[str, Any] | None:
    """What of a folder a policy changes: only packages with rules about some versions are looked at one by one.

    Takes time for a large channel: call it in a thread.

    Returns:
        as :func:`.repodata.change` takes it, or None if nothing changes.
    """
    trusted = is_trusted(policy, channel)
    hinder: dict[str, dict[str, str]] = {}
    only: dict[str, list[str]] = {}
    drop: set[str] = set()
    for (name,) in _ask(catalog, _NAMES, ()):
        if not _varies(policy, channel, name):
            continue
        for (version,) in _ask(catalog, _VERSIONS, (name,)):
            fate, verdict = fate_of(policy, channel, name, version)
            if fate is Fate.HINDER:
                hinder.setdefault(name, {})[version] = hindrance(verdict)
            elif fate is Fate.LEAVE_OUT:
                drop.add(name)
            elif not trusted:
                only.setdefault(name, []).append(version)
    if not trusted:
        return {"hinder": {}, "only": only, "drop": []}
    return {"hinder": hinder, "only": None, "drop": sorted(drop)} if hinder or drop else None


def _varies(policy: CompiledPolicy, channel: str, name: str) -> bool:
    try:
        return has_varied_fates(policy, channel, name)
    except ValueError:  # names no package: its files are refused when they are asked for
        return False


def _ask(path: Path, question: str, values: tuple[str, ...]) -> list[Any]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as base:
        return base.execute(question, values).fetchall()
