"""One file that an admin lets in for a few minutes, whatever the rules say."""

from __future__ import annotations

from datetime import timedelta

from maestro_core.errors import MaestroError
from maestro_core.requests import FORCE_MINUTES, Forced, ForceSpec
from maestro_hub_services.store.clock import now

from ..authority import Authority
from ..identity import Caller
from .access import opened
from .packages import compiled


async def force(authority: Authority, caller: Caller, workspace: str, spec: ForceSpec) -> Forced:
    """Let the file with this hash into a workspace for 15 minutes. Its dependencies are held to the rules.

    Raises:
        MaestroError: ``forbidden`` for all but admins in person; ``unknown_workspace``; ``package_blocked`` for known
            malware.
    """
    if not caller.admin:
        raise MaestroError("forbidden", "Only an admin lets a package in that the policy refuses; ask one.")
    async with opened(authority, caller, workspace, "read", write=True) as (unit, standing):
        place = standing.workspace
        known = (await compiled(authority, unit, place)).malware_in(spec.package, spec.version)
        if known is not None:
            raise MaestroError(
                "package_blocked",
                f"{spec.package} {spec.version} is known malware ({known.id}), which nobody lets in.",
                {"package": spec.package, "rule": known.id},
            )
        until = now() + timedelta(minutes=FORCE_MINUTES)
        await unit.rules.grant(place.id, spec.package, spec.version, spec.sha256, until)
        await unit.events.append(
            "package_forced",
            caller.name,
            workspace_id=place.id,
            package=spec.package,
            version=spec.version,
            sha256=spec.sha256,
            until=until.isoformat(),
            reason=spec.reason,
        )
    return Forced(workspace=place.name, package=spec.package, version=spec.version, sha256=spec.sha256, until=until)
