"""Repodata of any size: read, cleaned, changed, written, one record after the other as bytes.

Nothing here knows a policy: :func:`take_in` makes what upstream sent safe to show and finds its files, :func:`change`
applies a plan that somebody else made. Both take seconds for a large channel, so ``worker.py`` runs them elsewhere.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from maestro_core.conda_files import parse_file_name

#: an upstream that sends more than that, unpacked, is not read
MAX_BYTES = 2 * 1024**3
#: zstd's level: 9 takes twice the time of 3 for 5 % less; readers do not care
LEVEL = 3
_THREADS = 2
_CHUNK = 4 * 1024**2
#: the two lists of records, in the order of writing
_LISTS = ("packages", "packages.conda")
#: a record that leads elsewhere, or says that it is another channel's
_LEADING_OUT = ("url", "base_url", "channel")


class RepodataError(ValueError):
    """What upstream sent is no repodata; one sentence."""


class TooLargeError(RepodataError):
    """It is larger than what is read here."""


class _Document(msgspec.Struct):
    """All that is taken of a document. What it has besides is not shown: it could list packages that nobody judges."""

    packages: dict[str, msgspec.Raw] = {}
    conda: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict, name="packages.conda")
    info: dict[str, Any] = {}
    removed: list[str] = []


class _Record(msgspec.Struct):
    """What is read of a record."""

    name: str
    version: str
    build: str
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    url: Any = None
    base_url: Any = None
    channel: Any = None


#: file, name, version, sha256, md5, size
_Row = tuple[str, str, str, str | None, str | None, int | None]

_documents = msgspec.json.Decoder(_Document)
_records = msgspec.json.Decoder(_Record)


def take_in(
    source: Path, packed: bool, subdir: str, body: Path, catalog: Path, most: int = MAX_BYTES
) -> dict[str, Any]:
    """Clean a channel's repodata for showing, and write down its files.

    A record stays as it is, byte for byte, unless it leads elsewhere. One whose file's name is not made of its own
    name, version and build is left out, since a client would take one package for another; and one without a hash, by
    which its file could be verified.

    Args:
        source: as upstream sent it; packed: as zstd.
        body: written: the document, as zstd.
        catalog: written: a database of files and versions.
        most: bytes of the document, unpacked.

    Returns:
        ``base_url`` where the document says that the files lie elsewhere (CEP-15), and ``records``.

    Raises:
        RepodataError: it cannot be read; TooLargeError: it is larger than ``most``.
        OSError, sqlite3.Error: it cannot be written.
    """
    document = _decode(_unpacked(source, most) if packed else _plain(source, most))
    kept: dict[str, list[tuple[str, bytes | msgspec.Raw]]] = {name: [] for name in _LISTS}
    rows: list[_Row] = []
    for title, listed in zip(_LISTS, (document.packages, document.conda), strict=True):
        for filename, raw in listed.items():
            record = _read(filename, raw)
            if record is None:
                continue
            kept[title].append((filename, _staying(raw, record)))
            size = record.size if record.size is not None and record.size >= 0 else None
            md5 = None if record.sha256 else record.md5
            rows.append((filename, record.name, record.version, record.sha256, md5, size))
    removed = [name for name in document.removed if parse_file_name(name)]
    _write_document(body, subdir, kept, removed)
    _write_catalog(catalog, rows)
    base_url = document.info.get("base_url")
    return {"records": len(rows), "base_url": base_url if isinstance(base_url, str) else ""}


def change(body: Path, plan: Mapping[str, Any], target: Path, most: int = MAX_BYTES) -> None:
    """Write a changed copy of a body.

    Args:
        body: as :func:`take_in` wrote it.
        plan: ``hinder``: name -> version -> dependency to add; ``drop``: names that go; ``only``: None, or the only
            ones that stay: name -> versions.
        most: bytes of the document, unpacked.

    Raises:
        TooLargeError: it is larger than ``most``.
        OSError: it cannot be written.
    """
    document = _decode(_unpacked(body, most))
    hinder, only, drop = plan["hinder"], plan["only"], frozenset(plan["drop"])
    kept: dict[str, list[tuple[str, bytes | msgspec.Raw]]] = {name: [] for name in _LISTS}
    for title, listed in zip(_LISTS, (document.packages, document.conda), strict=True):
        for filename, raw in listed.items():
            name, version, _ = filename.rsplit("-", 2)  # take_in has seen to it that it is the record's
            if name in drop or (only is not None and version not in only.get(name, ())):
                continue
            dependency = hinder.get(name, {}).get(version) if name in hinder else None
            kept[title].append((filename, _hindered(raw, dependency) if dependency else raw))
    _write_document(target, str(document.info["subdir"]), kept, document.removed)


def _plain(source: Path, most: int) -> bytes:
    if source.stat().st_size > most:
        raise TooLargeError("it is larger than 2 GiB")
    return source.read_bytes()


def _unpacked(source: Path, most: int) -> bytes:
    parts, size = [], 0
    try:
        with source.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as it:
            while part := it.read(_CHUNK):
                size += len(part)
                if size > most:
                    raise TooLargeError("it is larger than 2 GiB unpacked")
                parts.append(part)
    except zstandard.ZstdError:
        raise RepodataError("it is no zstd file") from None
    return b"".join(parts)


def _decode(content: bytes) -> _Document:
    try:
        return _documents.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RepodataError(f"it is no repodata: {str(error)[:200]}") from None


def _read(filename: str, raw: msgspec.Raw) -> _Record | None:
    """The record, or None if it is none, or is not what its file's name says."""
    try:
        record = _records.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not record.sha256 and not record.md5:
        return None
    stem = f"{record.name}-{record.version}-{record.build}"
    if filename not in (f"{stem}.conda", f"{stem}.tar.bz2") or parse_file_name(filename) is None:
        return None
    return record


