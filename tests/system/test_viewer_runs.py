"""A viewer's server on the real system: it runs everything, changes nothing, and its runs are the viewer's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.house import Maestro, Person, until
from tests.system.singleuser import NotebookServer, has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(400)]
WORKSPACE = "runs-of-viewers"


@pytest.fixture(scope="module")
def viewer(maestro: Maestro) -> Person:
    """A viewer of somebody's workspace."""
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    owner, viewer = maestro.person("runs-owner"), maestro.person("runs-viewer")
    with owner.api() as api:
        made = api.post("workspaces", json={"name": WORKSPACE, "description": "Read-only for some"})
        assert made.status_code == 201, made.text
        member = {"user": viewer.name, "role": "viewer"}
        added = api.put(f"workspaces/{WORKSPACE}/members", json=member)
        assert added.is_success, added.text
    return viewer


@pytest.fixture(scope="module")
def server(maestro: Maestro, viewer: Person) -> Iterator[NotebookServer]:
    """Their server, started through the API."""
    with viewer.api() as api:
        started = api.post("launches", json={"workspace": WORKSPACE})
        assert started.status_code in (201, 202), started.text
        launch = f"launches/{started.json()['session_id']}"
        until(lambda: api.get(launch).json()["status"] == "running", 120, "the server does not come up")
        url = f"{maestro.url}user/{viewer.name}/{WORKSPACE}/"
        yield NotebookServer(url, None, Path(), token=viewer.token())  # type: ignore[arg-type]
        api.delete(launch)


def runs(maestro: Maestro, person: Person, workspace: str) -> dict[str, str]:
    """Name of each run in an MLflow workspace -> its experiment, as this person sees them."""
    headers = {"Authorization": f"token {person.token()}", "X-MLFLOW-WORKSPACE": workspace}
    with httpx.Client(base_url=f"{maestro.url}services/mlflow/api/2.0/mlflow/", headers=headers, timeout=60) as mlflow:
        answer = mlflow.post("experiments/search", json={"max_results": 50})
        assert answer.status_code == 200, answer.text
        names = {one["experiment_id"]: one["name"] for one in answer.json().get("experiments", [])}
        found: list[dict[str, Any]] = []
        if names:
            found = mlflow.post("runs/search", json={"experiment_ids": list(names)}).json().get("runs", [])
        return {run["info"]["run_name"]: names[run["info"]["experiment_id"]] for run in found}


async def test_a_viewers_runs_go_to_their_own_workspace(
    maestro: Maestro, viewer: Person, server: NotebookServer
) -> None:
    notebook = server.open_notebook("report.ipynb")
    plain = await notebook.run("import mlflow\nwith mlflow.start_run(run_name='plain'): mlflow.log_metric('m', 1)")
    assert plain.status == "ok", plain.text
    magic = await notebook.run("%mlflow_start_run by-magic\n%mlflow_log_param rate 0.5\n%mlflow_end_run")
    personal = str(viewer.api().get("me").json()["personal_workspace"])
    assert f"workspace={personal}" in magic.html, magic.text
    experiment = f"from-{WORKSPACE}"
    assert runs(maestro, viewer, personal) == {"plain": experiment, "by-magic": experiment}
    assert runs(maestro, maestro.person("runs-owner"), WORKSPACE) == {}


async def test_a_viewers_server_logs_nothing_elsewhere(maestro: Maestro, server: NotebookServer) -> None:
    notebook = server.open_notebook("elsewhere.ipynb")
    refused = await notebook.run("import mlflow\nmlflow.set_experiment('another')")
    assert refused.status == "error" and "may only log runs to the experiment" in refused.text, refused.text
    await notebook.run(f"mlflow.set_workspace({WORKSPACE!r}) if hasattr(mlflow, 'set_workspace') else None")
    await notebook.run("with mlflow.start_run(run_name='sneaked'): pass")
    assert "sneaked" not in runs(maestro, maestro.person("runs-owner"), WORKSPACE)


async def test_a_viewer_is_told_so_and_every_way_to_write_is_refused(server: NotebookServer) -> None:
    shown = until(lambda: server.api("GET", "maestro/notices").json()["notices"], 30, "no notice")
    notice = next(one for one in shown if one["id"] == "viewer")
    assert f"You are viewer of {WORKSPACE}: files are read-only for you." in notice["message"]
    assert f"logged to your personal workspace, experiment from-{WORKSPACE}." in notice["message"]
    saved = server.api("PUT", "api/contents/new.txt", json={"type": "file", "format": "text", "content": "x"})
    assert saved.status_code == 403 and "You are viewer of" in saved.json()["message"]
    kernel = await server.open_notebook("write.ipynb").run("open('new', 'w')")
    assert "Read-only file system" in kernel.text
    assert "Read-only file system" in await server.terminal("touch new; echo the e''nd", ends="the end")
    home = {"type": "file", "format": "text", "content": "mine"}
    assert server.api("PUT", "api/contents/My home/mine.txt", json=home).status_code == 201


def test_the_service_knows_what_the_server_uses(viewer: Person, server: NotebookServer) -> None:
    with viewer.api() as api:
        session = next(one for one in api.get("launches").json()["launches"] if one["workspace"] == WORKSPACE)
        usage = until(
            lambda: (found := api.get(f"launches/{session['session_id']}/usage").json()).get("latest") and found,
            90,
            "no sample of the server arrives",
        )
    assert usage["latest"]["memory"] > 50e6


def test_a_removed_member_is_warned_in_the_notebook_at_once(
    maestro: Maestro, viewer: Person, server: NotebookServer
) -> None:
    """Runs last: the server ends with the membership."""
    until(lambda: server.api("GET", "maestro/notices").status_code == 200, 30, "no answer")
    with maestro.person("runs-owner").api() as owner:
        assert owner.delete(f"workspaces/{WORKSPACE}/members/user/{viewer.name}").is_success

    def warned() -> str:
        shown = server.api("GET", "maestro/notices").json()["notices"]
        return next((one["message"] for one in shown if one["id"] == "role"), "")

    assert "This server will be stopped" in until(warned, 10, "no warning within ten seconds")
