"""The start-up scan: an image that contains what the policy blocks is told of, or no server starts with it.

``MAESTRO_STARTUP_SCAN`` says which (``warn``, ``refuse``); the launch sets it where the policy could block anything.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..launch import StartError

if TYPE_CHECKING:
    from maestro_core.scans import ScanQuestion

VARIABLE = "MAESTRO_STARTUP_SCAN"
#: seconds that a start may wait for the service
_ANSWER_SECONDS = 15.0
_SHOWN = 10
_MAX_ANSWER = 2 * 1024 * 1024


def check(environ: Mapping[str, str]) -> None:
    """Where the policy refuses, see that the image may be used; nothing has been started yet.

    Raises:
        StartError: it contains what it may not, or nobody can say so.
    """
    if environ.get(VARIABLE) != "refuse":
        return
    from maestro_core.scans import ScanAnswer, ScanQuestion

    from .installed import installed

    packages, _ = installed(Path(sys.prefix), None)
    try:
        answer = ScanAnswer.model_validate_json(_ask(environ, ScanQuestion(packages=tuple(packages))))
    except (OSError, ValueError):
        raise StartError(
            "Maestro's service did not say whether this image may be used, so nothing starts; try again in a minute."
        ) from None
    if answer.findings:
        names = [one.what for one in answer.findings]
        raise StartError(
            f"This image contains what the package policy blocks ({listed(names)}), so no server starts with it; take "
            "another image or profile, or ask an admin of this Hub."
        )


def sentence(names: Collection[str]) -> str:
    """What the person is told where the policy only warns."""
    return (
        f"The image of this server contains what the package policy blocks ({listed(names)}): do not use it, and tell "
        "an admin of this Hub."
    )


def listed(names: Collection[str]) -> str:
    """``a, b and 3 more``."""
    ordered = sorted(set(names))
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: object) -> None:
        """The token goes to this address alone."""


def _ask(environ: Mapping[str, str], question: ScanQuestion) -> bytes:
    url = environ.get("MAESTRO_SERVICE_URL", "").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ValueError("no service")
    request = urllib.request.Request(  # noqa: S310 - http alone, see above
        f"{url}/launches/{environ.get('MAESTRO_LAUNCH_ID', '')}/startup-scan",
        data=question.model_dump_json().encode(),
        headers={
            "Authorization": f"token {environ.get('JUPYTERHUB_API_TOKEN', '')}",
            "Content-Type": "application/json",
        },
    )
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
        body: bytes = answer.read(_MAX_ANSWER + 1)
    return body
