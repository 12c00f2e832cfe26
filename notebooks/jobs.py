"""Jobs: queue notebooks and scripts, look at them, read what they write, end them."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from maestro_core.errors import MaestroError
from maestro_core.jobs import JobList, JobSpec, JobView, LogChunk, OutputView
from maestro_core.models import read_model
from maestro_core.snapshots import MAX_CONTENT, stripped

from .api import Api, segment
from .settings import ClientSettings
from .yaml_files import read_keys, read_value

#: bytes of a file that runs
MAX_FILE = 64 * 1024 * 1024
#: seconds between two looks at a job that is followed
_POLL = 1.0


class JobManager:
    """The jobs of workspaces.

    Args:
        url: the Hub's address; None: environment or ``maestro login``.
        token: a Hub token; None: likewise.

    Raises:
        MaestroError: ``not_signed_in`` when there is no token to be found.
    """

    def __init__(self, url: str | None = None, token: str | None = None, api: Api | None = None) -> None:
        self._api = api or Api(url, token)

    def queue(self, workspace: str | None = None, *, base: Path | None = None, **spec: Any) -> JobView:
        """Queue a job; the file that it runs is sent along where it is here.

        Args:
            workspace: its name; None: the personal one, inside a notebook its own.
            base: the folder in which ``notebook`` or ``script`` is looked for first; None: the present one.
            spec: of :class:`maestro_core.jobs.JobSpec`: notebook or script, experiment, parameters, ...

        Raises:
            MaestroError: ``invalid_request`` and others, about what is wrong in the spec; as the service refuses it.
        """
        name = workspace or self._api.settings.workspace
        given = {key: value for key, value in spec.items() if value is not None}
        body = with_content(given, base, here(self._api.settings, name))
        read_model(JobSpec, body)  # the service says the same, and later
        return self._read(self._api.post(f"/workspaces/{segment(name)}/jobs", body))

    def jobs(self, workspace: str | None = None, *, everyone: bool = False, limit: int = 100) -> list[JobView]:
        """The jobs of a workspace, else one's own (for admins everybody's), the newest first.

        Raises:
            MaestroError: ``unknown_workspace``, ``forbidden``.
        """
        answer = self._api.get("/jobs", workspace=workspace, all=1 if everyone else None, limit=limit)
        return list(read_model(JobList, answer, "service_unavailable").jobs)

    def job(self, job_id: str) -> JobView:
        """One job with its attempts.

        Raises:
            MaestroError: ``unknown_job``.
        """
        return self._read(self._api.get(f"/jobs/{segment(job_id)}"))

    def cancel(self, job_id: str) -> JobView:
        """End a job.

        Raises:
            MaestroError: ``unknown_job``, ``forbidden``.
        """
        return self._read(self._api.post(f"/jobs/{segment(job_id)}/cancel", {}))

    def end_schedule(self, job_id: str) -> JobView:
        """End the schedule of which it is a run; what runs goes on.

        Raises:
            MaestroError: ``unknown_job``, ``forbidden``, ``conflict``.
        """
        return self._read(self._api.delete(f"/jobs/{segment(job_id)}/schedule"))

    def log(self, job_id: str, attempt: int | None = None, offset: int = 0) -> LogChunk:
        """A part of what an attempt wrote; None: the last one.

        Raises:
            MaestroError: ``unknown_job``.
        """
        answer = self._api.get(f"/jobs/{segment(job_id)}/log", attempt=attempt, offset=offset)
        return read_model(LogChunk, answer, "service_unavailable")

    def follow(self, job_id: str, attempt: int | None = None, *, until_over: bool = False) -> Iterator[str]:
        """The pieces of a job's log, to its present end, or (``until_over``) as they come, through all its attempts.

        Raises:
            MaestroError: ``unknown_job``.
        """
        offset, number, line = 0, attempt, "\n"
        while True:
            chunk = self.log(job_id, number, offset)
            if number is None and chunk.attempt:
                number = chunk.attempt
            offset = chunk.next
            if chunk.text:
                yield chunk.text
                line = chunk.text[-1]
                continue
            if not until_over:
                return
            job = self.job(job_id)
            if attempt is None and number is not None and job.attempt > number:
                if line != "\n":
                    yield "\n"  # each attempt begins on a line of its own
                number, offset, line = number + 1, 0, "\n"
            elif chunk.complete and (job.status.over or attempt is not None):
                return
            else:
                time.sleep(_POLL)

    def output(self, job_id: str) -> OutputView:
        """The executed notebook, as far as it came.

        Raises:
            MaestroError: ``unknown_job``, ``conflict`` while there is none.
        """
        return read_model(OutputView, self._api.get(f"/jobs/{segment(job_id)}/notebook"), "service_unavailable")

    def _read(self, answer: Any) -> JobView:
        return read_model(JobView, answer, "service_unavailable")


def read_job_file(path: str | Path) -> dict[str, Any]:
    """A job's YAML (``experiment-config.yaml``): the keys of a :class:`JobSpec`, and ``workspace``.

    Raises:
        MaestroError: ``invalid_request`` for a file that cannot be read; what is wrong in it, by its name.
    """
    spec = read_keys(path)
    read_model(JobSpec, {key: value for key, value in spec.items() if key != "workspace"})
    return spec


def parameter(text: str) -> tuple[str, Any]:
    """``lr=0.1`` as a name and a value; the value is read as YAML does, so that numbers, true and lists are such.

    Raises:
        MaestroError: ``invalid_request``.
    """
    name, equals, written = text.partition("=")
    if not equals or not name.strip():
        raise MaestroError("invalid_request", f"{text[:60]!r} is no parameter; write it like lr=0.1.")
    try:
        value = read_value(written)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = written
    plain = isinstance(value, bool | int | float | str | list) or value is None
    return name.strip(), value if plain else written


# -- the file that runs -----------------------------------------------------------------------------------------------


def here(settings: ClientSettings, workspace: str) -> Path | None:
    """The workspace's folder, where this runs in a server or job of that workspace."""
    folder = os.environ.get("MAESTRO_WORKSPACE_DIR")
    own = os.environ.get("MAESTRO_WORKSPACE") == workspace == settings.workspace
    return Path(folder) if folder and own else None


