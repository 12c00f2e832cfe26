"""Jobs on Kubernetes: a batch/v1 Job for each attempt, and a Secret of its own with the attempt's token."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException

from maestro_core import job_pods, pods
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan
from maestro_hub_services.settings import Settings

from ..kubernetes_api import AWAY, KubernetesApi
from .protocol import PATIENCE, Ended, JobAddress
from .worker import TOKEN, worker_environment

#: seconds for one answer of the API server
REQUEST_SECONDS = 10
#: seconds that a job may wait in Kueue's queue
KUEUE_PATIENCE = 7 * 24 * 3600.0
#: seconds that a pod may wait for an image or a node; the service gives up a little later, and could not say why
WAIT_SECONDS = PATIENCE - 60
#: of the same: an image that is not there does not come by waiting
IMAGE_SECONDS = 120
LAUNCH = "maestro.launch"
log = logging.getLogger("maestro.runner")


class KubernetesRunner:
    """Jobs in one namespace.

    Args:
        settings: of the workspaces service; ``job_image`` runs what no profile has an image for, ``kueue_queue`` names
            the queue.
    """

    def __init__(self, settings: Settings) -> None:
        self._cluster = KubernetesApi(settings.namespace)
        self.patience = KUEUE_PATIENCE if settings.kueue_queue else PATIENCE
        self._image, self._queue = settings.job_image, settings.kueue_queue
        self._starting: set[str] = set()

    async def start(self, plan: LaunchPlan, work: JobAddress) -> None:
        """Make the Job, then the Secret that belongs to it, then let it go."""
        if not (plan.image or self._image):
            raise MaestroError(
                "start_failed",
                "No image is named for jobs: an admin names one in the profile, or in MAESTRO_JOB_IMAGE.",
            )
        manifest = job_pods.manifest(
            plan,
            worker_environment(plan, work),
            plan.image or self._image,
            token_variable=TOKEN,
            timeout_seconds=work.timeout_seconds,
            queue=self._queue,
        )
        self._starting.add(plan.launch_id)
        try:
            await self._make(manifest, plan.launch_id, work.token)
        except ApiException as error:
            log.error("The API server refused the job of launch %s: %s %s", plan.launch_id, error.status, error.reason)
            await self._take_back(plan.launch_id)
            raise MaestroError(
                "start_failed", f"The cluster refused the job ({error.status} {error.reason}); tell an admin."
            ) from None
        except AWAY as error:
            log.error("The API server does not answer: %s", type(error).__name__)
            await self._take_back(plan.launch_id)
            raise MaestroError("start_failed", "The cluster does not answer, so the job was not started.") from None
        finally:
            self._starting.discard(plan.launch_id)

    async def _make(self, manifest: dict[str, Any], launch_id: str, token: str) -> None:
        batch, core, namespace = await self._apis()
        # both as plain JSON, which the client sends as it is
        made = await batch.create_namespaced_job(
            namespace, cast("client.V1Job", manifest), _request_timeout=REQUEST_SECONDS
        )
        secret = cast("client.V1Secret", job_pods.secret(launch_id, token, made.metadata.uid))
        await core.create_namespaced_secret(namespace, secret, _request_timeout=REQUEST_SECONDS)
        if not self._queue:  # else Kueue lets it go
            name = job_pods.job_name(launch_id)
            go = {"spec": {"suspend": False}}
            await batch.patch_namespaced_job(name, namespace, go, _request_timeout=REQUEST_SECONDS)

    async def look(self) -> Mapping[str, Ended | None]:
        """By launch id: None while it runs, else how it ended."""
        try:
            batch, core, namespace = await self._apis()
            jobs = await batch.list_namespaced_job(
                namespace, label_selector=job_pods.SELECTOR, _request_timeout=REQUEST_SECONDS
            )
            found = await core.list_namespaced_pod(
                namespace, label_selector=job_pods.SELECTOR, _request_timeout=REQUEST_SECONDS
            )
        except ApiException as error:
            log.error("The API server does not list jobs: %s %s", error.status, error.reason)
            raise _away() from None
        except AWAY as error:
            log.warning("The API server does not answer: %s", type(error).__name__)
            raise _away() from None
        read = (await self._cluster.connect()).sanitize_for_serialization
        newest: dict[str, dict[str, Any]] = {}
        for pod in sorted(found.items, key=lambda one: one.metadata.creation_timestamp):
            newest[(pod.metadata.labels or {}).get(LAUNCH, "")] = read(pod)
        states: dict[str, Ended | None] = {}
        for job in jobs.items:
            launch_id = (job.metadata.labels or {}).get(LAUNCH, "")
            states[launch_id] = self._state(launch_id, read(job), newest.get(launch_id))
        return states

    def _state(self, launch_id: str, job: dict[str, Any], pod: dict[str, Any] | None) -> Ended | None:
        if (end := job_pods.end_of(job, pod)) is not None:
            return Ended(*end)
        if job["spec"].get("suspend") and not self._queue and launch_id not in self._starting:
            return Ended(None, "the service was ended while it started it")
        if pod is not None and (pod.get("status") or {}).get("phase") == "Pending":
            why, waited = pods.why_not_started(pod), _age(pod)
            if why and waited > (IMAGE_SECONDS if why.startswith("its image") else WAIT_SECONDS):
                return Ended(None, why)
        return None

    async def stop(self, launch_id: str, seconds: float) -> None:
        """Delete its pods, which sends SIGTERM and SIGKILL later; without any, there is only the Job to delete."""
        try:
            _, core, namespace = await self._apis()
            found = await core.list_namespaced_pod(
                namespace, label_selector=f"{job_pods.SELECTOR},{LAUNCH}={launch_id}", _request_timeout=REQUEST_SECONDS
            )
            for pod in found.items:
                if pod.metadata.deletion_timestamp is None:
                    await core.delete_namespaced_pod(
                        pod.metadata.name,
                        namespace,
                        grace_period_seconds=max(1, int(seconds)),
                        _request_timeout=REQUEST_SECONDS,
                    )
            if not found.items:
                await self._delete(launch_id)
        except ApiException as error:
            if error.status != 404:
                log.error("The job of launch %s cannot be stopped: %s %s", launch_id, error.status, error.reason)
                raise _away() from None
        except AWAY:
            raise _away() from None

    async def clean(self, launch_id: str) -> None:
        """Delete the Job; its pods and its Secret go with it."""
        try:
            await self._delete(launch_id)
        except ApiException as error:
            log.error("The job of launch %s cannot be removed: %s %s", launch_id, error.status, error.reason)
            raise _away() from None
        except AWAY:
            raise _away() from None

    async def close(self) -> None:
        """Close the connections; jobs go on."""
        await self._cluster.close()

    async def _delete(self, launch_id: str) -> None:
        batch, _, namespace = await self._apis()
        try:
            await batch.delete_namespaced_job(
                job_pods.job_name(launch_id),
                namespace,
                propagation_policy="Background",
                _request_timeout=REQUEST_SECONDS,
            )
        except ApiException as error:
            if error.status != 404:
                raise

    async def _take_back(self, launch_id: str) -> None:
        try:
            await self._delete(launch_id)
        except (ApiException, *AWAY) as error:
            log.error("A job that was half made, of launch %s, is left: %s", launch_id, type(error).__name__)

    async def _apis(self) -> tuple[client.BatchV1Api, client.CoreV1Api, str]:
        connected = await self._cluster.connect()
        return client.BatchV1Api(connected), client.CoreV1Api(connected), self._cluster.namespace


def _age(pod: Mapping[str, Any]) -> float:
    """Seconds since it was made."""
    made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    return (datetime.now(UTC) - made).total_seconds()


def _away() -> MaestroError:
    return MaestroError("service_unavailable", "The cluster does not answer; try again in a minute.")
