"""Snapshots: saved versions of notebooks, addressed by what a person wrote in them. Pure.

A snapshot is a notebook without what running it left (outputs, counts). Its address is the SHA-256 of the cells' kinds,
sources and tags: saving a notebook that only ran makes no new one. Two notebooks of the same address have the same
code, whatever their other metadata is; the first that came is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

#: of one notebook without its outputs, bytes of JSON
MAX_NOTEBOOK = 4 * 1024 * 1024
#: of its zstd, base64: what fits into a request
MAX_CONTENT = 240 * 1024
#: of all notebooks of a workspace: bytes of their JSON without outputs, and versions; the oldest go
MAX_BYTES, MAX_VERSIONS = 512 * 1024 * 1024, 20_000
#: versions of one notebook that are kept, the newest
KEPT_VERSIONS = 1000
ADDRESS = r"^[0-9a-f]{64}$"
#: characters of an address that people write
SHORT = 12
_KEPT_CELL = ("cell_type", "id", "metadata", "source", "attachments")


def stripped(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook without outputs and counts; sources as one text.

    Raises:
        ValueError: it is no notebook (nbformat 4).
    """
    cells = notebook.get("cells")
    if not isinstance(cells, list) or notebook.get("nbformat") != 4:
        raise ValueError("this is no notebook of nbformat 4")
    return {
        "cells": [_cell(cell) for cell in cells],
        "metadata": notebook["metadata"] if isinstance(notebook.get("metadata"), Mapping) else {},
        "nbformat": 4,
        "nbformat_minor": notebook.get("nbformat_minor") or 5,
    }


def _cell(cell: object) -> dict[str, Any]:
    if not isinstance(cell, Mapping):
        raise ValueError("this is no notebook of nbformat 4")
    kept = {key: cell[key] for key in _KEPT_CELL if key in cell}
    kept["source"] = source_of(cell)
    if cell.get("cell_type") == "code":
        kept |= {"outputs": [], "execution_count": None}
    return kept


def source_of(cell: Mapping[str, Any]) -> str:
    """A cell's text; nbformat allows a list of lines."""
    source = cell.get("source")
    return "".join(map(str, source)) if isinstance(source, list) else str(source or "")


def address_of(notebook: Mapping[str, Any]) -> str:
    """The address of a notebook, stripped or not: SHA-256 in hexadecimal.

    Raises:
        ValueError: it is no notebook (nbformat 4).
    """
    written = [
        [str(cell.get("cell_type")), cell["source"], sorted(map(str, _tags(cell)))]
        for cell in stripped(notebook)["cells"]
    ]
    return hashlib.sha256(json.dumps(written, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def _tags(cell: Mapping[str, Any]) -> list[Any]:
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, Mapping) else None
    return tags if isinstance(tags, list) else []


def cell_digest(source: str) -> str:
    """A short digest of one cell's source, to see whether code that ran stands in a snapshot."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:16]


def code_digests(notebook: Mapping[str, Any]) -> tuple[str, ...]:
    """The digests of a notebook's code cells."""
    return tuple(cell_digest(cell["source"]) for cell in stripped(notebook)["cells"] if cell["cell_type"] == "code")


def check_path(value: str) -> str:
    """A notebook's path below the workspace.

    Raises:
        ValueError: it leads out of it, or names no notebook.
    """
    parts = value.split("/")
    if not value.endswith(".ipynb") or value.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError("a notebook's path is below its workspace and ends in .ipynb")
    if not value.isprintable():
        raise ValueError("a notebook's path is printable text")
    return value


class SnapshotPut(BaseModel):
    """The body of ``POST /launches/{session_id}/snapshots``.

    Attributes:
        path: of the notebook, below the workspace.
        address: as :func:`address_of` says.
        content: zstd of the stripped notebook's JSON, base64; may be left out where the service has it.
    """

    model_config = ConfigDict(extra="forbid")

    path: str = Field(max_length=1000)
    address: str = Field(pattern=ADDRESS)
    content: str | None = Field(default=None, max_length=MAX_CONTENT, pattern=r"^[A-Za-z0-9+/]*={0,2}$")

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        return check_path(value)


class SnapshotView(BaseModel):
    """One saved version.

    Attributes:
        author: who saved it; taken from the token, never from what was sent.
        cells: how many. size: bytes of the notebook's JSON without outputs.
    """

    model_config = ConfigDict(extra="ignore")

    path: str
    address: str
    author: str
    saved_at: datetime
    launch_id: str
    cells: int
    size: int


class SnapshotList(BaseModel):
    """The answer of ``GET /workspaces/{workspace}/snapshots``, the newest first."""

    snapshots: tuple[SnapshotView, ...] = ()


class SnapshotContent(BaseModel):
    """The answer of ``GET /workspaces/{workspace}/snapshots/{address}``.

    Attributes:
        notebook: without outputs.
    """

    address: str
    notebook: dict[str, Any]


class SnapshotTaken(BaseModel):
    """The answer of ``POST /launches/{session_id}/snapshots``.

    Attributes:
        wanted: the service does not have the content; send it again with it.
    """

    address: str
    wanted: bool = False
