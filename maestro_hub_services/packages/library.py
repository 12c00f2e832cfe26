"""All places where packages come from, read as one: which of them owns a name.

The first one that has a project owns it, in pip's order: pages of links, the index, extra indexes. The others are not
asked for it, so that nobody can put a higher version of somebody else's package on an index further down. What an
admin calls an internal name is asked of internal indexes and folders of this machine alone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from maestro_core.errors import MaestroError
from maestro_core.packages import IndexSettings

from .pages import Page, merge
from .upstream import Source

_KEPT_LISTINGS = 512


@dataclass(frozen=True)
class Listing:
    """A project's page and a name for this very content, by which what is made of it can be kept."""

    page: Page
    stamp: str


@dataclass(frozen=True)
class Names:
    """Every project, sorted, and a name for this very list."""

    names: tuple[str, ...]
    stamp: str


class Library:
    """All sources as one.

    Args:
        sources: in order.
        internal: those that are asked for internal names, in order.
        settings: which names are internal, and whether versions are taken from several sources.
    """

    def __init__(
        self,
        sources: tuple[Source, ...],
        internal: tuple[Source, ...] = (),
        settings: IndexSettings = IndexSettings(),  # noqa: B008 - it is frozen
    ) -> None:
        self._sources = sources
        self._internal = internal
        self._settings = settings
        self._listings: OrderedDict[str, tuple[tuple[Page, ...], Listing]] = OrderedDict()
        self._names: tuple[list[list[str]], Names] | None = None
        self._serial = 0

    def forget(self) -> None:
        """Ask every source anew for whatever page is wanted next."""
        for source in (*self._sources, *self._internal):
            source.forget()

    def may_visit(self, host: str) -> bool:
        """Whether files may be fetched from that host: an index is there, or an index's page named it."""
        return any(source.may_visit(host) for source in (*self._sources, *self._internal))

    async def listing(self, project: str) -> Listing | None:
        """The project's page; None if no source has it.

        A source that does not answer, and of which nothing is kept, fails the whole page: another source's package of
        that name might not be the one that is meant.

        Raises:
            MaestroError: ``upstream_unavailable``; ``package_blocked`` for an internal name that nothing of your own
                could have.
        """
        found = await self._pages(project)
        if not found:
            self._listings.pop(project, None)
            return None
        kept = self._listings.get(project)
        if kept is None or len(kept[0]) != len(found) or any(a is not b for a, b in zip(kept[0], found, strict=True)):
            stamp = self._stamp()  # before anything is awaited: others count on meanwhile
            page = found[0] if len(found) == 1 else await asyncio.to_thread(merge, found)
            kept = (found, Listing(page, stamp))
            self._listings[project] = kept
        self._listings.move_to_end(project)
        while len(self._listings) > _KEPT_LISTINGS:
            self._listings.popitem(last=False)
        return kept[1]

    async def _pages(self, project: str) -> tuple[Page, ...]:
        """The pages that count for a project, in order."""
        sources = self._sources
        if self._settings.is_internal(project):
            sources = self._internal
            if not sources:
                raise MaestroError("package_blocked", _no_internal_index(project))
        if self._settings.merge_indexes:
            pages = await asyncio.gather(*(source.page(project) for source in sources))
            return tuple(page for page in pages if page is not None)
        for source in sources:
            page = await source.page(project)
            if page is not None:
                return (page,)
        return ()

    async def names(self) -> Names:
        """Every project of every source, in normal spelling; internal names are those of internal sources.

        Raises:
            MaestroError: ``upstream_unavailable``.
        """
        sources = (*self._sources, *(source for source in self._internal if source not in self._sources))
        lists = await asyncio.gather(*(source.names() for source in sources))
        if self._names is None or self._names[0] != lists:
            self._names = (lists, await asyncio.to_thread(self._sorted, sources, lists))
        return self._names[1]

    def _sorted(self, sources: tuple[Source, ...], lists: list[list[str]]) -> Names:
        found: set[str] = set()
        for source, names in zip(sources, lists, strict=True):
            normal = {canonicalize_name(name) for name in names}
            found |= {name for name in normal if source in self._internal or not self._settings.is_internal(name)}
        return Names(tuple(sorted(found)), self._stamp())

    def _stamp(self) -> str:
        self._serial += 1
        return f"{id(self)}.{self._serial}"


def _no_internal_index(project: str) -> str:
    return (
        f"{project} is an internal name here (internal_names), and no index of your own is named that could have it. "
        "Ask an admin of this Hub to set index: internal_upstream."
    )
