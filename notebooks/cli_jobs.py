"""The CLI's commands about jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from maestro_core.errors import MaestroError
from maestro_core.jobs import JobStatus, JobView, ending, show_seconds

from .api import Api
from .cli_sweeps import started
from .console import HERE, as_json, err, out, plain, print_json, say, table
from .jobs import JobManager, parameter, read_job_file
from .sweeps import SweepManager, is_sweep, read_sweep_file
from .versions import write_copy

#: jobs that are over are shown for so long by 'maestro status', and so many
_RECENT, _SHOWN = timedelta(hours=24), 20
_AMOUNTS = ("cpu", "memory", "gpu", "gpu_type")


@click.command()
@click.option("--workspace", "-w", metavar="W", help=f"The workspace that it runs in {HERE}.")
@click.option("--experiment", "-e", metavar="E", help="The MLflow experiment of its run [default: the workspace's].")
@click.option(
    "--notebook", metavar="PATH", help="The notebook; sent along where it is, else its newest stored version."
)
@click.option("--script", metavar="PATH", help="A Python script instead; sent along where it is.")
@click.option("--parameter", "-p", "parameters", multiple=True, metavar="NAME=VALUE", help="Can be given repeatedly.")
@click.option("--config", metavar="FILE", help="A YAML file with all of it; options win over it.")
@click.option("--sweep", metavar="FILE", help="A YAML file with a sweep: many sets of parameters.")
@click.option("--name", metavar="NAME", help="Of the job and its run [default: the file's].")
@click.option("--profile", metavar="P", help="A profile's name ('maestro profiles').")
@click.option("--cpu", metavar="CORES", help="Cores: 2, 0.5, 500m.")
@click.option("--memory", metavar="SIZE", help="Memory: 4Gi, 512Mi.")
@click.option("--gpu", metavar="N", help="GPUs.")
@click.option("--gpu-type", metavar="TYPE", help="A kind of GPU as the profiles name it.")
@click.option("--image", metavar="I", help="An image that the profile allows, by its name (on Kubernetes).")
@click.option("--retries", type=int, metavar="N", help="After a failure, at most 10 [default: 0].")
@click.option("--timeout", metavar="TIME", help="Of one attempt: 90, 30m, 2h [default: 1d].")
@click.option("--max-concurrency", type=int, metavar="N", help="At most so many of its queue run at a time.")
@click.option("--queue", "queue_", metavar="NAME", help="What counts together for that [default: the experiment].")
@click.option("--schedule", metavar="CRON", help="Run at these times: '0 6 * * 1-5'.")
@click.option("--timezone", metavar="ZONE", help="Of the schedule: Europe/Berlin [default: UTC].")
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", help="Of its run; can be given repeatedly.")
@click.option("--wait", is_flag=True, help="Show its log (a sweep: its trials) until it is over; fail if it does.")
@as_json
@click.pass_obj
def queue(
    connect: Callable[[], Api], /, workspace: str | None, config: str | None, sweep: str | None,
    parameters: tuple[str, ...], tags: tuple[str, ...], queue_: str | None, wait: bool, json_: bool, **rest: Any,
) -> None:  # fmt: skip
    """Run a notebook or script without a browser, now or by a schedule.

    As in: maestro queue -w team-a -e churn --notebook train.ipynb -p lr=0.1

    What runs is the code as it is now. Without --notebook, --script and --config it is the workspace's entrypoint, else
    the notebook last used for the experiment.
    """
    if config and sweep:
        raise MaestroError("invalid_request", "Name --config (a job) or --sweep (many), not both.")
    spec: dict[str, Any] = read_sweep_file(sweep) if sweep else read_job_file(config) if config else {}
    workspace = workspace or spec.pop("workspace", None)
    spec.pop("workspace", None)
    if rest["notebook"] or rest["script"]:
        spec = {key: value for key, value in spec.items() if key not in ("notebook", "script")}
    amounts = {name: rest.pop(name) for name in _AMOUNTS}
    if any(value is not None for value in amounts.values()):
        named = {name: value for name, value in amounts.items() if value is not None}
        spec["resources"] = {**(spec.get("resources") or {}), **named}
    spec |= {key: value for key, value in rest.items() if value is not None}
    if queue_ is not None:
        spec["queue"] = queue_
    for key, given in (("parameters", map(parameter, parameters)), ("tags", map(_tag, tags))):
        if more := dict(given):
            spec[key] = {**(spec.get(key) or {}), **more}
    file = None if rest["notebook"] or rest["script"] else sweep or config
    base = Path(file).parent if file else None
    if sweep:
        sweeps = SweepManager(api=connect())
        return started(sweeps, sweeps.start(workspace, base=base, **spec), wait, json_)
    manager = JobManager(api=connect())
    job = manager.queue(workspace, base=base, **spec)
    if not wait:
        return print_json(job.model_dump(mode="json")) if json_ else _queued(job)
    if not json_:
        _queued(job)
    wait_for(manager, job, json_)


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise MaestroError("invalid_request", f"{text[:60]!r} is no tag; write it like team=a.")
    return name.strip(), value


def _queued(job: JobView) -> None:
    when = f", first at {job.next_at:%Y-%m-%d %H:%M} UTC" if job.next_at else ""
    say(f"Queued {job.job_id}: {job.path} in {job.workspace}, experiment {job.experiment}{when}.")
    say(f"Follow it with 'maestro logs {job.job_id} -f'.")


def wait_for(manager: JobManager, job: JobView, json_: bool) -> None:
    """The log as it comes; the command fails where the job does."""
    for text in manager.follow(job.job_id, until_over=True):
        if not json_:
            _write(text)
    ended = manager.job(job.job_id)
    if json_:
        print_json(ended.model_dump(mode="json"))
    if ended.status is not JobStatus.SUCCEEDED:
        raise MaestroError("conflict", f"{ended.name} {ended.status.value}: {ended.reason or 'no reason was noted'}")
    if not json_:
        say(f"{ended.name} succeeded.")


@click.command()
@click.argument("workspace", required=False)
@click.option("--all", "everyone", is_flag=True, help="Everybody's (admins).")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many to list.")
@as_json
@click.pass_obj
def jobs(connect: Callable[[], Api], workspace: str | None, everyone: bool, limit: int, json_: bool) -> None:
    """List the jobs of a workspace, or your own, the newest first."""
    found = JobManager(api=connect()).jobs(workspace, everyone=everyone, limit=limit)
    if json_:
        return print_json([job.model_dump(mode="json") for job in found])
    if not found:
        return say("There are no jobs. Queue one with 'maestro queue'.")
    job_table(found)


@click.command()
@click.argument("job")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job is over.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Of this attempt [default: the last one].")
@click.pass_obj
def logs(connect: Callable[[], Api], job: str, follow: bool, attempt: int | None) -> None:
    """Print what a job wrote: its cells' output, its errors, what its worker says."""
    for text in JobManager(api=connect()).follow(job, attempt, until_over=follow):
        _write(text)


