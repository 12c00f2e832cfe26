"""Channels: their folders fetched from upstream and taken in once for everybody, and shown as a policy has them.

A folder (``conda-forge/linux-64``) is asked for again when it may have changed; while upstream is away, what is here
serves. All that lies on disk is in the index's cache: the cleaned repodata and the catalog of its files by the hash of
what upstream sent, and a changed copy for each plan that differs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import url2pathname

import httpx

from maestro_core.errors import MaestroError
from maestro_core.packages import CompiledPolicy, IndexSettings

from ..cache import DiskCache
from ..downloads import Wanted
from ..http import away
from ..once import shared
from ..upstream import MIN_FRESH, freshness
from .catalog import Entry, find, make_plan
from .condarc import CondaConfig, read_conda_config
from .places import Place, may_name
from .repodata import MAX_BYTES
from .worker import WorkerError, run

_log = logging.getLogger(__name__)

#: part of every name on disk: raised when what is written changes
_FORMAT = "1"
#: what is made of repodata
_PARTS = ("body", "catalog")
#: stores of objects answer 403 for what they do not have; of a folder that was there it tells nothing
_NOT_HERE = (403, 404, 410)
_WRITE = 1024**2
#: folders, and plans; what is forgotten is read from disk again
_REMEMBERED = 256


@dataclass(frozen=True)
class Folder:
    """A channel's folder for one platform, as upstream last sent it.

    Attributes:
        url: of the folder, with a slash at its end. form: the name under which it had repodata; empty: none.
        stamp: names the content of its repodata.
        files: where its files lie: ``url``, or what its repodata says (CEP-15).
    """

    url: str
    form: str = ""
    stamp: str = ""
    etag: str = ""
    modified: str = ""
    files: str = ""


@dataclass(frozen=True)
class View:
    """A folder's repodata under one policy: a file (zstd), its size, and a name for this very content."""

    path: Path
    size: int
    etag: str


