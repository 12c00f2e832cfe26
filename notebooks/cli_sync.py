"""The CLI's command that brings a workspace and its experiment together, where the workspace's files are."""

from __future__ import annotations

from collections.abc import Callable

import click

from maestro_core.errors import MaestroError

from .api import Api
from .cli_jobs import wait_for
from .console import as_json, plain, print_json, say
from .jobs import JobManager
from .sync import SyncReport, is_inside, sync_workspace
from .sync.outside import queue_sync


@click.command()
@click.argument("workspace")
@click.option("--to-experiment", is_flag=True, help="Put notebooks' metadata, configuration and usage into MLflow.")
@click.option("--from-experiment", is_flag=True, help="Write runs, metrics and artifacts below experiments/.")
@click.option("--full", is_flag=True, help="Both.")
@click.option("--experiment", metavar="E", help="Another experiment than the linked one.")
@click.option(
    "--artifact",
    "artifacts",
    multiple=True,
    metavar="PATTERN",
    help="Artifacts that come along: 'plots/*', '*.json'. May be repeated [default: as the time before].",
)
@click.option("--no-artifacts", is_flag=True, help="None from now on.")
@as_json
@click.pass_obj
def sync(
    connect: Callable[[], Api], workspace: str, to_experiment: bool, from_experiment: bool, full: bool,
    experiment: str | None, artifacts: tuple[str, ...], no_artifacts: bool, json_: bool,
) -> None:  # fmt: skip
    """Bring a workspace and its MLflow experiment together (editors).

    In a terminal of the workspace it is done there; from elsewhere it is a job of the workspace. The second time
    nothing changes. What is written below experiments/ is read-only, and replaced as a whole by the next sync.
    """
    if artifacts and no_artifacts:
        raise MaestroError("invalid_request", "--artifact and --no-artifacts exclude each other; leave one out.")
    if not (to_experiment or from_experiment or full):
        raise MaestroError("invalid_request", "Say which way: --to-experiment, --from-experiment, or --full for both.")
    api = connect()
    if not is_inside(api, workspace):
        options = _options(to_experiment or full, from_experiment or full, experiment, artifacts, no_artifacts)
        job = queue_sync(api, workspace, options)
        return wait_for(JobManager(api=api), job, json_)
    report = sync_workspace(
        api,
        workspace,
        to_experiment=to_experiment or full,
        from_experiment=from_experiment or full,
        experiment=experiment,
        artifacts=[] if no_artifacts else artifacts or None,
    )
    return print_json(vars(report)) if json_ else _show(report)


def _options(
    to_experiment: bool, from_experiment: bool, experiment: str | None, artifacts: tuple[str, ...], no_artifacts: bool
) -> list[str]:
    """The same options, for the command in the job."""
    flags = {"--to-experiment": to_experiment, "--from-experiment": from_experiment, "--no-artifacts": no_artifacts}
    values = [("--experiment", experiment)] if experiment else []
    values += [("--artifact", pattern) for pattern in artifacts]
    return [*(flag for flag, is_set in flags.items() if is_set), *(f"{name}={value}" for name, value in values)]


def _show(report: SyncReport) -> None:
    name = plain(report.experiment)
    if report.run_id is not None:
        run = f"run 'workspace {report.workspace}' of the experiment {name}"
        say(f"Stored in the {run}." if report.stored else f"Nothing new for the {run}.")
    if report.folder is not None:
        say(f"Wrote {report.folder} from {name}." if report.fetched else f"{report.folder} is as {name} has it.")
