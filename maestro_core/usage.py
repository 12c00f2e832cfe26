"""What a notebook server and the service tell each other while a launch runs: what it uses, and what its user is told.

``POST /launches/{id}/heartbeat`` takes a :class:`Heartbeat` about every 30 s and answers :class:`Notices`;
``POST /launches/{id}/keep`` takes ``{}`` and answers them too ("Keep it running"). Both sides may be of different
versions (images), so fields that one does not know are left out, not refused.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from .resources import Resources

#: seconds between two heartbeats, unless the launch's environment says otherwise (MAESTRO_HEARTBEAT_SECONDS)
HEARTBEAT_SECONDS = 30

NoticeKind = Literal["role", "cull", "stop", "storage", "memory", "info"]
NoticeLevel = Literal["info", "warning", "error"]


class GpuUsage(BaseModel):
    """One GPU that the server sees.

    Attributes:
        utilization: percent of the last second in which it worked, or None where the driver does not say.
        memory, memory_total: bytes.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(default="", max_length=100)
    utilization: float | None = Field(default=None, ge=0, le=100)
    memory: int = Field(default=0, ge=0)
    memory_total: int = Field(default=0, ge=0)


class Heartbeat(BaseModel):
    """What a notebook server uses now.

    Attributes:
        cpu_seconds: CPU time of the server and all that it started, since its start; never goes back within a launch.
        memory: bytes that it holds, without what the kernel can drop at once (page cache).
        memory_limit: bytes that it may hold, or None where nothing enforces a limit.
        workspace_bytes: what the workspace's files take, or None where that is not known (yet).
        busy: whether a kernel or a program in a terminal works.
        kernels: how many kernels there are.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    cpu_seconds: float = Field(ge=0, allow_inf_nan=False)
    memory: int = Field(ge=0)
    memory_limit: int | None = Field(default=None, ge=0)
    gpus: tuple[GpuUsage, ...] = Field(default=(), max_length=64)
    workspace_bytes: int | None = Field(default=None, ge=0)
    busy: bool
    kernels: int = Field(ge=0)


class Notice(BaseModel):
    """Something that the user of a notebook server is told in JupyterLab.

    Attributes:
        id: the same for as long as it is about the same thing; a changed message replaces the one that is shown.
        message: one sentence: what, why, what to do.
        until: when it happens (with time zone), or None; shown in the browser's own time.
        action: ``keep`` shows the button "Keep it running".
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str = Field(min_length=1, max_length=100)
    kind: NoticeKind = "info"
    level: NoticeLevel = "info"
    message: str = Field(max_length=2000)
    until: AwareDatetime | None = None
    action: Literal["keep"] | None = None


class Notices(BaseModel):
    """All that the user is to be told now; what is no longer in it is taken back."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    notices: tuple[Notice, ...] = Field(default=(), max_length=50)


class UsagePoint(BaseModel):
    """What a server used over a while.

    Attributes:
        at: when the while began; ``seconds``: how much of it was measured (0: a single look).
        cpu: cores in the mean; memory, memory_peak: bytes, in the mean and at most.
        gpu: percent of its GPUs' time in the mean, or None; gpu_memory: bytes over all GPUs.
        busy: the share of looks at which something worked, 0 to 1.
    """

    at: AwareDatetime
    seconds: float
    cpu: float
    memory: int
    memory_peak: int
    gpu: float | None = None
    gpu_memory: int = 0
    busy: float


class LaunchUsage(BaseModel):
    """What one launch uses and used.

    Attributes:
        ends_at, ends_reason: when and why it will be stopped, as its user is told; None: it will not.
        ends_kind: ``role`` when its user's role is gone or lower (an owner may end it at once), or ``idle``.
        latest: the last sample. points: means over spans that grow with age, the oldest first.
    """

    session_id: str
    user: str
    server_name: str
    workspace: str
    status: str
    resources: Resources
    ends_at: AwareDatetime | None = None
    ends_reason: str | None = None
    ends_kind: str | None = None
    latest: UsagePoint | None = None
    points: tuple[UsagePoint, ...] = ()


class Hours(BaseModel):
    """Time that servers ran, times what each was given: core hours and GPU hours."""

    cpu: float = 0
    gpu: float = 0


class MonthHours(Hours):
    """Hours of one month (UTC), written ``2026-11``."""

    month: str


class WorkspaceUsage(BaseModel):
    """What a workspace uses now, and used.

    Attributes:
        storage_used: bytes of its files when they were last measured, or None. storage_limit: the most, or None.
        storage_held: whether the volume itself holds no more than the limit; where not, no server starts over it.
        launches: those that run or start, each with its last sample.
        month: hours of the present month (UTC), of everyone's launches in it.
        months: of those before it, the oldest first, where they were asked for.
    """

    workspace: str
    storage_used: int | None = None
    storage_measured_at: AwareDatetime | None = None
    storage_limit: int | None = None
    storage_held: bool = False
    launches: tuple[LaunchUsage, ...] = ()
    month: Hours = Hours()
    months: tuple[MonthHours, ...] = ()
