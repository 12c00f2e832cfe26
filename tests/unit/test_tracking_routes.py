"""MLflow's addresses: the table is complete, and what the gate's parts decide without MLflow."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
import subprocess
import sys

import pytest
from starlette.requests import HTTPConnection
from starlette.responses import Response

from maestro_core.roles import Role
from maestro_core.scopes import MODELS, bound_servers, loadable_workspaces
from maestro_core.workspaces import TrackingGrant
from maestro_hub_services.tracking.answers import Refused
from maestro_hub_services.tracking.fresh import Fresh, Unreachable
from maestro_hub_services.tracking.gate import _caller
from maestro_hub_services.tracking.identity import Identity, header_token
from maestro_hub_services.tracking.loading import Registered, check_loading
from maestro_hub_services.tracking.membership import read_memberships
from maestro_hub_services.tracking.routes import REASONS, ROUTES, Access, Match, Table, addresses
from maestro_hub_services.tracking.serve import _listen
from maestro_hub_services.tracking.session import Cookies, Session, SignIn, forged
from maestro_hub_services.tracking.signin import safe_next

PREFIX = "/services/mlflow"

#: what MLflow serves outside the prefix: its streaming artifact router, which the gate itself hands requests to, and
#: Flask's own folder of static files, which nothing asks for
OUTSIDE = {
    *(
        (method, f"/{api}/2.0/mlflow-artifacts/artifacts/<path:artifact_path>")
        for method in ("GET", "PUT")
        for api in ("api", "ajax-api")
    ),
    ("GET", "/build/<path:filename>"),
}

LIST_ROUTES = """
import json, re
from mlflow.server.fastapi_app import app, flask_app
found = [[m, rule.rule] for rule in flask_app.url_map.iter_rules() for m in rule.methods - {"HEAD", "OPTIONS"}]
for route in app.routes:
    for one in route.effective_route_contexts() if hasattr(route, "effective_route_contexts") else ():
        path = re.sub(r"\\{(\\w+):path\\}", r"<path:\\1>", one.path).replace("{", "<").replace("}", ">")
        found += [[m, path] for m in one.methods]
print(json.dumps([found, [type(route).__name__ for route in app.routes]]))
"""


@pytest.fixture(scope="module")
def mlflows() -> tuple[set[tuple[str, str]], list[str]]:
    """MLflow's own route tables, Flask's and FastAPI's, and the kinds of its top routes."""
    environment = {
        "PATH": os.environ["PATH"],
        "_MLFLOW_STATIC_PREFIX": PREFIX,
        "_MLFLOW_SERVER_FILE_STORE": "sqlite://",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_ENABLE_WORKSPACES": "true",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIST_ROUTES],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found, kinds = json.loads(done.stdout.splitlines()[-1])
    return {(method, path) for method, path in found}, kinds


def test_the_table_names_every_address_of_mlflow_and_no_other(mlflows: tuple[set[tuple[str, str]], list[str]]) -> None:
    """An upgrade that adds a route fails here until somebody has decided who may call it."""
    theirs, kinds = mlflows
    ours = {(route.method, PREFIX + address) for route in ROUTES for address in addresses(route)}
    assert sorted(theirs - ours - OUTSIDE) == [], (
        "routes of MLflow that the table lacks: they are refused until decided"
    )
    assert sorted(ours - theirs) == [], "rows of the table that MLflow does not have (any more)"
    assert theirs >= OUTSIDE
    assert set(kinds) == {"_IncludedRouter", "Mount"}, "MLflow has a kind of route that this test does not list"


def test_each_address_has_one_row_and_is_found_by_it() -> None:
    table, seen = Table(), set()
    for route in ROUTES:
        for address in addresses(route):
            assert (route.method, address) not in seen
            seen.add((route.method, address))
            concrete = re.sub(r"<path:\w+>", "a/b", address)
            match = table.find(route.method, re.sub(r"<\w+>", "v", concrete))
            assert match is not None and match.rule == address, address


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/2.0/mlflow/runs/create"),
        ("DELETE", "/api/2.0/mlflow/runs/create"),
        ("POST", "/api/2.0/mlflow/runs/create/"),
        ("POST", "//api/2.0/mlflow/runs/create"),
        ("POST", "/api/2.0/mlflow//runs/create"),
        ("POST", "/API/2.0/mlflow/runs/create"),
        ("POST", "/api/2.0/mlflow/runs/create\n"),
        ("POST", "/api/9.0/mlflow/runs/create"),
        ("CONNECT", "/"),
        ("GET", ""),
    ],
)
def test_what_is_not_in_the_table_is_not_found(method: str, path: str) -> None:
    assert Table().find(method, path) is None


