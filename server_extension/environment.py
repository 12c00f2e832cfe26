"""The virtual environment of a launch: what ``!pip install X`` in a notebook installs into.

It starts empty and sees the packages of the server's prefix behind its own, so ipykernel, mlflow and the magics are
there, and what a user installs wins over them. No pip is installed into it (ensurepip takes seconds): ``bin/pip`` runs
the prefix's pip with the environment's Python, and pip then installs into the environment.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import site
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

from maestro_core.environment import KERNEL_ENVIRONMENT, check_environment
from maestro_core.errors import MaestroError

from .launch import Launch, StartError

#: program in the environment's bin -> module of the prefix that it runs with the environment's Python
MODULES = {"pip": "pip", "pip3": "pip", "ipython": "IPython"}
#: programs of the prefix that have a link in the environment's bin, because ``python -m uv`` looks for it there
LINKS = ("uv", "uvx")


def make_environment(launch: Launch) -> None:
    """Make the launch's environment anew, in about 50 ms.

    Raises:
        StartError: the folder holds something else, or cannot be written.
    """
    folder = launch.environment
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
            raise StartError(f"{folder} holds something else than an environment; name an empty folder in MAESTRO_ENV.")
        venv.EnvBuilder(clear=True, symlinks=True, with_pip=False, prompt=launch.workspace or None).create(folder)
        _see_packages_of_prefix(folder)
        _add_programs(launch)
    except OSError as error:
        raise StartError(f"The kernels' environment cannot be made in {folder}: {error.strerror or error}.") from error


def kernel_variables(launch: Launch, environ: Mapping[str, str]) -> dict[str, str]:
    """What kernels and terminals have in their environment beyond what the server has.

    Args:
        environ: the server's environment.
    """
    path = [str(launch.environment / "bin"), str(launch.prefix / "bin"), *environ.get("PATH", os.defpath).split(":")]
    return {
        **workspace_variables(environ.get(KERNEL_ENVIRONMENT, "")),
        "PATH": ":".join(dict.fromkeys(entry for entry in path if entry)),
        "VIRTUAL_ENV": str(launch.environment),
        # On the environment's own disk, where files can be linked: in the home's volume they would be copied.
        "UV_CACHE_DIR": str(launch.uv_cache),
        # It would print the address that kernels use; the magics print the browser's.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": environ.get("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
        # MLflow would report to its makers what notebooks use; whoever wants that says so in the image.
        "MLFLOW_DISABLE_TELEMETRY": environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
        # The server itself finds no data there (server_extension.start): its own is the prefix's alone.
        "JUPYTER_DATA_DIR": str(launch.own_data),
        "JUPYTER_PATH": f"{launch.private}:{launch.installed_data}",
        # MLflow looks for running servers there, and would ask them with the token in the URL.
        "JUPYTER_RUNTIME_DIR": str(launch.private / "kernel-runtime"),
        # IPython's profile and history, and caches
        **({"IPYTHONDIR": str(launch.settings / ".ipython")} if launch.home_full else {}),
    }


def workspace_variables(text: str) -> dict[str, str]:
    """The workspace's own variables (``PYTHONPATH``, ``MY_...``), for kernels and terminals alone.

    The service has checked them when they were set; an image of another version may know other names, and what this one
    does not know is left out with a line in the log.

    Args:
        text: a JSON object, as the launch carries it; empty if there are none.
    """
    try:
        given = json.loads(text or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        print(f"maestro-singleuser: {KERNEL_ENVIRONMENT} is no JSON object and was left out.", file=sys.stderr)
        return {}
    variables: dict[str, str] = {}
    for name, value in given.items():
        try:
            variables |= check_environment({name: value})
        except MaestroError as error:
            print(f"maestro-singleuser: left out: {error.message}", file=sys.stderr)
    return variables


def _see_packages_of_prefix(folder: Path) -> None:
    """addsitedir, not a plain path: an editable install in the prefix is itself a .pth file."""
    packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    lines = [f"import site; site.addsitedir({place!r})" for place in site.getsitepackages()]
    (packages / "maestro-prefix.pth").write_text("\n".join(lines) + "\n")


def _add_programs(launch: Launch) -> None:
    programs = launch.environment / "bin"
    for name, module in MODULES.items():
        # -P: a file pip.py or logging.py in the notebook's folder is not what is meant.
        _write_script(programs / name, f'exec {shlex.quote(str(launch.python))} -P -m {module} "$@"')
    for name in LINKS:
        program = launch.prefix / "bin" / name
        if program.is_file():
            (programs / name).symlink_to(program)


def write_terminal(launch: Launch, variables: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Write the program of terminals: the person's shell with the kernels' variables, in the workspace.

    Not a login shell, as Jupyter's own would be: /etc/profile sets PATH anew.
    """
    shell = environ.get("SHELL", "")
    if not shell.endswith("sh") or not os.access(shell, os.X_OK):
        shell = shutil.which("bash") or "/bin/sh"
    # As kernels (server_extension.provisioner): what a terminal starts dies before the server.
    lines = [
        "{ own=$(cat /proc/self/oom_score_adj) && "
        "echo $((own + 500 > 1000 ? 1000 : own + 500)) > /proc/self/oom_score_adj; } 2>/dev/null"
    ]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    lines += [
        # Jupyter gives a folder if one was asked for; the server itself runs in /.
        f'if [ "$PWD" = / ]; then cd {shlex.quote(str(launch.workspace_dir))}; fi',
        f"exec {shlex.quote(shell)}",
    ]
    _write_script(launch.terminal, *lines)


def _write_script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
