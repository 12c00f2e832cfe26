"""Requests for packages: asking, listing, deciding. What a decision allows is said in :mod:`maestro_core.requests`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from maestro_core.environments import MAX_REASON as MAX_LINE
from maestro_core.environments import EnvironmentChange
from maestro_core.errors import MaestroError
from maestro_core.packages import PYPI, Action, Verdict
from maestro_core.requests import (
    MAX_PENDING,
    Approval,
    ApprovedRule,
    Asker,
    Denial,
    Facts,
    PackageAnswer,
    PackageAsk,
    RequestList,
    RequestStatus,
    RequestView,
    approved_versions,
    major_range,
    shown,
)
from maestro_core.roles import may
from maestro_hub_services.store import AskerRow, EnvironmentRow, RequestRow, RuleRow, Unit, WorkspaceRow
from maestro_hub_services.store.clock import now

from ..authority import Authority
from ..identity import Caller
from . import environments
from .access import opened, own_workspaces, role_in
from .packages import compiled, see_exists, verdict_on
from .reviewing import held_back, review_of


async def ask(authority: Authority, caller: Caller, workspace: str, asked: PackageAsk) -> PackageAnswer:
    """Ask for a package in a workspace: ``allowed``, or ``requested`` where the policy holds it back.

    What is allowed becomes part of the workspace's environment, where an editor asks and does not say otherwise.

    Raises:
        MaestroError: ``unknown_workspace``; ``unknown_package``; ``package_blocked`` with the policy's sentence;
            ``conflict`` with too many requests pending.
    """
    await _see_exists(authority, caller, workspace, asked)
    async with opened(authority, caller, workspace, "read", write=True) as (unit, standing):
        place = standing.workspace
        verdict = verdict_on(await compiled(authority, unit, place), asked.package, asked.version, asked.channel)
        row = installed = None
        if verdict.allowed and asked.install and asked.channel == PYPI and may(standing.role, "install_packages"):
            change = EnvironmentChange(add=(asked.shown,), reason=asked.reason[:MAX_LINE])
            installed = await environments.record(unit, place, caller.name, change)
        elif verdict.action is Action.ASK:
            row = await _join(unit, caller, place, asked, verdict)
        elif verdict.action is Action.BLOCK:
            await unit.events.count_up(
                "package_refused",
                caller.name,
                workspace_id=place.id,
                user=caller.name,
                package=asked.shown,
                rule=verdict.rule,
            )
        view = None if row is None else await _view(authority, unit, caller, row)
    if verdict.action is Action.BLOCK:
        raise blocked(asked, verdict, place.name)
    return PackageAnswer(
        workspace=place.name,
        package=asked.package,
        version=asked.version,
        channel=asked.channel,
        answer="allowed" if view is None else "requested",
        message=_answer(asked, place.name, verdict, installed, view),
        rule=verdict.rule,
        request=view,
    )


def _answer(
    asked: PackageAsk, workspace: str, verdict: Verdict, installed: EnvironmentRow | None, view: RequestView | None
) -> str:
    if view is not None:
        return f"{verdict.reason.partition('. ')[0]}. A reviewer is asked: request {view.request_id}."
    if installed is None:
        return f"{asked.shown} may be installed in {workspace}."
    return (
        f"{asked.shown} is part of {workspace}: version {installed.number} of its environment, for servers that start "
        "from now on."
    )


def blocked(asked: PackageAsk, verdict: Verdict, workspace: str) -> MaestroError:
    """The policy's no."""
    details = {"workspace": workspace, "package": asked.package, "rule": verdict.rule, "level": verdict.level}
    return MaestroError("package_blocked", verdict.reason, details)


