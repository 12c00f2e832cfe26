"""kubernetes_asyncio's API without an answer that KubeSpawner throws away."""

from __future__ import annotations

from typing import Any


class QuietApi:
    """Everything of a ``CoreV1Api``, but that a created pod's answer is not made into models.

    KubeSpawner looks at whether the pod was created, and hears of the rest from its reflector. Reading the answer, some
    hundred models for a pod with volumes, took a fifth of the Hub's CPU time of a start.

    Args:
        api: the ``kubernetes_asyncio.client.CoreV1Api`` that KubeSpawner shares.
    """

    def __init__(self, api: Any) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def create_namespaced_pod(self, namespace: str, body: Any) -> None:
        """Create a pod.

        Raises:
            kubernetes_asyncio.client.ApiException: as the API's own method.
        """
        await self._api.api_client.call_api(
            "/api/v1/namespaces/{namespace}/pods",
            "POST",
            {"namespace": namespace},
            [],
            {"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
            response_types_map={},
            _return_http_data_only=True,
        )
