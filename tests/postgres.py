"""A Postgres of the tests' own, from Debian's package: a socket in a temporary folder, no port, gone at the end."""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from maestro_hub_services.store import Store

START_SECONDS = 30


def binaries() -> Path | None:
    """Where ``initdb`` and ``postgres`` lie, or None: Debian keeps them off the PATH."""
    found = shutil.which("initdb")
    places = [str(Path(found).resolve().parent)] if found else []
    places += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    return next((Path(place) for place in places if (Path(place) / "postgres").is_file()), None)


class Postgres:
    """A server, running or killed.

    Args:
        programs: where its programs lie.
        folder: of its socket and data.
        user: whom it runs as; None: whoever we are.
        settings: further ones, ``name=value``.
    """

    def __init__(self, programs: Path, folder: Path, user: str | None, settings: Sequence[str]) -> None:
        self._programs = programs
        self._folder = folder
        self._user = user
        self._settings = [f"-c{setting}" for setting in settings]
        self._server: subprocess.Popen[bytes] | None = None
        self._migrated = False

    def start(self) -> None:
        """Start it and wait until it takes connections. After :meth:`kill` the children of the killed one may hold
        its memory for a moment, so it is tried again."""
        end = time.monotonic() + START_SECONDS
        while not self._ready():
            assert time.monotonic() < end, "Postgres does not start"
            if self._server is None or self._server.poll() is not None:
                self._server = subprocess.Popen(
                    [self._programs / "postgres", "-D", self._folder / "data", "-k", self._folder,
                     "-c", "listen_addresses=", *self._settings],
                    user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            time.sleep(0.05)

    def _ready(self) -> bool:
        done = subprocess.run([self._programs / "pg_isready", "-q", "-h", self._folder], timeout=10)
        return done.returncode == 0 and self._server is not None

    def kill(self) -> None:
        """kill -9."""
        assert self._server is not None
        self._server.kill()
        self._server.wait(30)

    def stop(self) -> None:
        """End it at once: what it holds is thrown away, so nothing has to be brought in order."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(30)

    async def database(self) -> str:
        """The SQLAlchemy URL of a new database with the store's tables, all empty: a copy of one that was migrated."""
        if not self._migrated:
            await self._create("migrated", "template1")
            await (await Store.open(self._url("migrated"))).close()
            self._migrated = True
        name = f"test_{secrets.token_hex(4)}"
        await self._create(name, "migrated")
        return self._url(name)

    async def _create(self, name: str, template: str) -> None:
        connection = await asyncpg.connect(host=str(self._folder), user="maestro", database="postgres")
        try:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        finally:
            await connection.close()

    def _url(self, name: str) -> str:
        return f"postgresql+asyncpg://maestro@/{name}?host={self._folder}"


@contextmanager
def running_postgres(programs: Path, durable: bool = False) -> Iterator[Postgres]:
    """Start one; data that is lost at the end need not reach the disk, unless ``durable`` asks for what it costs."""
    folder = Path(tempfile.mkdtemp(prefix="maestro-pg-", dir=None if durable else _in_memory()))
    user = _somebody()
    if user is not None:
        shutil.chown(folder, user)
    loose = () if durable else ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
    server = Postgres(programs, folder, user, loose)
    try:
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "maestro", "-E", "UTF8", "--no-sync"],
            user=user, cwd=folder, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_memory() -> str | None:
    """A place in memory with room for what the tests make, or None: a hundred databases are many files to delete."""
    place = "/dev/shm"
    return place if os.access(place, os.W_OK) and shutil.disk_usage(place).free > 4 * 1024**3 else None


def _somebody() -> str | None:
    """Postgres refuses to be root; then it is its own package's user, or nobody."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
