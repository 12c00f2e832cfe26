"""The pages of the service, through tornado and the Hub's own sign-in and XSRF code, over a desk of fake data."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from bs4 import BeautifulSoup
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from maestro_core.environments import EnvironmentView, PackageShown
from maestro_core.errors import MaestroError
from maestro_core.figures import NearView, QuotaSpec, QuotaView
from maestro_core.invitations import Invitation, InvitationSpec
from maestro_core.launches import LaunchStatus, LaunchView, ScaleRequest
from maestro_core.lifecycle import Kept, PurgeReport, Removed
from maestro_core.resources import Resources
from maestro_core.roles import Role
from maestro_core.snapshots import SnapshotContent, SnapshotView
from maestro_core.usage import LaunchUsage, UsagePoint, WorkspaceUsage
from maestro_core.workspace_settings import WorkspaceSettings
from maestro_core.workspaces import LimitView, Member, MemberSpec, ServersShown, Transfer, UserRef, WorkspaceView
from maestro_hub_services.workspaces.identity import ADMIN, MANAGE, USE, Caller, Identity
from maestro_hub_services.workspaces.pages import Links, Site, page_routes, views
from maestro_hub_services.workspaces.pages.base import security_headers
from maestro_hub_services.workspaces.pages.desk import PolicyStatus

PREFIX = "/services/workspaces/"
TEMPLATES = Path(__file__).parents[2] / "templates" / "pages"
HOSTILE = "<script>alert('x')<script><img src=x onerror=alert(1)>\"'&"
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def workspace(name: str, role: Role | None = Role.OWNER, **values: Any) -> WorkspaceView:
    known = {"description": "", "personal": False, "members": 1, "servers": ServersShown(used=0, limit=3)}
    return WorkspaceView(
        workspace_id=f"w-{name}", name=name, role=role, created_by="ann", created_at=NOW, **(known | values)
    )


def launch(name: str, user: str = "ann", status: LaunchStatus = LaunchStatus.RUNNING, **values: Any) -> LaunchView:
    known = {"server_name": name, "notebook_url": f"/user/{user}/{name}/lab"}
    return LaunchView(
        session_id=f"l-{name}",
        user=user,
        workspace=name,
        role=Role.OWNER,
        profile="small",
        resources=Resources(cpu=2, memory="4Gi"),
        status=status,
        mlflow_experiment=name,
        created_at=NOW,
        **(known | values),
    )


def quota(limit: str, level: str, shown: str, set_by: str | None = None, **values: Any) -> QuotaView:
    known = {"name": "", "set_for": level, "title": limit, "value": 1.0, "origin": set_by or "maestro.yaml"}
    return QuotaView(level=level, limit=limit, shown=shown, set_by=set_by, **(known | values))


def invitation(name: str, user: str, role: Role = Role.EDITOR) -> Invitation:
    return Invitation(
        invitation_id=f"i-{name}",
        workspace=name,
        user=user,
        role=role,
        invited_by="bob",
        invited_at=NOW,
        expires_at=datetime(2026, 12, 1, tzinfo=UTC),
    )


def sample(**values: Any) -> UsagePoint:
    known = {"seconds": 30, "cpu": 0.75, "memory": 3 * 1024**3, "memory_peak": 3 * 1024**3, "busy": 1}
    return UsagePoint(at=NOW, **(known | values))


@dataclass
class FakeDesk:
    """Answers from lists, refuses what it is told to refuse, and remembers what it was asked to do."""

    views: list[WorkspaceView] = field(
        default_factory=lambda: [workspace("u-ann-1a2b3c", personal=True), workspace("demo")]
    )
    running: list[LaunchView] = field(default_factory=list)
    people: list[Member] = field(default_factory=list)
    refusal: MaestroError | None = None
    limits_refusal: MaestroError | None = None
    policy_status: PolicyStatus = field(default_factory=lambda: PolicyStatus("maestro.yaml", "abc123", None))
    done: list[tuple[Any, ...]] = field(default_factory=list)
    figures: list[QuotaView] = field(default_factory=list)
    near_ones: list[NearView] = field(default_factory=list)
    archived_ones: list[WorkspaceView] = field(default_factory=list)
    left: bool = False
    used: WorkspaceUsage = field(default_factory=lambda: WorkspaceUsage(workspace="demo"))
    sampled: dict[str, UsagePoint] = field(default_factory=dict)
    installed: EnvironmentView = field(
        default_factory=lambda: EnvironmentView(workspace="demo", version=0, parent=0, author="", at=None, current=0)
    )
    invited: list[Invitation] = field(default_factory=list)
    saved: list[SnapshotView] = field(default_factory=list)
    notebook: dict[str, Any] = field(default_factory=dict)
    report: PurgeReport = field(
        default_factory=lambda: PurgeReport(
            workspace="old",
            workspace_id="w-1",
            state="purging",
            removed=(Removed(what="files", count=12, bytes=2 * 1024**2),),
            left=("MLflow's data",),
        )
    )

    def _do(self, *what: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.done.append(what)

    async def workspaces(self, *, everything: bool = False) -> list[WorkspaceView]:
        return self.views

    async def workspace(self, name: str) -> WorkspaceView:
        for view in self.views:
            if view.name == name:
                return view
        raise MaestroError("unknown_workspace", "There is no such workspace that you belong to.")

    async def members(self, name: str) -> list[Member]:
        return self.people

    async def environment(self, name: str) -> EnvironmentView:
        return self.installed

    async def versions(self, name: str, path: str | None, limit: int) -> list[SnapshotView]:
        return [one for one in self.saved if path in (None, one.path)][:limit]

    async def version(self, name: str, address: str) -> tuple[SnapshotContent, list[SnapshotView]]:
        found = [one for one in self.saved if one.address.startswith(address)]
        if not found:
            raise MaestroError("unknown_snapshot", "This workspace has no such version.")
        return SnapshotContent(address=found[0].address, notebook=self.notebook), found

    async def limits(self, name: str) -> list[LimitView]:
        if self.limits_refusal is not None:
            raise self.limits_refusal
        kind = {"name": "max_concurrent_notebooks", "title": "servers at once", "value": 3, "shown": "3"}
        return [LimitView(**kind, source="everyone", scope="user", in_use=0, in_use_shown="0")]

    async def launches(self, *, everything: bool = False) -> list[LaunchView]:
        return self.running

    async def create(self, spec: Any) -> WorkspaceView:
        self._do("create", spec.name, spec.description)
        self.views.append(workspace(spec.name))
        return self.views[-1]

    async def change(self, name: str, change: Any) -> None:
        self._do("change", name, change.description if "description" in change.model_fields_set else change.capture)

    async def put_member(self, name: str, member: MemberSpec) -> Member:
        self._do("put", name, member.kind, member.name, member.role)
        return Member(kind=member.kind, name=member.name, role=member.role, added_by="ann", added_at=NOW)

    async def remove_member(self, name: str, kind: str, member: str) -> None:
        self._do("remove", name, kind, member)

    async def archive(self, name: str) -> None:
        self._do("archive", name)

    async def stop(self, session_id: str) -> LaunchView:
        self._do("stop", session_id)
        return launch("demo")

    async def archived(self, *, everything: bool = False) -> list[WorkspaceView]:
        return self.archived_ones

    async def restore(self, name: str) -> None:
        self._do("restore", name)

    async def purge(self, name: str) -> PurgeReport:
        self._do("purge", name)
        return self.report

    async def purged(self, workspace_id: str) -> PurgeReport:
        return self.report

    async def left_behind(self) -> set[str]:
        return {"u-gone-1a2b3c"}

    async def transfer(self, name: str, to: Transfer) -> Member:
        self._do("transfer", name, to.kind, to.name)
        return Member(kind=to.kind, name=to.name, role=Role.OWNER, added_by="ann", added_at=NOW)

    async def usage(self, name: str) -> WorkspaceUsage:
        if self.left:
            raise MaestroError("unknown_workspace", "There is no such workspace that you belong to.")
        return self.used

    async def samples(self) -> dict[str, UsagePoint]:
        return self.sampled

    async def invitations(self, name: str | None = None) -> list[Invitation]:
        return [one for one in self.invited if name is None or one.workspace == name]

    async def invite(self, name: str, spec: InvitationSpec) -> Invitation:
        self._do("invite", name, spec.user, spec.role)
        return invitation(name, spec.user)

    async def withdraw(self, name: str, invitation_id: str) -> None:
        self._do("withdraw", name, invitation_id)

    async def accept(self, invitation_id: str) -> Member:
        self._do("accept", invitation_id)
        return Member(kind="user", name="ann", role=Role.EDITOR, added_by="bob", added_at=NOW)

    async def decline(self, invitation_id: str) -> None:
        self._do("decline", invitation_id)

    async def scale(self, session_id: str, asked: ScaleRequest) -> LaunchView:
        self._do("scale", session_id, asked.cpu, asked.memory, asked.restart)
        return launch("demo").model_copy(update={"resources": Resources(cpu=asked.cpu, memory=asked.memory)})

    async def quotas(self) -> list[QuotaView]:
        return self.figures

    async def near(self) -> list[NearView]:
        return self.near_ones

    async def set_quota(self, limit: str, spec: QuotaSpec) -> QuotaView:
        self._do("set_quota", limit, spec.level, spec.name, spec.value)
        return quota(limit, spec.level, str(spec.value), "root")

    async def remove_quota(self, limit: str, level: str, name: str) -> None:
        self._do("remove_quota", limit, level, name)

    def policy(self) -> PolicyStatus:
        return self.policy_status


class FakeHub:
    """Knows every user by name."""

    async def user(self, name: str) -> UserRef:
        return UserRef(name=name, created="2026-01-01T00:00:00Z")


class SignIn(RequestHandler):
    """What the Hub's sign-in leaves in the browser: the token of a session in a signed cookie."""

    def get(self, token: str) -> None:
        self.set_signed_cookie("service-workspaces", token, path=PREFIX)


