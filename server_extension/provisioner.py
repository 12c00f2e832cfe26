"""How this server starts kernels (jupyter_client: "Kernel provisioning"): the first to die when memory runs out.

Linux stops the process with the highest score. A kernel's is raised above the server's, whatever that is (a pod's may
be near the top already), and what the kernel starts inherits it; raising needs no privilege, lowering does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import LocalProvisioner

#: of 1000; added to what the server has, and the least that a kernel has
OOM_SCORE = 500
_MOST = 1000

#: called with the id of each kernel that was killed, not by this server
killed: list[Callable[[str], None]] = []


def raise_oom_score(pid: int, proc: Path = Path("/proc")) -> None:
    """Let a process die before this one when memory runs out. Where the kernel does not allow it, it stays as it is."""
    try:
        own = int((proc / "self/oom_score_adj").read_text())
        (proc / str(pid) / "oom_score_adj").write_text(str(min(_MOST, max(OOM_SCORE, own + OOM_SCORE))))
    except (OSError, ValueError):
        pass


class MaestroProvisioner(LocalProvisioner):
    """Jupyter's own way to start a kernel, with a score for bad times and a word about a sudden end."""

    _ended_by_server = False
    _told = False

    def _finalize_env(self, env: dict[str, str]) -> None:
        """Called before each start: the server's own data folder is not where a kernel installs kernels."""
        super()._finalize_env(env)
        if env.get("JUPYTER_DATA_DIR") == os.environ.get("JUPYTER_DATA_DIR"):
            env.pop("JUPYTER_DATA_DIR", None)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Called at each start and restart."""
        self._ended_by_server = self._told = False
        connection = await super().launch_kernel(cmd, **kwargs)
        if self.pid:
            raise_oom_score(self.pid)
        return connection

    async def send_signal(self, signum: int) -> None:
        """Called to interrupt and to end the kernel."""
        self._ended_by_server |= signum in (signal.SIGKILL, signal.SIGTERM)
        await super().send_signal(signum)

    async def poll(self) -> int | None:
        """Called every few seconds; None while the kernel runs."""
        code: int | None = await super().poll()
        if code == -signal.SIGKILL and not self._ended_by_server and not self._told:
            self._told = True
            for listener in killed:
                listener(self.kernel_id)
        return code
