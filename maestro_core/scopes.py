"""What the scopes of a Hub token say about whose it is: a person's, or a notebook server's.

JupyterHub: ``access:servers!user=<name>`` reaches all servers of a person,
``access:servers!server=<name>/<server>`` one.
"""

from __future__ import annotations

from collections.abc import Collection

_ONE_SERVER = "access:servers!server="
#: lets a token load registered models of the workspaces that its filters name (``...!server=ann/reef``)
MODELS = "custom:maestro:models"


def bound_servers(user: str, scopes: Collection[str]) -> tuple[str, ...] | None:
    """The servers of ``user`` that a token is bound to, or None for a person's token.

    What reaches single servers only is held by such a server, or as weak as if it were; a token that is bound to
    somebody else's servers alone is bound to none of the user's: it acts nowhere.
    """
    if "access:servers" in scopes or f"access:servers!user={user}" in scopes:
        return None
    bound = [scope.removeprefix(_ONE_SERVER) for scope in scopes if scope.startswith(_ONE_SERVER)]
    if not bound:
        return None
    return tuple(sorted(full.removeprefix(f"{user}/") for full in bound if full.startswith(f"{user}/")))


def loadable_workspaces(user: str, scopes: Collection[str]) -> tuple[str, ...]:
    """The workspaces of which a token loads models. A server's name is its workspace's, so a filter by server says it.

    The scope without a filter names no workspace, and opens none.
    """
    start = f"{MODELS}!server={user}/"
    return tuple(sorted(scope.removeprefix(start) for scope in scopes if scope.startswith(start)))
