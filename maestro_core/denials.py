"""What the package index refused, as it tells the workspaces service: a denial is an event."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .packages import PYPI, Action, check_channel, package_name

#: denials of one report
MAX_REPORTED = 100


class DeniedDownload(BaseModel):
    """One package that was refused to a launch.

    Attributes:
        version: of the last one; None: of none in particular. message: the sentence that the client got.
        count: how often since it was told last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    launch_id: str = Field(min_length=1, max_length=64)
    package: str = Field(max_length=200)
    version: str | None = Field(default=None, max_length=200)
    channel: str = Field(default=PYPI, max_length=100)
    action: Action
    rule: str = Field(default="", max_length=300)
    message: str = Field(default="", max_length=2000)
    count: int = Field(default=1, ge=1, le=1_000_000)


class DenialReport(BaseModel):
    """The body of ``POST /policy/denials``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    denials: tuple[DeniedDownload, ...] = Field(max_length=MAX_REPORTED)


class SolverRefusal(BaseModel):
    """The body of ``POST /denials`` of the index: a version that a solver on the client's side could not take.

    The index asks the policy itself, so that nobody tells of a refusal that there was not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str = Field(max_length=200)
    version: str | None = Field(default=None, max_length=200)
    channel: str = Field(default=PYPI, max_length=100)

    @field_validator("channel")
    @classmethod
    def _channel(cls, value: str) -> str:
        return check_channel(value)

    @field_validator("package")
    @classmethod
    def _package(cls, value: str) -> str:
        package_name(value, None)
        return value

    @field_validator("version")
    @classmethod
    def _version(cls, value: str | None) -> str | None:
        if value is not None and not value.isprintable():
            raise ValueError("a version is printable text")
        return value