class Browser:
    """A browser without scripts: it keeps cookies, says that it navigates, and sends forms as they stand."""

    def __init__(self, address: str) -> None:
        self.client = httpx.AsyncClient(base_url=address, headers={"Sec-Fetch-Mode": "navigate"})
        self.page = BeautifulSoup("", "html.parser")

    async def get(self, path: str = "", **options: Any) -> httpx.Response:
        answer = await self.client.get(PREFIX + path, **options)
        self.page = BeautifulSoup(answer.text, "html.parser")
        return answer

    async def send(self, action: str, follow: bool = True, **fields: str) -> httpx.Response:
        """Send the form of this action on the present page, its hidden fields included."""
        form = self.page.find("form", action=PREFIX + action)
        assert form is not None, f"the page has no form for {action}"
        hidden = {tag["name"]: tag["value"] for tag in form.find_all("input", type="hidden")}
        answer = await self.client.post(PREFIX + action, data=hidden | fields, follow_redirects=follow)
        self.page = BeautifulSoup(answer.text, "html.parser")
        return answer

    def text(self) -> str:
        return " ".join(self.page.get_text(" ").split())

    def alert(self) -> str:
        tag = self.page.find(role="alert")
        return "" if tag is None else tag.get_text().strip()


@dataclass
class World:
    """The running pages: their address, the desk behind them, the scopes of the next session, who was let in."""

    address: str
    desk: FakeDesk
    scopes: dict[str, list[str]]
    callers: list[Caller] = field(default_factory=list)

    async def sign_in(self, name: str = "ann", *scopes: str) -> Browser:
        self.scopes[name] = list(scopes or (USE, MANAGE))
        browser = Browser(self.address)
        await browser.client.get(f"/sign-in/{name}")
        return browser


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """The real handlers, templates, cookies and XSRF checks; only the Hub's word and the domain are fakes."""
    options = {
        "api_url": "http://127.0.0.1:1/hub/api",
        "api_token": "of-the-service",
        "oauth_client_id": "service-workspaces",
        "base_url": PREFIX,
        "access_scopes": {"access:services!service=workspaces"},
    }
    identity = Identity(FakeHub(), **options)  # type: ignore[arg-type]
    made = World("", FakeDesk(), {})

    async def user_for_token(token: str, **_: Any) -> dict[str, Any] | None:
        if token not in made.scopes:
            return None
        scopes = [*made.scopes[token], "access:services!service=workspaces"]
        return {"kind": "user", "name": token, "scopes": scopes}

    monkeypatch.setattr(identity.auth, "user_for_token", user_for_token)

    def desk_for(caller: Caller) -> FakeDesk:
        made.callers.append(caller)
        return made.desk

    site = Site(TEMPLATES, identity, Links("/", PREFIX), desk_for)  # type: ignore[arg-type]
    server = HTTPServer(Application([(r"/sign-in/(.*)", SignIn), *page_routes(site)], cookie_secret=b"c" * 32))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        server.add_socket(listening)
        made.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield made
        server.stop()
        await server.close_all_connections()


