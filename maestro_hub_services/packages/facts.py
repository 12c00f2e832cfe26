"""Finds out what a reviewer needs to know about a request: versions, licence, what it would bring with it.

The workspaces service keeps the list of requests and what is found; this service alone reaches upstream. So it asks now
and then what is wanted, looks, and tells.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import zipfile
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from packaging.metadata import RawMetadata, parse_email
from packaging.requirements import Requirement
from packaging.version import Version

from maestro_core.errors import MaestroError
from maestro_core.packages import CompiledPolicy
from maestro_core.requests import MAX_CLOSURE, MAX_VERSIONS, ClosureItem, Facts, FactsReport, VersionFact, Wanted

from . import closure
from .authority import Authority
from .downloads import Wanted as WantedFile
from .index import Index, Shelf
from .pages import File, Page

#: seconds between two questions; for one request; for one page or piece of metadata
INTERVAL, WHOLE_SECONDS, STEP_SECONDS = 2.0, 60.0, 20.0
#: bytes; a wheel without separate metadata (PEP 658) that is larger is not fetched for it
_MAX_WHEEL, _MAX_METADATA = 100 * 1024**2, 4 * 1024**2
#: names that are told of those that need a package
_MAX_PARENTS = 10
_log = logging.getLogger(__name__)
T = TypeVar("T")


async def look_for_ever(authority: Authority, index: Index) -> None:
    """Look into every request that comes, until it is cancelled."""
    away = False
    while True:
        try:
            for wanted in (await authority.wanted_facts()).wanted:
                facts = await _look_in_any_case(index, wanted)
                await authority.tell_facts(FactsReport(request_id=wanted.request_id, facts=facts))
            away = False
        except MaestroError as error:
            if not away:
                _log.warning("Requests are looked into later: %s", error.message)
            away = True
        except Exception:
            _log.exception("Looking into a request failed")
        await asyncio.sleep(INTERVAL)


async def _look_in_any_case(index: Index, wanted: Wanted) -> Facts:
    """As :func:`look`; whatever an author has written, one package does not keep others from being looked into."""
    try:
        return await look(index, wanted)
    except Exception:
        _log.exception("Looking into %s failed", wanted.package)
        return Facts(
            checked_at=datetime.now(UTC), problem="It could not be looked into; the log of the package index says why."
        )


async def look(index: Index, wanted: Wanted) -> Facts:
    """What there is to know about one request; what could not be found out is said in ``problem``."""
    found: dict[str, Any] = {"checked_at": datetime.now(UTC), "python": closure.PYTHON}
    try:
        policy = await index.authority.policy(wanted.workspace)
        shelf = await index.shelf(policy)
        listing = await shelf.library.listing(wanted.package)
        if listing is None:
            return Facts(**found, problem=f"{wanted.package} is not at the index behind ours.")
        found |= _versions(listing.page)
        chosen = await _resolve(shelf, policy, wanted)
    except closure.Unresolved as error:
        return Facts(**found, problem=_line(error)[:500])
    except MaestroError as error:
        return Facts(**found, problem=error.message[:500])
    except TimeoutError:
        return Facts(**found, problem="The index behind ours took too long, so what would come with it is not known.")
    return Facts(**found, **_closure(wanted.package, chosen))


def _versions(page: Page) -> dict[str, Any]:
    """The versions of a page, the newest first."""
    here = {release.version: release for release in closure.releases(page)}
    found: dict[Version, VersionFact] = {}
    for file in page.files:
        version = closure.version_of(file)
        if version is None:
            continue
        release, before = here.get(version), found.get(version)
        found[version] = VersionFact(
            version=str(version),
            wheel=release is not None and not release.source,
            source=file.is_source or (before is not None and before.source),
            yanked=None if release is None or release.yanked is None else _line(release.yanked)[:500],
        )
    newest = [found[version] for version in sorted(found, reverse=True)]
    return {"versions": tuple(newest[:MAX_VERSIONS]), "version_count": len(newest)}


def _closure(name: str, chosen: list[closure.Chosen]) -> dict[str, Any]:
    items = tuple(
        ClosureItem(
            name=one.name,
            version=str(one.release.version),
            licence=licence(one.metadata),
            wheel=not one.release.source,
            required_by=one.required_by[:_MAX_PARENTS],
            problem=_line(one.problem)[:500],
        )
        for one in sorted(chosen, key=lambda one: (one.name != name, one.name))
    )
    own = next(one for one in chosen if one.name == name)
    problems = [f"{one.name} {one.version}: {one.problem}." for one in items if one.problem]
    return {
        "closure": items,
        "version": str(own.release.version),
        "licence": licence(own.metadata),
        "summary": _line((own.metadata or {}).get("summary"))[:500],
        "problem": _line(" ".join(problems))[:500],
    }


def licence(metadata: RawMetadata | None) -> str:
    """The licence as the metadata says it: the expression, else the text's first line, else the classifiers."""
    if not metadata:
        return ""
    if expression := _line(metadata.get("license_expression")):
        return expression[:200]
    classifiers = [text.rpartition(" :: ")[2] for text in metadata.get("classifiers", []) if text.startswith("License")]
    text = (metadata.get("license") or "").strip().partition("\n")[0]
    return (_line(text) if text and len(text) <= 60 else ", ".join(map(_line, classifiers)) or _line(text))[:200]


