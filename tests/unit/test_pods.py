"""From a plan to a pod's manifest, without a cluster: amounts, mounts, labels, and text that stays text."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from maestro_core import pods
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan

PLAN: dict[str, Any] = {
    "launch_id": "l1",
    "user": "ann@example.com",
    "server_name": "demo",
    "workspace": {"workspace_id": "w1", "name": "demo", "gid": 20001},
    "role": "editor",
    "profile": "small",
    "resources": {"cpu": 0.5, "memory": "4Gi"},
    "mounts": [
        {"name": "workspace", "kind": "claim", "source": "workspace-demo", "target": "/workspace"},
        {"name": "home", "kind": "claim", "source": "maestro-homes", "target": "/home/jovyan", "sub_path": "ann-1/w1"},
        {"name": "dataset-iris", "kind": "claim", "source": "iris", "target": "/datasets/iris", "read_only": True},
    ],
    "labels": {"maestro/workspace": "demo", "maestro/user": "ann-example-com---0f0f0f0f"},
    "index_url": "http://packages:8182/services/packages",
    "index_token": "s3cret",
}


def make_plan(**changes: Any) -> LaunchPlan:
    return LaunchPlan.model_validate({**copy.deepcopy(PLAN), **changes})


def by_path(plan: LaunchPlan) -> dict[str, dict[str, Any]]:
    return {mount["mountPath"]: mount for mount in pods.volume_mounts(plan)}


def test_requests_and_limits_are_what_was_asked_for() -> None:
    amounts = {"cpu": "0.5", "memory": "4Gi"}
    assert pods.resources(make_plan().resources, "nvidia.com/gpu") == {"requests": amounts, "limits": amounts}


def test_gpus_are_counted_under_the_profiles_resource_name() -> None:
    plan = make_plan(resources={"cpu": 2, "memory": "1536Mi", "gpu": 2}, gpu_resource="amd.com/gpu")
    limits = pods.resources(plan.resources, plan.gpu_resource)["limits"]
    assert limits == {"cpu": "2", "memory": "1536Mi", "amd.com/gpu": "2"}


def test_workspace_home_and_datasets_are_claims_at_their_places() -> None:
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pods.volumes(make_plan())
        if "persistentVolumeClaim" in volume
    }
    mounts = by_path(make_plan())
    assert claims[mounts["/workspace"]["name"]] == "workspace-demo"
    assert claims[mounts["/home/jovyan"]["name"]] == "maestro-homes"
    assert mounts["/home/jovyan"]["subPath"] == "ann-1/w1"
    assert not mounts["/workspace"]["readOnly"]
    assert mounts["/datasets/iris"]["readOnly"]


def test_a_viewers_workspace_is_read_only_even_if_the_plan_forgot_to_say_so() -> None:
    mounts = by_path(make_plan(role="viewer"))
    assert mounts["/workspace"]["readOnly"]
    assert not mounts["/home/jovyan"]["readOnly"]


def test_client_configuration_is_written_by_an_init_container_and_read_only_for_the_server() -> None:
    plan = make_plan()
    assert by_path(plan)["/etc/maestro"]["readOnly"]
    assert not by_path(plan)["/opt/maestro"]["readOnly"]
    container = pods.init_container(plan)
    assert container is not None
    script, contents = container["command"][2], {entry["value"] for entry in container["env"]}
    assert "s3cret" not in script
    assert any("password s3cret" in content for content in contents)
    for file in ("pip.conf", "uv.toml", "netrc"):
        assert f"> /etc/maestro/{file}" in script
    amounts = {"cpu": "0.5", "memory": "128Mi"}
    assert container["resources"] == {"requests": amounts, "limits": amounts}, "or the pod loses its class"


def test_without_an_index_there_is_no_init_container() -> None:
    assert pods.init_container(make_plan(index_url="", index_token="")) is None


def test_an_index_that_would_break_a_clients_file_is_refused_without_its_token() -> None:
    with pytest.raises(MaestroError) as caught:
        pods.init_container(make_plan(index_token="a b\nlogin root"))
    assert "login" not in caught.value.message


def test_labels_are_the_plans_but_never_instead_of_the_deployments() -> None:
    plan = make_plan(labels={"app": "mine", "maestro/user": "ann@example.com", "maestro/launch": "l1"})
    labels = pods.labels(plan, {"app": "jupyterhub", "component": "singleuser-server"})
    assert labels["app"] == "jupyterhub"
    assert labels["component"] == "singleuser-server"
    assert labels["maestro/launch"] == "l1"
    assert "@" not in labels["maestro/user"]


def test_a_label_that_is_one_already_is_not_hashed_again() -> None:
    assert pods.labels(make_plan(), {})["maestro/user"] == "ann-example-com---0f0f0f0f"


def test_the_workspaces_gid_joins_the_pods_groups_and_one_group_owns_fresh_volumes() -> None:
    assert pods.pod_security(make_plan(), None) == {
        "fsGroup": 100,
        "fsGroupChangePolicy": "OnRootMismatch",
        "supplementalGroups": [20001],
    }
    given = {"fsGroup": 5, "supplementalGroups": [7, 20001], "runAsNonRoot": True}
    joined = pods.pod_security(make_plan(), given)
    assert joined["fsGroup"] == 5
    assert joined["supplementalGroups"] == [7, 20001]
    assert joined["runAsNonRoot"] is True


def test_placement_is_the_profiles() -> None:
    plan = make_plan(node_selector={"gpu": "v100"}, tolerations=[{"key": "gpu", "operator": "Exists"}])
    assert pods.placement(plan) == {
        "nodeSelector": {"gpu": "v100"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    }
    assert pods.placement(make_plan()) == {}


def test_kubernetes_replaces_nothing_in_a_users_text() -> None:
    assert pods.literal("$(JUPYTERHUB_API_TOKEN) $HOME {x}") == "$$(JUPYTERHUB_API_TOKEN) $HOME {x}"


@pytest.mark.parametrize("sub_path", ["../other", "/etc", "a/../../b", "a//b", "a/", "..", "a\nb", "a\0b"])
def test_a_sub_path_stays_below_its_claim(sub_path: str) -> None:
    mounts = copy.deepcopy(PLAN["mounts"])
    mounts[1]["sub_path"] = sub_path
    with pytest.raises(MaestroError, match="no plan has"):
        pods.volumes(make_plan(mounts=mounts))


def test_a_directory_of_one_machine_is_said_to_be_one() -> None:
    directory = {"name": "dataset-x", "kind": "directory", "source": "/data/x", "target": "/datasets/x"}
    with pytest.raises(MaestroError, match="is a directory, and servers of this Hub take a claim"):
        pods.volume_mounts(make_plan(mounts=[*PLAN["mounts"], directory]))


def test_every_part_is_json() -> None:
    plan = make_plan()
    parts = [pods.volumes(plan), pods.volume_mounts(plan), pods.init_container(plan), pods.labels(plan, {})]
    assert json.loads(json.dumps(parts)) == parts


NOBODY = "0/4 nodes are available: 1 Insufficient cpu, 3 node(s) had untolerated taint(s). preemption: 0/4 nodes"


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({}, ""),
        ({"conditions": [{"type": "PodScheduled", "status": "True"}]}, ""),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": NOBODY}]},
            "no node could take it: 0/4 nodes are available: 1 Insufficient cpu",
        ),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        (
            {"initContainerStatuses": [{"image": "lab:1", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
            "its image lab:1 cannot be had (ImagePullBackOff)",
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "CreateContainerError", "message": "no\nmore"}}}]},
            "its container does not start (CreateContainerError: no)",
        ),
    ],
)
def test_a_pod_that_never_ran_says_why_in_a_line(status: dict[str, Any], says: str) -> None:
    said = pods.why_not_started({"status": status})
    assert said.startswith(says) and bool(said) == bool(says)
    assert "\n" not in said and len(said) < 200
