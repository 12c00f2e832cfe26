"""What uv prints, read for the reason in it."""

from __future__ import annotations

import re

NOT_ANSWERING = "the package index does not answer"
_SIGNS_OF_SILENCE = ("error sending request", "client error (Connect)", "HTTP status server error", "timed out")


def reason_in(told: str) -> str:
    """The reason in what uv wrote, as part of a sentence: the index's own words where it has some."""
    if found := re.search(r"Server message: (?:[^,\n]*, )?(.+)", told):
        return found[1].strip().rstrip(".")[:400]
    if any(sign in told for sign in _SIGNS_OF_SILENCE):
        return NOT_ANSWERING
    causes = re.findall(r"^\s*cause: (.+)$", told, re.MULTILINE)
    first = re.search(r"^error: (.+)$", told, re.MULTILINE)
    text = causes[0] if causes else first[1] if first else "uv failed without a word"
    return re.sub(r"https?://\S+", "the index", text).strip().rstrip(".")[:400]