def test_fixed_words_win_over_values_in_a_path() -> None:
    """As in MLflow: ``/datasets/search`` is the search, not the dataset ``search``."""
    for method, path, rule in (
        ("GET", "/api/3.0/mlflow/datasets/search", "/api/3.0/mlflow/datasets/search"),
        ("GET", "/api/3.0/mlflow/datasets/d-1", "/api/3.0/mlflow/datasets/<dataset_id>"),
        ("GET", "/api/3.0/mlflow/traces/get", "/api/3.0/mlflow/traces/get"),
        ("POST", "/ajax-api/3.0/mlflow/traces/search", "/ajax-api/3.0/mlflow/traces/search"),
    ):
        match = Table().find(method, path)
        assert match is not None and match.rule == rule


def test_closed_rows_say_why_and_nothing_that_writes_is_open_to_viewers() -> None:
    for route in ROUTES:
        assert (route.why in REASONS) == (route.access is Access.CLOSED), route
        words = ("/create", "/delete", "/update", "/log-", "/set-", "/register", "/rename", "/restore")
        if route.access in (Access.READ, Access.SIGNED_IN, Access.LISTED, Access.PUBLIC):
            assert not any(word in route.path.replace("/registered-models", "") for word in words), route
            assert route.method in ("GET", "POST"), route
        if route.method == "DELETE" or re.search(r"/delete(-traces)?$", route.path):
            assert route.access in (Access.MANAGE, Access.OWN, Access.CLOSED) or re.search(r"tag|alias", route.path), (
                route
            )


def match_of(method: str, path: str) -> Match:
    match = Table().find(method, path)
    assert match is not None
    return match


CREATE = match_of("POST", "/api/2.0/mlflow/runs/create")
READ = match_of("GET", "/api/2.0/mlflow/runs/get")
DELETE_EXPERIMENT = match_of("POST", "/api/2.0/mlflow/experiments/delete")
FILES = "/api/2.0/mlflow-artifacts/artifacts"
ANN = Identity("ann", None)


def grants(**roles: str) -> dict[str, TrackingGrant]:
    return {name: TrackingGrant(role=Role(role)) for name, role in roles.items()}


@pytest.mark.parametrize(
    ("match", "role", "passes"),
    [
        (READ, "viewer", True),
        (CREATE, "viewer", False),
        (CREATE, "editor", True),
        (DELETE_EXPERIMENT, "editor", False),
        (DELETE_EXPERIMENT, "owner", True),
    ],
)
def test_a_role_is_enough_or_the_sentence_says_which_is(match: Match, role: str, passes: bool) -> None:
    def decide() -> str | None:
        return _caller(ANN, match, grants(reef=role), ["reef"]).workspace

    if passes:
        assert decide() == "reef"
    else:
        with pytest.raises(Refused) as refused:
            decide()
        assert refused.value.status == 403 and "owner" in refused.value.message


def test_the_workspace_of_a_request_is_one_that_the_caller_belongs_to() -> None:
    two = grants(reef="editor", lagoon="viewer")
    for named, members, status in (
        ([], two, 400),
        (["reef", "lagoon"], two, 400),
        (["reef", "reef"], two, 400),
        ([], {}, 400),
        (["atoll"], two, 404),
        ([" "], {}, 404),
    ):
        with pytest.raises(Refused) as refused:
            _caller(ANN, READ, members, named)
        assert refused.value.status == status
    assert _caller(ANN, READ, grants(reef="viewer"), []).workspace == "reef"


