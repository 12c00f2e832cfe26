"""The workspace's environment as a job has it: what a server finishes beside itself is there before the first cell."""

from __future__ import annotations

from collections.abc import Mapping

from ..launch import Launch

#: seconds in which packages are built from source
FINISH_SECONDS = 1800.0


def finish(launch: Launch, environ: Mapping[str, str]) -> list[str]:
    """Install what did not fit into a start, or is built from source; blocks, perhaps for minutes.

    Args:
        launch: whose environment ``server_extension.start.prepare`` has made.

    Returns:
        lines for the log: what is not as the workspace's version says.
    """
    if not environ.get("MAESTRO_ENVIRONMENT"):
        return []
    from ..packages.build import Outcome, build

    outcome = Outcome.kept(launch.private)
    if outcome.unfinished:
        outcome = build(launch, environ, FINISH_SECONDS, sources=True)
    version = f"version {outcome.version} of the workspace's environment"
    lines = [f"Without {version}: {outcome.problem}"] if outcome.problem else []
    lines += [f"Without {name} of {version}: {why}" for name, why in outcome.missing.items()]
    if outcome.unfinished:
        lines.append(f"The installation of {version} took too long, and is not complete")
    return [f"{line.rstrip('.')}.\n" for line in lines]
