"""Launches: what is asked for, what is planned, what the form shows, which states there are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .errors import MaestroError
from .experiments import check_experiment
from .models import read_model
from .names import check_name
from .resources import Resources, parse_cpu, parse_memory
from .roles import Role
from .workspaces import ServersShown, UserRef

#: where things lie inside a sandbox or pod
WORKSPACE_DIR = "/workspace"
HOME_DIR = "/home/jovyan"
DATASETS_DIR = "/datasets"
CLIENT_CONFIG_DIR = "/etc/maestro"
ENVIRONMENT_DIR = "/opt/maestro/env"

#: the form's amounts, flat because a form is; together they are ``resources``
_AMOUNTS = ("cpu", "memory", "gpu", "gpu_type")


class LaunchStatus(StrEnum):
    """reserved -> running -> ended, or reserved -> ended."""

    RESERVED = "reserved"
    RUNNING = "running"
    ENDED = "ended"

    @property
    def active(self) -> bool:
        """Whether it counts against quotas."""
        return self is not LaunchStatus.ENDED


class SpawnAsk(BaseModel):
    """JupyterHub's ``user_options`` as Maestro understands them; ``{}`` is the default profile.

    Stored in clear by the Hub and shown by its API: no secret goes in. On the unnamed server no workspace means the
    personal one; on a named server it means the workspace of the server's own name.

    Attributes:
        workspace: name, or ``personal``.
        profile: name of a profile.
        resources: amounts; without a profile they choose one.
        image: the name of an image that the profile allows (Kubernetes).
        template: a notebook template's name.
        mlflow_experiment: the experiment of this launch's runs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: str | None = None
    profile: str | None = None
    resources: Resources | None = None
    image: str | None = None
    template: str | None = None
    mlflow_experiment: str | None = None

    @field_validator("workspace", mode="before")
    @classmethod
    def _workspace(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_name(value)

    @field_validator("profile", mode="before")
    @classmethod
    def _profile(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_name(value, "profile")

    @field_validator("image", mode="before")
    @classmethod
    def _image(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_name(value, "image")

    @field_validator("template", mode="before")
    @classmethod
    def _template(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_name(value, "template")

    @field_validator("mlflow_experiment", mode="before")
    @classmethod
    def _experiment(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_experiment(value)

    def as_user_options(self) -> dict[str, Any]:
        """The JSON that is handed to the Hub: only what was asked for, so that a profile fills in the rest."""
        return self.model_dump(mode="json", exclude_none=True, exclude_unset=True)


def parse_ask(options: object) -> SpawnAsk:
    """Read ``user_options`` from anybody: allow-listed keys, every value by its own rule.

    Raises:
        MaestroError: ``invalid_request``, ``invalid_name`` or ``invalid_resources``, naming the field.
    """
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise MaestroError("invalid_request", "The options of a launch are an object of names and values.")
    unknown = sorted(str(key)[:40] for key in options if key not in SpawnAsk.model_fields)
    if unknown:
        known = ", ".join(SpawnAsk.model_fields)
        raise MaestroError(
            "invalid_request", f"A launch has no option {unknown[0]!r}; it knows {known}.", {"unknown": unknown[:20]}
        )
    return read_model(SpawnAsk, dict(options))


def ask_from_form(fields: Mapping[str, list[str]]) -> dict[str, Any]:
    """``user_options`` from the spawn form, whose values arrive as lists of strings; empty fields are left out.

    Raises:
        MaestroError: as :func:`parse_ask`.
    """
    flat: dict[str, Any] = {}
    for key, values in fields.items():
        if key.startswith("_") or not values:
            continue
        if values[-1].strip():
            flat[key] = values[-1].strip()
    amounts = {name: flat.pop(name) for name in _AMOUNTS if name in flat}
    if amounts:
        flat["resources"] = amounts
    return parse_ask(flat).as_user_options()


class Mount(BaseModel):
    """One volume of a launch.

    Attributes:
        source: a directory of this machine (local) or a PersistentVolumeClaim's name (Kubernetes).
        target: absolute path inside.
        kind: ``directory`` or ``claim``.
        sub_path: a path below the claim, or empty.
        read_only: mounted read-only by the kernel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["directory", "claim"]
    source: str
    target: str
    sub_path: str = ""
    read_only: bool = False


class PlanWorkspace(BaseModel):
    """The workspace of a plan. ``gid`` owns its files on Kubernetes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace_id: str
    name: str
    gid: int


class LaunchPlan(BaseModel):
    """What the service decided: bound to one user, server name and launch. The spawner applies it and decides nothing.

    Attributes:
        launch_id: the API's ``session_id``.
        profile: the profile's name; ``resources``: what it gets.
        image: container image or None for the deployment's own (Kubernetes).
        idle_minutes: without activity, after which the server is stopped; 0: never; None: the deployment's own time.
        mounts: workspace, private home, datasets.
        environment: variables of the server, put in after the Hub's own.
        labels: Kubernetes labels, safe slugs.
        index_url, index_token: the package index, and this launch's password for it (user name ``launch``). Secret.
        default_url: what JupyterLab opens (``/lab/tree/Start here.ipynb``).
        environment_version: of the workspace's environment that the server builds; 0: there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    launch_id: str
    user: str
    server_name: str
    workspace: PlanWorkspace
    role: Role
    profile: str
    resources: Resources
    gpu_resource: str = "nvidia.com/gpu"
    image: str | None = None
    idle_minutes: int | None = None
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    environment: dict[str, str] = {}
    labels: dict[str, str] = {}
    index_url: str = ""
    index_token: str = Field(default="", repr=False)
    default_url: str = "/lab"
    environment_version: int = 0

    @property
    def read_only(self) -> bool:
        """Whether the workspace is mounted read-only (a viewer's launch)."""
        return not self.role.covers(Role.EDITOR)


class PlanRequest(BaseModel):
    """The spawner's question: this user starts this server with these ``user_options``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: UserRef
    server_name: str = Field(default="", max_length=30)
    ask: dict[str, Any] = {}


class FormRequest(BaseModel):
    """The spawner's question for the form of one server of one user."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: UserRef
    server_name: str = Field(default="", max_length=30)


class ReleaseRequest(BaseModel):
    """Why a launch ended; shown to people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(default="stopped", max_length=200)


class ImageView(BaseModel):
    """An image that may be chosen: name and title."""

    name: str
    title: str


class ProfileView(BaseModel):
    """A profile as one person sees it.

    Attributes:
        allowed, refusal: whether its amounts can be had now, and why not.
        max_cpu, max_memory, max_gpu: the most that this person may ask for with it now, within every limit.
        images: what may be chosen instead of its own image. idle_minutes: as in the plan.
        room: whether a node could take it ``now``; ``busy``: none could; ``unknown``: the cluster does not say; None:
            there are no nodes.
    """

    name: str
    title: str
    description: str
    cpu: float
    memory: int
    memory_shown: str
    gpu: int
    gpu_type: str | None
    allowed: bool
    refusal: str | None = None
    max_cpu: float | None = None
    max_memory: int | None = None
    max_memory_shown: str | None = None
    max_gpu: int | None = None
    images: tuple[ImageView, ...] = ()
    idle_minutes: int | None = None
    room: Literal["now", "busy", "unknown"] | None = None


class TemplateView(BaseModel):
    """A notebook template: name and title."""

    name: str
    title: str
    description: str = ""


class OwnAmounts(BaseModel):
    """What a server gets in a workspace when nobody asks for something else.

    Attributes:
        shown: for people: ``4 cpu, 8 GiB``.
        profile: the one that covers them; None with a ``refusal``, when they cannot be had now.
    """

    shown: str
    profile: str | None = None
    resources: Resources | None = None
    refusal: str | None = None


class FormView(BaseModel):
    """What the spawn form shows.

    Attributes:
        workspace, role: where the server would open; None with a ``refusal``.
        refusal: why nothing can be started here, one sentence.
        profiles: only those open to the person, refused ones with their reason.
        servers: the person's servers in use and their limit.
        left: what is in use of each limit: ``2 of 3 servers``, ``3.5 of 10 GPU hours this month``.
        template: the one that opens when none is chosen, or None.
        experiment: the default MLflow experiment.
        own: the workspace's own amounts, which fill the form in where nothing was chosen; None: it has none.
    """

    workspace: str | None
    description: str = ""
    role: Role | None
    personal: bool = False
    refusal: str | None = None
    profiles: tuple[ProfileView, ...] = ()
    servers: ServersShown = ServersShown(used=0, limit=None)
    left: tuple[str, ...] = ()
    templates: tuple[TemplateView, ...] = ()
    template: str | None = None
    experiment: str = ""
    own: OwnAmounts | None = None


class LaunchRequest(BaseModel):
    """The body of ``POST /launches``: a :class:`SpawnAsk` and whose server of which name it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workspace: str = "personal"
    server_name: str | None = None
    profile: str | None = None
    resources: Resources | None = None
    image: str | None = None
    template: str | None = None
    mlflow_experiment: str | None = None
    user: str | None = None

    @field_validator("server_name", mode="before")
    @classmethod
    def _server_name(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_name(value, "server")

    def ask(self) -> SpawnAsk:
        """The ask alone.

        Raises:
            MaestroError: as :func:`parse_ask`.
        """
        asked = self.model_dump(exclude={"server_name", "user"}, exclude_none=True, exclude_unset=True)
        return parse_ask({"workspace": self.workspace} | asked)


class ScaleRequest(BaseModel):
    """The body of ``POST /launches/{session_id}/scale``: new amounts; what is left out stays as it is.

    Attributes:
        cpu: cores. memory: bytes.
        restart: where the server cannot be resized while it runs, stop it and start it again with these amounts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: float | None = None
    memory: int | None = None
    restart: bool = False

    @field_validator("cpu", mode="before")
    @classmethod
    def _cpu(cls, value: Any) -> float | None:
        return None if value in (None, "") else parse_cpu(value)

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> int | None:
        return None if value in (None, "") else parse_memory(value)

    def of(self, held: Resources) -> Resources:
        """What a server would have that holds ``held`` now.

        Raises:
            MaestroError: ``invalid_request`` when no amount is named.
        """
        if self.cpu is None and self.memory is None:
            raise MaestroError("invalid_request", "Name the cpu, the memory or both that the server is to have.")
        asked = {"cpu": self.cpu, "memory": self.memory}
        return held.model_copy(update={name: amount for name, amount in asked.items() if amount is not None})


class LaunchView(BaseModel):
    """A launch as the API shows it.

    Attributes:
        session_id: the launch's id.
        status: reserved (starting), running or ended.
        notebook_url: path of the server below the Hub's public address (``/user/ann/demo/lab``).
        ended_reason: why it ended, or None.
        image: the container image, or None for the deployment's own.
        idle_minutes: without activity, after which it is stopped; 0: never; None: the deployment's own time.
        ends_at, ends_reason: when and why it will be stopped, as its user is told; None: it will not.
    """

    session_id: str
    user: str
    server_name: str
    workspace: str
    role: Role
    profile: str
    resources: Resources
    status: LaunchStatus
    notebook_url: str
    mlflow_experiment: str
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    ended_reason: str | None = None
    image: str | None = None
    idle_minutes: int | None = None
    ends_at: datetime | None = None
    ends_reason: str | None = None


class LaunchList(BaseModel):
    """Launches, the newest first."""

    launches: tuple[LaunchView, ...]


class ProfileList(BaseModel):
    """The profiles that are open to a person in a workspace, and what is in use of each limit."""

    profiles: tuple[ProfileView, ...]
    left: tuple[str, ...] = ()


class TemplateList(BaseModel):
    """The notebook templates."""

    templates: tuple[TemplateView, ...]