class Channels:
    """All channels.

    Args:
        cache: of the index; repodata and packages lie there beside its other files.
        read_config: how the configuration of this machine is found.
    """

    def __init__(self, cache: DiskCache, read_config: Callable[[], Awaitable[CondaConfig]] = read_conda_config) -> None:
        self._cache = cache
        self._read_config = read_config
        self._places: dict[str, Place] = {}
        self._opening: dict[str, asyncio.Task[Place]] = {}
        self._folders: OrderedDict[str, tuple[Folder, float]] = OrderedDict()
        self._refreshing: dict[str, asyncio.Task[Folder]] = {}
        self._plans: OrderedDict[tuple[str, str, str], dict[str, Any] | None] = OrderedDict()
        self._viewing: dict[str, asyncio.Task[View]] = {}
        self._one_at_a_time = asyncio.Semaphore(1)  # a worker holds a large channel in memory

    async def close(self) -> None:
        """End downloads and connections."""
        for place in self._places.values():
            await place.downloads.close()
            await place.http.close()

    async def place(self, policy: CompiledPolicy) -> Place:
        """Where the channels of a policy lie."""
        settings = policy.index
        key = json.dumps([settings.channel_alias, sorted(settings.channels.items())])
        place = self._places.get(key)
        return place if place is not None else await shared(self._opening, key, lambda: self._open(settings, key))

    async def folder(self, place: Place, channel: str, subdir: str) -> Folder:
        """A channel's folder, asked for again when it may have changed.

        Raises:
            MaestroError: ``upstream_unavailable``, and nothing of it is here.
        """
        url = f"{place.address(channel).rstrip('/')}/{subdir}/"
        known, fresh_until = self._folders.get(url, (None, 0.0))
        if known is not None and time.monotonic() < fresh_until and await self._is_here(known):
            return known
        return await shared(self._refreshing, url, lambda: self._refresh(place, url, subdir, known))

    async def view(self, folder: Folder, policy: CompiledPolicy, channel: str) -> View:
        """A folder's repodata as a policy has it.

        Raises:
            MaestroError: ``upstream_unavailable``, if what lies here has gone and cannot be made again.
        """
        plan = await self._plan(folder, policy, channel)
        told = json.dumps(plan, sort_keys=True) if plan else ""
        name = f"{folder.stamp}.body" if plan is None else _digest(folder.stamp, told) + ".view"
        path = await self._cache.find(name)
        if path is None:
            return await shared(self._viewing, name, lambda: self._make_view(folder, name, plan))
        return await _look(path, name)

    async def find(self, folder: Folder, filename: str) -> tuple[Entry, Wanted] | None:
        """A file of a folder and where to have it, or None if its repodata has none of that name.

        Raises:
            MaestroError: ``upstream_unavailable``, as :meth:`view`.
        """
        path = await self._present(folder, "catalog")
        entry = await asyncio.to_thread(find, path, filename)
        if entry is None:
            return None
        url = urljoin(folder.files, quote(filename))
        key = _digest(url, json.dumps(entry.hashes, sort_keys=True))[:48]
        return entry, Wanted(key, url, entry.hashes, entry.size)

    async def _open(self, settings: IndexSettings, key: str) -> Place:
        place = Place(settings, await self._read_config(), self._cache)
        await place.http.open()
        self._places[key] = place
        _log.info("Conda channels come from %s", ", ".join(sorted(place.hosts)) or "nowhere")
        return place

    # A folder: from upstream, or from what is kept of it.

    async def _refresh(self, place: Place, url: str, subdir: str, known: Folder | None) -> Folder:
        known = known or await self._from_disk(url)
        try:
            if known is not None and place.http.is_away(url):
                raise away(url, "does not answer")
            folder, seconds = await self._ask(place, url, subdir, known)
        except MaestroError:
            if known is None:
                raise
            folder, seconds = known, MIN_FRESH
        if folder.files:
            place.hosts.add(urlsplit(folder.files).hostname or "")
        self._folders[url] = (folder, time.monotonic() + seconds)
        while len(self._folders) > _REMEMBERED:
            self._folders.popitem(last=False)
        return folder

    async def _ask(self, place: Place, url: str, subdir: str, known: Folder | None) -> tuple[Folder, float]:
        if url.startswith("file:"):
            return await self._from_folder(url, subdir, known), 0.0
        forms = ("repodata.json.zst", "repodata.json")
        for form in sorted(forms, key=lambda it: known is not None and it != known.form):
            headers = {"Accept-Encoding": "identity"}
            if known is not None and known.form == form and await self._is_here(known):
                headers |= {"If-None-Match": known.etag} if known.etag else {}
                headers |= {"If-Modified-Since": known.modified} if known.modified else {}
            async with place.http.get(url + form, headers, place.may_visit) as response:
                seconds = freshness(response.headers)
                if response.status_code == 304 and known is not None:
                    return known, seconds
                if response.status_code in _NOT_HERE and not (response.status_code == 403 and known and known.form):
                    continue
                if response.status_code != 200:
                    raise away(url, f"answered {response.status_code}")
                etag, modified = response.headers.get("etag", ""), response.headers.get("last-modified", "")
                draft, stamp = await self._receive(url, response)
                folder = Folder(url, form, _digest(_FORMAT, subdir, stamp), etag, modified)
            return await self._take_in(folder, draft, subdir, known), seconds
        gone = Folder(url)
        await self._cache.write(_meta_name(url), json.dumps(asdict(gone)).encode())
        return gone, seconds

    async def _from_folder(self, url: str, subdir: str, known: Folder | None) -> Folder:
        root = Path(url2pathname(urlsplit(url).path))
        for form in ("repodata.json.zst", "repodata.json"):
            try:
                status = await asyncio.to_thread((root / form).stat)
            except OSError:
                continue
            stamp = _digest(_FORMAT, subdir, str(root), str(status.st_mtime_ns), str(status.st_size))
            return await self._take_in(Folder(url, form, stamp), root / form, subdir, known, keep=True)
        return Folder(url)

    async def _receive(self, url: str, response: httpx.Response) -> tuple[Path, str]:
        """The body in a file, and its SHA-256."""
        handle, draft = self._cache.draft()
        digest = hashlib.sha256()
        size = 0

        def store(content: bytes) -> None:
            digest.update(content)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(handle, rest) :]

        try:
            async for part in response.aiter_raw(_WRITE):
                size += len(part)
                if size > MAX_BYTES:
                    raise away(url, "sent repodata of more than 2 GiB")
                await asyncio.to_thread(store, part)
        except BaseException as error:
            draft.unlink(missing_ok=True)
            if isinstance(error, httpx.HTTPError):
                raise away(url, "broke off in the middle of its repodata") from None
            raise
        finally:
            os.close(handle)
        return draft, digest.hexdigest()

    async def _take_in(
        self, folder: Folder, source: Path, subdir: str, known: Folder | None, keep: bool = False
    ) -> Folder:
        """Clean repodata and write down its files, unless that has been done for this content."""
        try:
            if known is not None and known.stamp == folder.stamp and await self._is_here(known):
                folder = replace(folder, files=known.files)
            else:
                folder = await self._work_on(folder, source, subdir)
        finally:
            if not keep:
                await asyncio.to_thread(source.unlink, missing_ok=True)
        if folder != known:
            await self._cache.write(_meta_name(folder.url), json.dumps(asdict(folder)).encode())
        return folder

    async def _work_on(self, folder: Folder, source: Path, subdir: str) -> Folder:
        drafts = {part: self._empty_draft() for part in _PARTS}
        packed = folder.form.endswith(".zst")
        task = {"do": "take_in", "source": str(source), "packed": packed, "subdir": subdir}
        try:
            answer = await self._work(folder, source, task | {part: str(path) for part, path in drafts.items()})
            for part, path in drafts.items():
                await self._cache.keep(f"{folder.stamp}.{part}", path)
        finally:
            for path in drafts.values():
                path.unlink(missing_ok=True)
        base = answer["base_url"]
        files = urljoin(folder.url, base.rstrip("/") + "/") if base else folder.url
        if base and not may_name(folder.url, files):
            raise away(folder.url, "names a place for its files that is not asked")
        return replace(folder, files=files)

    async def _work(self, folder: Folder, document: Path, task: dict[str, Any]) -> dict[str, Any]:
        size = (await asyncio.to_thread(document.stat)).st_size
        try:
            async with self._one_at_a_time:
                return await run(task, size)
        except WorkerError as error:
            _log.error("Repodata of %s cannot be read: %s", urlsplit(folder.url).hostname, error)
            raise away(folder.url, f"sent repodata that cannot be read ({error})") from None

    def _empty_draft(self) -> Path:
        handle, path = self._cache.draft()
        os.close(handle)
        return path

    async def _from_disk(self, url: str) -> Folder | None:
        path = await self._cache.find(_meta_name(url))
        if path is None:
            return None
        try:
            folder = Folder(**json.loads(await asyncio.to_thread(path.read_bytes)))
        except (OSError, ValueError, TypeError):
            return None
        return folder if await self._is_here(folder) else None

    async def _is_here(self, folder: Folder) -> bool:
        """Whether what was made of it is on disk; of a folder without repodata nothing is."""
        return not folder.form or all([await self._cache.find(f"{folder.stamp}.{part}") for part in _PARTS])

    async def _present(self, folder: Folder, part: str) -> Path:
        path = await self._cache.find(f"{folder.stamp}.{part}")
        if path is None:
            raise away(folder.url, "has more repodata than the cache holds (an admin sets 'index: cache:')")
        return path

    # What a policy makes of it.

    async def _plan(self, folder: Folder, policy: CompiledPolicy, channel: str) -> dict[str, Any] | None:
        """What has to change (see :func:`.repodata.change`); None: nothing."""
        key = (folder.stamp, policy.revision, channel)
        if key not in self._plans:
            path = await self._present(folder, "catalog")
            self._plans[key] = await asyncio.to_thread(make_plan, path, policy, channel)
        self._plans.move_to_end(key)
        while len(self._plans) > _REMEMBERED:
            self._plans.popitem(last=False)
        return self._plans[key]

    async def _make_view(self, folder: Folder, name: str, plan: dict[str, Any] | None) -> View:
        body = await self._present(folder, "body")
        if plan is None:
            return await _look(body, name)
        target = self._empty_draft()
        try:
            await self._work(folder, body, {"do": "change", "body": str(body), "plan": plan, "target": str(target)})
            return await _look(await self._cache.keep(name, target), name)
        finally:
            target.unlink(missing_ok=True)


async def _look(path: Path, name: str) -> View:
    size = (await asyncio.to_thread(path.stat)).st_size
    return View(path, size, hashlib.sha256(name.encode()).hexdigest()[:32])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _meta_name(url: str) -> str:
    return _digest(_FORMAT, url) + ".folder"
