"""The notebook server's Hub token as MLflow's sign-in (``ipython_magics.hub_token``)."""

from __future__ import annotations

from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider

from ..address import TRACKING
from ..hub_token import HubToken


class MaestroAuth(RequestAuthProvider):
    """Entry point ``mlflow.request_auth_provider``, chosen by ``MLFLOW_TRACKING_AUTH=maestro``."""

    def get_name(self) -> str:
        """The value of MLFLOW_TRACKING_AUTH."""
        return "maestro"

    def get_auth(self) -> HubToken:
        """What requests calls for every request."""
        return HubToken(TRACKING)
