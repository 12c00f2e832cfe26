"""Jobs: notebooks and scripts that run without a browser. What is asked for, what a worker does, what people see. Pure.

A job waits in a queue and holds nothing. Each time that it runs (an *attempt*) is a launch of kind ``job``: admitted by
the same decision as a server, under the same quotas, with the same plan.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from .experiments import check_experiment
from .names import check_name
from .resources import Resources
from .snapshots import ADDRESS, MAX_CONTENT, check_path

#: how a job's token begins; the rest is hexadecimal
JOB_MARK = "mjob_"
#: tags of a job's run
TAG_JOB, TAG_ATTEMPT = "maestro.job", "maestro.attempt"

MAX_RETRIES = 10
MAX_CONCURRENCY = 1000
#: seconds
MIN_TIMEOUT, DEFAULT_TIMEOUT, MAX_TIMEOUT = 10, 24 * 3600, 14 * 24 * 3600
#: seconds before the second attempt; doubled before each further one, up to the second figure
RETRY_PAUSE, MAX_RETRY_PAUSE = 10, 600
#: of parameters: how many, and characters of each text
MAX_PARAMETERS, MAX_PARAMETER = 200, 4000
#: characters of all of them as JSON
MAX_PARAMETERS_JSON = 32 * 1024
MAX_TAGS, MAX_TAG = 50, 500
#: characters of a metric's name, as MLflow takes it
MAX_METRIC = 250
#: characters of one piece of log; bytes of UTF-8 that are kept of each attempt, the last ones
MAX_LOG_PIECE, KEPT_LOG = 64 * 1024, 1024 * 1024
#: of an executed notebook: characters of its zstd in base64, and bytes of its JSON
MAX_OUTPUT, MAX_OUTPUT_JSON = 4 * 1024 * 1024, 8 * 1024 * 1024
#: bytes of a script
MAX_SCRIPT = 1024 * 1024
#: seconds between two signs of life of a worker, at most
HEARTBEAT_SECONDS = 10

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_TAG = re.compile(r"[A-Za-z0-9_./ -]{1,100}")
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_CRON = re.compile(r"[0-9A-Za-z*,/#-]+(?: [0-9A-Za-z*,/#-]+){4}")

Kind = Literal["notebook", "script", "sweep-summary"]
Outcome = Literal["succeeded", "failed", "cancelled"]
Phase = Literal["environment", "starting", "running"]
Parameter = JsonValue


class JobStatus(StrEnum):
    """queued -> starting -> running -> an end; a failed attempt with retries left goes back to queued."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)

    @property
    def active(self) -> bool:
        """Whether it holds what its launch holds."""
        return self in (JobStatus.STARTING, JobStatus.RUNNING)


def parse_seconds(value: object) -> int:
    """A time as people write it: ``90`` (seconds), ``45s``, ``30m``, ``2h``, ``1d12h``.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and abs(value) < 1e12:
        return int(value)
    text = str(value).strip().lower()
    if text.isascii() and text.isdigit() and len(text) < 12:
        return int(text)
    match = _DURATION.fullmatch(text)
    if not text or len(text) > 30 or match is None:
        raise ValueError("write a time like 90, 45s, 30m, 2h or 1d12h")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def show_seconds(seconds: float) -> str:
    """For people, two figures at most: ``1 d 12 h``, ``5 min``, ``40 s``."""
    parts: list[str] = []
    left = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])


def retry_pause(attempt: int) -> int:
    """Seconds between the end of an attempt (from 1) and the next one."""
    return min(RETRY_PAUSE << (attempt - 1), MAX_RETRY_PAUSE)


def check_script_path(value: str) -> str:
    """A script's path below the workspace.

    Raises:
        ValueError: it leads out of it, or names no Python file.
    """
    parts = value.split("/")
    if not value.endswith(".py") or value.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError("a script's path is below its workspace and ends in .py")
    if not value.isprintable():
        raise ValueError("a script's path is printable text")
    return value


def check_runnable(value: str) -> str:
    """The path of a notebook or a script below the workspace.

    Raises:
        ValueError: it is neither.
    """
    return check_script_path(value) if value.endswith(".py") else check_path(value)


def _plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_PARAMETER and "\0" not in value
    if isinstance(value, float):
        return value == value and value not in (float("inf"), float("-inf"))
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None


def check_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a notebook or script: names of Python, each a scalar or a list of scalars.

    Raises:
        ValueError: naming the first that is none.
    """
    if len(values) > MAX_PARAMETERS:
        raise ValueError(f"at most {MAX_PARAMETERS} parameters")
    if len(json.dumps(values, default=str)) > MAX_PARAMETERS_JSON:
        raise ValueError(f"parameters take at most {MAX_PARAMETERS_JSON // 1024} KiB; put more into a file")
    for name, value in values.items():
        if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
            raise ValueError(f"{str(name)[:40]!r} cannot be a parameter: its name is a variable of Python")
        parts = value if isinstance(value, list) else [value]
        if len(parts) > MAX_PARAMETERS or not all(map(_plain, parts)):
            raise ValueError(f"the parameter {name} is a text, a number, true, false, null, or a list of these")
    return dict(values)


