"""A script, in the kernels' environment; its ``__file__`` is the version that was submitted."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from ..launch import Launch
from . import parameters
from .notebook import folder_of
from .order import SUCCEEDED, End, Order

READ = 64 * 1024
#: characters of the end in which the last line is looked for, and that a reason quotes of it
_END, _QUOTED = 4000, 300


class Script:
    """One script of a job.

    Args:
        order: what runs. launch: where. variables: of kernels, over the worker's own. folder: the job's own, for its
            copy. wrote: takes what it prints.
    """

    def __init__(
        self, order: Order, launch: Launch, variables: Mapping[str, str], folder: Path, wrote: Callable[[str], None]
    ) -> None:
        self._order, self._launch, self._variables = order, launch, variables
        self._copy = folder / order.file_name
        self._wrote = wrote
        self._process: asyncio.subprocess.Process | None = None
        self._end = ""

    async def run(self) -> End:
        """Run it to its end."""
        try:
            self._write(self._copy)
        except OSError:  # a viewer's job, or a full volume: then beside the environment
            self._copy = self._launch.private / "job" / self._order.file_name
            self._write(self._copy)
        place = folder_of(self._launch.workspace_dir, self._order.path)
        environ = {**os.environ, **self._variables, "PYTHONUNBUFFERED": "1"}
        # what lies beside it is imported as if it ran there; the copy's folder holds nothing else
        environ["PYTHONPATH"] = ":".join(filter(None, [str(place), environ.get("PYTHONPATH", "")]))
        self._process = await asyncio.create_subprocess_exec(
            str(self._launch.python),
            str(self._copy),
            *parameters.options(self._order.parameters),
            cwd=place,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        await self._listen(self._process)
        code = await self._process.wait()
        if code == 0:
            return SUCCEEDED
        if code < 0:
            return End("failed", f"The script was ended by signal {-code} ({signal.Signals(-code).name}).")
        said = f": {last}" if (last := _last_line(self._end)) else ""
        return End("failed", f"The script ended with exit code {code}{said}".rstrip(".") + ".")

    def _write(self, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(self._order.content, encoding="utf-8")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while data := await process.stdout.read(READ) if process.stdout is not None else b"":
            text = decoder.decode(data)
            self._wrote(text)
            self._end = (self._end + text)[-_END:]

    async def interrupt(self) -> None:
        """Ctrl-C, for it and what it started."""
        self._signal(signal.SIGINT)

    async def kill(self) -> None:
        """End it and what it started."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return "".join(sign for sign in lines[-1] if sign.isprintable())[-_QUOTED:].strip() if lines else ""
