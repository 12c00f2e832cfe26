"""The way to the cluster's API server, one for whatever part of the service speaks to it.

Imported where the provider is Kubernetes alone: ``kubernetes_asyncio`` is an extra, not installed on one machine.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp
from kubernetes_asyncio import client, config

#: seconds for one answer of the API server
REQUEST_SECONDS = 10
#: the label of what Maestro keeps in the namespace
MANAGED = ("app.kubernetes.io/managed-by", "maestro")
#: what is raised when the API server does not answer, or nobody said where it is
AWAY = (OSError, TimeoutError, aiohttp.ClientError, config.ConfigException)
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KubernetesApi:
    """The API's client, made at the first call, in the loop that uses it; ``KUBECONFIG`` counts outside a cluster.

    Args:
        namespace: where the notebook servers are; empty: the service's own.

    Attributes:
        namespace: the same, known once connected.
    """

    def __init__(self, namespace: str = "") -> None:
        self.namespace = namespace
        self._client: client.ApiClient | None = None
        self._connecting = asyncio.Lock()

    async def connect(self) -> client.ApiClient:
        """The connected client, for the API group of one's choice (``client.BatchV1Api(await api.connect())``).

        Raises:
            ConfigException: neither a service account nor a kubeconfig says where the API server is.
        """
        async with self._connecting:
            if self._client is None:
                try:
                    config.load_incluster_config()
                except config.ConfigException:
                    await config.load_kube_config(config_file=os.environ.get("KUBECONFIG"))
                self.namespace = self.namespace or await asyncio.to_thread(_own_namespace)
                self._client = client.ApiClient()
            return self._client

    async def core(self) -> client.CoreV1Api:
        """Pods, claims, nodes, secrets.

        Raises:
            ConfigException: as :meth:`connect`.
        """
        return client.CoreV1Api(await self.connect())

    async def close(self) -> None:
        """Close the connections; the next call makes new ones."""
        if self._client is not None:
            closing, self._client = self._client, None
            await closing.close()


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return "default"
