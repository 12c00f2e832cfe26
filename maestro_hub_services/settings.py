"""What a service is told by its environment, read once at its start.

The Hub (or a Deployment) sets these variables; ``compose.py`` writes them.

``MAESTRO_STATE``        directory of this installation's data alone, mode 0700 (``./state``)
``MAESTRO_POLICY``       path of ``maestro.yaml``
``MAESTRO_BIND``         ``host:port`` where the service listens (``127.0.0.1:8181``)
``MAESTRO_PUBLIC_URL``   address of the Hub for people, with its base path (``http://127.0.0.1:8888/``)
``MAESTRO_SERVICE_URL``  the workspaces service's API (``http://127.0.0.1:8181/services/workspaces/api/v1/jupyter``)
``MAESTRO_MLFLOW_URL``   MLflow as notebook servers reach it (``http://127.0.0.1:8888/services/mlflow``)
``MAESTRO_MLFLOW_DB``, ``MAESTRO_MLFLOW_ARTIFACTS``         MLflow's database and artifacts, if not sqlite and a
                         directory in the state (``postgresql://...``, ``s3://bucket/path``)
``MAESTRO_INDEX_URL``    the package index as notebook servers reach it (``http://127.0.0.1:8182/services/packages``)
``MAESTRO_PROVIDER``     ``local`` (default) or ``kubernetes``
``MAESTRO_STORE_DB``     database of the workspaces service, if not sqlite in the state (``postgresql+asyncpg://...``)
``MAESTRO_NAMESPACE``, ``MAESTRO_STORAGE_CLASS``, ``MAESTRO_STORAGE_SIZE``, ``MAESTRO_ACCESS_MODE``  Kubernetes: where
                         claims of workspaces are made (the service's own namespace), and how (the cluster's default
                         class, ``10Gi``, ``ReadWriteMany``)
``MAESTRO_JOB_IMAGE``, ``MAESTRO_KUEUE_QUEUE``  Kubernetes: the image of jobs whose profile has none (the servers' own),
                         and the LocalQueue of Kueue that admits them, if there is one
``MAESTRO_SINGLEUSER_PREFIX``, ``MAESTRO_SHOWN_PATHS``, ``MAESTRO_ALLOW_UNISOLATED``  one machine: the environment that
                         jobs run from (this one's own), further paths that they see (with colons), ``1``: without a
                         sandbox where there can be none; as the local spawner has them for servers
``MAESTRO_TRACKING``     ``off`` where the service ``tracking`` is not part of it: nothing of MLflow is waited for
``FETCHML_JUPYTER_BLOCKED_PACKAGES``, ``FETCHML_JUPYTER_STARTUP_BLOCKED_PACKAGES``  names with commas, or ``off``: they
                         replace ``blocked_packages`` and ``startup_blocked_packages`` of ``maestro.yaml``
``MAESTRO_ACCOUNTS_URL`` path of the Hub's accounts page (``/hub/accounts``); empty with another authenticator
``MAESTRO_CULL_SECONDS`` how often the idle culler looks (``60``): set for the Hub, which hands it to the culler alone
``JUPYTERHUB_API_URL``, ``JUPYTERHUB_API_TOKEN``            the Hub's API, and the service's own token
``JUPYTERHUB_BASE_URL``, ``JUPYTERHUB_SERVICE_PREFIX``      URL prefixes of the Hub (``/``) and of the service
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

from maestro_core.packages import OVERRIDES

Provider = Literal["local", "kubernetes"]
PROVIDERS: tuple[Provider, ...] = ("local", "kubernetes")


class SettingsError(Exception):
    """The environment lacks something or holds nonsense; the message is one sentence for the admin."""


@dataclass(frozen=True)
class Settings:
    """One service's settings. URLs have no slash at the end, except ``public_url``, ``base_url`` and ``prefix``.

    Attributes:
        state: absolute directory of the data.
        policy: absolute path of ``maestro.yaml``.
        host, port: where to listen.
        public_url: for links that people follow.
        service_url: the workspaces service's API.
        mlflow_url, index_url: handed to notebook servers.
        mlflow_db, mlflow_artifacts: where MLflow keeps its data; empty for the state directory. May hold a password.
        store_db: URL of the workspaces service's database; empty for sqlite in the state. May hold a password.
        provider: where servers and volumes live.
        namespace, storage_class, storage_size, access_mode: of claims (Kubernetes); empty for the defaults.
        hub_api_url, hub_api_token: the Hub's API, and this service's identity there. Secret, never shown.
        base_url: the Hub's prefix; ``prefix``: this service's.
        accounts_url: path of the accounts page, or empty.
        package_lists: the variables that replace lists of packages in ``maestro.yaml``, where they are set.
        tracking: whether the service ``tracking`` is part of it.
        singleuser_prefix, shown_paths, allow_unisolated: how jobs run on one machine.
        job_image, kueue_queue: of jobs on Kubernetes; may be empty.
    """

    state: Path
    policy: Path
    host: str
    port: int
    public_url: str
    service_url: str
    mlflow_url: str
    index_url: str
    provider: Provider
    hub_api_url: str
    hub_api_token: str = field(repr=False)
    base_url: str
    prefix: str
    mlflow_db: str = field(default="", repr=False)
    mlflow_artifacts: str = ""
    accounts_url: str = ""
    store_db: str = field(default="", repr=False)
    namespace: str = ""
    storage_class: str = ""
    storage_size: str = ""
    access_mode: str = ""
    package_lists: Mapping[str, str] = field(default_factory=dict)
    tracking: bool = True
    singleuser_prefix: str = sys.prefix
    shown_paths: tuple[str, ...] = ()
    allow_unisolated: bool = False
    job_image: str = ""
    kueue_queue: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the variables above.

        Raises:
            SettingsError: naming every variable that is missing, or the one that cannot be read.
        """
        values = _Reader(os.environ if environment is None else environment)
        host, port = _bind(values.need("MAESTRO_BIND"))
        settings = cls(
            state=Path(values.need("MAESTRO_STATE")).absolute(),
            policy=Path(values.need("MAESTRO_POLICY")).absolute(),
            host=host,
            port=port,
            public_url=values.url("MAESTRO_PUBLIC_URL") + "/",
            service_url=values.url("MAESTRO_SERVICE_URL"),
            mlflow_url=values.url("MAESTRO_MLFLOW_URL"),
            index_url=values.url("MAESTRO_INDEX_URL"),
            provider=_provider(values.get("MAESTRO_PROVIDER", "local")),
            hub_api_url=values.url("JUPYTERHUB_API_URL"),
            hub_api_token=values.need("JUPYTERHUB_API_TOKEN"),
            base_url=_slashed(values.get("JUPYTERHUB_BASE_URL", "/")),
            prefix=_slashed(values.need("JUPYTERHUB_SERVICE_PREFIX")),
            accounts_url=values.get("MAESTRO_ACCOUNTS_URL", ""),
            store_db=values.get("MAESTRO_STORE_DB", ""),
            namespace=values.get("MAESTRO_NAMESPACE", ""),
            storage_class=values.get("MAESTRO_STORAGE_CLASS", ""),
            storage_size=values.get("MAESTRO_STORAGE_SIZE", ""),
            access_mode=values.get("MAESTRO_ACCESS_MODE", ""),
            mlflow_db=values.get("MAESTRO_MLFLOW_DB", ""),
            tracking=values.get("MAESTRO_TRACKING", "") != "off",
            mlflow_artifacts=values.get("MAESTRO_MLFLOW_ARTIFACTS", ""),
            singleuser_prefix=values.get("MAESTRO_SINGLEUSER_PREFIX", sys.prefix),
            shown_paths=tuple(filter(None, values.get("MAESTRO_SHOWN_PATHS", "").split(":"))),
            job_image=values.get("MAESTRO_JOB_IMAGE", ""),
            kueue_queue=values.get("MAESTRO_KUEUE_QUEUE", ""),
            allow_unisolated=values.get("MAESTRO_ALLOW_UNISOLATED", "") == "1",
            package_lists={name: text for name in OVERRIDES if (text := values.get(name, ""))},
        )
        values.refuse_missing()
        return settings


