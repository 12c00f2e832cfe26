"""What a caller is told: MLflow's own error JSON for programs, a small page for people."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, JSONResponse, Response

if TYPE_CHECKING:
    from jinja2 import Template

#: MLflow's error code for a status, as its clients read them (mlflow.protos.databricks_pb2)
CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    405: "ENDPOINT_NOT_FOUND",
    413: "INVALID_PARAMETER_VALUE",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}

_OWN_PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'",
}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
{% if refresh %}<meta http-equiv="refresh" content="{{ refresh }}">{% endif %}
<title>{{ title }}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:18vh auto;padding:0 1rem;color:#222}
h1{font-size:1.4rem}a{color:#1661be}@media (prefers-color-scheme:dark){body{background:#16181b;color:#e6e6e6}
a{color:#8ab8ff}}</style></head>
<body><main><h1>{{ title }}</h1><p>{{ sentence }}</p>
{% if rows %}<ul>{% for name, href, what in rows %}
<li><a href="{{ href }}">{{ name }}</a> ({{ what }})</li>{% endfor %}</ul>{% endif %}
{% if link %}<p><a href="{{ link }}">{{ link_text }}</a></p>{% endif %}</main></body></html>
"""


_WAY_IN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>MLflow</title></head>
<body><a id="on" href="{{ path }}">To MLflow</a>
<script nonce="{{ nonce }}">
try { localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true"); } catch (ignored) {}
location.replace(document.getElementById("on").getAttribute("href") + location.hash);
</script></body></html>
"""


class Refused(Exception):
    """A request that ends here.

    Args:
        status: HTTP status, a key of :data:`CODES`.
        message: one sentence: what, why, what to do. Shown to the caller.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = CODES[status]


def error_json(refused: Refused) -> Response:
    """MLflow's error shape: ``{"error_code", "message"}``."""
    headers = {"Cache-Control": "no-store"}
    if refused.status == 503:
        headers["Retry-After"] = "2"
    return JSONResponse(
        {"error_code": refused.code, "message": refused.message}, status_code=refused.status, headers=headers
    )


def page(
    status: int, title: str, sentence: str, *, refresh: int = 0, link: str = "", link_text: str = "",
    rows: Sequence[tuple[str, str, str]] = (),
) -> Response:  # fmt: skip
    """A page with one sentence.

    Args:
        refresh: seconds after which the browser asks again; 0 for never.
        link, link_text: where to go on, a path of this site.
        rows: links below it, each with a word beside it.
    """
    html = _template(_PAGE).render(
        title=title, sentence=sentence, refresh=refresh, link=link, link_text=link_text, rows=rows
    )
    headers = dict(_OWN_PAGE_HEADERS)
    if status == 503:
        headers["Retry-After"] = "2"
    return HTMLResponse(html, status_code=status, headers=headers)


def way_in(path: str) -> Response:
    """The end of a sign-in: a page that goes on to ``path``, with the fragment that the browser carried along.

    MLflow's page opens its assistant by itself on a first visit to ``localhost``; here the assistant is closed, so the
    mark that it has been seen is set first (``localStorage`` of mlflow 3.17.2).
    """
    nonce = secrets.token_urlsafe(16)
    html = _template(_WAY_IN).render(path=path, nonce=nonce)
    policy = f"default-src 'none'; script-src 'nonce-{nonce}'; frame-ancestors 'self'"
    return HTMLResponse(html, headers=_OWN_PAGE_HEADERS | {"Content-Security-Policy": policy})


@cache
def _template(source: str) -> Template:
    from jinja2 import Environment

    return Environment(autoescape=True).from_string(source)
