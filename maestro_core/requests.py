"""Requests for packages: what is asked, what a reviewer needs to know, what a decision allows.

A person asks for a package that the policy holds back (:class:`PackageAsk`). The index's service finds out what would
come with it (:class:`Facts`), a reviewer approves (:class:`Approval`) or denies (:class:`Denial`), and an approval
becomes rules of origin ``decision`` in the compiled policy (:func:`approved_versions`): one decision covers whatever of
the closure of dependencies the policy asks about too. A block is nobody's question: it is taken back where it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Annotated, Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .errors import MaestroError
from .near_miss import near_miss
from .packages import PYPI, Action, Level, check_channel, normal_name, normal_version, parse_rule_text

#: requests of one person that may be pending at the same time
MAX_PENDING = 20
#: characters of a reason
MAX_REASON = 500
#: packages of a closure that are looked at; a larger one is said to be so
MAX_CLOSURE = 200
MAX_VERSIONS = 50
#: how long a file is let in that an admin forces
FORCE_MINUTES = 15

RequestStatus = Literal["pending", "approved", "denied", "withdrawn"]


def _reason(value: Any) -> Any:
    """One line, however it was typed."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    if not text.isprintable():
        raise ValueError("a reason is printable text")
    return text


Reason = Annotated[str, BeforeValidator(_reason), Field(max_length=MAX_REASON)]


def read_versions(text: Any) -> str:
    """``1.24.0`` or ``>=1,<2`` as a specifier (``==1.24.0``); nothing is every version.

    Raises:
        ValueError: it is neither a version nor a range.
    """
    if text is None or text == "":
        return ""
    if not isinstance(text, str) or len(text) > 100:
        raise ValueError("a version is a text like '1.24.0' or '>=1.20,<2'")
    try:
        return f"=={Version(text)}"
    except InvalidVersion:
        pass
    try:
        return str(SpecifierSet(text))
    except InvalidSpecifier:
        raise ValueError(f"{text[:60]!r} is no version; write '1.24.0' or '>=1.20,<2'") from None


def exact_version(specifier: str) -> str | None:
    """The one version that a specifier names, or None."""
    found = list(SpecifierSet(specifier))
    if len(found) != 1 or found[0].operator not in ("==", "===") or found[0].version.endswith(".*"):
        return None
    return found[0].version


class PackageAsk(BaseModel):
    """The body of ``POST /workspaces/{workspace}/packages``: ``{"package": "numpy", "version": "1.24.0"}``.

    Attributes:
        package: a name; ``numpy<2`` and ``conda-forge::numpy`` are understood too. Kept in normal spelling.
        version: a version or a range; kept as a specifier, empty for any.
        channel: ``pypi`` or a conda channel.
        reason: what it is for; for the reviewer.
        install: where it is allowed, and the asker may install, it becomes part of the workspace's environment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str = Field(min_length=1, max_length=200)
    version: str = Field(default="", max_length=100)
    channel: str = Field(default=PYPI, max_length=100)
    reason: Reason = ""
    install: bool = True

    @model_validator(mode="before")
    @classmethod
    def _normal(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("package"), str):
            return data
        name, specifier, channel = parse_rule_text(data["package"])
        version, named = read_versions(data.get("version")), data.get("channel")
        if specifier and version:
            raise ValueError("write the version once: with the package, or as version")
        if channel and named and check_channel(named) != channel:
            raise ValueError("write the channel once: with the package, or as channel")
        kept = {"package": name, "version": specifier or version, "channel": check_channel(channel or named or PYPI)}
        return {**data, **kept}

    @property
    def shown(self) -> str:
        """``numpy==1.24.0``, ``conda-forge::numpy``."""
        return shown(self.package, self.version, self.channel)


def shown(package: str, version: str = "", channel: str = PYPI) -> str:
    """A package as a person writes it."""
    return f"{package}{version}" if channel == PYPI else f"{channel}::{package}{version}"


class Approval(BaseModel):
    """What a reviewer allows; nothing said: the version's own major version, in the request's workspace.

    Attributes:
        version: this one alone. range: these versions. all: every version. At most one of the three.
        everywhere: in every workspace (admins).
        until: how long; a date counts to its end, UTC.
        reason: for whoever asked.
        checked_at: of the facts that the reviewer has seen, ``none`` where there were none; refused where it is
            others that count by now. None: not said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str | None = Field(default=None, max_length=100)
    range: str | None = Field(default=None, max_length=100)
    all: bool = False
    everywhere: bool = False
    until: AwareDatetime | None = None
    reason: Reason = ""
    checked_at: AwareDatetime | Literal["none"] | None = None

    @field_validator("version", "range", mode="before")
    @classmethod
    def _versions(cls, value: Any) -> Any:
        return read_versions(value) or None

    @field_validator("until", mode="before")
    @classmethod
    def _until(cls, value: Any) -> Any:
        if not isinstance(value, str) or len(value) > 10:
            return value
        try:
            day = datetime.strptime(value, "%Y-%m-%d").date()
        except ValueError:
            raise ValueError(f"{value!r} is no date; write one like 2027-03-31") from None
        return datetime.combine(day, time.max, UTC).replace(microsecond=0)

    @model_validator(mode="after")
    def _one(self) -> Approval:
        if sum((self.version is not None, self.range is not None, self.all)) > 1:
            raise ValueError("say one of version, range and all")
        if self.version is not None and exact_version(self.version) is None:
            raise ValueError("version is one version, like '1.24.0'; take range for several")
        return self


