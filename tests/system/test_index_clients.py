"""The real pip (two versions) and uv against the real index service, its upstream small wheels made here.

The clients are configured with nothing but the files that a launch gets, and run without a terminal.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from maestro_core.clients import client_environment, client_files
from tests import package_kit as kit

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "/services/packages/"
LIMIT = 60.0  # seconds that anything here may take
UV = Path(sys.executable).parent / "uv"
OLD_PIP = "pip==23.2.1"


class Service:
    """The index as a process, with its upstream and the service that it asks."""

    def __init__(self, upstream: kit.Upstream, authority: kit.Authority, port: int) -> None:
        self.upstream, self.authority = upstream, authority
        self.host = f"http://localhost:{port}"  # as clients.py calls it
        self.url = f"{self.host}{PREFIX.rstrip('/')}"

    def rule(self, **section: object) -> None:
        """Put a policy in force, and wait until the index knows (it asks every 5 s)."""
        self.authority.rule(upstream=self.upstream.url, **section)
        wanted = len(self.authority.asked) + 1
        deadline = time.monotonic() + LIMIT
        while self.authority.asked[wanted:].count("/api/policy/packages") == 0:
            assert time.monotonic() < deadline, "the index never asked for the new policy"
            self.get("simple/wait-for-policy/")
            time.sleep(0.1)

    def get(self, path: str, token: str = "alive", **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}/{path}", auth=("launch", token), headers=headers, trust_env=False)

    def address(self, project: str, token: str = "alive") -> str:
        """Our own path of the project's only file."""
        (entry,) = self.get(f"simple/{project}/", token, Accept=kit.JSON).json()["files"]
        return str(entry["url"])


