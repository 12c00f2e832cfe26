"""The record of the workspace's environment at the service, asked with the server's own token; every call blocks."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

ANSWER_SECONDS = 10.0
_MAX_ANSWER = 8 * 1024**2


class NotTold(Exception):
    """The service refused, or does not answer: a sentence for the user.

    Attributes:
        refused: it answered, so asking again the same is of no use.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Record:
    """The environment of one workspace.

    Args:
        url: the API's base as this server reaches it (``MAESTRO_SERVICE_URL``).
        workspace: its id or name.
        token: ``JUPYTERHUB_API_TOKEN``. Secret.
    """

    def __init__(self, url: str, workspace: str, token: str) -> None:
        self._url = urlsplit(f"{url.rstrip('/')}/workspaces/{quote(workspace, safe='')}/environment")
        self._token = token

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Record | None:
        """That of this launch; None where the launch names no service."""
        url, token = environ.get("MAESTRO_SERVICE_URL", ""), environ.get("JUPYTERHUB_API_TOKEN", "")
        workspace = environ.get("MAESTRO_WORKSPACE_ID") or environ.get("MAESTRO_WORKSPACE", "")
        return cls(url, workspace, token) if url and workspace and token else None

    def build(self, version: int, target: str) -> dict[str, Any]:
        """What to install (``maestro_core.environments.EnvironmentBuild`` as JSON).

        Raises:
            NotTold: it is not to be had.
        """
        return self._ask("GET", f"/build?{urlencode({'version': version, 'target': target})}")

    def deposit(self, version: int, target: str, packages: list[dict[str, Any]]) -> dict[str, Any]:
        """Keep what was resolved for a target; the answer is what counts, which may be another server's.

        Raises:
            NotTold: it was not kept.
        """
        return self._ask("PUT", "/build", {"version": version, "target": target, "packages": packages})

    def change(self, body: dict[str, Any]) -> dict[str, Any]:
        """Make a new version (``EnvironmentChange``); the answer is an ``EnvironmentView``.

        Raises:
            NotTold: it was not made.
        """
        return self._ask("POST", "", body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        secure = self._url.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = connect(self._url.hostname or "", self._url.port, timeout=ANSWER_SECONDS)
        headers = {"Authorization": f"token {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, self._url.path + path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()  # a redirect is no answer: the token goes to this address alone
            status, content = answer.status, answer.read(_MAX_ANSWER)
            told = json.loads(content or b"{}")
        except (OSError, http.client.HTTPException, ValueError):
            raise NotTold("Maestro's service does not answer") from None
        finally:
            connection.close()
        if status in (200, 201) and isinstance(told, dict):
            return told
        error = told.get("error") if isinstance(told, dict) else None
        message = error.get("message") if isinstance(error, dict) else None
        raise NotTold(str(message or f"Maestro's service answers {status}"), refused=400 <= status < 500)
