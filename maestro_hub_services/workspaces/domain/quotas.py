"""Quotas for admins: every figure with who set it, set one at runtime, take it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.figures import QuotaList, QuotaSpec, QuotaView, check_level
from maestro_core.policy import Policy
from maestro_core.quota import FILE, LEVELS, LIMITS, Figures, Limit, Override, Quotas, parse_figure
from maestro_hub_services.store import Place, Unit

from ..authority import Authority
from ..identity import Caller


async def list_quotas(authority: Authority, caller: Caller) -> QuotaList:
    """Every figure of ``maestro.yaml`` and of runtime.

    Raises:
        MaestroError: ``invalid_policy`` while no policy is in force.
    """
    file = Figures(authority.policy.current.quotas)
    async with authority.store.read() as unit:
        rows = {(row.level, row.name, row.limit): row for _, row in await unit.quotas.every()}
    places = {(level, name, limit) for level, name in _levels_of_file(authority.policy.current) for limit in LIMITS}
    known = [place for place in places if place in rows or file.limit(*place) is not None]
    order = {name: number for number, name in enumerate((*LEVELS, *LIMITS))}
    found = sorted({*known, *rows}, key=lambda place: (order[place[0]], place[1], order[place[2]]))
    return QuotaList(quotas=tuple(_view(file, *place, rows.get(place)) for place in found))


async def put_quota(authority: Authority, caller: Caller, limit: str, spec: QuotaSpec) -> QuotaView:
    """Set a figure at runtime: it wins over the file's of the same level, from the next decision on.

    Raises:
        MaestroError: ``invalid_request`` or ``invalid_resources`` naming what is wrong; ``unknown_user``,
            ``unknown_group``, ``unknown_workspace`` where the name is nobody's.
    """
    check_level(spec.level, spec.name)
    value = parse_figure(spec.level, limit, spec.value)
    policy = authority.policy.current
    place = await _place(authority, spec.level, spec.name)
    async with authority.store.write() as unit:
        place = await _with_workspace(unit, place)
        was = await unit.quotas.get(place, limit)
        await unit.quotas.put(place, limit, value, caller.name)
        await _note(unit, "quota_set", caller, place, limit, value=value, was=None if was is None else was.value)
        row = await unit.quotas.get(place, limit)
    return _view(Figures(policy.quotas), place.level, place.name, limit, row)


async def remove_quota(authority: Authority, caller: Caller, limit: str, level: str, name: str) -> None:
    """Forget what was set at runtime; the file's figure counts again. Works for those who are gone, too.

    Raises:
        MaestroError: ``invalid_request``; ``unknown_quota`` where nothing was set at runtime.
    """
    check_level(level, name)
    async with authority.store.write() as unit:
        rows = [(place, row) for place, row in await unit.quotas.every() if (row.level, row.name, row.limit) == (
            level, name, limit)]  # fmt: skip
        if not rows:
            raise MaestroError(
                "unknown_quota",
                f"No {limit[:60]!r} was set at runtime for {LEVELS[level].shown.format(name)}; figures of {FILE} are "
                "changed in the file.",
            )
        for place, row in rows:
            await unit.quotas.remove(place, limit)
            await _note(unit, "quota_removed", caller, place, limit, was=row.value)


async def _place(authority: Authority, level: str, name: str) -> Place:
    """The level with the Hub's own name, and the creation stamp of a user."""
    if level == "user":
        user = await authority.hub.member_user(name)
        return Place(level, user.name, user.created)
    if level in ("group", "group-pool"):
        await authority.hub.check_group(name)
    return Place(level, name)


async def _with_workspace(unit: Unit, place: Place) -> Place:
    if place.level != "workspace":
        return place
    workspace = await unit.workspaces.by_name(place.name)
    if workspace is None:
        raise MaestroError(
            "unknown_workspace",
            f"There is no workspace {place.name[:40]!r}; look at the list on the admin page.",
            {"workspace": place.name[:40]},
        )
    return Place("workspace", workspace.name, workspace.id)


async def _note(unit: Unit, kind: str, caller: Caller, place: Place, limit: str, **figures: Any) -> None:
    await unit.events.append(
        kind,
        caller.name,
        workspace_id=place.stamp if place.level == "workspace" else None,
        user=place.name if place.level == "user" else None,
        level=place.level,
        name=place.name,
        limit=limit,
        **figures,
    )


def _levels_of_file(policy: Policy) -> Iterator[tuple[str, str]]:
    quotas: Quotas = policy.quotas
    named: dict[str, Mapping[str, object]] = {
        "group": quotas.groups,
        "user": quotas.users,
        "workspace": quotas.workspaces,
        "group-pool": quotas.pools.groups,
    }
    for level, kind in LEVELS.items():
        yield from ((level, name) for name in named[level]) if kind.named else ((level, ""),)


def _view(file: Figures, level: str, name: str, limit: str, row: Override | None) -> QuotaView:
    in_file = file.limit(level, name, limit)
    source = LEVELS[level].shown.format(name)
    if row is not None:
        shown = Limit(limit, row.value, source, LEVELS[level].scope, name, row.set_by, row.set_at)
    elif in_file is not None:
        shown = in_file
    else:
        raise LookupError((level, name, limit))
    return QuotaView(
        level=level,
        name=name,
        set_for=source,
        limit=limit,
        title=LIMITS[limit].title,
        value=shown.value,
        shown=shown.shown(shown.value),
        origin=shown.origin,
        set_by=shown.set_by,
        set_at=shown.set_at,
        file_shown=None if in_file is None else in_file.shown(in_file.value),
    )
