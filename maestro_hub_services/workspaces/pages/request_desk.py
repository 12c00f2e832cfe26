"""What the pages about packages ask of the domain."""

from __future__ import annotations

from collections.abc import Sequence

from maestro_core.requests import Approval, Denial, PackageAnswer, PackageAsk, RequestView

from ..authority import Authority
from ..domain import requests
from ..identity import REVIEW, Caller


class RequestDesk:
    """The domain of requests as one signed-in person may use it. Every method may raise ``MaestroError``."""

    def __init__(self, authority: Authority, caller: Caller) -> None:
        self._authority = authority
        self._caller = caller

    async def ask(self, workspace: str, asked: PackageAsk) -> PackageAnswer:
        """Ask for a package."""
        return await requests.ask(self._authority, self._caller, workspace, asked)

    async def mine(self) -> Sequence[RequestView]:
        """What I ask, the newest first."""
        return (await requests.list_mine(self._authority, self._caller)).requests

    async def to_review(self) -> Sequence[RequestView]:
        """What waits for my decision, the oldest first."""
        return (await requests.list_to_review(self._authority, self._caller)).requests

    async def view(self, request_id: str) -> RequestView:
        """One of mine, of my workspaces, or of those that I review."""
        return await requests.view(self._authority, self._caller, request_id)

    async def approve(self, request_id: str, approval: Approval) -> RequestView:
        """Allow it (reviewers)."""
        self._caller.check(REVIEW)
        return await requests.approve(self._authority, self._caller, request_id, approval)

    async def deny(self, request_id: str, denial: Denial) -> RequestView:
        """Say no, and why (reviewers)."""
        self._caller.check(REVIEW)
        return await requests.deny(self._authority, self._caller, request_id, denial)

    async def withdraw(self, request_id: str) -> None:
        """Ask no longer."""
        await requests.withdraw(self._authority, self._caller, request_id)