class JobSpec(BaseModel):
    """The body of ``POST /workspaces/{workspace}/jobs``, and ``experiment-config.yaml``.

    Attributes:
        name: for people; left out: the file's name.
        experiment: where its run goes; left out: the workspace's own.
        notebook, script: a path below the workspace; one of them. Neither: the workspace's ``entrypoint``, else the
            notebook last linked to the experiment.
        content: what runs: zstd of the notebook's JSON without outputs or of the script, in base64. Left out: the
            newest stored version of that notebook.
        parameters: a notebook's variables (as papermill sets them), a script's options.
        profile, resources, image: as of a server.
        retries: after a failed attempt. timeout: seconds of one attempt.
        max_concurrency: at most so many jobs of its ``queue`` run at a time, itself included.
        queue: what counts together for that, within the workspace; left out: the experiment's name.
        schedule: cron's five fields: each time it runs anew, with the code as it is now. timezone: of the schedule.
        tags: of its run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(default=None, max_length=100)
    experiment: str | None = None
    notebook: str | None = Field(default=None, max_length=1000)
    script: str | None = Field(default=None, max_length=1000)
    content: str | None = Field(default=None, max_length=MAX_CONTENT, pattern=r"^[A-Za-z0-9+/]*={0,2}$", repr=False)
    parameters: dict[str, Parameter] = {}
    profile: str | None = None
    resources: Resources | None = None
    image: str | None = None
    retries: int = Field(default=0, ge=0, le=MAX_RETRIES)
    timeout: int = Field(default=DEFAULT_TIMEOUT, ge=MIN_TIMEOUT, le=MAX_TIMEOUT)
    max_concurrency: int | None = Field(default=None, ge=1, le=MAX_CONCURRENCY)
    queue: str | None = Field(default=None, max_length=250)
    schedule: str | None = Field(default=None, max_length=100)
    timezone: str = Field(default="UTC", max_length=60)
    tags: dict[str, str] = {}

    @field_validator("name", "queue")
    @classmethod
    def _text(cls, value: str | None) -> str | None:
        if value is not None and (not value.isprintable() or value != value.strip() or not value):
            raise ValueError("write printable text")
        return value

    @field_validator("profile", "image", mode="before")
    @classmethod
    def _named(cls, value: Any, info: Any) -> str | None:
        return None if value in (None, "") else check_name(value, info.field_name)

    @field_validator("experiment", mode="before")
    @classmethod
    def _experiment(cls, value: Any) -> str | None:
        return None if value in (None, "") else check_experiment(value)

    @field_validator("notebook")
    @classmethod
    def _notebook(cls, value: str | None) -> str | None:
        return None if value is None else check_path(value)

    @field_validator("script")
    @classmethod
    def _script(cls, value: str | None) -> str | None:
        return None if value is None else check_script_path(value)

    @field_validator("parameters", mode="before")
    @classmethod
    def _parameters(cls, value: Any) -> Any:
        return check_parameters(value) if isinstance(value, Mapping) else value

    @field_validator("timeout", mode="before")
    @classmethod
    def _timeout(cls, value: Any) -> int:
        return DEFAULT_TIMEOUT if value is None else parse_seconds(value)

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule(cls, value: Any) -> str | None:
        if value in (None, ""):
            return None
        text = " ".join(str(value).split())
        if not _CRON.fullmatch(text):
            raise ValueError("a schedule is cron's five fields: minute, hour, day, month, weekday ('0 6 * * 1-5')")
        return text

    @field_validator("tags")
    @classmethod
    def _tags(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if (
                not _TAG.fullmatch(name)
                or name.startswith(("mlflow.", "maestro."))
                or len(text) > MAX_TAG
                or "\0" in text
            ):
                raise ValueError(
                    f"{name[:40]!r} cannot be a tag here: letters, digits, _./- and blanks, not one of MLflow's or "
                    f"Maestro's, and at most {MAX_TAG} characters of text"
                )
        if len(value) > MAX_TAGS:
            raise ValueError(f"at most {MAX_TAGS} tags")
        return value

    @model_validator(mode="after")
    def _one_file(self) -> Self:
        if self.notebook is not None and self.script is not None:
            raise ValueError("name a notebook or a script, not both")
        if self.content is not None and self.path is None:
            raise ValueError("content needs the path of its notebook or script")
        return self

    @property
    def path(self) -> str | None:
        """Of the notebook or script."""
        return self.notebook or self.script

    def shown_name(self, path: str) -> str:
        """The job's name: the own one, else the file's."""
        return self.name or path.rpartition("/")[2].rpartition(".")[0][:100]


# -- what a worker and the service tell each other --------------------------------------------------------------------


class OpenParent(BaseModel):
    """A parent run that the first worker which gets this creates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    tags: dict[str, str] = {}


