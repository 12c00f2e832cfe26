"""The CLI's commands about packages that the policy holds back: check, ask, review, decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from pydantic import BaseModel

from maestro_core.errors import MaestroError
from maestro_core.requests import RequestView, Review

from .api import Api
from .console import as_json, print_json, say, table
from .package_requests import PackageRequests


@click.command("check-package")
@click.argument("package")
@click.argument("workspace", required=False)
@click.option("--version", metavar="V", help="A version or a range: 1.24.0, '>=1,<2'.")
@as_json
@click.pass_obj
def check_package(
    connect: Callable[[], Api], package: str, workspace: str | None, version: str | None, json_: bool
) -> None:
    """Say whether a package may be installed in a workspace, and which rule decides. Asks nobody.

    The workspace is, where none is named, the personal one, and inside a notebook its own.
    """
    found = PackageRequests(api=connect()).check(package, workspace, version)
    if json_:
        return _print(found)
    say(f"{found.answer.replace('_', ' ')}: {found.message}")
    if found.request is not None:
        say(f"It is asked for already: {found.request.request_id}.")
    elif found.answer == "held_back":
        say(f"Ask for it with 'maestro request {found.workspace} {package}'.")


@click.command()
@click.argument("workspace", required=False)
@click.argument("package", required=False)
@click.option("--version", metavar="V", help="A version or a range: 1.24.0, '>=1,<2' [default: any].")
@click.option("--reason", default="", metavar="TEXT", help="What it is for, for the reviewer.")
@click.option("--list", "list_", is_flag=True, help="Show what you asked for, and the answers (W: its requests).")
@click.option("--withdraw", metavar="ID", help="Ask for this no longer.")
@as_json
@click.pass_obj
def request(
    connect: Callable[[], Api], /, workspace: str | None, package: str | None, version: str | None, reason: str,
    list_: bool, withdraw: str | None, json_: bool,
) -> None:  # fmt: skip
    """Ask a reviewer for a package that the policy holds back: maestro request W PACKAGE"""
    requests = PackageRequests(api=connect())
    if withdraw:
        requests.withdraw(withdraw)
        return say(f"{withdraw} is withdrawn.")
    if list_:
        return _show_list(
            requests.of_workspace(workspace) if workspace else requests.mine(), json_, "You asked for nothing."
        )
    if not workspace or not package:
        raise MaestroError(
            "invalid_request", "Name a workspace and a package, as in 'maestro request demo numpy', or take --list."
        )
    answer = requests.ask(package, workspace, version, reason)
    return _print(answer) if json_ else say(answer.message)


@click.command()
@click.argument("request_id", metavar="[ID]", required=False)
@click.option("--pending", is_flag=True, help="Those that wait for a decision of yours (also without it).")
@as_json
@click.pass_obj
def review(connect: Callable[[], Api], request_id: str | None, pending: bool, json_: bool) -> None:
    """List the requests that wait for your decision, or show one with what there is to know about it."""
    requests = PackageRequests(api=connect())
    if request_id is None:
        return _show_list(requests.to_review(), json_, "Nothing waits for your decision.")
    found = requests.get(request_id)
    if json_:
        return _print(found)
    _show(found)


@click.command()
@click.argument("request_id", metavar="ID")
@click.option("--version", metavar="V", help="This version alone.")
@click.option("--range", "range_", metavar="R", help="These versions: '>=1.20,<2'.")
@click.option("--all", "all_", is_flag=True, help="Every version.")
@click.option("--everywhere", is_flag=True, help="In every workspace (admins).")
@click.option("--until", metavar="DATE", help="To the end of that day, UTC: 2027-03-31.")
@click.option("--reason", default=None, metavar="TEXT", help="For whoever asked.")
@click.option(
    "--seen", metavar="STAMP", help="As 'maestro review ID' shows it: refused if other facts are known by now."
)
@as_json
@click.pass_obj
def approve(
    connect: Callable[[], Api], /, request_id: str, version: str | None, range_: str | None, all_: bool,
    everywhere: bool, until: str | None, reason: str | None, seen: str | None, json_: bool,
) -> None:  # fmt: skip
    """Approve a request: its major version, in its workspace, unless you say otherwise.

    What the package needs and waits for an approval too is approved with it. It installs at once, in running servers.
    """
    requests = PackageRequests(api=connect())
    checked_at = seen or stamp_of(requests.get(request_id).review)
    done = requests.approve(
        request_id, version=version, range=range_, all=all_, everywhere=everywhere, until=until, reason=reason,
        checked_at=checked_at,
    )  # fmt: skip
    if json_:
        return _print(done)
    say(f"Approved {_rules(done)}{' until ' + f'{done.until:%Y-%m-%d}' if done.until else ''}.")


@click.command()
@click.argument("request_id", metavar="ID")
@click.option("--reason", required=True, metavar="TEXT", help="For whoever asked.")
@as_json
@click.pass_obj
def deny(connect: Callable[[], Api], request_id: str, reason: str, json_: bool) -> None:
    """Deny a request, with a reason."""
    done = PackageRequests(api=connect()).deny(request_id, reason)
    if json_:
        return _print(done)
    say(f"Denied {done.shown} for {done.workspace}.")


@click.command("clear-cache")
@click.argument("workspace")
@as_json
@click.pass_obj
def clear_cache(connect: Callable[[], Api], workspace: str, json_: bool) -> None:
    """Have the package index ask upstream anew what there is, where a new release is not seen yet.

    Files are kept, since each is known by its hash. pip's and uv's own caches in a server: 'pip cache purge', 'uv cache
    clean'.
    """
    done = PackageRequests(api=connect()).clear_cache(workspace)
    if json_:
        return _print(done)
    say("The index asks upstream anew within 5 seconds.")


def force_package(
    api: Api, workspace: str, packages: Sequence[str], sha256: str | None, reason: str, json_: bool
) -> None:
    """What ``install --force`` does.

    Raises:
        MaestroError: ``invalid_request`` unless all of it is said; what the service says.
    """
    name, _, version = packages[0].partition("==") if len(packages) == 1 else ("", "", "")
    if not (name and version and sha256 and reason):
        raise MaestroError(
            "invalid_request",
            "A file is let in with all of it said: maestro install W NAME==VERSION --force --sha256 HASH --reason TEXT",
        )
    done = PackageRequests(api=api).force(workspace, name, version, sha256, reason)
    if json_:
        return _print(done)
    until = f"{done.until:%H:%M} UTC"
    say(f"Until {until} this file installs in {workspace}: pip install {done.package}=={done.version}")


COMMANDS: tuple[click.Command, ...] = (check_package, request, review, approve, deny, clear_cache)


def stamp_of(review: Review | None) -> str | None:
    """Which facts a reviewer has seen; None: they are none."""
    if review is None:
        return None
    return review.facts.checked_at.isoformat() if review.facts else "none"


def _print(data: BaseModel) -> None:
    print_json(data.model_dump(mode="json"))


def _show_list(found: Sequence[RequestView], json_: bool, none: str) -> None:
    if json_:
        return print_json([one.model_dump(mode="json") for one in found])
    if not found:
        return say(none)
    rows = [[one.request_id, one.shown, one.workspace, one.status, _who(one), _answer(one)] for one in found]
    table(["request", "package", "workspace", "status", "asked by", "answer"], rows)


def _show(found: RequestView) -> None:
    say(f"{found.shown} for {found.workspace}: {found.status}. {found.sentence}")
    for asker in found.askers:
        say(f"  {asker.user} asks for {found.package}{asker.version}{': ' + asker.reason if asker.reason else ''}")
    if found.status != "pending":
        say(f"  {_answer(found)}")
    if found.review is not None:
        _show_review(found.review)
        if found.may_decide:
            say(f"  Approve what stands here: maestro approve {found.request_id} --seen {stamp_of(found.review)}")


def _show_review(review: Review) -> None:
    for line in review.notes():
        say(f"  {line}")
    if review.closure:
        rows = [
            [f"{one.name} {one.version}", one.licence or "-", "wheel" if one.wheel else "source", one.action.value,
             ", ".join(one.advisories) or one.sentence or "-"]
            for one in review.closure
        ]  # fmt: skip
        table(["would be installed", "licence", "as", "policy", ""], rows)


def _who(found: RequestView) -> str:
    return ", ".join(one.user for one in found.askers)


def _answer(found: RequestView) -> str:
    if found.status == "pending":
        return "-"
    rules = f"{_rules(found)} " if found.approved else ""
    return f"{rules}by {found.decided_by}{': ' + found.answer if found.answer else ''}"


def _rules(found: RequestView) -> str:
    shown = ", ".join(rule.shown for rule in found.approved)
    return (
        f"{shown} {'everywhere' if any(rule.level == 'global' for rule in found.approved) else 'in ' + found.workspace}"
    )
