"""Which packages may be installed: one policy for the index, requests, scans and the CLI.

An admin writes lists of rules (:class:`PackagePolicy`: the ``packages`` section of ``maestro.yaml``, and the same in a
workspace's YAML), the service compiles them with the decisions that people took since (:func:`compile_policy`), and
:func:`decide` answers for a name, a version and a channel:

1. A rule covers a name (PEP 503 spelling; :data:`PAIRS` where conda and PyPI differ), maybe only some versions
   (PEP 440) and maybe one channel.
2. Within a level a block wins, whoever set it: it is taken back where it stands. Then a decision of a person wins over
   the file, and allow over ask (an approval is the answer to a question).
3. A block of any level holds: a narrower level cannot loosen it. Otherwise the narrowest level that says something
   wins; but a workspace's own allow list answers only what that workspace asks, since anybody can make a workspace.
4. What no rule covers follows the preset: allowed (``open``, ``seed``) or held back for approval (``strict``).
5. Known malware (:mod:`maestro_core.advisories`) is blocked before any of that, in every preset; no approval opens it.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Protocol

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from . import conda_versions
from .errors import MaestroError
from .resources import parse_memory

#: the channel of Python's own packages; every other channel is conda's
PYPI = "pypi"

#: where one thing has two names: (conda's, PyPI's). A rule for either name covers the thing in both.
PAIRS: tuple[tuple[str, str], ...] = (
    ("pytorch", "torch"),
    ("pytorch-cpu", "torch"),
    ("pytorch-gpu", "torch"),
    ("pytables", "tables"),
    ("py-opencv", "opencv-python"),
    ("py-xgboost", "xgboost"),
    ("matplotlib-base", "matplotlib"),
    ("msgpack-python", "msgpack"),
    ("python-duckdb", "duckdb"),
    ("python-tzdata", "tzdata"),
)

#: the levels of policy, the broadest first
LEVELS: tuple[Level, ...] = ("global", "workspace")
Level = Literal["global", "workspace"]
Origin = Literal["file", "decision"]
Preset = Literal["open", "seed", "strict"]
StartupScan = Literal["warn", "refuse"]

_TEXT_LIMIT = 200


#: the rule of a verdict about the channel itself
TRUSTED = "trusted_channels"


class Action(StrEnum):
    """What happens to a package: it installs, it waits for an approval, or it is refused."""

    ALLOW = "allow"
    ASK = "ask"
    BLOCK = "block"

    @property
    def rank(self) -> int:
        """Which one wins among rules that stand beside each other: the lowest."""
        return (Action.BLOCK, Action.ALLOW, Action.ASK).index(self)


def normal_name(text: object) -> str:
    """The one spelling of a package's name (PEP 503: lower case, single hyphens).

    Raises:
        ValueError: for what names no package. Letters that only look like Latin ones are refused, so a rule for
            ``requests`` cannot be passed by a twin.
    """
    shown = str(text)[:60]
    if not isinstance(text, str) or len(text) > _TEXT_LIMIT:
        raise ValueError(f"{shown!r} is no package name")
    try:
        return canonicalize_name(text, validate=True)
    except InvalidName:
        hint = "" if text.isascii() else "; it has a letter that only looks like a-z"
        raise ValueError(f"{shown!r} is no package name: a-z, 0-9, '-', '_' and '.' make one{hint}") from None


def normal_version(text: str) -> str:
    """The one spelling of a version (PEP 440).

    Raises:
        ValueError: it is none.
    """
    try:
        return str(Version(text))
    except InvalidVersion:
        raise ValueError(f"{text[:60]!r} is no version; write one like '1.24.0'") from None


def package_name(text: object, channel: str | None = PYPI) -> str:
    """The one spelling of a package's name in a channel.

    conda has names that begin with underscores (``_libgcc_mutex``); they stay, and no name of PyPI can be the same.

    Args:
        channel: None: any.

    Raises:
        ValueError: as :func:`normal_name`.
    """
    if channel == PYPI or not isinstance(text, str):
        return normal_name(text)
    rest = text.lstrip("_")
    return "_" * (len(text) - len(rest)) + normal_name(rest)


def _line(value: str) -> str:
    """One printable line: it travels in HTTP headers and terminals."""
    text = " ".join(value.split())
    if not text.isprintable():
        raise ValueError("a reason is one line of printable text")
    return text


class RuleSpec(BaseModel):
    """One entry of a list: ``numpy``, ``numpy<2``, ``conda-forge::numpy``, or the long form with a reason.

    Attributes:
        package: name, maybe with a version specifier (PEP 440), maybe with ``channel::`` before it.
        reason: shown to whoever is refused; one line.
        sdists: in an allow list: also as source, whatever ``sdists`` of the same level says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str
    reason: str = Field(default="", max_length=_TEXT_LIMIT)
    sdists: bool = False

    @field_validator("package")
    @classmethod
    def _package(cls, value: str) -> str:
        parse_rule_text(value)
        return value.strip()

    @field_validator("reason")
    @classmethod
    def _reason(cls, value: str) -> str:
        return _line(value)


