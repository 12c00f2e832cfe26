"""Where notebook servers may connect to: the ``egress`` section of ``maestro.yaml``, and the NetworkPolicy of it.

Kubernetes knows addresses and pods, no names: whoever applies this looks up the hosts and brings rules.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Port = Annotated[int, Field(ge=1, le=65535)]

#: every pod of a launch has this label (its value is the launch's id), and nothing else has
LAUNCH_LABEL = "maestro.launch"
#: a machine's own networks: loopback, the link and other addresses where clouds answer with the credentials of the
#: node, and what IPv6 calls IPv4 (RFC 4291, 2.5.5.2; RFC 6052)
_OWN = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8", "169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "::1/128", "fe80::/10",
        "fd00:ec2::/32", "fd20:ce::254/128", "::ffff:0:0/96", "64:ff9b::/96",
    )
)  # fmt: skip
#: where name servers are: pods of kube-system, and (node-local or a cloud's own) private addresses
_DNS_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.20.10/32")
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


class Destination(BaseModel):
    """One entry of ``egress.allow``: a host or a network, and its TCP ports.

    Attributes:
        host: a name that the service looks up again and again; ``postgres.databases.svc`` is a Service of the cluster.
        cidr: addresses; ``except`` are those among them that stay closed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str | None = None
    cidr: str | None = None
    closed: tuple[str, ...] = Field(default=(), alias="except", max_length=50)
    ports: tuple[Port, ...] = Field(default=(443,), min_length=1, max_length=50)

    @field_validator("host", mode="before")
    @classmethod
    def _host(cls, value: Any) -> str | None:
        if value is None:
            return None
        text = str(value).strip().lower().rstrip(".")
        if not _HOST.fullmatch(text) or text.rpartition(".")[2].isdigit():
            raise ValueError(
                f"{str(value)[:80]!r} is no name of a host (write addresses as cidr; there are no wildcards)"
            )
        return text

    @field_validator("cidr", mode="before")
    @classmethod
    def _cidr(cls, value: Any) -> str | None:
        if value is None:
            return None
        network = _network(value)
        if any(_within(network, own) for own in _OWN):
            raise ValueError(f"{network} is of the machine's own networks, which stay closed")
        return str(network)

    @field_validator("closed", mode="before")
    @classmethod
    def _closed(cls, value: Any) -> Any:
        return tuple(str(_network(one)) for one in value) if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _one_of_them(self) -> Destination:
        if (self.host is None) == (self.cidr is None):
            raise ValueError("name either a host or a cidr")
        if self.closed and self.cidr is None:
            raise ValueError("except goes with a cidr")
        for one in self.closed:
            if not _within(_network(one), _network(self.cidr)):
                raise ValueError(f"except: {one} is no part of {self.cidr}")
        return self


class Egress(BaseModel):
    """The ``egress`` section; it counts on Kubernetes.

    Attributes:
        closed: servers reach what Maestro itself needs and ``allow``, nothing else; without it Maestro closes nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    closed: bool = False
    allow: tuple[Destination, ...] = Field(default=(), max_length=200)


def usable(address: str) -> bool:
    """Whether a host's address may be opened: what a name leads to is the word of whoever keeps the name."""
    found = ipaddress.ip_address(address)
    return not (found.is_multicast or found.is_unspecified or any(found in own for own in _OWN))


def to_network(cidr: str, closed: Sequence[str] = ()) -> dict[str, Any]:
    """A peer of a rule: addresses, of which the machine's own networks are never part.

    Args:
        closed: what is not part of it besides.
    """
    network = _network(cidr)
    own = (str(one) for one in _OWN if one != network and _within(one, network))
    left_out = list(dict.fromkeys([*closed, *own]))
    return {"ipBlock": {"cidr": str(network), **({"except": left_out} if left_out else {})}}


def to_pods(labels: Mapping[str, str], namespace: str | None = None) -> dict[str, Any]:
    """A peer of a rule: the pods with these labels, in the servers' own namespace or another one."""
    peer: dict[str, Any] = {"podSelector": {"matchLabels": dict(labels)}}
    if namespace is not None:
        peer["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return peer


def rule(peers: Iterable[Mapping[str, Any]], ports: Iterable[int | str]) -> dict[str, Any]:
    """One rule: these peers on these TCP ports (numbers, or names that the pods give them)."""
    return {"to": [dict(peer) for peer in peers], "ports": [{"protocol": "TCP", "port": port} for port in ports]}


def policy_spec(rules: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The ``spec`` of the NetworkPolicy: launches' pods reach name servers and these, and nothing else."""
    names = {
        "to": [
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
            *({"ipBlock": {"cidr": network}} for network in _DNS_NETWORKS),
        ],
        "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
    }
    return {
        "podSelector": {"matchExpressions": [{"key": LAUNCH_LABEL, "operator": "Exists"}]},
        "policyTypes": ["Egress"],
        "egress": [names, *(dict(one) for one in rules)],
    }


def _network(value: Any) -> Network:
    try:
        return ipaddress.ip_network(str(value).strip())
    except ValueError as error:
        raise ValueError(f"{str(value)[:80]!r} is no network such as 10.20.0.0/16 ({error})") from None


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)
