"""A question to a library in a process of its own: its modules are large, and nothing here hangs on importing them."""

from __future__ import annotations

import asyncio
import os

TIMEOUT_SECONDS = 30
#: of the environment: what would change what another Python imports, and the Hub's secrets
_LEFT_OUT = ("PYTHON", "JUPYTERHUB_")


async def ask_python(python: str, code: str) -> tuple[int, bytes, str]:
    """Run a few lines with a Python, isolated from this one: exit code, what it printed, what it complained."""
    process = await asyncio.create_subprocess_exec(
        python,
        "-I",
        "-c",
        code,
        env={name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1, b"", f"it took longer than {TIMEOUT_SECONDS} s"
    return process.returncode or 0, out, error.decode(errors="replace")
