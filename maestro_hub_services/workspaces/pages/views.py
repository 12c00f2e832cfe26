"""What the templates show: plain values made from the API's models. No I/O, no rules of the domain."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from maestro_core.errors import MaestroError
from maestro_core.invitations import Invitation
from maestro_core.launches import LaunchStatus, LaunchView
from maestro_core.packages import RuleSpec
from maestro_core.resources import Resources, format_memory, show_cpu, show_memory
from maestro_core.roles import Role, may
from maestro_core.usage import LaunchUsage, UsagePoint, WorkspaceUsage
from maestro_core.workspace_settings import WorkspaceSettings
from maestro_core.workspaces import LimitView, Member, ServersShown, WorkspaceView

from .links import Links

PERSONAL_TITLE = "Personal workspace"


@dataclass(frozen=True)
class Person:
    """Who looks at a page: their name, and whether they hold ``custom:maestro:admin``."""

    name: str
    admin: bool = False


@dataclass(frozen=True)
class Status:
    """State of a server: a key for the style, a word for people."""

    key: Literal["stopped", "starting", "running"]
    title: str


STOPPED = Status("stopped", "stopped")
STARTING = Status("starting", "starting")
RUNNING = Status("running", "running")
_STATUSES = {LaunchStatus.RESERVED: STARTING, LaunchStatus.RUNNING: RUNNING, LaunchStatus.ENDED: STOPPED}


@dataclass(frozen=True)
class Moment:
    """A time: in words relative to now, and exactly."""

    words: str
    exact: str


@dataclass(frozen=True)
class Action:
    """A link that is shown as a button."""

    title: str
    href: str


@dataclass(frozen=True)
class Server:
    """One launch as a row or a button; ``held_...``: as a form has it."""

    id: str
    label: str
    user: str
    workspace: str
    role: str
    status: Status
    profile: str
    resources: str
    held_cpu: str
    held_memory: str
    since: Moment
    href: str
    uses: str = ""
    hours: str = ""
    ends: str = ""


@dataclass(frozen=True)
class Card:
    """A workspace on the landing page."""

    name: str
    title: str
    description: str
    standing: str
    read_only: bool
    status: Status
    open: Action | None
    servers: tuple[Server, ...]
    members: str
    mlflow: str
    page: str


@dataclass(frozen=True)
class MemberRow:
    """A member of a workspace; ``you``: the person who looks; ``may_leave``: offered to them to leave."""

    kind: Literal["user", "group"]
    name: str
    role: str
    added_by: str
    you: bool
    may_leave: bool


@dataclass(frozen=True)
class LimitRow:
    """A limit: what is in use of it, if something adds up; for whom it was set, and by whom if not by the file."""

    title: str
    in_use: str
    shown: str
    source: str
    set_by: str


@dataclass(frozen=True)
class WorkspacePage:
    """A workspace's own page.

    Attributes:
        may_change, may_manage, may_archive: which forms are shown; the domain decides again when they are sent.
        limits_problem: why no limits can be shown, or None.
    """

    name: str
    title: str
    description: str
    personal: bool
    standing: str
    read_only: bool
    open: Action | None
    mlflow: str
    servers: tuple[Server, ...]
    members: tuple[MemberRow, ...]
    limits: tuple[LimitRow, ...]
    limits_problem: str | None
    may_change: bool
    may_manage: bool
    may_archive: bool

    @property
    def may_leave(self) -> bool:
        """Whether the person is a member who may leave."""
        return any(member.may_leave for member in self.members)


@dataclass(frozen=True)
class UsageRow:
    """A server of a workspace: who runs it, what it uses of what it was given, and why it will be stopped."""

    id: str
    user: str
    label: str
    status: Status
    cpu: str
    memory: str
    busy: str
    ends: str
    may_end: bool


@dataclass(frozen=True)
class Usage:
    """What a workspace uses: a sentence about its files, one about its hours, and its servers."""

    storage: str
    hours: str
    servers: tuple[UsageRow, ...]


@dataclass(frozen=True)
class InvitationRow:
    """An open invitation."""

    id: str
    workspace: str
    user: str
    role: str
    invited_by: str
    until: str


@dataclass(frozen=True)
class ArchivedRow:
    """An archived workspace; ``purge_from`` is empty when it may be purged now."""

    name: str
    since: Moment
    created_by: str
    purge_from: str
    purging: bool


@dataclass(frozen=True)
class AdminRow:
    """A workspace in the admin's table."""

    name: str
    page: str
    personal: bool
    members: int
    servers: int
    created_by: str
    created: Moment
    may_archive: bool


