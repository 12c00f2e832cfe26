"""Who calls, with which row of the table, in which workspace: what the gate found out, for the rules behind it.

MLflow runs its Flask views in a worker thread with a copy of the request's context, so a context variable arrives
there; no header could be forged into its place.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from maestro_core.roles import Role

from .membership import Memberships
from .routes import Match


@dataclass(frozen=True)
class Caller:
    """One admitted request.

    Attributes:
        user: the Hub's name of the person, whatever the client calls itself.
        match: the row of the table and MLflow's rule.
        memberships: every workspace that this credential may act in.
        workspace, role: where it acts now and as what; None on routes without a workspace.
        experiment: the only experiment it may touch (a viewer's server in its personal workspace), or None.
    """

    user: str
    match: Match
    memberships: Memberships
    workspace: str | None = None
    role: Role | None = None
    experiment: str | None = None


#: set by the gate for one request; empty means that nothing was admitted
CALLER: ContextVar[Caller | None] = ContextVar("maestro_tracking_caller", default=None)
