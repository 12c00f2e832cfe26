"""One launch as processes of this machine: started in its sandbox, found again, asked to end, killed.

Whoever started it may end meanwhile: the processes are in a session of their own, and outlive the Hub and the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maestro_core import sandbox
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan
from maestro_core.sandbox import SANDBOX_USER, Owner

from . import folder, host, limits, server_log
from .process import Process
from .report import Report

#: seconds that bubblewrap may take to say which process it made
REPORT_SECONDS = 15.0

log = logging.getLogger("maestro.machine")


@dataclass
class Processes:
    """The processes of one launch; nothing before it is started.

    Attributes:
        main: what was started: bubblewrap, or the program itself where there is no sandbox.
        first: the first process inside; with it all others end.
        popen: ``main`` for who started it; None for who found it again.
    """

    main: Process | None = None
    first: Process | None = None
    popen: subprocess.Popen[bytes] | None = None
    report: Report | None = None

    @classmethod
    def recall(cls, launch_folder: Path) -> Processes:
        """Find those of a launch again that somebody started who is gone; blocks shortly."""
        found = folder.recall(launch_folder)
        main, first = found.get("main"), found.get("first")
        if first is None and main is not None and main.name() == "bwrap":
            first = next(iter(main.children()), None)  # its starter was cut off before it wrote that down
        return cls(main, first)

    @property
    def known(self) -> bool:
        """Whether there ever was one."""
        return self.popen is not None or self.main is not None

    def exit_code(self) -> int | None:
        """None while it runs; 0 also where nobody knows it."""
        if self.popen is not None:
            return self.popen.poll()
        if self.main is not None:
            return None if self.main.alive() else 0
        return 0

    def ask(self, number: int) -> bool:
        """Send the program a signal; False if it is gone.

        bubblewrap's first process inside ignores them, and its child is the program.
        """
        if self.first is None:
            return self.main is not None and self.main.signal(number)
        inside = self.first.children()
        return bool(inside) and inside[0].signal(number)

    def kill(self, launch_folder: Path) -> None:
        """Kill whatever is left. With the first process of its pid namespace the kernel ends every other."""
        if self.first is not None:
            self.first.kill()
        elif self.main is not None:
            self.main.kill()
            folder.end_marked(launch_folder)

    def wait(self, seconds: float) -> None:
        """Wait until it is over, which leaves no zombie behind; blocks."""
        if self.popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(seconds)

    def close(self) -> None:
        """Close what is open; the processes go on."""
        if self.report is not None:
            self.report.close()

    def remember(self, launch_folder: Path) -> None:
        """Write them down in the launch's folder."""
        folder.remember(launch_folder, {"main": self.main, "first": self.first})


@dataclass(frozen=True)
class Machine:
    """Where and how launches run on this machine.

    Attributes:
        state: absolute directory of Maestro's data, which no launch sees.
        prefix: the environment that they run from, shown read-only: absolute, with ``bin/python`` in it.
        user: the system user that they run as where this process is root.
        shown: further absolute paths that each sees, read-only.
        allow_unisolated: whether they run without a sandbox where bubblewrap does not work.
        folders: below the state, where each launch has a folder.
    """

    state: Path
    prefix: str
    user: str = SANDBOX_USER
    shown: Sequence[str] = ()
    allow_unisolated: bool = False
    folders: str = "run/launches"

    @property
    def launches(self) -> Path:
        """The folder of all launches' folders."""
        return self.state / self.folders

    async def start(
        self,
        processes: Processes,
        plan: LaunchPlan,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
    ) -> None:
        """Start a launch's program.

        Args:
            processes: filled in step by step, so that a start that fails or is given up can be ended.
            command: inside. environment: all of its variables inside, besides who one is.
            log_file: what it writes; begun anew.

        Raises:
            MaestroError: it cannot be started here; ``start_failed`` where the log says why.
            OSError: something cannot be written, or no process can be made.
        """
        problem = await asyncio.to_thread(host.bubblewrap_problem, self.user)
        if problem and not self.allow_unisolated:
            raise MaestroError("conflict", f"{problem[:-1]}; nothing was started.")
        own = self.launches / plan.launch_id
        owner = await asyncio.to_thread(host.owner_of_servers, self.user) if not problem else None
        await asyncio.to_thread(folder.make, own, plan, owner)
        if problem:
            plain = sandbox.plain_environment(environment, plan, str(own), self.prefix)
            _begin(processes, command, plain, log_file)
        else:
            await self._start_sandbox(processes, plan, command, environment, log_file, owner)
        processes.remember(own)

    async def _start_sandbox(
        self,
        processes: Processes,
        plan: LaunchPlan,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_file: Path,
        owner: Owner | None,
    ) -> None:
        own = self.launches / plan.launch_id
        group = await asyncio.to_thread(_group, plan)
        binds = await asyncio.to_thread(self._binds, plan, group)
        sources: list[str] = []
        if owner is not None:
            await asyncio.to_thread(host.make_stage)
            binds, sources = sandbox.staged(binds, host.STAGE)
        inside = sandbox.server_environment(environment, self.prefix)
        options = sandbox.encode_options(sandbox.bwrap_options(binds, inside))
        processes.report = report = Report()
        with host.options_file(options) as descriptor:
            wrapped = sandbox.bwrap_command(command, descriptor, report.descriptor)
            if owner is not None:
                wrapped = sandbox.dropped(wrapped, owner, host.STAGE, sources)
            if group is not None:
                wrapped = sandbox.limited(wrapped, group)
            _begin(processes, wrapped, sandbox.HELPER_ENVIRONMENT, log_file, (descriptor, report.descriptor))
        processes.remember(own)
        pid = await report.first_process(REPORT_SECONDS)
        processes.first = Process.of(pid) if pid else None
        if processes.first is None:
            raise MaestroError("start_failed", "The sandbox could not be made; tell an admin, the log says why.")

    def _binds(self, plan: LaunchPlan, group: str | None) -> list[sandbox.Bind]:
        shown = [*host.runtime_paths(self.prefix), *self.shown]
        sources = [mount.source for mount in plan.mounts]  # an admin's dataset may be a folder too high
        sandbox.check_hidden([os.path.realpath(path) for path in (*shown, *sources)], os.path.realpath(self.state))
        devices = host.gpu_devices() if plan.resources.gpu else []
        if plan.resources.gpu and not devices:
            raise MaestroError("conflict", "This machine has no GPU; take a profile without one.")
        return sandbox.launch_binds(plan, str(self.launches / plan.launch_id), shown, devices, group)

    def clean(self, launch_id: str) -> None:
        """Remove an ended launch's folder and its group of limits; idempotent, and blocks shortly."""
        folder.remove(self.launches / launch_id)
        group = limits.servers_group()
        if group is not None:
            limits.remove_group(group, launch_id)


def _group(plan: LaunchPlan) -> str | None:
    """The launch's own cgroup, or None where its limits cannot be held."""
    group = limits.servers_group()
    if group is None:
        return None
    try:
        return str(limits.make_group(group, plan.launch_id, plan.resources))
    except OSError as error:
        log.warning("The limits of launch %s cannot be set: %s", plan.launch_id, error)
        return None


def _begin(
    processes: Processes,
    command: Sequence[str],
    environment: Mapping[str, str],
    log_file: Path,
    descriptors: tuple[int, ...] = (),
) -> None:
    """The process, in a session of its own: neither Ctrl-C in a terminal nor its starter's end reaches it."""
    with open(server_log.begin(log_file), "wb") as output:
        processes.popen = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
            start_new_session=True,
            umask=0o022,
        )
    processes.main = Process.of(processes.popen.pid)
