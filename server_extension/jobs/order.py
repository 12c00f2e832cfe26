"""What one attempt is to run, as the service says it.

Read without pydantic, whose import takes a tenth of a second before every first cell; the service has checked it all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Order:
    """``maestro_core.jobs.WorkOrder``, whose attributes these are."""

    job_id: str
    launch_id: str
    attempt: int
    kind: str
    path: str
    experiment: str
    snapshot: str
    name: str
    timeout_seconds: int
    content: str = field(repr=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    parent_run: str | None = None
    open_parent: Mapping[str, Any] | None = None
    metric: str | None = None

    @classmethod
    def read(cls, answer: Any) -> Order:
        """From the answer's JSON; what is not known is left out.

        Raises:
            ValueError: something is missing.
        """
        try:
            known = {name: answer[name] for name in cls.__dataclass_fields__ if name in answer}
            return cls(**known)
        except (TypeError, KeyError) as error:
            raise ValueError(f"the service gave no work order that this worker understands: {error}") from None

    @property
    def file_name(self) -> str:
        """Of the notebook or script, without its folder."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class End:
    """How an attempt ended.

    Attributes:
        outcome: as in ``maestro_core.jobs.JobDone``. reason: one sentence for its submitter.
        killed: whether it was ended from outside, and so would have gone on.
    """

    outcome: str
    reason: str = ""
    killed: bool = False

    @property
    def status(self) -> str:
        """MLflow's word for it."""
        return "KILLED" if self.killed else {"succeeded": "FINISHED", "failed": "FAILED"}.get(self.outcome, "KILLED")


SUCCEEDED = End("succeeded")
