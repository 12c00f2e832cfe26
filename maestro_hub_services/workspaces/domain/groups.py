"""Group pools count by the Hub's groups of the moment: what runs is counted anew when its user joins or leaves one."""

from __future__ import annotations

from collections.abc import Mapping

from ..authority import Authority


async def follow_groups(authority: Authority, groups: Mapping[tuple[str, str], tuple[str, ...]]) -> int:
    """Note the groups of everybody who runs something, where they changed; how many launches that touched.

    A launch that ended keeps what it had: its hours stay with the groups in which they were used.

    Args:
        groups: by name and creation stamp, those users whose groups are known now.
    """
    async with authority.store.read() as unit:
        noted = await unit.launches.noted_groups()
        changed = {
            launch.id: groups[launch.user, launch.user_created]
            for launch in await unit.launches.active()
            if (launch.user, launch.user_created) in groups
            and noted.get(launch.id, set()) != set(groups[launch.user, launch.user_created])
        }
    if changed:
        async with authority.store.write() as unit:
            still = await unit.launches.noted_groups()  # of what has not ended meanwhile
            for launch_id in changed.keys() & still.keys():
                await unit.launches.note_groups(launch_id, changed[launch_id])
    return len(changed)
