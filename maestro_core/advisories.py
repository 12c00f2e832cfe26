"""Known advisories about packages, as OSV describes them: https://ossf.github.io/osv-schema (version 1.7).

An :class:`Advisory` is one OSV record, reduced to what a decision needs; :meth:`Advisory.affects` says whether it is
about a version. A record whose id begins with ``MAL-`` (of the OpenSSF's malicious-packages) is about malware: a
:class:`Malware` book of those blocks packages in every preset, and nobody's approval opens them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Any

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .packages import PYPI, normal_name, other_names

#: the OSV ecosystem that Python's own packages are in; conda has none of its own, and shares by name
ECOSYSTEM = "PyPI"
#: an OSV record of known malware begins so
MALWARE = "MAL-"
#: of one record; more than that is no record of a package
MAX_VERSIONS = 20_000
_TEXT = 300


def _short(value: Any) -> str:
    text = " ".join(str(value or "").split())
    return "".join(sign for sign in text if sign.isprintable())[:_TEXT]


Line = Annotated[str, BeforeValidator(_short)]


class Range(BaseModel):
    """Versions from ``introduced`` (``0``: from the first) up to ``fixed`` (without it) or ``last`` (with it).

    Raises:
        ValueError: a bound is no version (PEP 440).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    introduced: str = "0"
    fixed: str | None = None
    last: str | None = None

    @field_validator("introduced", "fixed", "last")
    @classmethod
    def _bound(cls, value: str | None) -> str | None:
        if value is not None and _version(value) is None:
            raise ValueError(f"{value[:40]!r} is no version")
        return value

    def has(self, version: Version) -> bool:
        """Whether a version lies in it."""
        begin, fixed, last = _version(self.introduced), _version(self.fixed), _version(self.last)
        if self.introduced != "0" and begin is not None and version < begin:
            return False
        return not ((fixed is not None and version >= fixed) or (last is not None and version > last))


class Advisory(BaseModel):
    """One advisory about one package.

    Attributes:
        id: of the record (``GHSA-...``, ``PYSEC-...``, ``MAL-...``). aliases: other ids of the same thing.
        package: normal name.
        severity: the source's word (``HIGH``), or empty where it gives none.
        versions: those that are listed one by one. ranges: those besides. Neither: all versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{1,99}$")
    package: str
    summary: Line = ""
    severity: Line = ""
    aliases: tuple[Line, ...] = Field(default=(), max_length=50)
    modified: Line = ""
    ranges: tuple[Range, ...] = Field(default=(), max_length=500)
    versions: tuple[Line, ...] = Field(default=(), max_length=MAX_VERSIONS)

    @field_validator("package")
    @classmethod
    def _package(cls, value: str) -> str:
        return normal_name(value)

    @property
    def malware(self) -> bool:
        """Whether it is about known malware."""
        return self.id.startswith(MALWARE)

    def affects(self, version: str | None) -> bool:
        """Whether a version is affected; None asks whether every version is.

        A version that is none (PEP 440) is affected by a range: nobody can say that it is not.
        """
        if not self.ranges and not self.versions:
            return True
        if version is None:
            return any(one == Range() for one in self.ranges)
        if version in self._versions:
            return True
        parsed = _version(version)
        if parsed is None:
            return bool(self.ranges)
        return parsed in self._parsed or any(one.has(parsed) for one in self.ranges)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The versions that are no longer affected, for a hint what to install."""
        return tuple(dict.fromkeys(one.fixed for one in self.ranges if one.fixed))

    @cached_property
    def _versions(self) -> frozenset[str]:
        return frozenset(self.versions)

    @cached_property
    def _parsed(self) -> frozenset[Version]:
        return frozenset(found for one in self.versions if (found := _version(one)) is not None)


@lru_cache(maxsize=65536)
def _version(text: str | None) -> Version | None:
    try:
        return None if text is None else Version(text)
    except InvalidVersion:
        return None


def read_osv(record: object) -> list[Advisory]:
    """The advisories of one OSV record: one for each of Python's packages that it names; none if withdrawn.

    Raises:
        ValueError: it is no OSV record, or what it says about a package cannot be read.
    """
    if not isinstance(record, Mapping) or not isinstance(record.get("id"), str):
        raise ValueError("an OSV record is an object with an id")
    if record.get("withdrawn"):
        return []
    about: dict[str, list[Mapping[str, Any]]] = {}
    for affected in _list(record.get("affected")):
        package = _mapping(affected.get("package"))
        if str(package.get("ecosystem", "")).partition(":")[0] == ECOSYSTEM:
            about.setdefault(normal_name(package.get("name")), []).append(affected)
    return [_advisory(record, name, affected) for name, affected in about.items()]


