"""Where jobs run: what the service asks of a runner, whichever it is."""

from __future__ import annotations

from maestro_hub_services.settings import Settings

from .protocol import PATIENCE, Ended, JobAddress, Runner

__all__ = ["PATIENCE", "Ended", "JobAddress", "Runner", "make_runner"]


def make_runner(settings: Settings) -> Runner:
    """The runner of the provider that the settings name."""
    if settings.provider == "kubernetes":
        from .kubernetes import KubernetesRunner  # an extra: not installed on one machine

        return KubernetesRunner(settings)
    from .local import LocalRunner

    return LocalRunner(settings)
