"""The kernel of a launch, as Jupyter finds it: ``python3``, in the launch's environment, with Maestro's magics."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .launch import Launch

#: the name of Jupyter's own Python kernel: notebooks from anywhere open with it
NAME = "python3"


def write_kernelspec(launch: Launch, variables: Mapping[str, str]) -> Path:
    """Write the kernel into the launch's folder of kernels.

    Args:
        variables: what kernels have in their environment beyond what the server has.

    Returns:
        The kernel's folder.
    """
    folder = launch.kernels / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.json").write_text(json.dumps(kernelspec(launch, variables), indent=2) + "\n")
    for logo in _logos():
        shutil.copyfile(logo, folder / logo.name)
    return folder


def kernelspec(launch: Launch, variables: Mapping[str, str]) -> dict[str, Any]:
    """The content of ``kernel.json`` (jupyter_client: "Kernel specs")."""
    return {
        "argv": [
            str(launch.python),
            # as ipykernel's own kernel has it: the debugger cannot step into frozen modules
            *("-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"),
            # extra_extensions: a user's own `extensions` in ipython_config.py adds to it and does not replace it
            "--IPKernelApp.extra_extensions=ipython_magics",
        ],
        "display_name": f"Python 3 ({launch.workspace})" if launch.workspace else "Python 3",
        "language": "python",
        # jupyter_client puts variables of the server in the place of $NAME and ${NAME}; $$ is a $.
        "env": {name: value.replace("$", "$$") for name, value in variables.items()},
        "metadata": {"debugger": True, "supported_encryption": ["curve"]},
        "kernel_protocol_version": "5.5",
    }


def _logos() -> list[Path]:
    """ipykernel's pictures, found without importing it."""
    found = importlib.util.find_spec("ipykernel")
    places = found.submodule_search_locations if found else None
    return sorted(Path(places[0]).glob("resources/logo-*")) if places else []
