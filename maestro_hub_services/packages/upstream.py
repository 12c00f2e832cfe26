"""One place where packages come from: an index or a page of links, on the network or in a folder.

Each source answers with a project's page or None. Pages of an index on the network are kept in memory, and on disk for
the time when it is away; folders are read as they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import httpx
from packaging.utils import canonicalize_name

from maestro_core.errors import MaestroError

from .cache import DiskCache
from .http import Http, away, is_here, split_credentials
from .negotiation import HTML_V1, JSON_V1, TEXT_HTML
from .once import shared
from .pages import (
    File,
    Link,
    Page,
    PageError,
    is_json,
    make_file,
    make_page,
    parse_html_page,
    parse_names,
    read_html_page,
    read_json_page,
)

_log = logging.getLogger(__name__)

_ACCEPT = f"{JSON_V1}, {HTML_V1};q=0.2, {TEXT_HTML};q=0.1"
#: how long a page counts as fresh, in seconds: what upstream says, within these bounds
MIN_FRESH, USUAL_FRESH, MAX_FRESH = 5.0, 60.0, 600.0
_MAX_PAGE_BYTES = 256 * 1024**2
#: an index says that it has no such project. 403 is one more of these for an index that stands alone (object stores
#: answer so): where another would be asked next, it may own the name and not show it to us.
_NOT_HERE = (404, 410)
_REMEMBERED_BYTES = 24 * 1024**2
#: names of which a folder of links keeps what it found: anybody may ask for any
_PAGES_OF_LINKS = 5000


class Source(ABC):
    """One index or page of links."""

    @abstractmethod
    async def page(self, project: str) -> Page | None:
        """The project's page (the same object while it has not changed), or None if this source has none.

        Args:
            project: normal name.

        Raises:
            MaestroError: ``upstream_unavailable`` if it does not answer and nothing is kept.
        """

    @abstractmethod
    async def names(self) -> list[str]:
        """Every project that it has.

        Raises:
            MaestroError: as :meth:`page`.
        """

    def forget(self) -> None:
        """Ask anew for whatever page is wanted next."""
        return None

    def may_visit(self, host: str) -> bool:
        """Whether this source is on that host, or its pages named it."""
        return False


@dataclass(frozen=True)
class Document:
    """A page as upstream sent it; ``body`` is None where upstream has no such page."""

    url: str
    content_type: str
    body: bytes | None
    etag: str
    fetched: float
    fresh_until: float

    def header(self) -> bytes:
        kept = {"url": self.url, "content_type": self.content_type, "etag": self.etag, "here": self.body is not None}
        return json.dumps(kept).encode() + b"\n"


class Remote(Source):
    """What the sources on the network share: fetching, remembering, going on when upstream is away."""

    def __init__(self, address: str, http: Http, cache: DiskCache, alone: bool = True) -> None:
        self.address, _ = split_credentials(address)
        self._http = http
        self._cache = cache
        self._hosts = {urlsplit(self.address).hostname or ""}
        self._not_here = (*_NOT_HERE, 403) if alone else _NOT_HERE
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._parsed: dict[str, tuple[Document, Any]] = {}
        self._running: dict[str, asyncio.Task[Document]] = {}
        self._remembered = 0

    def forget(self) -> None:
        for url, document in self._documents.items():
            self._documents[url] = replace(document, fresh_until=0.0)

    def may_visit(self, host: str) -> bool:
        return host in self._hosts

    def _may_name(self, host: str) -> bool:
        """Whether a page may lead to that host: to this machine only if the index is on it."""
        return not is_here(host) or is_here(urlsplit(self.address).hostname or "")

    async def _read(self, url: str, what: str, parse: Callable[[Document], Any]) -> Any:
        """The parsed page at ``url``, or None; ``what`` tells apart what is read from the same page."""
        document = self._documents.get(url)
        if document is None or document.fresh_until <= time.time():
            document = await shared(self._running, url, lambda: self._refresh(url))
        if document.body is None:
            return None
        key = f"{what} {url}"
        kept = self._parsed.get(key)
        if kept is None or (kept[0].body is not document.body and kept[0].body != document.body):
            try:
                kept = (document, await asyncio.to_thread(parse, document))
            except PageError as error:
                raise away(url, f"sent a page that cannot be read ({error})") from None
            self._parsed[key] = kept
            if isinstance(kept[1], Page):
                self._take_hosts(kept[1])
        return kept[1]

    def _take_hosts(self, page: Page) -> None:
        self._hosts |= {host for host in page.hosts if self._may_name(host)}

    async def _refresh(self, url: str) -> Document:
        """Ask upstream; when it is away, take what is kept.

        Raises:
            MaestroError: ``upstream_unavailable``, and nothing is kept.
        """
        known = self._documents.get(url) or await self._from_disk(url)
        if known is not None and known.body is None:
            known = None  # "not here" may be wrong by now, and another index would be asked instead
        if known is not None and self._http.is_away(url):
            return self._remember(url, replace(known, fresh_until=time.time() + MIN_FRESH))
        try:
            document = await self._fetch(url, known)
        except MaestroError:
            if known is None:
                raise
            return self._remember(url, replace(known, fresh_until=time.time() + MIN_FRESH))
        return self._remember(url, document)

    async def _fetch(self, url: str, known: Document | None) -> Document:
        headers = {"Accept": _ACCEPT}
        if known is not None and known.etag:
            headers["If-None-Match"] = known.etag
        async with self._http.get(url, headers, self.may_visit) as response:
            now = time.time()
            fresh_until = now + freshness(response.headers)
            if response.status_code == 304 and known is not None:
                return replace(known, fetched=now, fresh_until=fresh_until)
            if response.status_code in self._not_here:
                body, fresh_until = None, now + MIN_FRESH
            elif response.status_code == 200:
                body = await _body(response)
            else:
                raise away(url, f"answered {response.status_code}")
            kind, etag = response.headers.get("content-type", TEXT_HTML), response.headers.get("etag", "")
            document = Document(str(response.url), kind, body, etag, now, fresh_until)
        self._cache.write_soon(_disk_name(url), document.header() + (body or b""))
        return document

    async def _from_disk(self, url: str) -> Document | None:
        path = await self._cache.find(_disk_name(url))
        if path is None:
            return None
        try:
            header, _, body = (await asyncio.to_thread(path.read_bytes)).partition(b"\n")
            kept = json.loads(header)
            return Document(kept["url"], kept["content_type"], body if kept["here"] else None, kept["etag"], 0.0, 0.0)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, url: str, document: Document) -> Document:
        old = self._documents.pop(url, None)
        if old is not None and old.body == document.body:
            document = replace(document, body=old.body)  # the same object: what was parsed from it stays
        self._remembered += _weight(document) - (_weight(old) if old else 0)
        self._documents[url] = document
        while self._remembered > _REMEMBERED_BYTES and len(self._documents) > 1:
            gone, old = self._documents.popitem(last=False)
            self._remembered -= _weight(old)
            for key in [key for key in self._parsed if key.endswith(f" {gone}")]:
                del self._parsed[key]
        return document


class RemoteIndex(Remote):
    """An index on the network: PEP 691 where it speaks it, else PEP 503."""

    async def page(self, project: str) -> Page | None:
        page = await self._read(f"{self.address.rstrip('/')}/{quote(project)}/", "page", lambda it: _parse(it, project))
        return page if isinstance(page, Page) else None

    async def names(self) -> list[str]:
        def parse(document: Document) -> list[str]:
            return parse_names(document.body or b"", document.content_type, document.url)

        names = await self._read(f"{self.address.rstrip('/')}/", "names", parse)
        return names if isinstance(names, list) else []


class RemoteLinks(Remote):
    """A page of links on the network (pip's ``find-links``)."""

    async def page(self, project: str) -> Page | None:
        links = await self._read(self.address, "links", _Links)
        page = await asyncio.to_thread(links.page, project) if isinstance(links, _Links) else None
        if page is not None:
            self._take_hosts(page)
        return page

    async def names(self) -> list[str]:
        return []


class _Links:
    """A page of links, read once for all names; it grows by nothing but what it holds, whatever names are asked."""

    def __init__(self, document: Document) -> None:
        links, self._rest = _read_page(document)
        self._links: dict[str, list[Link]] = {}
        for link in links:
            for project in link.projects():
                self._links.setdefault(project, []).append(link)
        self._pages: dict[str, Page] = {}

    def page(self, project: str) -> Page | None:
        """The project's files, or None if there are none; the same object each time."""
        links = self._links.get(project)
        if links and project not in self._pages:
            self._pages[project] = _of_the_network(make_page(project, links, self._rest))
        page = self._pages.get(project)
        return page if page is not None and page.files else None


class LocalIndex(Source):
    """An index in a folder: ``<project>/index.html``, as pip reads a ``file:`` index."""

    def __init__(self, root: Path, http_hosts: set[str] | None = None) -> None:
        self.root = root
        self._hosts = http_hosts or set()
        self._pages: dict[str, tuple[int, Page]] = {}

    def may_visit(self, host: str) -> bool:
        return host in self._hosts

    async def page(self, project: str) -> Page | None:
        page = await asyncio.to_thread(self._load, project)
        if page is not None:
            self._hosts |= page.hosts
        return page

    async def names(self) -> list[str]:
        def listed() -> list[str]:
            return [entry.parent.name for entry in self.root.glob("*/index.html")]

        return await asyncio.to_thread(listed)

    def _load(self, project: str) -> Page | None:
        path = self.root / project / "index.html"
        try:
            stamp = path.stat().st_mtime_ns
            kept = self._pages.get(project)
            if kept is None or kept[0] != stamp:
                kept = (stamp, parse_html_page(path.read_bytes(), path.absolute().as_uri(), project))
                self._pages[project] = kept
            return kept[1]
        except OSError:
            return None


class LocalLinks(Source):
    """A folder of wheels and archives, or an HTML file with links (pip's ``find-links``)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pages: dict[str, tuple[int, Page | None]] = {}

    async def page(self, project: str) -> Page | None:
        return await asyncio.to_thread(self._load, project)

    async def names(self) -> list[str]:
        def listed() -> list[str]:
            found = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
            heads = [name.split("-")[0] if name.endswith(".whl") else name.rpartition("-")[0] for name in found]
            return sorted({canonicalize_name(head) for head in heads if head})

        return await asyncio.to_thread(listed)

    def _load(self, project: str) -> Page | None:
        try:
            stamp = self.path.stat().st_mtime_ns
            kept = self._pages.get(project)
            if kept is None or kept[0] != stamp:
                page = self._folder(project) if self.path.is_dir() else self._file(project)
                if len(self._pages) >= _PAGES_OF_LINKS:
                    self._pages.clear()
                kept = self._pages[project] = (stamp, page if page.files else None)
            return kept[1]
        except OSError:
            return None

    def _folder(self, project: str) -> Page:
        files: list[File | None] = []
        for entry in sorted(self.path.iterdir()):
            address = entry.absolute().as_uri()
            fields = {"filename": entry.name, "url": address, "hashes": {}}
            files.append(make_file(entry.name, address, fields, project))
        return Page(project, tuple(file for file in files if file is not None), {"meta": {"api-version": "1.0"}})

    def _file(self, project: str) -> Page:
        return parse_html_page(self.path.read_bytes(), self.path.absolute().as_uri(), project)


def make_source(address: str, http: Http, cache: DiskCache, links: bool = False, alone: bool = True) -> Source:
    """The source at an address or path.

    Args:
        links: it is a page or folder of links (pip's ``find-links``), and no index.
        alone: there is no other source that would be asked after it.
    """
    local = _local_path(address)
    if local is not None:
        return LocalLinks(local) if links else LocalIndex(local)
    return RemoteLinks(address, http, cache, alone) if links else RemoteIndex(address, http, cache, alone)


def _local_path(address: str) -> Path | None:
    if address.startswith("file:"):
        return Path(url2pathname(urlsplit(address).path))
    return None if address.startswith(("http://", "https://")) else Path(address)


def _parse(document: Document, project: str) -> Page:
    return _of_the_network(make_page(project, *_read_page(document)))


def _read_page(document: Document) -> tuple[list[Link], Page]:
    body = document.body or b""
    if is_json(document.content_type):
        return read_json_page(body, document.url)
    return read_html_page(body, document.url, _charset(document.content_type))


def _of_the_network(page: Page) -> Page:
    """A page on the network names no file of this machine."""
    return replace(page, files=tuple(file for file in page.files if file.url.startswith(("http://", "https://"))))


def _charset(content_type: str) -> str | None:
    found = re.search(r"charset=\"?([\w.-]{1,40})", content_type, re.IGNORECASE)
    return found.group(1) if found else None


def freshness(headers: httpx.Headers) -> float:
    told = headers.get("cache-control", "").lower()
    if "no-store" in told or "no-cache" in told:
        return MIN_FRESH
    found = re.search(r"max-age=(\d{1,9})", told)
    return min(max(float(found.group(1)), MIN_FRESH), MAX_FRESH) if found else USUAL_FRESH


async def _body(response: httpx.Response) -> bytes:
    parts, size = [], 0
    try:
        async for part in response.aiter_bytes():
            size += len(part)
            if size > _MAX_PAGE_BYTES:
                raise away(str(response.url), "sent a page of more than 256 MiB")
            parts.append(part)
    except httpx.HTTPError:
        raise away(str(response.url), "broke off in the middle of a page") from None
    return b"".join(parts)


def _disk_name(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest() + ".page"


def _weight(document: Document) -> int:
    return len(document.body or b"") + 1024