class Denial(BaseModel):
    """Why not; for whoever asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Annotated[str, BeforeValidator(_reason), Field(min_length=1, max_length=MAX_REASON)]


class ForceSpec(BaseModel):
    """One file that an admin lets into one workspace for :data:`FORCE_MINUTES`, whatever the rules say.

    Attributes:
        version: exactly one. sha256: of the file that the admin has looked at, hex.
        reason: for the events.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str = Field(min_length=1, max_length=200)
    version: str = Field(min_length=1, max_length=100)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    reason: Annotated[str, BeforeValidator(_reason), Field(min_length=1, max_length=MAX_REASON)]

    @field_validator("package")
    @classmethod
    def _package(cls, value: str) -> str:
        return normal_name(value)

    @field_validator("version")
    @classmethod
    def _version(cls, value: str) -> str:
        return normal_version(value)


class Forced(BaseModel):
    """A file that is let in until then."""

    workspace: str
    package: str
    version: str
    sha256: str
    until: AwareDatetime


class CacheCleared(BaseModel):
    """What the index knows of upstream from before ``at`` is asked for anew."""

    workspace: str
    at: AwareDatetime


def major_range(version: str) -> str:
    """From the version's own major version up to the next: ``1.24.0`` -> ``<2,>=1``. What is no version: that alone."""
    try:
        known = Version(version)
    except InvalidVersion:
        return f"==={version}"
    epoch, major = (f"{known.epoch}!" if known.epoch else ""), known.release[0]
    least = min(Version(f"{epoch}{major}"), known)  # a pre-release is below its own major version
    return str(SpecifierSet(f">={least},<{epoch}{major + 1}"))


def approved_versions(approval: Approval, asked: str, newest: str | None) -> str:
    """The specifier of the rule that an approval makes; never by itself the range that was asked for.

    Args:
        asked: the request's specifier.
        newest: the version that would be installed, as far as it is known.

    Raises:
        MaestroError: ``invalid_request`` when nothing tells which major version is meant.
    """
    if approval.all:
        return ""
    if approval.version or approval.range:
        return approval.version or approval.range or ""
    version = exact_version(asked) or newest
    if version is not None:
        return major_range(version)
    raise MaestroError(
        "invalid_request",
        "Which version would be installed is not known (yet), so say what is approved: a version, a range, or all.",
        {"field": "range"},
    )