#: a rule about a conda channel with a version that only conda knows: ``openssl<1.1.1w``
_CONDA_RULE = re.compile(r"([A-Za-z0-9._-]*[A-Za-z0-9]) *([=<>!~][A-Za-z0-9 =<>!~,.*+_!-]{1,100})")


def parse_rule_text(text: str) -> tuple[str, str, str | None]:
    """``[channel::]name[specifier]`` as (normal name, specifier or "", channel or None).

    Raises:
        ValueError: one sentence that names the mistake.
    """
    if len(text) > _TEXT_LIMIT:
        raise ValueError(f"{text[:60]!r}... is longer than {_TEXT_LIMIT} characters")
    channel, separator, rest = text.rpartition("::")
    channel = check_channel(channel) if separator else ""
    bare = rest.strip().lstrip("_")
    underscores = "" if channel == PYPI else rest.strip()[: len(rest.strip()) - len(bare)]
    try:
        wanted = Requirement(bare if underscores else rest)
    except InvalidRequirement:
        if separator and channel != PYPI and (found := _CONDA_RULE.fullmatch(bare)):
            return underscores + normal_name(found[1]), conda_versions.check_specifier(found[2]), channel
        name = rest.strip()
        if not any(sign in name for sign in "=<>!~"):
            normal_name(name)  # its sentence is about the name, which is what is wrong
        example = "'numpy' or 'numpy>=1.20,<2'"
        raise ValueError(f"{text[:60]!r} is no rule; write a name, maybe with versions, like {example}") from None
    if wanted.url or wanted.extras or wanted.marker:
        raise ValueError(f"{text[:60]!r}: a rule is a name and versions, without address, extras and conditions")
    return underscores + normal_name(wanted.name), str(wanted.specifier), channel or None


def check_channel(text: object) -> str:
    """A channel's name in lower case: ``pypi``, ``conda-forge``, or a custom one.

    Raises:
        ValueError: if it cannot name a channel.
    """
    name = str(text).strip().lower()
    allowed = all(sign.isascii() and (sign.isalnum() or sign in "-_./") for sign in name)
    parts = name.split("/")
    if not name or len(name) > 100 or not allowed or any(not part or part.startswith(".") for part in parts):
        raise ValueError(f"{str(text)[:60]!r} is no channel name")
    return name


def _as_specs(value: Any) -> Any:
    if isinstance(value, str | Mapping):
        raise ValueError("this is a list of packages, each on a line of its own after '- '")
    if isinstance(value, Iterable):
        return [{"package": entry} if isinstance(entry, str) else entry for entry in value]
    return value


RuleSpecs = Annotated[tuple[RuleSpec, ...], BeforeValidator(_as_specs)]


def _check_address(address: object) -> None:
    if not isinstance(address, str) or not address.startswith(("https://", "http://", "file:///")):
        raise ValueError("an upstream is an address that starts with https://, http:// or file:///")


def _name_pattern(text: str) -> str:
    """A normal name, or the beginning of one with ``*`` after it."""
    if not text.endswith("*"):
        return normal_name(text)
    start = text.removesuffix("*")
    head = start.rstrip("-_.")
    return normal_name(head) + ("-" if start != head else "") + "*"


