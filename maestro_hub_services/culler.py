"""Stops idle servers: jupyterhub-idle-culler, which asks the workspaces service about each.

The service knows what the Hub does not: the profile's idle time, whether a kernel works, whether the user was warned
and whether they keep the server. Without its word nothing is stopped.

``MAESTRO_SERVICE_URL``   the workspaces service's API
``MAESTRO_IDLE_MINUTES``  how long a server may idle whose profile does not say (``0``: for ever)
``MAESTRO_CULL_SECONDS``  how often it looks (``60``)
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from jupyterhub_idle_culler import IdleCuller
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from maestro_core.idle import IdleAnswer, IdleQuestion

from .parent import exit_with_parent

LOOK_SECONDS = 60
TIMEOUT_SECONDS = 20.0
log = logging.getLogger("maestro.culler")


class Arbiter:
    """The culler's ``cull_arbiter_hook``.

    Args:
        url: of the service's API. token: this service's own at the Hub; it holds ``custom:maestro:cull``.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/") + "/plan/idle"
        self._headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
        self._away = False

    async def __call__(self, *, inactive: timedelta | None, inactive_limit: float, server: Mapping[str, Any]) -> bool:
        """Whether a server is to be stopped now; never when that cannot be told."""
        user, _, name = str(server["full_name"]).partition("/")
        seconds = 0.0 if inactive is None else max(0.0, inactive.total_seconds())
        try:
            question = IdleQuestion(user=user, server_name=name, inactive=seconds, limit=inactive_limit)
            answer = await self._ask(question)
        except Exception as error:  # whatever it is, the server stays
            log.log(logging.DEBUG if self._away else logging.WARNING, "Nothing is stopped for idling: %s", _why(error))
            self._away = True
            return False
        self._away = False
        return answer.stop

    async def _ask(self, question: IdleQuestion) -> IdleAnswer:
        request = HTTPRequest(
            self._url,
            method="POST",
            headers=self._headers,
            body=question.model_dump_json(),
            request_timeout=TIMEOUT_SECONDS,
            follow_redirects=False,  # the token goes to this address alone
        )
        return IdleAnswer.model_validate(json.loads((await AsyncHTTPClient().fetch(request)).body))


def _why(error: Exception) -> str:
    if isinstance(error, HTTPClientError):
        return f"the workspaces service answered {error.code} {error.message or ''}".strip()
    return f"the workspaces service does not answer ({type(error).__name__})"


def culler(environment: Mapping[str, str]) -> IdleCuller:
    """The culler with our arbiter; its own settings stay as they are.

    Raises:
        KeyError: a variable is missing.
        ValueError: one that is no number.
    """
    return IdleCuller(
        url=environment["JUPYTERHUB_API_URL"],
        timeout=int(environment.get("MAESTRO_IDLE_MINUTES") or 0) * 60,
        cull_every=int(environment.get("MAESTRO_CULL_SECONDS") or LOOK_SECONDS),
        cull_arbiter_hook=Arbiter(environment["MAESTRO_SERVICE_URL"], environment["JUPYTERHUB_API_TOKEN"]),
        config_file="",
    )


def main() -> None:
    """``python -m maestro_hub_services.culler``, started by the Hub."""
    exit_with_parent()
    logging.basicConfig(level=logging.INFO, format="[%(levelname).1s %(asctime)s idle-culler] %(message)s")
    culler(os.environ).start()


if __name__ == "__main__":
    main()