# Who may look


async def test_a_stranger_is_sent_to_the_hubs_sign_in_and_comes_back(world: World) -> None:
    answer = await Browser(world.address).get("w/demo")
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("/hub/api/oauth2/authorize?client_id=service-workspaces")
    assert world.callers == []


async def test_a_fetch_without_session_makes_the_page_reload_instead_of_following_to_the_sign_in(world: World) -> None:
    answer = await Browser(world.address).get("cards", headers={"HX-Request": "true", "Sec-Fetch-Mode": "cors"})
    assert answer.status_code == 401
    assert answer.headers["hx-refresh"] == "true"


async def test_the_address_without_its_slash_leads_on(world: World) -> None:
    async with httpx.AsyncClient(base_url=world.address) as client:
        assert (await client.get(PREFIX.rstrip("/"))).headers["location"] == PREFIX


async def test_a_token_opens_no_page(world: World) -> None:
    """A notebook server's token is weak; pages manage members, so they take a browser's session only."""
    world.scopes["ann"] = [USE, MANAGE]
    async with httpx.AsyncClient(base_url=world.address, headers={"Authorization": "token ann"}) as client:
        assert (await client.get(PREFIX)).status_code == 403
        assert (await client.post(f"{PREFIX}new", data={"name": "mine"})).status_code == 403
        in_url = await client.get(f"{PREFIX}?token=ann", headers={"Sec-Fetch-Mode": "websocket", "Authorization": ""})
        assert in_url.status_code == 302
    assert world.desk.done == []


async def test_the_hubs_absence_is_one_sentence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = await world.sign_in()

    async def away(self: Any, name: str) -> UserRef:
        raise MaestroError("hub_unavailable", "The Hub does not answer; try again in a moment.")

    monkeypatch.setattr(FakeHub, "user", away)
    answer = await browser.get()
    assert answer.status_code == 503
    assert "The Hub does not answer; try again in a moment." in browser.text()
    assert "Traceback" not in answer.text


async def test_a_session_that_may_not_manage_sends_no_form(world: World) -> None:
    browser = await world.sign_in("ann", USE)
    await browser.get()
    answer = await browser.send("new", name="mine")
    assert answer.status_code == 403
    assert world.desk.done == []


@pytest.mark.parametrize(
    "action",
    [
        "new",
        "w/demo/about",
        "w/demo/members",
        "w/demo/members/remove",
        "w/demo/archive",
        "w/demo/restore",
        "w/demo/purge",
        "w/demo/transfer",
        "w/demo/invitations",
        "w/demo/invitations/withdraw",
        "invitations/accept",
        "invitations/decline",
        "stop/l-demo",
        "scale/l-demo",
        "admin/quotas",
        "admin/quotas/remove",
    ],
)
async def test_no_form_is_taken_without_its_xsrf_token(world: World, action: str) -> None:
    browser = await world.sign_in()
    await browser.get()
    for token in ({}, {"_xsrf": "guessed"}):
        answer = await browser.client.post(PREFIX + action, data={"name": "mine", "sure": "demo", **token})
        assert answer.status_code == 403
        assert "reload the page" in answer.text
    assert world.desk.done == []


async def test_one_persons_xsrf_token_is_no_good_for_another(world: World) -> None:
    ann, bob = await world.sign_in("ann"), await world.sign_in("bob")
    await ann.get()
    await bob.get()
    token = ann.page.find("input", attrs={"name": "_xsrf"})["value"]
    answer = await bob.client.post(f"{PREFIX}new", data={"name": "mine", "_xsrf": token})
    assert answer.status_code == 403
    assert world.desk.done == []


# What is shown


async def test_cards_say_role_and_servers_and_lead_to_the_spawn_form(world: World) -> None:
    browser = await world.sign_in("ann@example.org")
    await browser.get()
    card = browser.page.find(id="card-demo")
    assert "You are owner, 0 of 3 servers" in card.get_text()
    assert card.find(id="open-demo")["href"] == "/hub/spawn/ann@example.org/demo"
    personal = browser.page.find(id="card-u-ann-1a2b3c")
    assert personal.find("h2").get_text() == "Personal workspace"
    assert personal.find(id="open-u-ann-1a2b3c")["href"] == "/hub/spawn/ann@example.org"
    assert card.find("a", string="MLflow")["href"] == "/services/mlflow/#/experiments?workspace=demo"


async def test_a_running_server_opens_and_stops_and_a_starting_one_shows_its_progress(world: World) -> None:
    world.desk.views += [workspace("slow")]
    world.desk.running = [launch("demo"), launch("slow", status=LaunchStatus.RESERVED), launch("demo", user="bob")]
    browser = await world.sign_in()
    await browser.get()
    assert browser.page.find(id="open-demo")["href"] == "/user/ann/demo/lab"
    assert browser.page.find(id="open-slow")["href"] == "/hub/spawn-pending/ann/slow"
    assert len(browser.page.find(id="card-demo").find_all("form")) == 1, "only my own server can be stopped here"
    await browser.send("stop/l-demo")
    assert world.desk.done == [("stop", "l-demo")]
    assert browser.page.find(role="status").get_text() == "The server in demo is stopping."
    assert browser.page.find("h1").get_text() == "Workspaces", "one comes back to where the button was"