class IndexSettings(BaseModel):
    """Where the package index takes packages from.

    Attributes:
        upstream: addresses of indexes (PEP 503 or 691), in order; empty means what pip on the machine of the
            index is configured to use, which is pip's own default when nothing is.
        channel_alias: where conda channels lie that ``channels`` does not name; empty means what conda on the machine
            of the index is configured to use.
        channels: conda channels by name, each with its own address.
        cache: how much the index keeps on disk, in bytes.
        internal_names: names of your own, that no upstream is ever asked for: ``acme-tools``, or ``acme-*`` for all
            that begin so.
        internal_upstream: the indexes that have them; empty: only folders of pip's ``find-links`` may.
        merge_indexes: take versions of one project from all indexes that have some, as pip does, instead of from the
            first one alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    upstream: tuple[str, ...] = ()
    channel_alias: str = ""
    channels: dict[str, str] = Field(default_factory=dict)
    cache: int = Field(default=10 * 1024**3, ge=0)
    internal_names: tuple[str, ...] = ()
    internal_upstream: tuple[str, ...] = ()
    merge_indexes: bool = False

    def is_internal(self, name: str) -> bool:
        """Whether a name (normal) is one of your own."""
        return any(
            name.startswith(own.removesuffix("*")) if own.endswith("*") else name == own for own in self.internal_names
        )

    @field_validator("internal_names")
    @classmethod
    def _internal_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_name_pattern(name) for name in value)

    @field_validator("upstream", "internal_upstream", mode="before")
    @classmethod
    def _upstream(cls, value: Any) -> Any:
        if value is None:
            return ()
        addresses = [value] if isinstance(value, str) else value
        if not isinstance(addresses, list | tuple):
            raise ValueError("an upstream is an address, or a list of them")
        for address in addresses:
            _check_address(address)
        return addresses

    @field_validator("channel_alias")
    @classmethod
    def _alias(cls, value: str) -> str:
        if value:
            _check_address(value)
        return value

    @field_validator("channels")
    @classmethod
    def _addresses(cls, value: dict[str, str]) -> dict[str, str]:
        for address in value.values():
            _check_address(address)
        return {check_channel(name): address for name, address in value.items()}

    @field_validator("cache", mode="before")
    @classmethod
    def _cache(cls, value: Any) -> Any:
        return parse_memory(value) if isinstance(value, str) else value


class Reviewer(BaseModel):
    """Who decides about requests, besides admins: a user or a Hub group, for some workspaces or (none named) for all.

    What holds everywhere is decided by admins alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = Field(default=None, min_length=1, max_length=255)
    group: str | None = Field(default=None, min_length=1, max_length=255)
    workspaces: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Reviewer:
        if (self.user is None) == (self.group is None):
            raise ValueError("a reviewer is one user or one group")
        return self

    def covers(self, user: str, groups: Iterable[str], workspace: str) -> bool:
        """Whether this names that person, for that workspace."""
        named = self.user == user if self.group is None else self.group in groups
        return named and (not self.workspaces or workspace in self.workspaces)


class PackagePolicy(BaseModel):
    """The ``packages`` section of ``maestro.yaml``, and what a workspace's YAML may say about packages.

    A key that is left out takes the preset's list; a key that is written replaces it.

    Attributes:
        preset: ``open`` (everything; the default), ``seed`` (the lists that the project began with), ``strict``
            (only what the allow list names). A workspace's preset can only tighten.
        trusted_channels: conda channels that may be used at all.
        blocked_packages: refused. Modules and calls of the standard library (``socket``, ``os.system``) are rules for
            the security scan too.
        approval_required: held back until somebody approves.
        allowlist: allowed without asking.
        sdists: whether packages may come as source, whose build runs code: ``allow``, ``ask``, ``block``.
        startup_blocked_packages: what an image may not contain when a server starts; left out, the blocked packages.
        startup_scan: what happens when it does: ``warn`` (the default) tells in the notebook, ``refuse`` starts none.
        index: where the index takes packages from; counts in ``maestro.yaml`` only.
        reviewers: who decides about requests, besides admins; counts in ``maestro.yaml`` only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Preset | None = None
    trusted_channels: tuple[str, ...] | None = None
    blocked_packages: RuleSpecs | None = None
    approval_required: RuleSpecs | None = None
    allowlist: RuleSpecs | None = None
    startup_blocked_packages: RuleSpecs | None = None
    sdists: Action | None = None
    startup_scan: StartupScan | None = None
    index: IndexSettings = IndexSettings()
    reviewers: tuple[Reviewer, ...] = ()

    @field_validator("trusted_channels")
    @classmethod
    def _channels(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(check_channel(name) for name in value)

    def with_preset(self, default: Preset | None = None) -> PackagePolicy:
        """The same with the preset's lists in the place of keys that are left out; without a preset, itself."""
        name = self.preset or default
        if name is None:
            return self
        written = {key: getattr(self, key) for key in type(self).model_fields if getattr(self, key) is not None}
        return _PRESETS[name].model_copy(update=written)


#: variables of the service's environment -> the list of ``maestro.yaml`` that they stand for
OVERRIDES = {
    "FETCHML_JUPYTER_BLOCKED_PACKAGES": "blocked_packages",
    "FETCHML_JUPYTER_STARTUP_BLOCKED_PACKAGES": "startup_blocked_packages",
}
#: a comma that does not stand between two conditions on versions (``numpy>=1,<2``)
_BETWEEN_ENTRIES = re.compile(r",(?!\s*[<>=!~])")


def overridden(policy: PackagePolicy, environment: Mapping[str, str]) -> PackagePolicy:
    """The global policy with the lists that the service's environment sets: names with commas, or ``off`` for none.

    Args:
        environment: the variables of :data:`OVERRIDES`; one that is missing or empty changes nothing.

    Raises:
        MaestroError: ``invalid_policy``, naming the variable and the entry that is no rule.
    """
    lists = {}
    for variable, key in OVERRIDES.items():
        text = environment.get(variable, "").strip()
        if text:
            entries = [] if text.lower() == "off" else _BETWEEN_ENTRIES.split(text)
            try:
                lists[key] = tuple(RuleSpec(package=entry) for entry in entries if entry.strip())
            except ValidationError as error:
                why = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise MaestroError("invalid_policy", f"{variable}: {why}.", {"field": variable}) from None
    return policy.model_copy(update=lists)


