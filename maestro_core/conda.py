"""What a policy makes of a conda channel: which records a client sees, and which it cannot take.

A refusal has to be read by a person, so it is put where conda clients show it:

* a package that is refused as a whole stays in the repodata, and its file is refused: clients print the reason;
* where only some versions are refused, each of those gets a dependency that nothing provides, whose name is the
  reason (:func:`hindrance`): solvers take another version, or print the reason;
* of a channel that is not trusted, only what a rule allows by name is shown; without such a rule it is refused whole;
* a package with one of your own names is not shown in a channel that is not yours: a solver would take it for yours.
"""

from __future__ import annotations

from enum import StrEnum

from .names import slug
from .packages import PYPI, Action, CompiledPolicy, Verdict, check_channel, decide, is_stranger, package_name


def conda_channel(text: str) -> str:
    """A conda channel's name in lower case.

    Raises:
        ValueError: if it cannot be one; ``pypi`` is the name of Python's own index.
    """
    name = check_channel(text)
    if name == PYPI:
        raise ValueError("'pypi' is no conda channel")
    return name


class Fate(StrEnum):
    """What happens to a record of the repodata."""

    KEEP = "keep"
    HINDER = "hinder"
    LEAVE_OUT = "leave out"


def fate_of(policy: CompiledPolicy, channel: str, name: str, version: str) -> tuple[Fate, Verdict]:
    """What happens to one record, and the verdict on its file.

    Raises:
        ValueError: as :func:`~maestro_core.packages.decide`; such a record is left out.
    """
    verdict = decide(policy, name, version, channel)
    if is_stranger(policy, package_name(name, channel), channel):
        return Fate.LEAVE_OUT, verdict
    if verdict.allowed:
        return Fate.KEEP, verdict
    if not is_trusted(policy, channel):
        return Fate.LEAVE_OUT, verdict
    return (Fate.KEEP if policy.is_uniform(package_name(name, channel), channel) else Fate.HINDER), verdict


def is_trusted(policy: CompiledPolicy, channel: str) -> bool:
    """Whether the channel is one of ``trusted_channels``."""
    return channel in policy.channels.names


def channel_verdict(policy: CompiledPolicy, channel: str) -> Verdict:
    """The verdict on a channel as a whole: allowed too where a rule allows some package of it by name."""
    named = any(rule.channel == channel and policy.channels.opened_by(rule) for rule in policy.rules)
    if named or is_trusted(policy, channel):
        return Verdict(Action.ALLOW)
    return decide(policy, "any-package", None, channel)


def has_varied_fates(policy: CompiledPolicy, channel: str, name: str) -> bool:
    """Whether versions of a package have to be looked at one by one; if not, all of them have the fate of a channel.

    That is :attr:`Fate.KEEP` in a trusted channel, and :attr:`Fate.LEAVE_OUT` in another.

    Raises:
        ValueError: for what names no package.
    """
    normal = package_name(name, channel)
    if is_stranger(policy, normal, channel):
        return True
    if is_trusted(policy, channel):
        return not policy.is_uniform(normal, channel)
    return any(map(policy.channels.opened_by, policy.rules_for(normal, channel)))


def hindrance(verdict: Verdict) -> str:
    """The name of the dependency that keeps a solver from a record: the reason, in letters that a name may have."""
    return slug(verdict.reason.partition(")")[0].replace("<", " below ").replace(">", " above "), 150)
