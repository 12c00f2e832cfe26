"""``maestro-local``: a launch as a process of this machine, inside bubblewrap.

A root Hub first drops to a system user. Without bubblewrap nothing starts, unless ``allow_unisolated`` says that one
person has this machine to themselves.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from jupyterhub import orm
from jupyterhub.spawner import Spawner
from jupyterhub.utils import random_port
from sqlalchemy.orm import object_session
from traitlets import Bool, Integer, List, Unicode, default

from maestro_core import sandbox
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan
from maestro_core.names import home_directory_name
from maestro_core.sandbox import SANDBOX_USER, Owner

from . import folder, host, limits, listener, server_log
from .mixin import MaestroMixin
from .process import Process
from .refusals import Refusal
from .report import Report

#: seconds that bubblewrap may take to say which process it made
REPORT_SECONDS = 15.0
LISTEN_PAUSE = 0.05
#: how ``maestro-singleuser`` says why it cannot start; nothing of the user's has run by then
SAID = "maestro-singleuser: "
#: of its log, in which that is looked for while it starts
SHOWN_BYTES = 16 * 1024


class MaestroLocalSpawner(MaestroMixin, Spawner):
    """Servers as processes of this machine, each with its own view of it."""

    singleuser_prefix = Unicode(
        config=True,
        help="""
        Environment that servers run from, shown to them read-only: an absolute path with ``bin/python`` in it.

        Default: the variable ``MAESTRO_SINGLEUSER_PREFIX``, else the Hub's own environment.
        """,
    )
    state_dir = Unicode(
        config=True,
        help="""
        Maestro's state, which no server sees. Launches have their folders in ``run/launches``, servers write their log
        to ``log/servers``.

        Default: the variable ``MAESTRO_STATE``, else ``./state``.
        """,
    )
    sandbox_user = Unicode(
        SANDBOX_USER,
        config=True,
        help="System user that the servers of a root Hub run as, and that owns workspaces and homes. Made if missing.",
    )
    shown_paths = List(
        Unicode(),
        config=True,
        help="Further absolute paths that every server sees, read-only, at the same place.",
    )
    allow_unisolated = Bool(
        False,
        config=True,
        help="""
        Start servers where bubblewrap does not work. Every server then reads what the Hub's user reads, the Hub's
        secrets and all workspaces among it: for one person on a machine of their own.
        """,
    )
    interrupt_timeout = Integer(10, min=0, config=True, help="Seconds a server has to end after SIGINT.")
    term_timeout = Integer(5, min=0, config=True, help="Seconds it has to end after SIGTERM, before it is killed.")
    kill_timeout = Integer(5, min=1, config=True, help="Seconds to wait for the end of a killed server.")

    _swept: ClassVar[dict[str, asyncio.Task[None]]] = {}

    port: int
    _starting = False
    _popen: subprocess.Popen[bytes] | None = None
    _report: Report | None = None
    #: what the Hub started: bubblewrap, or the server itself where there is no sandbox
    _main: Process | None = None
    #: the first process inside; with it all others end
    _first: Process | None = None

    @default("singleuser_prefix")
    def _default_prefix(self) -> str:
        return os.environ.get("MAESTRO_SINGLEUSER_PREFIX", "") or sys.prefix

    @default("state_dir")
    def _default_state_dir(self) -> str:
        return os.path.abspath(os.environ.get("MAESTRO_STATE", "") or "state")

    @default("cmd")
    def _default_cmd(self) -> list[str]:
        return [f"{self.singleuser_prefix}/bin/python", "-P", "-m", "server_extension.start"]

    @default("env_keep")
    def _default_env_keep(self) -> list[str]:
        return ["LANG", "LC_ALL", "LC_CTYPE", "TZ"]

    # -- start ------------------------------------------------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Ask for the plan and start its server.

        Returns:
            address and port, as soon as it listens.

        Raises:
            Refusal: nothing was started, or the server ended at once.
        """
        self._starting = True
        try:
            plan = await self.take_plan()
            self.steps.add(30, "Preparing environment")
            await self._start_process(plan)
            self.steps.add(60, f"Starting JupyterLab in {plan.workspace.name}")
            await self._listening(plan)
            self.steps.add(85, "JupyterLab is up, the Hub looks whether it answers")
            self.came_up()
            return "127.0.0.1", self.port
        except MaestroError as error:
            self._ended = error.message.rstrip(".")
            raise Refusal(error) from None
        except OSError as error:
            self.log.exception("Cannot start server %s", self._log_name)
            reason = error.strerror or type(error).__name__
            sentence = f"The server could not be started on this machine ({reason}); tell an admin."
            self._ended = sentence.rstrip(".")
            raise Refusal(MaestroError("start_failed", sentence)) from None
        finally:
            self._starting = False

    async def _start_process(self, plan: LaunchPlan) -> None:
        problem = await asyncio.to_thread(host.bubblewrap_problem, self.sandbox_user)
        if problem and not self.allow_unisolated:
            raise MaestroError("conflict", f"{problem[:-1]}; nothing was started.")
        await self._sweep()
        owner = await asyncio.to_thread(host.owner_of_servers, self.sandbox_user) if not problem else None
        await asyncio.to_thread(folder.make, self._folder, plan, owner)
        if self.port == 0:
            self.port = random_port()
        if problem:
            environment = sandbox.plain_environment(
                _strings(self.get_env()), plan, str(self._folder), self.singleuser_prefix
            )
            self._launch([*self.cmd, *self.get_args()], environment, ())
        else:
            await self._start_sandbox(plan, owner)
        folder.remember(self._folder, {"main": self._main, "first": self._first})

    async def _start_sandbox(self, plan: LaunchPlan, owner: Owner | None) -> None:
        group = await asyncio.to_thread(self._group, plan)
        binds = await asyncio.to_thread(self._binds, plan, group)
        sources: list[str] = []
        if owner is not None:
            await asyncio.to_thread(host.make_stage)
            binds, sources = sandbox.staged(binds, host.STAGE)
        environment = sandbox.server_environment(_strings(self.get_env()), self.singleuser_prefix)
        options = sandbox.encode_options(sandbox.bwrap_options(binds, environment))
        self._report = report = Report()
        with host.options_file(options) as descriptor:
            command = sandbox.bwrap_command([*self.cmd, *self.get_args()], descriptor, report.descriptor)
            if owner is not None:
                command = sandbox.dropped(command, owner, host.STAGE, sources)
            if group is not None:
                command = sandbox.limited(command, group)
            self._launch(command, sandbox.HELPER_ENVIRONMENT, (descriptor, report.descriptor))
        folder.remember(self._folder, {"main": self._main})
        pid = await report.first_process(REPORT_SECONDS)
        self._first = Process.of(pid) if pid else None
        if self._first is None:
            await self._log_tail()
            raise MaestroError(
                "start_failed", "The server's sandbox could not be made; tell an admin, the log says why."
            )

    def _binds(self, plan: LaunchPlan, group: str | None) -> list[sandbox.Bind]:
        shown = [*host.runtime_paths(self.singleuser_prefix), *self.shown_paths]
        sources = [mount.source for mount in plan.mounts]  # an admin's dataset may be a folder too high
        sandbox.check_hidden([os.path.realpath(path) for path in (*shown, *sources)], os.path.realpath(self.state_dir))
        devices = host.gpu_devices() if plan.resources.gpu else []
        if plan.resources.gpu and not devices:
            raise MaestroError("conflict", "This machine has no GPU; take a profile without one.")
        return sandbox.launch_binds(plan, str(self._folder), shown, devices, group)

    def _group(self, plan: LaunchPlan) -> str | None:
        """The launch's own cgroup, or None where its limits cannot be held."""
        group = limits.servers_group()
        if group is None:
            return None
        try:
            return str(limits.make_group(group, self.launch_id, plan.resources))
        except OSError as error:
            self.log.warning("The limits of launch %s cannot be set: %s", self.launch_id, error)
            return None

    def _launch(self, command: list[str], environment: Mapping[str, str], descriptors: tuple[int, ...]) -> None:
        """The process, in a session of its own: neither Ctrl-C in the Hub's terminal nor the Hub's end reaches it."""
        self.log.info("Starting launch %s of %s", self.launch_id, self._log_name)
        with open(server_log.begin(self._log_file()), "wb") as log:
            self._popen = subprocess.Popen(
                command,
                env=dict(environment),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                start_new_session=True,
                umask=0o022,
            )
        self._main = Process.of(self._popen.pid)

    async def _listening(self, plan: LaunchPlan) -> None:
        """Wait until the server takes connections; the Hub limits the time (``start_timeout``)."""
        told = 0
        while True:
            told = await asyncio.to_thread(self._tell_what_it_says, told)
            code = await self._exit_code()
            if code is not None:
                said = next((line for line in reversed(await self._log_tail()) if line.startswith(SAID)), "")
                if said := said.removeprefix(SAID):
                    self._ended = said.rstrip(".")
                raise MaestroError(
                    "start_failed",
                    said
                    or f"The server of {plan.workspace.name} ended while it started (exit code {code}); tell an admin, "
                    "the log says why.",
                )
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(LISTEN_PAUSE)
                continue
            writer.close()
            ours = await asyncio.to_thread(self._has_port)
            if ours:
                return
            if ours is not None:
                self.log.warning("Port %d of launch %s is another process's", self.port, self.launch_id)
                raise MaestroError(
                    "start_failed",
                    f"Another process of this machine took the port of the server of {plan.workspace.name} while it "
                    "started; start it again, and tell an admin if it happens again.",
                )

    def _has_port(self) -> bool | None:
        """Whether who listens is this launch: any process of the machine may take a port, other people's too."""
        root = self._first or self._main
        return listener.listens(root, self.port) if root is not None else None

    # -- poll and stop ----------------------------------------------------------------------------------------------

    async def poll(self) -> int | None:
        """None while the server runs or is being started; else its exit code, 0 where nobody knows it."""
        if self._starting:
            return None
        if self._popen is None and self._main is None:
            await self._sweep()  # a Hub that comes back asks first of all about what the killed one was starting
        code = await self._exit_code()
        if code is None and await asyncio.to_thread(server_log.cut, self._log_file()):
            self.log.info("Cut the log of %s, which had grown too long", self._log_name)
        return code

    async def _exit_code(self) -> int | None:
        if self._popen is not None:
            code = self._popen.poll()
        elif self._main is not None:
            code = None if self._main.alive() else 0  # of a Hub before this one
        else:
            return 0
        if code is not None and not self._ended:
            self._ended = f"the server ended by itself (exit code {code})"
            self._end_all()
        return code

    async def stop(self, now: bool = False) -> None:
        """End the server: asked to twice, then killed; nothing of the launch is left.

        Args:
            now: kill it at once.
        """
        try:
            await self._end_server(now)
        except Exception:
            self.log.exception("Server %s could not be stopped", self._log_name)  # the Hub keeps silent about it
            raise

    async def _end_server(self, now: bool) -> None:
        self._ended = "stopped"
        asked = () if now else ((signal.SIGINT, self.interrupt_timeout), (signal.SIGTERM, self.term_timeout))
        for number, seconds in asked:
            if await self._exit_code() is not None:
                break
            server = self._signalled()
            if server is not None and server.signal(number):
                await self.wait_for_death(seconds)
        self._end_all()
        if not await self.wait_for_death(self.kill_timeout):
            self.log.error("Server %s does not end", self._log_name)

    def _signalled(self) -> Process | None:
        """Who signals are for: bubblewrap's first process inside ignores them, and its child is the server."""
        if self._first is None:
            return self._main
        inside = self._first.children()
        return inside[0] if inside else None

    def _end_all(self) -> None:
        """Kill whatever is left. With the first process of its pid namespace the kernel ends every other."""
        if self._first is not None:
            self._first.kill()
        elif self._main is not None:
            self._main.kill()
            if self.launch_id:
                folder.end_marked(self._folder)

    async def _after_stop(self, hook: Any) -> None:
        if self.launch_id and await self.poll() is not None:
            await asyncio.to_thread(self._clean_up)
        await super()._after_stop(hook)

    def _clean_up(self) -> None:
        if self._report is not None:
            self._report.close()
        folder.remove(self._folder)
        group = limits.servers_group()
        if group is not None:
            limits.remove_group(group, self.launch_id)

    async def _sweep(self) -> None:
        """Once in the life of a Hub, before it believes that anything is over and before it starts anything: end what
        a Hub left behind that died while it started a server."""
        if self.state_dir not in self._swept:
            self._swept[self.state_dir] = asyncio.ensure_future(self._sweep_once())
        await asyncio.shield(self._swept[self.state_dir])

    async def _sweep_once(self) -> None:
        session = object_session(self.orm_spawner)
        servers = session.query(orm.Spawner).all() if session is not None else []
        known = {str((server.state or {}).get("maestro_launch_id", "")) for server in servers}
        left = await asyncio.to_thread(folder.end_leftovers, self._launches, known)
        if left:
            self.log.warning("Ended servers that a Hub before this one had begun to start: %s", ", ".join(left))

    # -- state ------------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """The processes, by number, start time and boot: a number that was given again is nobody of ours."""
        state = super().get_state()
        if self._main is not None:
            state["maestro_main"] = self._main.as_json()
        if self._first is not None:
            state["maestro_first"] = self._first.as_json()
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Find a server again that outlived its Hub."""
        super().load_state(state)
        self._main = Process.from_json(state.get("maestro_main"))
        self._first = Process.from_json(state.get("maestro_first"))

    def clear_state(self) -> None:
        """Nothing of a launch is left to the next."""
        super().clear_state()
        self._popen = self._main = self._first = self._report = None
        self.port = 0

    # -- the rest ---------------------------------------------------------------------------------------------------

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Our steps; there is nobody behind us who knows more."""
        async for step in self.steps.follow():
            yield step

    def limits_note(self) -> str | None:
        """That amounts do not hold on this machine, where that is so."""
        return limits.limits_problem()

    @property
    def _folder(self) -> Path:
        return self._launches / self.launch_id

    @property
    def _launches(self) -> Path:
        return Path(self.state_dir) / "run/launches"

    def _log_file(self) -> Path:
        name = home_directory_name(self.user.name, self.name)
        return Path(self.state_dir) / "log/servers" / f"{name}.log"

    def _tell_what_it_says(self, told: int) -> int:
        """Show the progress page what ``maestro-singleuser`` has said since; blocks shortly.

        Args:
            told: lines that were looked at; the answer is their number now.
        """
        try:
            with open(self._log_file(), "rb") as log:
                whole, _, _ = log.read(SHOWN_BYTES).rpartition(b"\n")
        except OSError:
            return told
        lines = whole.decode(errors="replace").splitlines()
        for line in lines[told:]:
            if said := line.removeprefix(SAID)[:200] if line.startswith(SAID) else "":
                self.steps.add(65, said[:1].upper() + said[1:])
        return len(lines)

    async def _log_tail(self) -> list[str]:
        """What the server said last; also into the Hub's log."""
        lines = await asyncio.to_thread(server_log.last_lines, self._log_file(), 5)
        # A user's process wrote them: each as one quoted line, not as lines of the Hub's log.
        for line in lines:
            self.log.warning("Server %s said: %r", self._log_name, line[:500])
        return ["".join(sign for sign in line[:1000] if sign.isprintable()) for line in lines]


def _strings(environment: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in environment.items() if value is not None}