async def check(authority: Authority, caller: Caller, workspace: str, asked: PackageAsk) -> PackageAnswer:
    """What the policy of a workspace says to a package; asks nobody.

    Raises:
        MaestroError: ``unknown_workspace``, ``unknown_package``.
    """
    await _see_exists(authority, caller, workspace, asked)
    async with opened(authority, caller, workspace, "read") as (unit, standing):
        place = standing.workspace
        verdict = verdict_on(await compiled(authority, unit, place), asked.package, asked.version, asked.channel)
        row = await unit.requests.pending(place.id, asked.package, asked.channel)
        view = None if row is None else await _view(authority, unit, caller, row)
    return PackageAnswer(
        workspace=place.name,
        package=asked.package,
        version=asked.version,
        channel=asked.channel,
        answer={Action.ALLOW: "allowed", Action.ASK: "held_back", Action.BLOCK: "blocked"}[verdict.action],
        message=verdict.reason or f"{asked.shown} may be installed in {place.name}.",
        rule=verdict.rule,
        request=view,
    )


async def _see_exists(authority: Authority, caller: Caller, workspace: str, asked: PackageAsk) -> None:
    """Refuse a name that nobody has, before a reviewer looks for it; what is blocked is blocked all the same.

    Raises:
        MaestroError: ``unknown_workspace``, ``unknown_package``.
    """
    async with opened(authority, caller, workspace, "read") as (unit, standing):
        place = standing.workspace
        verdict = verdict_on(await compiled(authority, unit, place), asked.package, asked.version, asked.channel)
    if asked.channel == PYPI and verdict.action is not Action.BLOCK:
        await see_exists(authority, place.name, [asked.package])


async def _join(unit: Unit, caller: Caller, place: WorkspaceRow, asked: PackageAsk, verdict: Verdict) -> RequestRow:
    user = caller.person
    row = await unit.requests.pending(place.id, asked.package, asked.channel)
    known = row is not None and any(
        (one.user, one.user_created) == (user.name, user.created)
        for one in (await unit.requests.askers([row.id]))[row.id]
    )
    if not known and await unit.requests.count_pending(user.name, user.created) >= MAX_PENDING:
        raise MaestroError(
            "conflict",
            f"You have {MAX_PENDING} requests that wait for an answer; withdraw some, or wait for a reviewer.",
            {"limit": "pending_requests", "value": MAX_PENDING},
        )
    said = {"rule": verdict.rule, "sentence": verdict.reason[:1000]}
    if row is None:  # who asks again for what they have withdrawn leaves no second one
        row = await unit.requests.reopen(
            place.id, asked.package, asked.channel, user.name, user.created, version=asked.version, **said
        )
    if row is None:
        row = await unit.requests.add(place.id, asked.package, asked.channel, asked.version, **said)
    await unit.requests.join(row.id, user.name, user.created, asked.version, asked.reason)
    await unit.events.count_up(
        "package_requested",
        user.name,
        workspace_id=place.id,
        user=user.name,
        request_id=row.id,
        package=asked.shown,
        reason=asked.reason,
    )
    return row


async def list_mine(authority: Authority, caller: Caller) -> RequestList:
    """What the caller asks, the newest first; a notebook server's token sees those of its own workspace."""
    user = caller.person
    async with authority.store.read() as unit:
        rows = await unit.requests.of_user(user.name, user.created)
        if caller.notebook:
            own = await own_workspaces(unit, caller)
            rows = [row for row in rows if row.workspace_id in own]
        return await _views(authority, unit, caller, rows)


async def list_of_workspace(authority: Authority, caller: Caller, workspace: str) -> RequestList:
    """The requests of a workspace, for its members, the newest first.

    Raises:
        MaestroError: ``unknown_workspace``.
    """
    async with opened(authority, caller, workspace, "read") as (unit, standing):
        return await _views(authority, unit, caller, await unit.requests.of_workspace(standing.workspace.id))


async def list_to_review(authority: Authority, caller: Caller) -> RequestList:
    """The pending requests about which the caller may decide, the oldest first."""
    async with authority.store.read() as unit:
        found = await _views(authority, unit, caller, await unit.requests.all_pending())
    return RequestList(requests=tuple(one for one in reversed(found.requests) if one.may_decide))


