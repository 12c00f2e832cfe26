"""Advisories about packages: read from OSV's files, sent to the service in parts."""

from __future__ import annotations

import json
import secrets
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maestro_core.advisories import Advisory, AdvisoryStatus, read_osv
from maestro_core.errors import MaestroError
from maestro_core.models import read_model

from .api import Api

#: bytes of JSON in one request; the service takes 256 KiB
_PART = 180 * 1024
#: a record is text of a few KiB; one of this size is none
_MAX_RECORD = 4 * 1024 * 1024


@dataclass
class Import:
    """What an import did.

    Attributes:
        records: OSV records that were read. skipped: "file: why" of those that were not.
        status: what the service knows now.
    """

    records: int = 0
    skipped: list[str] = field(default_factory=list)
    status: AdvisoryStatus = field(default_factory=AdvisoryStatus)


class AdvisoryManager:
    """Advisories through the API; importing needs the scope ``custom:maestro:admin``."""

    def __init__(self, url: str | None = None, token: str | None = None, api: Api | None = None) -> None:
        self._api = api or Api(url, token)

    def status(self) -> AdvisoryStatus:
        """What the service knows."""
        return read_model(AdvisoryStatus, self._api.get("/advisories"), "service_unavailable")

    def import_osv(self, paths: Iterable[Path]) -> Import:
        """Import OSV records; what was known before and is not among them is forgotten.

        Args:
            paths: zip files as OSV publishes them for an ecosystem, JSON files, or folders of either.

        Raises:
            MaestroError: ``invalid_request`` if nothing can be read there; as the API.
        """
        done = Import()
        import_id = secrets.token_hex(8)
        for part in _parts(_advisories(paths, done)):
            self._send(import_id, part, last=False)
        if not done.records:
            why = f" ({done.skipped[0]})" if done.skipped else ""
            raise MaestroError(
                "invalid_request",
                f"There is no OSV record in what you named{why}; "
                "name OSV's zip of the PyPI ecosystem, or its JSON files.",
            )
        done.status = self._send(import_id, [], last=True)
        return done

    def _send(self, import_id: str, part: list[dict[str, Any]], last: bool) -> AdvisoryStatus:
        body = {"import_id": import_id, "advisories": part, "last": last}
        return read_model(AdvisoryStatus, self._api.post("/advisories", body), "service_unavailable")


def _advisories(paths: Iterable[Path], done: Import) -> Iterator[Advisory]:
    for name, text in _files(paths, done):
        try:
            found = read_osv(json.loads(text))
        except (ValueError, RecursionError, TypeError, AttributeError) as error:
            done.skipped.append(f"{name}: {_first_line(error)}")
            continue
        done.records += 1
        yield from found


def _files(paths: Iterable[Path], done: Import) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        try:
            if path.is_dir():
                yield from _files(sorted(path.glob("*.json")) + sorted(path.glob("*.zip")), done)
            elif zipfile.is_zipfile(path):
                yield from _zipped(path, done)
            elif path.stat().st_size > _MAX_RECORD:
                done.skipped.append(f"{path.name}: larger than {_MAX_RECORD // 1024 // 1024} MiB")
            else:
                yield path.name, path.read_bytes()
        except OSError as error:
            raise MaestroError("invalid_request", f"{path} cannot be read: {error.strerror}.") from None
        except zipfile.BadZipFile as error:
            raise MaestroError("invalid_request", f"{path} is a broken zip file: {error}.") from None


def _zipped(path: Path, done: Import) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".json"):
                continue
            if entry.file_size > _MAX_RECORD:
                done.skipped.append(f"{entry.filename}: larger than {_MAX_RECORD // 1024 // 1024} MiB")
                continue
            yield entry.filename, archive.read(entry)


def _parts(advisories: Iterable[Advisory]) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    size = 0
    for one in advisories:
        record = one.model_dump(mode="json", exclude_defaults=True)
        length = len(json.dumps(record))
        if length > _PART:  # listed one by one, and by ranges: the ranges say the same
            record = one.model_copy(update={"versions": ()} if one.ranges else {}).model_dump(
                mode="json", exclude_defaults=True
            )
            length = len(json.dumps(record))
        if part and size + length > _PART:
            yield part
            part, size = [], 0
        part.append(record)
        size += length
    if part:
        yield part


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
