"""Everything that is known about the insides of mlflow 3.17.2: its settings, its application, its workspaces.

``mlflow server`` is a command that imports MLflow, prepares the stores, and starts uvicorn in a second process that
imports it again (measured on two cores: ready after 10-12 s, 532 MB). Here the same application is loaded into the
process that already holds the port: ready after 5 s, half the memory. The variables below are the ones that the
command hands to its worker; the tests run against the pinned version.

MLflow's basic-auth application is not loaded. It would keep accounts, passwords and grants of its own, which outlive a
role in Maestro, and ask its database for them in each request (0.5-1.5 ms of 5 ms). The gate decides instead.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread

from maestro_core.lifecycle import TrackingRemoved

from ..settings import Settings
from . import orphans, versions
from .loading import Registered, locations
from .removal import remove_workspace

#: variables that MLflow must not find: a client's workspace, which would stand in for a missing header, and the
#: gateway that its pages ask for
UNSET = ("MLFLOW_WORKSPACE", "MLFLOW_DEPLOYMENTS_TARGET")
#: how long a workspace that was seen in MLflow is taken to be there
SEEN_SECONDS = 60.0
log = logging.getLogger("maestro.tracking")


@dataclass(frozen=True)
class Stores:
    """Where MLflow keeps its data.

    Attributes:
        database: an SQLAlchemy URI.
        artifacts: a directory or a bucket's URI.
    """

    database: str
    artifacts: str

    @classmethod
    def of(cls, settings: Settings) -> Stores:
        """From the settings; by default sqlite and a directory below the state, both closed to others."""
        home = settings.state / "mlflow"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        return cls(
            database=settings.mlflow_db or f"sqlite:///{home / 'mlflow.sqlite'}",
            artifacts=settings.mlflow_artifacts or _made(home / "artifacts"),
        )


def _made(directory: Path) -> str:
    directory.mkdir(mode=0o700, exist_ok=True)
    return str(directory)


def environment(stores: Stores, prefix: str, addresses: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    """MLflow's settings as environment variables (``mlflow.server.constants``, ``mlflow.environment_variables``).

    Args:
        addresses: URLs under which people and servers reach the service; their hosts are accepted.
        given: the process's environment; ``MLFLOW_SERVER_ALLOWED_HOSTS`` there adds hosts.
    """
    hosts = [*_hosts(addresses), *filter(None, given.get("MLFLOW_SERVER_ALLOWED_HOSTS", "").split(","))]
    origins = sorted({"{0.scheme}://{0.netloc}".format(urlsplit(address)) for address in addresses})
    return {
        "_MLFLOW_SERVER_FILE_STORE": stores.database,
        "_MLFLOW_SERVER_REGISTRY_STORE": stores.database,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": stores.artifacts,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_STATIC_PREFIX": prefix.rstrip("/"),
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_ENABLE_WORKSPACES": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_AI_GATEWAY": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
    }


def _hosts(addresses: Iterable[str]) -> list[str]:
    """Host header values: each address, this machine, and private networks; MLflow takes ``*`` as a wildcard."""
    names = {name for address in addresses if (name := urlsplit(address).hostname)}
    names |= {"localhost", "127.0.0.1"}
    exact = sorted(names) + [f"{name}:*" for name in sorted(names)]
    return [*exact, "[[]::1]:*", "192.168.*", "10.*", *(f"172.{second}.*" for second in range(16, 32))]


class LoadedMlflow:
    """MLflow's ASGI application with our rules in its Flask part. Make one in a thread: it takes seconds.

    Args:
        variables: from :func:`environment`; set for the whole process, before MLflow is imported.

    Raises:
        Exception: whatever MLflow raises if its database cannot be opened or migrated.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        os.environ.update(variables)
        for name in UNSET:
            os.environ.pop(name, None)
        from mlflow.server import app as flask_app
        from mlflow.server.fastapi_app import app
        from mlflow.server.handlers import initialize_backend_stores
        from mlflow.tracking._workspace.registry import get_workspace_store

        from . import given_ids
        from .places import guard
        from .rules import before_request

        database = variables["_MLFLOW_SERVER_FILE_STORE"]
        initialize_backend_stores(database, database, variables["_MLFLOW_SERVER_ARTIFACT_ROOT"])
        flask_app.before_request(before_request)
        guard()
        given_ids.install()
        self._app: Any = app
        self._workspaces: Any = get_workspace_store(database)
        self._artifacts = variables["_MLFLOW_SERVER_ARTIFACT_DESTINATION"]
        self._seen: dict[str, float] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        await self._app(scope, receive, send)

    async def ensure_workspace(self, name: str) -> None:
        """Make MLflow's workspace of that name if there is none yet. Call it for members only."""
        now = time.monotonic()
        if now - self._seen.get(name, -SEEN_SECONDS) < SEEN_SECONDS:
            return
        await anyio.to_thread.run_sync(self._ensure, name)
        self._seen[name] = now

    async def remove_workspace(self, name: str) -> TrackingRemoved:
        """Remove MLflow's workspace of that name with all it holds; safe to repeat."""
        self._seen.pop(name, None)
        removed = await anyio.to_thread.run_sync(remove_workspace, self._workspaces, self._artifacts, name)
        self._seen.pop(name, None)
        return removed

    async def registered(self, name: str) -> Registered:
        """What the registry of a workspace names."""
        return Registered.of(name, await anyio.to_thread.run_sync(locations, self._workspaces, name))

    async def launches_of_active_runs(self) -> list[str]:
        """The launches that runs name which MLflow takes to be running."""
        return await anyio.to_thread.run_sync(orphans.launches_of_active_runs, self._workspaces)

    async def made_by(self, workspace: str, address: str) -> list[versions.Made]:
        """The runs and model versions of a saved version of a notebook."""
        return await anyio.to_thread.run_sync(versions.made_by, self._workspaces, workspace, address)

    async def end_runs(self, reasons: Mapping[str, str]) -> int:
        """End the active runs of launches, each with the reason; how many."""
        return await anyio.to_thread.run_sync(orphans.end_runs, self._workspaces, reasons)

    def _ensure(self, name: str) -> None:
        from mlflow.entities import Workspace
        from mlflow.exceptions import MlflowException

        try:
            self._workspaces.get_workspace(name)
        except MlflowException as missing:
            if missing.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            try:
                self._workspaces.create_workspace(Workspace(name=name, description="A workspace of Maestro"))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # made by another request meanwhile
                    raise
