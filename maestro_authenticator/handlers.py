"""The pages: sign-in, sign-up, password, accounts. State changes by POST only, and the Hub checks XSRF on each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from jupyterhub import orm
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.login import LoginHandler
from jupyterhub.utils import url_path_join
from tornado import web
from tornado.httputil import url_concat

from maestro_core.errors import MaestroError

from .accounts import Account, Status
from .address import client_address
from .authenticator import PasswordChangeDue
from .rules import NAME_RULE, PASSWORD_MIN, check_new_name, check_new_password, one_time_password
from .sessions import end_browser_sessions, end_everything
from .throttle import TooMany

if TYPE_CHECKING:
    from .authenticator import MaestroAuthenticator

#: a sign-up is answered after this time, whether its name was taken or not
SIGN_UP_SECONDS = 0.5


class SignInHandler(LoginHandler):
    """The Hub's own form; a one-time password leads on to the page that changes it."""

    async def post(self) -> None:
        if not self.get_body_argument("username", ""):
            raise web.HTTPError(400, "Give a user name and a password.")
        try:
            await super().post()
        except PasswordChangeDue as due:
            page = url_path_join(self.hub.base_url, "password")
            self.redirect(url_concat(page, {"username": due.name, "next": self.get_argument("next", "")}))


class FormHandler(BaseHandler):
    """A page with a form under the Hub's look."""

    authenticator: MaestroAuthenticator

    def check_xsrf_cookie(self) -> None:
        try:
            super().check_xsrf_cookie()
        except web.HTTPError as error:
            self.log.warning("XSRF check failed on %s: %s", self.request.path, error)
            raise web.HTTPError(403, "This form has expired; load the page again and send it once more.") from None

    async def show(self, template: str, status: int = 200, **names: Any) -> None:
        """Answer with a page that no cache keeps."""
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        self.finish(await self.render_template(template, **names))

    def typed(self, name: str) -> str:
        """A field of the form; passwords keep their spaces."""
        return self.get_body_argument(name, "", strip=name == "username")


class SignUpHandler(FormHandler):
    """Ask for an account."""

    async def get(self) -> None:
        if self.current_user:
            self.redirect(self.get_next_url(self.current_user))
            return
        await self._form()

    async def post(self) -> None:
        if not self.authenticator.open_sign_up:
            raise web.HTTPError(403, "Sign-up is closed; ask the admin for an account.")
        try:
            name = check_new_name(self.typed("username"))
            password = check_new_password(self.typed("password"), self.typed("password_again"), name)
            await self.authenticator.throttle.attempt({"sign-ups of address": client_address(self.request)})
        except MaestroError as error:
            await self._form(error.status, error=error.message)
            return
        except TooMany as error:
            await self._form(429, error=f"Too many sign-ups from here; try again in {error.seconds} seconds.")
            return
        free = self.find_user(name) is None
        await asyncio.gather(self.authenticator.sign_up(name, password, free=free), asyncio.sleep(SIGN_UP_SECONDS))
        await self.show("sign_up.html", asked=name)

    async def _form(self, status: int = 200, error: str = "") -> None:
        await self.show(
            "sign_up.html",
            status,
            error=error,
            open=self.authenticator.open_sign_up,
            name_rule=NAME_RULE,
            password_min=PASSWORD_MIN,
            username=self.get_body_argument("username", "")[:64],
        )


class PasswordHandler(FormHandler):
    """Choose another password: signed in, or with a one-time password that cannot sign in."""

    async def get(self) -> None:
        await self._form()

    async def post(self) -> None:
        name = self.current_user.name if self.current_user else self.typed("username")
        try:
            account = await self.authenticator.check_password(name, self.typed("current"), self)
        except web.HTTPError as error:
            await self._form(error.status_code, error=error.log_message or "")
            return
        if account is None:
            await self._form(403, error="The name or the current password is wrong.")
            return
        try:
            password = check_new_password(self.typed("password"), self.typed("password_again"), account.name)
            if password == self.typed("current"):
                raise MaestroError("invalid_request", "This is the current password; take a new one.")
        except MaestroError as error:
            await self._form(error.status, error=error.message)
            return
        await self._change(account, password)

    async def _change(self, account: Account, password: str) -> None:
        if not await self.authenticator.accounts.choose(
            account.name, await self.authenticator.passwords.hash(password)
        ):
            raise web.HTTPError(403, "Your account was changed meanwhile; ask the admin.")
        self.log.info("%s chose a new password", account.name)
        known = self.find_user(account.name)
        if known:
            end_browser_sessions(self, known)  # of whoever knew the old password; this browser goes on below
        user = await self.login_user({"username": account.name, "password": password})
        if user is None:
            raise web.HTTPError(403, "The password is changed, but you may not sign in now; ask the admin.")
        self.set_hub_cookie(user)  # set_login_cookie leaves the old one when the user is the same
        self.redirect(self.get_next_url(user))

    async def _form(self, status: int = 200, error: str = "") -> None:
        await self.show(
            "password.html",
            status,
            error=error,
            username=self.get_argument("username", "")[:64],
            next=self.get_argument("next", ""),
            password_min=PASSWORD_MIN,
        )


