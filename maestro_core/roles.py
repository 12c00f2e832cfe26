"""Roles of a workspace, and what each may do there."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from .errors import MaestroError


class Role(StrEnum):
    """A member's role; ``owner`` may do all that ``editor`` may, and so on."""

    OWNER = "owner"
    EDITOR = "editor"
    VIEWER = "viewer"

    @property
    def rank(self) -> int:
        """3 for owner, 2 for editor, 1 for viewer."""
        return {"owner": 3, "editor": 2, "viewer": 1}[self.value]

    def covers(self, other: Role) -> bool:
        """Whether this role may do what ``other`` may."""
        return self.rank >= other.rank


ALIASES = {"collaborator": Role.EDITOR}

#: action -> the least role that may do it in a workspace
ACTIONS: dict[str, Role] = {
    "read": Role.VIEWER,
    "launch": Role.VIEWER,
    "write_files": Role.EDITOR,
    "log_runs": Role.EDITOR,
    "install_packages": Role.EDITOR,
    "change": Role.OWNER,
    "manage_members": Role.OWNER,
    "transfer": Role.OWNER,
    "archive": Role.OWNER,
    "restore": Role.OWNER,
    "purge": Role.OWNER,
}


def parse_role(text: object) -> Role:
    """Read a role's name, ``collaborator`` included.

    Raises:
        MaestroError: ``invalid_request``.
    """
    if isinstance(text, Role):
        return text
    name = str(text).strip().lower()
    if name in ALIASES:
        return ALIASES[name]
    try:
        return Role(name)
    except ValueError:
        raise MaestroError(
            "invalid_request", f"{str(text)[:40]!r} is not a role; take owner, editor or viewer.", {"field": "role"}
        ) from None


def highest(roles: Iterable[Role]) -> Role | None:
    """The highest of several roles (a user who is a member twice), or None."""
    return max(roles, key=lambda role: role.rank, default=None)


def may(role: Role | None, action: str) -> bool:
    """Whether ``role`` may do ``action`` (a key of :data:`ACTIONS`); no role may nothing."""
    return role is not None and role.covers(ACTIONS[action])