class VersionFact(BaseModel):
    """One version that the index behind ours has.

    Attributes:
        wheel: whether there is one for servers here; source: whether there is a source archive.
        yanked: its author's reason, or None.
    """

    version: str = Field(max_length=200)
    wheel: bool
    source: bool = False
    yanked: str | None = Field(default=None, max_length=500)


class ClosureItem(BaseModel):
    """One package that would be installed.

    Attributes:
        licence: as its metadata says, or empty. required_by: names; empty for what was asked for.
        problem: why nothing is known of what it needs, or empty.
    """

    name: str = Field(max_length=200)
    version: str = Field(max_length=200)
    licence: str = Field(default="", max_length=200)
    wheel: bool = True
    required_by: tuple[str, ...] = Field(default=(), max_length=MAX_CLOSURE)
    problem: str = Field(default="", max_length=500)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return normal_name(value)


class Facts(BaseModel):
    """What the index's service found out about a request.

    Attributes:
        version: what would be installed, or None.
        versions: the newest first, at most 50 of ``version_count``.
        closure: the package and all that it needs, for the Python named in ``python``.
        problem: why it is not complete, or empty.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    checked_at: AwareDatetime
    version: str | None = Field(default=None, max_length=200)
    versions: tuple[VersionFact, ...] = Field(default=(), max_length=MAX_VERSIONS)
    version_count: int = Field(default=0, ge=0)
    licence: str = Field(default="", max_length=200)
    summary: str = Field(default="", max_length=500)
    closure: tuple[ClosureItem, ...] = Field(default=(), max_length=MAX_CLOSURE)
    python: str = Field(default="", max_length=40)
    problem: str = Field(default="", max_length=500)


class Wanted(BaseModel):
    """A request of which the index's service is to find out the facts."""

    request_id: str
    workspace: str
    package: str
    version: str
    channel: str


class WantedList(BaseModel):
    """The answer of ``GET /policy/requests``."""

    wanted: tuple[Wanted, ...]


class FactsReport(BaseModel):
    """The body of ``POST /policy/requests``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str = Field(min_length=1, max_length=64)
    facts: Facts


class NameQuestion(BaseModel):
    """Somebody wants a package of that name (normal) in a workspace: is there one?"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: str = Field(max_length=64)
    package: str = Field(max_length=200)

    @field_validator("package")
    @classmethod
    def _package(cls, value: str) -> str:
        return normal_name(value)


class NameAnswer(NameQuestion):
    """The body of ``POST /policy/names``; ``exists`` None: nobody can say just now."""

    exists: bool | None


class NameList(BaseModel):
    """The answer of ``GET /policy/names``."""

    asked: tuple[NameQuestion, ...]


def no_such_package(package: str) -> MaestroError:
    """The one sentence for a name that the index behind ours does not have."""
    near = near_miss(package)
    meant = f"did you mean {' or '.join(near)}?" if near else "check the spelling."
    return MaestroError(
        "unknown_package",
        f"There is no package {package} at the index behind this one; {meant}",
        {"package": package, "near": near},
    )


class Asker(BaseModel):
    """Somebody who asks; ``version`` is what they would have, empty for any."""

    user: str
    version: str
    reason: str
    asked_at: AwareDatetime


class ClosureVerdict(ClosureItem):
    """One package of the closure, and what is known against it now.

    Attributes:
        action: what the policy says: ``allow``, ``ask``, ``block``, with its sentence.
        advisories: ids of those that this version is affected by.
        near: popular packages of which the name is a near miss.
    """

    action: Action
    sentence: str = ""
    advisories: tuple[str, ...] = ()
    near: tuple[str, ...] = ()


