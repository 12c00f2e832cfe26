"""The pages about packages that need an approval: ask, see the answers, review, decide."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.requests import (
    MAX_REASON,
    Approval,
    Denial,
    PackageAsk,
    RequestView,
)

from . import views
from .base import Page


@dataclass(frozen=True)
class RequestRow:
    """A request in a list."""

    href: str
    name: str
    workspace: str
    status: str
    asked_by: str
    asked: views.Moment
    answer: str


class RequestsPage(Page):
    """What waits for my decision, what I asked, and the form of a new question."""

    async def get(self) -> None:
        """``?workspace=&package=&version=`` fill the form in, as links of a denial do; nothing is asked by it."""
        draft = {name: self.get_query_argument(name, "")[:200] for name in ("workspace", "package", "version")}
        await self.page({**draft, "reason": "", "problem": None})

    async def post(self) -> None:
        """Ask; a refusal keeps what was typed."""
        draft = {name: self.field(name) for name in ("workspace", "package", "version", "reason")}
        try:
            named = {name: draft[name] for name in ("package", "version", "reason")}
            asked = read_model(PackageAsk, {**named, "install": False})
            answer = await self.desk.requests.ask(draft["workspace"], asked)
        except MaestroError as error:
            await self.page({**draft, "problem": error.message}, error.status)
            return
        self.say(
            answer.message, self.links.request(answer.request.request_id) if answer.request else self.links.requests
        )

    async def page(self, draft: dict[str, str | None], status: int = 200) -> None:
        """Show it."""
        mine, waiting, workspaces = await asyncio.gather(
            self.desk.requests.mine(), self.desk.requests.to_review(), self.desk.workspaces()
        )
        self.show(
            "requests",
            status,
            here="packages",
            mine=[self._row(one) for one in mine],
            waiting=[self._row(one) for one in waiting],
            workspaces={view.name: views.title(view) for view in workspaces},
            draft=draft,
            max_reason=MAX_REASON,
        )

    def _row(self, one: RequestView) -> RequestRow:
        asked_by = ", ".join(asker.user for asker in one.askers)
        return RequestRow(
            self.links.request(one.request_id), one.shown, one.workspace, one.status, asked_by,
            views.moment(one.asked_at), answer(one),
        )  # fmt: skip


def answer(one: RequestView) -> str:
    """What became of a request, in a sentence; empty while it is pending."""
    if one.status == "approved":
        where = "everywhere" if any(rule.level == "global" for rule in one.approved) else f"in {one.workspace}"
        rules = ", ".join(rule.shown for rule in one.approved)
        until = f" until {one.until:%Y-%m-%d}" if one.until else ""
        told = f"{one.decided_by} allows {rules} {where}{until}" if rules else f"{one.decided_by} allows it"
    elif one.status == "denied":
        told = f"{one.decided_by} denied it"
    else:
        return ""
    return f"{told}: {one.answer}" if one.answer else f"{told}."


class RequestPage(Page):
    """One request; for a reviewer with what they need to decide, and the forms."""

    async def get(self, request_id: str) -> None:
        """The page; an unknown request and one of others get the same answer."""
        await self.page(request_id)

    async def page(self, request_id: str, status: int = 200, **drafts: dict[str, Any]) -> None:
        """Show it, with what was typed and refused."""
        view = await self.desk.requests.view(request_id)
        shown: dict[str, Any] = {
            "approve": {"choice": "major", "version": "", "range": "", "everywhere": "", "until": "", "reason": ""},
            "deny": {"reason": ""},
        }
        for name, draft in drafts.items():
            shown[name] = draft
        self.show(
            "request",
            status,
            here="packages",
            page=view,
            review=view.review,
            asked=views.moment(view.asked_at),
            decided=None if view.decided_at is None else views.moment(view.decided_at),
            answer=answer(view),
            mine=any(one.user == self.me.name for one in view.askers),
            may_everywhere=self.me.admin,
            problems={name: draft.get("problem") for name, draft in shown.items()},
            drafts=shown,
            max_reason=MAX_REASON,
        )


_APPROVE = ("choice", "version", "range", "everywhere", "until", "reason", "checked_at")


class ApproveForm(RequestPage):
    """Allow it."""

    async def post(self, request_id: str) -> None:
        """A refusal keeps what was typed."""
        draft = {name: self.field(name) for name in _APPROVE}
        try:
            done = await self.desk.requests.approve(request_id, read_model(Approval, _approval(draft)))
        except MaestroError as error:
            await self.page(request_id, error.status, approve={**draft, "problem": error.message})
            return
        self.say(f"Approved, and it installs from now on. {answer(done)}", self.links.requests)


def _approval(draft: dict[str, str]) -> dict[str, Any]:
    """The fields that count for the choice that was made."""
    choice = draft["choice"]
    body: dict[str, Any] = {"reason": draft["reason"], "everywhere": bool(draft["everywhere"])}
    body["checked_at"] = draft["checked_at"] or "none"
    if choice in ("version", "range"):
        if not draft[choice]:
            raise MaestroError("invalid_request", "Write which versions, or choose another way.", {"field": choice})
        body[choice] = draft[choice]
    elif choice == "all":
        body["all"] = True
    return body | ({"until": draft["until"]} if draft["until"] else {})


class DenyForm(RequestPage):
    """Say no."""

    async def post(self, request_id: str) -> None:
        """A refusal keeps what was typed."""
        draft: dict[str, Any] = {"reason": self.field("reason")}
        try:
            done = await self.desk.requests.deny(request_id, read_model(Denial, draft))
        except MaestroError as error:
            await self.page(request_id, error.status, deny={**draft, "problem": error.message})
            return
        self.say(f"{done.shown} is denied for {done.workspace}.", self.links.requests)


class WithdrawForm(Page):
    """Ask no longer."""

    async def post(self, request_id: str) -> None:
        """Withdraw it and go back."""
        try:
            await self.desk.requests.withdraw(request_id)
        except MaestroError as error:
            self.say(error.message, self.links.requests, good=False)
            return
        self.say("You ask for it no longer.", self.links.requests)
