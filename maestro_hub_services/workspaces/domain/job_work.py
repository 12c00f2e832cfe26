"""What a job's worker asks and tells: each with the token of its own attempt, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json

import zstandard

from maestro_core.errors import MaestroError
from maestro_core.jobs import (
    KEPT_LOG,
    MAX_OUTPUT_JSON,
    JobDone,
    JobStatus,
    LogPiece,
    Orders,
    OutputPut,
    Progress,
    WorkOrder,
)
from maestro_core.launches import LaunchStatus
from maestro_hub_services.store import AttemptRow, JobRow, LaunchRow, Unit
from maestro_hub_services.store.clock import now
from maestro_hub_services.store.events import QUEUE

from ..authority import Authority
from ..identity import Caller
from .admission import note_running
from .job_code import text_of
from .job_ends import attempt_over
from .jobs import unknown
from .snapshots import MAX_WINDOW

#: notebooks that are read at a time
_reads = asyncio.Semaphore(2)


async def order(authority: Authority, caller: Caller, job_id: str) -> WorkOrder:
    """What the attempt is to run.

    Raises:
        MaestroError: ``unknown_job`` for everybody but its own worker.
    """
    async with authority.store.read() as unit:
        job, attempt, launch = await _own(unit, caller, job_id, None)
        body = await unit.jobs.code(job.workspace_id, job.address)
    if body is None:
        raise unknown(job_id)
    more = job.work or {}
    return WorkOrder(
        job_id=job.id,
        launch_id=launch.id,
        attempt=attempt.number,
        kind=job.kind,
        path=job.path,
        content=await asyncio.to_thread(text_of, body),
        parameters=job.parameters,
        experiment=launch.experiment,
        snapshot=job.address,
        name=job.name,
        timeout_seconds=job.timeout,
        tags=job.tags,
        parent_run=more.get("parent_run"),
        open_parent=more.get("open_parent"),
        metric=more.get("metric"),
    )


async def progress(authority: Authority, caller: Caller, job_id: str, report: Progress) -> Orders:
    """A sign of life. The first one makes the launch run; what is new is written, the rest is remembered.

    Raises:
        MaestroError: ``unknown_job``.
    """
    async with authority.store.read() as unit:
        job, attempt, launch = await _own(unit, caller, job_id, report.attempt)
    authority.board.heard[launch.id] = now()
    told = {"phase": report.phase, "cell": report.cell, "cells": report.cells}
    told |= {name: getattr(report, name) for name in ("run_id", "parent_run") if getattr(report, name) is not None}
    if launch.status is LaunchStatus.RESERVED or any(getattr(attempt, name) != told[name] for name in told):
        async with authority.store.write() as unit:
            job, attempt, launch = await _own(unit, caller, job_id, report.attempt)
            await unit.jobs.change_attempt(job.id, attempt.number, **told, heard_at=now())
            await _began(unit, job, launch, report)
    ends = attempt.outcome is not None or job.cancel_at is not None or launch.due(now()) is not None
    return Orders(cancel=ends)


async def _began(unit: Unit, job: JobRow, launch: LaunchRow, report: Progress) -> None:
    if await unit.launches.confirm(launch.id):
        await note_running(unit, launch, QUEUE)
    if report.phase == "running" and job.status is JobStatus.STARTING:
        await unit.jobs.change(job.id, status=JobStatus.RUNNING.value, started_at=job.started_at or now())


async def add_log(authority: Authority, caller: Caller, job_id: str, piece: LogPiece) -> None:
    """More of its log; what came before is not taken twice.

    Raises:
        MaestroError: ``unknown_job``.
    """
    body = piece.text.encode("utf-8", "replace")
    async with authority.store.write() as unit:
        job, attempt, _ = await _own(unit, caller, job_id, piece.attempt)
        end = await unit.jobs.log_end(job.id, attempt.number)
        offset = max(piece.offset, end)
        body = body[offset - piece.offset :]
        if body:
            await unit.jobs.add_log(job.id, attempt.number, offset, body, KEPT_LOG)


async def put_output(authority: Authority, caller: Caller, job_id: str, put: OutputPut) -> None:
    """The executed notebook so far.

    Raises:
        MaestroError: ``unknown_job``; ``invalid_request`` for what is no notebook.
    """
    async with authority.store.read() as unit:
        await _own(unit, caller, job_id, put.attempt)
    async with _reads:
        body = await asyncio.to_thread(_checked, put.content)
    async with authority.store.write() as unit:
        job, attempt, _ = await _own(unit, caller, job_id, put.attempt)
        await unit.jobs.put_output(job.id, attempt.number, body)


def _checked(content: str) -> bytes:
    """zstd of what was sent, which is a notebook and no larger than one may be."""
    try:
        packed = base64.b64decode(content, validate=True)
        with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(packed) as reader:
            text = reader.read(MAX_OUTPUT_JSON + 1)
        notebook = json.loads(text) if len(text) <= MAX_OUTPUT_JSON else None
        if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
            raise ValueError("no notebook")
        text = json.dumps(notebook, ensure_ascii=False).encode(
            "utf-8", "replace"
        )  # half a character could not be shown
    except (binascii.Error, zstandard.ZstdError, ValueError, RecursionError):
        raise MaestroError(
            "invalid_request",
            f"content: this is no notebook of at most {MAX_OUTPUT_JSON // 1024**2} MiB; leave large outputs out.",
        ) from None
    return zstandard.ZstdCompressor(level=3).compress(text)


async def done(authority: Authority, caller: Caller, job_id: str, report: JobDone) -> None:
    """How the attempt ended; the first word on it counts. Its launch ends with its process.

    Raises:
        MaestroError: ``unknown_job``.
    """
    async with authority.store.write() as unit:
        job, attempt, launch = await _own(unit, caller, job_id, report.attempt)
        if attempt.outcome is None:
            told = {"metrics": report.metrics or None, "run_id": report.run_id or attempt.run_id}
            await unit.jobs.change_attempt(job.id, attempt.number, **told, heard_at=now())
            reason = launch.due(now()) if report.outcome != "succeeded" else None
            await attempt_over(unit, attempt, report.outcome, reason or report.reason, again=launch.ends_kind != "role")
    authority.board.ring()


async def _own(unit: Unit, caller: Caller, job_id: str, number: int | None) -> tuple[JobRow, AttemptRow, LaunchRow]:
    """The job, attempt and launch of the worker that asks; ``number``: what it calls its attempt.

    Raises:
        MaestroError: ``unknown_job``.
    """
    claim = caller.job
    if claim is None or claim.job_id != job_id or number not in (None, claim.attempt):
        raise unknown(job_id)
    job, attempt = await unit.jobs.get(job_id), await unit.jobs.attempt(job_id, claim.attempt)
    launch = await unit.launches.get(claim.launch_id)
    if job is None or attempt is None or launch is None or not launch.status.active:
        raise unknown(job_id)
    return job, attempt, launch
