"""The Hub's hooks: who may sign in, and what happens to an account when the Hub's user comes and goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyterhub.auth import Authenticator
from jupyterhub.user import User
from tornado import web
from traitlets import Bool, Unicode

from .accounts import Account, Accounts, Status
from .address import client_address
from .device import device_of, remember
from .passwords import Passwords
from .rules import normal_name
from .throttle import Throttle, TooMany


class PasswordChangeDue(web.HTTPError):
    """The one-time password was right; it opens the page that changes it, and nothing else."""

    def __init__(self, name: str) -> None:
        super().__init__(403, "This password was given for one use; choose your own on the Hub's password page first.")
        self.name = name


class MaestroAuthenticator(Authenticator):
    """Local accounts: people sign up, an admin approves them, passwords are argon2id hashes.

    Admins are the Hub's (``Authenticator.admin_users``, the Hub's admin page). A name of ``admin_users``, or one that
    the Hub knows already, cannot be signed up for; an admin gives such a person a one-time password.
    """

    accounts_path = Unicode(
        "accounts/accounts.sqlite",
        config=True,
        help="The sqlite file of the accounts; it and its directory are closed to everybody else.",
    )

    open_sign_up = Bool(
        True,
        config=True,
        help="Whether people may ask for an account; if not, admins add them on the accounts page.",
    )

    # every approved account may come in; allowed_users narrows that when it is set and allow_all is False
    allow_all = Bool(True, config=True, help=Authenticator.allow_all.help).tag(allow_config=True)

    # refresh_user says no for good reasons only, so tokens of a disabled account end as well
    auth_refresh_strict = Bool(True, config=True, help=Authenticator.auth_refresh_strict.help)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.accounts = Accounts(Path(self.accounts_path).absolute())
        self.passwords = Passwords()
        self.throttle = Throttle(self.accounts)

    def get_handlers(self, app: Any) -> list[tuple[str, type]]:
        """The pages below ``/hub``: sign-in, sign-up, password, accounts."""
        from . import handlers

        return handlers.HANDLERS

    async def authenticate(self, handler: Any, data: dict[str, str]) -> dict[str, Any] | None:
        """Called by the Hub's login form and token API; None for a wrong name or password.

        Raises:
            PasswordChangeDue: the password is a one-time one.
            tornado.web.HTTPError: 403 for an account that waits or is disabled, 429 after too many failures.
        """
        account = await self.check_password(data.get("username", ""), data.get("password", ""), handler)
        if account is None:
            return None
        if account.must_change:
            raise PasswordChangeDue(account.name)
        return {"name": account.name}

    async def check_password(self, name_text: str, password: str, handler: Any) -> Account | None:
        """The approved account of this name and password; None if they do not fit. Takes as long for unknown names.

        Args:
            handler: of the request; None for a caller within the Hub.

        Raises:
            tornado.web.HTTPError: 403 for an account that waits or is disabled (only with the right password), 429.
        """
        name = normal_name(name_text)
        shown = name or name_text
        address = client_address(handler.request) if handler else ""
        device = device_of(handler, name) if handler and name else None
        counted = {"name and address": f"{shown}\0{address}", "address": address}
        counted |= {"name": shown} if device is None else {"name and device": f"{shown}\0{device}"}
        try:
            await self.throttle.attempt(counted)
        except TooMany as error:
            raise web.HTTPError(429, f"Too many failed sign-ins; try again in {error.seconds} seconds.") from None
        account = await self.accounts.find(name) if name else None
        if not await self.passwords.verify(account.password if account else None, password) or account is None:
            return None
        await self.throttle.success(counted)
        if account.status is Status.PENDING:
            raise web.HTTPError(403, "Your account waits for the admin's approval; try again later.")
        if account.status is Status.DISABLED:
            raise web.HTTPError(403, "Your account is disabled; ask the admin.")
        if self.passwords.outdated(account.password):
            await self.accounts.rehash(account.name, account.password, await self.passwords.hash(password))
        if handler:
            remember(handler, account.name)
        return account

    async def sign_up(self, name: str, password: str, *, free: bool) -> None:
        """Keep a wish for an account, unless the name is taken; the caller cannot tell, nor measure, which it was.

        Args:
            name: from :func:`rules.check_new_name`; password: from :func:`rules.check_new_password`.
            free: whether the Hub may give this name away (it knows no user of it).
        """
        hashed = await self.passwords.hash(password)
        kept = free and name not in self.admin_users and await self.accounts.ask(name, hashed)
        self.log.info("Sign-up %s", f"of {name} waits for approval" if kept else "with a name that is taken")

    def validate_username(self, username: str) -> bool:
        """The Hub's rule and ours, for users that admins add too."""
        return super().validate_username(username) and normal_name(username) == username

    def check_allowed(self, username: str, authentication: dict[str, Any] | None = None) -> bool:
        """Every account that ``authenticate`` lets through, or those of ``allowed_users`` with ``allow_all`` False."""
        return self.allow_all or username in self.allowed_users

    async def refresh_user(self, user: User, handler: Any = None) -> bool:
        """Whether the person may go on: False once the account is disabled or no longer allowed.

        A Hub user without an account (added by an admin, or renamed) has no password, hence no new session: what they
        have lives on.
        """
        if not self.check_allowed(user.name) or not self.check_blocked_users(user.name):
            return False
        account = await self.accounts.find(user.name)
        return account is None or account.status is Status.APPROVED

    async def add_user(self, user: User) -> None:
        """Called when the Hub gets a user. A stranger's waiting sign-up must not become that user's account."""
        super().add_user(user)
        await self.accounts.remove(user.name, only=Status.PENDING)

    async def delete_user(self, user: User) -> None:
        """Called when an admin deletes the Hub's user: the account goes too, the name is free for a new sign-up."""
        super().delete_user(user)
        await self.accounts.remove(user.name)
