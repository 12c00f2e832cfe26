"""Start, watch and stop notebook servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.names import check_name

from .api import Api, segment
from .models import NotebookSession, ResourceConfig

#: seconds between two looks at a server that is starting
_POLL = 0.5


class NotebookLauncher:
    """Launches notebook servers through the workspaces service.

    Args:
        url: the Hub's address; None: environment or ``maestro login``.
        token: a Hub token; None: likewise.

    Raises:
        MaestroError: ``not_signed_in`` when there is no token to be found.
    """

    def __init__(self, url: str | None = None, token: str | None = None, api: Api | None = None) -> None:
        self._api = api or Api(url, token)

    def launch(
        self,
        user_email: str | None = None,
        workspace: str | None = None,
        resources: ResourceConfig | None = None,
        mlflow_experiment: str | None = None,
        template: str | None = None,
        profile: str | None = None,
        server_name: str | None = None,
        wait: bool = True,
        timeout: float = 300.0,
        progress: Callable[[NotebookSession], None] | None = None,
        image: str | None = None,
    ) -> NotebookSession:
        """Start a server in a workspace.

        Args:
            user_email: whose server; None or oneself, others need ``custom:maestro:admin``.
            workspace: its name; ``personal`` is one's own, and None too, but for a notebook server's own inside one.
            resources: amounts; without a profile they choose one.
            mlflow_experiment: the experiment of its runs; None: the workspace's own.
            template: a notebook template to open.
            profile: a profile's name.
            server_name: another name than the workspace's, for a second server in it.
            wait: until it runs; else the session may still be ``reserved``.
            timeout: seconds to wait.
            progress: called with the session at each look.
            image: the name of an image that the profile allows (Kubernetes).

        Raises:
            MaestroError: the service's refusal with its sentence, ``start_failed`` or ``timeout``.
        """
        body: dict[str, Any] = {"workspace": check_name(workspace or self._api.settings.workspace)}
        optional = {
            "user": user_email,
            "resources": resources.as_resources() if resources else None,
            "mlflow_experiment": mlflow_experiment,
            "template": template,
            "profile": profile,
            "image": image,
            "server_name": server_name,
        }
        body.update({key: value for key, value in optional.items() if value is not None})
        session = self._session(self._api.post("/launches", body))
        return self.wait(session.session_id, timeout, progress) if wait else session

    def wait(
        self, session_id: str, timeout: float = 300.0, progress: Callable[[NotebookSession], None] | None = None
    ) -> NotebookSession:
        """Wait until a session runs.

        Raises:
            MaestroError: ``start_failed`` with the reason when it ended instead; ``timeout`` after ``timeout`` seconds
                (the launch goes on).
        """
        end = time.monotonic() + timeout
        while True:
            session = self.status(session_id)
            if progress is not None:
                progress(session)
            if session.status == "running":
                return session
            if session.status == "ended":
                reason = session.ended_reason or "no reason was noted"
                raise MaestroError("start_failed", f"The server did not start: {reason}.", {"session_id": session_id})
            if time.monotonic() > end:
                raise MaestroError(
                    "timeout",
                    f"The server still starts after {timeout:.0f} s; look again with 'maestro status {session_id}'.",
                    {"session_id": session_id},
                )
            time.sleep(_POLL)

    def status(self, session_id: str) -> NotebookSession:
        """One session.

        Raises:
            MaestroError: ``unknown_launch``.
        """
        return self._session(self._api.get(f"/launches/{segment(session_id)}"))

    def sessions(self, everyone: bool = False) -> list[NotebookSession]:
        """One's own sessions that run or start; ``everyone``'s needs ``custom:maestro:admin``."""
        listed = self._api.get("/launches", all="1" if everyone else None)
        return [self._session(item) for item in listed["launches"]]

    def stop(self, session_id: str, wait: bool = True, timeout: float = 90.0) -> NotebookSession:
        """Stop a session's server.

        Args:
            wait: until it has ended; else it may still be stopping.
            timeout: seconds to wait.

        Raises:
            MaestroError: ``unknown_launch``; ``timeout`` after ``timeout`` seconds (the stop goes on).
        """
        session = self._session(self._api.delete(f"/launches/{segment(session_id)}"))
        end = time.monotonic() + timeout
        while wait and session.status != "ended":
            if time.monotonic() > end:
                message = (
                    f"The server still stops after {timeout:.0f} s; look again with 'maestro status {session_id}'."
                )
                raise MaestroError("timeout", message, {"session_id": session_id})
            time.sleep(_POLL)
            session = self.status(session_id)
        return session

    def keep(self, session_id: str) -> None:
        """Keep an idle server running, as the button in the notebook does.

        Raises:
            MaestroError: ``unknown_launch``.
        """
        self._api.post(f"/launches/{segment(session_id)}/keep", {})

    def scale(
        self,
        session_id: str,
        cpu: float | str | None = None,
        memory: int | str | None = None,
        restart: bool = False,
        wait: bool = True,
        timeout: float = 300.0,
    ) -> NotebookSession:
        """Give a running server other cpu and memory. On Kubernetes kernels go on meanwhile.

        Args:
            cpu: cores (8, 0.5, "500m"); None: as they are.
            memory: "16Gi" or bytes; None: as it is.
            restart: where it cannot be done while the server runs, stop it and start it again with these amounts; the
                session that is returned is then a new one.
            wait: until that one runs.
            timeout: seconds to wait.

        Raises:
            MaestroError: ``restart_needed`` with the reason where only a restart does it; ``quota_exceeded``,
                ``profile_closed``, ``conflict`` when it does not run; ``unknown_launch``.
        """
        body: dict[str, Any] = {"cpu": cpu, "memory": memory, "restart": restart or None}
        named = {key: value for key, value in body.items() if value is not None}
        session = self._session(self._api.post(f"/launches/{segment(session_id)}/scale", named))
        return self.wait(session.session_id, timeout) if wait and session.status == "reserved" else session

    def profiles(self, workspace: str | None = None) -> list[dict[str, Any]]:
        """The profiles that are open to oneself in a workspace, each with ``allowed`` and ``refusal``."""
        return list(self._api.get("/profiles", workspace=workspace or self._api.settings.workspace)["profiles"])

    def templates(self) -> list[dict[str, Any]]:
        """The notebook templates: name, title, description."""
        return list(self._api.get("/templates")["templates"])

    def _session(self, data: Any) -> NotebookSession:
        return NotebookSession.from_api(data, self._api.settings.url)
