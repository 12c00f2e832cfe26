"""Where a host is: the pods behind a Service of the cluster, or the addresses that its name has, looked up anew."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from kubernetes_asyncio.client.exceptions import ApiException

from maestro_core.egress import rule, to_network, to_pods, usable

from ..kubernetes_api import REQUEST_SECONDS, KubernetesApi

#: seconds for one name
LOOKUP_SECONDS = 5.0
#: seconds for which an address that a name had stays open: names with many addresses give a few at a time
KEPT_SECONDS = 600.0
#: and how many of them
MAX_ADDRESSES = 64
#: addresses that are told of in the log: whose name it is may invent many
MAX_SAID = 1000
log = logging.getLogger("maestro.network")


class Unreachable(Exception):
    """A host that servers need and that cannot be opened for them; the message is half a sentence."""


class Hosts:
    """Rules for hosts, with a memory of the addresses that each had."""

    def __init__(self, cluster: KubernetesApi, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._seen: dict[str, dict[str, float]] = {}
        self._said: set[tuple[str, str]] = set()

    async def rule_for(self, host: str, ports: tuple[int, ...]) -> dict[str, Any]:
        """The rule that opens a host's ports.

        Args:
            host: an address, a Service (``hub``, ``postgres.databases.svc``), or any other name.

        Raises:
            Unreachable: there is no such host, or pods never reach it.
            ApiException, OSError, aiohttp.ClientError: the API server's trouble.
        """
        address = _address(host)
        if address is not None:
            if not usable(address):
                raise Unreachable(f"{host} is no address at which pods could reach anything")
            return rule([to_network(address)], ports)
        service = _service_name(host)
        if service is not None:
            found = await self._service(*service, ports)
            if found is not None:
                return found
        return rule([to_network(address) for address in await self._addresses(host)], ports)

    async def _service(self, name: str, namespace: str | None, ports: tuple[int, ...]) -> dict[str, Any] | None:
        """By the pods that it selects: a policy sees a connection after the cluster has led it to one of them."""
        api = await self._cluster.core()
        try:
            service = await api.read_namespaced_service(
                name, namespace or self._cluster.namespace, _request_timeout=REQUEST_SECONDS
            )
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        if not service.spec.selector:
            return None
        targets = {one.port: one.target_port or one.port for one in service.spec.ports or ()}
        elsewhere = namespace if namespace != self._cluster.namespace else None
        return rule([to_pods(service.spec.selector, elsewhere)], [_port(targets.get(port, port)) for port in ports])

    async def _addresses(self, host: str) -> list[str]:
        """Those that the name has now and had a short while ago.

        Raises:
            Unreachable: none.
        """
        now = self._clock()
        seen = {one: at for one, at in self._seen.get(host, {}).items() if now - at < KEPT_SECONDS}
        for address in await _look_up(host):
            if usable(address):
                seen[address] = now
            elif (host, address) not in self._said and len(self._said) < MAX_SAID:
                log.warning("%s has the address %s, which stays closed", host, address)
                self._said.add((host, address))
        newest = sorted(seen, key=lambda one: (-seen[one], one))[:MAX_ADDRESSES]
        self._seen[host] = {one: seen[one] for one in newest}
        if not newest:
            raise Unreachable(f"{host} has no address")
        return sorted(newest)


async def _look_up(host: str) -> set[str]:
    try:
        async with asyncio.timeout(LOOKUP_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return set()
    return {str(entry[4][0]).partition("%")[0] for entry in found}


def _address(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _service_name(host: str) -> tuple[str, str | None] | None:
    """Name and namespace of a Service, if the host is written as one: ``hub``, ``hub.jupyter.svc.cluster.local``."""
    name, *rest = host.split(".")
    if not rest:
        return name, None
    return (name, rest[0]) if len(rest) >= 2 and rest[1] == "svc" else None


def _port(target: int | str) -> int | str:
    return int(target) if str(target).isdigit() else target
