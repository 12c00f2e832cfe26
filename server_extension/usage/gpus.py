"""GPUs, as the driver's own program reports them; a server without one asks nobody."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from typing import Any

SECONDS = 5.0
_QUERY = ("--query-gpu=name,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
_MIB = 1024 * 1024


def program(environ: Mapping[str, str] = os.environ) -> str | None:
    """The path of nvidia-smi where this server has GPUs; a launch without one is told ``void`` by the spawner."""
    if environ.get("NVIDIA_VISIBLE_DEVICES") in ("void", "none"):
        return None
    return shutil.which("nvidia-smi", path=environ.get("PATH"))


async def read(smi: str | None) -> list[dict[str, Any]]:
    """The GPUs as :class:`maestro_core.usage.GpuUsage` has them; empty where the driver does not answer in time."""
    if smi is None:
        return []
    try:
        process = await asyncio.create_subprocess_exec(
            smi,
            *_QUERY,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return []
    try:
        output, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        return []
    return parse(output.decode("utf-8", "replace")) if process.returncode == 0 else []


def parse(text: str) -> list[dict[str, Any]]:
    """Lines of ``name, percent, MiB used, MiB in all``; what a card does not support it calls ``[N/A]``."""
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    return [
        {
            "name": name[:100],
            "utilization": _number(percent),
            "memory": int((_number(used) or 0) * _MIB),
            "memory_total": int((_number(total) or 0) * _MIB),
        }
        for name, percent, used, total in (row for row in rows if len(row) == 4)
    ]


def _number(text: str) -> float | None:
    try:
        return max(0.0, float(text))
    except ValueError:
        return None