def _write(text: str) -> None:
    """As it came, without what could steer the terminal."""
    lines = text.split("\n")
    click.echo("\n".join(plain(line.rstrip("\r")) for line in lines), nl=False)


@click.command()
@click.argument("job")
@click.option("--schedule", is_flag=True, help="End its schedule instead; what runs goes on.")
@as_json
@click.pass_obj
def cancel(connect: Callable[[], Api], job: str, schedule: bool, json_: bool) -> None:
    """End a job or sweep, at once while it waits, kindly while it runs."""
    api = connect()
    if is_sweep(job):
        return _cancel_sweep(SweepManager(api=api), job, json_)
    manager = JobManager(api=api)
    ended = manager.end_schedule(job) if schedule else manager.cancel(job)
    if json_:
        return print_json(ended.model_dump(mode="json"))
    if schedule:
        return say(f"The schedule of {ended.name} has ended.")
    say(ending(ended))


def _cancel_sweep(manager: SweepManager, sweep_id: str, json_: bool) -> None:
    ended = manager.cancel(sweep_id)
    if json_:
        return print_json(ended.model_dump(mode="json"))
    say(
        f"{ended.name} is {ended.status.value}."
        if ended.status.over
        else f"{ended.name} and its trials are told to end."
    )


@click.command()
@click.argument("job")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Where to write it.")
@click.pass_obj
def outputs(connect: Callable[[], Api], job: str, output: Path | None) -> None:
    """Write the executed notebook of a job to a file, as far as it came."""
    found = JobManager(api=connect()).output(job)
    path = output or Path(f"{Path(found.path).stem} ({found.job_id}).ipynb")
    write_copy(found.notebook, path)
    say(f"Wrote {path}.")


COMMANDS = (queue, jobs, logs, cancel, outputs)


# -- how they are shown -----------------------------------------------------------------------------------------------


def job_table(found: list[JobView]) -> None:
    """Jobs as a table."""
    table(
        ["job", "name", "user", "workspace", "status", "progress", "for", ""],
        [[j.job_id, j.name, j.user, j.workspace, j.status.value, progress(j), _for(j), j.why] for j in found],
    )


def recent(found: list[JobView]) -> list[JobView]:
    """Those that are not over, and the last ones that are."""
    since = datetime.now(UTC) - _RECENT
    return [job for job in found if not job.status.over or (job.ended_at and job.ended_at > since)][:_SHOWN]


def show_job(job: JobView) -> None:
    """One job, a line for each thing."""
    rows = {
        "job": f"{job.job_id} ({job.name})",
        "status": job.status.value,
        "progress": progress(job),
        "why": job.why,
        "runs": f"{job.path}, version {job.snapshot[:12]}",
        "workspace": f"{job.workspace}, experiment {job.experiment}",
        "parameters": ", ".join(f"{name}={value}" for name, value in job.parameters.items()),
        "schedule": f"{job.schedule} ({job.timezone})" if job.schedule else "",
        "run": job.run_id or "",
        "metrics": ", ".join(f"{name}={value:g}" for name, value in sorted(job.metrics.items())),
    }
    for title, value in rows.items():
        if value and value != "-":
            say(f"{title + ':':<14}{value}")
    for one in job.attempts if len(job.attempts) > 1 else ():
        say(f"{'attempt ' + str(one.attempt) + ':':<14}{one.outcome or 'goes on'} {one.reason or ''}".rstrip())


def progress(job: JobView) -> str:
    """``cell 3 of 12``; what a worker does before its first one."""
    found = job.progress
    if found is None or job.status is JobStatus.QUEUED:
        return "-"
    if found.phase != "running" and not job.status.over:
        return {"environment": "installs packages", "starting": "starts"}[found.phase]
    return f"cell {found.cell} of {found.cells}" if found.cells else "-"


def _for(job: JobView) -> str:
    if job.started_at is None:
        return "-"
    return show_seconds(((job.ended_at or datetime.now(UTC)) - job.started_at).total_seconds())


def watch(draw: Callable[[], bool]) -> None:
    """Draw again and again until ``draw`` says that nothing will change, or somebody stops it."""
    try:
        while True:
            with out.capture() as captured:
                goes_on = draw()
            if out.is_terminal:
                out.clear()
            click.echo(captured.get(), nl=False)
            if not goes_on:
                return
            time.sleep(2)
    except KeyboardInterrupt:
        err.print("")
