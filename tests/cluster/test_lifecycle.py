"""The ends of servers and workspaces on a real cluster: what idles, what never starts, what is purged.

The idle server is started first and looked at last: its minute passes while the other tests run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from maestro_core.errors import MaestroError
from notebooks import NotebookLauncher, WorkspaceManager
from tests.cluster.cluster import PODS, Cluster, cli, until
from tests.system.house import Maestro, Person

#: seconds that a reservation may outlive a failed start
GONE_SECONDS = 30


@pytest.fixture(scope="module")
def lea(maestro: Maestro) -> Person:
    return maestro.person("lea")


@pytest.fixture(scope="module", autouse=True)
def idle(maestro: Maestro, lea: Person, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The session of a server that nobody uses, of a profile that lets it idle for a minute."""
    made = cli(maestro, lea, "launch", "--profile", "brief", "--no-wait", home=tmp_path_factory.mktemp("client"))
    return str(made["session_id"])


def pods_of(cluster: Cluster, session: str) -> list[dict[str, Any]]:
    return cluster.items("pods", f"{PODS},maestro.launch={session}")


@pytest.mark.parametrize(("profile", "says"), [("nowhere", "no node could take it"), ("imageless", "cannot be had")])
def test_what_never_starts_is_given_up_and_its_reservation_with_it(
    maestro: Maestro, cluster: Cluster, lea: Person, profile: str, says: str
) -> None:
    """No node takes the first, no node can pull the image of the second; the start's time-out is in hub_config.py."""
    launcher, began = NotebookLauncher(maestro.url, lea.token()), time.monotonic()
    with pytest.raises(MaestroError, match=says) as caught:
        launcher.launch(profile=profile, server_name=f"never-{profile}")
    assert caught.value.code == "start_failed"
    assert time.monotonic() - began < 5 + GONE_SECONDS
    session = caught.value.details["session_id"]
    assert session not in {one.session_id for one in launcher.sessions()}
    assert says in str(launcher.status(session).ended_reason)
    until(lambda: not pods_of(cluster, session), 30, "end of the pod")


def test_a_purge_removes_the_claim_and_keeps_the_name_until_it_is_gone(
    maestro: Maestro, cluster: Cluster, lea: Person, singleuser_image: str, tmp_path: Path
) -> None:
    workspaces = WorkspaceManager(maestro.url, lea.token())
    first = workspaces.create_workspace("leaving", "Soon over")
    hold(cluster, "holder", "workspace-leaving", singleuser_image)
    volume = cluster.json("get", "pvc", "workspace-leaving")["spec"]["volumeName"]
    with lea.api() as api:
        assert api.delete("workspaces/leaving").status_code == 204
        report = api.post("workspaces/leaving/purge")
        assert (report.status_code, report.json()["state"]) == (202, "purging")
        assert "the files" in report.json()["left"]
        with pytest.raises(MaestroError) as caught:
            workspaces.create_workspace("leaving")
        assert caught.value.code == "name_taken"

        cluster.run("delete", "pod", "holder", "--wait=false")
        path = f"workspaces/{first.workspace_id}/purge"
        done = until(lambda: (seen := api.post(path).json()).get("state") == "purged" and seen, 60, "end of the purge")
    assert {"what": "claim", "count": 1, "bytes": None, "detail": "workspace-leaving"} in done["removed"]
    assert not [one for one in cluster.items("pvc") if one["metadata"]["name"] == "workspace-leaving"]
    until(lambda: volume not in cluster.run("get", "pv", "--output=name"), 30, "end of the volume")
    second = workspaces.create_workspace("leaving", "Another one")
    assert second.workspace_id != first.workspace_id
    assert cluster.json("get", "pvc", "workspace-leaving")["metadata"]["labels"]["maestro.workspace-id"] in (
        second.workspace_id
    )


def hold(cluster: Cluster, name: str, claim: str, image: str) -> None:
    """A pod that has a claim mounted, which keeps Kubernetes from removing it."""
    container = {
        "name": "holder",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "600"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
    }
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    cluster.run("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s", timeout=90)


def test_the_pod_of_an_idle_server_is_stopped(maestro: Maestro, cluster: Cluster, lea: Person, idle: str) -> None:
    launcher = NotebookLauncher(maestro.url, lea.token())
    ended = until(lambda: (seen := launcher.status(idle)).status == "ended" and seen, 150, "end of the idle server")
    assert "idle" in str(ended.ended_reason) or "used" in str(ended.ended_reason)
    until(lambda: not pods_of(cluster, idle), 60, "end of the pod")
