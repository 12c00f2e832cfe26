"""A launch as Kubernetes is told it: from a plan to parts of a pod's manifest, as plain dicts in the API's own words.

The parts are put into the pod that KubeSpawner has built, after every template of it was expanded, so that no text of
a user is ever a format string. Kubernetes has a syntax of its own, ``$(NAME)`` in variables: :func:`literal` takes
it away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .clients import client_files
from .errors import MaestroError
from .launches import CLIENT_CONFIG_DIR, ENVIRONMENT_DIR, LaunchPlan, Mount
from .mounts import checked_mounts
from .names import label_value
from .resources import Resources, format_memory, show_cpu

#: the group of volumes that hold no gid of their own: what the image's user may write
FS_GROUP = 100
#: names of the volumes that every pod of ours has besides its mounts
CLIENT_VOLUME, SCRATCH_VOLUME = "maestro-clients", "maestro-scratch"
#: the init container
INIT_CONTAINER = "maestro-clients"
#: what it gets at most: it writes three small files
_INIT_CPU, _INIT_MEMORY = 0.5, 128 * 1024**2

#: what a container waits for whose image the node cannot get
_IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable")

_LABEL = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


def literal(value: str) -> str:
    """A value in which Kubernetes replaces nothing: ``$(NAME)`` stays as it is written."""
    return value.replace("$(", "$$(")


def resources(asked: Resources, gpu_resource: str) -> dict[str, dict[str, str]]:
    """``requests`` and ``limits``, equal, as asked for; Kubernetes calls that class of pods Guaranteed."""
    amounts = {"cpu": show_cpu(asked.cpu), "memory": format_memory(asked.memory)}
    if asked.gpu:
        amounts[gpu_resource] = str(asked.gpu)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def volumes(plan: LaunchPlan) -> list[dict[str, Any]]:
    """The volumes: a claim for each mount, and two of this pod alone (client configuration, local disk).

    Raises:
        MaestroError: as :func:`~maestro_core.mounts.checked_mounts`.
    """
    mounted = [
        {"name": volume_name(mount), "persistentVolumeClaim": {"claimName": mount.source}}
        for mount in checked_mounts(plan, "claim")
    ]
    return [
        *mounted,
        {"name": CLIENT_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": SCRATCH_VOLUME, "emptyDir": {}},
    ]


def volume_mounts(plan: LaunchPlan) -> list[dict[str, Any]]:
    """Where the server's container sees them; a viewer's workspace and every dataset ``readOnly``.

    Raises:
        MaestroError: as :func:`~maestro_core.mounts.checked_mounts`.
    """
    mounted = []
    for mount in checked_mounts(plan, "claim"):
        entry: dict[str, Any] = {"name": volume_name(mount), "mountPath": mount.target, "readOnly": mount.read_only}
        if mount.sub_path:
            entry["subPath"] = mount.sub_path
        mounted.append(entry)
    scratch = ENVIRONMENT_DIR.rpartition("/")[0]
    return [
        *mounted,
        {"name": CLIENT_VOLUME, "mountPath": CLIENT_CONFIG_DIR, "readOnly": True},
        {"name": SCRATCH_VOLUME, "mountPath": scratch, "readOnly": False},
    ]


def volume_name(mount: Mount) -> str:
    """A mount's volume: prefixed, so that no name of ours is one of the deployment's own."""
    return f"maestro-{mount.name}"


def init_container(plan: LaunchPlan) -> dict[str, Any] | None:
    """The container that writes the package clients' files before the server starts, or None when there is no index.

    Image and security context are the server's; whoever applies this adds them. Contents come as variables, never as
    part of the script.

    Raises:
        MaestroError: ``internal`` for an index address or token that no client's file can hold.
    """
    if not plan.index_url:
        return None
    try:
        files = client_files(plan.index_url, plan.index_token)
    except ValueError as error:
        raise MaestroError("internal", f"The plan's package index cannot be used: {error}.") from None
    names = {file: f"FILE_{number}" for number, file in enumerate(sorted(files))}
    lines = [f'printf %s "${variable}" > {CLIENT_CONFIG_DIR}/{file}' for file, variable in names.items()]
    return {
        "name": INIT_CONTAINER,
        "command": ["/bin/sh", "-c", "\n".join(["set -eu", "umask 027", *lines])],
        "env": [{"name": variable, "value": literal(files[file])} for file, variable in names.items()],
        "resources": resources(_of_the_init_container(plan.resources), plan.gpu_resource),
        "volumeMounts": [{"name": CLIENT_VOLUME, "mountPath": CLIENT_CONFIG_DIR}],
    }


def _of_the_init_container(asked: Resources) -> Resources:
    """Little: Kubernetes counts the largest init container against the node for as long as the pod lives, so as much as
    the server's would take back nothing when that is made smaller."""
    return Resources(cpu=min(asked.cpu, _INIT_CPU), memory=min(asked.memory, _INIT_MEMORY))


def labels(plan: LaunchPlan, kept: Mapping[str, str]) -> dict[str, str]:
    """The pod's labels: the plan's, then those in ``kept`` (the deployment's own, by which policies select), which win.

    A value that is no label becomes a slug with a hash.
    """
    ours = {name: value if _LABEL.fullmatch(value) else label_value(value) for name, value in plan.labels.items()}
    return {**ours, **kept}


def pod_security(plan: LaunchPlan, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The pod's security context: the deployment's own, with the workspace's gid and a group for fresh volumes.

    ``fsGroup`` is one number for all pods: the kubelet gives a whole volume to it, and the homes of many people lie on
    one claim.
    """
    context = {"fsGroup": FS_GROUP, "fsGroupChangePolicy": "OnRootMismatch", **(given or {})}
    groups = [*context.get("supplementalGroups", ()), plan.workspace.gid]
    return {**context, "supplementalGroups": list(dict.fromkeys(groups))}


def placement(plan: LaunchPlan) -> dict[str, Any]:
    """``nodeSelector`` and ``tolerations`` of the profile, where it has any."""
    found: dict[str, Any] = {}
    if plan.node_selector:
        found["nodeSelector"] = dict(plan.node_selector)
    if plan.tolerations:
        found["tolerations"] = [dict(toleration) for toleration in plan.tolerations]
    return found


def why_not_started(pod: Mapping[str, Any]) -> str:
    """What a pod that never ran says of itself, for a person: no node took it, or a container waits for something.

    Args:
        pod: the API's object as JSON.

    Returns:
        half a sentence, or nothing where the pod does not say.
    """
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"no node could take it: {_shortly(condition)}".rstrip(": ")
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason") or "")
        if reason in _IMAGE_REASONS:
            return f"its image {str(container.get('image', ''))[:100]} cannot be had ({reason})"
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return f"its container does not start ({reason}: {_shortly(waiting)})".replace(": )", ")")
    return ""


def _shortly(said: Mapping[str, Any]) -> str:
    return str(said.get("message") or "").split("\n")[0][:120].rstrip(". ")
