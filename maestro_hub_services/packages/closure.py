"""What a package would bring with it: its closure of dependencies, as an installer would choose it.

The choosing is resolvelib's, which is pip's own. It is given what the index's upstream lists and what the wheels' own
metadata says; nothing is built and nothing of a package runs. For the Python and platform of this service.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from packaging.metadata import RawMetadata
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version
from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep, Resolver
from resolvelib.structs import RequirementInformation

from maestro_core.packages import Action, CompiledPolicy, decide

from .pages import File, Page

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
#: signs of a version; a longer one is passed over
MAX_VERSION = 200
_ROUNDS = 2000


class Unresolved(Exception):
    """The closure is not known; the message is one sentence for the reviewer."""


@dataclass(frozen=True)
class Release:
    """One version, with the file of it that an installer here would take."""

    version: Version
    file: File
    yanked: str | None
    source: bool


@dataclass(frozen=True)
class Candidate:
    """A release of a package, with the extras that are wanted of it; what resolvelib chooses from."""

    name: str
    extras: frozenset[str]
    release: Release

    @property
    def key(self) -> str:
        """Its name to resolvelib."""
        return _key(self.name, self.extras)


@dataclass(frozen=True)
class Chosen:
    """One package of a closure."""

    name: str
    release: Release
    metadata: RawMetadata | None
    required_by: tuple[str, ...]
    problem: str


def version_of(file: File) -> Version | None:
    """The version of a file; None for what is none, or longer than is told of one."""
    text = file.version or ""
    try:
        version = Version(text) if len(text) <= MAX_VERSION else None
    except ValueError:
        return None
    return version if version is not None and len(str(version)) <= MAX_VERSION else None


def releases(page: Page) -> list[Release]:
    """What can be installed here of a project, the newest first; a version's wheel before its source."""
    order = _tags()
    best: dict[Version, tuple[int, Release]] = {}
    for file in page.files:
        version = version_of(file)
        if version is None:
            continue
        rank = 0 if file.is_source else _rank(file, order)
        if rank is None or not _runs_here(file):
            continue
        found = Release(version, file, _yanked(file), file.is_source)
        if version not in best or rank > best[version][0]:
            best[version] = (rank, found)
    return [best[version][1] for version in sorted(best, reverse=True)]


@lru_cache(maxsize=1)
def _tags() -> dict[Any, int]:
    """The tags of this Python; the more fitting, the higher the number, and above that of a source archive."""
    tags = list(sys_tags())
    return {tag: len(tags) - place for place, tag in enumerate(tags)}


def _rank(file: File, order: Mapping[Any, int]) -> int | None:
    try:
        tags = parse_wheel_filename(file.filename)[3]
    except (InvalidWheelFilename, InvalidVersion):
        return None
    return max((order[tag] for tag in tags if tag in order), default=None)


def _runs_here(file: File) -> bool:
    wanted = file.fields.get("requires-python")
    if not isinstance(wanted, str) or not wanted:
        return True
    try:
        return SpecifierSet(wanted).contains(PYTHON + f".{sys.version_info.micro}", prereleases=True)
    except InvalidSpecifier:
        return True


def _yanked(file: File) -> str | None:
    told = file.fields.get("yanked")
    return None if not told else told if isinstance(told, str) else "without a reason"


def resolve(
    root: Requirement,
    page_of: Callable[[str], Page | None],
    metadata_of: Callable[[File], RawMetadata],
    policy: CompiledPolicy,
    limit: int,
) -> list[Chosen]:
    """The closure of a requirement, itself first. Takes its time; for a thread.

    Versions that the policy blocks are left out wherever there is another one; what it only asks about is not.

    Args:
        page_of: the page of a project (normal name), or None. metadata_of: what a wheel says of itself.
        limit: packages; a larger closure is not looked at to its end.

    Raises:
        Unresolved: nothing fits, something is missing, or it is too large.
        MaestroError: what the two callables raise.
    """
    provider = _Provider(page_of, metadata_of, policy, limit)
    try:
        found = Resolver(provider, BaseReporter()).resolve([root], max_rounds=_ROUNDS)
    except ResolutionImpossible as error:
        raise Unresolved(_why(error.causes, provider)) from None
    except ResolutionTooDeep:
        raise Unresolved(
            "Versions that fit together were not found in time, so what would come with it is not known."
        ) from None
    return _closure(found.mapping, provider)


def _closure(mapping: Mapping[str, Candidate], provider: _Provider) -> list[Chosen]:
    parents: dict[str, set[str]] = {}
    for candidate in mapping.values():
        for wanted in provider.get_dependencies(candidate):
            if canonicalize_name(wanted.name) != candidate.name:
                parents.setdefault(canonicalize_name(wanted.name), set()).add(candidate.name)
    chosen: dict[str, Chosen] = {}
    for candidate in mapping.values():
        name, release = candidate.name, candidate.release
        known = provider.known(release)
        problem = "" if not release.source else "source only: what it needs is known when it is built"
        bad = provider.refused.get(release.file.key, "")
        chosen[name] = Chosen(name, release, known, tuple(sorted(parents.get(name, ()))), bad or problem)
    return list(chosen.values())