#: conda channels that are trusted where nobody says otherwise
TRUSTED_CHANNELS = ("conda-forge", "defaults", "pytorch", "nvidia")

_PRESETS: dict[Preset, PackagePolicy] = {
    "open": PackagePolicy(preset="open"),
    "seed": PackagePolicy.model_validate(
        {
            "preset": "seed",
            "blocked_packages": ["requests", "urllib3", "socket", "subprocess", "os.system"],
            "approval_required": ["tensorflow", "pytorch", "custom-package"],
            "allowlist": ["numpy", "pandas", "scikit-learn", "matplotlib"],
        }
    ),
    "strict": PackagePolicy(preset="strict"),
}


class Rule(BaseModel):
    """One compiled rule.

    Attributes:
        name: normal name.
        specifier: versions that it covers (PEP 440; of a conda channel also what conda alone knows); empty: all.
        channel: the only channel that it covers; None: all.
        origin: ``file`` (YAML) or ``decision`` (what an admin or reviewer decided since; answers the file's questions).
        reason: the author's words for those who are refused, or empty.
        sdists: an allow that is about source archives too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    specifier: str = ""
    channel: str | None = None
    action: Action
    level: Level = "global"
    origin: Origin = "file"
    reason: str = ""
    sdists: bool = False

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return package_name(value, None)

    @model_validator(mode="before")
    @classmethod
    def _specifier(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("specifier"), str):
            return data
        text = data["specifier"]
        try:
            return {**data, "specifier": str(SpecifierSet(text))}
        except InvalidSpecifier:
            if data.get("channel") in (None, PYPI):
                raise
            return {**data, "specifier": conda_versions.check_specifier(text)}

    @field_validator("reason")
    @classmethod
    def _reason(cls, value: str) -> str:
        return _line(value)

    @property
    def text(self) -> str:
        """As a person writes it: ``numpy<2``, ``conda-forge::numpy``; an approval's as it is asked for with pip."""
        plain = self.channel is None or (self.channel == PYPI and self.origin == "decision")
        return f"{self.name}{self.specifier}" if plain else f"{self.channel}::{self.name}{self.specifier}"

    def covers(self, version: str | None, channel: str) -> bool:
        """Whether the rule speaks about this version in this channel; the name has been compared already.

        A rule for some versions does not speak about the package as a whole (``version`` None). Versions of PyPI are
        compared by PEP 440, a channel's by conda's order. A version that is none there is covered by what refuses and
        not by what allows.
        """
        if self.channel is not None and self.channel != channel:
            return False
        if not self.specifier:
            return True
        if version is None:
            return False
        try:
            if channel != PYPI:
                return conda_versions.contains(self.specifier, version)
            return _specifiers(self.specifier).contains(_version(version), prereleases=True)
        except ValueError:
            return self.action is not Action.ALLOW


@lru_cache(maxsize=4096)
def _specifiers(text: str) -> SpecifierSet:
    return SpecifierSet(text)


@lru_cache(maxsize=65536)
def _version(text: str) -> Version:
    return Version(text)


class Fallback(BaseModel):
    """What happens to a package that no rule covers, and which level's preset says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action = Action.ALLOW
    level: Level = "global"
    preset: Preset = "open"


class Sdists(BaseModel):
    """What happens to packages that come as source, and which level says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action = Action.ALLOW
    level: Level = "global"


class Channels(BaseModel):
    """The conda channels that may be used, and which level says so.

    Attributes:
        most: what an admin wrote: no workspace trusts, or opens by a rule, what is not among them. None: nothing was
            written, which is :data:`TRUSTED_CHANNELS`.
        asking: those besides that a workspace names where no admin wrote a list: their packages need an approval each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = TRUSTED_CHANNELS
    level: Level = "global"
    most: tuple[str, ...] | None = None
    asking: tuple[str, ...] = ()

    def opened_by(self, rule: Rule) -> bool:
        """Whether a rule opens a package of a channel that is not trusted: one that a file allows there by name.

        A decision answers a question: it counts where the channel asks, and no longer once nobody names it any more.
        """
        if rule.channel is None or rule.action is not Action.ALLOW:
            return False
        if rule.origin == "decision":
            return rule.channel in self.asking
        return rule.level == "global" or rule.channel in (TRUSTED_CHANNELS if self.most is None else self.most)


class Known(Protocol):
    """One thing that is known against a package."""

    @property
    def id(self) -> str:
        """Of the advisory (``MAL-...``)."""


class Book(Protocol):
    """What is known to be malware (:class:`maestro_core.advisories.Malware`)."""

    @property
    def revision(self) -> str:
        """Changes with the content; empty when nothing is known."""

    def about(self, name: str, version: str | None, channel: str) -> Known | None:
        """What is known against a version, or against all (None)."""

    def mentions(self, name: str, channel: str) -> bool:
        """Whether anything is known against any version."""


class Grant(BaseModel):
    """One file that an admin lets in for a few minutes, whatever the rules say; never known malware.

    Attributes:
        version: as the admin named it; the hash is what counts. sha256: of the file, hex.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    until: AwareDatetime