def test_a_confined_grant_opens_marked_rows_only() -> None:
    confined = {"mine": TrackingGrant(role=Role.EDITOR, experiment="from-reef")}
    assert _caller(ANN, CREATE, confined, ["mine"]).experiment == "from-reef"
    for method, path in (
        ("POST", "/api/2.0/mlflow/experiments/search"),
        ("POST", "/api/2.0/mlflow/registered-models/create"),
        ("POST", "/v1/traces"),
        ("POST", "/graphql"),
    ):
        with pytest.raises(Refused, match="from-reef"):
            _caller(ANN, match_of(method, path), confined, ["mine"])
    marked = {route.path for route in ROUTES if route.confined}
    assert not [path for path in marked if "delete" in path and "delete-tag" not in path]


def test_answers_of_the_service_are_read_closed() -> None:
    read = read_memberships(
        {"workspaces": {"reef": {"role": "editor"}, "default": {"role": "owner"}, "No": {"role": "owner"}}}
    )
    assert list(read) == ["reef"]
    for broken in (None, [], {"workspaces": []}, {"workspaces": {"reef": {"role": "king"}}}, {"error": {}}):
        with pytest.raises(Unreachable):
            read_memberships(broken)


def test_a_token_that_is_narrowed_to_servers_acts_for_them() -> None:
    assert bound_servers("ann", {"access:servers!server=ann/reef", "custom:maestro:use"}) == ("reef",)
    assert bound_servers("ann", {"access:servers!server=ann/"}) == ("",)
    assert bound_servers("ann", {"access:servers!server=bob/reef"}) == ()  # somebody else's: it acts nowhere
    assert bound_servers("ann", {"custom:maestro:use"}) is None
    assert bound_servers("ann", {"access:servers!user=ann", "access:servers!server=ann/reef"}) is None
    assert bound_servers("ann@example.org", {"access:servers!server=ann@example.org/ml"}) == ("ml",)


def test_a_token_that_loads_models_reads_what_is_registered_and_nothing_else() -> None:
    assert loadable_workspaces("ann", {f"{MODELS}!server=ann/reef", f"{MODELS}!server=bob/lagoon"}) == ("reef",)
    assert loadable_workspaces("ann", {MODELS, f"{MODELS}!user=ann", "access:services!service=packages"}) == ()
    loads = Identity("ann", None, ("reef",))
    everywhere = grants(reef="owner", lagoon="owner")
    caller = _caller(loads, match_of("GET", "/api/2.0/mlflow/registered-models/get"), everywhere, ["reef"])
    assert (caller.workspace, caller.role) == ("reef", Role.VIEWER)
    for match, named in ((match_of("GET", "/api/2.0/mlflow/registered-models/get"), ["lagoon"]), (READ, ["reef"])):
        with pytest.raises(Refused):
            _caller(loads, match, everywhere, named)
    marked = [route for route in ROUTES if route.loads]
    assert marked and all(route.access in (Access.READ, Access.SIGNED_IN) for route in marked)
    assert not [route for route in marked if "search" in route.path or "runs" in route.path]


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("1/models/m-a1/artifacts/MLmodel", True),
        ("workspaces/reef/1/models/m-a1/artifacts", True),
        ("1/4f/artifacts/model/MLmodel", True),
        ("1/models/m-a1/artifacts-of-others", False),
        ("1/models/m-b2/artifacts/MLmodel", False),
        ("1/4f/artifacts", False),
        ("", False),
        ("1/models/m-a1/artifacts/../../../secret", False),
        ("1/models/m-a1/artifacts/%2e%2e/x", False),
        ("1/models/m-a1/artifacts/..\\x", False),
        ("workspaces/lagoon/1/models/m-a1/artifacts", False),
        ("1/models/m-a1/artifacts//x", False),
    ],
)
def test_files_of_registered_models_are_loaded(path: str, passes: bool) -> None:
    here = "mlflow-artifacts:/workspaces/reef/1"
    places = (
        "models:/m-c3",
        f"{here}/models/m-a1/artifacts",
        f"{here}/4f/artifacts/model",
        "s3://bucket/x",
        "runs:/4f/m",
    )
    registered = Registered.of("reef", places)
    assert registered.models == {"m-a1", "m-c3"}
    file = Match(match_of("GET", f"{FILES}/a").route, f"{FILES}/<path:artifact_path>", {"artifact_path": path})
    for match, paths in ((file, []), (match_of("GET", FILES), [path])):
        if passes:
            check_loading(match, "reef", paths, registered)
        else:
            with pytest.raises(Refused):
                check_loading(match, "reef", paths, registered)
    with pytest.raises(Refused):
        check_loading(match_of("GET", FILES), "reef", [path, path], registered)
    with pytest.raises(Refused):
        check_loading(match_of("GET", "/api/2.0/mlflow/logged-models/m-b2"), "reef", [], registered)


