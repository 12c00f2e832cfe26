"""Workspaces and members as the API speaks of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from .errors import MaestroError
from .names import check_group_name, check_name, check_new_workspace_name, check_user_name
from .roles import Role, parse_role
from .workspace_settings import WorkspaceSettings, check_link

MAX_DESCRIPTION = 1000


class UserRef(BaseModel):
    """A Hub user as the Hub's own objects describe them; the creation stamp makes a re-created user another one.

    Attributes:
        name: the Hub name.
        created: the Hub's creation stamp (ISO 8601, as its REST API shows it).
        admin: whether the Hub calls them admin.
        groups: their Hub groups.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    created: str = Field(min_length=1, max_length=64)
    admin: bool = False
    groups: tuple[str, ...] = ()

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, value: Any) -> str:
        return check_user_name(value)


class MemberSpec(BaseModel):
    """Who becomes a member and with which role: exactly one of user and group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = None
    group: str | None = None
    role: Role = Role.EDITOR

    @field_validator("user", mode="before")
    @classmethod
    def _user(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_user_name(value)

    @field_validator("group", mode="before")
    @classmethod
    def _group(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_group_name(value)

    @field_validator("role", mode="before")
    @classmethod
    def _role(cls, value: Any) -> Role:
        return parse_role(value)

    def model_post_init(self, context: Any) -> None:
        """Exactly one of user and group."""
        if (self.user is None) == (self.group is None):
            raise MaestroError("invalid_request", "A member is one user or one group; name exactly one of them.")

    @property
    def kind(self) -> Literal["user", "group"]:
        """``user`` or ``group``."""
        return "user" if self.user is not None else "group"

    @property
    def name(self) -> str:
        """The user's or the group's name."""
        return self.user if self.user is not None else str(self.group)


class Transfer(MemberSpec):
    """Who becomes owner in the place of the one who says so."""

    role: Role = Role.OWNER


class Member(BaseModel):
    """A member as shown."""

    kind: Literal["user", "group"]
    name: str
    role: Role
    added_by: str
    added_at: datetime


class WorkspaceSpec(WorkspaceSettings):
    """The body that creates a workspace, and a workspace's YAML.

    Attributes:
        members: besides the creator, who is an owner.
        template: the notebook template that opens when a launch names none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = Field(default="", max_length=MAX_DESCRIPTION)
    members: tuple[MemberSpec, ...] = Field(default=(), max_length=200)
    template: str | None = None

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, value: Any) -> str:
        return check_new_workspace_name(value)

    @field_validator("template", mode="before")
    @classmethod
    def _template(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_name(value, "template")


class WorkspaceChange(WorkspaceSettings):
    """The body that changes one: what is named is replaced, a section that is null is emptied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str | None = Field(default=None, max_length=MAX_DESCRIPTION)
    template: str | None = None

    @field_validator("template", mode="before")
    @classmethod
    def _template(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_name(value, "template")

    def model_post_init(self, context: Any) -> None:
        """Something has to change."""
        if not self.model_fields_set:
            raise MaestroError("invalid_request", "Nothing to change was named; name a description or a section.")


class ExperimentLink(BaseModel):
    """The body that links a workspace to an experiment: where its runs go when a launch names none.

    Attributes:
        experiment_id: the experiment's name; it is made with its first run, if it is not there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment_id: str

    @field_validator("experiment_id", mode="before")
    @classmethod
    def _experiment(cls, value: Any) -> str:
        return check_link(value)


class ServersShown(BaseModel):
    """How many of a person's servers run or start, and the limit (None: none)."""

    used: int
    limit: int | None


class WorkspaceView(BaseModel):
    """A workspace as one person sees it.

    Attributes:
        workspace_id: immutable; a re-created workspace of the same name has another.
        role: the person's own role there (for an admin who is no member: None).
        servers: the person's running and starting servers over everything, and their limit.
        launches: ids of the person's own launches in this workspace that run or start.
        settings: its amounts, disk, environment, packages, rules and linked experiment.
        archived_at: since when it takes no launches; purge_from: from when on it may be purged. None: it is open.
        purging: whether its data is being removed.
    """

    workspace_id: str
    name: str
    description: str
    personal: bool
    role: Role | None
    created_by: str
    created_at: datetime
    members: int
    servers: ServersShown
    launches: tuple[str, ...] = ()
    template: str | None = None
    settings: WorkspaceSettings = WorkspaceSettings()
    archived_at: datetime | None = None
    purge_from: datetime | None = None
    purging: bool = False

    @field_serializer("settings")
    def _as_written(self, settings: WorkspaceSettings) -> dict[str, Any]:
        """What was written alone, so that each section can be sent back as it came."""
        return settings.stored()


class WorkspaceList(BaseModel):
    """The workspaces of a person, the personal one first."""

    workspaces: tuple[WorkspaceView, ...]


class MemberList(BaseModel):
    """The members of a workspace."""

    members: tuple[Member, ...]


class Me(BaseModel):
    """Who is asking.

    Attributes:
        scopes: the ``custom:maestro:`` scopes of the token.
        servers: None for a person; the names of the notebook servers that the token belongs to (it acts in their
            workspace only).
        personal_workspace: its name.
        notices: sentences for admins, such as a ``maestro.yaml`` that cannot be read.
    """

    user: str
    admin: bool
    groups: tuple[str, ...]
    scopes: tuple[str, ...]
    servers: tuple[str, ...] | None
    personal_workspace: str
    notices: tuple[str, ...] = ()


class LimitView(BaseModel):
    """A limit in force: its value, what is in use and left of it (None: nothing adds up), and who set it.

    Attributes:
        source: the level that set it (``user ann``). scope: whose launches it counts: the person's, everyone's in the
            workspace, or those of a pool.
        origin: where the figure stands: ``maestro.yaml``, or ``root on 2026-11-24`` who set it at runtime.
    """

    name: str
    title: str
    value: float
    shown: str
    source: str
    scope: Literal["user", "workspace", "pool"]
    origin: str = "maestro.yaml"
    set_by: str | None = None
    set_at: datetime | None = None
    in_use: float | None = None
    in_use_shown: str | None = None
    left: float | None = None
    left_shown: str | None = None


class LimitList(BaseModel):
    """The limits of a person in a workspace."""

    workspace: str
    limits: tuple[LimitView, ...]


class TrackingRequest(BaseModel):
    """MLflow's question: which workspaces may this user's request touch?

    Attributes:
        user: the Hub user's name.
        servers: names of the notebook servers that the token belongs to; None: a person (browser, own token).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    servers: tuple[str, ...] | None = Field(default=None, max_length=100)

    @field_validator("user", mode="before")
    @classmethod
    def _name(cls, value: Any) -> str:
        return check_user_name(value)


class TrackingGrant(BaseModel):
    """What the user may do in one MLflow workspace: viewers read, editors and owners write.

    Attributes:
        experiment: the only experiment that may be created and logged to; None: any.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Role
    experiment: str | None = None


class TrackingView(BaseModel):
    """The answer to :class:`TrackingRequest`, by workspace name; what is not listed is closed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    workspaces: dict[str, TrackingGrant]


class EndedQuestion(BaseModel):
    """The body of ``POST /authorize/ended``: launches that MLflow's active runs name. Anybody may have written them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    launches: tuple[str, ...] = Field(max_length=500)


class EndedLaunches(BaseModel):
    """Those of them that have ended, each with the reason."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ended: dict[str, str] = {}
