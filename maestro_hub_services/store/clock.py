"""The time and the ids of the store, in one place so that tests can look at what they get."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """A random id that starts with a letter (it names directories and labels): ``w-3f0c...``, 80 random bits."""
    return f"{prefix}-{secrets.token_hex(10)}"