def with_content(spec: dict[str, Any], base: Path | None, workspace: Path | None) -> dict[str, Any]:
    """The same with the file's content and its path below the workspace, where it is found here.

    Raises:
        MaestroError: ``invalid_request`` for a file that cannot be read, or is too large to be sent.
    """
    key = "notebook" if spec.get("notebook") else "script" if spec.get("script") else None
    if key is None or "content" in spec:
        return spec
    named = Path(str(spec[key]))
    places = [place / named for place in (base or Path(), Path(), workspace) if place is not None]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return spec
    return {**spec, key: _place(file, named, workspace), "content": _content(file)}


def _place(file: Path, named: Path, workspace: Path | None) -> str:
    """Where it lies below the workspace; a file from elsewhere has the place that it was named with, or its name."""
    if workspace is not None and file.resolve().is_relative_to(workspace.resolve()):
        return file.resolve().relative_to(workspace.resolve()).as_posix()
    parts = [part for part in named.parts if part != "."]
    return file.name if named.is_absolute() or ".." in parts else "/".join(parts)


def _content(file: Path) -> str:
    try:
        import zstandard
    except ImportError:
        raise MaestroError(
            "invalid_request", "Sending a file along takes zstandard; install it with 'pip install zstandard'."
        ) from None
    try:
        if file.stat().st_size > MAX_FILE:
            raise MaestroError("too_large", f"{file} is larger than {MAX_FILE // 1024**2} MiB; clear its outputs.")
        data = file.read_bytes()
    except OSError as error:
        raise MaestroError("invalid_request", f"{file} cannot be read: {error.strerror}.") from None
    if file.suffix == ".ipynb":
        try:
            data = json.dumps(stripped(json.loads(data)), ensure_ascii=False).encode("utf-8", "surrogatepass")
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise MaestroError(
                "invalid_request", f"{file} is no notebook; open it in JupyterLab and save it."
            ) from None
    content = base64.b64encode(zstandard.ZstdCompressor(level=10).compress(data)).decode()
    if len(content) > MAX_CONTENT:
        raise MaestroError(
            "too_large",
            f"{file} is too large to be sent along ({len(content) // 1024} of {MAX_CONTENT // 1024} KiB, compressed); "
            "keep data in files of their own.",
        )
    return content