class AccountsHandler(FormHandler):
    """The admin's page: who waits, who is in, who is shut out."""

    @web.authenticated
    async def get(self) -> None:
        self._admins_only()
        await self._page()

    @web.authenticated
    async def post(self) -> None:
        self._admins_only()
        action = ACTIONS.get(self.get_body_argument("action", ""))
        try:
            if action is None:
                raise MaestroError("invalid_request", "The page sent no action that there is; load it again.")
            name = check_new_name(self.typed("username"))
            given = await action(self, name)
        except MaestroError as error:
            await self._page(error.status, error=error.message)
            return
        self.log.info("%s: %s account %s", self.current_user.name, self.get_body_argument("action"), name)
        if given is None:
            self.redirect(url_path_join(self.hub.base_url, "accounts"), status=303)
        else:
            await self._page(given=given, given_to=name)  # shown this once: no redirect, no cache

    def _admins_only(self) -> None:
        if not self.current_user.admin:
            raise web.HTTPError(403, "Accounts are the admins' page; ask one of them.")

    async def approve(self, name: str) -> None:
        """Let a person who waits in."""
        self._found(await self.authenticator.accounts.approve(name), name)

    async def refuse(self, name: str) -> None:
        """Forget the wish for an account."""
        self._found(await self.authenticator.accounts.remove(name, only=Status.PENDING), name)

    async def enable(self, name: str) -> None:
        """Let a person in again who was shut out."""
        self._found(await self.authenticator.accounts.enable(name), name)

    async def disable(self, name: str) -> None:
        """Shut a person out, now: sessions, tokens and servers end."""
        if name == self.current_user.name:
            raise MaestroError("conflict", "You cannot disable your own account; another admin can.")
        self._found(await self.authenticator.accounts.disable(name), name)
        user = self.find_user(name)
        if user:
            end_everything(self, user)

    async def remove(self, name: str) -> None:
        """Forget a disabled account. The Hub's user, where there is one, stays until it is deleted there."""
        self._found(await self.authenticator.accounts.remove(name, only=Status.DISABLED), name)

    async def reset(self, name: str) -> str:
        """A new one-time password for an account, or for a Hub user who has none."""
        if name == self.current_user.name:
            raise MaestroError("conflict", "Change your own password on the password page.")
        account = await self.authenticator.accounts.find(name)
        user = self.find_user(name)
        if account is None and user is None:
            raise self._gone(name)
        if account and account.status is not Status.APPROVED:
            raise MaestroError("conflict", f"The account {name} waits or is disabled; let it in first.")
        if user:
            end_browser_sessions(self, user)
        return await self._give(name)

    async def add(self, name: str) -> str:
        """A new account with a one-time password."""
        if await self.authenticator.accounts.find(name):
            raise MaestroError("name_taken", f"There is an account {name} already; see the list.")
        return await self._give(name)

    async def _give(self, name: str) -> str:
        password = one_time_password()
        hashed = await self.authenticator.passwords.hash(password)
        await self.authenticator.accounts.give(name, hashed, must_change=True)
        return password

    @staticmethod
    def _gone(name: str) -> MaestroError:
        return MaestroError(
            "conflict", f"The account {name} is not in that state any more; this is how things stand now."
        )

    def _found(self, found: bool, name: str) -> None:
        if not found:
            raise self._gone(name)

    async def _page(self, status: int = 200, **names: Any) -> None:
        accounts = await self.authenticator.accounts.list()
        admins = {name for (name,) in self.db.query(orm.User.name).filter_by(admin=True)}
        known = {account.name for account in accounts}
        without = sorted(name for (name,) in self.db.query(orm.User.name) if name not in known)
        await self.show(
            "accounts.html",
            status,
            pending=[account for account in accounts if account.status is Status.PENDING],
            approved=[account for account in accounts if account.status is Status.APPROVED],
            disabled=[account for account in accounts if account.status is Status.DISABLED],
            without=[name for name in without if self.authenticator.validate_username(name)],
            admins=admins,
            name_rule=NAME_RULE,
            **names,
        )


#: what the accounts page can do; a string that comes back is a password to show once
ACTIONS: dict[str, Callable[[AccountsHandler, str], Awaitable[str | None]]] = {
    "approve": AccountsHandler.approve,
    "refuse": AccountsHandler.refuse,
    "enable": AccountsHandler.enable,
    "disable": AccountsHandler.disable,
    "remove": AccountsHandler.remove,
    "reset": AccountsHandler.reset,
    "add": AccountsHandler.add,
}

HANDLERS: list[tuple[str, type[BaseHandler]]] = [
    (r"/login", SignInHandler),
    (r"/signup", SignUpHandler),
    (r"/password", PasswordHandler),
    (r"/accounts", AccountsHandler),
]