class WorkOrder(BaseModel):
    """The answer of ``GET /jobs/{job}/work``: what one attempt is to run.

    Attributes:
        content: a notebook's JSON without outputs, or a script's text.
        snapshot: its address.
        parent_run: id of the run in which this one is nested. open_parent: create that run, and report its id.
        metric: its last value is wanted, beside all the others.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    job_id: str
    launch_id: str
    attempt: int
    kind: Kind
    path: str
    content: str = Field(repr=False)
    parameters: dict[str, Parameter] = {}
    experiment: str
    snapshot: str
    name: str
    timeout_seconds: int
    tags: dict[str, str] = {}
    parent_run: str | None = None
    open_parent: OpenParent | None = None
    metric: str | None = None


class Progress(BaseModel):
    """The body of ``POST /jobs/{job}/progress``: a worker's sign of life.

    Attributes:
        cell: that runs, from 1; 0: none yet. cells: how many there are; 0: it is a script.
        run_id, parent_run: of MLflow, once they are known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: int
    phase: Phase
    cell: int = Field(default=0, ge=0, le=100_000)
    cells: int = Field(default=0, ge=0, le=100_000)
    run_id: str | None = Field(default=None, max_length=64, pattern=r"^[0-9a-zA-Z_-]+$")
    parent_run: str | None = Field(default=None, max_length=64, pattern=r"^[0-9a-zA-Z_-]+$")


class Orders(BaseModel):
    """The answer to a sign of life. cancel: end kindly."""

    cancel: bool = False


class LogPiece(BaseModel):
    """The body of ``POST /jobs/{job}/log``.

    Attributes:
        offset: bytes of UTF-8 before it in this attempt's log.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: int
    offset: int = Field(ge=0, lt=2**53)
    text: str = Field(max_length=MAX_LOG_PIECE)


class OutputPut(BaseModel):
    """The body of ``PUT /jobs/{job}/notebook``: the executed notebook so far, zstd of its JSON in base64."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: int
    content: str = Field(max_length=MAX_OUTPUT, pattern=r"^[A-Za-z0-9+/]*={0,2}$", repr=False)


