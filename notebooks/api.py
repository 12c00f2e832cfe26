"""One HTTP client of the workspaces service: errors become :class:`MaestroError`, nothing else leaks out."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx

from maestro_core.errors import MaestroError

from .settings import ClientSettings, find_settings

#: seconds; starting a server is answered when the Hub has accepted or refused it
TIMEOUT = httpx.Timeout(90.0, connect=10.0)
_SAFE_TO_REPEAT = ("GET",)


class Api:
    """Calls the REST API of the workspaces service.

    Args:
        url: the Hub's public address; None: see :func:`notebooks.settings.find_settings`.
        token: a Hub token; None: likewise.
        transport: for tests; None: the network.

    Raises:
        MaestroError: ``not_signed_in`` when there is no token to be found.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.settings: ClientSettings = find_settings(url, token)
        self._client = httpx.Client(
            headers={"Authorization": f"token {self.settings.token}", "Accept": "application/json"},
            timeout=TIMEOUT,
            follow_redirects=False,  # the token goes to the configured address only
            transport=transport,
        )

    def get(self, path: str, /, **query: Any) -> Any:
        """GET ``path`` below the API; the JSON of the answer."""
        return self._call("GET", path, params={key: value for key, value in query.items() if value is not None})

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST a JSON body."""
        return self._call("POST", path, json=body)

    def put(self, path: str, body: dict[str, Any]) -> Any:
        """PUT a JSON body."""
        return self._call("PUT", path, json=body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """PATCH with a JSON body."""
        return self._call("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        """DELETE."""
        return self._call("DELETE", path)

    def tracked(self, workspace: str, wanted: str, limit: int) -> list[dict[str, Any]]:
        """The runs of a workspace in MLflow, the newest first; none where MLflow does not answer.

        Args:
            wanted: a filter of MLflow's own.
        """
        ids = [one["experiment_id"] for one in self.experiments(workspace)]
        query = {"experiment_ids": ids, "filter": wanted, "max_results": limit}
        return self._mlflow(workspace, "runs", query) if ids else []

    def experiments(self, workspace: str) -> list[dict[str, Any]]:
        """The experiments of a workspace in MLflow (``experiment_id``, ``name``); none where it does not answer."""
        found = self._mlflow(workspace, "experiments", {"max_results": 1000})
        return [one for one in found if one.keys() >= {"experiment_id"}]

    def model_versions(self, workspace: str, limit: int) -> list[dict[str, Any]]:
        """The registered model versions of a workspace, with their tags; none where MLflow does not answer."""
        found = self.ask_mlflow("GET", workspace, "model-versions/search", max_results=limit).get("model_versions", [])
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    def _mlflow(self, workspace: str, what: str, query: dict[str, Any]) -> list[dict[str, Any]]:
        """The first page of one of MLflow's searches."""
        found = self.ask_mlflow("POST", workspace, f"{what}/search", **query).get(what, [])
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    def ask_mlflow(self, method: str, workspace: str, path: str, **query: Any) -> dict[str, Any]:
        """An answer of MLflow's REST API; empty where it does not answer, or refuses.

        Args:
            path: below ``api/2.0/mlflow/``. query: of a GET, or the body.
        """
        if not self.settings.mlflow_url:
            return {}
        url, headers = f"{self.settings.mlflow_url}/api/2.0/mlflow/{path}", {"X-MLFLOW-WORKSPACE": workspace}
        sent = {"params": query} if method == "GET" else {"json": query}
        try:
            answer = self._client.request(method, url, headers=headers, **sent)  # type: ignore[arg-type]
            found = answer.json() if answer.is_success else {}
        except (httpx.HTTPError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def server_token(self, user: str, server_name: str) -> str:
        """A token for one notebook server alone, for five minutes.

        What runs in a server may be somebody else's code, and sees the token of every request: one's own goes to none.

        Raises:
            MaestroError: ``forbidden`` where one's token may make no others; ``service_unavailable``.
        """
        server = f"{user}/{server_name}"
        body = {"expires_in": 300, "note": f"maestro: {server}", "scopes": [f"access:servers!server={server}"]}
        url = f"{self.settings.url}/hub/api/users/{segment(user)}/tokens"
        try:
            answer = self._client.post(url, json=body)
            token = answer.json()["token"] if answer.is_success else None
        except httpx.HTTPError:
            raise self._unreachable() from None
        except (ValueError, KeyError, TypeError):
            token = None
        if not isinstance(token, str):
            raise MaestroError(
                "forbidden",
                "Your token may make no other for your server alone, so nothing is sent there; run this command inside "
                "the notebook ('!maestro ...'), or take a token that has all your permissions.",
            )
        return token

    def at_server(self, url: str, path: str, token: str, *, timeout: float, **query: Any) -> Any:
        """POST to a notebook server of one's own, below the Hub's address.

        Args:
            url: the server's address, as the service gives it. path: below it. timeout: seconds to wait.
            token: of :meth:`server_token`, or the server's own inside it.

        Raises:
            MaestroError: ``forbidden`` for an address that is not the configured Hub's, or a token that may not go in;
                ``service_unavailable``, ``timeout``.
        """
        address = httpx.URL(url)
        known = [httpx.URL(one) for one in (self.settings.url, self.settings.server) if one]
        if (address.scheme, address.netloc) not in [(one.scheme, one.netloc) for one in known]:
            raise MaestroError("forbidden", f"{url} is not at your Hub's address, so your token is not sent there.")
        try:
            answer = self._client.post(
                address.join(path), params=query, timeout=httpx.Timeout(timeout, connect=10),
                headers={"Authorization": f"token {token}"},
            )  # fmt: skip
        except httpx.TimeoutException:
            raise MaestroError("timeout", f"The notebook server did not answer within {timeout:.0f} s.") from None
        except httpx.HTTPError:
            raise self._unreachable() from None
        if answer.status_code in (401, 403) or answer.is_redirect:
            raise MaestroError(
                "forbidden", "Your notebook server does not let this token in; start the server again, then try again."
            )
        try:
            if answer.is_success:
                return answer.json()
            message = answer.json()["message"]
        except (ValueError, KeyError, TypeError):
            message = f"The notebook server answered {answer.status_code}; is it of an older image?"
        raise MaestroError("service_unavailable", str(message)[:500])

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _call(self, method: str, path: str, **options: Any) -> Any:
        for attempt in (1, 2):
            try:
                answer = self._client.request(method, f"{self.settings.api_url}{path}", **options)
                break
            except httpx.TimeoutException:
                raise MaestroError(
                    "timeout",
                    f"{self.settings.api_url} did not answer in time; look with 'maestro status', then try again.",
                ) from None
            except httpx.HTTPError:
                if attempt == 2 or method not in _SAFE_TO_REPEAT:
                    raise self._unreachable() from None
        return self._read(answer)

    def _unreachable(self) -> MaestroError:
        return MaestroError(
            "service_unavailable",
            f"Nothing answers at {self.settings.api_url}; check the address, and that the Hub is running.",
        )

    def _read(self, answer: httpx.Response) -> Any:
        try:
            body = answer.json() if answer.content else None
        except ValueError:
            body = None
        if answer.is_success and (body is not None or not answer.content):
            return body
        if answer.status_code in (502, 503, 504) and not isinstance(body, dict):
            raise MaestroError(
                "service_unavailable", "The workspaces service is not running (yet); try again in a moment."
            )
        if answer.is_redirect or answer.is_success or (answer.status_code == 404 and not isinstance(body, dict)):
            raise MaestroError(
                "service_unavailable",
                f"{self.settings.api_url} is not the API of a Maestro; check the address of the Hub.",
            )
        raise MaestroError.from_json(body)


def segment(text: str) -> str:
    """One path segment: any name, quoted; an e-mail address stays readable."""
    return quote(text, safe="@")
