"""Servers that were refused for their workspace, whose rows in the Hub are to be removed."""

from __future__ import annotations

#: so that nobody fills the memory with refused names; the sweep finds what is beyond
MAX_KEPT = 1000


class Leftovers:
    """User and server names, each once."""

    def __init__(self) -> None:
        self._names: set[tuple[str, str]] = set()

    def add(self, user: str, server_name: str) -> None:
        """Note one; the unnamed server has no row of its own."""
        if server_name and len(self._names) < MAX_KEPT:
            self._names.add((user, server_name))

    def take(self) -> list[tuple[str, str]]:
        """All of them; they are forgotten here."""
        taken = sorted(self._names)
        self._names.clear()
        return taken
