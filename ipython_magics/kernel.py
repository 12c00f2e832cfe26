"""Which kernel this is, and which notebook it belongs to.

Asked of the server, by kernel id: right after a rename too. Programs that a kernel starts (``!python train.py``, a pool
of workers) inherit the id and belong to the same notebook.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: the kernel's id, for the programs that it starts
KERNEL_ID = "MAESTRO_KERNEL_ID"

#: seconds for which an answer, or the lack of one, is not asked for again
FRESH, FAILED = 1.0, 10.0
TIMEOUT = (0.5, 1.0)  # seconds to connect, to answer


def announce() -> None:
    """Note this kernel's id in its environment, where what it starts finds it."""
    if identity := own_id():
        if os.environ.get(KERNEL_ID) not in (None, identity):
            # A kernel that runs inside another one (nbclient, papermill) has inherited the other's notebook.
            os.environ.pop("JPY_SESSION_NAME", None)
        os.environ[KERNEL_ID] = identity


def own_id() -> str | None:
    """The id of the kernel that this process is, or None if it is none."""
    application = sys.modules.get("ipykernel.kernelapp")
    if application is None or not application.IPKernelApp.initialized():
        return None
    name = Path(application.IPKernelApp.instance().connection_file).stem
    return name.removeprefix("kernel-") or None


def is_kernel() -> bool:
    """Whether this process is a notebook's kernel itself."""
    return own_id() is not None


@dataclass(frozen=True)
class Notebook:
    """A notebook as the server knows it.

    Attributes:
        path: below the workspace's folder.
        snapshot: the address of its saved version; empty where none is known.
        cells: the digests of that version's code cells.
    """

    path: str
    snapshot: str = ""
    cells: frozenset[str] = frozenset()


class NotebookFinder:
    """The notebook of this process, asked for at most once a second, since every run that starts asks."""

    def __init__(self) -> None:
        self._found: Notebook | None = None
        self._until = 0.0

    def notebook(self) -> Notebook | None:
        """The notebook, or None if there is none."""
        if time.monotonic() >= self._until:
            answer = _ask_server()
            if answer is not None:
                self._found = answer
            elif self._found is None and (path := _path_at_start()):
                self._found = Notebook(path)
            self._until = time.monotonic() + (FRESH if answer else FAILED)
        return self._found


_finder = NotebookFinder()


def notebook_path() -> str | None:
    """The path, below the workspace's folder, of the notebook that this process belongs to; None if there is none."""
    found = _finder.notebook()
    return found.path if found else None


def notebook() -> Notebook | None:
    """The notebook that this process belongs to, with its saved version; None if there is none."""
    return _finder.notebook()


def is_dirty(saved: Notebook) -> bool:
    """Whether code ran in this kernel that does not stand in the saved version."""
    from maestro_core.snapshots import cell_digest  # not at a kernel's start

    return any(cell_digest(source) not in saved.cells for source in _sources() if source.strip())


def cell_id() -> str | None:
    """The id of the cell that runs, where the client says it (JupyterLab does)."""
    shell = _shell()
    try:
        found = shell.get_parent()["metadata"].get("cellId") if shell is not None else None
    except (AttributeError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and len(found) <= 100 else None


def _sources() -> list[str]:
    shell = _shell()
    manager = getattr(shell, "history_manager", None)
    return list(getattr(manager, "input_hist_raw", ()))


def _shell() -> Any:
    interactive = sys.modules.get("IPython")
    return interactive.get_ipython() if interactive else None


def notebook_file(path: str) -> Path:
    """The file of a notebook: in the workspace's folder, or in a viewer's home, which the file browser shows there."""
    from maestro_core.environment import VIEWER_HOME  # not at a kernel's start

    first, _, rest = path.partition("/")
    if first == VIEWER_HOME and rest and os.environ.get("MAESTRO_ROLE") == "viewer":
        return Path.home() / rest
    return Path(os.environ.get("MAESTRO_WORKSPACE_DIR", ""), path)


def _ask_server() -> Notebook | None:
    identity, server = own_id() or os.environ.get(KERNEL_ID), _server_url()
    token = os.environ.get("JUPYTERHUB_API_TOKEN")
    if not identity or not server or not token:
        return None
    import requests

    with requests.Session() as session:
        session.trust_env = False  # no proxy, no netrc: it is this machine
        try:
            answer = session.get(
                f"{server}/maestro/kernels/{identity}",
                headers={"Authorization": f"token {token}"},
                timeout=TIMEOUT,
                allow_redirects=False,
            )
            found = answer.json() if answer.status_code == 200 else {}
            path, snapshot, cells = found.get("path"), found.get("snapshot"), found.get("cells") or ()
        except (requests.RequestException, ValueError, AttributeError):
            return None
    if not isinstance(path, str) or not path:
        return None
    return Notebook(path, snapshot, frozenset(map(str, cells))) if isinstance(snapshot, str) else Notebook(path)


def _server_url() -> str | None:
    """The notebook server as its kernels reach it, from the address that the Hub told it to listen on."""
    parts = urlsplit(os.environ.get("JUPYTERHUB_SERVICE_URL", ""))
    if not parts.hostname:
        return None
    everywhere = parts.hostname in ("0.0.0.0", "::")  # noqa: S104 - compared, not listened on
    host = "127.0.0.1" if everywhere else parts.netloc.rpartition(":")[0] if parts.port else parts.netloc
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def _path_at_start() -> str | None:
    """The notebook's name when its kernel started: from Jupyter, else from VS Code."""
    name = os.environ.get("JPY_SESSION_NAME") or _name_from_vscode()
    if not name:
        return None
    folder = os.environ.get("MAESTRO_WORKSPACE_DIR", "")
    path = Path(name)
    return str(path.relative_to(folder)) if folder and path.is_relative_to(folder) else name


def _name_from_vscode() -> str | None:
    shell = _shell()
    name = shell.user_ns.get("__vsc_ipynb_file__") if shell is not None else None
    return name if isinstance(name, str) else None
