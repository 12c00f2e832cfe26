"""Links that the user's browser can follow."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote


def public(path: str, environ: Mapping[str, str] = os.environ) -> str:
    """A page of the Hub or of its services, as the user's browser reaches it."""
    # With a domain for each user, the Hub is on another host than the notebook: the Hub says so in JUPYTERHUB_HOST.
    prefix = environ.get("MAESTRO_PUBLIC_PREFIX") or "/"
    host = "" if "://" in prefix else environ.get("JUPYTERHUB_HOST", "").rstrip("/")
    return f"{host}{prefix.rstrip('/')}/{path}"


def run_url(experiment_id: str, run_id: str, environ: Mapping[str, str] = os.environ) -> str:
    """Where MLflow's pages show a run, through the Hub (the address that the kernel uses may be no browser's).

    The form is MLflow's own, workspace and all (``TrackingServiceClient._log_url`` of mlflow 3.17).
    """
    place = public("services/mlflow/", environ)
    url = f"{place}#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}"
    workspace = environ.get("MLFLOW_WORKSPACE", "")
    return f"{url}?workspace={quote(workspace, safe='')}" if workspace and workspace != "default" else url


@dataclass(frozen=True)
class RunLine:
    """One line under a cell: what became of a run, and where to see it.

    Attributes:
        name: the run's name.
        what: what became of it, after the name (``started``).
        url: where MLflow shows it; empty if that is not known.
    """

    name: str
    what: str
    url: str

    def __repr__(self) -> str:
        return f"Run {self.name} {self.what}" + (f": {self.url}" if self.url else "")

    def _repr_html_(self) -> str:
        """Shown by JupyterLab; names are anybody's text."""
        line = f"Run <b>{html.escape(self.name)}</b> {html.escape(self.what)}"
        if not self.url:
            return line
        link = f'<a href="{html.escape(self.url)}" target="_blank" rel="noopener">see it in MLflow</a>'
        return f"{line}: {link}"
