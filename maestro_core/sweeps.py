"""Sweeps: one notebook or script with many sets of parameters, as jobs below one parent run. Pure.

A **grid** is every combination of the values that are listed. A **search** is a study of Optuna's: each trial's
parameters come from what the trials before it brought. A *trial* is a job; the sweep itself holds nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .jobs import JobSpec, JobStatus, Parameter, check_parameters

#: tags of the parent run and of the trials' runs
TAG_SWEEP, TAG_TRIAL = "maestro.sweep", "maestro.trial"
#: trials of one sweep; that run at the same time; values of one parameter; parameters
MAX_TRIALS, MAX_PARALLEL, MAX_VALUES, MAX_DIMENSIONS = 500, 50, 200, 30
DEFAULT_PARALLEL = 2

Goal = Literal["minimize", "maximize"]
Sampler = Literal["tpe", "random"]


class SweepStatus(StrEnum):
    """running -> finishing (its summary is written) -> an end."""

    RUNNING = "running"
    FINISHING = "finishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self not in (SweepStatus.RUNNING, SweepStatus.FINISHING)


class Span(BaseModel):
    """The numbers between two, both included; whole ones where both are written whole.

    Attributes:
        step: the distance between two of them. log: by their magnitude: 0.001 is as likely to 0.01 as 0.01 to 0.1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is of whole numbers."""
        return all(isinstance(one, int) for one in (self.low, self.high, 1 if self.step is None else self.step))

    @model_validator(mode="after")
    def _sound(self) -> Self:
        numbers = [self.low, self.high, *([] if self.step is None else [self.step])]
        if not all(math.isfinite(number) and abs(number) < 2**53 for number in numbers):
            raise ValueError("low, high and step are ordinary numbers")
        if self.low >= self.high:
            raise ValueError("low is below high")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError("step is above 0, and no more than high - low")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log goes with a low above 0, and without step")
        return self


class SweepSpec(JobSpec):
    """The body of ``POST /workspaces/{workspace}/sweeps``, and ``sweep.yaml``: a job, and what differs between trials.

    Attributes:
        grid: parameter -> its values; every combination runs. search: parameter -> its values, or a :class:`Span`.
            One of them.
        trials: of a search, how many. sampler, seed: of Optuna.
        metric: what the trials log, whose last value counts; needed for a search.
        goal: whether a low or a high value of it is good.
        max_parallel: so many trials run at the same time, as far as quotas let them.
    """

    grid: dict[str, tuple[Parameter, ...]] | None = None
    search: dict[str, Span | tuple[Parameter, ...]] | None = None
    trials: int | None = Field(default=None, ge=1, le=MAX_TRIALS)
    sampler: Sampler = "tpe"
    seed: int = Field(default=0, ge=0, lt=2**31)
    metric: str | None = Field(default=None, min_length=1, max_length=250)
    goal: Goal | None = None
    max_parallel: int = Field(default=DEFAULT_PARALLEL, ge=1, le=MAX_PARALLEL)

    @field_validator("grid", mode="before")
    @classmethod
    def _grid(cls, value: Any) -> Any:
        return value if not isinstance(value, Mapping) else {name: _values(name, one) for name, one in value.items()}

    @field_validator("search", mode="before")
    @classmethod
    def _search(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: Span.model_validate(one) if isinstance(one, Mapping) else _values(name, one, scalar=True)
                for name, one in value.items()}  # fmt: skip

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.grid is None) == (self.search is None):
            raise ValueError("write grid (every combination) or search (Optuna chooses), one of them")
        if not 1 <= len(self.space) <= MAX_DIMENSIONS:
            raise ValueError(f"1 to {MAX_DIMENSIONS} parameters differ from trial to trial")
        check_parameters(dict.fromkeys(self.space))
        if both := sorted(self.space.keys() & self.parameters.keys()):
            raise ValueError(f"{both[0]} stands among the parameters that stay, too; write it once")
        if self.schedule is not None:
            raise ValueError("a sweep has no schedule; queue it when it is to run")
        if (self.metric is None) != (self.goal is None):
            raise ValueError(
                "metric and goal go together: say which value counts, and whether to minimize or maximize it"
            )
        if self.search is not None and (self.metric is None or self.trials is None):
            raise ValueError("a search needs metric, goal and trials (how many)")
        if self.grid is not None and self.trials is not None:
            raise ValueError("trials is for a search; a grid has as many as there are combinations")
        if self.total > MAX_TRIALS:
            raise ValueError(f"a sweep has at most {MAX_TRIALS} trials, and this grid has {self.total} combinations")
        return self

    @property
    def space(self) -> Mapping[str, Span | tuple[Parameter, ...]]:
        """Parameter -> what it may be."""
        return self.search if self.grid is None else self.grid  # type: ignore[return-value]

    @property
    def total(self) -> int:
        """How many trials it has."""
        return self.trials or math.prod(len(values) for values in (self.grid or {}).values())

    def point(self, number: int) -> dict[str, Parameter]:
        """Of a grid: the combination of a number from 0; the last parameter changes first.

        Raises:
            IndexError: there are not so many.
        """
        grid = self.grid or {}
        try:
            values = next(itertools.islice(itertools.product(*grid.values()), number, None))
        except StopIteration:
            raise IndexError(number) from None
        return dict(zip(grid, values, strict=True))

    def trial_job(self, number: int, parameters: Mapping[str, Any], path: str) -> JobSpec:
        """The job of a trial."""
        kept = {name: getattr(self, name) for name in JobSpec.model_fields if name not in ("content", "schedule")}
        kept |= {
            "name": f"{self.shown_name(path)[:90]} {number + 1}",
            "parameters": {**self.parameters, **parameters},
            "notebook": path if path.endswith(".ipynb") else None,
            "script": path if path.endswith(".py") else None,
        }
        return JobSpec.model_construct(**kept)


def _values(name: object, values: object, *, scalar: bool = False) -> tuple[Any, ...]:
    """The values of one parameter.

    Raises:
        ValueError: they are no list, or none that a parameter can be, or one of them twice.
    """
    shown = str(name)[:40]
    if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= MAX_VALUES:
        raise ValueError(f"{shown} has a list of 1 to {MAX_VALUES} values")
    for value in values:
        check_parameters({"value" if not isinstance(name, str) else name: value})
        if scalar and isinstance(value, list):
            raise ValueError(f"{shown} has texts, numbers, true, false or null to choose from, no lists")
    written = [(type(value).__name__, str(value)) for value in values]
    if len(set(written)) != len(written):
        raise ValueError(f"{shown} has one of its values twice")
    return tuple(values)


# -- trials -----------------------------------------------------------------------------------------------------------


class TrialView(BaseModel):
    """One trial.

    Attributes:
        number: from 1. parameters: what differs from the other trials'.
        status: of its job; a trial that ran and did not log the metric has failed.
        value: of the sweep's metric.
    """

    number: int
    parameters: dict[str, Parameter]
    status: JobStatus
    reason: str | None = None
    value: float | None = None
    job_id: str | None = None
    run_id: str | None = None


def outcome(status: JobStatus, metric: str | None, metrics: Mapping[str, float]) -> tuple[JobStatus, float | None, str]:
    """How a trial ended whose job is over: its status, the value of its metric, and a reason where that is another."""
    if status is not JobStatus.SUCCEEDED or metric is None:
        return status, None, ""
    value = metrics.get(metric)
    if value is None:
        return JobStatus.FAILED, None, f"it ran, and logged no metric {metric}"
    if not math.isfinite(value):
        return JobStatus.FAILED, None, f"it ran, and its {metric} is {value}"
    return status, value, ""


def best(trials: Iterable[TrialView], goal: Goal | None) -> TrialView | None:
    """The trial with the best value, of equals the first; None where there is none."""
    valued = [trial for trial in trials if trial.value is not None]
    if goal is None or not valued:
        return None
    sign = 1 if goal == "minimize" else -1
    return min(valued, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


class SweepView(BaseModel):
    """A sweep as the API shows it.

    Attributes:
        done, failed: how many trials are over, and how many of those did not succeed. total: how many there will be.
        trials: those that were begun; empty in lists.
        parent_run: the run that holds the trials' runs and the summary; None until the first trial has begun.
        mine: whether the caller may cancel it.
    """

    sweep_id: str
    name: str
    workspace: str
    user: str
    status: SweepStatus
    reason: str | None = None
    path: str
    experiment: str
    method: Literal["grid", "search"]
    metric: str | None = None
    goal: Goal | None = None
    max_parallel: int
    total: int
    done: int
    failed: int
    best: TrialView | None = None
    trials: tuple[TrialView, ...] = ()
    parent_run: str | None = None
    mine: bool = False
    created_at: datetime
    ended_at: datetime | None = None

    @property
    def ranked(self) -> list[TrialView]:
        """Its trials, the best first, and in the end those without a value."""
        sign = -1 if self.goal == "maximize" else 1
        return sorted(self.trials, key=lambda one: (one.value is None, sign * (one.value or 0.0), one.number))


class SweepList(BaseModel):
    """Sweeps, the newest first; without their trials."""

    sweeps: tuple[SweepView, ...] = ()


class SummaryOrder(BaseModel):
    """What the job that ends a sweep is to write: the content of a work order of kind ``sweep-summary``.

    Attributes:
        status: in which the parent run ends. reason: where that is not FINISHED.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sweep_id: str
    name: str
    path: str
    metric: str | None = None
    goal: Goal | None = None
    status: Literal["FINISHED", "FAILED", "KILLED"]
    reason: str | None = None
    total: int
    trials: tuple[TrialView, ...] = ()
