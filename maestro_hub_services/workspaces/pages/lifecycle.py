"""Forms about members and the end of a workspace: invitations, handing over, restoring, purging."""

from __future__ import annotations

from maestro_core.errors import MaestroError
from maestro_core.invitations import InvitationSpec
from maestro_core.models import read_model
from maestro_core.workspaces import Transfer

from .base import Page
from .handlers import WorkspacePage


class AcceptForm(Page):
    """Accept an invitation."""

    async def post(self) -> None:
        """Become a member, and see the new card."""
        invitation = self.field("invitation")
        try:
            offered = {one.invitation_id: one.workspace for one in await self.desk.invitations()}
            made = await self.desk.accept(invitation)
        except MaestroError as error:
            self.say(error.message, self.links.home, good=False)
            return
        self.say(f"You are {made.role.value} of {offered.get(invitation, 'the workspace')} now.", self.links.home)


class DeclineForm(Page):
    """Decline an invitation."""

    async def post(self) -> None:
        """Say no."""
        try:
            await self.desk.decline(self.field("invitation"))
        except MaestroError as error:
            self.say(error.message, self.links.home, good=False)
            return
        self.say("The invitation is declined.", self.links.home)


class InviteForm(WorkspacePage):
    """Invite somebody whom the Hub does not know yet: offered where adding them was refused for that."""

    async def post(self, name: str) -> None:
        """A refusal keeps what was typed."""
        user, role = self.field("name"), self.field("role")
        try:
            made = await self.desk.invite(name, read_model(InvitationSpec, {"user": user, "role": role}))
        except MaestroError as error:
            draft = {"kind": "user", "name": user, "role": role, "problem": error.message, "invite": False}
            await self.workspace(name, error.status, member=draft)
            return
        self.say(
            f"{made.user} may become {made.role.value} of {name} until {made.expires_at:%Y-%m-%d}; they sign up under "
            "that name and accept on their first page.",
            self.links.workspace(name),
        )


class WithdrawForm(Page):
    """Withdraw an invitation."""

    async def post(self, name: str) -> None:
        """Take it back."""
        try:
            await self.desk.withdraw(name, self.field("invitation"))
        except MaestroError as error:
            self.say(error.message, self.links.workspace(name), good=False)
            return
        self.say("The invitation is withdrawn.", self.links.workspace(name))


class TransferForm(WorkspacePage):
    """Hand a workspace over."""

    async def post(self, name: str) -> None:
        """A refusal is said above the members."""
        kind = "group" if self.field("kind") == "group" else "user"
        try:
            made = await self.desk.transfer(name, read_model(Transfer, {kind: self.field("name")}))
        except MaestroError as error:
            await self.workspace(name, error.status, members={"problem": error.message})
            return
        self.say(f"{made.name} is owner of {name} now, and you are an editor.", self.links.workspace(name))


class RestoreForm(Page):
    """Open an archived workspace again, from the landing page or the admin's."""

    async def post(self, name: str) -> None:
        """Open it."""
        back = self._back()
        try:
            await self.desk.restore(name)
        except MaestroError as error:
            self.say(error.message, back, good=False)
            return
        self.say(f"{name} is open again.", self.links.workspace(name))

    def _back(self) -> str:
        """Where the form stands; never an address from the form, which would lead anywhere."""
        return self.links.admin if self.field("back") == "admin" and self.me.admin else self.links.home


class PurgeForm(RestoreForm):
    """Remove an archived workspace for good; its name must be typed."""

    async def post(self, name: str) -> None:
        """Begin it, and show the report, which follows it to its end."""
        back = self._back()
        if self.field("sure") != name:
            self.say(f"Type {name} to purge it.", back, good=False)
            return
        try:
            report = await self.desk.purge(name)
        except MaestroError as error:
            self.say(error.message, back, good=False)
            return
        self.redirect(self.links.purged(report.workspace_id), status=303)


class PurgedPage(Page):
    """What a purge has removed so far; loads itself again until nothing is left."""

    async def get(self, workspace_id: str) -> None:
        """The report."""
        self.show("purged", report=await self.desk.purged(workspace_id))
