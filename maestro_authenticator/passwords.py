"""Password hashes: argon2id with the library's parameters (RFC 9106), computed in threads so that no loop waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from .rules import PASSWORD_MAX, normal_password

R = TypeVar("R")

#: one hash takes about 50 ms and 64 MiB; more threads would only take memory from the Hub
THREADS = 2


class Passwords:
    """Makes and checks hashes. One instance a process.

    Args:
        hasher: with other parameters than the library's.
    """

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._nobody = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        """The argon2id hash of a password."""
        return await self._run(self._hash, password)

    async def verify(self, known: str | None, password: str) -> bool:
        """Whether ``password`` fits the hash ``known``; None (nobody's) takes as long and never fits."""
        fits = await self._run(self._fits, known or self._nobody, password)
        return fits and known is not None

    def outdated(self, known: str) -> bool:
        """Whether the hash was made with older parameters, and is to be made anew while the password is at hand."""
        return self._hasher.check_needs_rehash(known)

    def _hash(self, password: str) -> str:
        return self._hasher.hash(normal_password(password))

    def _fits(self, known: str, password: str) -> bool:
        try:
            return self._hasher.verify(known, normal_password(password[: PASSWORD_MAX + 1]))
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, function: Callable[..., R], *args: object) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
