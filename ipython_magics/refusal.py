"""What the magics say when something was not done."""

from __future__ import annotations


class NotDone(Exception):
    """Nothing was logged; the message is one sentence for the user."""
