"""Configuration of package clients for one launch: pip, uv, the netrc that both take the password from, and conda.

The spawner puts the files where the server cannot write (:data:`~maestro_core.launches.CLIENT_CONFIG_DIR`); the
environment of a launch names them (:func:`client_environment`).
"""

from __future__ import annotations

import ipaddress
import json
from urllib.parse import urlsplit

#: the user name beside the launch's token; the index reads the password alone
INDEX_USER = "launch"

#: how long a client waits for a first byte: the index may have to fetch a file from a slow upstream first
TIMEOUT_SECONDS = 60

# netrc knows hosts and no ports, and `requests` replaces an Authorization header by what it finds there. On one machine
# the Hub and the services are 127.0.0.1 too: their callers would lose their tokens. So the index goes by another name.
_LOOPBACK_NAME = "localhost"


def client_environment(directory: str) -> dict[str, str]:
    """The variables that make pip, uv, conda and mamba read :func:`client_files` from ``directory``, and none prompt.

    uv reads no other configuration file then; pip and conda read ours after their own, so ours wins.
    """
    return {
        "PIP_CONFIG_FILE": f"{directory}/pip.conf",
        "UV_CONFIG_FILE": f"{directory}/uv.toml",
        "NETRC": f"{directory}/netrc",
        "CONDARC": f"{directory}/condarc",
        "PIP_NO_INPUT": "1",
    }


def client_files(index_url: str, token: str) -> dict[str, str]:
    """The files of one launch by name: ``pip.conf``, ``uv.toml``, ``netrc``, ``condarc``.

    Args:
        index_url: the index as the server reaches it (``http://127.0.0.1:8182/services/packages``; 127.0.0.1 is
            written as localhost).
        token: the launch's index token; it stands in ``netrc``, and in conda's address, where conda looks for it.

    Raises:
        ValueError: if the address is no http(s) address or holds a password, or the token could break the file.
    """
    address = urlsplit(index_url)
    if address.scheme not in ("http", "https") or not address.hostname or "@" in address.netloc:
        raise ValueError("the address of the index must be http:// or https:// with a host and without a password")
    if not _plain(index_url) or not _plain(token):
        raise ValueError("the address of the index and the token are printable ASCII without spaces and quotes")
    if address.hostname == "127.0.0.1":
        address = address._replace(netloc=address.netloc.replace("127.0.0.1", _LOOPBACK_NAME))
    simple = address.geturl().rstrip("/") + "/simple/"
    return {
        "pip.conf": _pip_conf(simple, address.scheme, str(address.hostname), address.netloc),
        "uv.toml": _uv_toml(simple),
        "netrc": f"machine {address.hostname} login {INDEX_USER} password {token}\n",
        "condarc": _condarc(f"{address.geturl().rstrip('/')}/conda/t/{token}"),
    }


def _plain(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable() and not set(text) & set(" \"'\\#%")


def _pip_conf(simple: str, scheme: str, host: str, netloc: str) -> str:
    # The empty keys take back what a pip.conf of the image or machine may say: one index, no way around it.
    lines = [
        "[global]",
        f"index-url = {simple}",
        "extra-index-url =",
        "find-links =",
        "no-index = false",
        "no-input = true",
        "disable-pip-version-check = true",
        f"timeout = {TIMEOUT_SECONDS}",
    ]
    if scheme == "http" and not _is_loopback(host):
        lines.append(f"trusted-host = {netloc}")  # pip takes plain http from this machine only, unless told
    return "\n".join(lines) + "\n"


def _uv_toml(simple: str) -> str:
    # A JSON string of plain ASCII is a TOML string. "always": uv sends the password at once instead of after a refusal.
    lines = [
        "[[index]]",
        'name = "maestro"',
        f"url = {json.dumps(simple)}",
        "default = true",
        'authenticate = "always"',
    ]
    return "\n".join(lines) + "\n"


def _condarc(alias: str) -> str:
    # Any channel that is named goes through the index, which knows the trusted ones; none but conda-forge is set up,
    # since what conda calls "defaults" needs a licence in many organisations. "#!final" holds against conda's
    # variables. A question of conda's would find nobody to answer it in a notebook's cell, so it is not asked.
    lines = [
        f"channel_alias: {json.dumps(alias)} #!final",
        "channels:",
        "  - conda-forge",
        "default_channels: [] #!final",
        "always_yes: true",
        f"remote_read_timeout_secs: {TIMEOUT_SECONDS}.0",
    ]
    return "\n".join(lines) + "\n"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
