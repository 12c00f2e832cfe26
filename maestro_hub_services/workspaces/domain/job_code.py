"""Which code a job runs: what its submitter sent along, else the newest stored version of the notebook."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
from dataclasses import dataclass

import zstandard

from maestro_core.errors import MaestroError
from maestro_core.jobs import MAX_SCRIPT, JobSpec, Kind
from maestro_core.snapshots import address_of, stripped
from maestro_core.workspace_settings import WorkspaceSettings
from maestro_hub_services.store import Unit, WorkspaceRow

from .snapshots import unpacked

#: contents that are read at a time: each may take as much memory as a notebook
_reads = asyncio.Semaphore(2)
#: notebooks that are named where none was
_CANDIDATES = 8


@dataclass(frozen=True)
class Code:
    """What runs: a file's path, the address of what stood in it, and zstd of that."""

    kind: Kind
    path: str
    address: str
    body: bytes


def kind_of(path: str) -> Kind:
    """By the ending of a path that was checked."""
    return "script" if path.endswith(".py") else "notebook"


async def sent(spec: JobSpec) -> Code | None:
    """The code that was sent along; None: none was.

    Raises:
        MaestroError: ``invalid_request``: it is no notebook or script.
    """
    if spec.content is None or spec.path is None:
        return None
    async with _reads:
        return await asyncio.to_thread(_read, spec.path, spec.content)


def _read(path: str, content: str) -> Code:
    kind = kind_of(path)
    try:
        text = unpacked(base64.b64decode(content, validate=True))
        if kind == "script":
            if len(text) > MAX_SCRIPT:
                raise ValueError("too long")
            text.decode("utf-8")
            return Code(kind, path, hashlib.sha256(text).hexdigest(), _packed(text))
        notebook = stripped(json.loads(text))
        address = address_of(notebook)
        body = json.dumps(notebook, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
    except (binascii.Error, zstandard.ZstdError, ValueError, RecursionError, AttributeError, TypeError):
        raise MaestroError(
            "invalid_request", f"content: this is no {kind} that can run; look at {path[:100]} and send it again."
        ) from None
    return Code(kind, path, address, _packed(body))


def _packed(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=10).compress(body)


async def chosen_path(unit: Unit, workspace: WorkspaceRow, spec: JobSpec, experiment: str) -> str:
    """What runs where the spec names nothing: the workspace's entrypoint, else what was last used for the experiment.

    Raises:
        MaestroError: ``invalid_request``, with the notebooks that could be meant.
    """
    entrypoint = WorkspaceSettings.read(workspace.settings).entrypoint
    path = spec.path or entrypoint or await unit.jobs.notebook_of(workspace.id, experiment)
    if path is not None:
        return path
    known = await unit.jobs.notebooks(workspace.id, _CANDIDATES)
    shown = f"stored notebooks of {workspace.shown_name} are {', '.join(known)}" if known else "none is stored yet"
    raise MaestroError(
        "invalid_request",
        f"Nothing says what is to run: name it with notebook or script, or set the workspace's entrypoint; {shown}.",
        {"candidates": known},
    )


async def stored(unit: Unit, workspace: WorkspaceRow, path: str) -> Code:
    """The newest stored version of a notebook.

    Raises:
        MaestroError: ``unknown_snapshot``, with what to do.
    """
    where = f"run 'maestro queue' where the file is, in a terminal or notebook of {workspace.shown_name}"
    if kind_of(path) == "script":
        raise MaestroError("unknown_snapshot", f"Scripts are sent along when they are queued: {where}.")
    newest = await unit.snapshots.versions(workspace.id, path, 1)
    bodies = await unit.snapshots.contents(workspace.id, newest[0].address) if newest else []
    if not bodies:
        raise MaestroError(
            "unknown_snapshot",
            f"No version of {path[:100]} is stored in {workspace.shown_name}: save it once in JupyterLab, or {where}.",
            {"path": path[:200]},
        )
    address, body = bodies[0]
    return Code("notebook", path, address, body)


def text_of(body: bytes) -> str:
    """A stored code as a worker gets it."""
    return zstandard.ZstdDecompressor().decompress(body).decode("utf-8", "replace")
