"""The pages: each reads its form, asks the desk once, and shows or redirects."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from maestro_core.errors import MaestroError
from maestro_core.invitations import Invitation
from maestro_core.launches import ScaleRequest
from maestro_core.models import read_model
from maestro_core.names import NAME_RULE
from maestro_core.roles import Role, may
from maestro_core.workspaces import (
    MAX_DESCRIPTION,
    LimitView,
    MemberSpec,
    WorkspaceChange,
    WorkspaceSpec,
    WorkspaceView,
)

from ..identity import ADMIN
from . import views
from .base import Page
from .environment import packages

ROLES = [role.value for role in Role]


class CardsPage(Page):
    """The landing page's cards, alone: asked for by htmx, told 204 when nothing changed."""

    async def get(self) -> None:
        """``?shown=``: the digest of what the page shows."""
        values = await self.card_values()
        if self.get_query_argument("shown", "") == values["digest"]:
            self.set_status(204)
            self.finish()
            return
        self.show("cards", **values)

    async def card_values(self) -> dict[str, Any]:
        """What ``cards.html`` shows."""
        workspaces, launches = await asyncio.gather(self.desk.workspaces(), self.desk.launches())
        cards = views.cards(workspaces, launches, self.me, self.links)
        return {"cards": cards, "digest": views.digest(cards), "every": views.refresh_seconds(cards)}


class LandingPage(CardsPage):
    """Where a person comes in: their workspaces as cards, and the form of a new one."""

    async def get(self) -> None:
        """The cards."""
        await self._landing({"open": False, "name": "", "description": "", "problem": None})

    async def post(self) -> None:
        """Create a workspace; a refusal shows its sentence over what was typed."""
        name, description = self.field("name"), self.field("description")
        try:
            spec = read_model(WorkspaceSpec, {"name": name, "description": description})
            made = await self.desk.create(spec)
        except MaestroError as error:
            draft = {"open": True, "name": name, "description": description, "problem": error.message}
            await self._landing(draft, error.status)
            return
        self.say(f"The workspace {made.name} is yours: open it, or add members.", self.links.workspace(made.name))

    async def _landing(self, draft: dict[str, Any], status: int = 200) -> None:
        invitations, archived = await asyncio.gather(self.desk.invitations(), self.desk.archived())
        self.show(
            "workspaces",
            status,
            invitations=views.invitations(invitations),
            archived=views.archived(archived),
            draft=draft,
            name_rule=NAME_RULE[0].upper() + NAME_RULE[1:],
            max_description=MAX_DESCRIPTION,
            **await self.card_values(),
        )


class WorkspacePage(Page):
    """One workspace: what it is, my servers in it, its members and limits."""

    async def get(self, name: str) -> None:
        """The page; an unknown workspace and somebody else's get the same answer."""
        await self.workspace(name)

    async def workspace(self, name: str, status: int = 200, **drafts: dict[str, Any]) -> None:
        """Show the page, with what was typed and refused."""
        view = await self.desk.workspace(name)
        members, limits, launches, usage, invitations, environment = await asyncio.gather(
            self.desk.members(view.name),
            self._limits(view.name),
            self.desk.launches(),
            self.desk.usage(view.name),
            self._invitations(view),
            self.desk.environment(view.name),
        )
        page = views.workspace_page(view, launches, members, limits, self.me, self.links)
        shown = {
            "about": {"description": view.description, "problem": None},
            "members": {"problem": None},
            "member": {"kind": "user", "name": "", "role": Role.EDITOR.value, "problem": None, "invite": False},
        } | drafts
        self.show(
            "workspace",
            status,
            page=page,
            set_up=views.set_up(view),
            captures=views.CAPTURES,
            captured=view.settings.captures,
            usage=views.usage(usage, page.may_manage),
            invitations=views.invitations(invitations),
            packages=packages(environment),
            drafts=shown,
            roles=ROLES,
            max_description=MAX_DESCRIPTION,
        )

    async def say_changed(self, sentence: str, name: str, member: str) -> None:
        """What changed among the members, and what becomes of their servers."""
        try:
            ending = views.ending(await self.desk.usage(name), member)
        except MaestroError as error:
            if error.code != "unknown_workspace":
                raise
            self.say(sentence, self.links.home)  # they were in it by the group that they removed
            return
        self.say(f"{sentence} {ending}".strip(), self.links.workspace(name))

    async def _invitations(self, view: WorkspaceView) -> Sequence[Invitation]:
        """For those who may manage members; others see none."""
        owner = not view.personal and (may(view.role, "manage_members") or self.me.admin)
        return await self.desk.invitations(view.name) if owner else ()

    async def _limits(self, name: str) -> Sequence[LimitView] | MaestroError:
        try:
            return await self.desk.limits(name)
        except MaestroError as error:  # a policy with a mistake leaves the rest of the page as it is
            return error


