"""What nodes there are and what is free on them: on Kubernetes the cluster's, on one machine none to choose from.

The rest of the service knows :class:`Nodes` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from maestro_core.room import Node
from maestro_hub_services.settings import Settings


class Nodes(Protocol):
    """Looks at the nodes.

    Attributes:
        placed: whether a server is placed on one of several nodes at all.
    """

    placed: bool

    async def look(self) -> Sequence[Node] | None:
        """The nodes, at most 10 s old; None where they may not be listed, or the API server is slow. Never raises."""

    async def close(self) -> None:
        """Let connections go."""


class NoNodes:
    """One machine: servers start on it or nowhere."""

    placed = False

    async def look(self) -> Sequence[Node] | None:
        """None."""
        return None

    async def close(self) -> None:
        """Nothing is open."""


def make_nodes(settings: Settings) -> Nodes:
    """The nodes of the provider that the settings name."""
    if settings.provider == "kubernetes":
        from .kubernetes import KubernetesNodes  # an extra: not installed on one machine

        return KubernetesNodes()
    return NoNodes()