class CompiledPolicy(BaseModel):
    """What is in force for one workspace: the answer of ``GET /policy/packages?workspace=``.

    Attributes:
        revision: a hash of the content. Workspaces without rules of their own share the global policy's revision, and
            whatever depends on the policy alone may be cached by it.
        workspace: the workspace's name, for sentences; empty when no rule is the workspace's.
        scan: names for the security scan alone (``os.system``).
        malware: the revision of the known malware that counts; the book itself is asked for apart and brought by
            :meth:`knowing`, since it is the same for all workspaces.
        startup: blocks for what an image contains when a server starts; None: the blocks among ``rules``.
        grants: single files that admins let in.
        anew: what the index knows of upstream's pages from before that moment is asked for anew.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: str = ""
    malware: str = ""
    workspace: str = ""
    rules: tuple[Rule, ...] = ()
    fallback: Fallback = Fallback()
    channels: Channels = Channels()
    sdists: Sdists = Sdists()
    scan: tuple[str, ...] = ()
    startup: tuple[Rule, ...] | None = None
    grants: tuple[Grant, ...] = ()
    anew: AwareDatetime | None = None
    index: IndexSettings = IndexSettings()
    _book: Book | None = PrivateAttr(default=None)

    def knowing(self, book: Book) -> CompiledPolicy:
        """The same with the malware that it counts on.

        Raises:
            ValueError: another revision of it.
        """
        if book.revision != self.malware:
            raise ValueError("this is another revision of the known malware")
        policy = self.model_copy()
        policy._book = book
        return policy

    def grants_file(self, name: str, sha256: str | None, now: datetime) -> bool:
        """Whether an admin lets this very file in at this moment (normal name); the caller has asked for malware."""
        return any((one.name, one.sha256) == (name, sha256) and now < one.until for one in self.grants)

    @property
    def asks_everywhere(self) -> bool:
        """Whether what no rule covers is held back by the Hub's own preset."""
        return self.fallback.action is Action.ASK and self.fallback.level == "global"

    def malware_in(self, name: str, version: str | None, channel: str = PYPI) -> Known | None:
        """What is known against a version of a package (normal name); None as version: against all of them."""
        return self._known.about(name, version, channel) if self.malware else None

    @property
    def _known(self) -> Book:
        if self._book is None:
            raise RuntimeError("this policy counts on known malware that nobody brought")  # never decide without
        return self._book

    @cached_property
    def rules_by_name(self) -> dict[str, tuple[Rule, ...]]:
        """The rules, found by their normal name."""
        found: dict[str, list[Rule]] = {}
        for rule in self.rules:
            found.setdefault(rule.name, []).append(rule)
        return {name: tuple(rules) for name, rules in found.items()}

    def rules_for(self, name: str, channel: str = PYPI) -> tuple[Rule, ...]:
        """The rules about a package (normal name) as it is called in a channel, of any version."""
        names = (name, *other_names(name, channel))
        rules = [rule for each in names for rule in self.rules_by_name.get(each, ())]
        return tuple(rule for rule in rules if rule.channel in (None, channel))

    def is_uniform(self, name: str, channel: str = PYPI) -> bool:
        """Whether every version of the package gets the same verdict."""
        if self.malware and self._known.mentions(name, channel) and self.malware_in(name, None, channel) is None:
            return False
        return not any(rule.specifier for rule in self.rules_for(name, channel))


@lru_cache(maxsize=4096)
def other_names(name: str, channel: str) -> tuple[str, ...]:
    """What the other side calls the package that this channel calls ``name``.

    One way: a rule for ``torch`` is about conda's ``pytorch``, and not about a project on PyPI that took that name.
    """
    if channel == PYPI:
        return tuple(conda for conda, pypi in PAIRS if pypi == name)
    return tuple(pypi for conda, pypi in PAIRS if conda == name)


