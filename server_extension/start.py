"""Prepare a notebook server and become it: ``maestro-singleuser``, or ``python -P -m server_extension.start``.

It runs in the sandbox or pod, where the spawner would run ``jupyterhub-singleuser``, and takes the same arguments. The
server itself imports nothing that an editor of the workspace could have written: it runs from the read-only prefix,
with ``-P`` and in ``/``, its configuration comes from the prefix and from /etc, and what it writes lies in the user's
private home or in the launch's own environment. Kernels and terminals run in that environment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from maestro_core.environment import KERNEL_ENVIRONMENT

from .environment import kernel_variables, make_environment, write_terminal
from .kernelspec import write_kernelspec
from .launch import Launch, StartError
from .scan import startup

#: files that people make are the workspace group's, nobody else's
UMASK = 0o007


def main() -> None:
    """Prepare, then replace this process by the server.

    Raises:
        SystemExit: with one sentence, if it cannot start here.
    """
    os.umask(UMASK)
    environ = dict(os.environ)
    try:
        startup.check(environ)
        launch = Launch.from_environ(environ)
        prepare(launch, environ)
    except StartError as error:
        sys.exit(f"maestro-singleuser: {error}")
    environ.pop(KERNEL_ENVIRONMENT, None)  # the kernels' and terminals' alone, who have it by now
    environ |= server_variables(launch, environ)
    command = server_command(launch, sys.argv[1:])
    os.chdir("/")
    os.execve(command[0], command, environ)  # noqa: S606 - it replaces this process, there is no shell


def prepare(launch: Launch, environ: Mapping[str, str]) -> None:
    """Make everything that the server expects to find.

    Raises:
        StartError: something cannot be made.
    """
    make_environment(launch)
    if environ.get("MAESTRO_ENVIRONMENT"):
        from .packages.build import build

        try:
            outcome = build(launch, environ)
            # a wheel may put files anywhere in the environment: none of them is the server's configuration
            shutil.rmtree(launch.private, ignore_errors=True)
            outcome.keep(launch.private)
        except OSError as error:
            raise StartError(f"{error.filename} cannot be written: {error.strerror}.") from error
    variables = kernel_variables(launch, environ)
    try:
        if launch.home_full:
            bring_settings(launch)
        write_kernelspec(launch, variables)
        write_terminal(launch, variables, environ)
        launch.own_data.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, folder in server_variables(launch, environ).items():
            if name in FOLDERS:
                Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        # Or Jupyter would bring configuration of IPython 3 from the home, where kernels write (jupyter_core.migrate).
        (launch.private / "config" / "migrated").touch()
    except OSError as error:
        raise StartError(f"{error.filename} cannot be written: {error.strerror}.") from error


def bring_settings(launch: Launch) -> None:
    """With a full home: JupyterLab looks as it did, from a copy; what is changed now lasts as long as the server.

    Raises:
        OSError: the copy cannot be made.
    """
    launch.settings.mkdir(parents=True, mode=0o700)
    kept = launch.home / ".jupyter/lab"
    if kept.is_dir():
        with contextlib.suppress(shutil.Error):  # a file that cannot be read
            shutil.copytree(kept, launch.settings / ".jupyter/lab", symlinks=True)


#: variables of the server that name folders of its own, and where they are
FOLDERS = {
    # Written by the server's own JupyterLab, private to user and workspace, kept from launch to launch.
    "XDG_CONFIG_HOME": "{home}/.config",
    "XDG_CACHE_HOME": "{home}/.cache",
    "XDG_DATA_HOME": "{home}/.local/share",
    "XDG_STATE_HOME": "{home}/.local/state",
    "JUPYTERLAB_SETTINGS_DIR": "{home}/.jupyter/lab/user-settings",
    "JUPYTERLAB_WORKSPACES_DIR": "{home}/.jupyter/lab/workspaces",
    # Empty at each start: code that ran in an earlier kernel leaves no configuration for this server.
    "JUPYTER_CONFIG_DIR": "{private}/config",
    "JUPYTER_RUNTIME_DIR": "{private}/runtime",  # unless the spawner knows a better place
}


EDITOR = ("--ServerApp.contents_manager_class=server_extension.contents.LaunchContents",)
#: what a viewer's server has instead
VIEWER = (
    "--ServerApp.contents_manager_class=server_extension.viewer.ViewerContents",
    "--ServerApp.kernel_manager_class=server_extension.viewer.ViewerKernels",
)


def server_variables(launch: Launch, environ: Mapping[str, str]) -> dict[str, str]:
    """What the server has in its environment beyond what the launch gave it."""
    folders = {name: place.format(home=launch.settings, private=launch.private) for name, place in FOLDERS.items()}
    if given := environ.get("JUPYTER_RUNTIME_DIR"):
        folders["JUPYTER_RUNTIME_DIR"] = given
    return folders | {
        # The templates of exports run in the server, and extensions of JupyterLab in the browser: both come from the
        # prefix, never from where a kernel or an installed wheel writes. Kernels: server_extension.kernelspecs.
        "JUPYTER_DATA_DIR": str(launch.prefix / "share" / "jupyter"),
        "JUPYTER_PATH": "",
        # Loads the server extension in editable installs too, which have no data files. Also in there: JupyterLab asks
        # nobody for news and updates, and no user whether it may.
        "JUPYTER_CONFIG_PATH": str(Path(__file__).resolve().parent / "etc" / "jupyter"),
        # The address that the Hub's token may go to, under a name that no tutorial sets (ipython_magics.address).
        "MAESTRO_TRACKING_URI": environ.get("MLFLOW_TRACKING_URI", ""),
        # What MLflow could not be told yet (ipython_magics.spool); kept from launch to launch.
        "MAESTRO_TRACKING_SPOOL": f"{launch.settings}/.local/state/maestro/tracking",
    }


def server_command(launch: Launch, arguments: Sequence[str] = ()) -> list[str]:
    """The command line of the server.

    Args:
        arguments: the spawner's own, which come last and so win.
    """
    return [
        sys.executable,
        *("-P", "-s", "-m", "jupyterhub.singleuser"),
        f"--ServerApp.root_dir={launch.workspace_dir}",
        f"--ServerApp.terminado_settings=shell_command={launch.terminal}",
        # Whoever loses access to the server loses it within seconds, not within the Hub's usual five minutes.
        "--HubOAuth.cache_max_age=3",
        "--KernelSpecManager.ensure_native_kernel=False",
        "--ServerApp.kernel_spec_manager_class=server_extension.kernelspecs.LaunchKernelSpecs",
        # Ours first, before a kernel of the same name.
        *(
            f"--LaunchKernelSpecs.first_dirs={folder}"
            for folder in (launch.kernels, launch.installed_data / "kernels", launch.own_data / "kernels")
        ),
        f"--NotebookNotary.db_file={launch.own_data / 'nbsignatures.db'}",
        f"--NotebookNotary.secret_file={launch.own_data / 'notebook_secret'}",
        # Any kernel, a user's own too, dies before the server does.
        "--KernelProvisionerFactory.default_provisioner_name=maestro-provisioner",
        # On one machine all servers share the loopback interface, and a kernel's output is sent to whoever connects.
        "--KernelManager.transport_encryption=auto",
        *(["--ServerApp.allow_root=True"] if os.geteuid() == 0 else []),  # the spawner decides who runs it
        "--LabApp.extension_manager=readonly",  # as the prefix is
        # Found in the package itself: editable installs have no data files.
        f"--LabApp.extra_labextensions_path={Path(__file__).resolve().parent / 'labextension'}",
        *(VIEWER if launch.viewer else EDITOR),
        # A trash on a shared volume frees nothing, and nobody finds it; JupyterLab asks before it deletes.
        "--FileContentsManager.delete_to_trash=False",
        "--FileContentsManager.always_delete_dir=True",
        *arguments,
    ]


if __name__ == "__main__":
    main()
