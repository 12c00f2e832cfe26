"""A token that loads models: what is registered in one workspace, and nothing else.

Who holds it runs outside the Hub, in production; so it reads what the registry says of a model, the model itself and
its files. The rows that it may call are marked in the table (``loads``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .answers import Refused
from .routes import Match

_SCHEME = "mlflow-artifacts:/"
_MODEL = re.compile(r"(?:models:/|\d+/models/)(m-[0-9a-f]+)(?:/artifacts)?/?")


@dataclass(frozen=True)
class Registered:
    """What the registry of a workspace names.

    Attributes:
        models: ids of logged models. places: where files of models lie, below the workspace's artifacts.
    """

    models: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()

    @classmethod
    def of(cls, workspace: str, locations: Iterable[str]) -> Registered:
        """From where the versions of a workspace's models say that they lie."""
        models, places = set(), set()
        for location in locations:
            place = _below(location.removeprefix(_SCHEME), workspace)
            if found := _MODEL.fullmatch(place):
                models.add(found[1])
            if location.startswith(_SCHEME) and _plain(place):
                places.add(place.rstrip("/"))
        return cls(frozenset(models), frozenset(places))


def check_loading(match: Match, workspace: str, paths: Sequence[str], registered: Registered) -> None:
    """Let through what belongs to a registered model.

    Args:
        match: a row that is marked ``loads``.
        paths: every ``path`` of the query.

    Raises:
        Refused: 403 for what is in the workspace, perhaps, but of no registered model.
    """
    if "mlflow-artifacts" in match.rule:
        asked = [match.values["artifact_path"]] if "artifact_path" in match.values else list(paths)
        if len(asked) != 1 or not _is_below(_below(asked[0], workspace), registered.places):
            raise _refused(workspace)
    elif "model_id" in match.values and match.values["model_id"] not in registered.models:
        raise _refused(workspace)


def locations(store: Any, workspace: str) -> list[str]:
    """Where the versions of a workspace's registered models lie. Blocking: call it in a thread.

    Args:
        store: MLflow's workspace store (mlflow 3.17.2).
    """
    from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion as Version

    with store.ManagedSessionMaker(read_only=True) as session:
        query = session.query(Version.source, Version.storage_location).filter(Version.workspace == workspace)
        rows = query.filter(Version.current_stage != STAGE_DELETED_INTERNAL).distinct().all()
    return [location for row in rows for location in row if location]


def _refused(workspace: str) -> Refused:
    return Refused(
        403, f"This token loads registered models of {workspace!r} alone; register what you need, or use another token."
    )


def _below(path: str, workspace: str) -> str:
    return path.strip("/").removeprefix(f"workspaces/{workspace}/")


def _is_below(path: str, places: frozenset[str]) -> bool:
    return _plain(path) and any(path == place or path.startswith(f"{place}/") for place in places)


def _plain(path: str) -> bool:
    """No way up, and nothing that MLflow would decode once more."""
    return not set(path) & set("%\\?#") and not {"", ".", ".."} & set(path.split("/"))
