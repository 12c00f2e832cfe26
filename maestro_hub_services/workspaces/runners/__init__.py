"""Where jobs run: what the service asks of a runner, whichever it is."""

from .protocol import Ended, JobAddress, Runner

__all__ = ["Ended", "JobAddress", "Runner"]
