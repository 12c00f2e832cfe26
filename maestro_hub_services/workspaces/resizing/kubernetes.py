"""Resizes pods in place, by the subresource ``pods/resize`` (Kubernetes 1.33 and newer).

The container keeps running: only its cgroup changes. What the kubelet cannot do it leaves pending in the pod's status;
then the pod's amounts are put back, so that nothing happens later, behind everybody's back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kubernetes_asyncio.client.exceptions import ApiException

from maestro_core import pods
from maestro_core.egress import LAUNCH_LABEL
from maestro_core.errors import MaestroError
from maestro_core.resources import Resources
from maestro_core.room import quantity
from maestro_hub_services.settings import Settings

from ..kubernetes_api import AWAY, REQUEST_SECONDS, KubernetesApi
from . import CannotResize

#: seconds that the kubelet has to do it, and then to put it back; it does either within one or two
RESIZE_SECONDS, BACK_SECONDS = 10.0, 10.0
POLL_SECONDS = 0.25
#: what the API server's refusal of a resize means
_REFUSED = {
    403: "the cluster does not let Maestro resize this pod (its Role needs pods/resize, and the namespace's own quota "
    "room for it)",
    404: "this cluster cannot resize running pods (Kubernetes 1.33 and newer can)",
}
log = logging.getLogger("maestro.resizing")


@dataclass(frozen=True)
class State:
    """How far the kubelet is with a server's container.

    Attributes:
        asked: cpu (cores) and memory (bytes) that the pod is to have.
        has: what it has; None: the kubelet has not looked at the last change yet.
        pending: why the kubelet does not do it (``Infeasible``, ``Deferred``), or None.
        under_way: whether it is doing it.
    """

    asked: tuple[float, float]
    has: tuple[float, float] | None
    pending: str | None
    under_way: bool

    @property
    def done(self) -> bool:
        """Whether the container has what was asked for."""
        return self.pending is None and not self.under_way and self.asked == self.has


def read_state(pod: Any) -> State:
    """From the API's object; the server's container is the first."""
    server = pod.spec.containers[0]
    asked = _amounts(server.resources)
    seen = pod.status.observed_generation  # Kubernetes 1.33 does not tell
    if seen is not None and seen < (pod.metadata.generation or 0):
        return State(asked, None, None, True)
    status = next((one for one in pod.status.container_statuses or () if one.name == server.name), None)
    has = None if status is None or status.resources is None else _amounts(status.resources)
    conditions = {one.type: one for one in pod.status.conditions or () if one.status == "True"}
    pending = conditions.get("PodResizePending")
    why = None if pending is None else pending.reason or "Deferred"
    return State(asked, has, why, "PodResizeInProgress" in conditions)


def _amounts(resources: Any) -> tuple[float, float]:
    limits = (resources.limits if resources is not None else None) or {}
    return quantity(str(limits.get("cpu", "0"))), quantity(str(limits.get("memory", "0")))


class KubernetesResizer:
    """Pods in one namespace, found by the label ``maestro.launch``. The API's client is made at the first call."""

    never: str | None = None

    def __init__(self, settings: Settings) -> None:
        self._cluster = KubernetesApi(settings.namespace)

    async def resize(self, launch_id: str, after: Resources) -> None:
        """Ask for it, see it done; else put it back."""
        try:
            pod = await self._pod(launch_id)
            if pod is None:
                raise CannotResize("its pod is not there")
            before, name = read_state(pod).asked, pod.metadata.name
            await self._ask(pod, after.cpu, after.memory)
            why = await self._follow(name, before, after)
            if why is not None:
                await self._put_back(pod, before)
                raise CannotResize(why)
        except ApiException as error:
            log.error("The API server failed in the resize of launch %s: %s %s", launch_id, error.status, error.reason)
            raise _unknown() from None
        except AWAY as error:
            log.error("The API server does not answer in the resize of launch %s: %s", launch_id, type(error).__name__)
            raise _unknown() from None

    async def settle(self, launch_id: str, *, give_up: bool) -> Resources | None:
        """What the pod has, once nothing is under way."""
        try:
            pod = await self._pod(launch_id)
            if pod is None:
                return None
            state = read_state(pod)
            if state.has is None:
                return None
            if state.done or (give_up and state.has == state.asked):
                return Resources.model_construct(cpu=state.has[0], memory=int(state.has[1]))
            if state.pending is not None or give_up:
                await self._patch(pod, *state.has)
        except ApiException as error:
            log.warning("Launch %s is not settled yet: %s %s", launch_id, error.status, error.reason)
        except AWAY as error:
            log.warning("Launch %s is not settled yet: %s", launch_id, type(error).__name__)
        return None

    async def close(self) -> None:
        """Close the connections."""
        await self._cluster.close()

    async def _pod(self, launch_id: str) -> Any | None:
        api = await self._cluster.core()
        found = await api.list_namespaced_pod(
            self._cluster.namespace, label_selector=f"{LAUNCH_LABEL}={launch_id}", _request_timeout=REQUEST_SECONDS
        )
        return next((pod for pod in found.items if pod.metadata.deletion_timestamp is None), None)

    async def _ask(self, pod: Any, cpu: float, memory: int) -> None:
        """Change what the pod is to have.

        Raises:
            CannotResize: the API server refuses; nothing is changed.
        """
        try:
            await self._patch(pod, cpu, memory)
        except ApiException as error:
            if error.status not in (400, 403, 404, 405, 422):
                raise
            log.warning("The pod %s may not be resized: %s %s", pod.metadata.name, error.status, _said(error))
            why = _REFUSED.get(error.status, "this cluster's Kubernetes does not allow that change of a running pod")
            raise CannotResize(why) from None

    async def _patch(self, pod: Any, cpu: float, memory: float) -> None:
        amounts = pods.resources(Resources.model_construct(cpu=cpu, memory=int(memory)), "")
        await (await self._cluster.core()).patch_namespaced_pod_resize(
            pod.metadata.name,
            self._cluster.namespace,
            {"spec": {"containers": [{"name": pod.spec.containers[0].name, "resources": amounts}]}},
            _request_timeout=REQUEST_SECONDS,
        )

    async def _follow(self, name: str, before: tuple[float, float], after: Resources) -> str | None:
        """Wait until the kubelet has done it: None, or why it does not."""
        state = await self._until(name, RESIZE_SECONDS, lambda now: now.done or now.pending is not None)
        if state is None:
            return "its pod is gone"
        if state.done:
            return None
        if state.pending is not None:
            log.info("The node of pod %s cannot resize it: %s", name, state.pending)
            small = state.pending == "Infeasible"
            return "its node is too small for it" if small else "its node has no room for it now"
        if after.memory < before[1]:
            return "it uses more memory than that, and Kubernetes takes none away that is in use"
        return f"its node did not do it within {RESIZE_SECONDS:.0f} s"

    async def _put_back(self, pod: Any, before: tuple[float, float]) -> None:
        """What the pod is to have is again what it has.

        Raises:
            MaestroError: ``timeout``.
        """
        await self._patch(pod, *before)
        state = await self._until(pod.metadata.name, BACK_SECONDS, lambda now: now.done)
        if state is not None and not state.done:
            raise _unknown()

    async def _until(self, name: str, seconds: float, over: Callable[[State], bool]) -> State | None:
        """The state as soon as it is ``over``, or after ``seconds``; None: the pod is gone."""
        api, end = await self._cluster.core(), time.monotonic() + seconds
        while True:
            try:
                pod = await api.read_namespaced_pod(name, self._cluster.namespace, _request_timeout=REQUEST_SECONDS)
            except ApiException as error:
                if error.status != 404:
                    raise
                return None
            state = read_state(pod)
            if over(state) or time.monotonic() > end:
                return state
            await asyncio.sleep(POLL_SECONDS)


def _said(error: ApiException) -> str:
    """The API server's own words, shortly."""
    try:
        return str(json.loads(error.body or "{}").get("message", ""))[:300]
    except (ValueError, AttributeError):
        return str(error.reason)


def _unknown() -> MaestroError:
    return MaestroError(
        "timeout",
        "The cluster does not say whether the server was resized; look again in a minute: what it has by then is what "
        "counts.",
    )