def _advisory(record: Mapping[str, Any], name: str, affected: list[Mapping[str, Any]]) -> Advisory:
    ranges = [one for entry in affected for each in _list(entry.get("ranges")) for one in _ranges(each)]
    versions = [str(one) for entry in affected for one in entry.get("versions") or ()]
    said = [_mapping(entry.get("database_specific")) for entry in (record, *affected)]
    severity = next((entry["severity"] for entry in said if isinstance(entry.get("severity"), str)), "")
    return Advisory(
        id=record["id"],
        package=name,
        summary=record.get("summary") or str(record.get("details") or ""),
        severity=severity,
        aliases=tuple(record.get("aliases") or ())[:50],
        modified=record.get("modified") or "",
        ranges=tuple(dict.fromkeys(ranges)),
        versions=tuple(dict.fromkeys(versions)),
    )


def _ranges(entry: Mapping[str, Any]) -> list[Range]:
    """The spec's events in their order; each ``introduced`` opens a range. Commits (GIT) are no versions."""
    if entry.get("type") not in ("ECOSYSTEM", "SEMVER"):
        return []
    found: list[Range] = []
    for event in _list(entry.get("events")):
        if "introduced" in event:
            found.append(Range(introduced=str(event["introduced"])))
        elif found and "fixed" in event:
            found[-1] = Range(introduced=found[-1].introduced, fixed=str(event["fixed"]))
        elif found and "last_affected" in event:
            found[-1] = Range(introduced=found[-1].introduced, last=str(event["last_affected"]))
    return found


def _list(value: object) -> list[Mapping[str, Any]]:
    if not isinstance(value, list | tuple):
        return []
    return [one for one in value if isinstance(one, Mapping)]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


class Malware(BaseModel):
    """All advisories about malware that are known: the answer of ``GET /policy/malware``.

    Attributes:
        revision: a hash of the content; empty when nothing is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: str = ""
    advisories: tuple[Advisory, ...] = ()

    @classmethod
    def of(cls, advisories: Iterable[Advisory]) -> Malware:
        """A book of those that are about malware, with its revision."""
        kept = tuple(sorted((one for one in advisories if one.malware), key=lambda one: (one.id, one.package)))
        digest = hashlib.sha256()
        for one in kept:
            digest.update(one.model_dump_json().encode() + b"\n")
        return cls(revision=digest.hexdigest()[:16] if kept else "", advisories=kept)

    def about(self, name: str, version: str | None, channel: str = PYPI) -> Advisory | None:
        """What is known against a version of a package (normal name), or against all of them (``version`` None)."""
        for each in (name, *other_names(name, channel)):
            for one in self._by_name.get(each, ()):
                if one.affects(version):
                    return one
        return None

    def mentions(self, name: str, channel: str = PYPI) -> bool:
        """Whether any version of a package is malware."""
        return any(each in self._by_name for each in (name, *other_names(name, channel)))

    @cached_property
    def _by_name(self) -> dict[str, tuple[Advisory, ...]]:
        found: dict[str, list[Advisory]] = {}
        for one in self.advisories:
            found.setdefault(one.package, []).append(one)
        return {name: tuple(many) for name, many in found.items()}


class AdvisoryBatch(BaseModel):
    """The body of ``POST /advisories``: a part of an import.

    Attributes:
        import_id: of the import, made by the client; all its parts carry the same.
        advisories: as :func:`read_osv` makes them.
        last: nothing follows: what no part of this import named is removed.
    """

    model_config = ConfigDict(extra="forbid")

    import_id: str = Field(pattern=r"^[0-9a-f]{16,32}$")
    advisories: tuple[Advisory, ...] = Field(default=(), max_length=2000)
    last: bool = False

    @model_validator(mode="after")
    def _not_empty(self) -> AdvisoryBatch:
        if not self.advisories and not self.last:
            raise ValueError("a part of an import has advisories, or is the last")
        return self


class AdvisoryStatus(BaseModel):
    """What is known here: the answer of ``GET /advisories``.

    Attributes:
        count: advisories. malware: those about malware.
        imported_at: when the last import ended (ISO 8601, UTC); empty: never.
        newest: the last change of any record, as its source wrote it.
    """

    count: int = 0
    malware: int = 0
    imported_at: str = ""
    newest: str = ""
