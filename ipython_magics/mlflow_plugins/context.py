"""Tags of every run and logged model: whose it is, from which notebook, workspace and launch."""

from __future__ import annotations

import os

import mlflow
from mlflow.entities import SourceType
from mlflow.tracking.context.abstract_context import RunContextProvider
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE

from maestro_core.experiments import (
    TAG_CELL,
    TAG_DIRTY,
    TAG_KERNEL,
    TAG_LAUNCH,
    TAG_MLFLOW_USER,
    TAG_NOTEBOOK,
    TAG_SNAPSHOT,
    TAG_USER,
    TAG_WORKSPACE,
)

from .. import address, git, jobs, kernel
from . import workers

#: tag -> the variable of the launch that holds its value
FROM_LAUNCH = {
    TAG_WORKSPACE: "MAESTRO_WORKSPACE",
    TAG_LAUNCH: "MAESTRO_LAUNCH_ID",
    TAG_USER: "MAESTRO_USER",
    TAG_MLFLOW_USER: "MAESTRO_USER",
}


class MaestroRunContext(RunContextProvider):
    """Entry point ``mlflow.run_context_provider``; called at every start of a run."""

    def in_context(self) -> bool:
        """In a launch, unless the run goes to somebody else's server."""
        if not os.environ.get("MAESTRO_LAUNCH_ID"):
            return False
        uri = mlflow.get_tracking_uri()
        return address.is_ours(uri) or not uri.startswith(("http:", "https:", "databricks", "uc:"))

    def tags(self) -> dict[str, str]:
        """The tags; the notebook's are missing where there is none (a terminal)."""
        workers.end_with_worker()
        tags = {tag: value for tag, name in FROM_LAUNCH.items() if (value := os.environ.get(name))}
        if identity := kernel.own_id() or os.environ.get(kernel.KERNEL_ID):
            tags[TAG_KERNEL] = identity
        notebook = kernel.notebook()
        if notebook:
            tags[TAG_NOTEBOOK] = notebook.path
            if kernel.is_kernel():  # of a program that a notebook starts, MLflow names the program
                tags[MLFLOW_SOURCE_NAME] = notebook.path
                tags[MLFLOW_SOURCE_TYPE] = SourceType.to_string(SourceType.NOTEBOOK)
                tags |= _version_tags(notebook)
            if commit := git.commit_of(kernel.notebook_file(notebook.path).parent):
                tags[MLFLOW_GIT_COMMIT] = commit
        return tags | jobs.tags()


def _version_tags(notebook: kernel.Notebook) -> dict[str, str]:
    """Which saved version of the notebook ran, and which of its cells."""
    tags = {TAG_CELL: cell} if (cell := kernel.cell_id()) else {}
    if notebook.snapshot:
        tags |= {TAG_SNAPSHOT: notebook.snapshot, TAG_DIRTY: str(kernel.is_dirty(notebook)).lower()}
    return tags