def test_authorization_headers_hold_a_token_or_are_refused() -> None:
    basic = base64.b64encode(b"anybody:secret").decode()
    assert {header_token(text) for text in ("Bearer secret", "token secret", "bearer  secret", f"Basic {basic}")} == {
        "secret"
    }
    for wrong in ("", "Bearer", "Bearer ", "Basic", "Basic !", "Basic bm9jb2xvbg==", "secret", "Digest secret"):
        with pytest.raises(Refused):
            header_token(wrong)


# --- the 5 seconds ---------------------------------------------------------------------------------------------------


class Other:
    """The other side, with a clock."""

    def __init__(self) -> None:
        self.now, self.value, self.asked, self.away = 0.0, "editor", 0, False
        self.fresh: Fresh[str, str] = Fresh(size=2, clock=lambda: self.now)

    async def ask(self) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise Unreachable("away")
        return self.value

    async def get(self, key: str = "ann") -> str:
        return await self.fresh.get(key, self.ask)


async def test_an_answer_counts_for_5_seconds() -> None:
    other = Other()
    assert await other.get() == "editor"
    other.value, other.now = "viewer", 4.9
    assert await other.get() == "editor" and other.asked == 1
    other.now = 5.0
    assert await other.get() == "viewer" and other.asked == 2


async def test_while_the_other_side_is_away_its_last_word_counts_for_5_minutes() -> None:
    other = Other()
    await other.get()
    other.away, other.now = True, 299.0
    assert await other.get() == "editor"
    with pytest.raises(Unreachable):
        await other.get("bob")
    other.now = 300.0
    with pytest.raises(Unreachable):
        await other.get()


async def test_many_askers_wait_for_one_answer_and_a_known_key_waits_a_second_after_a_failure() -> None:
    other = Other()
    assert await asyncio.gather(*(other.get() for _ in range(50))) == ["editor"] * 50
    assert other.asked == 1
    other.away, other.now = True, 10.0
    assert await asyncio.gather(*(other.get() for _ in range(50))) == ["editor"] * 50
    assert [await other.get() for _ in range(5)] and other.asked == 2
    other.now, other.away = 11.5, False
    assert await other.get() and other.asked == 3


async def test_an_asker_who_leaves_does_not_take_the_answer_away_from_the_others() -> None:
    other = Other()
    leaving = asyncio.create_task(other.get())
    staying = asyncio.create_task(other.get())
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == "editor"


async def test_old_keys_are_forgotten() -> None:
    other = Other()
    for key in ("a", "b", "c"):
        await other.get(key)
    await other.get("c")
    assert other.asked == 3
    await other.get("a")
    assert other.asked == 4


# --- cookies ---------------------------------------------------------------------------------------------------------

KEY = "00" * 32


def request(method: str = "GET", cookies: str = "", **headers: str) -> HTTPConnection:
    sent = [(b"host", b"hub.example:8888"), (b"cookie", cookies.encode())]
    sent += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "method": method, "path": "/", "query_string": b"", "headers": sent})


def cookies_of(response: Response) -> dict[str, str]:
    """Name -> the whole ``Set-Cookie`` line."""
    lines = [value.decode() for name, value in response.raw_headers if name == b"set-cookie"]
    return {line.split("=", 1)[0]: line for line in lines}


