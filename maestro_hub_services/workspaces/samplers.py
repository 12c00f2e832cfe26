"""Which parameters a sweep's next trial gets: of a grid the next combination, of a search what Optuna's sampler says.

Nothing is remembered between two questions: the study is made anew from the trials that are written down, and the seed
is the sweep's and the trial's. So the same trials lead to the same next one, before and after a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from maestro_core.jobs import JobStatus
from maestro_core.sweeps import Span, SweepSpec, TrialView

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


def suggest(spec: SweepSpec, number: int, trials: Iterable[TrialView]) -> dict[str, Any]:
    """The parameters of a trial. Blocking, and slow the first time: call it in a thread.

    Args:
        number: of the trial, from 1. trials: those before it.
    """
    if spec.grid is not None:
        return spec.point(number - 1)
    import optuna  # most of a second, and not every service has a search

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {name: _distribution(one) for name, one in spec.space.items()}
    study = optuna.create_study(direction=spec.goal, sampler=_sampler(spec, number))
    study.add_trials([_frozen(spec, space, trial) for trial in trials])
    asked = study.ask(dict(space)).params
    return {name: _value(one, asked[name]) for name, one in spec.space.items()}


def _sampler(spec: SweepSpec, number: int) -> Any:
    from optuna import samplers

    seed = (spec.seed * 1_000_003 + number) % 2**32
    if spec.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    # constant_liar: trials that run at the same time keep away from each other
    return samplers.TPESampler(seed=seed, constant_liar=True)


def _distribution(choice: Span | tuple[Any, ...]) -> BaseDistribution:
    """Optuna's word for a parameter; values to choose from are numbered, since 1 and True are equal to Python."""
    from optuna import distributions

    if not isinstance(choice, Span):
        return distributions.CategoricalDistribution(range(len(choice)))
    if choice.whole:
        step = 1 if choice.step is None else int(choice.step)
        high = int(choice.high) - (int(choice.high) - int(choice.low)) % step
        return distributions.IntDistribution(int(choice.low), high, log=choice.log, step=step)
    return distributions.FloatDistribution(choice.low, choice.high, log=choice.log, step=choice.step)


def _value(choice: Span | tuple[Any, ...], asked: Any) -> Any:
    return asked if isinstance(choice, Span) else choice[asked]


def _frozen(spec: SweepSpec, space: Mapping[str, BaseDistribution], trial: TrialView) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    written = {name: _number(one, trial.parameters[name]) for name, one in spec.space.items()}
    state = TrialState.COMPLETE if trial.value is not None else TrialState.FAIL
    if trial.value is None and trial.status in (JobStatus.QUEUED, JobStatus.STARTING, JobStatus.RUNNING):
        state = TrialState.RUNNING
    return create_trial(state=state, value=trial.value, params=written, distributions=dict(space))


def _number(choice: Span | tuple[Any, ...], value: Any) -> Any:
    if isinstance(choice, Span):
        return value
    return next(index for index, one in enumerate(choice) if type(one) is type(value) and one == value)
