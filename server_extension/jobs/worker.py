"""One attempt of a job from its order to its end, told to the service all the while.

What is told waits while the service is away, and the job goes on. Whatever ends the job early (a cancel, its time, a
signal) first interrupts what runs, so that its own run ends as one that was interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from maestro_core.environment import KERNEL_ENVIRONMENT

from ..environment import kernel_variables
from ..launch import Launch, StartError
from ..scan import startup
from ..start import UMASK, prepare, server_variables
from ..usage.sampler import Sampler
from . import environment, output, usage
from .notebook import INTERRUPT_SECONDS, Hears, Notebook
from .order import End, Order
from .script import Script
from .service import JobService, NotAnswered
from .spool import Spool
from .summary import Summary
from .tracking import NoTracking, Run, Told, send_journals

#: seconds between signs of life, between pieces of the log, between two states of the notebook
BEAT_SECONDS, LOG_SECONDS, NOTEBOOK_SECONDS = 5.0, 1.0, 2.0
#: seconds for which an attempt that the service does not know any more goes on: it may be starting again
UNKNOWN_SECONDS = 30.0
#: seconds for which the end waits for MLflow, and for the service
TRACKING_PATIENCE, SERVICE_PATIENCE = 600.0, 900.0
#: the same for who was asked to end: a pod has thirty in all
HURRY_SECONDS = 6.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0


def main() -> None:
    """Run it, and end this process.

    Raises:
        SystemExit: this is no job's environment.
    """
    os.umask(UMASK)
    try:
        service = JobService.of(os.environ)
    except ValueError as error:
        sys.exit(f"maestro-job: {error}")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    code = loop.run_until_complete(Worker(dict(os.environ), service).run())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread that still installs something is nobody's any more


class Worker:
    """One attempt.

    Args:
        environ: of this process. service: of this attempt.
    """

    def __init__(self, environ: dict[str, str], service: JobService) -> None:
        self._environ, self._service = environ, service
        self._spool = Spool(service.log)
        self._sampler = Sampler()
        self._began = time.monotonic()
        self._phase, self._cell, self._cells = "environment", 0, 0
        self._stop, self._told_of = asyncio.Event(), asyncio.Event()
        self._stopping: End | None = None
        self._signalled = self._unwanted = False
        self._unknown_since: float | None = None
        self._changed = False
        self._notebook: Notebook | None = None
        self._run: Run | None = None
        self._told: Told | None = None
        self._tasks: list[asyncio.Task[Any]] = []

    # -- from beginning to end ----------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run it; the exit code: 0 when the service knows how it ended."""
        self._listen()
        order = await self._order()
        if order is None:
            return 3
        self._run = Run(order, self._environ)
        work: list[Coroutine[Any, Any, None]] = [
            self._pulse(), self._logs(), self._deadline(order), self._open_run(),
            usage.tell(self._environ, self._sampler),
        ]  # fmt: skip
        self._showing = asyncio.create_task(self._pages())
        self._tasks = [self._showing, *(asyncio.create_task(one) for one in work)]
        try:
            end = await self._attempt(order)
        except Exception as error:
            print(f"maestro-job: {type(error).__name__}: {error}", file=sys.stderr)
            end = End("failed", f"The worker failed ({type(error).__name__}); tell an admin.")
        return 0 if await self._finish(order, end) else 3

    async def _order(self) -> Order | None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            try:
                return Order.read(await self._service.work())
            except NotAnswered as error:
                print(f"maestro-job: {error}", file=sys.stderr)
                if error.refused or time.monotonic() - self._began > SERVICE_PATIENCE:
                    return None
            except ValueError as error:
                print(f"maestro-job: {error}", file=sys.stderr)
                return None
            await self._sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        return None

    async def _attempt(self, order: Order) -> End:
        loading = asyncio.ensure_future(asyncio.to_thread(_load, order.kind))
        preparing = asyncio.ensure_future(asyncio.to_thread(self._prepare))
        if await self._stopped_before(preparing):
            return self._stopping or End("cancelled")
        try:
            launch, variables, lacking = preparing.result()
        except StartError as error:
            return End("failed", str(error))
        self._spool.say("".join(lacking))
        self._told = Told(str(launch.private / "job.json"))
        own = {
            "MAESTRO_JOB_STATE": str(launch.private / "job.json"),
            "MAESTRO_JOB_SNAPSHOT": order.snapshot,
            "JPY_SESSION_NAME": str(launch.workspace_dir / order.path),
        }
        self._environ.pop(KERNEL_ENVIRONMENT, None)
        os.environ.pop(KERNEL_ENVIRONMENT, None)
        os.environ.update(server_variables(launch, self._environ) | own)
        self._tell_kernel()
        await loading
        self._phase = "starting"
        self._told_of.set()
        try:
            doing = self._program(order, launch, variables)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return End("failed", f"{order.path} cannot be run: {error}".rstrip(".") + ".")
        return await self._until_end(doing)

    def _prepare(self) -> tuple[Launch, dict[str, str], list[str]]:
        """Everything that a kernel needs; the third is what the environment lacks. Blocks."""
        startup.check(self._environ)
        launch = Launch.from_environ(self._environ)
        prepare(launch, self._environ)
        lacking = environment.finish(launch, self._environ)
        return launch, kernel_variables(launch, self._environ), lacking

    def _program(self, order: Order, launch: Launch, variables: Mapping[str, str]) -> Notebook | Script | Summary:
        """What runs an order of this kind.

        Raises:
            ValueError: there is no such kind here, or it is no notebook.
        """
        if order.kind == "notebook":
            hears = Hears(self._cell_begins, self._spool.say, self._has_changed, self._kernel_starts, self._ending)
            self._notebook = Notebook(order, launch, hears, self._sampler)
            self._cells = self._notebook.cells
            return self._notebook
        if order.kind == "script":
            self._phase = "running"
            return Script(order, launch, variables, folder_of_job(launch, order), self._spool.say)
        if order.kind == "sweep-summary":
            self._phase = "running"
            return Summary(order, self._spool.say)
        raise ValueError(f"this image knows no jobs of the kind {order.kind}; take a newer one")

    async def _until_end(self, doing: Notebook | Script | Summary) -> End:
        working = asyncio.ensure_future(doing.run())
        if not await self._stopped_before(working):
            return End("failed", "What ran it was cancelled.") if working.cancelled() else working.result()
        await doing.interrupt()
        await asyncio.wait([working], timeout=INTERRUPT_SECONDS)
        if not working.done():
            await doing.kill()
            await asyncio.wait([working], timeout=INTERRUPT_SECONDS)
        working.cancel()
        await asyncio.wait([working], timeout=1.0)
        if not working.cancelled() and working.exception() is not None:
            print(f"maestro-job: while it was ended: {working.exception()!r}"[:500], file=sys.stderr)
        return self._stopping or End("cancelled")

    async def _stopped_before(self, working: asyncio.Future[Any]) -> bool:
        """Wait; whether the end was asked for before this was done."""
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        return not working.done()

    async def _finish(self, order: Order, end: End) -> bool:
        """Tell how it ended; whether the service knows."""
        if end.killed:
            end = await self._whose_wish(end)
        end = replace(end, reason=_printable(end.reason))
        self._listen()  # nbclient has put its own handlers away, and with them ours
        text = await self._keep_notebook(order)
        try:
            metrics = await self._end_run(order, end, text)
        except Exception as error:  # whatever MLflow says, the job's end is told
            print(f"maestro-job: {type(error).__name__}: {error}", file=sys.stderr)
            metrics = {}
        if end.reason:
            self._spool.say(f"{end.reason}\n")
        self._showing.cancel()  # an earlier state must not arrive after the last one
        await asyncio.wait([self._showing])
        if text is not None:
            packed = await asyncio.to_thread(output.packed, text)
            await self._insist(lambda: self._service.notebook(packed), SERVICE_PATIENCE)
        await self._insist(self._spool.deliver, SERVICE_PATIENCE)
        said = {"outcome": end.outcome, "reason": end.reason, "metrics": metrics, "run_id": self._run_id}
        done = await self._insist(lambda: self._service.done(said), SERVICE_PATIENCE)
        for task in self._tasks:
            task.cancel()
        return done

    async def _whose_wish(self, end: End) -> End:
        """A signal says not who sent it: the service knows whether somebody cancelled the job."""
        with contextlib.suppress(NotAnswered):
            if await self._service.progress(self._state()):
                return End("cancelled", "It was cancelled.", killed=True)
        return end

    async def _keep_notebook(self, order: Order) -> bytes | None:
        """The executed notebook, in the workspace too, where nobody has to ask for it."""
        if self._notebook is None:
            return None
        text = output.as_json(self._notebook.node)
        launch = self._notebook.launch
        if launch.viewer:  # who may read the workspace alone
            return text
        try:
            await asyncio.to_thread(_write, folder_of_job(launch, order) / order.file_name, text)
        except OSError as error:
            self._spool.say(f"The notebook could not be kept in the workspace: {error.strerror}.\n")
        return text

    async def _end_run(self, order: Order, end: End, text: bytes | None) -> dict[str, float]:
        run = self._run
        metrics: dict[str, float] = {}
        if run is None or not run.wanted:
            return metrics

        async def close() -> None:
            nonlocal metrics
            await asyncio.to_thread(send_journals, os.environ)
            if text is not None:
                with contextlib.suppress(NoTracking):
                    await run.open()
                    await run.keep(order.file_name, text)
            metrics = await run.end(end)

        if not await self._insist(close, TRACKING_PATIENCE):
            self._spool.say("The job's run could not be ended at MLflow, which does not take it.\n")
        return metrics

    async def _insist(self, do: Callable[[], Coroutine[Any, Any, None]], patience: float) -> bool:
        """Do it until it succeeds, is refused, or this has tried long enough; whether it succeeded."""
        began, pause = time.monotonic(), FIRST_PAUSE
        while True:
            hurry = self._signalled or self._unwanted
            try:
                await asyncio.wait_for(do(), HURRY_SECONDS if hurry else None)
                return True
            except (NotAnswered, NoTracking, TimeoutError) as error:
                print(f"maestro-job: {error or type(error).__name__}", file=sys.stderr, flush=True)
                over = time.monotonic() - began > (HURRY_SECONDS if hurry else patience)
                if over or getattr(error, "refused", False):
                    return False
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    # -- why it may end early -----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        self._signalled = True
        self._end_it(End("failed", "It was ended from outside while it ran.", killed=True))

    def _end_it(self, end: End) -> None:
        if self._stopping is None:
            self._stopping = end
        self._stop.set()

    async def _deadline(self, order: Order) -> None:
        await asyncio.sleep(max(0.0, self._began + order.timeout_seconds - time.monotonic()))
        from maestro_core.jobs import show_seconds

        self._end_it(End("failed", f"It took longer than its timeout of {show_seconds(order.timeout_seconds)}."))

    async def _sleep(self, seconds: float) -> None:
        """Unless the end is asked for meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # -- what is told all the while -----------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        run = self._run
        said = {"phase": self._phase, "cell": self._cell, "cells": self._cells, "run_id": self._run_id}
        return said | {"parent_run": run.parent_run if run is not None else None}

    @property
    def _run_id(self) -> str | None:
        return self._run.run_id if self._run is not None else None

    async def _pulse(self) -> None:
        """Signs of life: every few seconds, and soon after something is new."""
        while True:
            try:
                if await self._service.progress(self._state()):
                    self._end_it(End("cancelled", "It was cancelled."))
                self._unknown_since = None
            except NotAnswered as error:
                self._not_heard(error)
            await asyncio.sleep(LOG_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told_of.wait(), BEAT_SECONDS - LOG_SECONDS)
            self._told_of.clear()

    def _not_heard(self, error: NotAnswered) -> None:
        if not error.over:
            return
        self._unknown_since = self._unknown_since or time.monotonic()
        if time.monotonic() - self._unknown_since > UNKNOWN_SECONDS:
            self._unwanted = True
            self._end_it(End("cancelled", "The service has ended this attempt.", killed=True))

    async def _logs(self) -> None:
        while True:
            with contextlib.suppress(NotAnswered):
                await self._spool.deliver()
            await asyncio.sleep(LOG_SECONDS)

    async def _pages(self) -> None:
        """The notebook so far, where it has changed."""
        while True:
            await asyncio.sleep(NOTEBOOK_SECONDS)
            if self._changed and self._notebook is not None:
                self._changed = False
                packed = await asyncio.to_thread(output.packed, output.as_json(self._notebook.node))
                with contextlib.suppress(NotAnswered):
                    await self._service.notebook(packed)

    async def _open_run(self) -> None:
        """Open the job's run, beside the start of its kernel; while MLflow is away again and again."""
        pause = FIRST_PAUSE
        while self._run is not None:
            try:
                await self._run.open()
                break
            except NoTracking as error:
                if error.refused:
                    self._spool.say(f"The job has no run: {error}.\n")
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        self._told_of.set()

    def _tell_kernel(self) -> None:
        if self._told is not None and self._run is not None and self._run.wanted:
            self._told.tell(run=self._run.planned_id)

    # -- what the notebook tells --------------------------------------------------------------------------------------

    def _cell_begins(self, cell: int, cells: int) -> None:
        self._phase, self._cell, self._cells = "running", cell, cells
        self._told_of.set()

    def _has_changed(self) -> None:
        self._changed = True

    def _kernel_starts(self) -> None:
        self._listen()  # nbclient has put its own handlers in the place of ours

    def _ending(self, end: End) -> None:
        """The runs that are still active in the kernel end as the job does."""
        end = self._stopping or end
        if self._told is not None:
            self._told.tell(status=end.status, reason=end.reason)


def folder_of_job(launch: Launch, order: Order) -> Path:
    """Where the workspace keeps what came of it."""
    return launch.workspace_dir / "jobs" / order.job_id


def _printable(text: str) -> str:
    """Half a character, as names of files may hold, is no JSON."""
    return text.encode("utf-8", "replace").decode()


def _load(kind: str) -> None:
    """Import what takes long, beside the environment."""
    if kind == "notebook":
        for name in ("nbformat", "nbclient", "jupyter_client.manager", "zstandard"):
            importlib.import_module(name)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(content)
    draft.replace(path)
