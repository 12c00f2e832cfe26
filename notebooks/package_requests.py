"""Packages that the policy holds back: check, ask, review, decide."""

from __future__ import annotations

from typing import Any

from maestro_core.models import read_model
from maestro_core.requests import (
    Approval,
    CacheCleared,
    Forced,
    ForceSpec,
    PackageAnswer,
    PackageAsk,
    RequestList,
    RequestView,
)

from .api import Api, segment


class PackageRequests:
    """Requests for packages through the service. Deciding needs a person's token: a notebook server's asks only.

    Args:
        url: the Hub's address; None: environment or ``maestro login``.
        token: a Hub token; None: likewise.

    Raises:
        MaestroError: ``not_signed_in`` when there is no token to be found.
    """

    def __init__(self, url: str | None = None, token: str | None = None, api: Api | None = None) -> None:
        self._api = api or Api(url, token)

    def check(self, package: str, workspace: str | None = None, version: str | None = None) -> PackageAnswer:
        """What the policy says: ``allowed``, ``held_back`` or ``blocked``. Asks nobody.

        Args:
            package: a name, maybe with versions (``numpy<2``). workspace: None: inside a notebook its own, else the
                personal one.

        Raises:
            MaestroError: ``invalid_request`` for what names no package, ``unknown_workspace``.
        """
        asked = read_model(PackageAsk, {"package": package, "version": version})
        more = {"version": asked.version or None, "channel": asked.channel}
        path = f"/packages/{segment(asked.package)}"
        return PackageAnswer.model_validate(self._api.get(path, workspace=self._place(workspace), **more))

    def ask(
        self, package: str, workspace: str | None = None, version: str | None = None, reason: str = ""
    ) -> PackageAnswer:
        """Ask for a package: ``allowed``, or ``requested`` where a reviewer is asked now.

        Raises:
            MaestroError: ``package_blocked``; ``conflict`` with too many requests pending; as :meth:`check`.
        """
        asked = read_model(PackageAsk, {"package": package, "version": version, "reason": reason, "install": False})
        path = f"/workspaces/{segment(self._place(workspace))}/packages"
        return PackageAnswer.model_validate(self._api.post(path, asked.model_dump()))

    def mine(self) -> list[RequestView]:
        """What I ask, the newest first."""
        return _listed(self._api.get("/requests"))

    def of_workspace(self, workspace: str) -> list[RequestView]:
        """The requests of a workspace, the newest first."""
        return _listed(self._api.get("/requests", workspace=workspace))

    def to_review(self) -> list[RequestView]:
        """The pending ones about which I decide, the oldest first."""
        return _listed(self._api.get("/requests", review="1"))

    def get(self, request_id: str) -> RequestView:
        """One; for a reviewer with what they need to decide.

        Raises:
            MaestroError: ``unknown_request``.
        """
        return RequestView.model_validate(self._api.get(f"/requests/{segment(request_id)}"))

    def withdraw(self, request_id: str) -> None:
        """Ask no longer.

        Raises:
            MaestroError: ``unknown_request``, ``conflict``.
        """
        self._api.delete(f"/requests/{segment(request_id)}")

    def approve(self, request_id: str, **approval: Any) -> RequestView:
        """Allow it, and what it needs that waits for an approval too.

        Args:
            approval: fields of :class:`maestro_core.requests.Approval`; none: its major version, in its workspace.

        Raises:
            MaestroError: ``unknown_request``, ``forbidden``, ``conflict``, ``invalid_request``.
        """
        body = read_model(Approval, {name: value for name, value in approval.items() if value is not None})
        return self._decide(request_id, "approve", body.model_dump(mode="json", exclude_defaults=True))

    def deny(self, request_id: str, reason: str) -> RequestView:
        """Say no, and why.

        Raises:
            MaestroError: as :meth:`approve`.
        """
        return self._decide(request_id, "deny", {"reason": reason})

    def force(self, workspace: str, package: str, version: str, sha256: str, reason: str) -> Forced:
        """Let one file into a workspace for 15 minutes, whatever the rules say (admins); never known malware.

        Raises:
            MaestroError: ``forbidden``, ``unknown_workspace``, ``package_blocked``, ``invalid_request``.
        """
        body = read_model(
            ForceSpec, {"package": package, "version": version, "sha256": sha256.lower(), "reason": reason}
        )
        return Forced.model_validate(
            self._api.post(f"/workspaces/{segment(workspace)}/packages/force", body.model_dump())
        )

    def clear_cache(self, workspace: str) -> CacheCleared:
        """Have the index ask upstream anew what there is.

        Raises:
            MaestroError: ``unknown_workspace``, ``forbidden`` for viewers.
        """
        return CacheCleared.model_validate(self._api.post(f"/workspaces/{segment(workspace)}/packages/clear-cache", {}))

    def _decide(self, request_id: str, what: str, body: dict[str, Any]) -> RequestView:
        return RequestView.model_validate(self._api.post(f"/requests/{segment(request_id)}/{what}", body))

    def _place(self, workspace: str | None) -> str:
        return workspace or self._api.settings.workspace


def _listed(answer: Any) -> list[RequestView]:
    return list(RequestList.model_validate(answer).requests)
