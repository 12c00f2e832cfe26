"""A kernel takes more memory than there is, in a real cgroup with a limit: it dies, the server lives, and says why."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.singleuser import (
    NO_TRACKING,
    NotebookServer,
    ServiceAnswers,
    free_port,
    hub_answers,
    hub_variables,
    launch_variables,
    prefix,
    running,
    service_answers,
    until,
)

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (prefix() / "bin/maestro-singleuser").is_file(), reason="no single-user environment here"),
]
LIMIT = 400 * 2**20
#: of version 1, of version 2
HIERARCHIES = {Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes", Path("/sys/fs/cgroup"): "memory.max"}


@pytest.fixture(scope="module")
def group() -> Iterator[Path]:
    """A cgroup with 400 MiB; skipped where none can be made."""
    for top, limit in HIERARCHIES.items():
        folder = top / f"maestro-test-{secrets.token_hex(4)}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(LIMIT))
            with contextlib.suppress(OSError):  # no swap: it would only make the test slow
                (folder / "memory.swap.max").write_text("0")
            yield folder
            return
        except OSError:
            continue
        finally:
            with contextlib.suppress(OSError):
                _remove(folder)
    pytest.skip("no cgroup with a memory limit can be made here")


def _remove(folder: Path) -> None:
    until(lambda: not (folder / "cgroup.procs").read_text(), "an empty cgroup", 20)
    folder.rmdir()


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceAnswers]:
    with service_answers() as answers:
        yield answers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, group: Path, service: ServiceAnswers) -> Iterator[NotebookServer]:
    """A server as in a pod: its cgroup holds nobody else."""
    folder = tmp_path_factory.mktemp("limited")
    for name in ("workspace", "home", "env"):
        (folder / name).mkdir()
    port = free_port()
    with hub_answers("ann", "demo") as hub_api:
        environ = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **hub_variables(hub_api, port),
            **launch_variables(NO_TRACKING),
            "HOME": str(folder / "home"),
            "MAESTRO_WORKSPACE_DIR": str(folder / "workspace"),
            "MAESTRO_ENV": str(folder / "env"),
            "MAESTRO_SERVICE_URL": service.url,
            "MAESTRO_HEARTBEAT_SECONDS": "2",
        }
        inside = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        command = ["sh", "-c", inside, str(group), str(prefix() / "bin/python"), "-P", "-m", "server_extension.start"]
        with running(command, environ, f"http://127.0.0.1:{port}/user/ann/demo/", folder / "log") as started:
            yield started


def notices(server: NotebookServer) -> dict[str, dict[str, Any]]:
    found = server.api("GET", "maestro/notices").json()["notices"]
    return {notice["id"]: notice for notice in found}


async def run_until_it_dies(notebook: Any, code: str) -> None:
    """Run a cell whose kernel ends before it answers."""
    task = asyncio.create_task(notebook.run(code))
    await asyncio.wait([task], timeout=15)
    task.cancel()
    with contextlib.suppress(BaseException):
        await task


def test_the_service_hears_of_the_limit(server: NotebookServer, service: ServiceAnswers) -> None:
    beat = until(lambda: service.beats and service.beats[-1], "a heartbeat")
    assert beat["memory_limit"] == LIMIT and 30e6 < beat["memory"] < LIMIT


async def test_kernels_and_terminals_die_before_the_server(server: NotebookServer) -> None:
    notebook = server.open_notebook("score.ipynb")
    code = "import os; print(*(open(f'/proc/{pid}/oom_score_adj').read().strip() for pid in (os.getppid(), 'self')))"
    of_server, of_kernel = map(int, (await notebook.run(code)).text.split())
    assert of_kernel == min(1000, max(500, of_server + 500)) > of_server
    terminal = await server.terminal('echo "<score=$(cat /proc/self/oom_score_adj)>"', ends="0>")
    assert f"<score={of_kernel}>" in terminal
    server.api("DELETE", f"api/kernels/{notebook.kernel_id}")


async def test_a_kernel_that_takes_too_much_is_stopped_and_the_notice_says_why(server: NotebookServer) -> None:
    notebook = server.open_notebook("train.ipynb")
    await notebook.run("rows = []")
    await run_until_it_dies(notebook, "while True: rows.append(bytearray(b'x') * 10_000_000)")
    notice = until(lambda: notices(server).get(f"memory-{notebook.kernel_id}"), "the notice")
    assert notice["kind"] == "memory" and notice["level"] == "error"
    sentence = str(notice["message"])
    assert sentence.startswith("The kernel of train.ipynb was stopped: it used ")
    used, _, rest = sentence.partition("it used ")[2].partition(" of ")
    assert 380 < float(used) <= 400 and rest.startswith("400 MiB; ask for a larger profile")
    assert server.process.poll() is None, "the server lives"
    # the kernel comes back by itself, and again dies before the server
    assert (await notebook.run("print(open('/proc/self/oom_score_adj').read())")).text.strip() in ("500", "1000")


async def test_a_program_that_takes_too_much_is_told_apart(server: NotebookServer) -> None:
    notebook = server.open_notebook("program.ipynb")
    taken = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', \"x = bytearray(b'x') * 900_000_000\"])"
    outcome = await notebook.run(f"{taken}.returncode")
    assert outcome.shown[0]["text/plain"] == "-9"
    notice = until(lambda: notices(server).get("memory-program"), "the notice")
    assert notice["message"].startswith("A program in this server was stopped: all together used ")
    assert f"memory-{notebook.kernel_id}" not in notices(server)


async def test_a_kernel_that_somebody_kills_is_no_matter_of_memory(server: NotebookServer) -> None:
    notebook = server.open_notebook("killed.ipynb")
    first = (await notebook.run("import os; print(os.getpid())")).text.strip()
    os.kill(int(first), 9)
    deadline = time.monotonic() + 60

    async def again() -> str:
        return (await notebook.run("import os; print(os.getpid())")).text.strip()

    second = first
    while second == first and time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            second = await asyncio.wait_for(again(), 10)
    assert second != first
    assert f"memory-{notebook.kernel_id}" not in notices(server)
