"""Whether a node could take a profile now: what Kubernetes' scheduler looks at first, and nothing more.

A look at requests, selectors and taints; affinities, topology and volumes may still keep a pod waiting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .profiles import Profile

Room = Literal["now", "busy", "unknown"]

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,3}))?([a-zA-Z]{0,2})", re.ASCII)
_UNITS = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)}
#: taints that keep a new pod away; PreferNoSchedule does not
_KEEPS_AWAY = ("NoSchedule", "NoExecute")


def quantity(text: str) -> float:
    """An amount as Kubernetes writes it: ``500m``, ``16Gi``, ``1e3``; nothing for what it would not write."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[3] not in _UNITS:
        return 0.0
    return float(match[1]) * 10.0 ** int(match[2] or 0) * _UNITS[match[3]]


@dataclass(frozen=True)
class Taint:
    """Keeps pods away that do not tolerate it."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True)
class Node:
    """A node as far as placement goes.

    Attributes:
        free: allocatable less what its pods request, by resource (``cpu`` in cores, ``memory`` in bytes, GPUs by their
            name, ``pods``).
        schedulable: neither cordoned nor away.
    """

    labels: Mapping[str, str]
    free: Mapping[str, float]
    taints: tuple[Taint, ...] = ()
    schedulable: bool = True


def room_for(nodes: Iterable[Node] | None, profile: Profile) -> Room:
    """Whether one of the nodes could take the profile's own amounts now; None: the nodes are not known."""
    if nodes is None:
        return "unknown"
    return "now" if any(_takes(node, profile) for node in nodes) else "busy"


def _takes(node: Node, profile: Profile) -> bool:
    if not node.schedulable or any(node.labels.get(key) != value for key, value in profile.node_selector.items()):
        return False
    if not all(_tolerated(taint, profile) for taint in node.taints if taint.effect in _KEEPS_AWAY):
        return False
    wanted = {"cpu": profile.cpu, "memory": float(profile.memory), "pods": 1.0}
    if profile.gpu:
        wanted[profile.gpu_resource] = float(profile.gpu)
    return all(node.free.get(name, 0.0) >= amount for name, amount in wanted.items())


def _tolerated(taint: Taint, profile: Profile) -> bool:
    """By Kubernetes' rule: an empty key tolerates all with Exists, an empty effect every effect."""
    for toleration in profile.tolerations:
        if toleration.get("effect") not in (None, "", taint.effect):
            continue
        exists = toleration.get("operator") == "Exists"
        key = toleration.get("key") or ""
        if (not key and exists) or (key == taint.key and (exists or toleration.get("value", "") == taint.value)):
            return True
    return False
