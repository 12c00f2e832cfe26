"""Sweeps: start a grid or a search, look at its trials, cancel it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.sweeps import SweepList, SweepSpec, SweepView

from .api import Api, segment
from .jobs import here, with_content
from .yaml_files import read_keys


class SweepManager:
    """The sweeps of workspaces.

    Args:
        url: the Hub's address; None: environment or ``maestro login``.
        token: a Hub token; None: likewise.

    Raises:
        MaestroError: ``not_signed_in`` when there is no token to be found.
    """

    def __init__(self, url: str | None = None, token: str | None = None, api: Api | None = None) -> None:
        self._api = api or Api(url, token)

    def start(self, workspace: str | None = None, *, base: Path | None = None, **spec: Any) -> SweepView:
        """Start a sweep; the file that it runs is sent along where it is here.

        Args:
            workspace: its name; None: the personal one, inside a notebook its own.
            base: the folder in which ``notebook`` or ``script`` is looked for first; None: the present one.
            spec: of :class:`maestro_core.sweeps.SweepSpec`: notebook or script, grid or search, metric, goal, ...

        Raises:
            MaestroError: ``invalid_request`` and others, about what is wrong in the spec; as the service refuses it.
        """
        name = workspace or self._api.settings.workspace
        given = {key: value for key, value in spec.items() if value is not None}
        body = with_content(given, base, here(self._api.settings, name))
        read_model(SweepSpec, body)  # the service says the same, and later
        return self._read(self._api.post(f"/workspaces/{segment(name)}/sweeps", body))

    def sweeps(self, workspace: str | None = None, *, everyone: bool = False, limit: int = 50) -> list[SweepView]:
        """The sweeps of a workspace, else one's own (for admins everybody's), the newest first; without their trials.

        Raises:
            MaestroError: ``unknown_workspace``, ``forbidden``.
        """
        answer = self._api.get("/sweeps", workspace=workspace, all=1 if everyone else None, limit=limit)
        return list(read_model(SweepList, answer, "service_unavailable").sweeps)

    def sweep(self, sweep_id: str) -> SweepView:
        """One sweep with its trials.

        Raises:
            MaestroError: ``unknown_sweep``.
        """
        return self._read(self._api.get(f"/sweeps/{segment(sweep_id)}"))

    def cancel(self, sweep_id: str) -> SweepView:
        """End a sweep, and its trials that wait or run.

        Raises:
            MaestroError: ``unknown_sweep``, ``forbidden``.
        """
        return self._read(self._api.post(f"/sweeps/{segment(sweep_id)}/cancel", {}))

    def _read(self, answer: Any) -> SweepView:
        return read_model(SweepView, answer, "service_unavailable")


def is_sweep(identity: str) -> bool:
    """Whether an id is a sweep's."""
    return identity.startswith("w-")


def read_sweep_file(path: str | Path) -> dict[str, Any]:
    """A sweep's YAML (``sweep.yaml``): the keys of a :class:`SweepSpec`, and ``workspace``.

    Raises:
        MaestroError: ``invalid_request`` for a file that cannot be read; what is wrong in it, by its name.
    """
    spec = read_keys(path)
    try:
        read_model(SweepSpec, {key: value for key, value in spec.items() if key != "workspace"})
    except MaestroError as error:
        raise MaestroError(error.code, f"{path}: {error.message}", error.details) from None
    return spec
