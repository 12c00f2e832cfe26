"""The experiment of runs that name none: the launch's."""

from __future__ import annotations

import os

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking.default_experiment.abstract_context import DefaultExperimentProvider

from .. import address

EXISTS = ErrorCode.Name(RESOURCE_ALREADY_EXISTS)


class MaestroExperiment(DefaultExperimentProvider):
    """Entry point ``mlflow.default_experiment_provider``; MLFLOW_EXPERIMENT_NAME and set_experiment win over it."""

    def in_context(self) -> bool:
        """In a launch whose experiment is named, with MLflow's address unchanged."""
        return bool(os.environ.get("MAESTRO_EXPERIMENT")) and address.is_ours(mlflow.get_tracking_uri())

    def get_experiment_id(self) -> str:
        """The id of the launch's experiment, which is created if it is missing."""
        return experiment_id(os.environ["MAESTRO_EXPERIMENT"])


def experiment_id(name: str) -> str:
    """The id of the experiment of this name, created if it is missing.

    Raises:
        MlflowException: MLflow refuses it or does not answer.
    """
    client = mlflow.MlflowClient()
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException as error:
        found = client.get_experiment_by_name(name) if error.error_code == EXISTS else None
        if found is None:
            raise
        return found.experiment_id  # another kernel was faster
