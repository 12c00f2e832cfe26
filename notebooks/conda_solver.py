"""py-rattler for one server's index: which files what is asked for means, and what it says when that cannot be.

The index decides about each file; what it refuses is told in its own words.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx

from maestro_core.clients import INDEX_USER
from maestro_core.conda_environments import LockedCondaPackage, channel_of, spec_name
from maestro_core.errors import MaestroError

from .conda_files import ExplicitFile
from .conda_place import Place

if TYPE_CHECKING:
    from rattler import Channel, RepoDataRecord

#: what a kernel needs; installed with the first package
KERNEL_PACKAGES = ("python", "ipykernel")
_NO_KERNEL = re.compile(r"No candidates were found for (?:python|ipykernel) ")
#: what a solver prints of a version that the index gave a reason as a dependency (maestro_core.conda.hindrance)
_HINDERED = re.compile(
    r"([A-Za-z0-9_.-]+) ([^\s|,]+)[^\n]* would require\s+\S+ "
    r"[a-z0-9-]+-(?:is-blocked|needs-an-approval|is-not-on-the-allow-list)"
)
_MOST_TOLD = 10
_REASON = re.compile(r"\(403 (.*?)\) for url", re.DOTALL)
_TOKEN = re.compile(r"/t/[^/\s]+")
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
#: files that are asked about at a time
_AT_A_TIME = 8


async def solve(
    place: Place, channels: Sequence[str], asked: Sequence[str], pins: Mapping[str, str]
) -> list[RepoDataRecord]:
    """The packages, with those of a kernel where there are some: as locked if that can be, else the newest that fit.

    A channel without ipykernel still installs: then there is no kernel.

    Args:
        asked: specs. pins: by name, what is taken where it fits.

    Raises:
        MaestroError: ``package_blocked`` with the policy's sentence; ``conflict`` with the solver's explanation;
            ``invalid_request``; ``upstream_unavailable``.
    """
    import rattler
    from rattler.exceptions import SolverError

    gateway = rattler.Gateway(cache_dir=place.cache)
    names = set(map(spec_name, asked))
    failure: Exception | None = None
    attempts = [(KERNEL_PACKAGES, pins), (KERNEL_PACKAGES, {}), ((), pins), ((), {})]
    for kernel, constraints in attempts if pins else attempts[1::2]:
        if failure is not None and not kernel and not _NO_KERNEL.search(str(failure)):
            break
        try:
            return await rattler.solve(
                _channels(place, channels),
                [*(_at(place.alias, it) for it in asked), *(name for name in kernel if name not in names)],
                gateway=gateway,
                virtual_packages=rattler.VirtualPackage.detect(),
                constraints=list(constraints.values()),
            )
        except SolverError as error:
            failure = error
        except Exception as error:
            raise refusal(error) from None
    raise await _explained(place, refusal(failure))


async def _explained(place: Place, failure: MaestroError) -> MaestroError:
    """With the policy's sentences before the solver's words, where it was the policy that left it no version.

    The index hears of it: its own record has only files that somebody asked for.
    """
    hindered = list(dict.fromkeys(_HINDERED.findall(failure.message)))[:_MOST_TOLD]
    if not hindered:
        return failure
    base, _, token = place.alias.rpartition("/conda/t/")
    sentences = []
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, auth=(INDEX_USER, token)) as client:
            for name, version in hindered:
                for channel in dict.fromkeys(place.channels):
                    told = {"package": name, "version": version, "channel": channel}
                    answer = await client.post(f"{base}/denials", json=told)
                    if answer.is_success and (sentence := answer.json()["refused"]):
                        sentences.append(str(sentence))
                        break
    except (httpx.HTTPError, ValueError, KeyError):
        return failure
    if not sentences:
        return failure
    return MaestroError("package_blocked", "\n".join([*dict.fromkeys(sentences), failure.message]))


async def look_up(place: Place, files: Sequence[ExplicitFile]) -> list[RepoDataRecord]:
    """The records of exactly these files; nothing is solved.

    Raises:
        MaestroError: ``package_blocked`` with a line for each file that the policy refuses; ``conflict`` where the
            index has none of that name, or another one than the hash says; ``upstream_unavailable``.
    """
    await _see_allowed(place, files)
    import rattler

    gateway = rattler.Gateway(cache_dir=place.cache)
    channels = list(dict.fromkeys(it.channel for it in files))
    try:
        subdirs = [rattler.Subdir(name) for name in dict.fromkeys(it.subdir for it in files)]
        names = list(dict.fromkeys(it.name for it in files))
        listed = await gateway.query(_channels(place, channels), subdirs, names, recursive=False)
    except Exception as error:
        raise refusal(error) from None
    known = {(channel_in(place, it), it.file_name): it for records in listed for it in records}
    return [_meant(known.get((it.channel, it.filename)), it) for it in files]


def _meant(record: RepoDataRecord | None, wanted: ExplicitFile) -> RepoDataRecord:
    if record is None:
        raise MaestroError("conflict", f"The channel {wanted.channel} has no file {wanted.filename}.")
    digest = record.md5 if len(wanted.digest) == 32 else record.sha256
    if wanted.digest and (digest is None or digest.hex() != wanted.digest):
        raise MaestroError(
            "conflict",
            f"{wanted.filename} of the channel {wanted.channel} is another file than the one whose hash stands in your "
            "file, so nothing was installed.",
        )
    return record


async def _see_allowed(place: Place, files: Sequence[ExplicitFile]) -> None:
    """Ask the index about each file, so that all that it refuses is said at once."""
    turn = asyncio.Semaphore(_AT_A_TIME)

    async def ask(client: httpx.AsyncClient, file: ExplicitFile) -> str | None:
        address = f"{place.alias}/{quote(file.channel)}/{file.subdir}/{quote(file.filename)}"
        async with turn:
            answer = await client.head(address)
        return answer.reason_phrase if answer.status_code == 403 else None

    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
            told = await asyncio.gather(*(ask(client, file) for file in files))
    except httpx.HTTPError:
        raise MaestroError("upstream_unavailable", "The package index does not answer; try again.") from None
    if refused := list(dict.fromkeys(filter(None, told))):
        raise MaestroError("package_blocked", "\n".join(refused))


def refusal(error: Exception | None) -> MaestroError:
    """What rattler says, as the sentence of the index if it refused, and without the token."""
    text = _TOKEN.sub("/t/***", str(error)).strip()
    refused = _REASON.search(text)
    if refused:
        return MaestroError("package_blocked", refused.group(1).strip())
    if type(error).__name__ == "SolverError":
        return MaestroError("conflict", f"These packages cannot be installed together. {text}")
    if type(error).__name__ in ("InvalidMatchSpecError", "InvalidChannelError"):
        return MaestroError("invalid_request", f"{text} is no package as conda writes it, like 'numpy' or 'numpy>=2'.")
    return MaestroError("upstream_unavailable", f"The packages could not be fetched: {text}")


def channel_in(place: Place, record: RepoDataRecord) -> str:
    """The name of the channel that a record is of; its address holds the token."""
    return record.url.removeprefix(f"{place.alias}/").rsplit("/", 2)[0]


def locked(place: Place, record: RepoDataRecord) -> LockedCondaPackage:
    """A record as the lock keeps it."""
    return LockedCondaPackage(
        name=record.name.normalized,
        version=str(record.version),
        build=str(record.build),
        channel=channel_in(place, record),
        sha256=record.sha256.hex() if record.sha256 else "",
    )


def pin(package: LockedCondaPackage) -> str:
    """This version and build of a package."""
    return f"{package.name} =={package.version} {package.build}"


def see_same_files(found: Iterable[LockedCondaPackage], lock: Iterable[LockedCondaPackage]) -> None:
    """A package of the locked version and build has to be the locked file.

    Raises:
        MaestroError: ``conflict``.
    """
    before = {pin(it): it for it in lock}
    for it in found:
        known = before.get(pin(it), it)
        if known.channel == it.channel and known.sha256 != it.sha256:
            raise MaestroError(
                "conflict",
                f"{it.name} {it.version} is another file now than the one that the workspace's record has, so nothing "
                "was installed; if that is right, name it anew in the command.",
            )


def _channels(place: Place, names: Iterable[str]) -> list[Channel]:
    import rattler

    alias = rattler.ChannelConfig(channel_alias=f"{place.alias}/")
    return [rattler.Channel(name, alias) for name in names]


def _at(alias: str, spec: str) -> str:
    """A spec whose channel, if it names one, is an address: a name would mean rattler's own place of channels."""
    channel = channel_of(spec)
    return f"{alias}/{channel}::{spec.rpartition('::')[2]}" if channel else spec
