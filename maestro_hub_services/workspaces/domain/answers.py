"""The answers to requests for packages, as the notebook of whoever asked shows them."""

from __future__ import annotations

from datetime import timedelta

from maestro_core.requests import shown
from maestro_core.usage import Notice
from maestro_core.workspaces import UserRef
from maestro_hub_services.store import LaunchRow, RequestRow, Unit
from maestro_hub_services.store.clock import now

from ..authority import Authority

#: how long an answer is news; the latest ones that are told together
NEWS, MOST = timedelta(hours=24), 3


async def answered(authority: Authority, unit: Unit, launch: LaunchRow, user: UserRef) -> Notice | None:
    """What was decided lately on what this user asked for in this workspace."""
    rows = await unit.requests.answered(user.name, user.created, launch.workspace_id, now() - NEWS)
    latest = sorted(rows, key=lambda row: (row.decided_at or row.asked_at, row.id))[-MOST:]
    if not latest:
        return None
    return Notice(id="packages", message=" ".join(_sentence(row) for row in reversed(latest)))


def _sentence(row: RequestRow) -> str:
    what = shown(row.package, row.version, row.channel)
    why = f": {row.answer.rstrip('.')}" if row.answer else ""
    if row.status == "approved":
        return f"{what} is approved by {row.decided_by}{why}. Install it now, no restart is needed."
    return f"{what} is denied by {row.decided_by}{why}."
