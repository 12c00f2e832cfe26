"""What the client takes and gives: resources, sessions, workspaces, members."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from maestro_core.launches import LaunchView
from maestro_core.resources import Resources, parse_memory
from maestro_core.workspaces import Member, WorkspaceView


@dataclass(frozen=True)
class ResourceConfig:
    """Amounts for a launch.

    Args:
        cpu_cores: cores (2, 0.5, "500m").
        memory_gb: GiB.
        gpu_count: whole GPUs.
        gpu_type: a kind of GPU as the profiles name it.

    Raises:
        MaestroError: ``invalid_resources`` when used, naming the amount.
    """

    cpu_cores: float | str = 1
    memory_gb: float = 2
    gpu_count: int = 0
    gpu_type: str | None = None

    def as_resources(self) -> dict[str, Any]:
        """The ``resources`` of a launch request, checked here first."""
        memory = parse_memory(f"{self.memory_gb:f}g" if isinstance(self.memory_gb, int | float) else self.memory_gb)
        asked = Resources(cpu=self.cpu_cores, memory=memory, gpu=self.gpu_count, gpu_type=self.gpu_type)
        return asked.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class NotebookSession:
    """A launch.

    Attributes:
        session_id: the launch's id.
        status: ``reserved`` (starting), ``running`` or ``ended``.
        notebook_url: where to open it in a browser.
        ended_reason: why it ended, or None.
        image: the container image, or None for the deployment's own.
        idle_minutes: without activity, after which it is stopped; 0: never; None: the deployment's own time.
    """

    session_id: str
    status: str
    notebook_url: str
    user: str
    workspace: str
    server_name: str
    profile: str
    resources: Resources
    mlflow_experiment: str
    created_at: datetime
    ended_reason: str | None = None
    ends_at: datetime | None = None
    ends_reason: str | None = None
    image: str | None = None
    idle_minutes: int | None = None

    @classmethod
    def from_api(cls, data: Any, base: str) -> NotebookSession:
        """From the API's JSON; ``base`` is the Hub's public address."""
        view = LaunchView.model_validate(data)
        own = {name: getattr(view, name) for name in cls.__dataclass_fields__ if name not in ("status", "notebook_url")}
        url = view.notebook_url if "://" in view.notebook_url else _origin(base) + view.notebook_url
        return cls(status=view.status.value, notebook_url=url, **own)


@dataclass(frozen=True)
class WorkspaceMember:
    """A member: a user or a Hub group (``kind``), with a role."""

    kind: str
    name: str
    role: str
    added_by: str
    added_at: datetime

    @classmethod
    def from_api(cls, data: Any) -> WorkspaceMember:
        """From the API's JSON."""
        view = Member.model_validate(data)
        return cls(view.kind, view.name, view.role.value, view.added_by, view.added_at)


@dataclass(frozen=True)
class Workspace:
    """A workspace as its reader sees it; ``role`` is the reader's own.

    Attributes:
        settings: what it is set up with, as its YAML says it.
        archived_at: since when it takes no launches; purge_from: from when on it may be purged.
    """

    workspace_id: str
    name: str
    description: str
    role: str | None
    created_by: str
    created_at: datetime
    members: int
    servers_used: int
    servers_limit: int | None
    launches: tuple[str, ...] = field(default=())
    settings: dict[str, Any] = field(default_factory=dict)
    archived_at: datetime | None = None
    purge_from: datetime | None = None

    @classmethod
    def from_api(cls, data: Any) -> Workspace:
        """From the API's JSON."""
        view = WorkspaceView.model_validate(data)
        return cls(
            workspace_id=view.workspace_id,
            name=view.name,
            description=view.description,
            role=view.role.value if view.role else None,
            created_by=view.created_by,
            created_at=view.created_at,
            members=view.members,
            servers_used=view.servers.used,
            servers_limit=view.servers.limit,
            launches=view.launches,
            settings=view.settings.stored(),
            archived_at=view.archived_at,
            purge_from=view.purge_from,
        )


def _origin(base: str) -> str:
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{rest.split('/')[0]}" if rest else base
