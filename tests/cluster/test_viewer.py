"""A viewer's server: the cluster itself mounts the workspace read-only, and a private home writable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from notebooks import WorkspaceManager
from tests.cluster.cluster import PODS, Cluster, cli, until
from tests.system.house import Maestro
from tests.system.singleuser import NotebookServer

WORKSPACE = "forecast"


@pytest.fixture
def pod(maestro: Maestro, cluster: Cluster, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The pod of a viewer in a workspace that somebody else owns; ended with the test."""
    owner, viewer = maestro.person("olga"), maestro.person("vic")
    workspaces = WorkspaceManager(maestro.url, owner.token())
    made = workspaces.create_workspace(WORKSPACE, "What comes next")
    workspaces.add_member(made.workspace_id, user_email=viewer.name, role="viewer")
    session = cli(maestro, viewer, "launch", "--workspace", WORKSPACE, "--memory", "1Gi", home=tmp_path)
    (found,) = cluster.items("pods", PODS)
    yield found
    cli(maestro, viewer, "stop", session["session_id"], home=tmp_path)
    until(lambda: not cluster.items("pods", PODS), 60, "end of the pod")


async def test_the_workspace_is_read_only_and_the_home_is_not(
    maestro: Maestro, cluster: Cluster, pod: dict[str, Any]
) -> None:
    name = pod["metadata"]["name"]
    (server,) = (each for each in pod["spec"]["containers"] if each["name"] == "notebook")
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in server["volumeMounts"]}
    assert mounts["/workspace"] is True
    assert mounts["/home/jovyan"] is False
    with pytest.raises(AssertionError, match="Read-only file system"):
        cluster.inside(name, "touch", "/workspace/mine")
    cluster.inside(name, "sh", "-c", "echo kept > ~/note && cat ~/note")

    server = NotebookServer(f"{maestro.url}user/vic/{WORKSPACE}/", token=maestro.person("vic").token())
    file = {"type": "file", "format": "text", "content": "mine"}
    answer = server.api("PUT", "api/contents/mine.txt", json=file)
    assert answer.status_code == 403 and "You are viewer of" in answer.json()["message"], answer.text
    kernel = await server.open_notebook("new.ipynb").run("from pathlib import Path; Path('/workspace/new').touch()")
    assert "Read-only file system" in kernel.text
    assert "Read-only file system" in await server.terminal("touch /workspace/new; echo the e''nd", ends="the end")
    assert cluster.inside(name, "ls", "-A", "/workspace").strip() == ""
    assert server.api("PUT", "api/contents/My home/mine.txt", json=file).status_code == 201
