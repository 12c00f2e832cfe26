"""Names: of workspaces and servers, personal workspaces, labels, claims.

A workspace's name is also the default name of its server, so JupyterHub's rule for server names holds for both
(JupyterHub 6: a letter first, 1-30 characters of a-z, 0-9 and single hyphens, a letter or digit last).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from .errors import MaestroError

NAME_RULE = "1 to 30 characters: a letter first, then a-z, 0-9 and single hyphens, no hyphen at the end"
_NAME = re.compile(r"[a-z](?:-?[a-z0-9])*")
_PERSONAL = re.compile(r"u-[a-z0-9-]*-?[0-9a-f]{6}")
_ID = re.compile(r"w-[0-9a-f]{20}")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

#: the alias under which everyone finds their personal workspace in the API
PERSONAL = "personal"
#: names that are never a workspace: aliases and path words
RESERVED = frozenset(
    {PERSONAL, "all", "new", "none", "api", "admin", "default"}
    | {"workspaces", "ajax-api", "static-files"}  # MLflow's own: its workspaces have the same names
)


def valid_name(text: object) -> bool:
    """Whether ``text`` may name a workspace or a server."""
    return isinstance(text, str) and len(text) <= 30 and _NAME.fullmatch(text) is not None


def check_name(text: object, what: str = "workspace") -> str:
    """Return ``text`` if it may name a workspace or server.

    Raises:
        MaestroError: ``invalid_name``.
    """
    if not isinstance(text, str) or not valid_name(text):
        shown = str(text)[:40]
        article = "an" if what[:1] in "aeiou" else "a"
        raise MaestroError(
            "invalid_name", f"{shown!r} cannot name {article} {what}; take {NAME_RULE}.", {"field": "name"}
        )
    return text


def check_new_workspace_name(text: object) -> str:
    """Like :func:`check_name`, and two characters at least (MLflow's rule), not reserved, and not shaped like an id or
    a personal workspace's name (``u-...-xxxxxx``).

    Raises:
        MaestroError: ``invalid_name``.
    """
    name = check_name(text)
    if len(name) == 1 or name in RESERVED or _PERSONAL.fullmatch(name) or is_workspace_id(name):
        raise MaestroError(
            "invalid_name", f"{name!r} is kept for the system; take another name for the workspace.", {"field": "name"}
        )
    return name


def is_workspace_id(text: str) -> bool:
    """Whether ``text`` has the shape of a workspace's immutable id: ``w-`` and 20 hex digits; no name has it."""
    return _ID.fullmatch(text) is not None


def slug(text: str, length: int = 20) -> str:
    """Lower-case letters, digits and single hyphens made of any text; may be empty. Not unique by itself."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:length].strip("-")


def digest(*parts: str, length: int = 6) -> str:
    """The first hex digits of a SHA-256 over the parts (each length-prefixed, so that parts cannot run together)."""
    packed = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(packed.encode()).hexdigest()[:length]


def personal_workspace_name(user: str, created: str) -> str:
    """``u-<slug, at most 20>-<6 hex of user and creation date>``: the workspace that the unnamed server opens.

    Args:
        user: the Hub user's name.
        created: the Hub user's creation stamp; a re-created user gets another workspace.
    """
    readable = slug(user)
    tail = digest(user, created)
    return f"u-{readable}-{tail}" if readable else f"u-{tail}"


def home_directory_name(user: str, created: str) -> str:
    """The directory (or subPath) below ``homes/`` of one Hub user: readable, unique, and new for a re-created user."""
    readable = slug(user)
    tail = digest(user, created, length=12)
    return f"{readable}-{tail}" if readable else tail


def label_value(text: str) -> str:
    """A Kubernetes label value for any text: the text itself where it is one, else a slug with a hash.

    Kubernetes: at most 63 characters, alphanumeric at both ends, ``-_.`` between. A user name that is an e-mail
    address is no label value. Injective: an own value that looks like a made one (``x---hash``) is hashed too.
    """
    if _LABEL.fullmatch(text) and "---" not in text and text == text.lower():
        return text
    return f"{slug(text, 40) or 'x'}---{digest(text, length=8)}"


def claim_name(workspace: str) -> str:
    """The PersistentVolumeClaim of a workspace: ``workspace-<name>``."""
    return f"workspace-{workspace}"


def check_user_name(text: object) -> str:
    """A user name as the Hub may know it: 1-255 printable characters without slashes at the ends or control codes.

    Raises:
        MaestroError: ``invalid_name``.
    """
    if not isinstance(text, str) or not 1 <= len(text) <= 255 or not text.isprintable() or text != text.strip():
        raise MaestroError("invalid_name", f"{str(text)[:40]!r} is not a user name.", {"field": "user"})
    return text


def check_group_name(text: object) -> str:
    """A Hub group's name, by the same rule as a user's.

    Raises:
        MaestroError: ``invalid_name``.
    """
    try:
        return check_user_name(text)
    except MaestroError:
        raise MaestroError("invalid_name", f"{str(text)[:40]!r} is not a group name.", {"field": "group"}) from None
