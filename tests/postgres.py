"""A Postgres of the tests' own, from Debian's package: a socket in a temporary folder, no port, gone at the end."""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

START_SECONDS = 30


def binaries() -> Path | None:
    """Where ``initdb`` and ``postgres`` lie, or None: Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    places = [str(Path(found).resolve().parent)] if found else []
    places += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    return next((Path(place) for place in places if (Path(place) / "postgres").is_file()), None)


class Postgres:
    """A running server.

    Args:
        socket: the folder of its socket.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def database(self) -> str:
        """The SQLAlchemy URL of a new, empty database."""
        name = f"test_{secrets.token_hex(4)}"
        connection = await asyncpg.connect(host=str(self._socket), user="maestro", database="postgres")
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        return f"postgresql+asyncpg://maestro@/{name}?host={self._socket}"


@contextmanager
def running_postgres(programs: Path, durable: bool = False) -> Iterator[Postgres]:
    """Start one; data that is lost at the end need not reach the disk, unless ``durable`` asks for what it costs."""
    folder = Path(tempfile.mkdtemp(prefix="maestro-pg-"))
    user = _somebody()
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    loose = () if durable else ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
    quick = [f"-c{setting}" for setting in loose]
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-A", "trust", "-U", "maestro", "-E", "UTF8", "--no-sync"],
            user=user, cwd=folder, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", *quick],
            user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait(folder / ".s.PGSQL.5432", server)
            yield Postgres(folder)
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _somebody() -> str | None:
    """Postgres refuses to be root; then it is its own package's user, or nobody."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _wait(socket: Path, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while not socket.exists():
        assert server.poll() is None, "Postgres ended at once"
        assert time.monotonic() < end, "Postgres does not start"
        time.sleep(0.05)