def environment(state: Path, host: str, authority: kit.Authority) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {
        "MAESTRO_STATE": str(state),
        "MAESTRO_POLICY": str(state / "maestro.yaml"),
        "MAESTRO_BIND": host.removeprefix("http://").replace("localhost", "127.0.0.1"),
        "MAESTRO_PUBLIC_URL": host,
        "MAESTRO_SERVICE_URL": authority.url,
        "MAESTRO_MLFLOW_URL": host,
        "MAESTRO_INDEX_URL": f"{host}{PREFIX}",
        "JUPYTERHUB_API_URL": host,
        "JUPYTERHUB_API_TOKEN": kit.SERVICE_TOKEN,
        "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The index service, started as the Hub starts it."""
    state = tmp_path_factory.mktemp("state")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with kit.upstream_and_authority() as (upstream, authority):
        it = Service(upstream, authority, port)
        process = subprocess.Popen(
            [sys.executable, "-m", "maestro_hub_services.packages"], env=environment(state, it.host, authority)
        )
        try:
            wait_for(it, process)
            yield it
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0


def wait_for(service: Service, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        try:
            assert httpx.get(f"{service.url}/health", trust_env=False).json() == {"status": "ok"}
            return
        except httpx.TransportError:
            time.sleep(0.05)


@pytest.fixture(scope="module")
def environment_with_old_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with a pip of three years ago; where it cannot be had, the one that this Python carries."""
    folder = tmp_path_factory.mktemp("client") / "env"
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, folder], check=True, timeout=LIMIT)
    install = [UV, "pip", "install", "-q", "--python", folder / "bin/python", OLD_PIP]
    if subprocess.run(install, timeout=LIMIT, check=False).returncode != 0:
        subprocess.run([folder / "bin/python", "-m", "ensurepip"], check=True, timeout=LIMIT)
    return folder


def launch_environment(
    service: Service, folder: Path, home: Path, token: str = "alive", cache: Path | None = None, **more: str
) -> dict[str, str]:
    """The variables of a launch's kernels and terminals, in the environment ``folder``; an empty value removes one."""
    etc = home / "etc"
    etc.mkdir(exist_ok=True)
    if token:
        for filename, text in client_files(service.url, token).items():
            (etc / filename).write_text(text)
    env = {"PATH": f"{folder / 'bin'}:{UV.parent}:{os.environ['PATH']}", "HOME": str(home), "VIRTUAL_ENV": str(folder)}
    env |= {"XDG_CACHE_HOME": str(cache or home / "cache")} | client_environment(str(etc)) | more
    return {name: value for name, value in env.items() if value}


class Client:
    """One of the clients, in an environment of its own."""

    def __init__(self, name: str, folder: Path, home: Path, service: Service) -> None:
        self.name, self.folder, self.home, self.service = name, folder, home, service
        python = folder / "bin/python"
        self.command: list[str | Path] = {
            "pip": [sys.executable, "-m", "pip", "--python", python],
            "old pip": [python, "-m", "pip"],
            "uv": [UV, "pip"],
        }[name]
        self.cache = home / "cache"

    def install(self, *what: str, token: str = "alive", **more: str) -> tuple[int, str]:
        """Run ``install``: exit code and everything that it printed."""
        done = subprocess.run(
            [*self.command, "install", *what],
            env=launch_environment(self.service, self.folder, self.home, token, self.cache, **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
        )
        return done.returncode, re.sub(r"\s+", " ", done.stdout)

    def has(self, module: str) -> str:
        """The version of a module that the tests made; empty if it is not installed."""
        code = f"import {module.replace('-', '_')} as it; print(it.VERSION)"
        done = subprocess.run([self.folder / "bin/python", "-c", code], capture_output=True, text=True, timeout=LIMIT)
        return done.stdout.strip()

    def remove(self, *projects: str) -> None:
        """Back to an empty environment."""
        python = self.folder / "bin/python"
        subprocess.run(
            [UV, "pip", "uninstall", "--python", python, *projects], check=True, capture_output=True, timeout=LIMIT
        )


@pytest.fixture(params=["pip", "old pip", "uv"])
def client(
    request: pytest.FixtureRequest, service: Service, environment_with_old_pip: Path, tmp_path: Path
) -> Iterator[Client]:
    client = Client(request.param, environment_with_old_pip, tmp_path, service)
    yield client
    client.remove("small", "heavy", "evil", "wrapper", "versioned", "withdrawn")


@pytest.fixture(scope="module", autouse=True)
def published(service: Service) -> None:
    """What upstream has; ``evil`` and the versions 2 of ``versioned`` are blocked, ``heavy`` waits for an approval."""
    add = service.upstream.add
    add("small", "1.0")
    add("evil", "6.6")
    add("wrapper", "1.0", ("small", "evil>=6"))
    add("versioned", "1.0")
    add("versioned", "2.0")
    add("heavy", "3.0")
    add("withdrawn", "1.0")
    add("withdrawn", "2.0", yanked="it lost data")
    add("leads-out", "1.0", ("small @ https://elsewhere.example.org/small-1.0-py3-none-any.whl",))
    service.upstream.add_file("unbuilt", "unbuilt-1.0.tar.gz", b"never opened")
    service.rule(
        sdists="block",
        blocked_packages=[
            {"package": "evil", "reason": "it is known for evil"},
            {"package": "versioned>=2", "reason": "breaks our pipelines"},
        ],
        approval_required=["heavy"],
    )


EVIL = "evil is blocked by the global policy (rule evil): it is known for evil. Ask an admin of this Hub"


def test_what_is_allowed_installs(client: Client) -> None:
    code, output = client.install("small")
    assert code == 0, output
    assert client.has("small") == "1.0"


def test_a_blocked_package_fails_with_the_sentence(client: Client) -> None:
    code, output = client.install("evil")
    assert code != 0 and EVIL in output, output
    assert "No matching distribution" not in output
    assert not client.has("evil")


def test_a_blocked_dependency_fails_with_the_sentence(client: Client) -> None:
    code, output = client.install("wrapper")
    assert code != 0 and EVIL in output, output
    assert not client.has("wrapper")


def test_what_needs_an_approval_fails_with_the_sentence(client: Client) -> None:
    code, output = client.install("heavy")
    assert (
        code != 0
        and "heavy needs an approval by the global policy (rule heavy). Ask for it with 'maestro request'" in output
    ), output


def test_an_allowed_version_is_taken_and_a_blocked_pin_is_explained(client: Client) -> None:
    code, output = client.install("versioned")
    assert code == 0 and client.has("versioned") == "1.0", output
    client.remove("versioned")
    code, output = client.install("versioned==2.0")
    assert code != 0 and "versioned 2.0 is blocked by the global policy (rule versioned" in output, output
    assert "breaks our pipelines" in output


def test_a_range_without_an_allowed_version_fails(client: Client) -> None:
    """pip ignores yanked versions without a word, as its users know it from upstream; uv tells their reason."""
    code, output = client.install("versioned>=2")
    assert code != 0 and not client.has("versioned")
    told = "breaks our pipelines" if client.name == "uv" else "No matching distribution found for versioned>=2"
    assert told in output, output


def test_a_guessed_address_of_a_blocked_file_is_refused(client: Client) -> None:
    refused = client.service.address("evil")
    guessed = re.sub(r"/refused-[^/]+/", "/" + "0" * 24 + "/", refused)
    for address in (refused, guessed):
        code, output = client.install(f"{client.service.host}{address}")
        assert code != 0 and EVIL in output, output
        assert not client.has("evil")


def test_source_alone_fails_with_the_sentence(client: Client) -> None:
    code, output = client.install("unbuilt")
    assert code != 0 and "unbuilt 1.0 is offered to this Python as source only" in output, output
    assert "(rule sdists: block). Install a version that has a wheel" in output


def test_a_version_that_upstream_withdrew_installs_by_its_number_with_the_reason(client: Client) -> None:
    code, output = client.install("withdrawn")
    assert code == 0 and client.has("withdrawn") == "1.0", output
    code, output = client.install("withdrawn==2.0")
    assert code == 0 and client.has("withdrawn") == "2.0" and "it lost data" in output, output


def test_a_dependency_by_address_fails_with_the_sentence(client: Client) -> None:
    code, output = client.install("leads-out")
    assert code != 0 and "leads-out 1.0 requires small (elsewhere.example.org) from an address of its own" in output
    assert not client.has("leads-out")


@pytest.mark.parametrize("client", ["pip", "uv"], indirect=True)
def test_an_open_network_lets_go_past_the_index_and_a_closed_one_does_not(client: Client, tmp_path: Path) -> None:
    """As docs/packages.md says: on one machine the policy is advisory; a NetworkPolicy makes it binding."""
    elsewhere = client.service.upstream.url
    (wheel,) = client.service.upstream.projects["evil"]
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(f"--index-url {elsewhere}\nevil\n")
    code, output = client.install("-r", str(wanted))
    if client.name == "uv":  # takes a file's index besides ours, and after it
        assert code != 0 and EVIL in output, output
    else:
        assert code == 0 and client.has("evil"), output
        client.remove("evil")
    assert client.install(str(wheel["url"]))[0] == 0 and client.has("evil")
    client.remove("evil")
    wanted.write_text("--index-url http://127.0.0.1:9/simple/\nevil\n")  # nothing answers, as behind a NetworkPolicy
    retries = ["--retries", "0"] if client.name != "uv" else []
    code, output = client.install("-r", str(wanted), *retries, UV_HTTP_RETRIES="0")
    assert code != 0 and not client.has("evil"), output


NOTEBOOK = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "-c"]
WAYS = {
    "!pip": [*NOTEBOOK, "!pip install small\n!pip install evil"],
    "%pip": [*NOTEBOOK, "%pip install evil"],
    "!uv pip": [*NOTEBOOK, "!uv pip install small\n!uv pip install evil"],
    "output = !pip": [*NOTEBOOK, "told = !pip install evil\nprint('\\n'.join(told))"],
    "subprocess": [*NOTEBOOK, "import subprocess\nsubprocess.run(['pip', 'install', 'evil'])"],
    "a terminal": ["bash", "-c", "pip install small; pip install evil"],
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_in_installs_what_is_allowed_and_says_why_not(
    way: str, service: Service, environment_with_old_pip: Path, tmp_path: Path
) -> None:
    launch = f"launch by {way}"
    token = service.authority.admit(re.sub(r"\W", "-", launch), launch=launch)
    env = launch_environment(service, environment_with_old_pip, tmp_path, token, COLUMNS="500")
    output = run_in_terminal(WAYS[way], env)
    assert EVIL in output, output
    assert "No matching distribution" not in output and "User for" not in output
    (place,) = environment_with_old_pip.glob("lib/*/site-packages")
    assert (place / "small.py").exists() is ("small" in str(WAYS[way])) and not (place / "evil.py").exists()
    (denial,) = service.get("denials", token).json()["denials"]
    assert denial["package"] == "evil"
    subprocess.run([UV, "pip", "uninstall", "--python", environment_with_old_pip / "bin/python", "small"], check=False)


def run_in_terminal(command: list[str], env: dict[str, str]) -> str:
    """Run it with a terminal, in which a client could ask questions, and read what it writes; no colours, one line."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    read = b""
    deadline = time.monotonic() + LIMIT
    ready = select.poll()  # select() takes no descriptor above 1023, and a long session has many
    ready.register(ours, select.POLLIN)
    try:
        while time.monotonic() < deadline:
            if ready.poll(200):
                read += os.read(ours, 65536)
    except OSError:
        pass  # the last one who had the terminal has gone
    finally:
        process.kill()
        process.wait(LIMIT)
        os.close(ours)
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", read.decode(errors="replace")))


def test_a_requirements_file_with_a_blocked_package(client: Client, tmp_path: Path) -> None:
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(f"--index-url {client.service.url}/simple/\nsmall\nevil\n")
    code, output = client.install("-r", str(wanted))
    assert code != 0 and EVIL in output, output


@pytest.mark.parametrize("token", ["", "dead"])
def test_without_a_living_token_it_fails_and_never_prompts(client: Client, token: str) -> None:
    arguments, more = ["small"], {}
    if not token:  # as from a terminal elsewhere, by somebody who knows the address
        arguments += ["--index-url", f"{client.service.url}/simple/", *(["--no-config"] if client.name == "uv" else [])]
        more = {"PIP_NO_INPUT": "", "PIP_CONFIG_FILE": os.devnull, "UV_CONFIG_FILE": "", "NETRC": ""}
    code, output = client.install(*arguments, token=token, **more)
    assert code != 0 and not client.has("small"), output
    for prompt in ("User for", "Password", "EOF"):
        assert prompt not in output


def test_upstream_away_and_installed_before(client: Client) -> None:
    client.service.upstream.add("kept", "1.0")
    assert client.install("kept")[0] == 0
    client.remove("kept")
    client.service.upstream.away = True
    try:
        client.cache = client.home / "empty-cache"  # so that it is the index that has it
        code, output = client.install("kept")
        assert code == 0 and client.has("kept") == "1.0", output
        client.service.upstream.projects.pop("kept")
    finally:
        client.service.upstream.away = False
        client.remove("kept")


def test_a_package_blocked_later_is_refused_from_the_clients_own_cache_too(client: Client) -> None:
    """The answers say ``no-cache``: a client asks again before it takes its own copy."""
    service, workspace = client.service, client.name.replace(" ", "-")
    service.upstream.add("later", "1.0")
    token = service.authority.admit(f"token-{workspace}", workspace, launch=workspace)
    service.authority.rule(workspace, upstream=service.upstream.url)
    assert client.install("later", token=token)[0] == 0
    client.remove("later")
    service.authority.rule(workspace, upstream=service.upstream.url, blocked_packages=["later"])
    until(lambda: "/refused-later-" in service.address("later", token))  # it may know the old policy for 5 s
    code, output = client.install("later", token=token)
    service.upstream.projects.pop("later")
    assert code != 0 and "later is blocked by the global policy" in output, output


def test_the_launch_finds_its_denials(client: Client) -> None:
    service = client.service
    token = service.authority.admit(f"asks-{client.name}".replace(" ", "-"), launch=f"launch of {client.name}")
    assert service.get("denials", token).json() == {"denials": [], "next": 0}
    client.install("wrapper", token=token)
    (denial,) = service.get("denials", token).json()["denials"]
    assert (denial["package"], denial["version"], denial["action"]) == ("evil", "6.6", "block")
    assert EVIL in denial["message"]


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """After ``kill -9`` of the Hub no index keeps the port."""
    with kit.upstream_and_authority() as (upstream, authority):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        it = Service(upstream, authority, port)
        code = (
            "import subprocess, sys, time; "
            "subprocess.Popen([sys.executable, '-m', 'maestro_hub_services.packages']); time.sleep(300)"
        )
        parent = subprocess.Popen([sys.executable, "-c", code], env=environment(tmp_path, it.host, authority))
        wait_for(it, parent)
        parent.kill()
        parent.wait(LIMIT)
        until(lambda: not answers(it))


def answers(service: Service) -> bool:
    try:
        return httpx.get(f"{service.url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
