"""Saved versions of notebooks: which there are, what changed between two, one of them as a copy."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.experiments import TAG_SNAPSHOT
from maestro_core.models import read_model
from maestro_core.snapshots import SHORT, SnapshotContent, SnapshotList, SnapshotView

from .api import Api, segment

#: runs that are looked at for the versions they ran
_RUNS = 1000


class VersionManager:
    """The versions of a workspace's notebooks."""

    def __init__(self, url: str | None = None, token: str | None = None, api: Api | None = None) -> None:
        self._api = api or Api(url, token)

    def versions(self, workspace: str | None, notebook: str | None = None, limit: int = 100) -> list[SnapshotView]:
        """The newest first.

        Args:
            notebook: its path below the workspace; None: of all notebooks.

        Raises:
            MaestroError: ``unknown_workspace``.
        """
        answer = self._api.get(f"/workspaces/{self._name(workspace)}/snapshots", path=notebook, limit=limit)
        return list(read_model(SnapshotList, answer, "service_unavailable").snapshots)

    def content(self, workspace: str | None, address: str) -> SnapshotContent:
        """A notebook as it was saved, without outputs; the address may be shortened.

        Raises:
            MaestroError: ``unknown_snapshot``.
        """
        answer = self._api.get(f"/workspaces/{self._name(workspace)}/snapshots/{segment(address)}")
        return read_model(SnapshotContent, answer, "service_unavailable")

    def runs(self, workspace: str | None) -> dict[str, list[str]]:
        """Names of the MLflow runs of each version, by its address; empty where MLflow does not answer."""
        found: dict[str, list[str]] = {}
        for run in self._api.tracked(self._mlflow_name(workspace), f"tags.`{TAG_SNAPSHOT}` != ''", _RUNS):
            if address := _snapshot(run.get("data", {})):
                found.setdefault(address, []).append(run["info"].get("run_name") or run["info"]["run_id"])
        return found

    def models(self, workspace: str | None) -> dict[str, list[str]]:
        """The registered models of each version (``churn/3``), by its address; empty where MLflow does not answer."""
        found: dict[str, list[str]] = {}
        for model in self._api.model_versions(self._mlflow_name(workspace), _RUNS):
            if address := _snapshot(model):
                found.setdefault(address, []).append(f"{model.get('name')}/{model.get('version')}")
        return found

    def address(self, workspace: str | None, named: str) -> str:
        """The version that somebody names: ``run:<id or name>``, ``model:<name>/<version>``, or an address as it is.

        Raises:
            MaestroError: ``unknown_snapshot``: there is no such run or model, or it names no version of a notebook.
        """
        kind, _, name = named.partition(":")
        if kind not in ("run", "model") or not name:
            return named
        found = self._of_run(workspace, name) if kind == "run" else self._of_model(workspace, name)
        if not found:
            raise MaestroError(
                "unknown_snapshot",
                f"{named[:80]} is not in this workspace's MLflow, or names no saved version of a notebook.",
            )
        return found

    def _of_run(self, workspace: str | None, name: str) -> str:
        place = self._mlflow_name(workspace)
        answer = self._api.ask_mlflow("GET", place, "runs/get", run_id=name).get("run")
        if not isinstance(answer, dict):
            quoted = name.replace("'", "\\'")
            answer = next(iter(self._api.tracked(place, f"attributes.run_name = '{quoted}'", 1)), {})
        return _snapshot(answer.get("data", {}))

    def _of_model(self, workspace: str | None, name: str) -> str:
        model, _, version = name.rpartition("/")
        query = {"name": model, "version": version}
        answer = self._api.ask_mlflow("GET", self._mlflow_name(workspace), "model-versions/get", **query)
        return _snapshot(answer.get("model_version") or {})

    def _mlflow_name(self, workspace: str | None) -> str:
        return str(self._api.get(f"/workspaces/{self._name(workspace)}")["name"])

    def _name(self, workspace: str | None) -> str:
        return segment(workspace or self._api.settings.workspace)


def _snapshot(tagged: Mapping[str, Any]) -> str:
    """The version that tags of MLflow's name; empty where they name none."""
    tags = {tag.get("key"): tag.get("value") for tag in tagged.get("tags", [])}
    return str(tags.get(TAG_SNAPSHOT) or "")


def difference(before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str]) -> str:
    """What changed from one notebook to another, as nbdime prints it.

    Raises:
        MaestroError: ``invalid_request`` where nbdime is not installed.
    """
    try:
        import nbformat
        from nbdime import diff_notebooks
        from nbdime.prettyprint import PrettyPrintConfig, pretty_print_notebook_diff
    except ImportError:
        raise MaestroError(
            "invalid_request", "Showing what changed takes nbdime; install it with 'pip install nbdime'."
        ) from None
    read: Any = nbformat.from_dict
    old, new = (read(dict(one)) for one in (before, after))
    out = io.StringIO()
    pretty_print_notebook_diff(*names, old, diff_notebooks(old, new), PrettyPrintConfig(out=out, use_color=False))
    return out.getvalue()


def write_copy(notebook: Mapping[str, Any], path: Path) -> None:
    """Write a notebook to a file that is not there yet.

    Raises:
        MaestroError: ``conflict`` where there is one; ``invalid_request`` where it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(notebook, file, indent=1, ensure_ascii=False)
            file.write("\n")
    except FileExistsError:
        raise MaestroError("conflict", f"{path} is there already; name another file.") from None
    except OSError as error:
        raise MaestroError("invalid_request", f"{path} cannot be written: {error.strerror}.") from None


def copy_name(notebook: str, address: str) -> str:
    """What a restored copy is called: ``plots (0a1b2c3d4e5f).ipynb``, beside the notebook."""
    return f"{notebook.removesuffix('.ipynb')} ({address[:SHORT]}).ipynb"
