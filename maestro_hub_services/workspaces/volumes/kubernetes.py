"""Volumes on Kubernetes: a claim ``workspace-<name>`` a workspace, and ``maestro-homes`` for private homes."""

from __future__ import annotations

import logging
from typing import Any

from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException

from maestro_core.errors import MaestroError
from maestro_core.launches import DATASETS_DIR, HOME_DIR, WORKSPACE_DIR, Mount
from maestro_core.lifecycle import Kept, Removed
from maestro_core.names import claim_name
from maestro_core.policy import Dataset
from maestro_core.resources import format_memory
from maestro_hub_services.settings import Settings
from maestro_hub_services.store import WorkspaceRow

from ..kubernetes_api import AWAY, MANAGED, REQUEST_SECONDS, KubernetesApi
from . import Removal

HOMES_CLAIM = "maestro-homes"
#: whose claim it is: a claim of the same name without it is somebody else's
WORKSPACE_LABEL = "maestro.workspace-id"
log = logging.getLogger("maestro.volumes")


class KubernetesVolumes:
    """Claims in one namespace. The API's client is made at the first call, in the loop that uses it.

    Args:
        settings: namespace (empty: the service's own), class, size and access mode of the claims.
    """

    holds_size = True

    def __init__(self, settings: Settings) -> None:
        self._cluster = KubernetesApi(settings.namespace)
        self._storage_class = settings.storage_class or None
        self._access_mode = settings.access_mode or "ReadWriteMany"  # members' pods run on different nodes
        self._size = settings.storage_size or "10Gi"

    async def ensure(self, workspace_id: str, name: str, size: int | None) -> None:
        """Make the claim if it is not there; one of another workspace is never taken over."""
        found = await self._claim(claim_name(name), {WORKSPACE_LABEL: workspace_id}, size)
        owner = (found.metadata.labels or {}).get(WORKSPACE_LABEL)
        if owner != workspace_id:
            raise MaestroError(
                "conflict",
                f"The claim {claim_name(name)} is there already and belongs to something else; take another name, or "
                "let an admin delete the claim.",
                {"claim": claim_name(name)},
            )

    async def discard(self, workspace_id: str, name: str) -> None:
        """Delete the claim if it is this workspace's."""
        try:
            api = await self._cluster.core()
            found = await api.read_namespaced_persistent_volume_claim(
                claim_name(name), self._cluster.namespace, _request_timeout=REQUEST_SECONDS
            )
            if (found.metadata.labels or {}).get(WORKSPACE_LABEL) == workspace_id:
                await self._delete(api, claim_name(name), found.metadata.uid)
        except Exception as error:
            log.warning("The claim %s could not be taken away: %s", claim_name(name), type(error).__name__)

    async def remove(self, workspace: WorkspaceRow) -> Removal:
        """Delete the claim and see that it is gone; a pod that still has it keeps it.

        Private homes lie in directories of the claim of homes, which nothing here can reach: they stay, below a name
        that nobody gets again.
        """
        name = claim_name(workspace.name)
        try:
            api = await self._cluster.core()
            found = await self._read(api, name)
            if found is not None and (found.metadata.labels or {}).get(WORKSPACE_LABEL) == workspace.id:
                if found.metadata.deletion_timestamp is None:
                    await self._delete(api, name, found.metadata.uid)
                found = await self._read(api, name)
                if found is not None and (found.metadata.labels or {}).get(WORKSPACE_LABEL) == workspace.id:
                    return Removal(left=(f"the claim {name}",))
        except ApiException as error:
            if error.status in (404, 409):
                return Removal(left=(f"the claim {name}",))
            log.error("The API server refused to remove the claim %s: %s %s", name, error.status, error.reason)
            raise _refused(f"the API server refused ({error.status} {error.reason})") from None
        except AWAY as error:
            log.error("The API server does not answer for the claim %s: %s", name, error)
            raise _refused("the API server does not answer") from None
        homes = Kept(
            what="private homes",
            why=f"in the claim {HOMES_CLAIM}, below */{workspace.id}; an admin removes them there",
        )
        return Removal(removed=(Removed(what="claim", count=1, detail=name),), kept=(homes,))

    async def _read(self, api: client.CoreV1Api, name: str) -> Any | None:
        try:
            return await api.read_namespaced_persistent_volume_claim(
                name, self._cluster.namespace, _request_timeout=REQUEST_SECONDS
            )
        except ApiException as error:
            if error.status != 404:
                raise
            return None

    async def _delete(self, api: client.CoreV1Api, name: str, uid: str) -> None:
        """Delete that very claim, not one that took its name meanwhile."""
        await api.delete_namespaced_persistent_volume_claim(
            name,
            self._cluster.namespace,
            body=client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=uid)),
            _request_timeout=REQUEST_SECONDS,
        )

    async def mounts(
        self, workspace: WorkspaceRow, home: str, datasets: tuple[Dataset, ...], *, read_only: bool
    ) -> tuple[Mount, ...]:
        """Workspace, home (a path of the claim of homes), and the datasets that name a claim."""
        await self._claim(HOMES_CLAIM, {}, None)
        found = [
            Mount(
                name="workspace",
                kind="claim",
                source=claim_name(workspace.name),
                target=WORKSPACE_DIR,
                read_only=read_only,
            ),
            Mount(name="home", kind="claim", source=HOMES_CLAIM, target=HOME_DIR, sub_path=f"{home}/{workspace.id}"),
        ]
        found += [
            Mount(
                name=f"dataset-{dataset.name}",
                kind="claim",
                source=dataset.claim,
                target=f"{DATASETS_DIR}/{dataset.name}",
                read_only=True,
            )
            for dataset in datasets
            if dataset.claim is not None
        ]
        return tuple(found)

    async def close(self) -> None:
        """Close the connections."""
        await self._cluster.close()

    async def _claim(self, name: str, labels: dict[str, str], size: int | None) -> Any:
        """The claim of that name, made if it is missing."""
        try:
            api = await self._cluster.core()
            try:
                return await api.read_namespaced_persistent_volume_claim(
                    name, self._cluster.namespace, _request_timeout=REQUEST_SECONDS
                )
            except ApiException as error:
                if error.status != 404:
                    raise
            try:
                return await api.create_namespaced_persistent_volume_claim(
                    self._cluster.namespace, self._manifest(name, labels, size), _request_timeout=REQUEST_SECONDS
                )
            except ApiException as error:
                if error.status != 409:
                    raise
            return await api.read_namespaced_persistent_volume_claim(
                name, self._cluster.namespace, _request_timeout=REQUEST_SECONDS
            )
        except ApiException as error:
            log.error("The API server refused the claim %s: %s %s", name, error.status, error.reason)
            raise _refused(f"the API server refused its claim ({error.status} {error.reason})") from None
        except AWAY as error:
            log.error("The API server does not answer for the claim %s: %s", name, error)
            raise _refused("the API server does not answer") from None

    def _manifest(self, name: str, labels: dict[str, str], size: int | None) -> client.V1PersistentVolumeClaim:
        return client.V1PersistentVolumeClaim(
            metadata=client.V1ObjectMeta(name=name, labels=dict([MANAGED]) | labels),
            spec=client.V1PersistentVolumeClaimSpec(
                access_modes=[self._access_mode],
                storage_class_name=self._storage_class,
                resources=client.V1VolumeResourceRequirements(
                    requests={"storage": self._size if size is None else format_memory(size)}
                ),
            ),
        )


def _refused(why: str) -> MaestroError:
    return MaestroError(
        "start_failed", f"The volume of the workspace cannot be made: {why}; try again, or tell an admin."
    )
