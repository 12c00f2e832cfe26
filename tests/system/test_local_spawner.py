"""The local spawner in a real Hub, with real notebook servers and the stand-in service."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from bs4 import BeautifulSoup

from maestro_core.errors import MaestroError
from maestro_spawner.machine import folder, host
from maestro_spawner.machine.process import Process
from tests.plan_service import PlanServiceStub, serving
from tests.system.singleuser import free_port, prefix, until
from tests.system.trial_hub import ADMIN_TOKEN, HUB_SECRET, LIGHT, PASSWORD, Browser, TrialHub

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.skipif(host.bubblewrap_problem() is not None, reason=f"no sandbox: {host.bubblewrap_problem()}"),
    pytest.mark.timeout(300),
]


def give_away(path: Path) -> None:
    """What the service does with what it makes for servers."""
    owner = host.owner_of_servers()
    if owner is not None:
        os.chown(path, *owner)


class Place:
    """A state, the stand-in service and a Hub on it."""

    def __init__(self, state: Path, stack: ExitStack, *, light: bool = True, **traits: Any) -> None:
        self.state = state
        self.stub = PlanServiceStub(state, give_away)
        self.port = free_port()
        self._served = stack.enter_context(ExitStack())
        url = self._served.enter_context(serving(self.stub, self.port))
        self.hub = TrialHub(state, url, traits, light)
        stack.callback(self.hub.stop)

    def end_service(self) -> None:
        self._served.close()

    def start_service(self) -> None:
        self._served.enter_context(serving(self.stub, self.port))

    def processes(self, user: str, server: str) -> tuple[Process, Process]:
        """Bubblewrap and the sandbox's first process, as the Hub's state has them."""
        state = self.hub.server(user, server)["state"]
        found = Process.from_json(state["maestro_main"]), Process.from_json(state["maestro_first"])
        assert found[0] is not None and found[1] is not None
        return found[0], found[1]

    def server_process(self, user: str, server: str) -> Process:
        return self.processes(user, server)[1].children()[0]


@pytest.fixture
def state() -> Iterator[Path]:
    """As the set-up makes it: below a folder that is closed to everybody else."""
    base = Path(tempfile.mkdtemp(prefix="maestro-state-"))
    try:
        yield base / "state"
    finally:
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """One Hub with light servers for the tests that leave it as it was: each uses users and servers of its own."""
    yield from _place(light=True)


@pytest.fixture(scope="module")
def lab() -> Iterator[Place]:
    """One Hub whose servers are JupyterLab."""
    yield from _place(light=False)


def _place(light: bool) -> Iterator[Place]:
    base = Path(tempfile.mkdtemp(prefix="maestro-state-"))
    try:
        with ExitStack() as stack:
            place = Place(base / "state", stack, light=light)
            place.hub.start()
            yield place
    finally:
        shutil.rmtree(base)


def contents(browser: Browser, server: str) -> httpx.Response:
    """Open one's own server as a browser does, through the Hub's sign-in, and list its files."""
    page = browser.get(f"user/{browser.name}/{server}/lab")
    assert page.status_code == 200, page.text[:500]
    return browser.get(f"user/{browser.name}/{server}/api/contents")


def test_two_users_whose_servers_would_share_a_sign_in_both_get_in(lab: Place) -> None:
    servers = {"a": "b-c", "a-b": "c"}
    for user, server in servers.items():
        answer = lab.hub.start_server(user, server)
        assert answer.is_success, answer.text
    for user, server in servers.items():
        browser = Browser(lab.hub, user)
        listed = contents(browser, server)
        assert listed.status_code == 200, listed.text
        (other,) = set(servers) - {user}
        assert browser.get(f"user/{other}/{servers[other]}/api/contents").status_code in (403, 404)
    for user, server in servers.items():
        lab.hub.stop_server(user, server)


def test_a_server_runs_with_a_clean_environment_and_leaves_nothing_behind(place: Place) -> None:
    answer = place.hub.start_server("ann", "demo")
    assert answer.is_success, answer.text
    main, first = place.processes("ann", "demo")
    server = place.server_process("ann", "demo")
    environment = (Path("/proc") / str(server.pid) / "environ").read_bytes()
    assert b"JUPYTERHUB_API_TOKEN=" in environment
    for secret in (HUB_SECRET, ADMIN_TOKEN, PASSWORD, str(place.state)):
        assert secret.encode() not in environment
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    token = environment.split(b"JUPYTERHUB_API_TOKEN=")[1].split(b"\0")[0].decode()
    assert token not in listing
    if os.geteuid() == 0:
        assert os.stat(f"/proc/{server.pid}").st_uid == pwd.getpwnam("maestro-sandbox").pw_uid
    until(lambda: place.stub.running, "the service was told")
    launch = place.hub.server("ann", "demo")["state"]["maestro_launch_id"]
    place.hub.stop_server("ann", "demo")
    assert not any(process.alive() for process in (main, first, server))
    assert place.stub.ended[launch] == "stopped"
    assert not (place.state / "run/launches" / launch).exists()
    assert "Traceback" not in place.hub.log


def test_a_refusal_stands_on_the_form_of_the_workspace_that_was_asked_for(place: Place) -> None:
    sentence = "You have 3 of 3 servers running or starting; stop one of them, or ask an admin for more."
    browser = Browser(place.hub, "full")
    refused = (403, MaestroError("quota_exceeded", sentence).as_json())
    place.stub.instead["/plan/launches"] = refused
    try:
        answer = browser.submit("hub/spawn/full/mine", {"profile": "small", "cpu": "2"})
        api = place.hub.start_server("full", "mine")
    finally:
        del place.stub.instead["/plan/launches"]
    page = BeautifulSoup(answer.text, "html.parser")
    assert answer.status_code == 403
    assert sentence in page.get_text()
    assert "SpawnException" not in answer.text and "Refusal" not in answer.text
    assert "experiment-of-mine" in answer.text, "the form is not that of the unnamed server"
    cpu = page.find(attrs={"name": "cpu"})
    assert cpu is not None and cpu["value"] == "2", "what was filled in is kept"
    assert (api.status_code, api.json()["message"]) == (403, sentence)
    assert place.stub.ended == {key: value for key, value in place.stub.ended.items() if "mine" not in key}
    assert not place.hub.server("full", "mine").get("ready")


def test_a_malformed_amount_is_told_on_the_right_form_before_anybody_is_asked(place: Place) -> None:
    asked = len(place.stub.questions("/plan/launches"))
    answer = Browser(place.hub, "mal").submit("hub/spawn/mal/mine", {"profile": "small", "memory": "lots"})
    assert answer.status_code == 400
    assert "is not an amount of memory" in BeautifulSoup(answer.text, "html.parser").get_text()
    assert "experiment-of-mine" in answer.text
    assert len(place.stub.questions("/plan/launches")) == asked


def test_a_link_with_a_query_starts_nothing_and_fills_in_the_form(place: Place) -> None:
    browser = Browser(place.hub, "linked")
    for query in ("?opt-cpu=3&opt-profile=small", "?cpu=3", "?git_repo=http://evil", "?opt-workspace=other"):
        asked = len(place.stub.questions("/plan/launches"))
        page = browser.get(f"hub/spawn/linked/mine{query}")
        assert page.status_code == 200
        assert "experiment-of-mine" in page.text
        assert not place.hub.server("linked", "mine").get("pending"), query
        assert len(place.stub.questions("/plan/launches")) == asked, query
    shown = BeautifulSoup(browser.get("hub/spawn/linked/mine?opt-cpu=3").text, "html.parser")
    cpu = shown.find(attrs={"name": "cpu"})
    assert cpu is not None and cpu["value"] == "3"
    assert "press Start" in shown.get_text()


def test_a_viewers_server_reads_the_files_and_cannot_save(lab: Place) -> None:
    lab.stub.roles[("vera", "shared")] = "viewer"
    files = Path(lab.stub.directory("workspaces", "shared"))
    (files / "notes.txt").write_text("as it was")
    give_away(files / "notes.txt")
    answer = lab.hub.start_server("vera", "shared")
    assert answer.is_success, answer.text
    browser = Browser(lab.hub, "vera")
    assert contents(browser, "shared").status_code == 200
    api = "user/vera/shared/api/contents/notes.txt"
    assert browser.get(api).json()["content"] == "as it was"
    token = browser.client.cookies.get("_xsrf", path="/user/vera/shared/") or ""
    body = {"type": "file", "format": "text", "content": "changed"}
    saved = browser.client.put(api, json=body, headers={"X-XSRFToken": token, "Sec-Fetch-Mode": "cors"})
    assert saved.status_code in (403, 500), saved.text
    assert "read-only" in saved.text.lower() or "permission denied" in saved.text.lower(), saved.text
    assert (files / "notes.txt").read_text() == "as it was"
    lab.hub.stop_server("vera", "shared")


def test_a_server_that_dies_is_noticed_and_all_of_it_ends(place: Place) -> None:
    assert place.hub.start_server("dora", "demo").is_success
    main, first = place.processes("dora", "demo")
    launch = place.hub.server("dora", "demo")["state"]["maestro_launch_id"]
    main.kill()  # bubblewrap alone: what it started would run on, with nobody to end it
    until(lambda: launch in place.stub.ended, "the launch is released")
    assert not first.alive()
    assert "by itself" in place.stub.ended[launch]
    assert not place.hub.server("dora", "demo").get("ready")


def test_a_server_that_cannot_start_says_so_at_once_and_leaves_nothing(state: Path) -> None:
    broken = ["/bin/sh", "-c", "echo no such luck >&2; exit 3"]
    with ExitStack() as stack:
        place = Place(state, stack, MaestroLocalSpawner={"cmd": broken})
        place.hub.start()
        place.hub.api.post("users/ann")
        answer = place.hub.api.post("users/ann/servers/demo", json={})
        assert answer.status_code == 502
        assert "ended while it started (exit code 3)" in answer.json()["message"]
        assert set(place.stub.ended) == {"launch-1"}
        assert list((state / "run/launches").iterdir()) == []
        assert "said: 'no such luck'" in place.hub.log


def test_a_dataset_that_would_show_the_state_is_refused(place: Place) -> None:
    def too_high(question: Any) -> Any:
        plan = place.stub.plan(question)
        above = {
            "name": "dataset-all",
            "kind": "directory",
            "source": str(place.state.parent),
            "target": "/datasets/all",
        }
        return 201, {**plan, "mounts": [*plan["mounts"], above]}

    place.stub.instead["/plan/launches"] = too_high
    try:
        answer = place.hub.start_server("high", "demo")
    finally:
        del place.stub.instead["/plan/launches"]
    assert answer.status_code == 409
    assert "The Hub's state lies inside" in answer.json()["message"]


def test_without_the_service_nothing_starts_and_page_and_api_say_so(state: Path) -> None:
    with ExitStack() as stack:
        place = Place(state, stack)
        place.hub.start()
        place.end_service()
        browser = Browser(place.hub, "ann")
        page = browser.get("hub/spawn/ann/demo")
        assert "does not answer, so nothing was started" in page.text
        answer = place.hub.start_server("ann", "demo")
        assert answer.status_code == 503
        assert "does not answer, so nothing was started" in answer.json()["message"]
        assert not (state / "run/launches").exists() or list((state / "run/launches").iterdir()) == []
        place.start_service()
        assert place.hub.start_server("ann", "demo").is_success, "and goes on by itself when the service is back"


def test_after_kill_9_of_the_hub_the_next_one_finds_its_servers_and_ends_what_was_only_begun(state: Path) -> None:
    with ExitStack() as stack:
        place = Place(state, stack, light=False)
        place.hub.start()
        assert place.hub.start_server("ann", "demo").is_success
        server = place.server_process("ann", "demo")
        processes = (*place.processes("ann", "demo"), server)
        begun = _begun(state / "run/launches/launch-lost")
        stack.callback(begun.kill)

        place.hub.stop(signal.SIGKILL)
        assert all(process.alive() for process in processes), "servers outlive the Hub"
        place.hub.start()
        until(lambda: place.hub.server("ann", "demo").get("ready"), "the new Hub has the server")
        assert place.server_process("ann", "demo") == server
        assert contents(Browser(place.hub, "ann"), "demo").status_code == 200
        assert place.stub.ended == {}

        assert place.hub.start_server("ann", "second").is_success
        assert begun.wait(5) != 0
        assert not (state / "run/launches/launch-lost").exists()

        place.hub.stop_server("ann", "demo")
        assert not any(process.alive() for process in processes)
        assert place.stub.ended == {"launch-1": "stopped"}, place.hub.log[-6000:]


def _begun(launch: Path) -> subprocess.Popen[bytes]:
    """What a Hub leaves that was killed between starting a process and saving its state."""
    launch.mkdir(parents=True)
    command = ["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--proc", "/proc", "sleep", "600"]
    process = subprocess.Popen(command, start_new_session=True)
    main = Process.of(process.pid)
    until(lambda: main and main.children(), "it runs")
    folder.remember(launch, {"main": main})
    return process


def test_the_end_of_the_hub_is_the_end_of_its_servers(state: Path) -> None:
    with ExitStack() as stack:
        place = Place(state, stack)
        place.hub.start()
        assert place.hub.start_server("ann", "demo").is_success
        processes = (*place.processes("ann", "demo"), place.server_process("ann", "demo"))
        place.hub.stop(signal.SIGTERM)
        assert not any(process.alive() for process in processes)
        assert list((state / "run/launches").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the account that makes a sandbox impossible is a root Hub's")
def test_without_a_sandbox_nothing_starts_unless_it_is_allowed_and_then_paths_are_the_real_ones(state: Path) -> None:
    traits: dict[str, Any] = {"sandbox_user": "root"}  # a sandbox is never made as root
    with ExitStack() as stack:
        place = Place(state, stack, MaestroLocalSpawner=traits)
        place.hub.start()
        answer = place.hub.start_server("ann", "demo")
        assert answer.status_code == 409
        assert "nothing was started" in answer.json()["message"]
        place.hub.stop()

        place = Place(state, stack, MaestroLocalSpawner={**traits, "allow_unisolated": True})
        place.hub.start()
        assert place.hub.start_server("ann", "demo").is_success, place.hub.log[-2000:]
        main = Process.from_json(place.hub.server("ann", "demo")["state"]["maestro_main"])
        assert main is not None
        environment = (Path("/proc") / str(main.pid) / "environ").read_bytes().decode()
        assert f"MAESTRO_WORKSPACE_DIR={state / 'workspaces/demo'}" in environment
        assert HUB_SECRET not in environment
        place.hub.stop_server("ann", "demo")
        assert not main.alive()
        place.stub.roles[("vera", "demo")] = "viewer"
        refused = place.hub.start_server("vera", "demo")
        assert "read-only" in refused.json()["message"]


def test_progress_tells_what_is_being_done(state: Path) -> None:
    slowly = ["/bin/sh", "-c", 'sleep 1; exec "$@"', "sh", f"{prefix()}/bin/python", "-c", LIGHT]
    with ExitStack() as stack:
        place = Place(state, stack, MaestroLocalSpawner={"cmd": slowly})
        place.hub.start()
        place.hub.api.post("users/pia")
        pool = stack.enter_context(ThreadPoolExecutor(1))
        starting = pool.submit(place.hub.api.post, "users/pia/servers/demo", json={})
        until(lambda: place.hub.server("pia", "demo").get("pending"), "it is being started")
        with place.hub.api.stream("GET", "users/pia/servers/demo/progress") as stream:
            lines = [line for line in stream.iter_lines() if line.startswith("data:")]
        events = [json.loads(line.removeprefix("data:")) for line in lines]
        assert starting.result().is_success
    messages = [event["message"] for event in events]
    assert messages[:4] == [
        "Server requested",
        "Checking quota",
        "Admitted to demo as editor: 1 cpu, 1 GiB",
        "Preparing environment",
    ]
    assert "Starting JupyterLab in demo" in messages
    assert events[-1]["ready"]
    assert [event["progress"] for event in events] == sorted(event["progress"] for event in events)
