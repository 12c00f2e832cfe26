"""The closed network on Kubernetes: one NetworkPolicy for the pods of launches, kept as ``maestro.yaml`` says.

It opens what Maestro itself needs, read from the addresses that servers are given, and what the file allows. Policies
add up: where another one opens more for the same pods, more is open.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from urllib.parse import urlsplit

from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException

from maestro_core.egress import Destination, Egress, policy_spec, rule, to_network
from maestro_core.errors import MaestroError
from maestro_hub_services.settings import Settings

from ..kubernetes_api import AWAY, MANAGED, REQUEST_SECONDS, KubernetesApi
from .lookup import Hosts, Unreachable

NAME = "maestro-servers"
#: seconds for which a look is believed
SEEN_SECONDS = 10.0
_NO_RIGHT = "its Role needs the rules about networkpolicies and services"
log = logging.getLogger("maestro.network")


class KubernetesNetwork:
    """The policy ``maestro-servers`` in the namespace of the servers."""

    def __init__(self, settings: Settings) -> None:
        self._cluster = KubernetesApi(settings.namespace)
        self._hosts = Hosts(self._cluster)
        self._needed = _needed(settings)
        self._looking = asyncio.Lock()
        self._held: Egress | None = None
        self._until = 0.0
        self._trouble = ""
        self._said: set[str] = set()

    async def hold(self, egress: Egress) -> None:
        """Make, change or remove the policy; whoever asks while somebody looks waits for the same look."""
        async with self._looking:
            if self._held == egress and time.monotonic() < self._until:
                return
            if egress.closed:
                await self._shut(egress)
            else:
                await self._open()
            self._held, self._until = egress, time.monotonic() + SEEN_SECONDS

    async def close(self) -> None:
        """Close the connections."""
        await self._cluster.close()

    async def _shut(self, egress: Egress) -> None:
        try:
            needed = await asyncio.gather(*(self._hosts.rule_for(host, (port,)) for host, port in self._needed))
            allowed = await asyncio.gather(*(self._allowed(one) for one in egress.allow))
            await self._apply(policy_spec([*needed, *(one for one in allowed if one is not None)]))
            self._trouble = ""
        except Unreachable as error:
            raise self._not_closed(str(error)) from None
        except ApiException as error:
            why = f"the API server refused ({error.status} {error.reason})"
            raise self._not_closed(f"{why}: {_NO_RIGHT}" if error.status == 403 else why) from None
        except AWAY:
            raise self._not_closed("the API server does not answer") from None

    def _not_closed(self, why: str) -> MaestroError:
        """The refusal; in the log once for as long as it stays the same."""
        if why != self._trouble:
            log.error("The network of notebook servers cannot be closed: %s", why)
        self._trouble = why
        return MaestroError(
            "start_failed",
            f"The network of servers cannot be closed, as this Hub's policy wants it: {why}; try again, or tell an "
            "admin.",
        )

    async def _allowed(self, destination: Destination) -> dict[str, Any] | None:
        """The rule of an entry; a host that cannot be found closes itself and nothing else."""
        if destination.cidr is not None:
            return rule([to_network(destination.cidr, destination.closed)], destination.ports)
        host = str(destination.host)
        try:
            found = await self._hosts.rule_for(host, destination.ports)
        except (Unreachable, ApiException) as error:
            why = error if isinstance(error, Unreachable) else f"{error.status} {error.reason}"
            if host not in self._said:
                log.warning("Servers cannot reach %s, which maestro.yaml allows: %s", host, why)
            self._said.add(host)
            return None
        self._said.discard(host)
        return found

    async def _apply(self, spec: dict[str, Any]) -> None:
        connection = await self._cluster.connect()
        api = client.NetworkingV1Api(connection)
        metadata = {"name": NAME, "labels": dict([MANAGED])}
        body: Any = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
        namespace = self._cluster.namespace
        found = await self._read(api)
        if found is None:
            await api.create_namespaced_network_policy(namespace, body, _request_timeout=REQUEST_SECONDS)
            log.info("The network of notebook servers is closed by the policy %s", NAME)
            return
        if MANAGED not in (found.metadata.labels or {}).items():
            raise Unreachable(f"the network policy {NAME} is there already and is not Maestro's: delete it")
        if connection.sanitize_for_serialization(found.spec) != spec:
            await api.replace_namespaced_network_policy(NAME, namespace, body, _request_timeout=REQUEST_SECONDS)
            log.info("The policy %s is changed: it allows %d destinations", NAME, len(spec["egress"]) - 1)

    async def _open(self) -> None:
        """Take our policy away. Where Maestro may not even look it never made one."""
        try:
            api = client.NetworkingV1Api(await self._cluster.connect())
            found = await self._read(api)
            if found is not None and MANAGED in (found.metadata.labels or {}).items():
                await api.delete_namespaced_network_policy(
                    NAME, self._cluster.namespace, _request_timeout=REQUEST_SECONDS
                )
                log.info("The network of notebook servers is not closed by Maestro any more")
        except ApiException as error:
            if error.status not in (403, 404):
                log.warning("The network policy %s cannot be removed: %s %s", NAME, error.status, error.reason)
        except AWAY as error:
            log.warning("The network policy %s cannot be removed: %s", NAME, type(error).__name__)

    async def _read(self, api: client.NetworkingV1Api) -> Any | None:
        try:
            return await api.read_namespaced_network_policy(
                NAME, self._cluster.namespace, _request_timeout=REQUEST_SECONDS
            )
        except ApiException as error:
            if error.status != 404:
                raise
            return None


def _needed(settings: Settings) -> list[tuple[str, int]]:
    """Hosts and ports of what every server is told to call: the Hub, the service, MLflow, the index."""
    urls = [settings.hub_api_url, settings.service_url, settings.index_url]
    if settings.tracking:
        urls.append(settings.mlflow_url)
    found = []
    for url in urls:
        parts = urlsplit(url)
        found.append((str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)))
    return list(dict.fromkeys(found))
