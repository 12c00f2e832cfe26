"""The truth about workspaces, members, launches and events: tables, migrations, one repository class an aggregate.

Opened by the workspaces service alone::

    store = await Store.open(url, lock=state / "service" / "lock")
    async with store.write() as unit:      # the one lock under which launches are admitted
        workspace = await unit.workspaces.by_name("demo")
    async with store.write() as unit: ...      # any other change
    async with store.read() as unit: ...       # looks only
"""

from .database import Store, StoreLocked, Unit
from .environments import EnvironmentRow, LockRow
from .events import EventRow
from .invitations import InvitationRow
from .jobs import AttemptRow, JobRow
from .launches import Held, LaunchRow
from .members import MemberRow
from .quotas import Place
from .requests import AskerRow, RequestRow, RuleRow
from .sweeps import SweepRow, TrialRow
from .usage import UsageRow
from .workspaces import WorkspaceRow

__all__ = [
    "AskerRow",
    "AttemptRow",
    "EnvironmentRow",
    "EventRow",
    "Held",
    "InvitationRow",
    "JobRow",
    "LaunchRow",
    "LockRow",
    "MemberRow",
    "Place",
    "RequestRow",
    "RuleRow",
    "Store",
    "StoreLocked",
    "SweepRow",
    "TrialRow",
    "Unit",
    "UsageRow",
    "WorkspaceRow",
]
