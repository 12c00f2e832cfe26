"""The packages of a workspace: its environment, version by version."""

from __future__ import annotations

from collections.abc import Sequence

from maestro_core.conda_environments import CondaBuild, CondaChange
from maestro_core.environments import (
    PYTHON,
    EnvironmentChange,
    EnvironmentDiff,
    EnvironmentHistory,
    EnvironmentSummary,
    EnvironmentView,
    Kind,
    Rollback,
)
from maestro_core.models import read_model

from .api import Api, segment


class EnvironmentManager:
    """Looks after the environments of workspaces through the service.

    Args:
        kind: ``conda``: their conda environments in the place of those of Python's packages.
        url: the Hub's address; None: environment or ``maestro login``.
        token: a Hub token; None: likewise.

    Raises:
        MaestroError: ``not_signed_in`` when there is no token to be found.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, api: Api | None = None, kind: Kind = PYTHON
    ) -> None:
        self._api = api or Api(url, token)
        self._path_of = {"python": "environment", "conda": "conda"}[kind]

    def get(self, workspace_id: str | None = None, version: int | None = None) -> EnvironmentView:
        """One version; the current one, and one's own workspace, where nothing is named.

        Raises:
            MaestroError: ``unknown_workspace``, ``unknown_version``.
        """
        return EnvironmentView.model_validate(self._api.get(self._path(workspace_id), version=version))

    def history(self, workspace_id: str | None = None) -> tuple[EnvironmentSummary, ...]:
        """The versions, the newest first."""
        found = self._api.get(f"{self._path(workspace_id)}/history")
        return EnvironmentHistory.model_validate(found).versions

    def diff(self, workspace_id: str | None, before: int, after: int | None = None) -> EnvironmentDiff:
        """What is different between two versions (0: the empty one; None: the current one).

        Raises:
            MaestroError: ``unknown_version``.
        """
        found = self._api.get(f"{self._path(workspace_id)}/diff", **{"from": before, "to": after})
        return EnvironmentDiff.model_validate(found)

    def install(self, workspace_id: str | None, packages: Sequence[str], reason: str = "") -> EnvironmentView:
        """Add packages (``rich``, ``rich<15``): servers that start from now on have them.

        Raises:
            MaestroError: ``forbidden`` for viewers, ``package_blocked`` with the policy's sentence.
        """
        return self._change(workspace_id, {"add": list(packages), "reason": reason})

    def uninstall(self, workspace_id: str | None, packages: Sequence[str], reason: str = "") -> EnvironmentView:
        """Remove packages that were asked for, with what only they need.

        Raises:
            MaestroError: ``forbidden`` for viewers.
        """
        return self._change(workspace_id, {"remove": list(packages), "reason": reason})

    def rollback(self, workspace_id: str | None, version: int) -> EnvironmentView:
        """Bring the content of an old version back, as a new one.

        Raises:
            MaestroError: ``unknown_version``, ``conflict`` for the current one.
        """
        body = read_model(Rollback, {"version": version}).model_dump()
        return EnvironmentView.model_validate(self._api.post(f"{self._path(workspace_id)}/rollback", body))

    def conda_build(self, workspace_id: str, target: str) -> CondaBuild:
        """What a server of a platform (``linux-64``) solves and installs; of kind ``conda`` alone."""
        return CondaBuild.model_validate(self._api.get(f"{self._path(workspace_id)}/build", target=target))

    def conda_change(self, workspace_id: str, change: CondaChange) -> EnvironmentView:
        """Tell what a server has installed; of kind ``conda`` alone.

        Raises:
            MaestroError: ``forbidden`` for viewers, ``package_blocked``, ``conflict``.
        """
        body = change.model_dump(mode="json", exclude_unset=True)
        return EnvironmentView.model_validate(self._api.post(self._path(workspace_id), body))

    def _change(self, workspace_id: str | None, change: dict[str, object]) -> EnvironmentView:
        body = read_model(EnvironmentChange, change).model_dump(mode="json", exclude_unset=True)
        return EnvironmentView.model_validate(self._api.post(self._path(workspace_id), body))

    def _path(self, workspace_id: str | None) -> str:
        return f"/workspaces/{segment(workspace_id or self._api.settings.workspace)}/{self._path_of}"
