"""What notebook servers may connect to: on Kubernetes a NetworkPolicy that this service keeps, on one machine all.

The rest of the service knows :class:`Network` alone.
"""

from __future__ import annotations

from typing import Protocol

from maestro_core.egress import Egress
from maestro_hub_services.settings import Settings


class Network(Protocol):
    """Closes the network of notebook servers."""

    async def hold(self, egress: Egress) -> None:
        """See that the network is as closed as this says. Cheap when it was seen a moment ago.

        Raises:
            MaestroError: ``start_failed``: it is to be closed, and it is not known that it is.
        """

    async def close(self) -> None:
        """Let connections go."""


class OpenNetwork:
    """One machine: servers share its network, so the policy about packages is advisory there."""

    async def hold(self, egress: Egress) -> None:
        """Nothing can be closed."""

    async def close(self) -> None:
        """Nothing is open."""


def make_network(settings: Settings) -> Network:
    """The network of the provider that the settings name."""
    if settings.provider == "kubernetes":
        from .kubernetes import KubernetesNetwork  # an extra: not installed on one machine

        return KubernetesNetwork(settings)
    return OpenNetwork()
