"""The client of Maestro: launch notebooks and look after workspaces from Python or a terminal.

>>> from notebooks import NotebookLauncher, WorkspaceManager      # doctest: +SKIP
>>> NotebookLauncher().launch(workspace="demo").notebook_url       # doctest: +SKIP
"""

from maestro_core.errors import MaestroError

from .environments import EnvironmentManager
from .jobs import JobManager
from .launcher import NotebookLauncher
from .models import NotebookSession, ResourceConfig, Workspace, WorkspaceMember
from .package_requests import PackageRequests
from .quotas import QuotaManager
from .sweeps import SweepManager
from .workspaces import WorkspaceManager

__all__ = [
    "EnvironmentManager",
    "JobManager",
    "MaestroError",
    "NotebookLauncher",
    "NotebookSession",
    "PackageRequests",
    "QuotaManager",
    "ResourceConfig",
    "SweepManager",
    "Workspace",
    "WorkspaceManager",
    "WorkspaceMember",
]
