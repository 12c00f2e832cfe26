"""Changes the cpu and memory of servers that run: on Kubernetes in place, on one machine not at all.

The rest of the service knows :class:`Resizer` alone.
"""

from __future__ import annotations

from typing import Protocol

from maestro_core.resources import Resources
from maestro_hub_services.settings import Settings


class CannotResize(Exception):
    """A server keeps the amounts that it had.

    Args:
        why: half a sentence for a person, after "because".
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Resizer(Protocol):
    """Resizes running servers.

    Attributes:
        never: why it never can, half a sentence; None: it can be tried.
    """

    never: str | None

    async def resize(self, launch_id: str, after: Resources) -> None:
        """Give the server of a launch this cpu and memory, and see that it has them.

        Raises:
            CannotResize: it has what it had before.
            MaestroError: ``timeout``: it is not known what it has.
        """

    async def settle(self, launch_id: str, *, give_up: bool) -> Resources | None:
        """What the server of a launch has, whose resize nobody saw end; only cpu and memory count.

        Args:
            give_up: what is still under way goes back to what the server has.

        Returns:
            None while that is not known, or where there is no such server.
        """

    async def close(self) -> None:
        """Let connections go."""


class NoResizer:
    """Servers of one machine keep what they were started with."""

    never: str | None = "a server of one machine keeps the amounts that it was started with"

    async def resize(self, launch_id: str, after: Resources) -> None:
        """Never."""
        raise CannotResize(str(self.never))

    async def settle(self, launch_id: str, *, give_up: bool) -> Resources | None:
        """Nothing is ever under way."""
        return None

    async def close(self) -> None:
        """Nothing is open."""


def make_resizer(settings: Settings) -> Resizer:
    """The resizer of the provider that the settings name."""
    if settings.provider == "kubernetes":
        from .kubernetes import KubernetesResizer  # an extra: not installed on one machine

        return KubernetesResizer(settings)
    return NoResizer()
