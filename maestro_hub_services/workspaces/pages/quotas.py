"""The quotas page for admins: every figure and who set it, who is near one, and forms to set and take back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from maestro_core.errors import MaestroError
from maestro_core.figures import NearView, QuotaSpec, QuotaView
from maestro_core.models import read_model
from maestro_core.quota import FILE, LEVELS, LIMITS, PoolQuota

from ..identity import ADMIN
from .base import Page

#: how the form calls the levels
LEVEL_TITLES = {
    "everyone": "everyone: what each person may have",
    "group": "group: what each of its members may have",
    "user": "user",
    "workspace": "workspace: what all its servers may have together",
    "pool": "pool of everyone: what all people may have together",
    "group-pool": "pool of a group: what all its members may have together",
}
#: limits by whether pools take them, for the form's list
SHARED = [(name, LIMITS[name].title) for name in LIMITS if name in PoolQuota.model_fields]
SINGLE = [(name, LIMITS[name].title) for name in LIMITS if name not in PoolQuota.model_fields]


class QuotasPage(Page):
    """Every figure, and the form of a new one."""

    scope = ADMIN

    async def get(self) -> None:
        """The page."""
        await self._page({"level": "everyone", "name": "", "limit": "", "value": "", "problem": None})

    async def post(self) -> None:
        """Set a figure; a refusal keeps what was typed."""
        draft = {name: self.field(name) for name in ("level", "name", "limit", "value")}
        try:
            spec = read_model(QuotaSpec, {name: draft[name] for name in ("level", "name", "value")})
            made = await self.desk.set_quota(draft["limit"], spec)
        except MaestroError as error:
            await self._page({**draft, "problem": error.message}, error.status)
            return
        self.say(f"{made.title}: {made.shown} for {made.set_for}, from the next decision on.", self.links.quotas)

    async def _page(self, draft: dict[str, str | None], status: int = 200) -> None:
        problem: str | None = None
        quotas: Sequence[QuotaView] = ()
        near: Sequence[NearView] = ()
        try:
            quotas, near = await asyncio.gather(self.desk.quotas(), self.desk.near())
        except MaestroError as error:  # no policy is in force
            problem = error.message
        self.show(
            "quotas",
            status,
            here="maestro-admin",
            quotas=quotas,
            near=near,
            problem=problem,
            draft=draft,
            levels=LEVEL_TITLES,
            shared=SHARED,
            single=SINGLE,
            file=FILE,
        )


class RemoveQuotaForm(Page):
    """Take back what was set at runtime."""

    scope = ADMIN

    async def post(self) -> None:
        """Remove it and go back."""
        level, name, limit = (self.field(field) for field in ("level", "name", "limit"))
        try:
            await self.desk.remove_quota(limit, level, name)
        except MaestroError as error:
            self.say(error.message, self.links.quotas, good=False)
            return
        self.say(f"Taken back; for {LEVELS[level].shown.format(name)} {FILE} counts again.", self.links.quotas)
