"""Jobs as processes of this machine, in exactly the sandbox of a notebook server.

A job's folder is ``run/jobs/<launch id>``. What runs is written down there, so a service that was killed finds its jobs
again; they go on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan
from maestro_core.resources import format_memory
from maestro_hub_services.settings import Settings
from maestro_spawner.machine import folder, limits, server_log
from maestro_spawner.machine.launched import Machine, Processes

from .protocol import PATIENCE, Ended, JobAddress
from .worker import ARGUMENTS, TOKEN, worker_environment

FOLDERS = "run/jobs"
#: in the folder of a job that was ended with Maestro itself
ENDED = "ended"
KILL_SECONDS = 5.0
_POLL_SECONDS = 0.1
log = logging.getLogger("maestro.runner")


def machine_of(settings: Settings) -> Machine:
    """Where and how jobs run here: as the Hub's local spawner runs servers."""
    return Machine(
        settings.state,
        settings.singleuser_prefix,
        shown=settings.shown_paths,
        allow_unisolated=settings.allow_unisolated,
        folders=FOLDERS,
    )


class LocalRunner:
    """Jobs of one machine.

    Args:
        settings: of the workspaces service.
    """

    patience = PATIENCE

    def __init__(self, settings: Settings) -> None:
        self._machine = machine_of(settings)
        self._logs = settings.state / "log/jobs"
        self._known: dict[str, Processes] = {}
        self._starting: set[str] = set()
        self._told: set[str] = set()

    async def start(self, plan: LaunchPlan, work: JobAddress) -> None:
        """Start it in a sandbox of its own; nothing is left of a start that fails."""
        launch_id, processes = plan.launch_id, Processes()
        command = [f"{self._machine.prefix}/bin/python", *ARGUMENTS]
        self._starting.add(launch_id)
        if limits.servers_group() is None:
            limits.servers_group.cache_clear()  # the Hub may divide its group later than this service began
        try:
            environment = worker_environment(plan, work) | {TOKEN: work.token}
            await self._machine.start(processes, plan, command, environment, self._log_file(launch_id))
            self._known[launch_id] = processes
        except (MaestroError, OSError) as error:
            await self._say_last(launch_id)
            await asyncio.to_thread(self._forget, launch_id, processes)
            raise _not_started(error) from None
        except BaseException:
            await asyncio.to_thread(self._forget, launch_id, processes)
            raise
        finally:
            self._starting.discard(launch_id)

    async def look(self) -> Mapping[str, Ended | None]:
        """By launch id: None while it runs, else how it ended."""
        for launch_id in await asyncio.to_thread(folder.names, self._machine.launches):
            if launch_id not in self._known and launch_id not in self._starting:
                self._known[launch_id] = await asyncio.to_thread(Processes.recall, self._machine.launches / launch_id)
        return dict.fromkeys(self._starting) | {
            launch_id: await self._state(launch_id, processes) for launch_id, processes in list(self._known.items())
        }

    async def _state(self, launch_id: str, processes: Processes) -> Ended | None:
        code = processes.exit_code()
        if code is None:
            await asyncio.to_thread(server_log.cut, self._log_file(launch_id))
            return None
        await asyncio.to_thread(processes.kill, self._machine.launches / launch_id)  # what it left behind
        if launch_id not in self._told:
            self._told.add(launch_id)
            await self._say_last(launch_id)
        if await asyncio.to_thread((self._machine.launches / launch_id / ENDED).exists):
            return Ended(None, "Maestro itself was ended while it ran")
        return await asyncio.to_thread(_ended, launch_id, code if processes.popen is not None else None)

    async def stop(self, launch_id: str, seconds: float) -> None:
        """SIGTERM, then SIGKILL for all that is in the sandbox."""
        await self.look()
        processes = self._known.get(launch_id)
        if processes is None:
            return
        if processes.ask(signal.SIGTERM):
            await _until_gone(processes, seconds)
        await asyncio.to_thread(processes.kill, self._machine.launches / launch_id)
        await _until_gone(processes, KILL_SECONDS)

    async def clean(self, launch_id: str) -> None:
        """Its folder, its log, its group of limits; whatever still runs of it is killed."""
        processes = self._known.get(launch_id)
        if processes is None:
            processes = await asyncio.to_thread(Processes.recall, self._machine.launches / launch_id)
        await asyncio.to_thread(self._forget, launch_id, processes)

    async def close(self) -> None:
        """Nothing is open: jobs go on."""

    def _forget(self, launch_id: str, processes: Processes) -> None:
        processes.kill(self._machine.launches / launch_id)
        processes.wait(KILL_SECONDS)
        processes.close()
        self._machine.clean(launch_id)
        for path in (self._log_file(launch_id), server_log.before(self._log_file(launch_id))):
            path.unlink(missing_ok=True)
        self._known.pop(launch_id, None)
        self._told.discard(launch_id)

    def _log_file(self, launch_id: str) -> Path:
        return self._logs / f"{launch_id}.log"

    async def _say_last(self, launch_id: str) -> None:
        """What the worker itself said last, into the service's log: each line quoted, since a user's code wrote it."""
        for line in await asyncio.to_thread(server_log.last_lines, self._log_file(launch_id), 5):
            log.warning("The worker of launch %s said: %r", launch_id, line[:500])


def end_all(state: Path) -> int:
    """End the jobs of a Maestro that is ended itself; how many. The next start finds their folders, and tells.

    Args:
        state: the installation's directory. Blocking.
    """
    launches = state / FOLDERS
    ended = 0
    for name in folder.names(launches):
        processes = Processes.recall(launches / name)
        if processes.exit_code() is None:
            ended += 1
            (launches / name / ENDED).touch()
        processes.kill(launches / name)
    return ended


def _ended(launch_id: str, code: int | None) -> Ended:
    """In words; blocks shortly."""
    group = limits.servers_group()
    most = None if group is None else limits.ran_out_of_memory(group, launch_id)
    if most is not None:
        return Ended(code, f"it ran out of memory (its limit is {format_memory(most)})")
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return Ended(code, "its worker was killed")
    if code is None:
        return Ended(None, "its worker is gone, and did not say why")
    if code == 0:
        return Ended(0, "its worker ended without a word")
    return Ended(code, f"its worker ended by itself (exit code {code})")


def _not_started(error: MaestroError | OSError) -> MaestroError:
    if isinstance(error, MaestroError):
        return error if error.code == "start_failed" else MaestroError("start_failed", error.message)
    log.error("A job cannot be started: %s", error)
    reason = error.strerror or type(error).__name__
    return MaestroError("start_failed", f"The job could not be started on this machine ({reason}); tell an admin.")


async def _until_gone(processes: Processes, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while True:
        if processes.exit_code() is not None or time.monotonic() > limit:
            return
        await asyncio.sleep(_POLL_SECONDS)
