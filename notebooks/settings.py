"""Where the client finds the Hub and its token: argument > environment > the server's own > ``client.yaml``."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from maestro_core.errors import MaestroError
from maestro_core.names import PERSONAL

#: below the Hub's public address, so that a Hub with a base URL needs no route of its own
API_PATH = "services/workspaces/api/v1/jupyter"
MLFLOW_PATH = "services/mlflow"


@dataclass(frozen=True)
class ClientSettings:
    """What a client needs to know.

    Attributes:
        url: the Hub's public address (``https://hub.example.org``), or empty inside a notebook server.
        api_url: the base of the REST API.
        token: a Hub token. Secret.
        source: where the token came from, for messages.
        workspace: what is meant when none is named: inside a notebook server its own, else the personal one.
        mlflow_url: MLflow's address, as this program reaches it.
        server: the notebook server that this runs in, as its programs reach it; empty outside.
    """

    url: str
    api_url: str
    token: str = field(repr=False)
    source: str
    workspace: str = PERSONAL
    server: str = ""
    mlflow_url: str = ""


def config_path(environment: Mapping[str, str] = os.environ) -> Path:
    """``$XDG_CONFIG_HOME/maestro/client.yaml``, by default below ``~/.config``."""
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "maestro" / "client.yaml"


def check_url(url: str) -> str:
    """The Hub's address without a slash at the end.

    Raises:
        MaestroError: ``invalid_request``.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise MaestroError(
            "invalid_request", f"{url[:80]!r} is not the address of a Hub; write it like https://hub.example.org."
        )
    path = parts.path.rstrip("/").removesuffix("/hub")
    return f"{parts.scheme}://{parts.netloc}{path}"


def find_settings(
    url: str | None = None, token: str | None = None, environment: Mapping[str, str] = os.environ
) -> ClientSettings:
    """Resolve address and token; each may come from another place, but a stored token goes to its own address only.

    Raises:
        MaestroError: ``not_signed_in`` with what to do, or ``invalid_request`` for a malformed address.
    """
    url = url or environment.get("MAESTRO_URL") or None
    token = token or environment.get("MAESTRO_TOKEN") or None
    if url and token:
        return _public(check_url(url), token, "the arguments or the environment")
    inside = environment.get("MAESTRO_SERVICE_URL"), environment.get("JUPYTERHUB_API_TOKEN")
    if url is None and inside[0] and (token or inside[1]):
        source = "the notebook server's environment"
        own = environment.get("MAESTRO_WORKSPACE") or PERSONAL
        return ClientSettings(
            environment.get("MAESTRO_PUBLIC_URL", ""),
            inside[0],
            token or str(inside[1]),
            source,
            own,
            server=_own_server(environment.get("JUPYTERHUB_SERVICE_URL", "")),
            mlflow_url=environment.get("MAESTRO_TRACKING_URI") or environment.get("MLFLOW_TRACKING_URI", ""),
        )
    stored = read_config(config_path(environment))
    if stored and (url is None or check_url(url) == stored.url):
        return _public(stored.url, token or stored.token, str(config_path(environment)))
    raise MaestroError(
        "not_signed_in",
        f"There is no sign-in{f' for {check_url(url)}' if url else ''}; run 'maestro login URL --token-stdin' "
        "with a token from the Hub's token page, or set MAESTRO_URL and MAESTRO_TOKEN.",
    )


def _own_server(url: str) -> str:
    """A notebook server's address from the one that the Hub told it to listen on."""
    parts = urlsplit(url)
    if not parts.hostname:
        return ""
    everywhere = parts.hostname in ("0.0.0.0", "::")  # noqa: S104 - compared, not listened on
    place = f"127.0.0.1:{parts.port}" if everywhere and parts.port else parts.netloc
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}/"


def _public(url: str, token: str, source: str) -> ClientSettings:
    return ClientSettings(url, f"{url}/{API_PATH}", token, source, mlflow_url=f"{url}/{MLFLOW_PATH}")


def read_config(path: Path) -> ClientSettings | None:
    """What :func:`write_config` stored, or None.

    Raises:
        MaestroError: ``invalid_request`` when the file cannot be used, or others could read the token in it.
    """
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise MaestroError(
                "invalid_request", f"{path} can be read by others; run 'chmod 600 {path}' and try again."
            )
        data = yaml.safe_load(path.read_text())
        return _public(check_url(str(data["url"])), str(data["token"]), str(path))
    except FileNotFoundError:
        return None
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        raise MaestroError(
            "invalid_request", f"{path} cannot be read; remove it and run 'maestro login' again."
        ) from None


def write_config(path: Path, url: str, token: str) -> None:
    """Store address and token, readable by this user only (0600), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            yaml.safe_dump({"url": url, "token": token}, file)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
