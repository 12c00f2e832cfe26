"""One installation: where its data lies, on which ports its parts listen, and the addresses that follow from that.

``make run`` describes it by environment variables (:meth:`Installation.from_environment`), an admin of an existing Hub
by arguments. ``compose.py`` turns it into the Hub's configuration.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .keys import ensure_key
from .settings import PROVIDERS, Provider, SettingsError

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Port:
    """One port of ours: the variable that changes it, its default, and what listens there."""

    variable: str
    default: int
    what: str


PORTS: dict[str, Port] = {
    "public": Port("MAESTRO_PORT", 8888, "Maestro's address for browsers"),
    "hub": Port("MAESTRO_HUB_PORT", 8081, "the Hub's own API"),
    "proxy": Port("MAESTRO_PROXY_PORT", 8001, "the proxy's control API"),
    "workspaces": Port("MAESTRO_WORKSPACES_PORT", 8181, "the workspaces service"),
    "packages": Port("MAESTRO_PACKAGES_PORT", 8182, "the package index"),
    "mlflow": Port("MAESTRO_MLFLOW_PORT", 8183, "MLflow"),
}

NO_ADDRESS_FOR_PODS = ("", "0.0.0.0", "127.0.0.1", "::", "::1", "localhost")  # noqa: S104 - compared, not bound

#: the services that people and notebooks reach, and the module that each is. The Hub starts them in this order and
#: waits, with pauses that double, for all but MLflow; started first it would take the others' processor meanwhile.
SERVICES: dict[str, str] = {
    "workspaces": "maestro_hub_services.workspaces",
    "packages": "maestro_hub_services.packages",
    "mlflow": "maestro_hub_services.tracking",
}


def data_path(*parts: str) -> Path:
    """A file or folder that belongs to the project but is no code: in the checkout, else below the environment.

    Raises:
        SettingsError: if it is in neither place.
    """
    places = (ROOT, Path(sys.prefix) / "share" / "maestro")
    for place in places:
        path = place.joinpath(*parts)
        if path.exists():
            return path
    raise SettingsError(f"{'/'.join(parts)} is missing; install Maestro again (looked in {places[0]} and {places[1]}).")


@dataclass(frozen=True)
class Installation:
    """Where everything is.

    Args:
        state: directory of the data; relative ones are taken from the working directory.
        policy: ``maestro.yaml``.
        provider: ``local`` or ``kubernetes``.
        public_url: the Hub's address for people, when it is another than this machine's own (behind TLS, say).
        subdomain_host: with it each user has a subdomain of this address (``https://hub.example.com``).
        host: address that the public port listens on; with pods elsewhere the Hub's own port too.
        ports: by the names of :data:`PORTS`; missing ones have their default.
        services: which services are part of it.
        external: name of a service -> its address, for those that the Hub does not start (Deployments).
        allow_unisolated: let several people in although their servers cannot be kept apart.
    """

    state: Path
    policy: Path
    provider: Provider = "local"
    public_url: str = ""
    subdomain_host: str = ""
    host: str = "127.0.0.1"
    ports: Mapping[str, int] = field(default_factory=dict)
    services: tuple[str, ...] = tuple(SERVICES)
    external: Mapping[str, str] = field(default_factory=dict)
    allow_unisolated: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", Path(self.state).absolute())
        object.__setattr__(self, "policy", Path(self.policy).absolute())
        if self.provider not in PROVIDERS:
            raise SettingsError(f"MAESTRO_PROVIDER must be local or kubernetes, not {str(self.provider)[:40]!r}.")
        unknown = sorted({*self.services, *self.external} - set(SERVICES))
        if unknown:
            raise SettingsError(f"There is no service {unknown[0]!r}; there are {', '.join(SERVICES)}.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Installation:
        """Read ``MAESTRO_STATE``, ``MAESTRO_POLICY``, ``MAESTRO_PROVIDER``, ``MAESTRO_PUBLIC_URL``,
        ``MAESTRO_SUBDOMAIN_HOST``, ``MAESTRO_HOST``, the ports' variables, ``MAESTRO_SERVICES`` (names with commas),
        ``MAESTRO_EXTERNAL`` (a JSON object) and ``MAESTRO_ALLOW_UNISOLATED``; everything has a default.

        Raises:
            SettingsError: for a value that cannot be read.
        """
        values = os.environ if environment is None else environment
        named = [name.strip() for name in values.get("MAESTRO_SERVICES", ",".join(SERVICES)).split(",")]
        policy = values.get("MAESTRO_POLICY") or str(data_path("maestro.yaml"))
        return cls(
            state=Path(values.get("MAESTRO_STATE") or "state"),
            policy=Path(policy),
            provider=values.get("MAESTRO_PROVIDER") or "local",  # type: ignore[arg-type]  # checked above
            public_url=values.get("MAESTRO_PUBLIC_URL", ""),
            subdomain_host=values.get("MAESTRO_SUBDOMAIN_HOST", "").rstrip("/"),
            host=values.get("MAESTRO_HOST") or "127.0.0.1",
            ports={name: _port(values, port) for name, port in PORTS.items()},
            services=tuple(name for name in named if name),
            external=_external(values.get("MAESTRO_EXTERNAL", "")),
            allow_unisolated=values.get("MAESTRO_ALLOW_UNISOLATED", "").lower() in ("1", "true", "yes"),
        )

    def with_ports(self, **ports: int) -> Installation:
        """The same with other ports."""
        return replace(self, ports={**self.ports, **ports})

    def as_environment(self) -> dict[str, str]:
        """The variables that :meth:`from_environment` reads this back from."""
        return {
            "MAESTRO_STATE": str(self.state),
            "MAESTRO_POLICY": str(self.policy),
            "MAESTRO_PROVIDER": self.provider,
            "MAESTRO_PUBLIC_URL": self.public_url,
            "MAESTRO_SUBDOMAIN_HOST": self.subdomain_host,
            "MAESTRO_HOST": self.host,
            "MAESTRO_SERVICES": ",".join(self.services),
            "MAESTRO_EXTERNAL": json.dumps(dict(self.external)),
            "MAESTRO_ALLOW_UNISOLATED": "1" if self.allow_unisolated else "",
            **{port.variable: str(self.port(name)) for name, port in PORTS.items()},
        }

    def port(self, name: str) -> int:
        """The port of a part (:data:`PORTS`)."""
        return self.ports.get(name, PORTS[name].default)

    @property
    def hub_host(self) -> str:
        """Where the Hub's own port listens: loopback, or with pods, which call it, the address that they reach us by.

        Raises:
            SettingsError: if that is no address at which a pod could find this machine.
        """
        if self.provider != "kubernetes":
            return "127.0.0.1"
        if self.host in NO_ADDRESS_FOR_PODS:
            raise SettingsError("MAESTRO_HOST must name the address by which pods reach this machine.")
        return self.host

    @property
    def singleuser_prefix(self) -> Path:
        """The environment that local servers run from: ``MAESTRO_SINGLEUSER_PREFIX``, what set-up made, or our own."""
        named = os.environ.get("MAESTRO_SINGLEUSER_PREFIX")
        made = ROOT / ".venv-singleuser"
        return Path(named) if named else made if made.is_dir() else Path(sys.prefix)

    def managed(self, service: str) -> bool:
        """Whether the Hub starts this service."""
        return service in self.services and service not in self.external

    def key(self, name: str) -> str:
        """The secret of this name, made at the first time.

        Raises:
            OSError, KeyFileError: as :func:`keys.ensure_key`.
        """
        return ensure_key(self.state, name)

    def origin(self, service: str) -> str:
        """Where a service listens, as the Hub, the proxy and local servers reach it: ``http://127.0.0.1:8181``."""
        return self.external.get(service, f"http://127.0.0.1:{self.port(service)}").rstrip("/")

    def local_url(self, base_url: str) -> str:
        """The proxy, as this machine reaches it, with the Hub's prefix and a slash at the end."""
        host = "127.0.0.1" if self.host in ("", "0.0.0.0", "::") else self.host  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port('public')}{base_url}"

    def people_url(self, base_url: str) -> str:
        """The address to give to people, with a slash at the end."""
        if self.public_url:
            return self.public_url.rstrip("/") + "/"
        return f"{self.subdomain_host}{base_url}" if self.subdomain_host else self.local_url(base_url)

    def addresses(self, base_url: str) -> dict[str, str]:
        """The ``MAESTRO_*_URL`` variables of services and spawner."""
        return {
            "MAESTRO_PUBLIC_URL": self.people_url(base_url),
            "MAESTRO_SERVICE_URL": f"{self._reached('workspaces', base_url)}services/workspaces/api/v1/jupyter",
            "MAESTRO_MLFLOW_URL": f"{self._reached('mlflow', base_url)}services/mlflow",
            "MAESTRO_INDEX_URL": f"{self._reached('packages', base_url)}services/packages",
        }

    def _reached(self, service: str, base_url: str) -> str:
        """Where notebook servers find a service. Those of ours listen on loopback, which pods reach through the proxy
        alone; MLflow's links are printed for people to follow."""
        if service not in self.external and (self.provider == "kubernetes" or service == "mlflow"):
            return self.local_url(base_url)
        return f"{self.origin(service)}{base_url}"


def _port(values: Mapping[str, str], port: Port) -> int:
    text = values.get(port.variable, "").strip()
    if not text:
        return port.default
    if not text.isdigit() or int(text) > 65535:
        raise SettingsError(f"{port.variable} must be a port from 0 (any free one) to 65535, not {text[:20]!r}.")
    return int(text)


def _external(text: str) -> dict[str, str]:
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(url, str) for url in found.values()):
        raise SettingsError('MAESTRO_EXTERNAL must be a JSON object such as {"workspaces": "http://maestro:8181"}.')
    return found
