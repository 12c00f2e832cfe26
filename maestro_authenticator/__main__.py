"""Accounts from the terminal of the Hub's machine: ``python -m maestro_authenticator --state DIR COMMAND NAME...``.

``first NAME``   a one-time password for the first admin; nothing once they have chosen their own
``reset NAME``   a one-time password for anybody, a locked-out admin for example
``give NAME...`` passwords that need not be changed (samples of ``make demo``)

Each prints ``name password`` on stdout, a line each.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from maestro_core.errors import MaestroError

from .accounts import Accounts, NewerDatabase, Status
from .passwords import Passwords
from .rules import check_new_name, one_time_password


async def first(accounts: Accounts, names: list[str]) -> dict[str, str]:
    """One-time passwords for those of ``names`` who have not chosen their own yet."""
    open_ones = []
    for name in names:
        account = await accounts.find(name)
        if account is None or account.must_change or account.status is Status.PENDING:
            open_ones.append(name)
    return await _give(accounts, open_ones, must_change=True)


async def reset(accounts: Accounts, names: list[str]) -> dict[str, str]:
    """One-time passwords, whatever there was; disabled accounts are let in again."""
    return await _give(accounts, names, must_change=True)


async def give(accounts: Accounts, names: list[str]) -> dict[str, str]:
    """Passwords to keep."""
    return await _give(accounts, names, must_change=False)


COMMANDS = {"first": first, "reset": reset, "give": give}


async def _give(accounts: Accounts, names: list[str], *, must_change: bool) -> dict[str, str]:
    passwords, given = Passwords(), {}
    for name in names:
        given[name] = one_time_password()
        await accounts.give(name, await passwords.hash(given[name]), must_change=must_change)
    return given


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m maestro_authenticator", description="Passwords of accounts.")
    parser.add_argument("--state", default="state", type=Path, help="the installation's data (default: ./state)")
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("names", nargs="+", metavar="NAME")
    options = parser.parse_args(arguments)
    accounts = Accounts(options.state.absolute() / "accounts" / "accounts.sqlite")
    try:
        names = [check_new_name(name) for name in options.names]
        given = asyncio.run(COMMANDS[options.command](accounts, names))
    except (MaestroError, NewerDatabase, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for name, password in given.items():
        print(name, password)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
