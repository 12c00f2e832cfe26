"""Samples of what this server uses, and the heartbeat that is made of the last one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from maestro_core.usage import GpuUsage, Heartbeat

from .usage import gpus
from .usage.sampler import Programs, Sample, Sampler

#: with more than this share of its limit in use, memory is looked at every second, as it may be gone in a few
NEAR_LIMIT, QUICK_SECONDS = 0.5, 1.0


class Meter:
    """What one server uses.

    Args:
        server: the ``jupyter_server.serverapp.ServerApp``.
        sampler: made when the server started.
        seen: called with each sample, in the loop.
        workspace_bytes: gives what the workspace's files take, or None.
        seconds: from one sample to the next.
    """

    def __init__(
        self,
        server: Any,
        environ: Mapping[str, str],
        sampler: Sampler,
        seen: Callable[[Sample], None],
        workspace_bytes: Callable[[], int | None],
        seconds: float,
    ) -> None:
        self._server = server
        self._sampler = sampler
        self._seen = seen
        self._workspace_bytes = workspace_bytes
        self._seconds = seconds
        self._smi = gpus.program(environ)
        self._sample = Sample()
        self._first = asyncio.Event()

    async def run(self) -> None:
        """Take samples for as long as the server runs."""
        while True:
            sample = await self._take()
            self._seen(sample)
            near = sample.limit is not None and sample.memory > sample.limit * NEAR_LIMIT
            await asyncio.sleep(min(QUICK_SECONDS, self._seconds) if near else self._seconds)

    async def _take(self) -> Sample:
        now = asyncio.get_running_loop().time()
        self._sample = await asyncio.to_thread(self._sampler.take, self._programs(), now)
        self._first.set()
        return self._sample

    async def beat(self) -> Heartbeat:
        """What the service is told; waits for the first sample."""
        await self._first.wait()
        sample = self._sample
        return Heartbeat(
            cpu_seconds=round(sample.cpu_seconds, 2),
            memory=sample.memory,
            memory_limit=sample.limit,
            gpus=tuple(GpuUsage(**gpu) for gpu in await gpus.read(self._smi)),
            workspace_bytes=self._workspace_bytes(),
            busy=sample.working or self._kernel_is_busy(),
            kernels=len(self._kernels()),
        )

    def _kernels(self) -> dict[str, Any]:
        manager = self._server.kernel_manager
        return {kernel_id: manager.get_kernel(kernel_id) for kernel_id in manager.list_kernel_ids()}

    def _kernel_is_busy(self) -> bool:
        return any(getattr(kernel, "execution_state", "") == "busy" for kernel in self._kernels().values())

    def _programs(self) -> Programs:
        provisioners = {kernel_id: kernel.provisioner for kernel_id, kernel in self._kernels().items()}
        manager = self._server.web_app.settings.get("terminal_manager")
        return Programs(
            kernels={name: one.pid for name, one in provisioners.items() if getattr(one, "pid", None)},
            terminals={name: one.ptyproc.pid for name, one in (manager.terminals if manager else {}).items()},
        )
