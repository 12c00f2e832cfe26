"""This machine: whether bubblewrap works here, which user servers run as, what an environment is made of.

``python -m maestro_spawner.machine.host`` prints what it finds and exits with 1 where servers cannot be kept apart.
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from maestro_core import sandbox
from maestro_core.errors import MaestroError
from maestro_core.sandbox import SANDBOX_USER, Owner

#: where a root Hub's servers get their sources, each in a mount namespace of its own; an empty folder outside
STAGE = "/run/maestro-stage"
TRY_SECONDS = 20


def owner_of_servers(user: str = SANDBOX_USER) -> Owner | None:
    """Who runs servers: the system user for a root Hub, made if it is missing; None for the Hub's own user.

    Raises:
        MaestroError: ``conflict`` when it is missing and cannot be made, or is root itself.
    """
    try:
        owner = sandbox.sandbox_owner(os.geteuid(), pwd.getpwnam, user)
    except KeyError:
        _make_user(user)
        owner = sandbox.sandbox_owner(os.geteuid(), pwd.getpwnam, user)
    if owner is not None and (owner.uid == 0 or owner.gid == 0):
        raise MaestroError("conflict", f"Servers cannot run as {user!r}, which is root; name another sandbox_user.")
    return owner


def _make_user(user: str) -> None:
    refusal = MaestroError(
        "conflict",
        f"The Hub runs as root and its servers need the system user {user!r}: make it (useradd --system {user}), "
        "or start the Hub as another user than root.",
    )
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    command += ["--shell", "/usr/sbin/nologin", "--", user]
    try:
        done = subprocess.run(command, env=dict(sandbox.HELPER_ENVIRONMENT), capture_output=True, timeout=TRY_SECONDS)
    except (OSError, subprocess.SubprocessError):
        raise refusal from None
    if done.returncode not in (0, 9):  # 9: somebody else made it meanwhile
        raise refusal


@lru_cache(maxsize=8)
def bubblewrap_problem(user: str = SANDBOX_USER) -> str | None:
    """Why servers cannot be kept apart on this machine, or None when they can: one sentence, for terminal and pages.

    It runs ``true`` in a sandbox exactly as a server's is made, once in the life of a process.
    """
    if shutil.which("bwrap", path=sandbox.HELPER_ENVIRONMENT["PATH"]) is None:
        return "bubblewrap is not installed, so servers cannot be kept apart: install the package bubblewrap."
    try:
        owner = owner_of_servers(user)
        command, options = _trial(owner)
    except MaestroError as error:
        return error.message
    except OSError as error:
        return f"{STAGE} cannot be made ({error.strerror}), so servers cannot be kept apart."
    with options_file(options) as descriptor:
        try:
            done = subprocess.run(
                [part if part != "FD" else str(descriptor) for part in command],
                env=dict(sandbox.HELPER_ENVIRONMENT),
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TRY_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return f"bubblewrap does not run here ({type(error).__name__}), so servers cannot be kept apart."
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return (
            f"bubblewrap cannot make a sandbox here ({said[-1][:200] if said else f'exit code {done.returncode}'}), "
            "so servers cannot be kept apart: allow unprivileged user namespaces on this machine."
        )
    return None


def _trial(owner: Owner | None) -> tuple[list[str], bytes]:
    binds = [sandbox.Bind("/usr", "/opt/trial")]
    sources: list[str] = []
    if owner is not None:
        make_stage()
        binds, sources = sandbox.staged(binds, STAGE)
    options = sandbox.encode_options(sandbox.bwrap_options(binds, {}, "/"))
    command = ["bwrap", "--args", "FD", "--", "true"]
    return (command if owner is None else sandbox.dropped(command, owner, STAGE, sources)), options


def make_stage() -> None:
    """The folder below which a root Hub's servers find their sources; nothing ever lies in it outside of them.

    Raises:
        OSError: it cannot be made, or is no folder of root's.
    """
    os.makedirs(STAGE, mode=0o755, exist_ok=True)
    found = os.lstat(STAGE)
    if found.st_uid != 0 or not os.path.isdir(STAGE) or os.path.islink(STAGE):
        raise OSError(1, f"{STAGE} is not a folder of root's")


class options_file:
    """Options for ``bwrap --args``: a file in memory, whose descriptor the command inherits.

    Used as ``with options_file(data) as descriptor``; a pipe would block at 64 KiB.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __enter__(self) -> int:
        self._descriptor = os.memfd_create("maestro-options")
        with os.fdopen(os.dup(self._descriptor), "wb") as file:
            file.write(self._data)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return self._descriptor

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)


@lru_cache(maxsize=8)
def runtime_paths(prefix: str) -> tuple[str, ...]:
    """What a single-user environment needs to run: itself, and the interpreter behind it wherever links lead.

    Args:
        prefix: absolute path of a venv (or of a whole Python).

    Raises:
        MaestroError: ``conflict`` when there is no Python in it.
    """
    python = Path(prefix) / "bin/python"
    if not python.exists():
        raise MaestroError(
            "conflict", f"There is no Python at {python}; run the set-up again, or set singleuser_prefix."
        )
    paths = [prefix, os.path.realpath(prefix)]
    step = python
    for _ in range(20):
        paths.append(str(step.parent.parent))
        if not step.is_symlink():
            break
        step = Path(os.path.normpath(step.parent / os.readlink(step)))
    paths.append(os.path.dirname(os.path.dirname(os.path.realpath(python))))
    return tuple(sandbox.outermost([path for path in paths if path != "/"]))


def gpu_devices() -> list[str]:
    """Device nodes of NVIDIA GPUs; empty where there are none."""
    return sorted(path for path in glob.glob("/dev/nvidia*") if not os.path.isdir(path))


def main() -> int:
    """For people and scripts: one line, exit code 0 where servers can be kept apart."""
    problem = bubblewrap_problem()
    print(problem or "bubblewrap works: servers see their own workspace, home and datasets, and nothing else.")
    return 1 if problem else 0


if __name__ == "__main__":
    raise SystemExit(main())
