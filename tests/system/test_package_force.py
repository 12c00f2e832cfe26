"""An admin lets one file in that the policy blocks: the real pip, two workspaces, and a quarter of an hour."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import package_kit as kit
from tests.system.house import ROOT, Maestro, Person, until
from tests.system.singleuser import Notebook, NotebookServer, has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(400)]

OPENED, CLOSED = "force-here", "force-there"
SENTENCE = "small-lock is blocked by the policy of workspace {} (rule small-lock): it phones home"


@contextmanager
def servers(maestro: Maestro, person: Person, *workspaces: str) -> Iterator[list[NotebookServer]]:
    """A server in each."""
    with person.api() as api:
        launches: list[str] = []

        def states() -> set[str]:
            return {api.get(launch).json()["status"] for launch in launches}

        try:
            for name in workspaces:
                started = api.post("launches", json={"workspace": name})
                assert started.status_code in (201, 202), started.text
                launches.append(f"launches/{started.json()['session_id']}")
            until(lambda: states() == {"running"}, 120, "the servers do not come up")
            urls = [f"{maestro.url}user/{person.name}/{name}/" for name in workspaces]
            yield [NotebookServer(url, token=person.token()) for url in urls]
        finally:
            for launch in launches:
                api.delete(launch)
            until(lambda: states() <= {"ended"}, 60, "the servers do not stop")


def terminal(maestro: Maestro, person: Person, home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The CLI, where the person has signed in."""
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT),
        "MAESTRO_URL": maestro.url, "MAESTRO_TOKEN": person.token(),
    }  # fmt: skip
    return lambda *arguments: subprocess.run(
        [sys.executable, "-m", "notebooks.cli", *arguments],
        env=environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


async def tell(cell: Notebook, command: str, what: str) -> None:
    """Run it until it says that: the index asks for the policy every second."""
    deadline = time.monotonic() + 60
    while what not in (said := (await cell.run(command)).text):
        assert time.monotonic() < deadline, said


@contextmanager
def store_of(maestro: Maestro) -> Iterator[sqlite3.Connection]:
    """The service's database."""
    with closing(sqlite3.connect(maestro.state / "service/maestro.sqlite", timeout=30)) as store, store:
        yield store


def let_time_pass(maestro: Maestro) -> None:
    """A quarter of an hour later: what was let in until then has ended."""
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(" ").replace("+00:00", "")
    with store_of(maestro) as store:
        assert store.execute("UPDATE package_grant SET until = ?", (past,)).rowcount, "nothing is let in"


def forced(maestro: Maestro) -> list[dict[str, Any]]:
    """What the events say of it."""
    with store_of(maestro) as store:
        found = store.execute("SELECT fields FROM event WHERE kind = 'package_forced'").fetchall()
    return [json.loads(fields) for (fields,) in found]


async def test_one_file_one_workspace_a_quarter_of_an_hour(maestro: Maestro, tmp_path: Path) -> None:
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    admin = maestro.admin
    with kit.upstream_and_authority() as (upstream, _), maestro.packages_from(upstream.url), admin.api() as api:
        for version in ("1.0", "2.0"):
            upstream.add("small-lock", version)
        hashes = {entry["filename"]: entry["hashes"]["sha256"] for entry in upstream.projects["small-lock"]}
        sha256 = hashes[kit.wheel_name("small-lock", "1.0")]
        rule = {"blocked_packages": [{"package": "small-lock", "reason": "it phones home"}]}
        for name in (OPENED, CLOSED):
            assert api.post("workspaces", json={"name": name, "security": rule}).status_code == 201
        force = ("install", OPENED, "small-lock==1.0", "--force", "--sha256", sha256, "--reason", "incident 7")

        with servers(maestro, admin, OPENED, CLOSED) as (here, there):
            cell, other = here.open_notebook("a.ipynb"), there.open_notebook("a.ipynb")
            install = "!pip install --no-cache-dir --force-reinstall --no-deps small-lock=={}"
            assert SENTENCE.format(OPENED) in (await cell.run(install.format("1.0"))).text

            # a notebook's token forces nothing, not even an admin's
            refused = (await cell.run(f"!maestro {' '.join(force[:-1])} 'incident 7'")).text
            assert "Error:" in refused and "Until" not in refused, refused
            assert SENTENCE.format(OPENED) in (await cell.run(install.format("1.0"))).text

            # the admin in person does: this file, here
            done = terminal(maestro, admin, tmp_path)(*force)
            assert done.returncode == 0, done.stderr
            assert "this file installs in force-here: pip install small-lock==1.0" in " ".join(done.stdout.split())

            await tell(cell, install.format("1.0"), "Successfully installed small-lock-1.0")
            assert (await cell.run("import small_lock; print(small_lock.VERSION)")).text.strip() == "1.0"
            assert SENTENCE.format(OPENED) in (await cell.run(install.format("2.0"))).text
            assert SENTENCE.format(CLOSED) in (await other.run(install.format("1.0"))).text

            # and not any longer than that
            let_time_pass(maestro)

            await tell(cell, install.format("1.0"), SENTENCE.format(OPENED))
        made = api.get(f"workspaces/{OPENED}/environment").json()
        assert not made["requirements"], "what was forced is nobody's environment"
        assert [(it["sha256"], it["reason"]) for it in forced(maestro)] == [(sha256, "incident 7")]
