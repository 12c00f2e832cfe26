"""The one box that is printed when everything answers, and the lines around it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

SHARED_ORIGIN = (
    "All people share this address, so one person's notebook can act on another's pages in the same browser: "
    "fine for trying and among people who trust each other; else give each a subdomain (docs: Add it to your Hub)."
)
OPEN_WITHOUT_TLS = (
    "Other machines reach this address, and passwords pass in clear: put TLS before it and name its address in "
    "MAESTRO_PUBLIC_URL."
)


def say(line: str) -> None:
    """One line about the course of things."""
    print(line, flush=True)


def complain(line: str) -> None:
    """One line about why there is no going on."""
    print(line, file=sys.stderr, flush=True)


def show_box(
    address: str, passwords: Mapping[str, str], roles: Mapping[str, str], notes: list[str], seconds: float
) -> None:
    """Print the address and whatever was made for the first sign-in.

    Args:
        address: for the browser.
        passwords: user name -> password; shown this once.
        roles: user name -> what to write beside it.
        notes: sentences below.
        seconds: since the start.
    """
    text = Text()
    text.append("Maestro is ready: ").append(address, style="bold")
    width = max((len(name) for name in passwords), default=0)
    if passwords:
        text.append("\n\nSign in as\n")
    for name, password in passwords.items():
        text.append(f"  {name:<{width}}  ").append(password, style="bold")
        text.append(f"   {roles[name]}\n" if name in roles else "\n")
    for note in notes:
        text.append(f"\n{note}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    panel = Panel(text, padding=(1, 2), width=min(console.width, 100), subtitle=f"{seconds:.1f} s, Ctrl-C ends it")
    console.print(panel)
    sys.stdout.flush()
