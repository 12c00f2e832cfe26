"""``maestro-kube``: a launch as a pod, by KubeSpawner."""

from __future__ import annotations

import asyncio
from typing import Any

from kubernetes_asyncio.client.models import (
    V1Container,
    V1EnvVar,
    V1ResourceRequirements,
    V1Toleration,
    V1Volume,
    V1VolumeMount,
)
from kubespawner import KubeSpawner
from kubespawner.utils import get_k8s_model
from traitlets import default

from maestro_core import pods
from maestro_core.errors import MaestroError
from maestro_core.launches import HOME_DIR, LaunchPlan

from .mixin import MaestroMixin
from .quiet_api import QuietApi
from .refusals import Refusal


class MaestroKubeSpawner(MaestroMixin, KubeSpawner):
    """KubeSpawner that applies a launch plan: claims for workspace, home and datasets, amounts, placement.

    Volumes belong to workspaces: this spawner makes and deletes none (``storage_pvc_ensure`` and ``delete_pvc`` off).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shared = getattr(self, "api", None)
        if shared is not None:  # one that only looks like a spawner (KubeSpawner's own _mock) has none
            self.api: Any = QuietApi(shared)

    @default("cmd")
    def _default_cmd(self) -> list[str]:
        return ["maestro-singleuser"]

    @default("storage_pvc_ensure")
    def _default_pvc_ensure(self) -> bool:
        return False

    @default("delete_pvc")
    def _default_delete_pvc(self) -> bool:
        return False

    @default("working_dir")
    def _default_working_dir(self) -> str:
        return HOME_DIR  # never the workspace: Python looks for modules where it is started

    async def load_user_options(self) -> None:
        """KubeSpawner's place for a decision: before the pod is described.

        Raises:
            Refusal: when nothing may start.
        """
        try:
            if self.profile_list:  # without one, KubeSpawner fails on an ask that names a profile of ours
                await super().load_user_options()
            plan = await self.take_plan()
            if plan.image:
                self.image = plan.image
        finally:
            self.steps.finish()

    def start(self) -> asyncio.Future[Any]:
        """Start the pod, and tell the service once it runs."""
        starting: asyncio.Future[Any] = super().start()
        starting.add_done_callback(self._started)
        return starting

    def _started(self, starting: asyncio.Future[Any]) -> None:
        if not starting.cancelled() and starting.exception() is None:
            self.came_up()

    async def stop(self, now: bool = False) -> None:
        """Delete the pod; what it says of itself when it never ran is kept as the launch's reason."""
        if not self._came_up and not self._ended:
            self._ended = self._why_not_started()
        await super().stop(now)

    def _why_not_started(self) -> str:
        reflector = getattr(self, "pod_reflector", None)
        pod = None if reflector is None else reflector.pods.get(f"{self.namespace}/{self.pod_name}")
        return "" if pod is None else pods.why_not_started(pod)

    def get_env(self) -> dict[str, Any]:
        """The server's variables; only the admin's own (``environment``) may refer to others, as ``$(NAME)``."""
        env = {**super().get_env(), "HOME": HOME_DIR}
        own = {name: pods.literal(value) for name, value in env.items() if isinstance(value, str)}
        return {**env, **{name: value for name, value in own.items() if name not in self.environment}}

    async def get_pod_manifest(self) -> Any:
        """KubeSpawner's pod with the plan put in: after every template was expanded, so no text of a user is one.

        Raises:
            Refusal: for a plan that cannot be applied here.
        """
        pod = await super().get_pod_manifest()
        if self.plan is None:
            raise Refusal(MaestroError("internal", "There is no plan for this launch, so nothing was started."))
        try:
            apply_plan(pod, self.plan)
        except MaestroError as error:
            raise Refusal(error) from None
        return pod


def apply_plan(pod: Any, plan: LaunchPlan) -> None:
    """Put a plan's parts into a pod that KubeSpawner described; where both say something about a place, the plan wins.

    Args:
        pod: ``V1Pod``, changed.
        plan: what the service decided.

    Raises:
        MaestroError: for a plan that cannot be applied on Kubernetes.
    """
    spec, server = pod.spec, pod.spec.containers[0]
    mounts = pods.volume_mounts(plan)
    places = {mount["mountPath"] for mount in mounts}
    kept = [mount for mount in server.volume_mounts or [] if mount.mount_path.rstrip("/") not in places]
    dropped = {mount.name for mount in server.volume_mounts or []} - {mount.name for mount in kept}
    server.volume_mounts = [*kept, *(get_k8s_model(V1VolumeMount, mount) for mount in mounts)]
    spec.volumes = [
        *(volume for volume in spec.volumes or [] if volume.name not in dropped),
        *(get_k8s_model(V1Volume, volume) for volume in pods.volumes(plan)),
    ]
    server.resources = get_k8s_model(V1ResourceRequirements, pods.resources(plan.resources, plan.gpu_resource))
    pod.metadata.labels = pods.labels(plan, pod.metadata.labels or {})
    spec.security_context = pods.pod_security(plan, spec.security_context)
    spec.automount_service_account_token = False
    _place(spec, plan)
    _add_init_container(spec, server, plan)


def _place(spec: Any, plan: LaunchPlan) -> None:
    placement = pods.placement(plan)
    spec.node_selector = {**(spec.node_selector or {}), **placement.get("nodeSelector", {})} or None
    added = [get_k8s_model(V1Toleration, toleration) for toleration in placement.get("tolerations", ())]
    spec.tolerations = [*(spec.tolerations or []), *added] or None


def _add_init_container(spec: Any, server: Any, plan: LaunchPlan) -> None:
    """First of all, in the server's own image and as its user: no further image has to be fetched or trusted."""
    described = pods.init_container(plan)
    if described is None:
        return
    container = get_k8s_model(V1Container, described)
    container.env = [get_k8s_model(V1EnvVar, variable) for variable in described["env"]]
    container.image, container.image_pull_policy = server.image, server.image_pull_policy
    container.security_context = server.security_context
    spec.init_containers = [container, *(spec.init_containers or [])]
