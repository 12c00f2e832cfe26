"""The Hub's REST API as this service uses it: users, groups, servers. Nothing else is asked for or allowed.

Scopes of the service's token: ``list:users read:users list:groups read:groups read:servers start:servers
delete:servers``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from maestro_core.errors import MaestroError
from maestro_core.workspaces import UserRef

#: seconds; a start is answered within the Hub's slow_spawn_timeout
TIMEOUT = httpx.Timeout(10.0, connect=3.0)
START_TIMEOUT = httpx.Timeout(60.0, connect=3.0)
#: seconds for which a user's groups are believed
CACHE_SECONDS = 5.0
_PAGE = 200


@dataclass(frozen=True)
class HubServer:
    """A server as the Hub lists it.

    Attributes:
        name: empty for the unnamed one.
        active: it runs, starts or stops; ``ready``: it runs.
        never_started: nothing was ever started under this name.
    """

    name: str
    ready: bool
    pending: str | None
    never_started: bool
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether something runs, starts or stops there."""
        return self.ready or self.pending is not None


@dataclass(frozen=True)
class HubUser:
    """A user with their servers by name."""

    ref: UserRef
    servers: dict[str, HubServer]


@dataclass(frozen=True)
class StartAnswer:
    """What the Hub said to a start: the status, and its sentence if it refused."""

    status: int
    message: str = ""

    @property
    def accepted(self) -> bool:
        """Whether it started or starts."""
        return self.status < 300


class Hub:
    """A client of the Hub's API.

    Args:
        api_url: ``http://127.0.0.1:8081/hub/api``.
        token: the service's own.

    Every method raises ``hub_unavailable`` when the Hub does not answer in time.
    """

    def __init__(self, api_url: str, token: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=api_url.rstrip("/"),
            headers={"Authorization": f"token {token}", "Accept": "application/json"},
            timeout=TIMEOUT,
            transport=transport,
            trust_env=False,  # the Hub is near: never through a proxy
        )
        self._users: dict[str, tuple[float, UserRef]] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def user(self, name: str, *, now: bool = False) -> UserRef:
        """A user by name, at most 5 s old.

        Args:
            now: ask the Hub whatever is known: for answers that whoever asked for them believes for 5 s again, and for
                what cannot be mended.

        Raises:
            MaestroError: ``unknown_user``.
        """
        until, user = self._users.get(name, (0.0, None))
        if user is not None and not now and time.monotonic() < until:
            return user
        asked = time.monotonic()  # the answer is as old as the question
        user = await self._fetch_user(name)
        if user is None:  # not kept: who signs up now is known at once
            self._users.pop(name, None)
            raise MaestroError(
                "unknown_user",
                f"The Hub does not know a user {name[:60]!r}; invite them, or add them when they have signed up.",
                {"user": name[:255]},
            )
        if len(self._users) > 10_000:
            self._users.clear()
        self._users[name] = (asked + CACHE_SECONDS, user)
        return user

    async def _fetch_user(self, name: str) -> UserRef | None:
        answer = await self._call("GET", f"/users/{_segment(name)}")
        return None if answer.status_code == 404 else _user_ref(_body(answer))

    async def member_user(self, name: str) -> UserRef:
        """A user as somebody types the name: the Hub's names are lower case by default.

        Raises:
            MaestroError: ``unknown_user``.
        """
        try:
            return await self.user(name)
        except MaestroError as error:
            if error.code != "unknown_user" or name == name.lower():
                raise
            return await self.user(name.lower())

    async def check_group(self, name: str) -> None:
        """See that the Hub has a group.

        Raises:
            MaestroError: ``unknown_group``.
        """
        answer = await self._call("GET", f"/groups/{_segment(name)}")
        if answer.status_code == 404:
            raise MaestroError(
                "unknown_group", f"The Hub has no group {name[:60]!r}; an admin makes it first.", {"group": name[:255]}
            )
        _body(answer)

    async def group_members(self, name: str) -> tuple[str, ...]:
        """The names of the users in a group.

        Raises:
            MaestroError: ``unknown_group``.
        """
        answer = await self._call("GET", f"/groups/{_segment(name)}")
        if answer.status_code == 404:
            raise MaestroError("unknown_group", f"The Hub has no group {name[:60]!r} any more.", {"group": name[:255]})
        return tuple(_body(answer).get("users") or ())

    async def groups(self) -> set[str]:
        """The names of all groups."""
        names: set[str] = set()
        offset: int | None = 0
        while offset is not None:
            page = await self._call(
                "GET",
                "/groups",
                params={"offset": offset, "limit": _PAGE},
                headers={"Accept": "application/jupyterhub-pagination+json"},
            )
            body = _body(page)
            names.update(item["name"] for item in body["items"])
            following = body["_pagination"].get("next")
            offset = following["offset"] if following else None
        return names

    async def server(self, user: str, name: str) -> HubServer | None:
        """One server of a user, or None when the Hub has none of that name."""
        answer = await self._call("GET", f"/users/{_segment(user)}/server{_server(name)}")
        return None if answer.status_code == 404 else _hub_server(_body(answer))

    async def users(self, *, active: bool) -> AsyncIterator[HubUser]:
        """The users with their servers.

        Args:
            active: only users and servers that run, start or stop; else everyone, with stopped servers.
        """
        query: dict[str, Any] = {"state": "active"} if active else {"include_stopped_servers": "1"}
        offset: int | None = 0
        while offset is not None:
            page = await self._call(
                "GET",
                "/users",
                params={**query, "offset": offset, "limit": _PAGE},
                headers={"Accept": "application/jupyterhub-pagination+json"},
            )
            body = _body(page)
            for item in body["items"]:
                servers = {name: _hub_server(model) for name, model in (item.get("servers") or {}).items()}
                yield HubUser(_user_ref(item), servers)
            following = body["_pagination"].get("next")
            offset = following["offset"] if following else None

    async def start_server(self, user: str, name: str, options: dict[str, Any]) -> StartAnswer:
        """Start a server with these ``user_options``, or hear why not."""
        answer = await self._call(
            "POST",
            f"/users/{_segment(user)}/server{_server(name)}",
            json={"user_options": options},
            timeout=START_TIMEOUT,
        )
        return StartAnswer(answer.status_code, "" if answer.is_success else _message(answer))

    async def stop_server(self, user: str, name: str, *, remove: bool = False) -> bool:
        """Stop a server (and forget its row); False when the Hub has no such server.

        Raises:
            MaestroError: ``conflict`` with the Hub's words when it cannot now.
        """
        options = {"json": {"remove": True}} if remove else {}
        answer = await self._call("DELETE", f"/users/{_segment(user)}/server{_server(name)}", **options)
        if answer.status_code == 404:
            return False
        if not answer.is_success:
            raise MaestroError("conflict", f"The Hub cannot stop the server now: {_message(answer)}")
        return True

    async def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, **options)
        except httpx.HTTPError:
            raise _unavailable() from None
        if answer.status_code in (502, 503, 504) and not _said(answer):
            raise _unavailable()  # somebody before the Hub; its own refusals have a sentence
        return answer


