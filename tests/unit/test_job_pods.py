"""A job as Kubernetes is told it, and what Kubernetes says of its end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from maestro_core import job_pods
from maestro_core.launches import LaunchPlan

PLAN = LaunchPlan.model_validate(
    {
        "launch_id": "l-7",
        "user": "ann@example.org",
        "server_name": "job:j-1",
        "workspace": {"workspace_id": "w1", "name": "demo", "gid": 20001},
        "role": "editor",
        "profile": "small",
        "resources": {"cpu": 2, "memory": "4Gi", "gpu": 1},
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "labels": {"maestro.user": "ann-example-org", "maestro.launch": "l-7"},
        "mounts": [
            {"name": "workspace", "kind": "claim", "source": "workspace-demo", "target": "/workspace"},
            {"name": "home", "kind": "claim", "source": "maestro-homes", "target": "/home/jovyan", "sub_path": "a/w1"},
        ],
        "index_url": "http://index.example.org/services/packages",
        "index_token": "of-the-index",
    }
)


def made(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"token_variable": "JUPYTERHUB_API_TOKEN", "timeout_seconds": 600}
    return job_pods.manifest(PLAN, {"MAESTRO_JOB": "j-1", "TRICK": "$(HOME)"}, "image:1", **given | changes)


def test_a_job_is_the_pod_of_a_server_with_another_program() -> None:
    job = made()
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["args"] == ["maestro-job"] and container["workingDir"] == "/home/jovyan"
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/workspace", "/home/jovyan", "/etc/maestro"}
    assert spec["nodeSelector"] == {"pool": "gpu"} and spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["automountServiceAccountToken"] is False and spec["restartPolicy"] == "Never"
    assert spec["securityContext"]["supplementalGroups"] == [20001]
    assert [one["image"] for one in spec["initContainers"]] == ["image:1"]
    assert {"name": "TRICK", "value": "$$(HOME)"} in container["env"]  # no reference of Kubernetes' own
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= {"component": "singleuser-server", "maestro.launch": "l-7"}.items()
    assert job["spec"]["backoffLimit"] == 0 and job["spec"]["activeDeadlineSeconds"] > 600
    assert "kueue" not in json.dumps(job)


def test_the_token_stands_in_a_secret_that_goes_with_its_job() -> None:
    job = made()
    secret = job_pods.secret("l-7", "mjob_secret", "uid-of-the-job")
    (reference,) = [one["valueFrom"]["secretKeyRef"] for one in _environment(job) if "valueFrom" in one]
    assert reference == {"name": secret["metadata"]["name"], "key": "token"}
    assert secret["stringData"] == {"token": "mjob_secret"} and "mjob_secret" not in json.dumps(job)
    (owner,) = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Job", job["metadata"]["name"], "uid-of-the-job")
    assert job["spec"]["suspend"] is True  # until the Secret is there


def test_a_queue_of_kueue_is_named_where_there_is_one() -> None:
    assert made(queue="research")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"


def _environment(job: dict[str, Any]) -> list[dict[str, Any]]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return list(container["env"])


def job_with(kind: str, reason: str = "") -> dict[str, Any]:
    return {"status": {"conditions": [{"type": kind, "status": "True", "reason": reason}]}}


def pod_with(**terminated: Any) -> dict[str, Any]:
    return {"status": {"containerStatuses": [{"state": {"terminated": terminated}}]}}


EVICTED = {"status": {"reason": "Evicted", "message": "The node was low on resource: memory. And more\nlines"}}


@pytest.mark.parametrize(
    ("job", "pod", "end"),
    [
        ({"status": {"active": 1}}, None, None),
        (job_with("Suspended"), None, None),
        (job_with("Complete"), pod_with(exitCode=0), (0, "its worker ended without a word")),
        (job_with("Failed"), pod_with(exitCode=3), (3, "its worker ended by itself (exit code 3)")),
        (job_with("Failed"), pod_with(exitCode=137, reason="OOMKilled"), (137, "it ran out of memory")),
        (job_with("Failed"), pod_with(exitCode=137, reason="Error"), (137, "its worker was killed")),
        (job_with("Failed"), None, (None, "its pod was taken away")),
        (job_with("Failed", "DeadlineExceeded"), None, (None, "the cluster ended it, because it took too long")),
        (
            job_with("Failed"),
            EVICTED,
            (None, "the cluster ended its pod (Evicted: The node was low on resource: memory. And more)"),
        ),
    ],
)
def test_an_end_is_told_in_words(job: dict[str, Any], pod: dict[str, Any] | None, end: object) -> None:
    assert job_pods.end_of(job, pod) == end


@pytest.mark.parametrize("launch_id", ["l-7", "L_7x", "l" * 64])
def test_a_jobs_name_is_one_that_kubernetes_takes(launch_id: str) -> None:
    name = job_pods.job_name(launch_id)
    assert len(name) <= 63 and name == name.lower() and "_" not in name
