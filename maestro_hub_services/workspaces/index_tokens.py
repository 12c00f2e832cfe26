"""A launch's password for the package index: random, stored as an HMAC, dead when the launch ends."""

from __future__ import annotations

import hashlib
import hmac
import secrets


class IndexTokens:
    """Makes index tokens and their HMACs.

    Args:
        key: from a file outside the database: who reads the database alone can neither use nor make a token.
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def new(self) -> str:
        """192 random bits in hex: conda hides only ``[a-zA-Z0-9-]*`` of a token in a URL, so no underscore."""
        return secrets.token_hex(24)

    def mac(self, token: str) -> str:
        """What the store keeps of a token. Found by equality of a keyed hash: timing says nothing about the token."""
        return hmac.new(self._key, token.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