def _line(text: Any) -> str:
    """One printable line: it is an author's text."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text or "")).strip()


async def _resolve(shelf: Shelf, policy: CompiledPolicy, wanted: Wanted) -> list[closure.Chosen]:
    """Choose in a thread; what it needs to read is read here, on the loop.

    Raises:
        closure.Unresolved, MaestroError, TimeoutError.
    """
    loop, end = asyncio.get_running_loop(), time.monotonic() + WHOLE_SECONDS

    def wait(work: Coroutine[Any, Any, T]) -> T:
        left = min(STEP_SECONDS, end - time.monotonic())
        if left <= 0:
            work.close()
            raise TimeoutError
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result(left)
        except TimeoutError:
            future.cancel()
            raise

    async def page_of(name: str) -> Page | None:
        listing = await shelf.library.listing(name)
        return None if listing is None else listing.page

    root = Requirement(f"{wanted.package}{wanted.version}")
    return await asyncio.to_thread(
        closure.resolve,
        root,
        lambda name: wait(page_of(name)),
        lambda file: wait(read_metadata(shelf, file)),
        policy,
        MAX_CLOSURE,
    )


async def read_metadata(shelf: Shelf, file: File) -> RawMetadata:
    """A wheel's metadata: the file beside it where upstream has one, else from the wheel.

    Raises:
        MaestroError: ``upstream_unavailable``.
    """
    beside = file.companion(".metadata")
    if beside is None and file.size is not None and file.size > _MAX_WHEEL:
        raise closure.Unresolved(
            f"{file.filename} is large and has no separate metadata, so what it needs is not known."
        )
    url, hashes = (file.url, file.hashes) if beside is None else beside
    # a name of its own: what installs is looked at more closely before it is kept
    name = hashlib.sha256(f"review\n{file.key}\n{url}\n{sorted(hashes.items())}".encode()).hexdigest()[:48]
    async with shelf.downloads.open(
        WantedFile(name, url, hashes, None if beside else file.size, small=bool(beside)), shelf.library.may_visit
    ) as delivery:
        size = await delivery.finish()
        if beside is None:
            return await asyncio.to_thread(_from_wheel, delivery.path, file.filename)
        if size > _MAX_METADATA:
            raise closure.Unresolved(f"The metadata of {file.filename} is larger than is read.")
        return _parse(await asyncio.to_thread(delivery.path.read_bytes))


def _from_wheel(path: Path, filename: str) -> RawMetadata:
    try:
        with zipfile.ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA") and name.count("/") == 1]
            if len(names) != 1 or wheel.getinfo(names[0]).file_size > _MAX_METADATA:
                raise closure.Unresolved(f"{filename} has no metadata that can be read.")
            return _parse(wheel.read(names[0]))
    except (zipfile.BadZipFile, OSError, NotImplementedError):
        raise closure.Unresolved(f"{filename} is no wheel that can be read.") from None


def _parse(content: bytes) -> RawMetadata:
    return parse_email(content)[0]
