"""What a wheel's METADATA says, and whether that may be installed from here.

A requirement with an address of its own (``Requires-Dist: x @ https://...``) leads past the index, whatever the policy
says about ``x``. And what a resolver decides by is the ``.metadata`` beside a wheel (PEP 658), while what is installed
is the wheel: so the two are compared before the last byte of the wheel is given away.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from urllib.parse import urlsplit

from packaging.metadata import RawMetadata, parse_email
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, canonicalize_version

from maestro_core.errors import MaestroError

#: METADATA is text with a long description; more than that is none
MAX_BYTES = 16 * 1024**2
_KEPT, _KEPT_BYTES = 500, 64 * 1024
#: what resolvers decide by
_DECIDING = ("name", "version", "requires_dist", "requires_python", "provides_extra")


class ShownMetadata:
    """Metadata that passed its check, the latest of it: a wheel is mostly asked for right after its metadata."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()

    def get(self, name: str) -> bytes | None:
        """What is kept under that name."""
        return self._kept.get(name)

    def put(self, name: str, content: bytes) -> None:
        """Keep it, if it is not large; the oldest goes."""
        if len(content) <= _KEPT_BYTES:
            self._kept[name] = content
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)


def check_metadata(content: bytes, project: str, version: str) -> RawMetadata:
    """Read a METADATA file.

    Args:
        project: normal name, as the page has it; version: as the file's name has it.

    Raises:
        MaestroError: ``package_blocked`` if it is of something else, cannot be read, or leads past the index.
    """
    found, unread = parse_email(content)
    title = f"{project} {version}"
    if "requires-dist" in unread or "name" in unread or "version" in unread:
        raise _refused(
            f"The metadata of {title} cannot be read, so it is refused; tell an admin of this Hub.", "metadata"
        )
    same_name = canonicalize_name(found.get("name", "")) == project
    if not same_name or _plain(found.get("version", "")) != _plain(version):
        said = f"{found.get('name', 'nothing')} {found.get('version', '')}".strip()[:80]
        raise _refused(
            f"{title} calls itself {said} in its metadata, so it is refused; tell an admin of this Hub.", "metadata"
        )
    for line in found.get("requires_dist", []):
        where = _address(line)
        if where is not None:
            raise _refused(
                f"{title} requires {where} from an address of its own, past this index, so it is refused. "
                "Install a version that requires it by name, or ask an admin of this Hub for one.",
                "Requires-Dist",
            )
    return found


def check_wheel(path: Path, project: str, version: str, shown: bytes | None) -> None:
    """Look into a wheel that has arrived. Blocking.

    Args:
        shown: the metadata that was shown for it, or None if there was none.

    Raises:
        MaestroError: ``package_blocked``, as :func:`check_metadata`, or if it is not what was shown.
    """
    try:
        content = _read(path)
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, NotImplementedError, RuntimeError, EOFError):
        raise _refused(
            f"The wheel of {project} {version} holds no metadata that can be read, so it is refused; "
            "tell an admin of this Hub.",
            "metadata",
        ) from None
    inside = check_metadata(content, project, version)
    if shown is None or shown == content:
        return
    outside, _ = parse_email(shown)
    if any(_value(inside, key) != _value(outside, key) for key in _DECIDING):
        raise _refused(
            f"The wheel of {project} {version} is not what its metadata showed, so it is refused; "
            "tell an admin of this Hub.",
            "metadata",
        )


def _read(path: Path) -> bytes:
    """The one METADATA at the top of a wheel.

    Raises:
        ValueError, zipfile.BadZipFile: if there is none, more than one, or it is too large.
    """
    with zipfile.ZipFile(path) as archive:
        found = [
            entry
            for entry in archive.infolist()
            if entry.filename.count("/") == 1 and entry.filename.endswith(".dist-info/METADATA")
        ]
        if len(found) != 1 or found[0].file_size > MAX_BYTES:
            raise ValueError
        with archive.open(found[0]) as file:
            return file.read(MAX_BYTES + 1)[:MAX_BYTES]


def _address(line: str) -> str | None:
    """The name and host of a requirement with an address, for a sentence; None for an ordinary one."""
    try:
        wanted = Requirement(line)
    except InvalidRequirement:
        return " ".join(line.split())[:60] if "@" in line else None  # clients read it as they like, or not at all
    if not wanted.url:
        return None
    host = urlsplit(wanted.url).hostname
    return f"{wanted.name} ({host})" if host else wanted.name


def _plain(version: str) -> str:
    return str(canonicalize_version(version.replace("_", "-")))


def _value(metadata: RawMetadata, key: str) -> object:
    value = metadata.get(key)
    if key in ("requires_dist", "provides_extra"):
        return sorted("".join(line.split()) for line in value) if isinstance(value, list) else []
    return "".join(str(value or "").split())


def _refused(sentence: str, rule: str) -> MaestroError:
    return MaestroError("package_blocked", sentence, {"rule": rule})
