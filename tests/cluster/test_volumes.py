"""The workspaces service's volumes on a real cluster, with the rights that the service gets and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from maestro_core.errors import MaestroError
from maestro_core.policy import Dataset
from maestro_hub_services.store import WorkspaceRow
from maestro_hub_services.store.clock import now
from maestro_hub_services.workspaces.volumes.kubernetes import HOMES_CLAIM, WORKSPACE_LABEL, KubernetesVolumes
from tests.cluster.cluster import Cluster
from tests.workspaces_kit import settings_for

GIB = 1024**3


@pytest.fixture
async def volumes(
    cluster: Cluster, maestro_kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KubernetesVolumes]:
    monkeypatch.setenv("KUBECONFIG", str(maestro_kubeconfig))
    settings = replace(settings_for(tmp_path / "state"), provider="kubernetes", namespace=cluster.namespace)
    made = KubernetesVolumes(settings)
    yield made
    await made.close()


def workspace(workspace_id: str, name: str) -> WorkspaceRow:
    return WorkspaceRow(workspace_id, name, "", False, None, None, 200_000, None, "ann", now(), None, None)


async def test_a_workspace_has_a_claim_of_its_size_once(cluster: Cluster, volumes: KubernetesVolumes) -> None:
    for _ in range(2):
        await volumes.ensure("w-1", "sized", 5 * GIB)
    claim = cluster.json("get", "pvc", "workspace-sized")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"
    assert claim["metadata"]["labels"][WORKSPACE_LABEL] == "w-1"


async def test_the_claim_of_somebody_else_is_not_taken_over(cluster: Cluster, volumes: KubernetesVolumes) -> None:
    await volumes.ensure("w-1", "taken", GIB)
    with pytest.raises(MaestroError) as caught:
        await volumes.ensure("w-2", "taken", GIB)
    assert caught.value.code == "conflict" and "workspace-taken" in caught.value.message
    await volumes.discard("w-2", "taken")
    assert cluster.json("get", "pvc", "workspace-taken")["metadata"]["labels"][WORKSPACE_LABEL] == "w-1"


async def test_what_was_not_created_after_all_is_taken_away(cluster: Cluster, volumes: KubernetesVolumes) -> None:
    await volumes.ensure("w-1", "lost", None)
    await volumes.discard("w-1", "lost")
    found = [
        item["metadata"]["name"]
        for item in cluster.json("get", "pvc")["items"]
        if "deletionTimestamp" not in item["metadata"]
    ]
    assert "workspace-lost" not in found
    await volumes.discard("w-1", "lost")  # nothing is there: no fault


async def test_a_launch_mounts_claims(cluster: Cluster, volumes: KubernetesVolumes) -> None:
    datasets = (Dataset(name="weather", claim="dataset-weather"), Dataset(name="local", path="/srv/local"))
    mounts = {m.name: m for m in await volumes.mounts(workspace("w-1", "demo"), "ann-1", datasets, read_only=True)}
    assert (mounts["workspace"].source, mounts["workspace"].read_only) == ("workspace-demo", True)
    assert (mounts["home"].source, mounts["home"].sub_path) == (HOMES_CLAIM, "ann-1/w-1")
    assert (mounts["dataset-weather"].source, mounts["dataset-weather"].read_only) == ("dataset-weather", True)
    assert set(mounts) == {"workspace", "home", "dataset-weather"}
    assert cluster.json("get", "pvc", HOMES_CLAIM)["spec"]["accessModes"] == ["ReadWriteMany"]


async def test_a_cluster_that_refuses_is_one_sentence(
    tmp_path: Path, maestro_kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(maestro_kubeconfig))
    elsewhere = replace(settings_for(tmp_path / "state"), provider="kubernetes", namespace="kube-system")
    made = KubernetesVolumes(elsewhere)  # where the service has no rights
    with pytest.raises(MaestroError) as caught:
        await made.ensure("w-1", "demo", GIB)
    await made.close()
    assert caught.value.code == "start_failed" and "403" in caught.value.message


def nowhere(kubeconfig: Path, copy: Path) -> Path:
    """The same rights at an address where nothing listens."""
    known = yaml.safe_load(kubeconfig.read_text())
    known["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    copy.write_text(yaml.safe_dump(known))
    return copy


async def test_a_cluster_that_does_not_answer_is_one_sentence(
    tmp_path: Path, maestro_kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(nowhere(maestro_kubeconfig, tmp_path / "away")))
    made = KubernetesVolumes(replace(settings_for(tmp_path / "state"), provider="kubernetes", namespace="x"))
    with pytest.raises(MaestroError, match="does not answer") as caught:
        await made.ensure("w-1", "demo", GIB)
    await made.close()
    assert caught.value.code == "start_failed"
