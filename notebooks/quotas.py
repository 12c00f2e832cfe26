"""Quotas, for admins: see every figure, set one at runtime, take it back."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from .api import Api, segment


class QuotaManager:
    """Looks after quotas through the service; every method needs a token with ``custom:maestro:admin``.

    A figure is set for a ``level``: ``everyone``, ``group``, ``user`` and ``workspace``, or for a pool, which counts
    all its people together: ``pool`` (everyone) and ``group-pool``.

    Args:
        url: the Hub's address; None: environment or ``maestro login``.
        token: a Hub token; None: likewise.

    Raises:
        MaestroError: ``not_signed_in`` when there is no token to be found; ``forbidden`` without the scope.
    """

    def __init__(self, url: str | None = None, token: str | None = None, api: Api | None = None) -> None:
        self._api = api or Api(url, token)

    def quotas(self) -> list[dict[str, Any]]:
        """Every figure that is set, in ``maestro.yaml`` and at runtime, with who set it."""
        return list(self._api.get("/quotas")["quotas"])

    def near(self) -> list[dict[str, Any]]:
        """Who has 80 % of a limit in use or more, the nearest first."""
        return list(self._api.get("/quotas/near")["near"])

    def set(self, limit: str, value: str | float, level: str = "everyone", name: str = "") -> dict[str, Any]:
        """Set a figure at runtime.

        Args:
            limit: as ``maestro.yaml`` calls it: ``max_gpu_total``.
            value: as ``maestro.yaml`` writes it: 8, "64Gi".
            level, name: for whom.

        Raises:
            MaestroError: ``invalid_request``, ``invalid_resources``, ``unknown_user``, ``unknown_group`` or
                ``unknown_workspace``.
        """
        return dict(self._api.put(f"/quotas/{segment(limit)}", {"level": level, "name": name, "value": value}))

    def remove(self, limit: str, level: str = "everyone", name: str = "") -> None:
        """Take back what was set at runtime; ``maestro.yaml`` counts again.

        Raises:
            MaestroError: ``unknown_quota``.
        """
        self._api.delete(f"/quotas/{segment(limit)}?{urlencode({'level': level, 'name': name})}")
