"""The pip section of a conda environment: installed with uv into the environment, from the server's own index."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from maestro_core.client_words import reason_in
from maestro_core.errors import MaestroError
from maestro_core.packages import normal_name

from .conda_place import Place

_SECONDS = 600


def install_requirements(place: Place, requirements: Sequence[str], pins: Mapping[str, str]) -> dict[str, str]:
    """Install them.

    Args:
        requirements: as pip writes them. pins: versions by name that are taken.

    Returns:
        name -> version of all of Python's packages in the environment.

    Raises:
        MaestroError: ``conflict`` without a Python in the environment, or where uv finds no solution;
            ``package_blocked`` with the policy's sentence.
    """
    python = place.folder / "bin" / "python"
    if not python.exists():
        raise MaestroError(
            "conflict", "The packages of the pip section need a Python in the environment; name 'python' too."
        )
    with tempfile.TemporaryDirectory(prefix="maestro-") as folder:
        asked, fixed = Path(folder) / "requirements.txt", Path(folder) / "constraints.txt"
        asked.write_text("\n".join([*requirements, ""]))
        fixed.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        try:
            _uv(python, "install", "--quiet", "-r", str(asked), "-c", str(fixed))
        except MaestroError:
            if not pins:
                raise
            _uv(python, "install", "--quiet", "-r", str(asked))
    listed = json.loads(_uv(python, "list", "--format", "json"))
    return {normal_name(it["name"]): str(it["version"]) for it in listed}


def _uv(python: Path, command: str, *arguments: str) -> str:
    program = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    line = [program, "pip", command, *arguments, "--python", str(python)]
    environ = {**os.environ, "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    try:
        done = subprocess.run(
            line, env=environ, cwd=os.sep, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise MaestroError("timeout", "The pip section was not installed within 10 minutes; try again.") from None
    except OSError as error:
        raise MaestroError(
            "conflict", f"uv, which installs the pip section, cannot be started: {error.strerror}."
        ) from None
    if done.returncode:
        blocked = "Server message" in done.stderr
        raise MaestroError("package_blocked" if blocked else "conflict", f"{reason_in(done.stderr)}.")
    return done.stdout