def compile_policy(
    everywhere: PackagePolicy,
    workspace: PackagePolicy | None = None,
    *,
    workspace_name: str = "",
    decisions: Iterable[Rule] = (),
    malware: Book | None = None,
    grants: Iterable[Grant] = (),
    anew: datetime | None = None,
) -> CompiledPolicy:
    """Put together what is in force in one workspace.

    Args:
        everywhere: the ``packages`` section of ``maestro.yaml``.
        workspace: the same of the workspace, if it has one.
        workspace_name: named in refusals by the workspace's own rules.
        decisions: rules of origin ``decision``, of either level, that count for this workspace.
        malware: what is known to be malware.
        grants: single files that admins let in.
        anew: when somebody last cleared the cache.
    """
    policies: dict[Level, PackagePolicy] = {"global": everywhere.with_preset("open")}
    if workspace is not None:
        # What a workspace's preset would allow, nobody wrote: it can only tighten.
        policies["workspace"] = workspace.with_preset().model_copy(update={"allowlist": workspace.allowlist})
    rules = [rule for level, policy in policies.items() for rule in _rules_of(policy, level)]
    rules += [rule.model_copy(update={"origin": "decision"}) for rule in decisions]
    scan = {name for policy in policies.values() for name in _scan_names(policy)}
    fallback, channels, sdists = _fallback(policies), _channels(policies), _sdists(policies)
    startup = _startup_rules(policies)
    levels = {rule.level for rule in (*rules, *(startup or ()))} | {fallback.level, channels.level, sdists.level}
    policy = CompiledPolicy(
        malware=malware.revision if malware is not None else "",
        workspace=workspace_name if "workspace" in levels else "",
        rules=tuple(rules),
        fallback=fallback,
        channels=channels,
        sdists=sdists,
        scan=tuple(sorted(scan)),
        startup=startup,
        grants=tuple(grants),
        anew=anew,
        index=everywhere.index,
    )
    digest = hashlib.sha256(policy.model_dump_json(exclude={"revision"}).encode()).hexdigest()
    policy = policy.model_copy(update={"revision": digest[:16]})
    return policy if malware is None else policy.knowing(malware)


def _rules_of(policy: PackagePolicy, level: Level) -> list[Rule]:
    lists = (
        (Action.BLOCK, policy.blocked_packages),
        (Action.ASK, policy.approval_required),
        (Action.ALLOW, policy.allowlist),
    )
    return [_rule(spec, action, level) for action, specs in lists for spec in specs or ()]


def _rule(spec: RuleSpec, action: Action, level: Level) -> Rule:
    name, specifier, channel = parse_rule_text(spec.package)
    return Rule(
        name=name, specifier=specifier, channel=channel, action=action, level=level, reason=spec.reason,
        sdists=spec.sdists,
    )  # fmt: skip


def _startup_rules(policies: Mapping[Level, PackagePolicy]) -> tuple[Rule, ...] | None:
    """Blocks for what an image contains; None where no level has a list of its own for that."""
    if all(policy.startup_blocked_packages is None for policy in policies.values()):
        return None
    lists = {level: policy.startup_blocked_packages for level, policy in policies.items()}
    return tuple(
        _rule(spec, Action.BLOCK, level)
        for level, policy in policies.items()
        for spec in (policy.blocked_packages if lists[level] is None else lists[level]) or ()
    )


def _scan_names(policy: PackagePolicy) -> list[str]:
    """Blocked names that the standard library has: a package rule alone would not reach them."""
    names = [spec.package for spec in policy.blocked_packages or ()]
    return [name for name in names if name.partition(".")[0] in sys.stdlib_module_names]


def _fallback(policies: Mapping[Level, PackagePolicy]) -> Fallback:
    strict = [level for level, policy in policies.items() if policy.preset == "strict"]
    if strict:
        return Fallback(action=Action.ASK, level=strict[0], preset="strict")
    return Fallback(preset=policies["global"].preset or "open")


def _sdists(policies: Mapping[Level, PackagePolicy]) -> Sdists:
    """What is strictest, and the broadest level that says so: a workspace can only tighten."""
    strictness = (Action.ALLOW, Action.ASK, Action.BLOCK)
    found = Sdists()
    for level, policy in policies.items():
        if policy.sdists is not None and strictness.index(policy.sdists) > strictness.index(found.action):
            found = Sdists(action=policy.sdists, level=level)
    return found