async def view(authority: Authority, caller: Caller, request_id: str) -> RequestView:
    """One request, for whoever asks it, members of its workspace, and reviewers (with what they need to decide).

    Raises:
        MaestroError: ``unknown_request``.
    """
    async with authority.store.read() as unit:
        row = await _find(authority, unit, caller, request_id)
        found = await _view(authority, unit, caller, row)
        if not _reviews(authority, caller, await unit.workspaces.get(row.workspace_id)):
            return found
        return found.model_copy(update={"review": await review_of(authority, unit, row)})


async def approve(authority: Authority, caller: Caller, request_id: str, approval: Approval) -> RequestView:
    """Allow what was asked, and what it needs that the policy asks about too. Counts for the next install.

    Raises:
        MaestroError: ``unknown_request``, ``forbidden``; ``conflict`` for one that is decided, or that a block holds,
            or where other facts are known than the reviewer has seen; ``invalid_request``.
    """
    if approval.until is not None and approval.until <= now():
        raise MaestroError("invalid_request", "The approval would have ended already; name a later date.",
                           {"field": "until"})  # fmt: skip
    if approval.everywhere and not caller.admin:
        raise MaestroError("forbidden", "Only an admin approves for every workspace; leave that out, or ask one.")
    async with authority.store.write() as unit:
        row, place = await _to_decide(authority, unit, caller, request_id)
        policy = await compiled(authority, unit, place)
        verdict = verdict_on(policy, row.package, row.version, row.channel)
        if verdict.action is Action.BLOCK:
            raise MaestroError(
                "conflict", f"An approval would change nothing: {verdict.reason}", {"rule": verdict.rule}
            )
        facts = None if row.facts is None else Facts.model_validate(row.facts)
        _see_same_facts(approval, facts)
        versions = approved_versions(approval, row.version, facts.version if facts else None)
        rules = {(row.channel, row.package): versions}  # another channel's package of that name is another package
        for item in held_back(policy, row, facts):
            rules.setdefault((PYPI, item.name), "" if approval.all else major_range(item.version))
        for (channel, package), specifier in rules.items():
            await unit.rules.add(
                package,
                specifier,
                Action.ALLOW,
                caller.name,
                workspace_id=None if approval.everywhere else place.id,
                request_id=row.id,
                channel=channel,
                until=approval.until,
            )
        woken = await _decide(unit, caller, row, "approved", approval.reason)
        await unit.events.append(
            "package_approved",
            caller.name,
            workspace_id=place.id,
            request_id=row.id,
            package=shown(row.package, row.version, row.channel),
            rules=[shown(package, specifier, channel) for (channel, package), specifier in rules.items()],
            everywhere=approval.everywhere,
            until=None if approval.until is None else approval.until.isoformat(),
            reason=approval.reason,
        )
        if approval.everywhere:
            woken += await _answer_the_same(authority, unit, caller, row, approval)
        found = await _view(authority, unit, caller, await _again(unit, row))
    _wake(authority, woken)
    return found


async def _answer_the_same(
    authority: Authority, unit: Unit, caller: Caller, decided: RequestRow, approval: Approval
) -> list[str]:
    """What waits in other workspaces and is allowed now is answered too; the launches to be woken."""
    woken: list[str] = []
    for row in await unit.requests.all_pending():
        if (row.package, row.channel) != (decided.package, decided.channel):
            continue
        policy = await compiled(authority, unit, await unit.workspaces.get(row.workspace_id))
        if verdict_on(policy, row.package, row.version, row.channel).allowed:
            woken += await _decide(unit, caller, row, "approved", approval.reason)
    return woken


