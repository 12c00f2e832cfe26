"""``maestro-local``: a launch as a process of this machine, inside bubblewrap.

A root Hub first drops to a system user. Without bubblewrap nothing starts, unless ``allow_unisolated`` says that one
person has this machine to themselves.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from jupyterhub import orm
from jupyterhub.spawner import Spawner
from jupyterhub.utils import random_port
from sqlalchemy.orm import object_session
from traitlets import Bool, Integer, List, Unicode, default

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan
from maestro_core.names import home_directory_name
from maestro_core.sandbox import SANDBOX_USER
from maestro_spawner.machine import folder, limits, server_log
from maestro_spawner.machine.launched import Machine, Processes
from maestro_spawner.machine.process import Process

from . import listener
from .mixin import MaestroMixin
from .refusals import Refusal

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
    _processes: Processes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._processes = Processes()

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
        await self._sweep()
        if self.port == 0:
            self.port = random_port()
        self.log.info("Starting launch %s of %s", self.launch_id, self._log_name)
        command = [*self.cmd, *self.get_args()]
        try:
            await self._machine.start(self._processes, plan, command, _strings(self.get_env()), self._log_file())
        except MaestroError as error:
            if error.code == "start_failed":
                await self._log_tail()
            raise

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
        root = self._processes.first or self._processes.main
        return listener.listens(root, self.port) if root is not None else None

    # -- poll and stop ----------------------------------------------------------------------------------------------

    async def poll(self) -> int | None:
        """None while the server runs or is being started; else its exit code, 0 where nobody knows it."""
        if self._starting:
            return None
        if not self._processes.known:
            await self._sweep()  # a Hub that comes back asks first of all about what the killed one was starting
        code = await self._exit_code()
        if code is None and await asyncio.to_thread(server_log.cut, self._log_file()):
            self.log.info("Cut the log of %s, which had grown too long", self._log_name)
        return code

    async def _exit_code(self) -> int | None:
        code = self._processes.exit_code()
        if code is not None and self._processes.known and not self._ended:
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
            if self._processes.ask(number):
                await self.wait_for_death(seconds)
        self._end_all()
        if not await self.wait_for_death(self.kill_timeout):
            self.log.error("Server %s does not end", self._log_name)

    def _end_all(self) -> None:
        self._processes.kill(self._folder)

    async def _after_stop(self, hook: Any) -> None:
        if self.launch_id and await self.poll() is not None:
            await asyncio.to_thread(self._clean_up)
        await super()._after_stop(hook)

    def _clean_up(self) -> None:
        self._processes.close()
        self._machine.clean(self.launch_id)

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
        left = await asyncio.to_thread(folder.end_leftovers, self._machine.launches, known)
        if left:
            self.log.warning("Ended servers that a Hub before this one had begun to start: %s", ", ".join(left))

    # -- state ------------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """The processes, by number, start time and boot: a number that was given again is nobody of ours."""
        state = super().get_state()
        if self._processes.main is not None:
            state["maestro_main"] = self._processes.main.as_json()
        if self._processes.first is not None:
            state["maestro_first"] = self._processes.first.as_json()
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Find a server again that outlived its Hub."""
        super().load_state(state)
        self._processes = Processes(
            Process.from_json(state.get("maestro_main")), Process.from_json(state.get("maestro_first"))
        )

    def clear_state(self) -> None:
        """Nothing of a launch is left to the next."""
        super().clear_state()
        self._processes = Processes()
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
    def _machine(self) -> Machine:
        return Machine(
            Path(self.state_dir), self.singleuser_prefix, self.sandbox_user, self.shown_paths, self.allow_unisolated
        )

    @property
    def _folder(self) -> Path:
        return self._machine.launches / self.launch_id

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
