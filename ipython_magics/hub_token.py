"""The notebook server's Hub token as MLflow's sign-in, for MLflow's own address alone."""

from __future__ import annotations

import os

from requests import PreparedRequest, RequestException, Response
from requests.auth import AuthBase

from .address import Address


class RedirectRefused(RequestException):
    """MLflow's address sent the request elsewhere."""


class HubToken(AuthBase):
    """Adds the Hub token to requests below one address, and lets no redirect carry it on.

    A redirect within the same host would keep the header, and on a Hub the same host holds other users' servers.
    """

    def __init__(self, to: Address | None) -> None:
        self.to = to

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Called by requests before it sends; a request to another address stays as it is."""
        token = os.environ.get("JUPYTERHUB_API_TOKEN")
        if token and self.to is not None and self.to.covers(request.url):
            request.headers["Authorization"] = f"token {token}"
            request.register_hook("response", refuse_redirect)
        return request


def refuse_redirect(response: Response, *_args: object, **_kwargs: object) -> None:
    """Called by requests before it would follow a redirect.

    Raises:
        RedirectRefused: the response is one.
    """
    if response.is_redirect:
        raise RedirectRefused(
            "MLflow's address answers with a redirect, which is not followed with your token; "
            "an admin has to correct MLFLOW_TRACKING_URI.",
            response=response,
        )
