"""Browsers in which a person has signed in before: their tries are counted apart from strangers' for the same name.

Else whoever guesses at a name from many addresses makes its owner wait. The cookie lets nobody in and shortens no
password; it is signed with the Hub's cookie secret, and goes to the Hub's own pages alone.
"""

from __future__ import annotations

import secrets
from typing import Any

COOKIE = "maestro-device"
DAYS = 180


def device_of(handler: Any, name: str) -> str | None:
    """What identifies the browser, if this person has signed in with it; None for any other."""
    value = handler.get_secure_cookie(COOKIE, max_age_days=DAYS)
    number, _, owner = (value or b"").decode("utf-8", "replace").partition(":")
    return number if number and owner == name else None


def remember(handler: Any, name: str) -> None:
    """This person has signed in with this browser; whoever did before is a stranger to it again."""
    number = device_of(handler, name) or secrets.token_hex(16)
    handler.set_secure_cookie(
        COOKIE,
        f"{number}:{name}",
        expires_days=DAYS,
        path=handler.hub.base_url,
        httponly=True,
        samesite="Lax",
        secure=handler.request.protocol == "https",
    )
