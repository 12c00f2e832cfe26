"""The real pip (two versions) and uv against the real index service, its upstream small wheels made here.

The clients are configured with nothing but the files that a launch gets, and run without a terminal.
"""

from __future__ import annotations

import os
import re
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
    """An environment with the pip that this Python carries (ensurepip), older than the locked one."""
    folder = tmp_path_factory.mktemp("client") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=LIMIT)
    return folder


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
        etc = self.home / "etc"
        etc.mkdir(exist_ok=True)
        if token:
            for filename, text in client_files(self.service.url, token).items():
                (etc / filename).write_text(text)
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "VIRTUAL_ENV": str(self.folder)}
        env |= {"XDG_CACHE_HOME": str(self.cache)} | client_environment(str(etc)) | more
        env = {name: value for name, value in env.items() if value}
        done = subprocess.run(
            [*self.command, "install", *what],
            env=env,
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
    client.remove("small", "heavy", "evil", "wrapper", "versioned")


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
    service.rule(
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
    assert code != 0 and "heavy needs an approval by the global policy (rule heavy). Ask an admin" in output, output


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