def moment(when: datetime, now: datetime | None = None) -> Moment:
    """``12 min ago``, ``3 h ago``, then the date; naive times are UTC."""
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    seconds = ((now or datetime.now(UTC)) - when).total_seconds()
    exact = when.strftime("%Y-%m-%d %H:%M UTC")
    if seconds < 60:
        return Moment("just now", exact)
    if seconds < 3600:
        return Moment(f"{seconds // 60:.0f} min ago", exact)
    if seconds < 86400:
        return Moment(f"{seconds // 3600:.0f} h ago", exact)
    return Moment(f"{when:%Y-%m-%d}", exact)


def servers_sentence(servers: ServersShown) -> str:
    """``0 of 3 servers``, or ``2 servers`` where nothing limits."""
    if servers.limit is None:
        return f"{servers.used} server{'' if servers.used == 1 else 's'}"
    return f"{servers.used} of {servers.limit} server{'' if servers.limit == 1 else 's'}"


def standing(view: WorkspaceView) -> str:
    """``You are owner, 0 of 3 servers``; for an admin who is no member, that they are none; archived, that it is."""
    if view.archived_at is not None:
        return f"Archived on {view.archived_at:%Y-%m-%d}: no server starts here until an owner or an admin restores it"
    role = f"You are {view.role.value}" if view.role else "You are not a member"
    return f"{role}, {servers_sentence(view.servers)}"


def server(launch: LaunchView, links: Links) -> Server:
    """A launch as a row."""
    status = _STATUSES[launch.status]
    href = links.server(launch.notebook_url) if status is RUNNING else links.pending(launch.user, launch.server_name)
    return Server(
        id=launch.session_id,
        label=launch.server_name or "default server",
        user=launch.user,
        workspace=launch.workspace,
        role=launch.role.value,
        status=status,
        profile=launch.profile,
        resources=launch.resources.show(),
        held_cpu=show_cpu(launch.resources.cpu),
        held_memory=format_memory(launch.resources.memory),
        since=moment(launch.started_at or launch.created_at),
        href=href,
    )


def cards(views: Iterable[WorkspaceView], launches: Sequence[LaunchView], person: Person, links: Links) -> list[Card]:
    """The landing page's cards, the personal workspace first, then by name."""
    ordered = sorted(views, key=lambda view: (not view.personal, view.name))
    return [_card(view, _own_servers(view, launches, person, links), person, links) for view in ordered]


def _card(view: WorkspaceView, servers: tuple[Server, ...], person: Person, links: Links) -> Card:
    return Card(
        name=view.name,
        title=title(view),
        description=view.description,
        standing=standing(view),
        read_only=_read_only(view.role),
        status=_overall(servers),
        open=_open(view, servers, person, links),
        servers=servers,
        members=f"{view.members} member{'' if view.members == 1 else 's'}",
        mlflow=links.mlflow(view.name),
        page=links.workspace(view.name),
    )


def digest(shown: Iterable[Card]) -> str:
    """Equal for cards that look the same; cards show no times, so times do not count."""
    seen = [[asdict(replace(card, servers=())), [(one.id, one.label) for one in card.servers]] for card in shown]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def refresh_seconds(shown: Iterable[Card]) -> int:
    """How often the page asks again: 2 s while a server starts, else 15 s (besides once, 3 s after a change)."""
    return 2 if any(card.status is STARTING for card in shown) else 15


def workspace_page(
    view: WorkspaceView,
    launches: Sequence[LaunchView],
    members: Iterable[Member],
    limits: Iterable[LimitView] | MaestroError,
    person: Person,
    links: Links,
) -> WorkspacePage:
    """The page of one workspace."""
    servers = _own_servers(view, launches, person, links)
    return WorkspacePage(
        name=view.name,
        title=title(view),
        description=view.description,
        personal=view.personal,
        standing=standing(view),
        read_only=_read_only(view.role),
        open=_open(view, servers, person, links),
        mlflow=links.mlflow(view.name),
        servers=servers,
        members=tuple(_member(member, view, person) for member in members),
        limits=() if isinstance(limits, MaestroError) else tuple(_limit(limit) for limit in limits),
        limits_problem=limits.message if isinstance(limits, MaestroError) else None,
        may_change=may(view.role, "change") or person.admin,
        may_manage=not view.personal and (may(view.role, "manage_members") or person.admin),
        may_archive=not view.personal and view.archived_at is None and (may(view.role, "archive") or person.admin),
    )