class JobDone(BaseModel):
    """The body of ``POST /jobs/{job}/done``: how an attempt ended. The first one counts.

    Attributes:
        reason: one sentence; empty where it succeeded.
        metrics: of its run, the last value of each.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: int
    outcome: Outcome
    reason: str = ""
    run_id: str | None = Field(default=None, max_length=64, pattern=r"^[0-9a-zA-Z_-]+$")
    metrics: dict[str, float] = Field(default={}, max_length=1000)

    @field_validator("reason")
    @classmethod
    def _reason(cls, value: str) -> str:
        return " ".join("".join(char if char.isprintable() else " " for char in value).split())[:1000]

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, values: dict[str, float]) -> dict[str, float]:
        """A number that JSON cannot say is left out: nobody could read the answer."""
        return {name[:MAX_METRIC]: value for name, value in values.items() if math.isfinite(value)}


class JobTokenQuestion(BaseModel):
    """MLflow's question: whose token is this?"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(max_length=200, repr=False)


class JobTokenOwner(BaseModel):
    """The answer: the attempt of a living job token.

    Attributes:
        server: what stands for a server's name in questions about what the token may touch.
    """

    user: str
    launch_id: str
    workspace: str
    job_id: str
    server: str


# -- what people see --------------------------------------------------------------------------------------------------


class JobProgress(BaseModel):
    """How far the last attempt is."""

    phase: Phase
    cell: int = 0
    cells: int = 0
    heard_at: datetime


class AttemptView(BaseModel):
    """One attempt.

    Attributes:
        outcome: None while it goes on. reason: one sentence, of an end that is no success.
    """

    attempt: int
    launch_id: str
    outcome: Outcome | None = None
    reason: str | None = None
    run_id: str | None = None
    started_at: datetime
    ended_at: datetime | None = None


class JobView(BaseModel):
    """A job as the API shows it.

    Attributes:
        reason: why it ended so, or why its last attempt failed; one sentence.
        waits: why it does not run yet; None: it waits for nothing, or not any more.
        snapshot: address of the code. attempt: the number of the last one; 0: none yet.
        next_at: when it may run: after a failed attempt, or by its schedule.
        series: the id of the first job of a schedule; its runs share it.
        run_id: of the last attempt's run. metrics: of that run.
        output: whether there is an executed notebook. mine: whether the caller may cancel it.
    """

    job_id: str
    name: str
    workspace: str
    user: str
    status: JobStatus
    reason: str | None = None
    waits: str | None = None
    kind: Kind
    path: str
    snapshot: str = Field(pattern=ADDRESS)
    experiment: str
    parameters: dict[str, Parameter] = {}
    profile: str | None = None
    resources: Resources | None = None
    image: str | None = None
    retries: int = 0
    timeout: int = DEFAULT_TIMEOUT
    max_concurrency: int | None = None
    queue: str = ""
    schedule: str | None = None
    timezone: str = "UTC"
    series: str | None = None
    sweep: str | None = None
    tags: dict[str, str] = {}
    attempt: int = 0
    attempts: tuple[AttemptView, ...] = ()
    launch_id: str | None = None
    progress: JobProgress | None = None
    run_id: str | None = None
    metrics: dict[str, float] = {}
    output: bool = False
    mine: bool = False
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    next_at: datetime | None = None

    @property
    def why(self) -> str:
        """Why it waits, or ended so; empty where there is nothing to say."""
        reason, waits = self.reason or "", self.waits or ""
        if self.status is not JobStatus.QUEUED or not waits:
            return reason
        return f"{reason.rstrip('.')}; {waits}" if reason else waits


def ending(job: JobView) -> str:
    """What became of the wish to end a job, in a sentence."""
    if not job.status.over:
        return f"{job.name} is told to end."
    over = job.status is JobStatus.CANCELLED
    return f"{job.name} is cancelled." if over else f"{job.name} was over already: it {job.status.value}."


class JobList(BaseModel):
    """Jobs, the newest first; without their attempts."""

    jobs: tuple[JobView, ...] = ()


class LogChunk(BaseModel):
    """The answer of ``GET /jobs/{job}/log?attempt=&offset=``.

    Attributes:
        offset: where ``text`` begins, in bytes: later than was asked for where that is kept no longer.
        next: what to ask for next.
        complete: nothing will be added any more: this attempt is over.
    """

    attempt: int
    offset: int
    next: int
    text: str
    complete: bool


class OutputView(BaseModel):
    """The answer of ``GET /jobs/{job}/notebook``: the last attempt's executed notebook, as far as it came."""

    job_id: str
    attempt: int
    path: str
    notebook: dict[str, Any]