async def deny(authority: Authority, caller: Caller, request_id: str, denial: Denial) -> RequestView:
    """Say no, and why.

    Raises:
        MaestroError: ``unknown_request``, ``forbidden``; ``conflict`` for one that is decided.
    """
    async with authority.store.write() as unit:
        row, place = await _to_decide(authority, unit, caller, request_id)
        woken = await _decide(unit, caller, row, "denied", denial.reason)
        await unit.events.append(
            "package_denied",
            caller.name,
            workspace_id=place.id,
            request_id=row.id,
            package=shown(row.package, row.version, row.channel),
            reason=denial.reason,
        )
        found = await _view(authority, unit, caller, await _again(unit, row))
    _wake(authority, woken)
    return found


async def withdraw(authority: Authority, caller: Caller, request_id: str) -> None:
    """Ask no longer. When nobody asks any more, the request is withdrawn.

    Raises:
        MaestroError: ``unknown_request``; ``conflict`` for one that is decided.
    """
    user = caller.person
    async with authority.store.write() as unit:
        row = await _find(authority, unit, caller, request_id)
        askers = (await unit.requests.askers([row.id]))[row.id]
        if not any((one.user, one.user_created) == (user.name, user.created) for one in askers):
            raise unknown(request_id)
        _see_pending(row)
        if len(askers) > 1:
            await unit.requests.leave(row.id, user.name, user.created)
        else:  # the last one stays on it, so that it is still theirs to see
            await unit.requests.decide(row.id, "withdrawn", caller.name, "")
            await unit.requests.forget_withdrawn(user.name, user.created, keep=MAX_PENDING)
        await unit.events.count_up(
            "package_request_withdrawn",
            user.name,
            workspace_id=row.workspace_id,
            user=user.name,
            request_id=row.id,
            package=shown(row.package, row.version, row.channel),
        )


def unknown(request_id: str) -> MaestroError:
    """The one sentence for a request that does not exist and for one of others."""
    return MaestroError(
        "unknown_request",
        f"There is no request {request_id[:40]!r} that is yours or your workspaces'; see 'maestro request --list'.",
        {"request_id": request_id[:40]},
    )


# -- who may -----------------------------------------------------------------------------------------------------------


def _reviews(authority: Authority, caller: Caller, place: WorkspaceRow) -> bool:
    """Whether the caller decides about requests of a workspace: admins, and whom ``maestro.yaml`` names."""
    if caller.notebook or caller.user is None:
        return False
    if caller.admin:
        return True
    try:
        reviewers = authority.policy.current.packages.reviewers
    except MaestroError:  # no policy is in force
        return False
    return any(one.covers(caller.user.name, caller.user.groups, place.name) for one in reviewers)


def _own(caller: Caller, askers: Iterable[AskerRow]) -> bool:
    return any((one.user, one.user_created) == (caller.person.name, caller.person.created) for one in askers)


async def _find(authority: Authority, unit: Unit, caller: Caller, request_id: str) -> RequestRow:
    row = await unit.requests.get(request_id)
    if row is None:
        raise unknown(request_id)
    place, user = await unit.workspaces.get(row.workspace_id), caller.person
    if caller.notebook and place.id not in await own_workspaces(unit, caller):
        raise unknown(request_id)
    if _reviews(authority, caller, place) or _own(caller, (await unit.requests.askers([row.id]))[row.id]):
        return row
    if not place.open or await role_in(unit, place.id, user) is None:
        raise unknown(request_id)
    return row


async def _to_decide(
    authority: Authority, unit: Unit, caller: Caller, request_id: str
) -> tuple[RequestRow, WorkspaceRow]:
    row = await _find(authority, unit, caller, request_id)
    place = await unit.workspaces.get(row.workspace_id)
    if not _reviews(authority, caller, place):
        raise MaestroError(
            "forbidden",
            f"You do not decide about packages of {place.shown_name}; admins do, and those whom maestro.yaml names as "
            "reviewers.",
            {"workspace": place.shown_name},
        )
    _see_pending(row)
    if not caller.admin and _own(caller, (await unit.requests.askers([row.id]))[row.id]):
        raise MaestroError("forbidden", "You ask for this yourself, so another reviewer decides about it.")
    if not place.open:
        raise MaestroError("conflict", f"{place.shown_name} is archived; nothing is installed there.")
    return row, place


