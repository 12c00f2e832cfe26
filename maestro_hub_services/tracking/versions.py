"""Which runs and model versions a saved version of a notebook made: a page of its own beside MLflow's.

Like ``removal.py`` this knows the tables of mlflow 3.17.2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from maestro_core.experiments import TAG_SNAPSHOT

#: below the service's prefix: the whole address of a version follows
PATH = re.compile(r"/maestro/versions/([0-9a-f]{64})")
#: runs that are listed, the newest
MOST = 200


@dataclass(frozen=True)
class Made:
    """A run, or a model version.

    Attributes:
        name: for people. href: in MLflow's pages, below the service's prefix. what: its status, or ``model``.
    """

    name: str
    href: str
    what: str


def made_by(store: Any, workspace: str, address: str) -> list[Made]:
    """What a version made in a workspace: its runs, the newest first, then its models. Blocking: call it in a thread.

    Args:
        store: MLflow's workspace store.
    """
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun, SqlTag

    with store.ManagedSessionMaker(read_only=True) as session:
        query = session.query(SqlRun.run_uuid, SqlRun.name, SqlRun.status, SqlRun.experiment_id)
        query = query.join(SqlTag, SqlTag.run_uuid == SqlRun.run_uuid)
        query = query.join(SqlExperiment, SqlExperiment.experiment_id == SqlRun.experiment_id)
        query = query.filter(
            SqlTag.key == TAG_SNAPSHOT, SqlTag.value == address, SqlExperiment.workspace == workspace,
            SqlRun.lifecycle_stage == "active",
        )  # fmt: skip
        runs = query.order_by(SqlRun.start_time.desc()).limit(MOST).all()
        ids = [run.run_uuid for run in runs]
        versions = session.query(SqlModelVersion.name, SqlModelVersion.version)
        versions = versions.filter(SqlModelVersion.workspace == workspace, SqlModelVersion.run_id.in_(ids))
        versions = versions.filter(SqlModelVersion.current_stage != "Deleted_Internal")
        models = versions.order_by(SqlModelVersion.creation_time.desc()).limit(MOST).all() if ids else []
    of = f"?workspace={quote(workspace, safe='')}"
    return [
        *(Made(run.name or run.run_uuid, f"#/experiments/{run.experiment_id}/runs/{run.run_uuid}{of}", _status(run))
          for run in runs),
        *(Made(f"{one.name}, version {one.version}", f"#/models/{quote(one.name, safe='')}/versions/{one.version}{of}",
               "model") for one in models),
    ]  # fmt: skip


def _status(run: Any) -> str:
    return str(run.status or "").lower()


def sentence(made: Sequence[Made]) -> str:
    """What stands over the list."""
    models = sum(one.what == "model" for one in made)
    runs = len(made) - models
    if not made:
        return "No run of this version is kept."
    counted = [
        f"{count} {word}{'' if count == 1 else 's'}" for count, word in ((runs, "run"), (models, "model")) if count
    ]
    return f"This version made {' and '.join(counted)}{', of which the newest are listed' if runs == MOST else ''}."