class AboutForm(WorkspacePage):
    """A new description."""

    async def post(self, name: str) -> None:
        """Change it."""
        description = self.field("description")
        try:
            await self.desk.change(name, read_model(WorkspaceChange, {"description": description}))
        except MaestroError as error:
            await self.workspace(name, error.status, about={"description": description, "problem": error.message})
            return
        self.say("The description is saved.", self.links.workspace(name))


class CaptureForm(Page):
    """Whether executed cells become runs."""

    async def post(self, name: str) -> None:
        """Set it, for servers that start from now on."""
        try:
            await self.desk.change(name, read_model(WorkspaceChange, {"capture": self.field("capture")}))
        except MaestroError as error:
            self.say(error.message, self.links.workspace(name), good=False)
            return
        self.say("That is saved; it counts for servers that start from now on.", self.links.workspace(name))


class MembersForm(WorkspacePage):
    """Add a member, or change the role of one."""

    async def post(self, name: str) -> None:
        """A refused addition keeps what was typed; a refused change is said above the table."""
        kind, member, role = self.field("kind"), self.field("name"), self.field("role")
        try:
            put = await self.desk.put_member(name, read_model(MemberSpec, {_kind(kind): member, "role": role}))
        except MaestroError as error:
            if self.field("adding"):
                unknown = error.code == "unknown_user"
                draft = {"kind": kind, "name": member, "role": role, "problem": error.message, "invite": unknown}
                await self.workspace(name, error.status, member=draft)
            else:
                await self.workspace(name, error.status, members={"problem": error.message})
            return
        await self.say_changed(f"{put.name} is now {put.role.value} of {name}.", name, put.name)


class RemoveMemberForm(WorkspacePage):
    """Remove a member, or leave."""

    async def post(self, name: str) -> None:
        """A refusal (the last owner) is said above the table."""
        member = self.field("name")
        try:
            await self.desk.remove_member(name, _kind(self.field("kind")), member)
        except MaestroError as error:
            await self.workspace(name, error.status, members={"problem": error.message})
            return
        sentence = f"{member} is no longer a member of {name}."
        if member == self.me.name and not self.me.admin:
            self.say(sentence, self.links.home)
        else:
            await self.say_changed(sentence, name, member)


class ArchiveForm(Page):
    """Archive a workspace; the box that says so must be ticked."""

    async def post(self, name: str) -> None:
        """Archive it."""
        if self.field("sure") != name:
            self.say("Tick the box to archive the workspace.", self.links.workspace(name), good=False)
            return
        try:
            await self.desk.archive(name)
        except MaestroError as error:  # servers run in it
            self.say(error.message, self.links.workspace(name), good=False)
            return
        back = self.links.admin if self.field("back") == "admin" and self.me.admin else self.links.home
        self.say(f"The workspace {name} is archived.", back)


class StopForm(Page):
    """Stop a server, from whichever page its button stands on."""

    async def post(self, session_id: str) -> None:
        """Stop it and go back."""
        back = self._back(self.field("back"))
        try:
            launch = await self.desk.stop(session_id)
        except MaestroError as error:
            self.say(error.message, back, good=False)
            return
        state = "is stopping" if launch.status.active else "is stopped"
        self.say(f"The server in {launch.workspace} {state}.", back)

    def _back(self, page: str) -> str:
        """The page by its name; never an address from the form, which would lead anywhere."""
        if page == "admin" and self.me.admin:
            return self.links.admin
        return self.links.home if page in ("", "cards") else self.links.workspace(page)


class ScaleForm(Page):
    """Give a server other amounts, from the page of its workspace."""

    async def post(self, session_id: str) -> None:
        """Do it and go back; why it cannot be done while the server runs is said there too."""
        name = self.field("back")
        back = self.links.workspace(name) if name else self.links.home
        asked = {"cpu": self.field("cpu"), "memory": self.field("memory"), "restart": bool(self.field("restart"))}
        try:
            launch = await self.desk.scale(session_id, read_model(ScaleRequest, asked))
        except MaestroError as error:
            self.say(error.message, back, good=False)
            return
        again = "" if launch.session_id == session_id else "is started again, and "
        self.say(f"The server in {launch.workspace} {again}has {launch.resources.show()}.", back)


class AdminPage(Page):
    """Every workspace and server, and the policy in force."""

    scope = ADMIN

    async def get(self) -> None:
        """The three tables."""
        workspaces, archived, launches, samples, left_behind = await asyncio.gather(
            self.desk.workspaces(everything=True),
            self.desk.archived(everything=True),
            self.desk.launches(everything=True),
            self.desk.samples(),
            self.desk.left_behind(),
        )
        rows, servers = views.admin_rows(workspaces, launches, self.links, samples, left_behind)
        self.show(
            "admin",
            here="maestro-admin",
            workspaces=rows,
            archived=views.archived(archived),
            servers=servers,
            policy=self.desk.policy(),
        )


def _kind(text: str) -> Literal["user", "group"]:
    return "group" if text == "group" else "user"
