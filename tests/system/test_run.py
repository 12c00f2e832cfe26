"""One command starts Maestro and ends it: refusals in one sentence, nothing left behind, nothing lost after kill -9."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from maestro_hub_services.installation import PORTS
from maestro_hub_services.run.processes import Process, Record, descendants, wait_gone
from tests.system.house import API, Maestro, Person, Run, until
from tests.system.singleuser import prefix

NewRun = Callable[..., Run]

#: MLflow and the index have nothing to do with most of this, and take a third of a minute to start
FEW = {"MAESTRO_SERVICES": "workspaces"}

needs_servers = pytest.mark.skipif(
    not (prefix() / "bin/python").is_file(),
    reason="no single-user environment here: make it with scripts/setup.py test",
)


def refusal(run: Run) -> str:
    """What a run that must not start says; its exit code is 2."""
    assert run.process.wait(60) == 2, run.printed
    said = run.printed.strip()
    assert "\n" not in said, said
    return said


def below(run: Run) -> list[Process]:
    """Everything that a run has started."""
    return descendants(run.process.pid)


#: goes before a run: the same machine, but for bubblewrap (and no process of its own: exec)
NO_BUBBLEWRAP = (
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount --bind /dev/null "$0" && exec "$@"',
    shutil.which("bwrap") or "",
)


@pytest.fixture(scope="module")
def without_bubblewrap() -> tuple[str, ...]:
    """The command that hides bubblewrap; nothing to hide is as good."""
    if not shutil.which("bwrap"):
        return ()
    if subprocess.run([*NO_BUBBLEWRAP, "true"], capture_output=True).returncode != 0:
        pytest.skip("bubblewrap can be hidden by root alone")
    return NO_BUBBLEWRAP


# --- refusals, before anything starts


def test_a_busy_port_is_one_sentence_that_names_the_variable(new_run: NewRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        busy = other.getsockname()[1]
        said = refusal(new_run(MAESTRO_PORT=str(busy)))
    assert said == (
        f"Port {busy} (Maestro's address for browsers) is in use: "
        "end what uses it, or set MAESTRO_PORT to another one (0: any free one)."
    )


def test_a_second_start_says_who_runs_already(maestro: Maestro, new_run: NewRun) -> None:
    said = refusal(new_run(state=maestro.state))
    assert f"process {maestro.run.process.pid}" in said
    assert maestro.admin.signed_in(), "and the first goes on"


@pytest.mark.parametrize(
    ("text", "says"), [(None, "There is no policy"), ("profiles: [", "line"), ("profils: []", "profils")]
)
def test_a_policy_that_cannot_be_read_is_named(new_run: NewRun, tmp_path: Path, text: str | None, says: str) -> None:
    policy = tmp_path / "maestro.yaml"
    if text is not None:
        policy.write_text(text)
    said = refusal(new_run(MAESTRO_POLICY=str(policy)))
    assert "maestro.yaml" in said
    assert says in said


def test_a_demo_without_bubblewrap_refuses_and_names_the_package(
    new_run: NewRun, without_bubblewrap: tuple[str, ...]
) -> None:
    said = refusal(new_run("--demo", before=without_bubblewrap))
    assert "install the package bubblewrap" in said


# --- one person without bubblewrap


def test_without_bubblewrap_one_person_is_let_in_from_this_machine(
    new_run: NewRun, without_bubblewrap: tuple[str, ...]
) -> None:
    run = new_run(before=without_bubblewrap, MAESTRO_HOST="0.0.0.0", MAESTRO_SERVICES="")
    maestro = Maestro(run)
    assert "install the package bubblewrap" in " ".join(run.printed.replace("│", " ").split())
    assert maestro.url.startswith("http://127.0.0.1:")
    assert maestro.admin.signed_in()
    port = int(maestro.url.rstrip("/").rpartition(":")[2])
    with socket.socket() as probe, pytest.raises(OSError):
        probe.connect((_own_address(), port))

    ann = Person(maestro.url, "ann")
    assert "Sign-up is closed" in ann.get("hub/signup").text
    page = maestro.admin.submit("hub/accounts", {"username": "ann", "action": "add"}).text
    given = page.partition('id="one-time-password"')[2].partition(">")[2].partition("<")[0]
    ann.change_password(given, ann.password)
    ann.sign_in()
    assert not ann.signed_in()


@needs_servers
@pytest.mark.timeout(300)
def test_that_one_person_has_a_server(new_run: NewRun, without_bubblewrap: tuple[str, ...]) -> None:
    maestro = Maestro(new_run(before=without_bubblewrap, **FEW))
    api = maestro.admin.api()
    launched = api.post("launches", json={"workspace": "personal"})
    assert launched.is_success, launched.text
    session = launched.json()["session_id"]
    until(lambda: api.get(f"launches/{session}").json()["status"] == "running", 120, "the server does not start")
    until(lambda: _status(maestro.url, {"Authorization": api.headers["Authorization"]}), 30, "it does not answer")


def _own_address() -> str:
    """An address of this machine that is not loopback; skips where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has loopback alone")
        return str(probe.getsockname()[0])


# --- the demo


