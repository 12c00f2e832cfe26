"""Names the cause when a kernel, or a program in it, was stopped because memory ran out.

The evidence is the kernel's own counter: of this server's cgroup, or without one of the machine. A kernel that somebody
killed by hand leaves the counter as it was, and nothing is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .usage.sampler import Sample

#: seconds after the counter rose in which a dead kernel may still be noticed (jupyter_client looks every 3)
GRACE = 8.0
#: of the limit; other kernels that hold more than this are named too
SHARE = 0.1
_UNITS = ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"))
_TODO = "ask for a larger profile, or load less at once"


class OutOfMemory:
    """Watches the counter.

    Args:
        kills: reads it now; None where the kernel has none.
        tell: shows a sentence, under an id of the thing that it is about.
        notebook: the name of a kernel's notebook, or None.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        kills: Callable[[], int | None],
        tell: Callable[[str, str], None],
        notebook: Callable[[str], Awaitable[str | None]],
        clock: Callable[[], float],
    ) -> None:
        self._kills = kills
        self._tell = tell
        self._notebook = notebook
        self._clock = clock
        self._explained = kills() or 0
        self._since: float | None = None
        self._sample = Sample()

    def look(self, sample: Sample) -> None:
        """Take a sample; a kill that no kernel's death explains was a program's in this server.

        Without a cgroup it may as well have been somebody else's on this machine, and is passed over.
        """
        self._sample = sample
        if sample.oom_kills is None or sample.oom_kills <= self._explained:
            self._since = None
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        if now - self._since >= GRACE:
            self._explained, self._since = sample.oom_kills, None
            if sample.enforced:
                self._tell("memory-program", program_sentence(sample))

    async def kernel_killed(self, kernel_id: str) -> None:
        """A kernel was killed: tell why, if it was for want of memory."""
        before = self._sample
        kills = await asyncio.to_thread(self._kills)
        if kills is None or kills <= self._explained:
            return
        self._explained, self._since = kills, None
        notebook = await self._notebook(kernel_id)
        self._tell(f"memory-{kernel_id}", kernel_sentence(before, kernel_id, notebook))


def kernel_sentence(sample: Sample, kernel_id: str, notebook: str | None) -> str:
    """What happened to a kernel, with the figures of the last sample before."""
    whose = f"The kernel of {notebook}" if notebook else "A kernel"
    mine = sample.kernels.get(kernel_id, 0)
    if not sample.enforced or sample.limit is None:
        figure = f"; it held {amount(mine)} when it was last looked at" if mine else ""
        # Which limit it was cannot be seen: the machine's, or one around this sandbox.
        return f"{whose} was stopped: memory ran out{figure}. Load less at once, or ask for a larger profile."
    others = sum(size for other, size in sample.kernels.items() if other != kernel_id)
    if others > SHARE * sample.limit:
        return (
            f"{whose} was stopped: with the other kernels it used {used_of(sample)}; shut down kernels that you do not "
            f"need, {_TODO}."
        )
    return f"{whose} was stopped: it used {used_of(sample)}; {_TODO}."


def program_sentence(sample: Sample) -> str:
    """What happened to a program that a kernel or terminal started, while the kernels live."""
    return f"A program in this server was stopped: all together used {used_of(sample)}; {_TODO}."


def used_of(sample: Sample) -> str:
    """``15.9 of 16 GiB``: the most that was in use; what the samples missed, the counter of the peak has seen.

    Where the kernel has no such counter (before Linux 5.19), that it acted says that the limit was reached.
    """
    limit = sample.limit or 0
    seen = min(limit, max(sample.memory, sample.peak))
    used = seen if seen > 0.9 * limit else limit
    size, unit = _unit(limit)
    return f"{_short(used / size)} of {_short(limit / size)} {unit}"


def amount(size: int) -> str:
    """``3.2 GiB``."""
    one, unit = _unit(size)
    return f"{_short(size / one)} {unit}"


def _unit(size: int) -> tuple[int, str]:
    return next((unit for unit in _UNITS if size >= unit[0]), _UNITS[-1])


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