def _channels(policies: Mapping[Level, PackagePolicy]) -> Channels:
    most, own = policies["global"].trusted_channels, None
    if "workspace" in policies:
        own = policies["workspace"].trusted_channels
    if own is None:
        return Channels(most=most) if most is None else Channels(names=most, most=most)
    known = TRUSTED_CHANNELS if most is None else most
    names, others = [name for name in own if name in known], [name for name in own if name not in known]
    return Channels(names=tuple(names), level="workspace", most=most, asking=tuple(others) if most is None else ())


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says about one package.

    Attributes:
        reason: for whoever is refused: what, which rule, who set it, what to do. Empty when allowed.
        rule: the rule that decided, as written; ``preset strict``, ``trusted_channels``, the id of an advisory about
            malware, or empty for the open default.
        malware: whether it is known malware, which nobody can allow.
    """

    action: Action
    reason: str = ""
    rule: str = ""
    level: Level = "global"
    malware: bool = False

    @property
    def allowed(self) -> bool:
        """Whether it may be installed now."""
        return self.action is Action.ALLOW


def decide(policy: CompiledPolicy, name: str, version: str | None = None, channel: str = PYPI) -> Verdict:
    """The verdict on one version of a package, or on the package as a whole.

    Args:
        name: in any spelling.
        version: None asks about the package as a whole; rules for some versions then stay out.
        channel: ``pypi`` or a conda channel.

    Raises:
        ValueError: if ``name`` names no package or ``channel`` no channel.
    """
    channel = check_channel(channel)
    name = package_name(name, channel)
    if known := policy.malware_in(name, version, channel):
        return _malware(known, name, version)
    if is_stranger(policy, name, channel):
        return _not_your_own(name, channel)
    about = policy.rules_for(name, channel)
    covering = [rule for rule in about if rule.covers(version, channel)]
    winners = [_winner([rule for rule in covering if rule.level == level]) for level in LEVELS]
    said = [rule for rule in winners if rule is not None]
    for rule in said:
        if rule.action is Action.BLOCK:
            return _blocked(policy, rule, name, version)
    if _untrusted(policy, channel) and not any(map(policy.channels.opened_by, covering)):
        return (
            _not_trusted(policy, channel) if channel not in policy.channels.asking else _channel_asks(policy, channel)
        )
    if len(said) > 1 and _only_tightens(said[-1]) and said[0].action is Action.ASK:
        said.pop()  # the question is the Hub's, and a workspace's list is no answer to it
    elif said and _only_tightens(said[-1]) and policy.asks_everywhere:
        said.pop()
    allowed = [
        rule.text for rule in about if rule.action is Action.ALLOW and rule.specifier and not _only_tightens(rule)
    ]
    if said:
        rule = said[-1]
        if rule.action is Action.ALLOW:
            return Verdict(Action.ALLOW, rule=rule.text, level=rule.level)
        return _held_back(policy, rule, name, version, allowed)
    if policy.fallback.action is Action.ALLOW:
        return Verdict(Action.ALLOW)
    return _not_listed(policy, name, version, allowed)


def _only_tightens(rule: Rule) -> bool:
    """Whether it is an entry of a workspace's own allow list: it answers what that workspace asks, and nothing wider.

    Anybody can make a workspace and write its lists; what the Hub holds back is for its reviewers.
    """
    return rule.level == "workspace" and rule.origin == "file" and rule.action is Action.ALLOW


def decide_file(policy: CompiledPolicy, name: str, version: str, source: bool, channel: str = PYPI) -> Verdict:
    """The verdict on one file of a version: as :func:`decide`, and for a source archive by the rule ``sdists`` too.

    ``ask`` is answered by any decision that allows the version; an entry of an allow list with ``sdists: true``
    answers for its own level and narrower ones, a workspace's own for what that workspace asks alone.

    Args:
        source: the file is built before it is installed, which runs code of the package.

    Raises:
        ValueError: as :func:`decide`.
    """
    verdict = decide(policy, name, version, channel)
    rule = policy.sdists
    if not source or not verdict.allowed or rule.action is Action.ALLOW:
        return verdict
    for about in policy.rules_for(normal_name(name), channel):
        if about.action is Action.ALLOW and about.covers(version, channel) and _lifts(about, rule):
            return verdict
    return _source(policy, normal_name(name), version)


def _lifts(allow: Rule, rule: Sdists) -> bool:
    if rule.level == "global" and _only_tightens(allow):
        return False
    if rule.action is Action.ASK and (allow.origin == "decision" or allow.sdists):
        return True
    return allow.sdists and LEVELS.index(allow.level) <= LEVELS.index(rule.level)


def _source(policy: CompiledPolicy, name: str, version: str) -> Verdict:
    action, level = policy.sdists.action, policy.sdists.level
    blocked = action is Action.BLOCK
    sentence = (
        f"{name} {version} is offered to this Python as source only, and a build runs its code: that "
        f"{'is blocked' if blocked else 'needs an approval'} by {_who(policy, level)} (rule sdists: {action.value}). "
        f"Install a version that has a wheel, or ask {f'{_whom(level)} to change the rule.' if blocked else _REQUEST}"
    )
    return Verdict(action, sentence, f"sdists: {action.value}", level)


def _malware(known: Known, name: str, version: str | None) -> Verdict:
    sentence = (
        f"{_subject(name, version)} is blocked as known malware ({known.id}). Do not install it elsewhere "
        "either; if it is installed somewhere, tell an admin of this Hub."
    )
    return Verdict(Action.BLOCK, sentence, known.id, malware=True)


def startup_policy(policy: CompiledPolicy) -> CompiledPolicy:
    """The policy for what an image already contains when a server starts, for :func:`decide`: blocked or allowed.

    It is the list ``startup_blocked_packages`` where one is written, else what blocks installs; known malware always.
    """
    rules = policy.startup if policy.startup is not None else policy.rules
    blocks = tuple(rule for rule in rules if rule.action is not Action.ASK)
    found = CompiledPolicy(
        revision=policy.revision, workspace=policy.workspace, malware=policy.malware, rules=blocks,
        channels=policy.channels,
    )  # fmt: skip
    found._book = policy._book
    return found


def _winner(rules: list[Rule]) -> Rule | None:
    """The rule that speaks for a level: a block, then a decision before the file, then allow before ask."""
    ranked = sorted(rules, key=lambda rule: (rule.action is not Action.BLOCK, rule.origin == "file", rule.action.rank))
    return ranked[0] if ranked else None


def _untrusted(policy: CompiledPolicy, channel: str) -> bool:
    return channel != PYPI and channel not in policy.channels.names


#: how a package is asked for that needs an approval
_REQUEST = "for it with 'maestro request' or on the page Packages."


def _who(policy: CompiledPolicy, level: Level) -> str:
    return "the global policy" if level == "global" else f"the policy of workspace {policy.workspace}"


def _whom(level: Level) -> str:
    return "an admin of this Hub" if level == "global" else "an owner of the workspace"


def _subject(name: str, version: str | None) -> str:
    return f"{name} {version}" if version else name


def _blocked(policy: CompiledPolicy, rule: Rule, name: str, version: str | None) -> Verdict:
    subject = _subject(name, version) if rule.specifier else name
    why = f": {rule.reason}" if rule.reason else ""
    other = "Install another version or ask" if rule.specifier else "Ask"
    sentence = (
        f"{subject} is blocked by {_who(policy, rule.level)} (rule {rule.text}){why}. "
        f"{other} {_whom(rule.level)} to change the rule."
    )
    return Verdict(Action.BLOCK, sentence, rule.text, rule.level)


def _held_back(policy: CompiledPolicy, rule: Rule, name: str, version: str | None, allowed: list[str]) -> Verdict:
    subject = _subject(name, version) if rule.specifier or allowed else name
    why = f": {rule.reason}" if rule.reason else ""
    sentence = (
        f"{subject} needs an approval by {_who(policy, rule.level)} (rule {rule.text}){why}. {_approval(allowed)}"
    )
    return Verdict(Action.ASK, sentence, rule.text, rule.level)


def _not_listed(policy: CompiledPolicy, name: str, version: str | None, allowed: list[str]) -> Verdict:
    level = policy.fallback.level
    sentence = (
        f"{_subject(name, version if allowed else None)} is not on the allow list of {_who(policy, level)} "
        f"(preset {policy.fallback.preset}). {_approval(allowed)}"
    )
    return Verdict(Action.ASK, sentence, f"preset {policy.fallback.preset}", level)


def _approval(allowed: list[str]) -> str:
    instead = f"Install {' or '.join(allowed)}, or ask" if allowed else "Ask"
    return f"{instead} {_REQUEST}"


def is_stranger(policy: CompiledPolicy, name: str, channel: str) -> bool:
    """Whether a package (normal name) has one of your own names in a conda channel that ``channels`` does not name."""
    # conda has names like _openmp_mutex: one with a dash in front is taken for yours all the same
    own = policy.index.is_internal(name) or policy.index.is_internal(name.lstrip("_-"))
    return channel != PYPI and own and channel not in policy.index.channels


def _not_your_own(name: str, channel: str) -> Verdict:
    sentence = (
        f"{name} is a name of this organisation's own (internal_names), and the channel {channel} is not its own. Take "
        "it from your own channel, or ask an admin to name the channel under 'index: channels:'."
    )
    return Verdict(Action.BLOCK, sentence, "internal_names")


def _channel_asks(policy: CompiledPolicy, channel: str) -> Verdict:
    named = _who(policy, "workspace")
    sentence = (
        f"The channel {channel} is named by {named} and by no admin, so each package of it needs an approval. "
        f"Ask for it with 'maestro request {policy.workspace} {channel}::NAME' or on the page Packages."
    )
    return Verdict(Action.ASK, sentence, TRUSTED, "workspace")


def _not_trusted(policy: CompiledPolicy, channel: str) -> Verdict:
    known, level = policy.channels.names, policy.channels.level
    if policy.channels.most is not None and channel not in policy.channels.most:
        known, level = policy.channels.most, "global"
    names = ", ".join(known) or "none"
    sentence = (
        f"The channel {channel} is not trusted by {_who(policy, level)} (trusted_channels: {names}). "
        f"Take a trusted channel or ask {_whom(level)} to trust this one."
    )
    return Verdict(Action.BLOCK, sentence, TRUSTED, level)


class TokenQuestion(BaseModel):
    """The body of ``POST /policy/tokens``: the index asks whose token this is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(min_length=1, max_length=512, repr=False)


class TokenOwner(BaseModel):
    """The answer of ``POST /policy/tokens`` for a living index token: the launch that holds it.

    Attributes:
        workspace: what ``GET /policy/packages?workspace=`` is asked for next.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    launch_id: str
    user: str
    workspace: str
