"""MLflow's words for a workspace: the default experiment, where a viewer's runs go, and the tags of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from .errors import MaestroError

#: tags that every run of a notebook carries
TAG_NOTEBOOK = "maestro.notebook"
#: address of the notebook as it was saved when the run began (maestro_core.snapshots)
TAG_SNAPSHOT = "maestro.snapshot"
#: "true" when code ran that does not stand in that version
TAG_DIRTY = "maestro.dirty"
#: why a run ended otherwise than FINISHED
TAG_REASON = "maestro.reason"
#: id of the kernel that started the run
TAG_KERNEL = "maestro.kernel"
#: id of the cell that started the run
TAG_CELL = "maestro.cell"
#: the id that a new run is to have (32 hex digits); the tracking service takes it and keeps no such tag
TAG_RUN_ID = "maestro.run_id"
TAG_WORKSPACE = "maestro.workspace"
TAG_LAUNCH = "maestro.launch"
TAG_USER = "maestro.user"
#: of the run that holds what is kept about a workspace (`maestro sync --to-experiment`): the workspace's id
TAG_SYNC = "maestro.sync"
#: the folder of that run's artifacts that counts; one that a sync did not finish is named nowhere
TAG_SYNC_FOLDER = "maestro.sync.folder"
#: MLflow's own tag of who ran it; the tracking service sets it from the signed-in user
TAG_MLFLOW_USER = "mlflow.user"

#: MLflow's own tag of a run's description, in Markdown
TAG_NOTE = "mlflow.note.content"

MAX_EXPERIMENT = 250
#: characters of a version's address that a note shows
_SHORT = 12
_ADDRESS = re.compile(r"[0-9a-f]{64}")


def default_experiment(workspace: str) -> str:
    """The experiment of a workspace's runs when the launch names none: the workspace's own name."""
    return workspace


def viewer_experiment(workspace: str) -> str:
    """Where the runs of a viewer's server go, in the viewer's personal workspace: ``from-<workspace>``."""
    return f"from-{workspace}"


def check_experiment(text: object) -> str:
    """An experiment's name as MLflow takes it: 1-250 printable characters, no slash or colon at its ends.

    Raises:
        MaestroError: ``invalid_name``.
    """
    if (
        not isinstance(text, str)
        or not 1 <= len(text) <= MAX_EXPERIMENT
        or not text.isprintable()
        or text != text.strip()
    ):
        raise MaestroError(
            "invalid_name",
            f"{str(text)[:40]!r} cannot name an MLflow experiment; take 1 to {MAX_EXPERIMENT} printable characters.",
            {"field": "mlflow_experiment"},
        )
    return text


def version_page(services: str, workspace: str, address: str) -> str:
    """The page of one saved version.

    Args:
        services: where the Hub's services lie, with slashes at both ends (``/services/``).
    """
    return f"{services}workspaces/w/{quote(workspace, safe='')}/versions/{address}"


def version_note(tags: Mapping[str, str], services: str, workspace: str) -> str | None:
    """The description of a run or a model version: the notebook, with a link to the version that ran; in Markdown.

    Args:
        tags: of the run. services: as for :func:`version_page`.

    Returns:
        None where the tags name no version.
    """
    address, notebook = tags.get(TAG_SNAPSHOT, ""), tags.get(TAG_NOTEBOOK, "")
    if not _ADDRESS.fullmatch(address) or not notebook:
        return None
    shown = re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~&])", r"\\\1", " ".join(notebook[:200].split()))
    more = ", and code that was not saved" if tags.get(TAG_DIRTY) == "true" else ""
    page = version_page(services, workspace, address)
    return f"Notebook {shown}, [version {address[:_SHORT]}]({page}){more}"