def _key(name: str, extras: Iterable[str]) -> str:
    return f"{name}[{','.join(sorted(extras))}]" if extras else name


@dataclass
class _Provider(AbstractProvider[Requirement, Candidate, str]):
    """What resolvelib asks."""

    page_of: Callable[[str], Page | None]
    metadata_of: Callable[[File], RawMetadata]
    policy: CompiledPolicy
    limit: int
    refused: dict[str, str] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    _releases: dict[str, list[Release]] = field(default_factory=dict)
    _metadata: dict[str, RawMetadata] = field(default_factory=dict)

    def identify(self, requirement_or_candidate: Requirement | Candidate) -> str:
        if isinstance(requirement_or_candidate, Candidate):
            return requirement_or_candidate.key
        return _key(canonicalize_name(requirement_or_candidate.name), requirement_or_candidate.extras)

    def get_preference(
        self,
        identifier: str,
        resolutions: Mapping[str, Candidate],
        candidates: Mapping[str, Iterator[Candidate]],
        information: Mapping[str, Iterator[RequirementInformation[Requirement, Candidate]]],
        backtrack_causes: Sequence[RequirementInformation[Requirement, Candidate]],
    ) -> Any:
        """What made it go back comes first, then pins, as in pip."""
        wanted = [info.requirement for info in information[identifier]]
        pinned = any(part.operator == "==" for one in wanted for part in one.specifier)
        blamed = any(identifier == self.identify(cause.requirement) for cause in backtrack_causes)
        return (not blamed, not pinned, identifier)

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[Requirement]],
        incompatibilities: Mapping[str, Iterator[Candidate]],
    ) -> Iterable[Candidate]:
        name, _, rest = identifier.partition("[")
        extras = frozenset(part for part in rest.rstrip("]").split(",") if part)
        wanted = list(requirements[identifier])
        # what an extra's own entry demands of the package holds too
        wanted += list(requirements.get(name, ())) if extras else []
        bad = {candidate.release.version for candidate in incompatibilities[identifier]}
        found = [
            release
            for release in self._of(name)
            if release.version not in bad and all(_fits(release, one.specifier) for one in wanted)
        ]
        named = any(part.operator in ("==", "===") for one in wanted for part in one.specifier)
        found = [one for one in found if one.yanked is None] or (found if named else [])
        if not any(one.specifier.prereleases for one in wanted):
            found = [one for one in found if not one.version.is_prerelease] or found
        allowed = [one for one in found if decide(self.policy, name, str(one.version)).action is not Action.BLOCK]
        return [Candidate(name, extras, release) for release in allowed or found]

    def is_satisfied_by(self, requirement: Requirement, candidate: Candidate) -> bool:
        return _fits(candidate.release, requirement.specifier)

    def get_dependencies(self, candidate: Candidate) -> list[Requirement]:
        name, release = candidate.name, candidate.release
        found = [Requirement(f"{name}=={release.version}")] if candidate.extras else []
        known = self.known(release)
        for text in (known or {}).get("requires_dist", []):
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                self.refused[release.file.key] = f"its metadata asks for something that cannot be read ({text[:60]})"
                continue
            if not _counts(wanted, candidate.extras):
                continue
            if wanted.url:
                self.refused[release.file.key] = f"it takes {wanted.name} from an address of its own, which is refused"
                continue
            found.append(wanted)
        return found

    def known(self, release: Release) -> RawMetadata | None:
        """What a release says of itself; None for source."""
        if release.source:
            return None
        if release.file.key not in self._metadata:
            self._metadata[release.file.key] = self.metadata_of(release.file)
        return self._metadata[release.file.key]

    def _of(self, name: str) -> list[Release]:
        if name not in self._releases:
            if len(self._releases) >= self.limit:
                raise Unresolved(f"It needs more than {self.limit} packages, which is more than is looked at.")
            page = self.page_of(name)
            if page is None:
                self.missing.add(name)
            self._releases[name] = [] if page is None else releases(page)
        return self._releases[name]


def _fits(release: Release, specifier: SpecifierSet) -> bool:
    return specifier.contains(release.version, prereleases=True)


def _counts(wanted: Requirement, extras: frozenset[str]) -> bool:
    if wanted.marker is None:
        return True
    try:
        return any(wanted.marker.evaluate({"extra": extra}) for extra in (*sorted(extras), ""))
    except ValueError:  # such as os_name ~= "x": an installer stops at it, a reviewer sees more rather than less
        return True


def _why(causes: Collection[RequirementInformation[Requirement, Candidate]], provider: _Provider) -> str:
    gone = sorted({canonicalize_name(cause.requirement.name) for cause in causes} & provider.missing)
    if gone:
        return f"{', '.join(gone)} is not at the index behind ours, so it cannot be installed."
    told = []
    for cause in list(causes)[:4]:
        by = f" (needed by {cause.parent.name} {cause.parent.release.version})" if cause.parent else ""
        told.append(f"{cause.requirement}{by}")
    return f"No versions for Python {PYTHON} fit together: {'; '.join(dict.fromkeys(told))}."[:500]
