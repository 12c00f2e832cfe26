"""Which form of a page a client wants (PEP 691: content negotiation with the ``Accept`` header)."""

from __future__ import annotations

from typing import Literal

Form = Literal["json", "html", "text"]

JSON_V1 = "application/vnd.pypi.simple.v1+json"
HTML_V1 = "application/vnd.pypi.simple.v1+html"
TEXT_HTML = "text/html"

#: what this index answers in, best first
CONTENT_TYPES: dict[Form, str] = {"json": JSON_V1, "html": HTML_V1, "text": TEXT_HTML}

_ASKED: dict[str, Form] = {
    JSON_V1: "json",
    "application/vnd.pypi.simple.latest+json": "json",
    HTML_V1: "html",
    "application/vnd.pypi.simple.latest+html": "html",
    TEXT_HTML: "text",
}
#: who takes anything gets what a browser understands (PEP 691 recommends it)
_WILDCARDS: dict[str, Form] = {"*/*": "text", "text/*": "text", "application/*": "json"}


def choose_form(accept: str) -> Form | None:
    """The form with the highest q-value among those we have; None if none is acceptable (406).

    Args:
        accept: the header's value; empty means anything.
    """
    weights: dict[Form, float] = {}
    loose: dict[Form, float] = {}
    for part in (accept or "*/*").split(",")[:50]:
        media, quality = _read(part)
        if media in _ASKED:
            form = _ASKED[media]
            weights[form] = max(quality, weights.get(form, 0.0))
        elif media in _WILDCARDS:
            loose.setdefault(_WILDCARDS[media], quality)
    for form, quality in loose.items():
        weights.setdefault(form, quality)
    wanted = [form for form in CONTENT_TYPES if weights.get(form, 0.0) > 0]
    return max(wanted, key=lambda form: weights[form], default=None)


def takes_gzip(accept_encoding: str) -> bool:
    """Whether the client takes gzip (pip and uv do)."""
    for part in accept_encoding.split(",")[:20]:
        coding, quality = _read(part)
        if coding == "gzip":
            return quality > 0
    return False


def _read(part: str) -> tuple[str, float]:
    value, *parameters = (piece.strip() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, text = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                quality = min(max(float(text), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return value.lower(), quality
