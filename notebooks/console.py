"""What every command of the CLI writes with, and how it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from maestro_core.errors import MaestroError

# into a pipe or a file whole lines are written, so that programs can read them
out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 240)
err = Console(stderr=True, soft_wrap=True)

#: what a command means when no workspace is named
HERE = "[default: personal; inside a notebook its own]"
as_json = click.option("--json", "json_", is_flag=True, help="Print JSON for a program instead of text.")


class RefusalGroup(click.Group):
    """Turns a refusal into one sentence and its exit code, whatever command raised it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MaestroError as error:
            err.print(f"Error: {plain(error.message)}", style="red", markup=False, highlight=False)
            ctx.exit(error.kind.exit_code)


def say(text: str) -> None:
    """Lines; what they hold is text, not markup, and no terminal control codes: much of it is other people's words."""
    out.print("\n".join(map(plain, text.split("\n"))), markup=False, highlight=False)


def print_json(data: Any) -> None:
    """For programs."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns with a head; the first is never broken."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        grid.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        grid.add_row(*[plain(cell) for cell in row])
    out.print(grid, markup=False)


def plain(text: str) -> str:
    """Text without terminal control codes: names, descriptions and logs are other people's words (markup is off)."""
    return "".join(char if char.isprintable() or char == "\t" else " " for char in click.unstyle(text))
