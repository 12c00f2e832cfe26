"""Where a workspace's files lie: a directory each on one machine, a PersistentVolumeClaim each on Kubernetes.

The rest of the service knows :class:`Volumes` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from maestro_core.launches import Mount
from maestro_core.lifecycle import Kept, Removed
from maestro_core.policy import Dataset
from maestro_hub_services.settings import Settings
from maestro_hub_services.store import WorkspaceRow


@dataclass(frozen=True)
class Removal:
    """What of a volume is gone, what is still to go (then it is tried again), and what stays."""

    removed: tuple[Removed, ...] = ()
    left: tuple[str, ...] = ()
    kept: tuple[Kept, ...] = ()


class Volumes(Protocol):
    """Makes volumes and says how a launch mounts them. All methods are safe to repeat.

    Attributes:
        holds_size: whether the storage itself refuses what is over a volume's size; where not, new launches are.
    """

    holds_size: bool

    async def ensure(self, workspace_id: str, name: str, size: int | None) -> None:
        """See that a workspace has its volume.

        Args:
            size: bytes, where the storage takes a size.

        Raises:
            MaestroError: ``conflict`` where something foreign has its place, ``start_failed`` when the storage does
                not answer.
        """

    async def discard(self, workspace_id: str, name: str) -> None:
        """Take an empty volume away again whose workspace was not created after all; never raises."""

    async def remove(self, workspace: WorkspaceRow) -> Removal:
        """Remove what lies in a workspace's volume, the volume, and the private homes in it.

        Raises:
            MaestroError: ``start_failed`` when the storage does not answer; tried again later.
        """

    async def mounts(
        self, workspace: WorkspaceRow, home: str, datasets: tuple[Dataset, ...], *, read_only: bool
    ) -> tuple[Mount, ...]:
        """The mounts of a launch: workspace, private home, datasets; the home is made first where that is needed.

        Args:
            home: the user's directory below ``homes/`` (:func:`maestro_core.names.home_directory_name`).
            datasets: those that the user may see.
            read_only: whether the workspace is (a viewer's launch).
        """

    async def close(self) -> None:
        """Let connections go."""


def make_volumes(settings: Settings) -> Volumes:
    """The volumes of the provider that the settings name."""
    if settings.provider == "kubernetes":
        from .kubernetes import KubernetesVolumes  # an extra: not installed on one machine

        return KubernetesVolumes(settings)
    from .local import LocalVolumes

    return LocalVolumes(settings.state)
