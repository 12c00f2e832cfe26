"""Where the conda environment of a notebook server lies, and the kernel that uses it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from maestro_core.errors import MaestroError


@dataclass(frozen=True)
class Place:
    """Where the environment of one server lies.

    Attributes:
        folder: the environment. cache: of packages. kernels: where Jupyter finds kernels.
        files: the workspace's folder.
        writable: whether the workspace may be changed (a viewer's may not).
        alias: where channels lie; holds the server's index token. channels: those that are looked in.
    """

    workspace: str
    folder: Path
    cache: Path
    kernels: Path
    files: Path
    writable: bool
    alias: str = field(repr=False)
    channels: tuple[str, ...]


def place_of(environ: Mapping[str, str], workspace: str) -> Place:
    """The place in the server that this runs in.

    Raises:
        MaestroError: ``invalid_request`` outside of a server of that workspace; ``upstream_unavailable`` where it has
            no index.
    """
    here = environ.get("MAESTRO_WORKSPACE", "")
    names = {here, environ.get("MAESTRO_WORKSPACE_ID"), "personal" if here.startswith("u-") else here}
    if not environ.get("MAESTRO_LAUNCH_ID") or workspace not in names:
        raise MaestroError(
            "invalid_request",
            f"A conda environment is made inside a notebook server of {workspace}: run this in a notebook or terminal "
            "there.",
        )
    told = _read_condarc(Path(environ.get("CONDARC", "")))
    if not told.get("channel_alias"):
        raise MaestroError(
            "upstream_unavailable", "This server has no package index with conda channels; ask an admin."
        )
    base = Path(environ["MAESTRO_ENV"])
    return Place(
        workspace=here,
        folder=base / "conda",
        cache=base / "var" / "conda",
        kernels=base / "var" / "jupyter" / "kernels",
        files=Path(environ["MAESTRO_WORKSPACE_DIR"]),
        writable=environ.get("MAESTRO_ROLE") != "viewer",
        alias=str(told["channel_alias"]).rstrip("/"),
        channels=tuple(str(name) for name in told.get("channels") or ()),
    )


def register_kernel(place: Place) -> Path:
    """Write the kernel ``conda``: the environment's own Python, with the variables that this server's kernels have.

    Returns:
        The kernel's folder.
    """
    folder = place.kernels / "conda"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        variables = dict(json.loads((place.kernels / "python3" / "kernel.json").read_text())["env"])
    except (OSError, ValueError, KeyError):
        variables = {}
    variables.pop("VIRTUAL_ENV", None)
    variables |= {"CONDA_PREFIX": str(place.folder), "CONDA_DEFAULT_ENV": "conda"}
    variables["PATH"] = f"{place.folder}/bin:{variables.get('PATH', os.defpath)}"
    spec = {
        "argv": [str(place.folder / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"conda ({place.workspace})",
        "language": "python",
        "env": variables,
        "metadata": {"debugger": True},
    }
    (folder / "kernel.json").write_text(json.dumps(spec, indent=2) + "\n")
    return folder


def _read_condarc(path: Path) -> dict[str, Any]:
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except (ValueError, yaml.YAMLError):
        raise MaestroError("upstream_unavailable", f"{path} cannot be read; start the server again.") from None
    return told if isinstance(told, dict) else {}
