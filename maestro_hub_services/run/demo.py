"""The sample of ``make demo``: a workspace ``demo`` with an editor and a viewer, made through the REST APIs."""

from __future__ import annotations

from typing import Any

import httpx

from maestro_core.errors import MaestroError

from .checks import Refused

ADMIN, EDITOR, VIEWER = "admin", "editor", "viewer"
USERS = (ADMIN, EDITOR, VIEWER)
WORKSPACE = "demo"
SPEC: dict[str, Any] = {
    "name": WORKSPACE,
    "description": "A sample workspace: open it, start a server, and run the notebook Start here.",
    "template": "start-here",
    "security": {
        "blocked_packages": [{"package": "telnetlib3", "reason": "it sends passwords in clear; use asyncssh"}],
        "approval_required": [{"package": "cowsay", "reason": "to show how asking works"}],
    },
    "members": [{"user": EDITOR, "role": "editor"}, {"user": VIEWER, "role": "viewer"}],
}


def make_sample(address: str, admin_password: str) -> None:
    """Make the Hub's users and the workspace, as the admin.

    Args:
        address: the Hub's, with a slash at the end.

    Raises:
        Refused: if the Hub or the service says no; the sample is a promise of ``make demo``.
    """
    with httpx.Client(base_url=address, timeout=30.0, trust_env=False) as client:
        token = _ask(
            client,
            "POST",
            f"hub/api/users/{ADMIN}/tokens",
            {"auth": {"username": ADMIN, "password": admin_password}, "note": "make demo", "expires_in": 300},
        )
        client.headers["Authorization"] = f"token {token['token']}"
        for name in (EDITOR, VIEWER):
            _ask(client, "POST", f"hub/api/users/{name}", None)
        _ask(client, "POST", "services/workspaces/api/v1/jupyter/workspaces", SPEC)
        _ask(client, "DELETE", f"hub/api/users/{ADMIN}/tokens/{token['id']}", None)


def _ask(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None) -> Any:
    try:
        answer = client.request(method, path, json=body)
    except httpx.HTTPError as error:
        raise Refused(f"The sample could not be made: {path} does not answer ({type(error).__name__}).") from None
    if not answer.is_success:
        why = MaestroError.from_json(_json(answer), fallback="hub_unavailable").message
        raise Refused(f"The sample could not be made: {path} answers {answer.status_code}; {why}")
    return _json(answer)


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json() if answer.content else None
    except ValueError:
        return None