class Review(BaseModel):
    """What a reviewer decides upon.

    Attributes:
        facts: as the index's service found them; None: there are none, as ``unknown`` says.
        closure: the facts' closure with the policy's word on each.
        held_back: of these an approval makes rules. blocked: no approval opens these.
        proposed: the versions that an approval allows which says nothing else; empty: not known.
        near: popular packages of which the name is a near miss.
        advisories_known: how many advisories there are at all; 0: nobody has imported any.
        used_in: other workspaces whose environment has it. elsewhere: those in which it is approved.
        asked_elsewhere: those in which it is asked for.
    """

    facts: Facts | None = None
    unknown: str = ""
    closure: tuple[ClosureVerdict, ...] = ()
    held_back: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    proposed: str = ""
    near: tuple[str, ...] = ()
    advisories_known: int = 0
    used_in: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    asked_elsewhere: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What a reviewer should not overlook, a sentence each, the gravest first."""
        found = []
        if self.near:
            found.append(f"The name is almost that of {' or '.join(self.near)}: is that what is meant?")
        found += [f"{one.name} {one.version} has known advisories: {', '.join(one.advisories)}."
                  for one in self.closure if one.advisories]  # fmt: skip
        found += [f"{one.name}, which it needs, is almost the name of {' or '.join(one.near)}."
                  for one in self.closure if one.near and one.required_by]  # fmt: skip
        if self.blocked:
            found.append(f"It needs {', '.join(self.blocked)}, which no approval opens: it will not install.")
        if self.unknown:
            found.append(self.unknown)
        if self.facts is not None and self.facts.problem:
            found.append(self.facts.problem)
        if source := [one.name for one in self.closure if not one.wheel]:
            found.append(f"There is no wheel for servers here of {', '.join(source)}: a build runs the package's code.")
        if self.held_back:
            found.append(
                f"One decision covers what it needs and waits for an approval too: {', '.join(self.held_back)}."
            )
        if self.used_in:
            found.append(f"It is part of the environment of {', '.join(self.used_in)}.")
        if self.elsewhere:
            found.append(f"It is approved in {', '.join(self.elsewhere)}.")
        if self.asked_elsewhere:
            found.append(f"It is asked for in {', '.join(self.asked_elsewhere)} too.")
        if not self.advisories_known:
            found.append("No advisories are known here; an admin imports some with 'maestro advisories import'.")
        return found


class ApprovedRule(BaseModel):
    """One rule of an approval; it speaks about the package of its channel alone."""

    package: str
    versions: str
    channel: str = PYPI
    level: Level

    @property
    def shown(self) -> str:
        """``numpy<2``, ``conda-forge::numpy<2``."""
        return shown(self.package, self.versions, self.channel)


class RequestView(BaseModel):
    """A request as its reader sees it.

    Attributes:
        version: a specifier; empty for any. rule: of the policy, that held it back. sentence: what the policy said.
        decided_by, decided_at, answer: of the decision; None and empty while it is pending.
        approved: the rules that the approval made. until: they end then; None: not by themselves.
        may_decide: whether the reader may. review: for those who may, where one request is asked for.
    """

    request_id: str
    workspace: str
    package: str
    version: str
    channel: str
    status: RequestStatus
    rule: str
    sentence: str
    asked_at: AwareDatetime
    askers: tuple[Asker, ...]
    decided_by: str | None = None
    decided_at: AwareDatetime | None = None
    answer: str = ""
    approved: tuple[ApprovedRule, ...] = ()
    until: AwareDatetime | None = None
    may_decide: bool = False
    review: Review | None = None

    @property
    def shown(self) -> str:
        """``numpy==1.24.0``."""
        return shown(self.package, self.version, self.channel)


class RequestList(BaseModel):
    """Requests, the newest first."""

    requests: tuple[RequestView, ...]


class PackageAnswer(BaseModel):
    """The answer of ``POST /workspaces/{workspace}/packages`` and of a check.

    Attributes:
        answer: ``allowed``; ``requested``: a reviewer is asked; ``held_back`` and ``blocked``: what a check finds.
        message: one sentence for the person.
        environment: the version of the workspace's environment that has it now, where it became part of it.
    """

    workspace: str
    package: str
    version: str
    channel: str
    answer: Literal["allowed", "requested", "held_back", "blocked"]
    message: str
    rule: str = ""
    environment: int | None = None
    request: RequestView | None = None
