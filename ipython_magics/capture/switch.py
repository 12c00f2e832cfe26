"""Whether this kernel's cells become runs: the workspace's word, and the person's where that is left to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .. import jobs, kernel
from ..refusal import NotDone
from .recorder import Recorder, folder_of, quiet_seconds

#: as in maestro_core.executions, which is not imported at a kernel's start
VARIABLE, OFF, ON_REQUEST, ALWAYS = "MAESTRO_CAPTURE", "off", "on-request", "always"


class Switch:
    """``%mlflow_capture``.

    Args:
        environ: the kernel's, as it starts: what a cell sets later changes nothing.
    """

    def __init__(self, shell: Any, environ: Mapping[str, str] = os.environ) -> None:
        self._mode = environ.get(VARIABLE, "")
        self._workspace = environ.get("MAESTRO_WORKSPACE", "this workspace")
        self._quiet = quiet_seconds(environ)
        identity = kernel.own_id()
        # the kernel of a job has its job's run; one that a notebook starts (papermill) belongs to what started it
        inside = bool(environ.get(jobs.JOB)) or environ.get(kernel.KERNEL_ID) not in (None, identity)
        self._recorder: Recorder | None = None
        if identity is not None and not inside and self._mode in (ON_REQUEST, ALWAYS):
            self._recorder = Recorder(shell, identity, folder_of(environ), self._quiet)

    def begin(self) -> None:
        """The kernel starts."""
        if self._recorder is not None and self._mode == ALWAYS:
            self._recorder.start()

    def turn(self, on: bool) -> str:
        """Record from the next cell on, or no longer.

        Returns:
            A sentence.

        Raises:
            NotDone: the workspace decides otherwise.
        """
        recorder = self._its_recorder()
        if on:
            recorder.start()
            return self._is_on()
        if self._mode == ALWAYS:
            raise NotDone(f"In {self._workspace} what runs is recorded always; an owner can change that.")
        recorder.stop()
        return "What runs here is recorded no longer."

    def status(self) -> str:
        """A sentence.

        Raises:
            NotDone: nothing can be recorded here, and why.
        """
        if self._its_recorder().on:
            return self._is_on()
        return "What runs here is not recorded; %mlflow_capture on begins it."

    def _is_on(self) -> str:
        return (
            f"What runs here is recorded: each stretch of cells becomes a run, {self._quiet:g} seconds after its last "
            "cell, or joins the runs that its cells started; %mlflow_runs lists them."
        )

    def _its_recorder(self) -> Recorder:
        if self._recorder is not None:
            return self._recorder
        if self._mode in (ON_REQUEST, ALWAYS):
            raise NotDone("Only the kernel of an open notebook is recorded; nothing is recorded here.")
        raise NotDone(f"Recording is off in {self._workspace}; an owner can change that: maestro capture, or its page.")
