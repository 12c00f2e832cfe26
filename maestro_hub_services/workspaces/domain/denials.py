"""What the index refused becomes events of those who asked; a loop is counted on one."""

from __future__ import annotations

from maestro_core.denials import DenialReport
from maestro_core.requests import shown

from ..authority import Authority


async def keep(authority: Authority, report: DenialReport) -> None:
    """Leave the events; what is of no launch that we know is passed over."""
    async with authority.store.write() as unit:
        for denial in report.denials:
            launch = await unit.launches.get(denial.launch_id)
            if launch is None:
                continue
            await unit.events.count_up(
                "download_denied",
                launch.user,
                user=launch.user,
                workspace_id=launch.workspace_id,
                launch_id=launch.id,
                apart=("version", "message"),
                times=denial.count,
                package=shown(denial.package, "", denial.channel),
                version=denial.version,
                action=denial.action.value,
                rule=denial.rule,
                message=denial.message,
            )
