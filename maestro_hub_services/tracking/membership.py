"""What may this user do, and where? Asked at the workspaces service: ``POST /authorize/tracking``.

It answers from the live members and groups, and maps the servers of a token to their workspaces; this service keeps
nothing but the answer, for 5 s.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from maestro_core.errors import MaestroError
from maestro_core.experiments import check_experiment
from maestro_core.names import valid_name
from maestro_core.roles import Role, parse_role

from .answers import Refused
from .fresh import Fresh, Unreachable
from .identity import Identity

TIMEOUT_SECONDS = 5.0
log = logging.getLogger("maestro.tracking")


@dataclass(frozen=True)
class Membership:
    """One workspace of a caller.

    Attributes:
        role: what they may do there.
        experiment: the one experiment that they may create and log to, and nothing else; None for no such limit.
    """

    role: Role
    experiment: str | None = None


Memberships = Mapping[str, Membership]


class WorkspacesService:
    """Answers :meth:`memberships`, kept for 5 s.

    Args:
        client: an HTTP client without default credentials.
        api_url: the workspaces service's API.
        token: this service's Hub token; it holds ``custom:maestro:authorize``.
    """

    def __init__(self, client: httpx.AsyncClient, api_url: str, token: str) -> None:
        self._client = client
        self._url = api_url.rstrip("/") + "/authorize/tracking"
        self._headers = {"Authorization": f"token {token}"}
        self._known: Fresh[Identity, Memberships] = Fresh()

    async def memberships(self, identity: Identity) -> Memberships:
        """Every workspace of a caller, by name. A notebook server acts as an editor at most.

        Raises:
            Refused: 503 if the service is away and has not answered for this caller in the last 5 minutes.
        """
        try:
            found = await self._known.get(identity, lambda: self._fetch(identity))
        except Unreachable:
            raise Refused(
                503, "The workspaces service does not answer, so nobody's role is known; try again in a moment."
            ) from None
        return found if identity.servers is None else {name: _capped(one) for name, one in found.items()}

    async def _fetch(self, identity: Identity) -> Memberships:
        question = {"user": identity.user, "servers": None if identity.servers is None else list(identity.servers)}
        try:
            answer = await self._client.post(self._url, json=question, headers=self._headers, timeout=TIMEOUT_SECONDS)
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(type(error).__name__) from None
        if answer.status_code == 404:
            return {}  # a user or server that the service does not know has no workspace
        if answer.status_code != 200:
            log.error("The workspaces service answered %s to /authorize/tracking.", answer.status_code)
            raise Unreachable(f"status {answer.status_code}")
        return read_memberships(body)


def read_memberships(body: Any) -> Memberships:
    """``{"workspaces": {name: {"role", "experiment"?}}}``; what cannot be read is no membership."""
    workspaces = body.get("workspaces") if isinstance(body, dict) else None
    found: dict[str, Membership] = {}
    for name, entry in workspaces.items() if isinstance(workspaces, dict) else ():
        try:
            if valid_name(name):
                experiment = entry.get("experiment")
                found[name] = Membership(
                    parse_role(entry["role"]), None if experiment is None else check_experiment(experiment)
                )
        except (MaestroError, AttributeError, KeyError):
            log.error("The workspaces service sent a membership of %.40r that cannot be read; it is left out.", name)
    return found


def _capped(membership: Membership) -> Membership:
    if membership.role is Role.OWNER:
        return Membership(Role.EDITOR, membership.experiment)
    return membership
