"""A job's attempt as Kubernetes is told it: a batch/v1 Job around the pod that a server of the same launch would have.

The attempt's token is not in it: it is read from a Secret that belongs to the Job (:func:`secret`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import pods
from .launches import HOME_DIR, LaunchPlan

#: marks what is ours among the namespace's Jobs
COMPONENT = {"app.kubernetes.io/managed-by": "maestro", "app.kubernetes.io/component": "maestro-job"}
SELECTOR = ",".join(f"{name}={value}" for name, value in COMPONENT.items())
#: of a pod: what policies select notebook servers by, in KubeSpawner and in the zero-to-jupyterhub chart
POD_LABELS = {"app": "jupyterhub", "component": "singleuser-server", **COMPONENT}
#: the label by which Kueue takes a Job into one of its queues (kueue.sigs.k8s.io, "Run A Kubernetes Job")
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
CONTAINER, TOKEN_KEY = "notebook", "token"
#: seconds that a pod has after SIGTERM; beyond the worker's own limit, after which the cluster ends it; that a finished
#: Job stays which nobody has removed
GRACE_SECONDS, MARGIN_SECONDS, KEPT_SECONDS = 30, 900, 3600


def job_name(launch_id: str) -> str:
    """Of the Job and its Secret: a DNS label."""
    return f"maestro-job-{launch_id.lower().replace('_', '-')}"[:63].rstrip("-")


def manifest(
    plan: LaunchPlan,
    environment: Mapping[str, str],
    image: str,
    *,
    token_variable: str,
    timeout_seconds: int,
    queue: str = "",
) -> dict[str, Any]:
    """The Job. It is suspended until its Secret is there; where there is a queue, until Kueue admits it.

    Args:
        environment: of the worker, without its token.
        token_variable: the variable that gets it.
        queue: a LocalQueue of Kueue's; empty: none.

    Raises:
        MaestroError: for a plan that cannot be applied on Kubernetes.
    """
    name = job_name(plan.launch_id)
    container = {
        "name": CONTAINER,
        "image": image,
        "args": ["maestro-job"],
        "workingDir": HOME_DIR,  # never the workspace: Python looks for modules where it is started
        "env": [
            *({"name": key, "value": pods.literal(value)} for key, value in {**environment, "HOME": HOME_DIR}.items()),
            {"name": token_variable, "valueFrom": {"secretKeyRef": {"name": name, "key": TOKEN_KEY}}},
        ],
        "resources": pods.resources(plan.resources, plan.gpu_resource),
        "volumeMounts": pods.volume_mounts(plan),
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    clients = pods.init_container(plan)
    first = [] if clients is None else [{**clients, "image": image, "securityContext": container["securityContext"]}]
    labels = pods.labels(plan, POD_LABELS)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {**pods.labels(plan, COMPONENT), **({KUEUE_QUEUE: queue} if queue else {})},
        },
        "spec": {
            "suspend": True,
            "backoffLimit": 0,  # whether an attempt is repeated is the service's decision
            "activeDeadlineSeconds": timeout_seconds + MARGIN_SECONDS,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "securityContext": pods.pod_security(plan, None),
                    **pods.placement(plan),
                    "volumes": pods.volumes(plan),
                    "initContainers": first,
                    "containers": [container],
                },
            },
        },
    }


def secret(launch_id: str, token: str, owner_uid: str) -> dict[str, Any]:
    """The Secret with an attempt's token, which goes when its Job does.

    Args:
        token: secret. owner_uid: of the Job.
    """
    name = job_name(launch_id)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": owner_uid, "blockOwnerDeletion": False}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": dict(COMPONENT), "ownerReferences": [owner]},
        "type": "Opaque",
        "immutable": True,
        "stringData": {TOKEN_KEY: token},
    }


def end_of(job: Mapping[str, Any], pod: Mapping[str, Any] | None) -> tuple[int | None, str] | None:
    """How an attempt ended: exit code, where it is known, and half a sentence; None while it goes on.

    Args:
        job: the API's object as JSON. pod: its newest one, if there is one.
    """
    told = (job.get("status") or {}).get("conditions") or ()
    conditions = {str(one.get("type")): one for one in told if one.get("status") == "True"}
    if "Complete" in conditions:
        return 0, "its worker ended without a word"
    if (failed := conditions.get("Failed") or conditions.get("FailureTarget")) is None:
        return None
    if failed.get("reason") == "DeadlineExceeded":
        return None, "the cluster ended it, because it took too long"
    status = (pod or {}).get("status") or {}
    if status.get("reason"):  # Evicted, Shutdown, ...
        said = str(status.get("message") or "").split("\n")[0][:200].rstrip(". ")
        return None, f"the cluster ended its pod ({status['reason']}: {said})".replace(": )", ")")
    for container in status.get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            return ended.get("exitCode"), "it ran out of memory"
        if ended.get("exitCode") in (137, 143):
            return ended["exitCode"], "its worker was killed"
        if ended:
            return ended.get("exitCode"), f"its worker ended by itself (exit code {ended.get('exitCode')})"
    return None, "its pod was taken away"