@pytest.mark.bwrap
def test_the_demo_shows_its_people_and_leaves_nothing(new_run: NewRun) -> None:
    run = new_run("--demo", **FEW)
    state = Path(until(lambda: _demo_state(run), 120, "the demo is not ready"))
    passwords = run.passwords()
    assert set(passwords) == {"admin", "editor", "viewer"}
    url = _address(run)
    for name, role in (("admin", "owner"), ("editor", "editor"), ("viewer", "viewer")):
        person = Person(url, name, passwords[name])
        person.sign_in()
        [demo] = [space for space in person.api().get("workspaces").json()["workspaces"] if space["name"] == "demo"]
        assert demo["role"] == role
    with person.api() as api:
        said = [api.get(f"packages/{name}", params={"workspace": "demo"}).json() for name in ("telnetlib3", "cowsay")]
    assert [it["answer"] for it in said] == ["blocked", "held_back"]
    assert "it sends passwords in clear; use asyncssh" in said[0]["message"]
    started = below(run)
    assert started
    assert run.stop() == 0
    assert wait_gone(started, 10) == []
    assert not state.exists()


def _demo_state(run: Run) -> str | None:
    assert run.process.poll() is None, run.printed
    if "Ctrl-C ends it" not in run.printed:
        return None
    [hub] = [process for process in below(run) if "jupyterhub" in process.command()]
    return os.path.dirname(os.readlink(f"/proc/{hub.pid}/cwd"))


def _address(run: Run) -> str:
    return run.printed.partition("Maestro is ready: ")[2].split()[0]


# --- ending, and being ended


def test_ctrl_c_ends_everything_and_the_data_stays(new_run: NewRun) -> None:
    run = new_run(**FEW)
    maestro = Maestro(run)
    maestro.admin.api().post("workspaces", json={"name": "kept"}).raise_for_status()
    started = below(run)
    assert run.stop() == 0
    assert wait_gone(started, 10) == []
    assert not (run.state / "run/ready.json").exists()

    again = new_run(state=run.state, **FEW)
    url = again.ready["url"]
    assert again.passwords() == {}, "the admin has chosen a password"
    admin = Person(url, "admin", maestro.admin.password)
    admin.sign_in()
    assert "kept" in [space["name"] for space in admin.api().get("workspaces").json()["workspaces"]]


def test_killing_the_run_itself_ends_the_hub_too(new_run: NewRun) -> None:
    run = new_run(**FEW)
    assert run.ready
    started = below(run)
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    assert wait_gone(started, 45) == []


def test_a_killed_proxy_comes_back_with_all_its_routes(new_run: NewRun) -> None:
    """The Hub alone would bring the API's route back with its next check of all routes, a minute later."""
    run = new_run(**FEW)
    health = f"{run.ready['url']}api/v1/jupyter/health"
    assert httpx.get(health).status_code == 200
    [proxy] = [process for process in below(run) if process.command()[1:2] and "http-proxy" in process.command()[1]]
    proxy.send(signal.SIGKILL)
    assert wait_gone([proxy], 10) == []

    def back() -> bool:
        try:
            return httpx.get(health).status_code == 200
        except httpx.HTTPError:
            return False

    until(back, 25, "the API's route does not come back")


@needs_servers
@pytest.mark.bwrap
@pytest.mark.timeout(400)
def test_nothing_is_lost_when_the_hub_is_killed(new_run: NewRun) -> None:
    """kill -9: proxy and services end, the notebook server goes on, the next start finds it, no port is kept."""
    run = new_run(**FEW)
    maestro = Maestro(run)
    api = maestro.admin.api()
    token = {"Authorization": api.headers["Authorization"]}
    launched = api.post("launches", json={"workspace": "personal"})
    assert launched.is_success, launched.text
    session = launched.json()["session_id"]
    until(lambda: api.get(f"launches/{session}").json()["status"] == "running", 120, "the server does not start")
    status = until(lambda: _status(maestro.url, token), 30, "the server does not answer")

    parts = Record(run.state / "run/processes.json").read()
    assert len(parts) >= 3
    hub = maestro.ready["pids"]["hub"]
    os.kill(hub, signal.SIGKILL)
    assert run.process.wait(30) == 1
    assert "killed by signal 9" in run.printed
    assert wait_gone(parts, 10) == []

    # on the very same ports, which must be free
    ports = {PORTS[name].variable: str(number) for name, number in maestro.ready["ports"].items()}
    again = new_run(state=run.state, **FEW, **ports)
    assert again.ready["url"] == maestro.url
    found = until(lambda: _status(maestro.url, token), 30, "the server is not found again")
    assert found["started"] == status["started"], "the same server, through the new proxy"
    assert httpx.get(f"{maestro.url}{API}launches/{session}", headers=token).json()["status"] == "running"
    assert maestro.admin.signed_in(), "and the browser is still signed in"

    started = below(again)
    server = [process for process in _everything() if "server_extension.start" in " ".join(process.command())]
    assert again.stop() == 0
    assert wait_gone(started, 10) == []
    assert _of_state(server, run.state) == []


def _status(url: str, token: dict[str, str]) -> dict[str, Any] | None:
    answer = httpx.get(f"{url}user/admin/api/status", headers=token)
    return answer.json() if answer.status_code == 200 else None


def _everything() -> list[Process]:
    found = (Process.of(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [process for process in found if process]


def _of_state(processes: list[Process], state: Path) -> list[Process]:
    """Those that were started for this state: bubblewrap's mounts name it."""

    def mounts(process: Process) -> str:
        try:
            return Path(f"/proc/{process.pid}/mountinfo").read_text()
        except OSError:
            return ""

    return [process for process in processes if process.alive and str(state) in mounts(process)]