def admin_rows(
    views: Iterable[WorkspaceView],
    launches: Sequence[LaunchView],
    links: Links,
    samples: Mapping[str, UsagePoint],
    left_behind: Collection[str],
) -> tuple[list[AdminRow], list[Server]]:
    """The admin page's two tables: every workspace by name, every server that runs or starts by user.

    Args:
        samples: the last one of each server, by session id.
        left_behind: the personal workspaces whose user is gone: those may be archived.
    """
    active = [launch for launch in launches if launch.status.active]
    rows = [
        AdminRow(
            name=view.name,
            page=links.workspace(view.name),
            personal=view.personal,
            members=view.members,
            servers=sum(launch.workspace == view.name for launch in active),
            created_by=view.created_by,
            created=moment(view.created_at),
            may_archive=not view.personal or view.name in left_behind,
        )
        for view in sorted(views, key=lambda view: view.name)
    ]
    ordered = sorted(active, key=lambda one: (one.user, one.server_name))
    return rows, [_used(server(launch, links), launch, samples.get(launch.session_id)) for launch in ordered]


def _used(row: Server, launch: LaunchView, sample: UsagePoint | None) -> Server:
    """A server's row with what it uses, for how many hours it has run, and why it will be stopped."""
    ran = datetime.now(UTC) - (launch.started_at or datetime.now(UTC))
    used = "–" if sample is None else f"{sample.cpu:.2f} cpu, {show_memory(sample.memory)}"
    ends = _ends(launch.ends_at, launch.ends_reason)
    return replace(row, uses=used, hours=f"{ran.total_seconds() / 3600:.1f}", ends=ends)


def _ends(at: datetime | None, reason: str | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%H:%M:%S} UTC: {reason}"


def usage(found: WorkspaceUsage, may_end: bool) -> Usage:
    """What a workspace uses.

    Args:
        may_end: whether the person is offered to end servers of members whose role is gone.
    """
    limit = "" if found.storage_limit is None else show_memory(found.storage_limit)
    if found.storage_used is None:
        storage = "Its files were not measured yet" + (f"; they may take {limit}" if limit else "")
    else:
        of = f" of {limit}" if limit else ""
        when = "" if found.storage_measured_at is None else f" ({moment(found.storage_measured_at).words})"
        storage = f"Its files take {show_memory(found.storage_used)}{of}{when}"
    if limit:
        storage += "; the volume holds no more" if found.storage_held else "; over it no server starts"
    return Usage(
        storage=storage,
        hours=f"servers ran for {found.month.cpu:.1f} cpu hours and {found.month.gpu:.1f} GPU hours this month",
        servers=tuple(_usage_row(one, may_end) for one in found.launches),
    )


def _usage_row(launch: LaunchUsage, may_end: bool) -> UsageRow:
    cpu, memory, busy = used_of(launch.latest, launch.resources)
    return UsageRow(
        id=launch.session_id,
        user=launch.user,
        label=launch.server_name or "default server",
        status=_STATUSES[LaunchStatus(launch.status)],
        cpu=cpu,
        memory=memory,
        busy=busy,
        ends=_ends(launch.ends_at, launch.ends_reason),
        may_end=may_end and launch.ends_kind == "role",
    )


def ending(found: WorkspaceUsage, member: str) -> str:
    """A sentence about the servers of a member (all, for a group) that end because a role is gone or lower."""
    rows = [one for one in found.launches if one.ends_kind == "role" and one.ends_at is not None]
    rows = [one for one in rows if one.user == member] or rows
    if not rows:
        return ""
    users = ", ".join(sorted({one.user for one in rows})[:5])
    until = max(one.ends_at for one in rows if one.ends_at is not None).astimezone(UTC)
    return f"What {users} runs here ends at {until:%H:%M:%S} UTC; End now, under Usage, does not wait."


