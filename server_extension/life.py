"""What runs beside the notebook server: samples, heartbeats, notices.

It begins when the server has come up and imports its models then, in a thread: pydantic takes a tenth of a second that
nobody should wait for.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async

from . import provisioner
from .executions import Executions
from .kernels import notebook_of
from .launch import Launch
from .memory import OutOfMemory
from .scan import startup
from .service import NotAnswered, Service
from .snapshots import Snapshots, State
from .storage import Storage
from .tracking import Leftovers
from .usage.sampler import Sampler

if TYPE_CHECKING:
    from maestro_core.scans import ScanReport

    from .board import Board
    from .heartbeat import Pulse
    from .scan.report import Scanner

#: the event that tells open windows to ask for notices (jupyter_events; the address is a name, nobody opens it)
EVENT = "https://schemas.maestro.invalid/notices/v1"
EVENT_SCHEMA = {
    "$id": EVENT,
    "version": "1",
    "title": "Maestro's notices have changed",
    "description": "Ask /maestro/notices what they are.",
    "personal-data": False,
    "type": "object",
    "properties": {},
}
HEARTBEAT_SECONDS = 30.0
#: packages that are imported by the first part that runs
_SLOW_IMPORTS = (
    "server_extension.board",
    "server_extension.heartbeat",
    "server_extension.meter",
    "server_extension.packages.watch",
    "server_extension.sentences",
)


def heartbeat_seconds(environ: Mapping[str, str]) -> float:
    """Seconds between heartbeats: MAESTRO_HEARTBEAT_SECONDS where it is a number from 1 to 300, else 30."""
    try:
        seconds = float(environ.get("MAESTRO_HEARTBEAT_SECONDS", ""))
    except ValueError:
        return HEARTBEAT_SECONDS
    return seconds if 1 <= seconds <= 300 else HEARTBEAT_SECONDS


class Life:
    """Everything that this extension does besides answering.

    Args:
        server: the ``jupyter_server.serverapp.ServerApp``.
        environ: the server's environment.
    """

    def __init__(self, server: Any, environ: Mapping[str, str]) -> None:
        self._server = server
        self._environ = environ
        self._viewer = environ.get("MAESTRO_ROLE") == "viewer"
        self._sampler = Sampler()
        self._seconds = heartbeat_seconds(environ)
        workspace = environ.get("MAESTRO_WORKSPACE_DIR") or server.root_dir
        title = environ.get("MAESTRO_WORKSPACE", "")
        self._storage = Storage(Path(workspace), Path.home(), title, self._seconds, self._tell_full)
        self._board: Board | None = None
        self._pulse: Pulse | None = None
        self._memory: OutOfMemory | None = None
        self._scanner: Scanner | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        server.event_logger.register_event_schema(EVENT_SCHEMA)
        self._snapshots: Snapshots | None = None
        if not self._viewer:  # from the first save on
            self._snapshots = Snapshots(server, Service.of(environ), Path(server.root_dir))
            self._snapshots.listen()

    async def start(self) -> None:
        """Called when the server is up."""
        if self._snapshots is not None:
            self._spawn(self._snapshots.run())
        self._spawn(Leftovers(self._environ, self._server.log).run())
        if self._environ.get("MAESTRO_CAPTURE", "off") != "off":
            self._spawn(Executions(self._environ, self._saved_notebook, self._server.log, Path.home()).run())
        self._spawn(self._begin())

    def shown(self) -> dict[str, Any]:
        """What the user is to be told now, and whether they are a viewer: JSON."""
        notices = self._board.shown() if self._board else ()
        return {"viewer": self._viewer, "notices": [notice.model_dump(mode="json") for notice in notices]}

    def dismiss(self, notice_id: str) -> None:
        """The user has read a notice."""
        if self._board is not None:
            self._board.dismiss(notice_id)

    async def keep(self) -> None:
        """Ask the service to keep this server running.

        Raises:
            NotAnswered: it does not answer, refuses, or there is none.
        """
        if self._pulse is None:
            raise NotAnswered("keep: no service")
        await self._pulse.keep()

    async def snapshot_of(self, path: str) -> State | None:
        """A notebook's saved version; None for a viewer's, whose notebooks are the workspace's or their own."""
        return await self._snapshots.state(path) if self._snapshots is not None else None

    async def scan(self) -> ScanReport:
        """Look for what is wrong with the packages, the code and the outputs of the workspace.

        Raises:
            MaestroError: a part of it did not end.
        """
        return await (await self._its_scanner()).scan()

    async def _its_scanner(self) -> Scanner:
        if self._scanner is None:
            report = await asyncio.to_thread(importlib.import_module, "server_extension.scan.report")
            self._scanner = report.Scanner(self._environ, Service.of(self._environ))
        return self._scanner

    async def _look_at_image(self) -> None:
        from maestro_core.errors import MaestroError

        from .sentences import image_notice

        try:
            findings = await (await self._its_scanner()).image()
        except (NotAnswered, MaestroError) as error:
            self._server.log.info("Maestro: the image was not compared with the package policy: %s", error)
            return
        if findings and self._board is not None:
            self._board.post(image_notice(startup.sentence([one.what for one in findings])))

    async def _begin(self) -> None:
        for name in _SLOW_IMPORTS:
            await asyncio.to_thread(importlib.import_module, name)
        from .board import Board
        from .heartbeat import Pulse
        from .meter import Meter
        from .packages.watch import Watch
        from .sentences import viewer_notice

        self._loop = asyncio.get_running_loop()
        self._board = Board(changed=self._tell_windows)
        if self._viewer:
            self._board.post(viewer_notice(self._environ))
        self._memory = OutOfMemory(
            self._sampler.oom_kills, self._tell_memory, self._notebook, asyncio.get_running_loop().time
        )
        provisioner.killed.append(self._kernel_killed)
        meter = Meter(
            self._server,
            self._environ,
            self._sampler,
            seen=self._memory.look,
            workspace_bytes=lambda: self._storage.workspace_bytes,
            seconds=self._seconds / 2,
        )
        self._spawn(meter.run())
        self._spawn(self._storage.measure())
        self._spawn(self._storage.watch())
        launch = await asyncio.to_thread(Launch.from_environ, self._environ)
        self._spawn(Watch(launch, self._environ, self._tell_environment, self._server.log).run())
        if service := Service.of(self._environ):
            self._pulse = Pulse(service, self._board, meter.beat, self._server.log, self._seconds)
            self._spawn(self._pulse.run())
            self._spawn(self._pulse.listen())
            if self._environ.get(startup.VARIABLE) == "warn":
                self._spawn(self._look_at_image())

    def _kernel_killed(self, kernel_id: str) -> None:
        if self._memory is not None:
            self._spawn(self._memory.kernel_killed(kernel_id))

    def _tell_memory(self, notice_id: str, sentence: str) -> None:
        from .sentences import memory_notice

        if self._board is not None:
            self._board.post(memory_notice(notice_id, sentence))

    def _tell_full(self, notice_id: str, sentence: str | None) -> None:
        from .sentences import full_notice

        if self._board is not None and sentence is None:
            self._board.withdraw(notice_id)
        elif self._board is not None and sentence is not None:
            self._board.post(full_notice(notice_id, sentence))

    def _tell_environment(self, notice_id: str, level: str, sentence: str) -> None:
        """Called from a thread."""
        from .sentences import environment_notice

        if self._board is not None:
            self._loop.call_soon_threadsafe(self._board.post, environment_notice(notice_id, level, sentence))

    async def _notebook(self, kernel_id: str) -> str | None:
        sessions: list[dict[str, Any]] = await ensure_async(self._server.session_manager.list_sessions())
        return notebook_of(kernel_id, sessions)

    async def _saved_notebook(self, kernel_id: str) -> str | None:
        """The notebook of a kernel; the version that is saved of it goes to the service, if it is not there yet."""
        path = await self._notebook(kernel_id)
        if path is not None:
            await self.snapshot_of(path)
        return path

    def _tell_windows(self) -> None:
        self._server.event_logger.emit(schema_id=EVENT, data={})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._server.log.error("Maestro: a part of the notebook server's extension ended", exc_info=error)
