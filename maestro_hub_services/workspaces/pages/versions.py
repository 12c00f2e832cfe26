"""The pages of saved versions of notebooks: which there are, and what stands in one. Nothing of a notebook is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maestro_core.snapshots import SHORT, SnapshotView, source_of

from .base import Page
from .links import Links
from .views import Moment, moment

#: versions that the page lists; cells, and characters of one, that it shows
MOST, MAX_CELLS, MAX_SOURCE = 200, 500, 50_000


@dataclass(frozen=True)
class VersionRow:
    """One saved version in the list."""

    short: str
    href: str
    notebook: str
    notebook_href: str
    saved: Moment
    author: str
    cells: int


@dataclass(frozen=True)
class CellRow:
    """A cell as text. ``cut``: characters that are not shown."""

    kind: str
    source: str
    cut: int
    tags: str


class VersionsPage(Page):
    """The saved versions of a workspace's notebooks; ``?notebook=`` those of one."""

    async def get(self, name: str) -> None:
        """The list, the newest first."""
        notebook = self.get_query_argument("notebook", "")
        view = await self.desk.workspace(name)
        found = await self.desk.versions(view.name, notebook or None, MOST)
        rows = version_rows(found, view.name, self.links)
        self.show("versions", workspace=view.name, notebook=notebook, rows=rows, most=MOST)


class VersionPage(Page):
    """One saved version, to which runs and model versions in MLflow link."""

    async def get(self, name: str, address: str) -> None:
        """The cells, and who saved them when."""
        view = await self.desk.workspace(name)
        content, saves = await self.desk.version(view.name, address)
        cells = content.notebook.get("cells", [])
        self.show(
            "version",
            workspace=view.name,
            address=content.address,
            short=content.address[:SHORT],
            title=saves[0].path if saves else content.address[:SHORT],
            rows=version_rows(saves, view.name, self.links),
            cells=cell_rows(cells[:MAX_CELLS]),
            more=max(0, len(cells) - MAX_CELLS),
        )


def version_rows(found: Sequence[SnapshotView], workspace: str, links: Links) -> list[VersionRow]:
    """Versions as rows."""
    return [
        VersionRow(
            short=one.address[:SHORT],
            href=links.version(workspace, one.address),
            notebook=one.path,
            notebook_href=links.versions(workspace, one.path),
            saved=moment(one.saved_at),
            author=one.author,
            cells=one.cells,
        )
        for one in found
    ]


def cell_rows(cells: Sequence[Mapping[str, Any]]) -> list[CellRow]:
    """Cells as text."""
    rows = []
    for cell in cells:
        source, metadata = source_of(cell), cell.get("metadata")
        tags = metadata.get("tags") if isinstance(metadata, Mapping) else None
        rows.append(
            CellRow(
                kind=str(cell.get("cell_type", ""))[:20],
                source=source[:MAX_SOURCE],
                cut=max(0, len(source) - MAX_SOURCE),
                tags=", ".join(map(str, tags))[:200] if isinstance(tags, list) else "",
            )
        )
    return rows
