"""Every save whose sources changed becomes a version of the notebook at the service.

The save itself waits for nothing: Jupyter tells of it by an event, and the file is read again in a thread. What cannot
be sent now is sent later, in order.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .service import NotAnswered, Service

#: of jupyter_server's contents manager
EVENT = "https://events.jupyter.org/jupyter_server/contents_service/v1"
#: bytes; a larger file is mostly outputs, and reading it again would be felt
MAX_FILE = 64 * 1024 * 1024
#: versions that wait for a service that is away; the oldest go first
MAX_WAITING = 500
#: notebooks whose state is remembered
MAX_KNOWN = 500
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0
#: seconds from a save to the reading of its file: the save's own answer leaves first
AFTER_SAVE = 0.1


@dataclass(frozen=True, slots=True)
class State:
    """A notebook as its file is.

    Attributes:
        address: of its sources. digests: of its code cells. stamp: of the file.
    """

    address: str
    digests: tuple[str, ...]
    stamp: tuple[int, int]
    packed: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    path: str
    address: str
    packed: str


class Snapshots:
    """The saved versions of this launch.

    Args:
        server: the ``jupyter_server.serverapp.ServerApp``.
        service: of this launch; None: states are known, and nothing is sent.
        workspace: its folder.
    """

    def __init__(self, server: Any, service: Service | None, workspace: Path) -> None:
        self._server = server
        self._service = service
        self._workspace = workspace
        self._known: dict[str, State] = {}
        self._sent: dict[str, str] = {}
        self._changed: deque[str] = deque()
        self._waiting: deque[_Waiting] = deque(maxlen=MAX_WAITING)
        self._wake = asyncio.Event()

    def listen(self) -> None:
        """Hear of saves from now on."""
        self._server.event_logger.add_listener(schema_id=EVENT, listener=self._heard)

    async def _heard(self, logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        path = data.get("path", "")
        if data.get("action") in ("save", "rename") and path.endswith(".ipynb"):
            if source := data.get("source_path"):
                self._known.pop(source.lstrip("/"), None)
            self._look_at(path.lstrip("/"))

    def _look_at(self, path: str) -> None:
        if path not in self._changed:
            self._changed.append(path)
        self._wake.set()

    async def state(self, path: str) -> State | None:
        """A notebook as its file is now; None if it cannot be read. A version that nobody sent yet is sent."""
        file = self._workspace / path
        known = self._known.get(path)
        if known is not None and known.stamp == await asyncio.to_thread(_stamp, file):
            return known
        state = await asyncio.to_thread(read_state, file)
        if state is None:
            self._known.pop(path, None)
            return None
        self._known[path] = state
        while len(self._known) > MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        if self._sent.get(path) != state.address:
            self._sent[path] = state.address
            self._waiting.append(_Waiting(path, state.address, state.packed))
            self._wake.set()
        return state

    async def run(self) -> None:
        """Send, for as long as the server runs."""
        pause = FIRST_PAUSE
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._changed:
                await asyncio.sleep(AFTER_SAVE)
            while self._changed:
                await self.state(self._changed.popleft())
            try:
                await self._send_all()
                pause = FIRST_PAUSE
            except NotAnswered as error:
                self._server.log.info("Maestro: versions of notebooks wait: %s", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                self._wake.set()

    async def _send_all(self) -> None:
        while self._waiting and self._service is not None:
            one = self._waiting[0]
            try:
                await self._send(self._service, one)
            except NotAnswered as error:
                if not error.refused:
                    raise
                self._server.log.warning("Maestro: no version of %s was kept: %s", one.path, error)
            if self._waiting and self._waiting[0] is one:
                self._waiting.popleft()

    async def _send(self, service: Service, one: _Waiting) -> None:
        body = {"path": one.path, "address": one.address}
        answer = await service.ask("snapshots", json.dumps(body))
        if isinstance(answer, dict) and answer.get("wanted"):
            await service.ask("snapshots", json.dumps(body | {"content": one.packed}))


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def read_state(file: Path) -> State | None:
    """Read a notebook's file; None if it is none, or too large."""
    import zstandard

    from maestro_core.snapshots import address_of, code_digests, stripped

    stamp = _stamp(file)
    if stamp is None or stamp[1] > MAX_FILE:
        return None
    try:
        notebook = stripped(json.loads(file.read_bytes()))
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return None
    text = json.dumps(notebook, ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
    packed = base64.b64encode(zstandard.ZstdCompressor(level=6).compress(text)).decode()
    return State(address_of(notebook), code_digests(notebook), stamp, packed)
