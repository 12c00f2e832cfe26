"""A real notebook server tells the service what it uses, and shows its user what the service says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.singleuser import Opened, ServiceAnswers, opened, prefix, service_answers, until

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (prefix() / "bin/maestro-singleuser").is_file(), reason="no single-user environment here"),
]
CULL = {
    "id": "cull",
    "kind": "cull",
    "level": "warning",
    "message": "This server has been idle and will be stopped.",
    "until": "2099-01-01T00:00:00Z",
    "action": "keep",
}


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceAnswers]:
    with service_answers() as answers:
        yield answers


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory, service: ServiceAnswers) -> Iterator[Opened]:
    """A server whose heart beats every second."""
    folder = tmp_path_factory.mktemp("launch")
    with opened(folder, MAESTRO_SERVICE_URL=service.url, MAESTRO_HEARTBEAT_SECONDS="1") as running:
        yield running


@pytest.fixture(autouse=True)
def quiet(service: ServiceAnswers) -> Iterator[None]:
    yield
    service.notices, service.status = [], 200


def notices(launch: Opened) -> list[dict[str, Any]]:
    answer = launch.server.api("GET", "maestro/notices")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["notices"])


def next_beat(service: ServiceAnswers, like: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait for a heartbeat that says this."""
    start = len(service.beats)
    return until(lambda: next(filter(like, service.beats[start:]), None), f"such a heartbeat: {service.beats[-1:]}")


def busy(beat: dict[str, Any]) -> bool:
    return bool(beat["busy"])


def idle(beat: dict[str, Any]) -> bool:
    return not beat["busy"]


async def test_the_service_hears_what_the_server_uses(launch: Opened, service: ServiceAnswers) -> None:
    first = next_beat(service, lambda beat: beat["kernels"] == 0)
    assert idle(first) and first["memory"] > 50e6 and first["cpu_seconds"] > 0.5 and first["gpus"] == []
    notebook = launch.server.open_notebook("a.ipynb")
    await notebook.run("block = bytearray(b'x') * 200_000_000")
    second = next_beat(service, lambda beat: beat["kernels"] == 1 and beat["memory"] > first["memory"] + 200e6)
    running = asyncio.create_task(notebook.run("import time\nwhile time.process_time() < 4: pass"))
    await asyncio.to_thread(next_beat, service, busy)
    await running
    next_beat(service, lambda beat: idle(beat) and beat["cpu_seconds"] > second["cpu_seconds"] + 2)


async def test_a_program_in_a_terminal_is_work_and_a_prompt_is_not(launch: Opened, service: ServiceAnswers) -> None:
    name = launch.server.api("POST", "api/terminals", json={}).json()["name"]
    next_beat(service, idle)
    launch.server.api("DELETE", f"api/terminals/{name}")
    line = "timeout 5 sh -c 'while :; do :; done'; echo the e''nd"
    working = asyncio.create_task(launch.server.terminal(line, ends="the end"))
    await asyncio.to_thread(next_beat, service, busy)
    await working


def test_the_workspaces_files_are_measured(launch: Opened, service: ServiceAnswers) -> None:
    (launch.workspace / "data.bin").write_bytes(b"x" * 3_000_000)
    until(lambda: (service.beats[-1]["workspace_bytes"] or 0) >= 3_000_000, "the workspace's size")


def test_a_notice_of_the_service_is_shown_until_it_is_read_or_taken_back(
    launch: Opened, service: ServiceAnswers
) -> None:
    service.notices = [CULL, {"id": "role", "kind": "role", "message": "You are no longer an editor."}]
    until(lambda: len(notices(launch)) == 2, "two notices")
    assert notices(launch)[0] == CULL
    assert launch.server.api("DELETE", "maestro/notices/role").status_code == 204
    assert [notice["id"] for notice in notices(launch)] == ["cull"]
    service.notices = []
    until(lambda: notices(launch) == [], "no notice")


def test_keep_it_running_asks_the_service_and_takes_the_notice_away(launch: Opened, service: ServiceAnswers) -> None:
    service.notices = [CULL]
    until(lambda: notices(launch), "a notice")
    answer = launch.server.api("POST", "maestro/keep", json={})
    assert (answer.status_code, answer.json()["notices"]) == (200, [])
    assert service.keeps == 1


def test_without_the_service_the_button_says_so_and_the_server_goes_on(launch: Opened, service: ServiceAnswers) -> None:
    service.status = 503
    answer = launch.server.api("POST", "maestro/keep", json={})
    assert answer.status_code == 502 and "press the button again" in answer.json()["message"]
    assert launch.server.api("GET", "api/status").status_code == 200
    service.status = 200
    next_beat(service, bool)


def test_an_open_window_that_asks_is_nobody_at_work(launch: Opened) -> None:
    def last() -> str:
        return str(launch.server.api("GET", "api/status").json()["last_activity"])

    before = last()
    notices(launch)
    assert last() == before


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "maestro/notices"), ("DELETE", "maestro/notices/x"), ("POST", "maestro/keep")]
)
def test_nobody_else_is_answered(launch: Opened, method: str, path: str) -> None:
    import httpx

    assert httpx.request(method, launch.server.url + path).status_code in (302, 403)


def test_the_token_is_in_no_log(launch: Opened) -> None:
    assert b"token-of-the-notebook-server" not in launch.server.log.read_bytes()


def test_a_server_whose_launch_names_no_service_works(tmp_path: Path) -> None:
    with opened(tmp_path) as launch:
        assert launch.server.api("POST", "maestro/keep", json={}).status_code == 502
        assert notices(launch) == []