def test_a_session_is_one_encrypted_cookie_on_the_prefix() -> None:
    jar, response = Cookies(KEY, "/services/mlflow/", secure=True), Response()
    jar.begin_session(response, "the-token")
    lines = cookies_of(response)
    session = lines["maestro-mlflow"]
    assert "the-token" not in str(lines)
    for attribute in ("HttpOnly", "Secure", "SameSite=lax", "Path=/services/mlflow/"):
        assert attribute in session
    value = session.split(";")[0]
    assert jar.session(request(cookies=value)).token == "the-token"  # type: ignore[union-attr]
    planted = f"maestro-mlflow=planted; {value}"
    assert jar.session(request(cookies=planted)).token == "the-token"  # type: ignore[union-attr]
    assert jar.session(request(cookies=value[:-6] + "AAAA==")) is None
    assert Cookies("11" * 32, "/services/mlflow/", secure=True).session(request(cookies=value)) is None


def test_a_sign_in_is_held_by_its_browser_and_its_state() -> None:
    jar, response = Cookies(KEY, "/services/mlflow/", secure=False), Response()
    jar.begin_sign_in(response, SignIn("state-of-mine", "verifier", "/services/mlflow/"))
    value = cookies_of(response)["maestro-mlflow-signin-state-of"].split(";")[0]
    held = jar.sign_in(request(cookies=value), "state-of-mine")
    assert held is not None and held.verifier == "verifier"
    assert jar.sign_in(request(cookies=value), "state-of-another") is None
    assert jar.sign_in(request(), "state-of-mine") is None


@pytest.mark.parametrize(
    ("method", "headers", "is_forged"),
    [
        ("GET", {}, False),
        ("GET", {"sec_fetch_mode": "navigate", "sec_fetch_site": "cross-site"}, False),
        ("GET", {"sec_fetch_mode": "no-cors", "sec_fetch_site": "same-origin"}, False),
        ("GET", {"sec_fetch_mode": "no-cors", "sec_fetch_site": "same-site"}, True),
        ("GET", {"sec_fetch_mode": "cors", "sec_fetch_site": "same-origin"}, True),
        ("GET", {"sec_fetch_mode": "cors", "x_xsrftoken": "right"}, False),
        ("GET", {"origin": "http://localhost:3000"}, True),
        ("POST", {}, True),
        ("POST", {"sec_fetch_mode": "navigate"}, True),
        ("POST", {"origin": "http://hub.example:8888"}, True),
        ("POST", {"origin": "http://hub.example:8888", "x_xsrftoken": "right"}, False),
        ("POST", {"x_xsrftoken": "right"}, False),
        ("POST", {"x_xsrftoken": "wrong"}, True),
        ("POST", {"origin": "null", "x_xsrftoken": "right"}, True),
        ("POST", {"origin": "http://hub.example:9999", "x_xsrftoken": "right"}, True),
        ("POST", {"origin": "http://hub.example:8888.evil.example", "x_xsrftoken": "right"}, True),
    ],
)
def test_who_may_use_a_session(method: str, headers: dict[str, str], is_forged: bool) -> None:
    assert forged(request(method, **headers), Session("t", "right")) is is_forged
    assert forged(request("POST", x_xsrftoken=""), Session("t", "")) is True


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("/services/mlflow/", True),
        ("/services/mlflow/?workspace=reef&next=//x", True),
        ("/services/mlflow/get-artifact?path=a/../b", True),
        ("/services/mlflow", False),
        ("/hub/home", False),
        ("https://evil.example/services/mlflow/", False),
        ("//evil.example/services/mlflow/", False),
        ("/services/mlflow/../../hub/logout", False),
        ("/services/mlflow/%2e%2e/x", False),
        ("/services/mlflow/.%2E/x", False),
        ("/services/mlflow/\\evil", False),
        ("/services/mlflow//evil.example", False),
        ("/services/mlflow/\r\nSet-Cookie: a=b", False),
    ],
)
def test_where_a_sign_in_may_lead(path: str, safe: bool) -> None:
    assert safe_next(path, "/services/mlflow/") == (path if safe else "/services/mlflow/")


def test_answers_leave_at_once() -> None:
    """asyncio turns Nagle's algorithm off where the socket names its protocol; else each answer waits 40 ms."""
    listener = _listen("127.0.0.1", 0)
    with listener:
        assert listener.proto == socket.IPPROTO_TCP
        with pytest.raises(OSError):
            _listen(*listener.getsockname())
