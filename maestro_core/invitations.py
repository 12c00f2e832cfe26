"""Invitations: for a colleague who has no account at the Hub yet.

An invitation names a user as the Hub will know them. The first account of that name that looks at Maestro is the one
that it is for; that account accepts it by itself, once, before it runs out. Nothing secret is sent around, so nothing
can be passed on.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from .names import check_user_name
from .roles import Role, parse_role

#: invitations of one workspace that may be open at the same time
MAX_OPEN = 100


class InvitationSpec(BaseModel):
    """Who is invited, as which role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str
    role: Role = Role.EDITOR

    @field_validator("user", mode="before")
    @classmethod
    def _user(cls, value: Any) -> str:
        return check_user_name(value)

    @field_validator("role", mode="before")
    @classmethod
    def _role(cls, value: Any) -> Role:
        return parse_role(value)


class Invitation(BaseModel):
    """An open invitation; ``expires_at`` is when it runs out."""

    invitation_id: str
    workspace: str
    user: str
    role: Role
    invited_by: str
    invited_at: datetime
    expires_at: datetime


class InvitationList(BaseModel):
    """Open invitations, the oldest first."""

    invitations: tuple[Invitation, ...]