def _staying(raw: msgspec.Raw, record: _Record) -> bytes | msgspec.Raw:
    if record.url is None and record.base_url is None and record.channel is None:
        return raw
    fields = {key: value for key, value in msgspec.json.decode(raw).items() if key not in _LEADING_OUT}
    return msgspec.json.encode(fields)


def _hindered(raw: msgspec.Raw, dependency: str) -> bytes:
    fields = msgspec.json.decode(raw)
    depends = fields.get("depends")
    fields["depends"] = [dependency, *(depends if isinstance(depends, list) else [])]
    return msgspec.json.encode(fields)


def _write_document(
    target: Path, subdir: str, lists: Mapping[str, list[tuple[str, bytes | msgspec.Raw]]], removed: list[str]
) -> None:
    parts = list(_parts(subdir, lists, removed))
    size = sum(len(part) for part in parts)
    # the size stands in the frame's header: some readers allocate by it, and none has to guess
    packer = zstandard.ZstdCompressor(level=LEVEL, threads=_THREADS)
    with target.open("wb") as file, packer.stream_writer(file, size=size, closefd=False) as writer:
        for chunk in _chunks(parts):
            writer.write(chunk)


def _parts(
    subdir: str, lists: Mapping[str, list[tuple[str, bytes | msgspec.Raw]]], removed: list[str]
) -> Iterator[memoryview | bytes]:
    yield b'{"info":' + json.dumps({"subdir": subdir}).encode()
    for title, records in lists.items():
        yield f',"{title}":{{'.encode()
        start = b'"'
        for filename, raw in records:
            yield start + filename.encode() + b'":'  # parse_file_name lets no quote and backslash through
            yield raw if isinstance(raw, bytes) else memoryview(raw)
            start = b',"'
        yield b"}"
    yield b',"removed":' + json.dumps(removed).encode() + b',"repodata_version":1}'


def _chunks(parts: Iterable[memoryview | bytes]) -> Iterator[bytes]:
    gathered: list[memoryview | bytes] = []
    size = 0
    for part in parts:
        gathered.append(part)
        size += len(part)
        if size >= _CHUNK:
            yield b"".join(gathered)
            gathered, size = [], 0
    yield b"".join(gathered)


def _write_catalog(target: Path, rows: list[_Row]) -> None:
    target.unlink(missing_ok=True)
    with closing(sqlite3.connect(target, isolation_level=None)) as base:
        base.execute("PRAGMA journal_mode=OFF")
        base.execute("PRAGMA synchronous=OFF")
        base.execute(
            "CREATE TABLE files (file TEXT PRIMARY KEY, name TEXT, version TEXT, sha256 TEXT, md5 TEXT, size INTEGER)"
            " WITHOUT ROWID"
        )
        base.execute("CREATE TABLE versions (name TEXT, version TEXT, PRIMARY KEY (name, version)) WITHOUT ROWID")
        base.execute("BEGIN")
        base.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", sorted(rows))
        base.executemany("INSERT INTO versions VALUES (?, ?)", sorted({(row[1], row[2]) for row in rows}))
        base.execute("COMMIT")
