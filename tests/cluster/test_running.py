"""A server on the cluster: what its pod uses is shown; kill -9 of the Hub loses neither it nor its kernel."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bs4 import BeautifulSoup

from maestro_hub_services.installation import PORTS
from tests.cluster.cluster import PODS, Cluster, cli, until
from tests.system.house import Maestro, Person, Run
from tests.system.singleuser import Notebook, NotebookServer

WORKSPACE = "ledger"
MIB = 1024**2
#: held in the kernel, and lying in the workspace
HELD, WRITTEN = 300 * MIB, 40 * MIB
#: a server reports every 30 s, measures files after its first 30, and answers what it measured with the next report
REPORT_SECONDS = 100
WORK = f"""
import os, threading, time
held = os.urandom({HELD})
with open('/workspace/ledger.bin', 'wb') as file:
    file.write(os.urandom({WRITTEN}))
def work():
    while True:
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        time.sleep(0.1)
threading.Thread(target=work, daemon=True).start()
print('at work')
"""


@pytest.fixture(scope="module")
def kim(maestro: Maestro) -> Person:
    return maestro.person("kim")


@pytest.fixture(scope="module")
def session(
    maestro: Maestro, cluster: Cluster, kim: Person, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """A server in a workspace of its own; ended with these tests."""
    home = tmp_path_factory.mktemp("client")
    cli(maestro, kim, "create", WORKSPACE, "--description", "Who owes what", home=home)
    made = cli(maestro, kim, "launch", "--workspace", WORKSPACE, "--cpu", "1", "--memory", "1Gi", home=home)
    yield made
    cli(maestro, kim, "stop", made["session_id"], home=home)
    until(lambda: not cluster.items("pods", PODS), 60, "end of the pod")


@pytest.fixture(scope="module")
def notebook(maestro: Maestro, kim: Person, session: dict[str, Any]) -> Notebook:
    """An open notebook of that server."""
    return NotebookServer(f"{maestro.url}user/kim/{WORKSPACE}/", token=kim.token()).open_notebook("ledger.ipynb")


async def test_what_its_pod_uses_is_shown(
    maestro: Maestro, kim: Person, session: dict[str, Any], notebook: Notebook
) -> None:
    assert "at work" in (await notebook.run(WORK)).text
    with kim.api() as api:

        def reported() -> dict[str, Any] | None:
            found: dict[str, Any] = api.get(f"workspaces/{WORKSPACE}/usage").json()
            (server,) = found["launches"]
            latest = server["latest"] or {"cpu": 0}
            return found if found["storage_used"] and latest["cpu"] > 0.1 else None

        usage = until(reported, REPORT_SECONDS, "figures of its pod")
    (server,) = usage["launches"]
    assert server["latest"]["cpu"] < 1.1
    assert HELD < server["latest"]["memory"] <= server["latest"]["memory_peak"] < 1024 * MIB
    assert WRITTEN <= usage["storage_used"] < WRITTEN + 10 * MIB
    page = BeautifulSoup(kim.get(f"services/workspaces/w/{WORKSPACE}").text, "html.parser")
    section = page.select_one("#usage")
    assert section is not None
    shown = {str(cell["data-title"]): cell.get_text(" ", strip=True) for cell in section.select("td[data-title]")}
    assert re.fullmatch(r"[01]\.\d\d of 1", shown["CPU"]), shown
    assert re.fullmatch(r"\d{3}(\.\d)? MiB of 1 GiB", shown["Memory"]), shown
    assert re.search(r"Its files take 4\d(\.\d)? MiB", section.get_text(" ", strip=True))


async def test_the_server_is_found_again_and_nothing_is_lost(
    maestro: Maestro,
    cluster: Cluster,
    kim: Person,
    session: dict[str, Any],
    notebook: Notebook,
    start_hub: Callable[..., Run],
) -> None:
    (before,) = cluster.items("pods", PODS)
    os.kill(maestro.ready["pids"]["hub"], signal.SIGKILL)
    assert maestro.run.process.wait(60) == 1
    ports = {PORTS[name].variable: str(number) for name, number in maestro.ready["ports"].items()}
    maestro.run = start_hub(**ports)
    maestro.ready = maestro.run.ready

    until(lambda: notebook.server.api("GET", "api/status").status_code == 200, 60, "answer of the same server")
    assert f"{HELD}" in (await notebook.run("print(len(held))")).text, "the kernel kept what it held"
    (after,) = cluster.items("pods", PODS)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    with kim.api() as api:
        assert api.get(f"launches/{session['session_id']}").json()["status"] == "running"
        assert [one["session_id"] for one in api.get("launches").json()["launches"]] == [session["session_id"]]
    assert kim.signed_in()
    assert cluster.inside(after["metadata"]["name"], "ls", "/workspace").split() == ["ledger.bin"]