def used_of(sample: UsagePoint | None, given: Resources) -> tuple[str, str, str]:
    """cpu and memory, of what was given, and whether something works; dashes where nothing was heard yet."""
    if sample is None:
        return f"– of {show_cpu(given.cpu)}", f"– of {show_memory(given.memory)}", "–"
    return (
        f"{sample.cpu:.2f} of {show_cpu(given.cpu)}",
        f"{show_memory(sample.memory)} of {show_memory(given.memory)}",
        "yes" if sample.busy else "no",
    )


def invitations(found: Iterable[Invitation]) -> list[InvitationRow]:
    """Open invitations as rows."""
    return [
        InvitationRow(
            one.invitation_id, one.workspace, one.user, one.role.value, one.invited_by, f"{one.expires_at:%Y-%m-%d}"
        )
        for one in found
    ]


def archived(found: Iterable[WorkspaceView], now: datetime | None = None) -> list[ArchivedRow]:
    """Archived workspaces as rows, by name."""
    rows = []
    for view in sorted(found, key=lambda view: view.name):
        first = view.purge_from
        waits = first is not None and first > (now or datetime.now(UTC))
        rows.append(
            ArchivedRow(
                name=view.name,
                since=moment(view.archived_at or view.created_at),
                created_by=view.created_by,
                purge_from=f"{first:%Y-%m-%d %H:%M} UTC" if first is not None and waits else "",
                purging=view.purging,
            )
        )
    return rows


#: what the pages say of each kind of capture
CAPTURES = {
    "off": "never",
    "on-request": "in notebooks where somebody asks for it (%mlflow_capture on)",
    "always": "always: each stretch of cells becomes a run",
}


def set_up(view: WorkspaceView) -> list[tuple[str, str]]:
    """What a workspace is set up with: titles and values, only what is set."""
    settings = view.settings
    environment = settings.environment
    rows = {
        "A server gets": settings.resources.show() if settings.resources else "",
        "Python": (environment.python_version or "") if environment else "",
        "Variables of kernels": ", ".join(f"{name}={value}" for name, value in settings.variables.items()),
        "Packages asked for": ", ".join(settings.packages or ()),
        "Packages held back": ", ".join(rule.package for rule in _rules(settings)),
        "Notebook that opens": view.template or "",
        "Linked experiment": settings.experiment or "",
        "Executed cells as runs": CAPTURES[settings.captures],
    }
    return [(title, value) for title, value in rows.items() if value]


def _rules(settings: WorkspaceSettings) -> list[RuleSpec]:
    if settings.security is None:
        return []
    return [*(settings.security.blocked_packages or ()), *(settings.security.approval_required or ())]


def title(view: WorkspaceView) -> str:
    """What people call a workspace: its name, but their personal one is that to them."""
    return PERSONAL_TITLE if view.personal and view.role else view.name


def _read_only(role: Role | None) -> bool:
    return role is not None and not may(role, "write_files")


def _own_servers(
    view: WorkspaceView, launches: Sequence[LaunchView], person: Person, links: Links
) -> tuple[Server, ...]:
    mine = [one for one in launches if one.workspace == view.name and one.user == person.name and one.status.active]
    return tuple(server(one, links) for one in sorted(mine, key=lambda one: one.server_name))


def _overall(servers: Sequence[Server]) -> Status:
    for status in (STARTING, RUNNING):
        if any(one.status is status for one in servers):
            return status
    return STOPPED


def _open(view: WorkspaceView, servers: Sequence[Server], person: Person, links: Links) -> Action | None:
    """To the running server, else to the progress of the starting one, else to the form.

    Nothing for no member, and where it is archived.
    """
    for one in servers:
        if one.status is RUNNING:
            return Action("Open", one.href)
    if servers:
        return Action("Show progress", servers[0].href)
    if view.role is None or view.archived_at is not None:
        return None
    return Action("Open", links.spawn(person.name, "" if view.personal else view.name))


def _member(member: Member, view: WorkspaceView, person: Person) -> MemberRow:
    you = member.kind == "user" and member.name == person.name
    return MemberRow(
        kind=member.kind,
        name=member.name,
        role=member.role.value,
        added_by=member.added_by,
        you=you,
        may_leave=you and not view.personal,
    )


def _limit(limit: LimitView) -> LimitRow:
    return LimitRow(limit.title, limit.in_use_shown or "", limit.shown, limit.source, limit.origin)