async def test_a_running_server_is_scaled_from_its_workspaces_page(world: World) -> None:
    world.desk.running = [launch("demo")]
    browser = await world.sign_in()
    await browser.get("w/demo")
    form = browser.page.find("form", action=f"{PREFIX}scale/l-demo")
    assert [field["value"] for field in form.find_all("input", class_="form-control")] == ["2", "4Gi"]
    await browser.send("scale/l-demo", cpu="8", memory="16g", back="demo")
    assert browser.page.find(role="status").get_text() == "The server in demo has 8 cpu, 16 GiB."
    await browser.send("scale/l-demo", cpu="1", memory="1Gi", back="demo", restart="1")
    assert world.desk.done == [("scale", "l-demo", 8, 16 * 1024**3, False), ("scale", "l-demo", 1, 1024**3, True)]
    await browser.send("scale/l-demo", cpu="lots", memory="1Gi", back="demo")
    assert "'lots' is not an amount of cpu" in browser.page.find(role="status").get_text()


async def test_the_cards_alone_are_asked_for_again_and_answered_only_when_they_changed(world: World) -> None:
    browser = await world.sign_in()
    await browser.get()
    cards = browser.page.find(id="cards")
    assert cards["hx-trigger"].endswith("every 15s")
    path = cards["hx-get"].removeprefix(PREFIX)
    fetched = {"HX-Request": "true", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    assert (await browser.client.get(PREFIX + path, headers=fetched)).status_code == 401, "a fetch needs the token too"
    fetched["X-XSRFToken"] = browser.page.find("input", attrs={"name": "_xsrf"})["value"]
    assert (await browser.client.get(PREFIX + path, headers=fetched)).status_code == 204
    world.desk.running = [launch("demo", status=LaunchStatus.RESERVED)]
    answer = await browser.get(path, headers=fetched)
    assert answer.status_code == 200
    assert browser.page.find(id="cards")["hx-trigger"].endswith("every 2s")
    assert browser.page.find("html") is None, "only the part, not the frame"


async def test_nothing_that_people_wrote_becomes_html(world: World) -> None:
    # the names are what no rule would let through: the pages do not lean on the rules
    views = [workspace("demo").model_copy(update={"name": HOSTILE, "description": HOSTILE, "created_by": HOSTILE})]
    world.desk.views = [*views, workspace("demo", description=HOSTILE)]
    world.desk.people = [Member(kind="group", name=HOSTILE, role=Role.VIEWER, added_by=HOSTILE, added_at=NOW)]
    world.desk.running = [launch("demo", user="ann").model_copy(update={"server_name": HOSTILE, "profile": HOSTILE})]
    world.desk.policy_status = PolicyStatus(HOSTILE, HOSTILE, HOSTILE)
    world.desk.refusal = MaestroError("conflict", HOSTILE)
    browser = await world.sign_in("ann", USE, MANAGE, ADMIN)
    for path in ("", "w/demo", "admin", "w/" + quote(HOSTILE)):
        answer = await browser.get(path)
        assert "alert(" in answer.text, f"{path} shows nothing hostile, so it proves nothing"
        assert_harmless(browser.page)
    await browser.get("w/demo")
    await browser.send("w/demo/members", name=HOSTILE, kind=HOSTILE, role="editor", adding="1")
    assert_harmless(browser.page)
    assert browser.page.find(id="member-name")["value"] == HOSTILE
    await browser.get()
    await browser.send("stop/l-demo")
    assert browser.page.find(role="status").get_text() == HOSTILE


def assert_harmless(page: BeautifulSoup) -> None:
    """No script of ours is inline, no handler is, and no link leads to a script."""
    for script in page.find_all("script"):
        assert script.get("src") and not script.get_text().strip()
    for tag in page.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on")]
        assert not str(tag.get("href", "")).lower().startswith("javascript:")
        assert "style" not in tag.attrs


async def test_admin_items_and_the_admin_page_are_for_admins(world: World) -> None:
    browser = await world.sign_in("ann")
    await browser.get()
    assert "Maestro admin" not in browser.text()
    answer = await browser.get("admin")
    assert answer.status_code == 403
    assert "for admins of Maestro" in browser.text()

    world.desk.running = [launch("demo", user="bob")]
    world.desk.policy_status = PolicyStatus("maestro.yaml", "abc123", "maestro.yaml line 3: not YAML.")
    admin = await world.sign_in("root", USE, MANAGE, ADMIN)
    assert (await admin.get("admin")).status_code == 200
    assert admin.alert() == "maestro.yaml line 3: not YAML."
    assert "2 cpu, 4 GiB" in admin.text()
    assert admin.page.find("a", attrs={"aria-current": "page"}).get_text() == "Maestro admin"
    await admin.send("stop/l-demo")
    assert admin.page.find("h1").get_text() == "Maestro admin"


async def test_every_control_has_a_name_for_a_screen_reader(world: World) -> None:
    world.desk.running = [launch("demo")]
    world.desk.people = [Member(kind="user", name="ann", role=Role.OWNER, added_by="ann", added_at=NOW)]
    browser = await world.sign_in("ann", USE, MANAGE, ADMIN)
    for path in ("", "w/demo", "admin", "w/nothing"):
        await browser.get(path)
        assert browser.page.html["lang"] == "en"
        assert len(browser.page.find_all("h1")) == 1
        for control in browser.page.find_all(["input", "select", "textarea", "button", "a"]):
            if control.get("type") == "hidden":
                continue
            labelled = browser.page.find("label", attrs={"for": control.get("id")}) if control.get("id") else None
            image = control.find("img", alt=True)
            assert control.get_text().strip() or control.get("aria-label") or labelled or image, control
        ids = [tag["id"] for tag in browser.page.find_all(id=True)]
        assert len(ids) == len(set(ids)), "an id stands twice"
        for tag in browser.page.find_all(attrs={"aria-describedby": True}):
            assert set(tag["aria-describedby"].split()) <= set(ids)


async def test_the_headers_close_the_page(world: World) -> None:
    browser = await world.sign_in()
    for path in ("", "w/nothing", "static/maestro.css"):
        headers = (await browser.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
    for path in ("", "w/nothing", "no/such/page"):
        headers = (await browser.get(path)).headers
        assert "script-src 'self';" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"


def test_where_services_have_their_own_domain_the_hubs_files_are_let_in() -> None:
    policy = security_headers(Links("https://hub.example.org/jh/", PREFIX))["Content-Security-Policy"]
    assert "style-src 'self' https://hub.example.org;" in policy
    assert "connect-src 'self';" in policy


@pytest.mark.parametrize("base", ["/", "/jh/", "https://hub.example.org/", "https://hub.example.org/jh/"])
def test_links_keep_the_hubs_prefix_once_and_quote_names(base: str) -> None:
    links = Links(base, "/jh/services/workspaces/")
    path = "/jh/user/ann/demo/lab" if base.endswith("/jh/") else "/user/ann/demo/lab"
    assert links.server(path) == base + "user/ann/demo/lab"
    assert links.spawn("a/b?c#d", "x") == f"{base}hub/spawn/a%2Fb%3Fc%23d/x"
    assert links.workspace("../../hub") == "/jh/services/workspaces/w/..%2F..%2Fhub"


# What can be done


async def test_a_new_workspace_is_made_and_a_reload_makes_no_second(world: World) -> None:
    browser = await world.sign_in()
    await browser.get()
    answer = await browser.send("new", name="team-a", description="Ours\r\ntogether", follow=False)
    assert answer.status_code == 303
    assert world.desk.done == [("create", "team-a", "Ours\ntogether")]
    await browser.get("w/team-a")
    assert browser.page.find(role="status").get_text() == "The workspace team-a is yours: open it, or add members."
    await browser.get("w/team-a")
    assert browser.page.find(role="status") is None, "it is said once"


async def test_a_bad_name_is_explained_over_what_was_typed(world: World) -> None:
    browser = await world.sign_in()
    await browser.get()
    answer = await browser.send("new", name="Bad Name!", description="what I typed")
    assert answer.status_code == 400
    assert browser.alert().startswith("'Bad Name!' cannot name a workspace; take 1 to 30 characters")
    assert browser.page.find(id="create-name")["value"] == "Bad Name!"
    assert browser.page.find(id="create-description").get_text() == "what I typed"
    assert browser.page.find("details", id="new").has_attr("open")
    assert world.desk.done == []


async def test_a_taken_name_is_explained_too(world: World) -> None:
    world.desk.refusal = MaestroError("name_taken", "The name 'demo' is taken; choose another one.")
    browser = await world.sign_in()
    await browser.get()
    assert (await browser.send("new", name="demo")).status_code == 409
    assert browser.alert() == "The name 'demo' is taken; choose another one."


async def test_members_are_added_changed_and_removed(world: World) -> None:
    world.desk.people = [
        Member(kind="user", name="ann", role=Role.OWNER, added_by="ann", added_at=NOW),
        Member(kind="group", name="data science", role=Role.VIEWER, added_by="ann", added_at=NOW),
    ]
    browser = await world.sign_in()
    await browser.get("w/demo")
    await browser.send("w/demo/members", kind="user", name="bob@example.org", role="viewer", adding="1")
    assert browser.page.find(role="status").get_text() == "bob@example.org is now viewer of demo."
    await browser.send("w/demo/members", kind="group", name="data science", role="editor")
    await browser.send("w/demo/members/remove", kind="group", name="data science")
    assert world.desk.done == [
        ("put", "demo", "user", "bob@example.org", Role.VIEWER),
        ("put", "demo", "group", "data science", Role.EDITOR),
        ("remove", "demo", "group", "data science"),
    ]


async def test_a_refused_member_is_explained_where_the_name_was_typed(world: World) -> None:
    world.desk.refusal = MaestroError("unknown_user", "The Hub does not know a user 'nobody'; they sign up first.")
    browser = await world.sign_in()
    await browser.get("w/demo")
    assert (
        await browser.send("w/demo/members", kind="user", name="nobody", role="viewer", adding="1")
    ).status_code == 404
    assert browser.alert() == "The Hub does not know a user 'nobody'; they sign up first."
    field = browser.page.find(id="member-name")
    assert (field["value"], field["aria-invalid"], field["aria-describedby"]) == ("nobody", "true", "member-problem")
    assert browser.page.find(id="member-role").find("option", selected=True)["value"] == "viewer"


async def test_a_viewer_sees_members_but_no_forms_except_to_leave(world: World) -> None:
    world.desk.views = [workspace("demo", Role.VIEWER)]
    world.desk.people = [
        Member(kind="user", name="bob", role=Role.VIEWER, added_by="ann", added_at=NOW),
        Member(kind="user", name="ann", role=Role.OWNER, added_by="ann", added_at=NOW),
    ]
    browser = await world.sign_in("bob")
    await browser.get("w/demo")
    assert "files are read-only for you" in browser.text()
    forms = browser.page.find_all("form")
    assert [form["action"] for form in forms] == [f"{PREFIX}w/demo/members/remove"]
    assert forms[0].button["aria-label"] == "Leave demo"
    await browser.send("w/demo/members/remove")
    assert world.desk.done == [("remove", "demo", "user", "bob")]
    assert browser.page.find("h1").get_text() == "Workspaces"


async def test_the_description_changes_and_too_much_of_it_is_kept_and_explained(world: World) -> None:
    browser = await world.sign_in()
    await browser.get("w/demo")
    await browser.send("w/demo/about", description="New words")
    assert world.desk.done == [("change", "demo", "New words")]
    assert (await browser.send("w/demo/about", description="x" * 1001)).status_code == 400
    assert browser.alert().startswith("description:")
    assert browser.page.find(id="about-description").get_text().strip() == "x" * 1001


async def test_archiving_needs_the_ticked_box(world: World) -> None:
    browser = await world.sign_in()
    await browser.get("w/demo")
    await browser.send("w/demo/archive")
    assert browser.page.find(role="status").get_text() == "Tick the box to archive the workspace."
    assert world.desk.done == []
    await browser.send("w/demo/archive", sure="demo")
    assert world.desk.done == [("archive", "demo")]


async def test_a_form_sends_nobody_to_another_site(world: World) -> None:
    browser = await world.sign_in()
    await browser.get()
    token = browser.page.find("input", attrs={"name": "_xsrf"})["value"]
    for back in ("https://evil.example", "//evil.example", "../../hub/logout", "admin"):
        for form in ("stop", "scale"):
            fields = {"_xsrf": token, "back": back, "cpu": "1", "memory": "1Gi"}
            answer = await browser.client.post(f"{PREFIX}{form}/l-demo", data=fields)
            assert answer.headers["location"].startswith(f"{PREFIX}w/")


async def test_the_page_of_an_archived_workspace_says_so_and_opens_nothing(world: World) -> None:
    world.desk.views = [workspace("demo", archived_at=NOW)]
    browser = await world.sign_in("ann", USE, MANAGE, ADMIN)
    await browser.get("w/demo")
    assert "Archived on 2026-11-24: no server starts here until an owner or an admin restores it" in browser.text()
    assert "Open" not in [tag.get_text(strip=True) for tag in browser.page.find_all("a")]
    assert browser.page.find("summary", string="Archive this workspace") is None


# Quotas


async def test_an_admin_sees_every_figure_and_takes_back_what_was_set_at_runtime(world: World) -> None:
    world.desk.figures = [
        quota("max_cpu_total", "everyone", "8"),
        quota("max_gpu_total", "group-pool", "8", "root", name="ml", set_for="the pool of group ml", file_shown="2"),
    ]
    near = {"limit": "max_gpu_total", "title": "GPUs", "in_use_shown": "7", "shown": "8", "set_for": "x", "origin": "y"}
    world.desk.near_ones = [NearView(who="group ml together", share=0.875, **near)]
    browser = await world.sign_in("ann", USE, MANAGE, ADMIN)
    await browser.get("admin")
    assert browser.page.find("a", string="Quotas")["href"] == f"{PREFIX}admin/quotas"
    await browser.get("admin/quotas")
    assert "group ml together" in browser.page.find(id="near").get_text() and "(88 %)" in browser.text()
    figures = browser.page.find(id="figures")
    assert "root (in the file: 2)" in " ".join(figures.get_text().split())
    assert len(figures.find_all("form")) == 1, "the file's figures are changed in the file"
    await browser.send("admin/quotas/remove")
    assert world.desk.done == [("remove_quota", "max_gpu_total", "group-pool", "ml")]
    assert "for the pool of group ml maestro.yaml counts again" in browser.text()


async def test_an_admin_sets_a_figure_and_a_refused_one_keeps_what_was_typed(world: World) -> None:
    browser = await world.sign_in("ann", USE, MANAGE, ADMIN)
    await browser.get("admin/quotas")
    await browser.send("admin/quotas", level="user", name="bob", limit="max_gpu_total", value="4")
    assert world.desk.done == [("set_quota", "max_gpu_total", "user", "bob", "4")]
    assert browser.page.find(role="status").get_text() == "max_gpu_total: 4 for user, from the next decision on."
    world.desk.refusal = MaestroError("invalid_resources", "'much' is not an amount of gpu.")
    answer = await browser.send("admin/quotas", level="group", name="ml", limit="max_memory_total", value="much")
    assert answer.status_code == 400 and browser.alert() == "'much' is not an amount of gpu."
    assert browser.page.find(id="quota-value")["value"] == "much"
    chosen = [option["value"] for option in browser.page.find_all("option", selected=True)]
    assert chosen == ["group", "max_memory_total"]


async def test_the_quotas_are_for_admins_and_their_forms_too(world: World) -> None:
    browser = await world.sign_in()
    assert (await browser.get("admin/quotas")).status_code == 403
    await browser.get()
    token = browser.page.find("input", attrs={"name": "_xsrf"})["value"]
    for action in ("admin/quotas", "admin/quotas/remove"):
        fields = {"_xsrf": token, "level": "pool", "limit": "max_gpu_total", "value": "1"}
        assert (await browser.client.post(PREFIX + action, data=fields)).status_code == 403
    assert world.desk.done == []


# What goes wrong


async def test_an_unknown_workspace_is_a_page_with_one_sentence(world: World) -> None:
    browser = await world.sign_in()
    for path in ("w/nothing", "w/nothing/members"):
        answer = await browser.get(path)
        assert answer.status_code == 404
        assert "There is no such workspace that you belong to." in browser.text()
    assert (await browser.get("no/such/page")).status_code == 404


async def test_the_workspace_page_shows_the_packages_of_its_environment(world: World) -> None:
    browser = await world.sign_in()
    await browser.get("w/demo")
    assert "Nothing was installed yet" in browser.text()
    packages = (PackageShown(name="pygments", version="2.0"), PackageShown(name="rich", version="13.2"))
    world.desk.installed = EnvironmentView(
        workspace="demo", version=4, parent=3, author="bob", at=NOW, current=4, reason="<plots>",
        requirements=("rich<14",), packages=packages, settled=False,
    )  # fmt: skip
    await browser.get("w/demo")
    text = browser.text()
    assert "Version 4 of the environment, by bob," in text and ": <plots>." in text and "2 packages" in text
    assert "rich 13.2 rich<14" in text and "pygments 2.0 –" in text and "finds out which versions" in text


async def test_a_mistake_in_the_policy_leaves_the_workspace_page_standing(world: World) -> None:
    world.desk.limits_refusal = MaestroError("invalid_policy", "maestro.yaml line 3: not YAML.")
    browser = await world.sign_in()
    assert (await browser.get("w/demo")).status_code == 200
    assert "maestro.yaml line 3: not YAML." in browser.text()


async def test_a_fault_of_ours_shows_a_mark_and_no_traceback(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.desk.refusal = KeyError("secret-thing")  # type: ignore[assignment]
    browser = await world.sign_in()
    await browser.get()
    answer = await browser.send("new", name="team-a")
    assert answer.status_code == 500
    assert "secret-thing" not in answer.text and "Traceback" not in answer.text
    mark = browser.text().split("under ")[1].split(".")[0]
    assert f"fault {mark}" in caplog.text


async def test_bytes_that_are_no_text_are_refused(world: World) -> None:
    browser = await world.sign_in()
    await browser.get()
    token = browser.page.find("input", attrs={"name": "_xsrf"})["value"]
    answer = await browser.client.post(f"{PREFIX}new", content=f"_xsrf={token}&name=%ff%fe".encode(), headers=FORM)
    assert answer.status_code == 400
    assert world.desk.done == []


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# Invitations, handing over, usage, the end of a workspace


async def test_an_invitation_is_offered_on_the_first_page(world: World) -> None:
    world.desk.invited = [invitation("lab", "ann")]
    browser = await world.sign_in()
    await browser.get()
    assert "bob invites you to lab as editor, until 2026-12-01." in browser.text()
    await browser.send("invitations/accept")
    assert world.desk.done == [("accept", "i-lab")]
    assert "You are editor of lab now." in browser.text()
    await browser.send("invitations/decline")
    assert world.desk.done[-1] == ("decline", "i-lab")


async def test_who_is_unknown_can_be_invited_where_they_were_refused(world: World) -> None:
    browser = await world.sign_in()
    await browser.get("w/demo")
    assert browser.page.find("button", formaction=f"{PREFIX}w/demo/invitations") is None
    world.desk.refusal = MaestroError("unknown_user", "The Hub does not know a user 'zoe'; they sign up first.")
    forms = browser.page.find_all("form", action=f"{PREFIX}w/demo/members")
    hidden = {tag["name"]: tag["value"] for tag in forms[-1].find_all("input", type="hidden")}
    answer = await browser.client.post(
        f"{PREFIX}w/demo/members", data={**hidden, "kind": "user", "name": "zoe", "role": "viewer"}
    )
    browser.page = BeautifulSoup(answer.text, "html.parser")
    assert answer.status_code == 404
    world.desk.refusal = None
    button = browser.page.find("button", formaction=f"{PREFIX}w/demo/invitations")
    assert button is not None and button.find_parent("form").find("button").get_text() == "Add", "Enter adds"
    fields = {**hidden, "kind": "user", "name": "zoe", "role": "viewer"}  # of the form that it stands in
    answer = await browser.client.post(button["formaction"], data=fields, follow_redirects=True)
    browser.page = BeautifulSoup(answer.text, "html.parser")
    assert world.desk.done == [("invite", "demo", "zoe", Role.VIEWER)]
    assert "they sign up under that name" in browser.text()


async def test_open_invitations_are_for_owners_to_see_and_withdraw(world: World) -> None:
    world.desk.invited = [invitation("demo", HOSTILE)]
    browser = await world.sign_in()
    await browser.get("w/demo")
    assert browser.page.find("script", string=True) is None
    await browser.send("w/demo/invitations/withdraw")
    assert world.desk.done == [("withdraw", "demo", "i-demo")]
    world.desk.views = [workspace("demo", Role.EDITOR)]
    await browser.get("w/demo")
    assert "Invited" not in browser.text()


async def test_an_owner_hands_over(world: World) -> None:
    browser = await world.sign_in()
    await browser.get("w/demo")
    await browser.send("w/demo/transfer", kind="group", name="team")
    assert world.desk.done == [("transfer", "demo", "group", "team")]
    assert "team is owner of demo now" in browser.text()


async def test_usage_is_shown_and_an_owner_ends_what_is_ending_now(world: World) -> None:
    launches = [
        LaunchUsage(
            session_id="l-1", user="bob", server_name="demo", workspace="demo", status="running",
            resources=Resources(cpu=2, memory="4Gi"), latest=sample(), ends_at=NOW, ends_reason="bob is no member",
            ends_kind="role",
        ),
        LaunchUsage(
            session_id="l-2", user="eve", server_name="", workspace="demo", status="reserved", resources=Resources(),
            ends_at=NOW, ends_reason="it idles", ends_kind="idle",
        ),
    ]  # fmt: skip
    world.desk.used = WorkspaceUsage(
        workspace="demo", storage_used=5 * 1024**3, storage_limit=10 * 1024**3, launches=tuple(launches)
    )
    browser = await world.sign_in()
    await browser.get("w/demo")
    text = browser.text()
    assert "Its files take 5 GiB of 10 GiB; over it no server starts" in text
    assert "0.75 of 2" in text and "3 GiB of 4 GiB" in text
    assert "00:00:00 UTC: bob is no member" in text
    assert [form["action"] for form in browser.page.find_all("form") if "/stop/" in form["action"]] == [
        f"{PREFIX}stop/l-1"
    ]
    await browser.send("stop/l-1")
    assert world.desk.done == [("stop", "l-1")]
    world.desk.people = [Member(kind="user", name="bob", role=Role.VIEWER, added_by="ann", added_at=NOW)]
    await browser.get("w/demo")
    await browser.send("w/demo/members/remove")
    assert "What bob runs here ends at 00:00:00 UTC; End now, under Usage, does not wait." in browser.text()


@pytest.mark.parametrize(
    ("used", "shown"),
    [
        ({"storage_limit": 1024**3, "storage_held": True}, "they may take 1 GiB; the volume holds no more"),
        ({"storage_limit": 1024**3}, "they may take 1 GiB; over it no server starts"),
        ({"storage_used": 1024**3, "storage_held": True}, "Its files take 1 GiB"),
    ],
)
def test_usage_says_what_holds_the_limit_of_storage(used: dict[str, Any], shown: str) -> None:
    assert views.usage(WorkspaceUsage(workspace="demo", **used), False).storage.endswith(shown)


async def test_who_takes_their_own_group_out_is_led_home(world: World) -> None:
    world.desk.people = [Member(kind="group", name="team", role=Role.OWNER, added_by="ann", added_at=NOW)]
    browser = await world.sign_in()
    await browser.get("w/demo")
    world.desk.left = True
    await browser.send("w/demo/members/remove")
    assert browser.text().count("team is no longer a member of demo.") == 1
    assert browser.page.find(id="cards") is not None


async def test_what_a_workspace_is_set_up_with_is_shown(world: World) -> None:
    settings = {
        "resources": {"cpu": 4, "memory": "8g", "disk": "20g"},
        "environment": {"python_version": "3.11", "MY_NOTE": HOSTILE},
        "packages": ["numpy<3"],
        "security": {"blocked_packages": ["aiohttp"]},
        "experiment": "exp-123",
    }
    world.desk.views = [workspace("demo", settings=WorkspaceSettings.model_validate(settings))]
    browser = await world.sign_in()
    await browser.get("w/demo")
    text = browser.text()
    for shown in ("4 cpu, 8 GiB; disk 20 GiB", "3.11", "numpy<3", "aiohttp", "exp-123"):
        assert shown in text
    assert browser.page.find("img", src="x") is None


async def test_archived_workspaces_are_restored_and_purged_by_name(world: World) -> None:
    when = {"archived_at": NOW, "purge_from": NOW}
    world.desk.archived_ones = [workspace("old", **when)]
    browser = await world.sign_in()
    await browser.get()
    await browser.send("w/old/purge", sure="another")
    assert world.desk.done == []
    await browser.send("w/old/purge", sure="old")
    assert world.desk.done == [("purge", "old")]
    assert "Still to go: MLflow's data." in browser.text()
    assert "files: 12 (2 MiB)" in browser.text()
    assert browser.page.find("meta", attrs={"http-equiv": "refresh"}) is not None
    launches = (Kept(what="launches", why=f"3 in the figures of budgets {HOSTILE}"),)
    world.desk.report = world.desk.report.model_copy(update={"state": "purged", "left": (), "kept": launches})
    await browser.get("purged/w-1")
    assert "Nothing is left of it, and the name old is free." in browser.text()
    assert "launches: 3 in the figures of budgets" in browser.text()
    assert browser.page.find("meta", attrs={"http-equiv": "refresh"}) is None
    assert browser.page.find("img", src="x") is None
    await browser.get()
    await browser.send("w/old/restore")
    assert world.desk.done[-1] == ("restore", "old")


async def test_before_its_time_a_purge_is_not_offered(world: World) -> None:
    later = datetime(2999, 1, 1, tzinfo=UTC)
    world.desk.archived_ones = [workspace("old", archived_at=NOW, purge_from=later)]
    browser = await world.sign_in()
    await browser.get()
    assert "from 2999-01-01 00:00 UTC on" in browser.text()
    assert browser.page.find("form", action=f"{PREFIX}w/old/purge") is None


async def test_the_admin_sees_what_servers_use_and_archives_what_is_empty(world: World) -> None:
    world.desk.running = [launch("demo", started_at=NOW)]
    personal = [workspace("u-bob-1a2b3c", None, personal=True), workspace("u-gone-1a2b3c", None, personal=True)]
    world.desk.views = [workspace("demo"), workspace("empty"), *personal]
    world.desk.sampled = {"l-demo": sample()}
    world.desk.archived_ones = [workspace("old", archived_at=NOW, purge_from=NOW)]
    browser = await world.sign_in("root", USE, MANAGE, ADMIN)
    await browser.get("admin")
    assert "0.75 cpu, 3 GiB" in browser.text()
    archived = [form["action"] for form in browser.page.find_all("form") if form["action"].endswith("/archive")]
    assert archived == [f"{PREFIX}w/empty/archive", f"{PREFIX}w/u-gone-1a2b3c/archive"], "in demo a server runs"
    await browser.send("w/empty/archive")
    assert world.desk.done == [("archive", "empty")]
    assert "The workspace empty is archived." in browser.text()
    await browser.get("admin")
    await browser.send("w/old/restore")
    assert world.desk.done[-1] == ("restore", "old")


# Saved versions of notebooks


def saved(path: str, address: str, author: str = "ann") -> SnapshotView:
    return SnapshotView(path=path, address=address, author=author, saved_at=NOW, launch_id="l-1", cells=2, size=100)


async def test_saved_versions_are_listed_and_one_is_shown_as_text(world: World) -> None:
    one, other = "a" * 64, "b" * 64
    world.desk.saved = [saved(f"{HOSTILE}.ipynb", one, HOSTILE), saved("plots.ipynb", other)]
    world.desk.notebook = {
        "cells": [
            {"cell_type": "code", "source": [HOSTILE, "\nx = 1"], "metadata": {"tags": ["parameters", HOSTILE]}},
            {"cell_type": "markdown", "source": f"# {HOSTILE}", "metadata": {}},
            {"cell_type": "code", "source": "y" * 60_000, "metadata": None},
        ]
    }
    ann = await world.sign_in("ann")
    listed = BeautifulSoup((await ann.get("w/demo/versions")).text, "html.parser")
    assert [row.th.get_text(strip=True) for row in listed.select("#versions tbody tr")] == [one[:12], other[:12]]
    filtered = await ann.get("w/demo/versions", params={"notebook": "plots.ipynb"})
    assert other[:12] in filtered.text and one[:12] not in filtered.text
    answer = await ann.get(f"w/demo/versions/{one[:12]}")
    page = BeautifulSoup(answer.text, "html.parser")
    assert (
        page.find("script", string=lambda text: "alert" in (text or "")) is None and page.find("img", src="x") is None
    )
    sources = [cell.get_text() for cell in page.select(".maestro-source")]
    assert sources[0] == f"{HOSTILE}\nx = 1" and sources[1] == f"# {HOSTILE}" and len(sources[2]) == 50_000
    assert "10000 more characters" in answer.text
    (link,) = page.find_all("a", string="Its runs and models")
    assert link["href"] == f"/services/mlflow/maestro/versions/{one}?workspace=demo"
    assert (await ann.get("w/demo/versions/cccccc")).status_code == 404
    assert (await ann.get("w/other/versions")).status_code == 404


async def test_owners_say_whether_executed_cells_become_runs(world: World) -> None:
    ann = await world.sign_in("ann")
    page = BeautifulSoup((await ann.get("w/demo")).text, "html.parser")
    (chosen,) = page.select("#capture option[selected]")
    assert chosen["value"] == "on-request"
    await ann.send("w/demo/capture", capture="always")
    assert world.desk.done == [("change", "demo", "always")]
    await ann.send("w/demo/capture", capture="sometimes")
    assert "capture is off, on-request or always" in ann.text()
