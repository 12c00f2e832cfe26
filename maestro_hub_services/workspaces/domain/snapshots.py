"""Saved versions of notebooks: notebook servers bring them in, members read them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json

import zstandard

from maestro_core.errors import MaestroError
from maestro_core.roles import may
from maestro_core.snapshots import (
    KEPT_VERSIONS,
    MAX_BYTES,
    MAX_NOTEBOOK,
    MAX_VERSIONS,
    SHORT,
    SnapshotContent,
    SnapshotList,
    SnapshotPut,
    SnapshotTaken,
    SnapshotView,
    address_of,
    stripped,
)
from maestro_hub_services.store.snapshots import SnapshotRow

from ..authority import Authority
from ..identity import Caller
from .access import opened
from .usage import own_launch

MAX_LISTED = 1000
#: of one version: how often it was saved
MAX_SAVES = 50
#: bytes of memory that unpacking may ask for beside the notebook
MAX_WINDOW = 8 * 1024 * 1024
#: contents that are checked at a time: each may take as much memory as a notebook and its window
_checks = asyncio.Semaphore(2)


async def take(authority: Authority, caller: Caller, session_id: str, put: SnapshotPut) -> SnapshotTaken:
    """Keep a version that a notebook server saved; its author is who the server's token belongs to.

    Raises:
        MaestroError: ``unknown_launch`` for everybody but the launch's own server; ``forbidden`` for a viewer's;
            ``invalid_request`` for a content that is not what its address says.
    """
    async with authority.store.read() as unit:
        launch = await own_launch(unit, caller, session_id)
        known = await unit.snapshots.has(launch.workspace_id, put.address)
    if not may(launch.role, "write_files"):
        raise MaestroError("forbidden", "A viewer changes no notebook of the workspace, so no version of one is kept.")
    if not known and put.content is None:
        return SnapshotTaken(address=put.address, wanted=True)
    made = None
    if not known:
        async with _checks:
            made = await asyncio.to_thread(_checked, put)
    async with authority.store.write() as unit:
        if made is not None and not await unit.snapshots.has(launch.workspace_id, put.address):
            await unit.snapshots.keep(launch.workspace_id, put.address, *made)
        elif made is None and not await unit.snapshots.has(launch.workspace_id, put.address):
            return SnapshotTaken(address=put.address, wanted=True)  # thinned out a moment ago
        if await unit.snapshots.note(launch.workspace_id, put.path, put.address, launch.user, launch.id):
            await unit.snapshots.thin(launch.workspace_id, put.path, KEPT_VERSIONS)
            await unit.snapshots.fit(launch.workspace_id, MAX_BYTES, MAX_VERSIONS)
    return SnapshotTaken(address=put.address)


def _checked(put: SnapshotPut) -> tuple[bytes, int, int]:
    """zstd of what was sent, its size and cells; made anew, so that nothing else is kept."""
    wrong = MaestroError("invalid_request", "content: this is not the notebook of that address; save it again.")
    try:
        packed = base64.b64decode(put.content or "", validate=True)
        text = unpacked(packed)
        notebook = stripped(json.loads(text))
        if address_of(notebook) != put.address:
            raise wrong
    except (binascii.Error, zstandard.ZstdError, ValueError, RecursionError, AttributeError, TypeError):
        raise wrong from None
    body = json.dumps(notebook, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
    return zstandard.ZstdCompressor(level=10).compress(body), len(body), len(notebook["cells"])


def unpacked(packed: bytes) -> bytes:
    """At most so much is unpacked as a notebook may have: a frame's own word for its size is somebody's word.

    Raises:
        ValueError: it is longer. zstandard.ZstdError: it is no zstd, or wants more memory than a notebook does.
    """
    with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(packed) as reader:
        text = reader.read(MAX_NOTEBOOK + 1)
    if len(text) > MAX_NOTEBOOK:
        raise ValueError("too long")
    return text


async def versions(authority: Authority, caller: Caller, name: str, path: str | None, limit: int) -> SnapshotList:
    """The saved versions of a notebook (or of all) of a workspace, the newest first.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    async with opened(authority, caller, name, "read") as (unit, standing):
        rows = await unit.snapshots.versions(standing.workspace.id, path, min(limit, MAX_LISTED))
    return SnapshotList(snapshots=_views(rows))


async def saves(authority: Authority, caller: Caller, name: str, address: str) -> tuple[SnapshotView, ...]:
    """When a version was saved, and as which notebook, the newest first.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    async with opened(authority, caller, name, "read") as (unit, standing):
        return _views(await unit.snapshots.saves(standing.workspace.id, address, MAX_SAVES))


def _views(rows: list[SnapshotRow]) -> tuple[SnapshotView, ...]:
    fields = SnapshotView.model_fields
    return tuple(SnapshotView(**{key: getattr(row, key) for key in fields}) for row in rows)


async def content(authority: Authority, caller: Caller, name: str, address: str) -> SnapshotContent:
    """A notebook as it was; its address may be shortened to what is unique.

    Raises:
        MaestroError: ``unknown_workspace``, ``unknown_snapshot``.
    """
    short = address.lower()
    found: list[tuple[str, bytes]] = []
    async with opened(authority, caller, name, "read") as (unit, standing):
        if len(short) >= 6 and set(short) <= set("0123456789abcdef"):
            found = await unit.snapshots.contents(standing.workspace.id, short)
    if len(found) != 1:
        why = "Several versions begin so; write more of it" if found else "This workspace has no such version"
        raise MaestroError(
            "unknown_snapshot", f"{why}: {address[:SHORT]!r}; 'maestro version WORKSPACE NOTEBOOK' lists them."
        )
    notebook = await asyncio.to_thread(lambda: json.loads(zstandard.ZstdDecompressor().decompress(found[0][1])))
    return SnapshotContent(address=found[0][0], notebook=notebook)
