"""Versions of notebooks on the real system: saved in JupyterLab's way, tagged on runs, listed and compared by CLI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.system.house import ROOT, Maestro, Person, until
from tests.system.singleuser import NotebookServer, has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(400)]
WORKSPACE = "versions"
RUN = "import mlflow\nwith mlflow.start_run(run_name={!r}): mlflow.log_metric('m', 1)"


def tags_of(maestro: Maestro, person: Person, name: str) -> dict[str, str]:
    """The tags of a run, read from MLflow as its owner."""
    headers = {"Authorization": f"token {person.token()}", "X-MLFLOW-WORKSPACE": WORKSPACE}
    with httpx.Client(base_url=f"{maestro.url}services/mlflow/api/2.0/mlflow/", headers=headers, timeout=60) as mlflow:
        experiments = mlflow.post("experiments/search", json={"max_results": 50}).json()["experiments"]
        ids = [one["experiment_id"] for one in experiments]
        runs = mlflow.post("runs/search", json={"experiment_ids": ids}).json().get("runs", [])
    (run,) = [one for one in runs if one["info"]["run_name"] == name]
    return {tag["key"]: tag["value"] for tag in run["data"]["tags"]}


def save(server: NotebookServer, *sources: str) -> None:
    cells = [
        {"cell_type": "code", "source": one, "metadata": {}, "outputs": [], "execution_count": None} for one in sources
    ]
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    saved = server.api("PUT", "api/contents/work.ipynb", json={"type": "notebook", "content": content})
    assert saved.is_success, saved.text


async def test_a_run_names_the_version_that_ran(maestro: Maestro, tmp_path: Path) -> None:
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    person = maestro.person("versions-owner")
    with person.api() as api:
        assert api.post("workspaces", json={"name": WORKSPACE, "description": ""}).status_code == 201
        started = api.post("launches", json={"workspace": WORKSPACE})
        assert started.is_success, started.text
        launch = f"launches/{started.json()['session_id']}"
        until(lambda: api.get(launch).json()["status"] == "running", 120, "the server does not come up")
        url = f"{maestro.url}user/{person.name}/{WORKSPACE}/"
        server = NotebookServer(url, None, Path(), token=person.token())  # type: ignore[arg-type]

        def versions() -> list[dict[str, Any]]:
            found = api.get(f"workspaces/{WORKSPACE}/snapshots", params={"path": "work.ipynb"})
            return list(found.json()["snapshots"])

        first = RUN.format("clean")
        save(server, first)
        (version,) = until(versions, 20, "no version was kept")
        assert version["author"] == person.name and version["cells"] == 1
        notebook = server.open_notebook("work.ipynb")
        outcome = await notebook.run(first)
        assert outcome.status == "ok" and "Run <b>clean</b> finished" in outcome.html, outcome
        assert f"workspace={WORKSPACE}" in outcome.html and "View run" not in outcome.text
        tags = tags_of(maestro, person, "clean")
        assert tags["maestro.notebook"] == "work.ipynb"
        assert (tags["maestro.snapshot"], tags["maestro.dirty"]) == (version["address"], "false")

        # a cell that is a run, and one that raises
        failed = await notebook.run("%%mlflow_run broken\n1 / 0")
        assert failed.status == "error" and "Run <b>broken</b> failed" in failed.html
        assert tags_of(maestro, person, "broken")["maestro.reason"] == "ZeroDivisionError: division by zero"
        listed_here = await notebook.run("%mlflow_runs")
        assert "clean" in listed_here.html and version["address"][:8] in listed_here.html

        assert (await notebook.run(RUN.format("changed"))).status == "ok"
        assert tags_of(maestro, person, "changed")["maestro.dirty"] == "true"

        save(server, first, "y = 2")
        until(lambda: len(versions()) == 2, 20, "the second version was not kept")
        new = versions()[0]["address"]

        environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        environ |= {"MAESTRO_URL": maestro.url, "MAESTRO_TOKEN": person.token()}

        def maestro_cli(*arguments: str) -> str:
            command = [sys.executable, "-m", "notebooks.cli", "version", WORKSPACE, "work.ipynb", *arguments]
            done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return done.stdout

        listed = json.loads(maestro_cli("--json"))
        assert [sorted(one["runs"]) for one in listed] == [[], ["broken", "changed", "clean"]]
        assert "+      y = 2" in maestro_cli("--diff", version["address"][:12], new[:12])
        assert json.loads(maestro_cli("--show", "run:clean"))["cells"][0]["source"] == first
        maestro_cli("--restore", new[:12])
        restored = json.loads((tmp_path / f"work ({new[:12]}).ipynb").read_text())
        assert [cell["source"] for cell in restored["cells"]] == [first, "y = 2"]

        # a kernel that dies says nothing to MLflow: when its server has ended, its runs end too
        started_there = await notebook.run("%mlflow_start_run left\nimport os; print(os.getpid())")
        pid = int(started_there.text.split()[-1])
        await server.open_notebook("other.ipynb").run(f"import os; os.kill({pid}, 9)")
        api.delete(launch)
        until(lambda: "maestro.reason" in tags_of(maestro, person, "left"), 40, "the run is active for ever")
        assert tags_of(maestro, person, "left")["maestro.reason"].startswith("the server ended")
