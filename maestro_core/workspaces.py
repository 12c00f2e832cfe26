"""Workspaces and members as the API speaks of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .names import check_group_name, check_new_workspace_name, check_user_name
from .roles import Role, parse_role

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
        from .errors import MaestroError

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


class Member(BaseModel):
    """A member as shown."""

    kind: Literal["user", "group"]
    name: str
    role: Role
    added_by: str
    added_at: datetime


class WorkspaceSpec(BaseModel):
    """The body that creates a workspace."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = Field(default="", max_length=MAX_DESCRIPTION)
    members: tuple[MemberSpec, ...] = Field(default=(), max_length=200)

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, value: Any) -> str:
        return check_new_workspace_name(value)


class WorkspaceChange(BaseModel):
    """The body that changes one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field(max_length=MAX_DESCRIPTION)


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
