"""Hand an organisation's pip settings to uv, which reads none of pip's files.

Everything goes by environment variables: a password in an index address then shows in no process list, and no
address gets into a file of the project. Whoever has configured uv itself is left alone.
"""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

UV_CONFIGURED = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_CONFIG_FILE")
# pip's sections and its environment, the stronger later (pip: "Configuration", precedence).
PRECEDENCE = ("global", "user", "site", "install", ":env:")


def pip_settings(pip: list[str]) -> dict[str, str]:
    """pip's effective settings by name, as ``pip config list`` tells them.

    Args:
        pip: The command that runs pip.
    """
    listing = subprocess.run(
        [*pip, "config", "list"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    found: dict[tuple[int, str], str] = {}
    for line in listing.stdout.splitlines():
        key, separator, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if separator and section in PRECEDENCE:
            found[PRECEDENCE.index(section), name] = ast.literal_eval(value)
    return {name: value for (_, name), value in sorted(found.items())}


def uv_environment(settings: Mapping[str, str], base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for uv that means what ``settings`` means for pip.

    pip takes the best version of all its indexes, uv by default the first index that knows a name. With locked
    hashes the file is the same wherever it comes from, so uv may look everywhere here too.
    """
    env = dict(base) | {"UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}
    if "cert" in settings and "SSL_CERT_FILE" not in base:
        env["SSL_CERT_FILE"] = settings["cert"]
        env.setdefault("NODE_EXTRA_CA_CERTS", settings["cert"])
    if uv_is_configured(base):
        return env
    if "index-url" in settings:
        env["UV_DEFAULT_INDEX"] = settings["index-url"]
    if "extra-index-url" in settings:
        env["UV_INDEX"] = " ".join(settings["extra-index-url"].split())
        env["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    links = [place for place in settings.get("find-links", "").split() if "://" in place or Path(place).exists()]
    if links:
        env["UV_FIND_LINKS"] = ",".join(links)
    if "trusted-host" in settings:
        env["UV_INSECURE_HOST"] = " ".join(settings["trusted-host"].split())
    return env


def uv_flags(settings: Mapping[str, str]) -> list[str]:
    """The options for what has no environment variable: an organisation that installs from folders alone."""
    return ["--no-index"] if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") else []


def public(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` without additional places, for writing lock files: their hashes must be everybody's."""
    extra = ("UV_INDEX", "UV_INDEX_STRATEGY", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS")
    return {name: value for name, value in env.items() if name not in extra}


def uv_is_configured(env: Mapping[str, str]) -> bool:
    """Whether somebody told uv itself where to look (uv: "Configuration files")."""
    config = Path(env.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = (config / "uv/uv.toml", Path("/etc/xdg/uv/uv.toml"), Path("/etc/uv/uv.toml"))
    return any(name in env for name in UV_CONFIGURED) or any(file.is_file() for file in files)
