"""The cluster's nodes: a look at nodes and pods, kept for 10 s, given up after 2 s. Nothing is changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from maestro_core.room import Node, Taint, quantity

from ..kubernetes_api import KubernetesApi

#: seconds for which a look is believed
CACHE_SECONDS = 10.0
#: seconds that the API server has for it all
TIMEOUT_SECONDS = 2.0
#: pods of these phases hold nothing
_OVER = "status.phase!=Succeeded,status.phase!=Failed"
#: objects in one answer
_PAGE = 500
log = logging.getLogger("maestro.nodes")


class KubernetesNodes:
    """Nodes of the cluster, as far as the service account may list them."""

    placed = True

    def __init__(self) -> None:
        self._cluster = KubernetesApi()
        self._looking = asyncio.Lock()
        self._seen: tuple[Node, ...] | None = None
        self._until = 0.0
        self._said = False

    async def look(self) -> Sequence[Node] | None:
        """The nodes; whoever asks while somebody looks gets the same look."""
        async with self._looking:
            if time.monotonic() >= self._until:
                self._seen = await self._fresh()
                self._until = time.monotonic() + CACHE_SECONDS
            return self._seen

    async def close(self) -> None:
        """Close the connections."""
        await self._cluster.close()

    async def _fresh(self) -> tuple[Node, ...] | None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                api = await self._cluster.core()
                nodes, pods = await asyncio.gather(
                    _pages(api.list_node), _pages(api.list_pod_for_all_namespaces, field_selector=_OVER)
                )
            self._said = False
            return read_nodes(nodes, pods)
        except Exception as error:  # whatever it is: the form shows "unknown", and starts go on
            if not self._said:
                status = getattr(error, "status", None) or type(error).__name__
                log.warning("The nodes cannot be listed (%s): whether one has room is shown as unknown", status)
                self._said = True
            return None


async def _pages(listing: Any, **options: Any) -> list[Any]:
    """Every object of a list that is read in pages."""
    found: list[Any] = []
    following: str | None = None
    while True:
        page = await listing(limit=_PAGE, _continue=following, **options) if following else await listing(
            limit=_PAGE, **options
        )  # fmt: skip
        found += page.items
        following = getattr(page.metadata, "_continue", None)
        if not following:
            return found


def read_nodes(nodes: Iterable[Any], pods: Iterable[Any]) -> tuple[Node, ...]:
    """Nodes with what is free on them, from the API's objects."""
    taken: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for pod in pods:
        if pod.spec.node_name:
            on_node = taken[pod.spec.node_name]
            on_node["pods"] += 1
            for name, amount in _requests(pod).items():
                on_node[name] += amount
    return tuple(_node(node, taken[node.metadata.name]) for node in nodes)


def _node(node: Any, taken: dict[str, float]) -> Node:
    allocatable = {name: quantity(str(amount)) for name, amount in (node.status.allocatable or {}).items()}
    ready = any(one.type == "Ready" and one.status == "True" for one in node.status.conditions or ())
    taints = tuple(Taint(one.key, one.value or "", one.effect) for one in node.spec.taints or ())
    return Node(
        labels=dict(node.metadata.labels or {}),
        free={name: amount - taken.get(name, 0.0) for name, amount in allocatable.items()},
        taints=taints,
        schedulable=ready and not node.spec.unschedulable,
    )


def _requests(pod: Any) -> dict[str, float]:
    """What the scheduler counts of a pod: its containers together, or its largest init container, and its overhead."""
    running: dict[str, float] = defaultdict(float)
    for container in pod.spec.containers:
        for name, amount in _amounts(container).items():
            running[name] += amount
    for container in pod.spec.init_containers or ():
        for name, amount in _amounts(container).items():
            running[name] = max(running[name], amount)
    for name, amount in (pod.spec.overhead or {}).items():
        running[name] += quantity(str(amount))
    return running


def _amounts(container: Any) -> dict[str, float]:
    requests = (container.resources.requests if container.resources else None) or {}
    return {name: quantity(str(amount)) for name, amount in requests.items()}
