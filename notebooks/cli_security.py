"""The CLI's commands about what is known against packages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from maestro_core.advisories import AdvisoryStatus

from .advisories import AdvisoryManager
from .api import Api
from .console import as_json, err, print_json, say

#: names of files that could not be read, shown
_SHOWN = 5


@click.group()
def advisories() -> None:
    """Known advisories about packages, for the policy, scans and reviewers.

    Maestro asks nobody on the internet: an admin imports OSV's records, as a file, whenever there are new ones.
    """


@advisories.command("import")
@click.argument("path", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@as_json
@click.pass_obj
def advisories_import(connect: Callable[[], Api], path: tuple[Path, ...], json_: bool) -> None:
    """Import OSV records: the zip of the PyPI ecosystem that OSV publishes, JSON files, or folders of them.

    They take the place of all that was known before. Records of malware (MAL-...) block from the next request on.
    """
    with err.status("Importing ..."):
        done = AdvisoryManager(api=connect()).import_osv(path)
    if json_:
        return print_json({"records": done.records, "skipped": done.skipped, "status": done.status.model_dump()})
    say(f"Read {done.records} records. {_shown(done.status)}")
    for line in done.skipped[:_SHOWN]:
        err.print(f"Not read: {line}", markup=False, highlight=False)
    if len(done.skipped) > _SHOWN:
        err.print(f"Not read: {len(done.skipped) - _SHOWN} more", markup=False, highlight=False)


@advisories.command("status")
@as_json
@click.pass_obj
def advisories_status(connect: Callable[[], Api], json_: bool) -> None:
    """Show how many advisories are known, and how old they are."""
    found = AdvisoryManager(api=connect()).status()
    return print_json(found.model_dump()) if json_ else say(_shown(found))


def _shown(status: AdvisoryStatus) -> str:
    if not status.count:
        return "No advisories are known; import some with 'maestro advisories import'."
    return (
        f"{status.count} advisories are known, {status.malware} of them about malware; imported {status.imported_at}, "
        f"the newest record is of {status.newest or 'an unknown day'}."
    )