def load_settings() -> Settings:
    """:meth:`Settings.from_environment` for a program's start: a mistake is one line on stderr and exit code 2."""
    try:
        return Settings.from_environment()
    except SettingsError as error:
        _leave(str(error))


class _Reader:
    """Collects what is missing, so that one message names it all."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._missing: list[str] = []

    def get(self, name: str, default: str) -> str:
        return self._environment.get(name, "").strip() or default

    def need(self, name: str) -> str:
        value = self.get(name, "")
        if not value:
            self._missing.append(name)
        return value

    def url(self, name: str) -> str:
        value = self.need(name)
        if value and not value.startswith(("http://", "https://")):
            raise SettingsError(f"{name} must be an address that starts with http:// or https://, not {value[:80]!r}.")
        return value.rstrip("/")

    def refuse_missing(self) -> None:
        if self._missing:
            names = ", ".join(self._missing)
            raise SettingsError(
                f"The environment lacks {names}: let the Hub start this service (compose.add_services), or set them."
            )


def _bind(text: str) -> tuple[str, int]:
    if not text:
        return "", 0  # reported as missing
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise SettingsError(f"MAESTRO_BIND must be host:port, such as 127.0.0.1:8181, not {text[:80]!r}.")
    return host.strip("[]"), int(port)


def _provider(text: str) -> Provider:
    for provider in PROVIDERS:
        if text == provider:
            return provider
    raise SettingsError(f"MAESTRO_PROVIDER must be local or kubernetes, not {text[:40]!r}.")


def _slashed(path: str) -> str:
    return "/" + path.strip("/") + "/" if path.strip("/") else "/"


def _leave(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)
