"""The security scan of a workspace: what it looked at and what it found. Pure; who looks is the notebook server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .advisories import Advisory, AdvisoryStatus
from .packages import PYPI, Action, CompiledPolicy, check_channel, decide, normal_name, startup_policy

#: as many as fit into one request
MAX_PACKAGES = 2000
MAX_FINDINGS = 2000


class Severity(StrEnum):
    """How bad a finding is."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Kind(StrEnum):
    """What was found."""

    MALWARE = "malware"
    ADVISORY = "advisory"
    PACKAGE = "package"
    IMPORT = "import"
    CODE = "code"
    SECRET = "secret"  # noqa: S105 - a word, no secret


#: kind -> what a table's reader is told about it
KINDS: Mapping[Kind, str] = {
    Kind.MALWARE: "An installed package is known malware.",
    Kind.ADVISORY: "An installed package has a known vulnerability.",
    Kind.PACKAGE: "An installed package is one that the policy blocks or holds back.",
    Kind.IMPORT: "Code imports or calls what the policy blocks.",
    Kind.CODE: "Code does something risky (bandit).",
    Kind.SECRET: "A password or token stands in a notebook, in its code or its outputs.",
}

_ORDER = {severity: place for place, severity in enumerate(Severity)}


def _line(value: object) -> str:
    text = " ".join(str(value or "").split())
    return "".join(sign for sign in text if sign.isprintable())[:500]


Line = Annotated[str, BeforeValidator(_line)]


class Package(BaseModel):
    """One installed package.

    Attributes:
        channel: ``pypi``, or the conda channel that it is from.
        place: ``image`` or where else it lies, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Line
    version: Line = ""
    channel: Line = PYPI
    place: Line = ""


class Finding(BaseModel):
    """One thing that somebody should look at.

    Attributes:
        what: the thing. why: what is wrong with it. rule: the policy's rule, the advisory's or bandit's id.
        todo: what to do.
        path: of the file below the workspace, or the place of a package. cell: of a notebook, from 1. line: in the cell
            or the file, from 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    severity: Severity
    what: Line
    why: Line
    rule: Line = ""
    todo: Line = ""
    path: Line = ""
    cell: int | None = None
    line: int | None = None

    @property
    def where(self) -> str:
        """``plots.ipynb, cell 3, line 2``."""
        parts = (self.path, f"cell {self.cell}" if self.cell else "", f"line {self.line}" if self.line else "")
        return ", ".join(part for part in parts if part)


class ScanQuestion(BaseModel):
    """The body of ``POST /workspaces/{workspace}/scan``: what is installed."""

    model_config = ConfigDict(extra="forbid")

    packages: tuple[Package, ...] = Field(default=(), max_length=MAX_PACKAGES)


class ScanAnswer(BaseModel):
    """What the policy and the advisories say about what is installed.

    Attributes:
        blocked_names: modules and calls that code may not use (``socket``, ``os.system``).
    """

    findings: tuple[Finding, ...] = ()
    blocked_names: tuple[str, ...] = ()
    advisories: AdvisoryStatus = AdvisoryStatus()


class ScanReport(BaseModel):
    """The answer of a scan.

    Attributes:
        at: when it ended (ISO 8601, UTC).
        files: notebooks and Python files that were read.
        notes: what could not be looked at, a sentence each.
    """

    workspace: str = ""
    at: str = ""
    packages: tuple[Package, ...] = ()
    files: int = 0
    findings: tuple[Finding, ...] = ()
    notes: tuple[Line, ...] = ()
    advisories: AdvisoryStatus = AdvisoryStatus()


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Each once, the worst first."""
    kinds = list(Kind)

    def key(one: Finding) -> tuple[int, int, str, str, int, int]:
        return (_ORDER[one.severity], kinds.index(one.kind), one.path, one.what, one.cell or 0, one.line or 0)

    return tuple(sorted(dict.fromkeys(findings), key=key))


def judge(policy: CompiledPolicy, advisories: Iterable[Advisory], packages: Iterable[Package]) -> tuple[Finding, ...]:
    """What the policy and the advisories say about installed packages.

    Args:
        advisories: at least those about these packages' names.
    """
    known: dict[str, list[Advisory]] = {}
    for one in advisories:
        known.setdefault(one.package, []).append(one)
    return in_order(found for package in packages for found in _judge(policy, known, package))


def judge_startup(policy: CompiledPolicy, packages: Iterable[Package]) -> tuple[Finding, ...]:
    """Which packages an image may not contain, with the reason of each; nothing is held back for an approval here."""
    return judge(startup_policy(policy), (), packages)


def _judge(policy: CompiledPolicy, known: Mapping[str, list[Advisory]], package: Package) -> Iterable[Finding]:
    what = f"{package.name} {package.version}".strip()
    try:
        name, channel = normal_name(package.name), check_channel(package.channel)
    except ValueError as error:
        yield Finding(
            kind=Kind.PACKAGE,
            severity=Severity.MEDIUM,
            what=what,
            path=package.place,
            why=str(error),
            todo="Find out who brought it in.",
        )
        return
    verdict = decide(policy, name, package.version or None, channel)
    if verdict.malware:
        yield Finding(
            kind=Kind.MALWARE,
            severity=Severity.HIGH,
            what=what,
            path=package.place,
            why=verdict.reason,
            rule=verdict.rule,
            todo="Stop the server, tell an admin, and change every password that this server could read.",
        )
    elif not verdict.allowed:
        severity = Severity.MEDIUM if verdict.action is Action.BLOCK else Severity.LOW
        yield Finding(
            kind=Kind.PACKAGE,
            severity=severity,
            what=what,
            path=package.place,
            why=verdict.reason,
            rule=verdict.rule,
            todo="Remove it, or ask for an approval.",
        )
    for one in known.get(name, ()):
        if not one.malware and one.affects(package.version or None):
            yield _vulnerable(one, what, package)


def _vulnerable(one: Advisory, what: str, package: Package) -> Finding:
    words = {"critical": Severity.HIGH, "high": Severity.HIGH, "low": Severity.LOW}
    cves = [alias for alias in one.aliases if alias.startswith("CVE-")]
    ids = ", ".join([one.id, *cves[:1]])
    fixed = " or ".join(one.fixed[:3])
    return Finding(
        kind=Kind.ADVISORY,
        severity=words.get(one.severity.lower(), Severity.MEDIUM),
        what=what,
        path=package.place,
        why=f"{ids}: {one.summary}",
        rule=one.id,
        todo=f"Install {fixed} or newer." if fixed else "No version without it is known; see whether you need it.",
    )
