"""Waiting until the Hub, the proxy and the services answer."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from ..installation import Installation

POLL_SECONDS = 0.2


#: a refusal is an answer; 404 and redirects come from a proxy or Hub whose routes are not there yet
ANSWERS = (200, 401, 403)
HEALTH = {"workspaces": "api/v1/jupyter/health", "packages": "health", "mlflow": "health"}


def endpoints(maestro: Installation) -> dict[str, str]:
    """What must answer, in this order: name -> address. Each service itself, then its route through the proxy."""
    public = maestro.local_url("/")
    paths = {name: f"services/{name}/{HEALTH[name]}" for name in maestro.services}
    own = {name: f"{maestro.origin(name)}/{path}" for name, path in paths.items()}
    routes = {f"the route to {name}": f"{public}{path}" for name, path in paths.items()}
    return {
        "hub": f"http://{maestro.hub_host}:{maestro.port('hub')}/hub/health",
        **own,
        "the route to the hub": f"{public}hub/health",
        **routes,
    }


def wait_ready(addresses: dict[str, str], seconds: float, going: Callable[[], bool], host: str = "") -> list[str]:
    """Ask each address until it answers.

    Args:
        addresses: name -> URL.
        seconds: how long to wait altogether.
        host: the name to ask for, where the proxy routes by names.
        going: False ends the waiting (the Hub ended, somebody pressed Ctrl-C).

    Returns:
        names of those that did not answer.
    """
    left = dict(addresses)
    limit = time.monotonic() + seconds
    headers = {"Host": host} if host else {}
    with httpx.Client(timeout=5.0, trust_env=False, headers=headers) as client:
        while left and going() and time.monotonic() < limit:
            name, url = next(iter(left.items()))  # one after another: the Hub first, without which there are no routes
            if _answers(client, url):
                del left[name]
            else:
                time.sleep(POLL_SECONDS)
    return list(left)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code in ANSWERS
    except httpx.HTTPError:
        return False
