"""Addresses as they may be written into a log: conda's token stands in the path, as clients of conda want it."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"/t/[^/]+")


def masked(text: str) -> str:
    """The text with ``/t/<token>`` hidden."""
    return _TOKEN.sub("/t/***", text)