def _unavailable() -> MaestroError:
    return MaestroError("hub_unavailable", "The Hub does not answer; try again in a moment.")


def _body(answer: httpx.Response) -> Any:
    """The JSON of a success.

    Raises:
        MaestroError: ``hub_unavailable`` for anything else: without a readable answer nothing is decided.
    """
    try:
        if answer.is_success:
            return answer.json()
    except ValueError:
        pass
    raise MaestroError(
        "hub_unavailable",
        f"The Hub answered with status {answer.status_code}, which helps nobody; its log says why.",
        {"status": answer.status_code},
    )


def _message(answer: httpx.Response) -> str:
    return _said(answer) or f"status {answer.status_code}"


def _said(answer: httpx.Response) -> str:
    """The Hub's own sentence, if it is the Hub that answers."""
    try:
        return str(answer.json()["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return ""


def _segment(text: str) -> str:
    return quote(text, safe="@!")


def _server(name: str) -> str:
    """``/server`` is the unnamed one, ``/servers/NAME`` a named one."""
    return f"s/{_segment(name)}" if name else ""


def _user_ref(model: dict[str, Any]) -> UserRef:
    return UserRef(
        name=model["name"],
        created=model["created"],
        admin=bool(model.get("admin")),
        groups=tuple(sorted(model.get("groups") or ())),
    )


def _hub_server(model: dict[str, Any]) -> HubServer:
    options = model.get("user_options")
    return HubServer(
        name=model["name"],
        ready=bool(model.get("ready")),
        pending=model.get("pending"),
        never_started=model.get("started") is None and model.get("last_activity") is None,
        options=options if isinstance(options, dict) else {},
    )