def _see_pending(row: RequestRow) -> None:
    if row.status != "pending":
        by = f" by {row.decided_by}" if row.decided_by else ""
        raise MaestroError("conflict", f"The request {row.id} is {row.status}{by} already.", {"status": row.status})


def _see_same_facts(approval: Approval, facts: Facts | None) -> None:
    """The reviewer means what they have seen; members of the workspace can have it looked for anew meanwhile."""
    if approval.checked_at is None or approval.checked_at == (facts.checked_at if facts else "none"):
        return
    raise MaestroError(
        "conflict",
        "What is known about the package has changed since you looked, so nothing is approved; look at it again, then "
        "decide.",
        {"checked_at": facts.checked_at.isoformat() if facts else "none"},
    )


async def _again(unit: Unit, row: RequestRow) -> RequestRow:
    return await unit.requests.get(row.id) or row


async def _decide(unit: Unit, caller: Caller, row: RequestRow, status: RequestStatus, answer: str) -> list[str]:
    """Note the decision; the launches of those who asked, to be woken once it is kept."""
    await unit.requests.decide(row.id, status, caller.name, answer)
    asked = {(one.user, one.user_created) for one in (await unit.requests.askers([row.id]))[row.id]}
    launches = await unit.launches.in_workspace(row.workspace_id)
    return [launch.id for launch in launches if (launch.user, launch.user_created) in asked]


def _wake(authority: Authority, launches: Iterable[str]) -> None:
    for launch_id in launches:
        authority.bell.ring(launch_id)


# -- how it looks ------------------------------------------------------------------------------------------------------


async def _view(authority: Authority, unit: Unit, caller: Caller, row: RequestRow) -> RequestView:
    return (await _views(authority, unit, caller, [row])).requests[0]


async def _views(authority: Authority, unit: Unit, caller: Caller, rows: Sequence[RequestRow]) -> RequestList:
    ids = [row.id for row in rows]
    askers, rules = await unit.requests.askers(ids), await unit.rules.of_requests(ids)
    places = {row.workspace_id: await unit.workspaces.get(row.workspace_id) for row in rows}
    found = []
    inside = {key: await _inside(authority, unit, caller, place) for key, place in places.items()}
    for row in rows:
        place = places[row.workspace_id]
        decides = row.status == "pending" and place.open and _reviews(authority, caller, place)
        found.append(
            RequestView(
                request_id=row.id,
                workspace=place.shown_name,
                package=row.package,
                version=row.version,
                channel=row.channel,
                status=row.status,
                rule=row.rule,
                sentence=row.sentence,
                asked_at=row.asked_at,
                askers=tuple(_asker(one) for one in askers[row.id] if inside[row.workspace_id] or _own(caller, [one])),
                decided_by=row.decided_by,
                decided_at=row.decided_at,
                answer=row.answer,
                approved=tuple(_rule(one) for one in rules[row.id]),
                until=next((one.until for one in rules[row.id]), None),
                may_decide=decides and (caller.admin or not _own(caller, askers[row.id])),
            )
        )
    return RequestList(requests=tuple(found))


async def _inside(authority: Authority, unit: Unit, caller: Caller, place: WorkspaceRow) -> bool:
    """Whether the caller sees what others ask there: who has left a workspace sees their own words alone."""
    return _reviews(authority, caller, place) or await role_in(unit, place.id, caller.person) is not None


def _asker(row: AskerRow) -> Asker:
    return Asker(user=row.user, version=row.version, reason=row.reason, asked_at=row.asked_at)


def _rule(row: RuleRow) -> ApprovedRule:
    level = "global" if row.workspace_id is None else "workspace"
    return ApprovedRule(package=row.package, versions=row.version, channel=row.channel or PYPI, level=level)
