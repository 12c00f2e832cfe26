"""Waiting until the Hub, the proxy and the services answer."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from ..installation import Installation

POLL_SECONDS = 0.1


#: a refusal is an answer; 404 and redirects come from a proxy or Hub whose routes are not there yet
ANSWERS = (200, 401, 403)
HEALTH = {"workspaces": "api/v1/jupyter/health", "packages": "health", "mlflow": "health"}


def endpoints(maestro: Installation) -> dict[str, str]:
    """What must answer: name -> address, each through the proxy, so that its route is proved as well."""
    public = maestro.local_url("/")
    services = {name: f"{public}services/{name}/{HEALTH[name]}" for name in maestro.services}
    return {"hub": f"{public}hub/health", **services}


def wait_ready(addresses: dict[str, str], seconds: float, going: Callable[[], bool]) -> list[str]:
    """Ask each address until it answers.

    Args:
        addresses: name -> URL.
        seconds: how long to wait altogether.
        going: False ends the waiting (the Hub ended, somebody pressed Ctrl-C).

    Returns:
        names of those that did not answer.
    """
    left = dict(addresses)
    limit = time.monotonic() + seconds
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        while left and going() and time.monotonic() < limit:
            left = {name: url for name, url in left.items() if not _answers(client, url)}
            if left:
                time.sleep(POLL_SECONDS)
    return list(left)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code in ANSWERS
    except httpx.HTTPError:
        return False
