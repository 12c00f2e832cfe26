"""Scaling on a real cluster: the pod stays, its cgroup changes; what the kubelet cannot do is put back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maestro_core.errors import MaestroError
from maestro_core.resources import Resources
from maestro_hub_services.workspaces.resizing import CannotResize, kubernetes
from notebooks import NotebookLauncher
from tests.cluster.cluster import PODS, Cluster, cli, until
from tests.system.house import Maestro, Person
from tests.workspaces_kit import settings_for
from tests.workspaces_kit import until as until_async

MIB = 1024**2
#: the container's memory limit, on cgroup v2 and on v1
LIMIT = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
CPU = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"


@pytest.fixture(scope="module")
def sam(maestro: Maestro) -> Person:
    return maestro.person("sam")


@pytest.fixture(scope="module")
def session(maestro: Maestro, cluster: Cluster, sam: Person, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with 0.5 cpu and 1 GiB of a profile that allows more."""
    home = tmp_path_factory.mktemp("client")
    amounts = ("--profile", "medium", "--cpu", "0.5", "--memory", "1Gi")
    made = cli(maestro, sam, "launch", *amounts, home=home)
    yield made["session_id"]
    cli(maestro, sam, "stop", made["session_id"], home=home)
    until(lambda: not cluster.items("pods", PODS), 60, "end of the pod")


def test_it_has_other_amounts_in_the_same_pod_without_a_restart(
    maestro: Maestro, cluster: Cluster, sam: Person, session: str, tmp_path: Path
) -> None:
    (before,) = cluster.items("pods", PODS)
    name = before["metadata"]["name"]
    assert int(cluster.inside(name, "sh", "-c", LIMIT)) == 1024 * MIB
    scaled = cli(maestro, sam, "scale", session, "--cpu=0.75", "--memory=1536Mi", home=tmp_path)
    assert (scaled["session_id"], scaled["resources"]["memory"]) == (session, "1536Mi")
    (after,) = cluster.items("pods", PODS)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    (status,) = after["status"]["containerStatuses"]
    assert status["restartCount"] == 0
    assert status["resources"]["limits"] == {"cpu": "750m", "memory": "1536Mi"}
    assert int(cluster.inside(name, "sh", "-c", LIMIT)) == 1536 * MIB
    assert cluster.inside(name, "sh", "-c", CPU).split()[0] == "75000"


def test_what_its_node_cannot_give_changes_nothing_and_offers_the_restart(
    maestro: Maestro, cluster: Cluster, sam: Person, session: str
) -> None:
    (before,) = cluster.items("pods", PODS)
    launcher = NotebookLauncher(maestro.url, sam.token())
    held = launcher.status(session).resources
    with pytest.raises(MaestroError, match=r"because its node (is too small for it|has no room for it now)") as caught:
        launcher.scale(session, cpu=4, memory="2Gi")
    assert caught.value.code == "restart_needed"
    assert launcher.status(session).resources == held
    (after,) = cluster.items("pods", PODS)
    assert after["spec"]["containers"][0]["resources"] == before["spec"]["containers"][0]["resources"]


# The resizer alone, with the rights that the service gets and no more, on a pod that uses 200 MB


@pytest.fixture(scope="module")
def pod(cluster: Cluster, singleuser_image: str) -> Iterator[str]:
    amounts = {"cpu": "100m", "memory": "400Mi"}
    container: dict[str, Any] = {
        "name": "notebook",
        "image": singleuser_image,
        "imagePullPolicy": "IfNotPresent",
        "command": [
            "python",
            "-c",
            "import time; held = b'x' * 200_000_000; print('held', flush=True); time.sleep(600)",
        ],
        "resources": {"requests": amounts, "limits": amounts},
    }
    cluster.apply({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "resized", "labels": {"maestro.launch": "l-resized"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    })  # fmt: skip
    cluster.run("wait", "--for=condition=Ready", "pod/resized", "--timeout=60s", timeout=90)
    until(lambda: "held" in cluster.run("logs", "resized"), 30, "memory in use")
    yield "resized"
    cluster.run("delete", "pod", "resized", "--wait=false")


@pytest.fixture
async def resizer(
    cluster: Cluster, maestro_kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[kubernetes.KubernetesResizer]:
    monkeypatch.setenv("KUBECONFIG", str(maestro_kubeconfig))
    monkeypatch.setattr(kubernetes, "RESIZE_SECONDS", 3.0)
    made = kubernetes.KubernetesResizer(replace(settings_for(tmp_path / "state"), namespace=cluster.namespace))
    yield made
    await made.close()


async def test_memory_that_is_in_use_is_not_taken_away(
    cluster: Cluster, pod: str, resizer: kubernetes.KubernetesResizer
) -> None:
    with pytest.raises(CannotResize, match="it uses more memory than that"):
        await resizer.resize("l-resized", Resources(cpu=0.1, memory="100Mi"))
    found = cluster.json("get", "pod", pod)
    assert found["spec"]["containers"][0]["resources"]["limits"]["memory"] == "400Mi"
    assert found["status"]["containerStatuses"][0]["restartCount"] == 0


async def test_what_nobody_saw_end_is_told_by_the_pod_or_put_back(
    cluster: Cluster, pod: str, resizer: kubernetes.KubernetesResizer
) -> None:
    pending = {"cpu": "100", "memory": "400Mi"}  # more than any node has
    patch = {"spec": {"containers": [{"name": "notebook", "resources": {"requests": pending, "limits": pending}}]}}
    cluster.run("patch", "pod", pod, "--subresource=resize", "--patch", json.dumps(patch))

    async def settled() -> Resources | None:
        return await resizer.settle("l-resized", give_up=False)

    has = await until_async(settled, "the pod does not say what it has", 20)
    assert (has.cpu, has.memory) == (0.1, 400 * MIB)
    assert cluster.json("get", "pod", pod)["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "100m"
    assert await resizer.settle("l-unknown", give_up=True) is None
