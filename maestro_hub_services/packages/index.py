"""The index as one object: what the handlers work with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from maestro_core.errors import MaestroError
from maestro_core.packages import CompiledPolicy, IndexSettings

from .authority import Authority
from .cache import DiskCache
from .conda.channels import Channels
from .conda.condarc import CondaConfig, read_conda_config
from .denials import Denials
from .downloads import Downloads
from .http import Http, certificates
from .library import Library, Names
from .metadata import ShownMetadata
from .negotiation import Form
from .once import shared
from .pages import Page
from .pip_config import PipConfig, PipConfigError, read_pip_config
from .upstream import Remote, make_source
from .views import Body, BodyCache, render_names, render_page

_log = logging.getLogger(__name__)

#: pages smaller than that are rendered without going to a thread
_SMALL_PAGE = 50


@dataclass(frozen=True)
class Shelf:
    """One set of upstreams, with everything that is needed to take from it."""

    library: Library
    downloads: Downloads
    http: Http

    async def close(self) -> None:
        """End downloads and connections."""
        await self.downloads.close()
        await self.http.close()


class Index:
    """The filtering index.

    Args:
        authority: the workspaces service.
        state: directory for what is kept; made if missing.
        prefix: path of the service, with slashes at both ends.
        read_config: how pip's configuration is found; read_conda: how conda's is.
    """

    def __init__(
        self,
        authority: Authority,
        state: Path,
        prefix: str,
        read_config: Callable[[], Awaitable[PipConfig]] = read_pip_config,
        read_conda: Callable[[], Awaitable[CondaConfig]] = read_conda_config,
    ) -> None:
        self.authority = authority
        self.prefix = prefix
        self.denials = Denials()
        self.shown = ShownMetadata()
        self._cache = DiskCache(state, IndexSettings().cache)
        self.channels = Channels(self._cache, read_conda)
        self._read_config = read_config
        self._bodies = BodyCache()
        self._asked_pip: asyncio.Task[PipConfig] | None = None
        self._shelves: dict[str, Shelf] = {}
        self._anew: datetime | None = None
        self._opening: dict[str, asyncio.Task[Shelf]] = {}
        self._rendering: dict[str, asyncio.Task[Body]] = {}

    async def open(self) -> None:
        """Look at what is on disk, and begin to ask pip where packages come from: it takes its time to answer.

        Raises:
            OSError: if the directory cannot be used.
        """
        await self._cache.open()
        asked = self._asked_pip = asyncio.create_task(self._ask_pip())
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at; asked again then

    async def close(self) -> None:
        """End everything that runs."""
        if self._asked_pip is not None:
            self._asked_pip.cancel()
        for shelf in self._shelves.values():
            await shelf.close()
        await self.channels.close()
        await self.authority.close()
        await self._cache.close()

    async def shelf(self, policy: CompiledPolicy) -> Shelf:
        """The upstreams that a policy names, or pip's.

        Raises:
            MaestroError: ``upstream_unavailable`` if pip could not be asked.
        """
        self._cache.limit = policy.index.cache
        if policy.anew is not None and (self._anew is None or policy.anew > self._anew):
            self._anew = policy.anew
            for known in self._shelves.values():
                known.library.forget()
        key = policy.index.model_dump_json(exclude={"cache"})
        shelf = self._shelves.get(key)
        return (
            shelf
            if shelf is not None
            else await shared(self._opening, key, lambda: self._open_shelf(policy.index, key))
        )

    async def page_body(self, page: Page, stamp: str, policy: CompiledPolicy, form: Form) -> Body:
        """A project's page under a policy, rendered once for everybody who has the same policy."""
        key = (stamp, policy.revision, form)
        body = self._bodies.get(key)
        if body is not None:
            return body

        async def render() -> Body:
            if len(page.files) < _SMALL_PAGE:
                made = render_page(page, policy, form, self.prefix)
            else:
                made = await asyncio.to_thread(render_page, page, policy, form, self.prefix)
            self._bodies.put(key, made)
            return made

        return await shared(self._rendering, " ".join(key), render)

    async def names_body(self, names: Names, form: Form) -> Body:
        """The root page, rendered once for everybody."""
        key = (names.stamp, form)
        body = self._bodies.get(key)
        if body is not None:
            return body

        async def render() -> Body:
            made = await asyncio.to_thread(render_names, names.names, form, self.prefix)
            self._bodies.put(key, made)
            return made

        return await shared(self._rendering, " ".join(key), render)

    async def _open_shelf(self, settings: IndexSettings, key: str) -> Shelf:
        try:
            config = await self._pip_config()
        except PipConfigError as error:
            if not settings.upstream:
                _log.error("%s", error)
                raise MaestroError("upstream_unavailable", str(error)) from None
            config = PipConfig()
        indexes, links = (settings.upstream, ()) if settings.upstream else (config.indexes, config.find_links)
        http = Http(config, (*indexes, *links, *settings.internal_upstream))
        await http.open()
        library = self._library(settings, indexes, links, http)
        shelf = self._shelves[key] = Shelf(library, Downloads(http, self._cache), http)
        _log.info("Packages come from %s", ", ".join(_shown(address) for address in (*links, *indexes)) or "nowhere")
        return shelf

    async def _ask_pip(self) -> PipConfig:
        config = await self._read_config()
        with contextlib.suppress(OSError):  # who opens it later says why not
            await asyncio.to_thread(certificates, config)
        return config

    async def _pip_config(self) -> PipConfig:
        """What pip said at the start, or says now if it could not answer then.

        Raises:
            PipConfigError: it still does not.
        """
        if self._asked_pip is not None:
            with contextlib.suppress(PipConfigError):
                return await asyncio.shield(self._asked_pip)
        return await self._read_config()

    def _library(
        self, settings: IndexSettings, indexes: tuple[str, ...], links: tuple[str, ...], http: Http
    ) -> Library:
        alone = len(indexes) + len(links) == 1
        sources = [make_source(address, http, self._cache, links=True, alone=alone) for address in links]
        folders = [source for source in sources if not isinstance(source, Remote)]
        sources += [make_source(address, http, self._cache, alone=alone) for address in indexes]
        own = settings.internal_upstream
        internal = [make_source(address, http, self._cache, alone=len(own) == 1) for address in own]
        return Library(tuple(sources), (*folders, *internal), settings)


def _shown(address: str) -> str:
    """An address without password and query."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else address
