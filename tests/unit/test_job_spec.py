"""What somebody may ask of a job, and how times are written."""

from __future__ import annotations

from typing import Any

import pytest

from maestro_core.errors import MaestroError
from maestro_core.jobs import DEFAULT_TIMEOUT, JobSpec, JobStatus, JobView, parse_seconds, retry_pause, show_seconds
from maestro_core.models import read_model


def spec(**fields: Any) -> JobSpec:
    return read_model(JobSpec, fields)


@pytest.mark.parametrize(
    ("written", "seconds"), [("2h", 7200), ("90", 90), (90, 90), ("1d12h", 129600), ("30m", 1800), ("1h30m10s", 5410)]
)
def test_a_timeout_is_written_as_people_do(written: object, seconds: int) -> None:
    assert parse_seconds(written) == seconds


@pytest.mark.parametrize("written", ["", "soon", "h", "2 weeks", float("nan"), True, "-5", "9" * 40])
def test_what_is_no_time_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="write a time"):
        parse_seconds(written)


def test_times_are_shown_in_two_figures() -> None:
    assert [show_seconds(n) for n in (0, 40, 300, 5410, 129600)] == ["0 s", "40 s", "5 min", "1 h 30 min", "1 d 12 h"]


def test_attempts_are_apart_further_each_time() -> None:
    assert [retry_pause(n) for n in (1, 2, 3, 10)] == [10, 20, 40, 600]


def test_nothing_said_is_a_job_of_a_day_without_retries() -> None:
    made = spec()
    assert (made.timeout, made.retries, made.path) == (DEFAULT_TIMEOUT, 0, None)


def test_a_spec_as_a_yaml_file_says_it() -> None:
    made = spec(
        notebook="work/train.ipynb",
        experiment="wine",
        parameters={"lr": 0.1, "layers": [64, 32], "name": "a"},
        resources={"cpu": 2, "memory": "4Gi"},
        retries=2,
        timeout="2h",
        schedule=" 0  6 * * 1-5 ",
    )
    assert (made.timeout, made.schedule, made.shown_name("work/train.ipynb")) == (7200, "0 6 * * 1-5", "train")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"notebook": "../secret.ipynb"}, "below its workspace"),
        ({"notebook": "/etc/x.ipynb"}, "below its workspace"),
        ({"script": "run.sh"}, "ends in .py"),
        ({"notebook": "a.ipynb", "script": "b.py"}, "not both"),
        ({"content": "KLUv"}, "needs the path"),
        ({"parameters": {"not a name": 1}}, "variable of Python"),
        ({"parameters": {"x": {"deep": 1}}}, "the parameter x"),
        ({"parameters": {"x": float("inf")}}, "the parameter x"),
        ({"parameters": {"x": "a\0b"}}, "the parameter x"),
        ({"parameters": {f"x{n}": "a" * 4000 for n in range(10)}}, "at most 32 KiB"),
        ({"tags": {"x": "a\0b"}}, "cannot be a tag"),
        ({"retries": 11}, "retries"),
        ({"timeout": "1s"}, "timeout"),
        ({"schedule": "daily"}, "five fields"),
        ({"tags": {"mlflow.user": "root"}}, "cannot be a tag"),
        ({"tags": {"maestro.job": "x"}}, "cannot be a tag"),
        ({"notebok": "a.ipynb"}, "there is no such setting"),
        ({"experiment": " x"}, "experiment"),
    ],
)
def test_a_mistake_is_named(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MaestroError) as refused:
        spec(**fields)
    assert sentence in refused.value.message


def test_what_is_over_and_what_holds_something() -> None:
    assert [status.value for status in JobStatus if status.over] == ["succeeded", "failed", "cancelled"]
    assert [status.value for status in JobStatus if status.active] == ["starting", "running"]


def test_why_a_job_waits_is_one_sentence() -> None:
    job = JobView.model_construct(status=JobStatus.QUEUED, reason="Cell 4 raised ValueError: x.", waits="tries again")
    assert job.why == "Cell 4 raised ValueError: x; tries again"
    assert job.model_copy(update={"waits": None}).why == "Cell 4 raised ValueError: x."
    assert job.model_copy(update={"status": JobStatus.FAILED}).why == "Cell 4 raised ValueError: x."
    assert job.model_copy(update={"reason": None}).why == "tries again"
