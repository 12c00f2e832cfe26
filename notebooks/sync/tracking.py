"""MLflow's client, as the workspace's server talks to it; mlflow is imported here, in the moment that it is needed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from maestro_core.errors import MaestroError

from ..settings import ClientSettings

#: what a sync needs of MLflow, besides its address
_VARIABLES = {
    "MLFLOW_TRACKING_AUTH": "maestro",  # the plug-in hands the token to the Hub's MLflow alone
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@contextlib.contextmanager
def connected(settings: ClientSettings, workspace: str) -> Iterator[Any]:
    """MLflow's client in one workspace (``mlflow.MlflowClient``).

    Raises:
        MaestroError: ``invalid_request`` where mlflow is not installed; ``service_unavailable`` with MLflow's own
            sentence for whatever it refuses.
    """
    wanted = {**_VARIABLES, "MLFLOW_WORKSPACE": workspace}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise MaestroError(
                "invalid_request", "A sync takes mlflow, which this server's image lacks; ask an admin for another."
            ) from None
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        try:
            yield MlflowClient(tracking_uri=settings.mlflow_url, registry_uri=settings.mlflow_url)
        except MlflowException as error:
            sentence = str(error.message).split("\n", 1)[0][:300]
            raise MaestroError("service_unavailable", f"MLflow did not take part in the sync: {sentence}") from None
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def experiment_id(client: Any, name: str) -> str | None:
    """An experiment's id; None where there is no such experiment."""
    found = client.get_experiment_by_name(name)
    return None if found is None else str(found.experiment_id)


def runs_of(client: Any, experiment: str, wanted: str = "") -> list[Any]:
    """All runs of an experiment (``mlflow.entities.Run``), the oldest first.

    Args:
        experiment: its id. wanted: a filter of MLflow's own.
    """
    found: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment], wanted, max_results=1000, order_by=["start_time ASC"], page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
