"""Sweeps: which trials a grid has, what is refused and how, and which trial is the best."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.errors import MaestroError
from maestro_core.jobs import JobStatus
from maestro_core.models import read_model
from maestro_core.sweeps import SweepSpec, TrialView, best, outcome
from maestro_hub_services.workspaces import samplers

SCALAR = st.one_of(st.booleans(), st.integers(-9, 9), st.floats(-9, 9), st.text("abc", max_size=3), st.none())
VALUES = st.lists(SCALAR, min_size=1, max_size=4, unique_by=lambda value: (type(value), str(value)))
GRID = st.dictionaries(st.sampled_from(["depth", "rate", "kind", "seed"]), VALUES, min_size=1)
SEARCH = {"search": {"rate": {"low": 0.1, "high": 1}}, "trials": 3, "metric": "loss", "goal": "minimize"}


def spec(**fields: Any) -> SweepSpec:
    return read_model(SweepSpec, {"notebook": "train.ipynb", **fields})


def refused(**fields: Any) -> str:
    with pytest.raises(MaestroError) as refusal:
        spec(**fields)
    return refusal.value.message


class TestGrid:
    @given(GRID)
    def test_every_combination_once_and_no_other(self, grid: dict[str, list[Any]]) -> None:
        sweep = spec(grid=grid)
        points = [sweep.point(number) for number in range(sweep.total)]
        wanted = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        assert json.dumps(points) == json.dumps(wanted)
        with pytest.raises(IndexError):
            sweep.point(sweep.total)

    @given(GRID)
    def test_it_is_the_same_after_it_was_stored(self, grid: dict[str, list[Any]]) -> None:
        sweep = spec(grid=grid, tags={"team": "blue"})
        stored = json.loads(json.dumps(sweep.model_dump(mode="json")))
        again = SweepSpec.model_validate(stored)
        assert [again.point(number) for number in range(again.total)] == [sweep.point(n) for n in range(sweep.total)]

    def test_a_trials_job_has_what_differs_and_what_stays(self) -> None:
        sweep = spec(grid={"depth": [2, 4]}, parameters={"epochs": 3}, retries=1, profile="small", name="depths")
        job = sweep.trial_job(1, sweep.point(1), "train.ipynb")
        assert job.parameters == {"epochs": 3, "depth": 4}
        assert (job.name, job.notebook, job.retries, job.profile) == ("depths 2", "train.ipynb", 1, "small")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "write grid (every combination) or search (Optuna chooses), one of them"),
        ({"grid": {"a": [1]}, **SEARCH}, "write grid (every combination) or search"),
        ({"grid": {}}, "1 to 30 parameters differ"),
        ({"grid": {"a": []}}, "a has a list of 1 to 200 values"),
        ({"grid": {"a": 3}}, "a has a list of 1 to 200 values"),
        ({"grid": {"a": [1, 2, 1]}}, "a has one of its values twice"),
        ({"grid": {"a b": [1]}}, "'a b' cannot be a parameter"),
        ({"grid": {"a": [{"b": 1}]}}, "the parameter a is a text, a number"),
        ({"grid": {"a": [1]}, "parameters": {"a": 2}}, "a stands among the parameters that stay, too"),
        ({"grid": {"a": list(range(30)), "b": list(range(30))}}, "at most 500 trials, and this grid has 900"),
        ({"grid": {"a": [1]}, "schedule": "0 6 * * *"}, "a sweep has no schedule"),
        ({"grid": {"a": [1]}, "trials": 2}, "trials is for a search"),
        ({"grid": {"a": [1]}, "metric": "loss"}, "metric and goal go together: say which value counts"),
        ({"grid": {"a": [1]}, "max_parallel": 0}, "max_parallel: input should be greater than or equal to 1"),
        ({**SEARCH, "trials": None}, "a search needs metric, goal and trials"),
        ({**SEARCH, "search": {"a": {"low": 2, "high": 1}}}, "low is below high"),
        ({**SEARCH, "search": {"a": {"low": 0, "high": 1, "log": True}}}, "log goes with a low above 0"),
        ({**SEARCH, "search": {"a": {"low": 0, "high": 1, "step": 2}}}, "step is above 0, and no more than high - low"),
        ({**SEARCH, "search": {"a": {"low": 0, "high": float("inf")}}}, "low, high and step are ordinary numbers"),
        ({**SEARCH, "search": {"a": [[1], [2]]}}, "a has texts, numbers, true, false or null to choose from"),
        ({**SEARCH, "search": {"a": {"low": 0}}}, "high"),
        ({**SEARCH, "sampler": "magic"}, "sampler"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    said = refused(**fields)
    assert sentence in said and said.endswith(".") and "\n" not in said


def test_whole_numbers_where_both_ends_are_whole() -> None:
    sweep = spec(**{**SEARCH, "search": {"a": {"low": 1, "high": 8}, "b": {"low": 1, "high": 8.5}}})
    assert [span.whole for span in sweep.space.values()] == [True, False]  # type: ignore[union-attr]


class TestOutcomes:
    def test_a_trial_without_its_metric_has_failed(self) -> None:
        assert outcome(JobStatus.SUCCEEDED, "loss", {"loss": 0.5}) == (JobStatus.SUCCEEDED, 0.5, "")
        status, value, reason = outcome(JobStatus.SUCCEEDED, "loss", {"lost": 0.5})
        assert (status, value, reason) == (JobStatus.FAILED, None, "it ran, and logged no metric loss")
        assert outcome(JobStatus.SUCCEEDED, "loss", {"loss": float("nan")})[0] is JobStatus.FAILED
        assert outcome(JobStatus.FAILED, "loss", {"loss": 0.5}) == (JobStatus.FAILED, None, "")
        assert outcome(JobStatus.SUCCEEDED, None, {}) == (JobStatus.SUCCEEDED, None, "")

    @given(st.lists(st.one_of(st.none(), st.floats(-5, 5))))
    def test_the_best_is_the_first_of_the_best(self, values: list[float | None]) -> None:
        trials = [
            TrialView(number=number, parameters={}, status=JobStatus.SUCCEEDED, value=value)
            for number, value in enumerate(values, 1)
        ]
        known = [value for value in values if value is not None]
        for goal, pick in (("minimize", min), ("maximize", max)):
            found = best(trials, goal)  # type: ignore[arg-type]
            assert (found.number - 1 if found else None) == (values.index(pick(known)) if known else None)
        assert best(trials, None) is None


class TestSearch:
    space: dict[str, Any] = {
        "x": {"low": -10.0, "high": 10.0},
        "depth": {"low": 1, "high": 8, "step": 2},
        "rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "kind": [1, True, "one", None],
    }

    def run(self, trials: int, **more: Any) -> list[TrialView]:
        sweep = spec(search=self.space, trials=trials, metric="loss", goal="minimize", **more)
        done: list[TrialView] = []
        for number in range(1, trials + 1):
            found = json.loads(json.dumps(samplers.suggest(sweep, number, done)))  # as it is stored
            value = None if number == 2 else (found["x"] - 3) ** 2
            status = JobStatus.FAILED if value is None else JobStatus.SUCCEEDED
            done.append(TrialView(number=number, parameters=found, status=status, value=value))
        return done

    def test_what_it_suggests_is_what_was_asked_for(self) -> None:
        for trial in self.run(15):
            found: dict[str, Any] = dict(trial.parameters)
            assert -10 <= found["x"] <= 10 and found["depth"] in (1, 3, 5, 7) and 1e-4 <= found["rate"] <= 1e-1
            assert any(type(found["kind"]) is type(one) and found["kind"] == one for one in self.space["kind"])

    def test_the_same_trials_lead_to_the_same_next_one(self) -> None:
        assert self.run(12) == self.run(12)
        assert self.run(3) != self.run(3, seed=1)

    def test_it_learns(self) -> None:
        found = [trial.value for trial in self.run(40) if trial.value is not None]
        assert sum(sorted(found[20:])[:10]) < sum(sorted(found[:20])[:10]) and min(found) < 1

    def test_trials_that_run_at_the_same_time_differ(self) -> None:
        sweep = spec(search=self.space, trials=20, metric="loss", goal="minimize")
        done = self.run(12)
        first = samplers.suggest(sweep, 13, done)
        running = TrialView(number=13, parameters=first, status=JobStatus.RUNNING)
        assert samplers.suggest(sweep, 14, [*done, running])["x"] != first["x"]
