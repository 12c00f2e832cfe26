"""Security scans: asked of one's own notebook server of a workspace, which runs them."""

from __future__ import annotations

from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_core.scans import ScanReport

from .api import Api, segment
from .launcher import NotebookLauncher

#: seconds; a scan reads every notebook
_TIMEOUT = 600.0


class Scanner:
    """Scans through the API: one's own token has to be allowed to enter one's servers."""

    def __init__(self, url: str | None = None, token: str | None = None, api: Api | None = None) -> None:
        self._api = api or Api(url, token)

    def scan(self, workspace: str | None = None, sbom: bool = False) -> tuple[ScanReport, str]:
        """Scan a workspace (None: the personal one, inside a notebook its own).

        Returns:
            what was found, and with ``sbom`` the packages as CycloneDX JSON, with what is known against them.

        Raises:
            MaestroError: ``conflict`` when no server of one's own runs there; as the API.
        """
        query = {"sbom": "1"} if sbom else {}
        url, token = self._server(workspace)
        answer = self._api.at_server(url, "maestro/scan", token, timeout=_TIMEOUT, **query)
        found = answer if isinstance(answer, dict) else {}
        return read_model(ScanReport, found.get("report"), "service_unavailable"), str(found.get("sbom", ""))

    def _server(self, workspace: str | None) -> tuple[str, str]:
        """The address of one's server, and a token that is good for it alone."""
        settings = self._api.settings
        name = workspace or settings.workspace
        if settings.server and name == settings.workspace:
            return settings.server, settings.token
        name = self._api.get(f"/workspaces/{segment(name)}")["name"]
        running = [one for one in NotebookLauncher(api=self._api).sessions() if one.workspace == name]
        servers = [one for one in running if one.status == "running" and one.notebook_url]
        if not servers:
            raise MaestroError(
                "conflict",
                f"No server of yours runs in {name}, and a scan runs inside one; "
                f"start it with 'maestro launch -w {name}', then scan again.",
            )
        found = servers[0]
        url = found.notebook_url.partition("/lab")[0] + "/"
        return url, self._api.server_token(found.user, found.server_name)
