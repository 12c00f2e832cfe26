"""The CLI's commands about what is known against packages, and what is found in a workspace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from maestro_core.advisories import AdvisoryStatus
from maestro_core.errors import MaestroError
from maestro_core.scans import ScanReport, Severity

from .advisories import AdvisoryManager
from .api import Api
from .console import as_json, err, print_json, say, table
from .scans import Scanner

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


@click.command("security-scan")
@click.argument("workspace", required=False, metavar="[WORKSPACE]")
@click.option(
    "--sbom",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the packages and what is known against them as CycloneDX JSON ('-': print it).",
)
@click.option(
    "--fail-on",
    type=click.Choice([one.value for one in Severity]),
    metavar="SEVERITY",
    help="End with 1 if something so bad is found, or worse: high, medium, low.",
)
@as_json
@click.pass_obj
def security_scan(
    connect: Callable[[], Api], workspace: str | None, sbom: Path | None, fail_on: str | None, json_: bool
) -> None:  # fmt: skip
    """Look through a workspace: its packages, the code of its notebooks, secrets in their outputs.

    It runs inside your notebook server of the workspace, which has to be running. Packages are compared with the policy
    and the known advisories ('maestro advisories'); code is read by bandit, and for imports that the policy blocks.
    WORKSPACE is yours by default: personal; inside a notebook its own.
    """
    with err.status("Scanning ..."):
        report, document = Scanner(api=connect()).scan(workspace, sbom is not None)
    if sbom is not None:
        _write(sbom, document)
    if json_:
        print_json(report.model_dump(mode="json"))
    elif str(sbom) != "-":
        _show(report)
    order = list(Severity)
    if fail_on and any(order.index(one.severity) <= order.index(Severity(fail_on)) for one in report.findings):
        raise SystemExit(1)


def _write(path: Path, document: str) -> None:
    if str(path) == "-":
        return say(document)
    try:
        path.write_text(document + "\n", encoding="utf-8")
    except OSError as error:
        raise MaestroError("invalid_request", f"{path} cannot be written: {error.strerror}.") from None


def _show(report: ScanReport) -> None:
    if report.findings:
        rows = [[one.severity.value, one.what, one.where, one.why, one.todo] for one in report.findings]
        table(["", "what", "where", "why", "what to do"], rows)
    known = "no advisories are known here" if not report.advisories.count else f"{report.advisories.count} advisories"
    found = len(report.findings) or "nothing"
    say(f"{report.workspace}: {found} found in {len(report.packages)} packages ({known}) and {report.files} files.")
    for note in report.notes:
        err.print(f"Note: {note}", markup=False, highlight=False)
