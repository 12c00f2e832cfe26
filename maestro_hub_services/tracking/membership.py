"""What may this user do, and where? Asked at the workspaces service: ``POST /authorize/tracking``, and of the tokens of
jobs, which the Hub does not know, ``POST /authorize/jobs``.

It answers from the live members and groups, and maps the servers of a token to their workspaces; this service keeps
nothing but the answer, for 5 s.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import httpx

from maestro_core.errors import MaestroError
from maestro_core.jobs import JobTokenOwner
from maestro_core.models import read_model
from maestro_core.names import RESERVED, valid_name
from maestro_core.roles import Role
from maestro_core.workspaces import TrackingGrant, TrackingRequest, TrackingView

from .answers import Refused
from .fresh import Fresh, Unreachable
from .identity import TIMEOUT, Identity

log = logging.getLogger("maestro.tracking")


#: what a caller may do, by workspace
Memberships = Mapping[str, TrackingGrant]


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
        self._jobs_url = api_url.rstrip("/") + "/authorize/jobs"
        self._headers = {"Authorization": f"token {token}"}
        self._known: Fresh[Identity, Memberships] = Fresh()
        self._jobs: Fresh[bytes, Identity | None] = Fresh()

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

    async def job(self, token: str) -> Identity:
        """Whose job's token this is: it acts like a notebook server's, in the workspace of its job.

        Raises:
            Refused: 401 for one of no running job; 503 if the service is away and has not answered for it lately.
        """
        key = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        try:
            found = await self._jobs.get(key, lambda: self._fetch_job(token))
        except Unreachable:
            raise Refused(503, "The workspaces service does not answer, so no job is known; try again.") from None
        if found is None:
            raise Refused(401, "This token is of no running job (any more).")
        return found

    async def _fetch_job(self, token: str) -> Identity | None:
        try:
            answer = await self._client.post(
                self._jobs_url, json={"token": token}, headers=self._headers, timeout=TIMEOUT
            )
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(type(error).__name__) from None
        if answer.status_code in (400, 404):
            return None
        try:
            if answer.status_code != 200:
                raise MaestroError("internal", f"status {answer.status_code}")
            owner = read_model(JobTokenOwner, body)
        except MaestroError as error:
            log.error("The workspaces service answered nothing of use to /authorize/jobs: %s", error.message)
            raise Unreachable("unreadable answer") from None
        return Identity(owner.user, (owner.server,))

    async def _fetch(self, identity: Identity) -> Memberships:
        try:
            question = TrackingRequest(user=identity.user, servers=identity.servers).model_dump(mode="json")
        except ValueError:
            return {}  # a name that no member can have
        try:
            answer = await self._client.post(self._url, json=question, headers=self._headers, timeout=TIMEOUT)
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(type(error).__name__) from None
        if answer.status_code in (400, 404):
            return {}  # a user whom the service does not know has no workspace
        if answer.status_code != 200:
            log.error("The workspaces service answered %s to /authorize/tracking.", answer.status_code)
            raise Unreachable(f"status {answer.status_code}")
        return read_memberships(body)


def read_memberships(body: object) -> Memberships:
    """The service's answer, without names that MLflow keeps for itself (``default``).

    Raises:
        Unreachable: if the answer cannot be read.
    """
    try:
        view = read_model(TrackingView, body)
    except MaestroError as error:
        log.error("The workspaces service sent an answer that cannot be read: %s", error.message)
        raise Unreachable("unreadable answer") from None
    return {name: grant for name, grant in view.workspaces.items() if valid_name(name) and name not in RESERVED}


def _capped(grant: TrackingGrant) -> TrackingGrant:
    return grant.model_copy(update={"role": Role.EDITOR}) if grant.role is Role.OWNER else grant
