"""The ``maestro`` command: the same as the browser does, in a terminal.

Every command exits 0, or with the code of its refusal (docs/errors) and one sentence on standard error.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from maestro_core import __version__
from maestro_core.errors import MaestroError
from maestro_core.jobs import JobView
from maestro_core.resources import format_memory, parse_cpu, parse_gpu, parse_memory, show_memory
from maestro_core.sweeps import SweepView
from maestro_core.usage import LaunchUsage

from .api import Api
from .cli_environments import COMMANDS as ENVIRONMENTS
from .cli_jobs import COMMANDS as JOBS
from .cli_jobs import job_table, recent, show_job, watch
from .cli_metadata import COMMANDS as METADATA
from .cli_requests import COMMANDS as REQUESTS
from .cli_security import advisories, security_scan
from .cli_sweeps import recent as recent_sweeps
from .cli_sweeps import show_sweep, sweep_table
from .cli_sync import sync
from .cli_versions import version
from .console import HERE, RefusalGroup, as_json
from .console import err as _err
from .console import print_json as _print_json
from .console import say as _say
from .console import table as _table
from .jobs import JobManager
from .launcher import NotebookLauncher
from .models import NotebookSession, ResourceConfig, Workspace
from .quotas import QuotaManager
from .settings import check_url, config_path, write_config
from .sweeps import SweepManager, is_sweep
from .workspaces import WorkspaceManager, read_workspace_file

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(cls=RefusalGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="maestro")
@click.option("--url", metavar="URL", help="The Hub's address [default: MAESTRO_URL, or that of 'maestro login'].")
@click.pass_context
def main(ctx: click.Context, url: str | None) -> None:
    """Launch notebooks into shared workspaces, within your quota, with every run in MLflow.

    The token comes from MAESTRO_TOKEN, from the notebook server that you are in, or from 'maestro login'. It is never
    an argument: arguments can be read by every user of the machine.
    """
    ctx.obj = functools.partial(Api, url)


@main.command()
@click.argument("url")
@click.option("--token-stdin", is_flag=True, help="Read the token from standard input.")
def login(url: str, token_stdin: bool) -> None:
    """Keep the Hub's address and a token in client.yaml (readable by you only).

    Make the token on the Hub's token page (URL/hub/token), then: maestro login URL --token-stdin < token.txt
    """
    address = check_url(url)
    if not token_stdin:
        raise MaestroError(
            "invalid_request",
            f"Make a token at {address}/hub/token, then run 'maestro login {address} --token-stdin' and paste it.",
        )
    if sys.stdin.isatty():
        token = click.prompt("Token", hide_input=True, err=True).strip()
    else:
        token = sys.stdin.readline(4096).strip()
    if not token or not token.isascii() or not token.isprintable():
        raise MaestroError("invalid_request", "No token came in on standard input.")
    me = Api(address, token).get("/me")
    write_config(config_path(), address, token)
    _say(f"Signed in to {address} as {me['user']}; kept in {config_path()}.")


@main.command()
def logout() -> None:
    """Forget the stored token (it stays valid until you revoke it on the Hub's token page)."""
    config_path().unlink(missing_ok=True)
    _say("The stored token is forgotten.")


@main.command()
@as_json
@click.pass_obj
def whoami(connect: Callable[[], Api], json_: bool) -> None:
    """Show who you are to Maestro."""
    me = connect().get("/me")
    if json_:
        return _print_json(me)
    _say(f"{me['user']}{' (admin)' if me.get('admin') else ''}, groups: {', '.join(me.get('groups', [])) or 'none'}")


@main.command()
@click.option("--user", metavar="U", help="Whose server [default: you]; somebody else's needs an admin's token.")
@click.option("--workspace", "-w", metavar="W", help=f"The workspace to open {HERE}.")
@click.option("--cpu", metavar="CORES", help="Cores: 2, 0.5, 500m.")
@click.option("--memory", metavar="SIZE", help="Memory: 4Gi, 512Mi.")
@click.option("--gpu", metavar="N", help="GPUs.")
@click.option("--gpu-type", metavar="TYPE", help="A kind of GPU as the profiles name it.")
@click.option("--profile", metavar="P", help="A profile's name ('maestro profiles').")
@click.option("--image", metavar="I", help="An image that the profile allows, by its name (on Kubernetes).")
@click.option("--template", metavar="T", help="A notebook template to open ('maestro templates list').")
@click.option("--mlflow-experiment", metavar="E", help="The MLflow experiment of its runs.")
@click.option("--name", metavar="NAME", help="The server's name, for a second server in the workspace.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the server runs.")
@click.option("--timeout", type=click.IntRange(1, 3600), default=300, show_default=True, help="Seconds to wait.")
@as_json
@click.pass_obj
def launch(
    connect: Callable[[], Api],
    /,
    user: str | None,
    workspace: str | None,
    cpu: str | None,
    memory: str | None,
    gpu: str | None,
    gpu_type: str | None,
    json_: bool,
    name: str | None,
    wait: bool,
    timeout: int,
    **rest: str | None,
) -> None:
    """Start a notebook server in a workspace and print its address."""
    resources = _resources(cpu, memory, gpu, gpu_type)
    launcher = NotebookLauncher(api=connect())
    session = launcher.launch(
        user, workspace, resources, server_name=name, wait=False, profile=rest["profile"], template=rest["template"],
        mlflow_experiment=rest["mlflow_experiment"], image=rest["image"],
    )  # fmt: skip
    if wait:
        with _err.status(f"Starting {session.server_name or 'your server'} in {session.workspace} ..."):
            session = launcher.wait(session.session_id, timeout)
    _print_session(session, json_)


@main.command()
@click.argument("session", required=False, metavar="[SESSION|JOB|SWEEP]")
@click.option("--all", "everyone", is_flag=True, help="Everybody's (admins).")
@click.option("--watch", "watch_", is_flag=True, help="Show it again every 2 s; of a job: until it is over.")
@as_json
@click.pass_obj
def status(connect: Callable[[], Api], session: str | None, everyone: bool, watch_: bool, json_: bool) -> None:
    """Show your servers, jobs and sweeps, or one by its id; with --json the servers ('maestro jobs' has the jobs)."""
    api = connect()
    launcher, manager, sweeps = NotebookLauncher(api=api), JobManager(api=api), SweepManager(api=api)
    if json_:
        if session and is_sweep(session):
            return _print_json(sweeps.sweep(session).model_dump(mode="json"))
        if session and session.startswith("j-"):
            return _print_json(manager.job(session).model_dump(mode="json"))
        if session:
            return _print_session(launcher.status(session), json_)
        return _print_json([_session_json(item) for item in launcher.sessions(everyone)])

    def draw() -> bool:
        if session and session.startswith("j-"):
            job = manager.job(session)
            show_job(job)
            return not job.status.over
        if session and is_sweep(session):
            sweep = sweeps.sweep(session)
            show_sweep(sweep)
            return not sweep.status.over
        if session:
            _print_session(launcher.status(session), False)
        else:
            found = recent_sweeps(sweeps.sweeps(everyone=everyone))
            _everything(launcher.sessions(everyone), recent(manager.jobs(everyone=everyone)), found)
        return True

    if watch_:
        watch(draw)
    else:
        draw()


def _everything(sessions: list[NotebookSession], jobs: list[JobView], sweeps: list[SweepView]) -> None:
    if sessions:
        rows = [[s.session_id, s.user, s.workspace, s.status, s.resources.show(), s.notebook_url] for s in sessions]
        _table(["session", "user", "workspace", "status", "resources", "address"], rows)
    else:
        _say("No server is running. Start one with 'maestro launch'.")
    if jobs:
        _say("")
        job_table(jobs)
    if sweeps:
        _say("")
        sweep_table(sweeps)


@main.command()
@click.argument("session")
@as_json
@click.pass_obj
def stop(connect: Callable[[], Api], session: str, json_: bool) -> None:
    """Stop a server by its session id or by its workspace's name."""
    launcher = NotebookLauncher(api=connect())
    session_id = _session_named(launcher, session)
    with _err.status(f"Stopping {session} ..."):
        stopped = launcher.stop(session_id)
    _print_session(stopped, json_)


def _session_named(launcher: NotebookLauncher, session: str) -> str:
    """The id of a session that is named by it, or by the workspace in which it is the only one of one's own."""
    matching = [item for item in launcher.sessions() if session in (item.session_id, item.workspace)]
    if len(matching) > 1:
        known = ", ".join(item.session_id for item in matching)
        raise MaestroError("conflict", f"Several servers run in {session}; name one by its session id: {known}.")
    return matching[0].session_id if matching else session


@main.command()
@click.argument("session")
@click.option("--cpu", metavar="CORES", help="Cores: 8, 0.5, 500m [default: as they are].")
@click.option("--memory", metavar="SIZE", help="Memory: 16Gi, 512Mi [default: as it is].")
@click.option("--restart", is_flag=True, help="Where it cannot be done while it runs: stop it and start it so.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="After a restart: until the server runs.")
@click.option("--timeout", type=click.IntRange(1, 3600), default=300, show_default=True, help="Seconds to wait.")
@as_json
@click.pass_obj
def scale(
    connect: Callable[[], Api], session: str, cpu: str | None, memory: str | None, restart: bool, wait: bool,
    timeout: int, json_: bool,
) -> None:  # fmt: skip
    """Give a running server other cpu and memory: maestro scale churn --cpu=8 --memory=16g

    SESSION is its session id or its workspace's name. On Kubernetes its kernels go on meanwhile; where it cannot be
    done so, you are told why, and --restart does it. It lasts until the server stops.
    """
    launcher = NotebookLauncher(api=connect())
    session_id = _session_named(launcher, session)
    with _err.status(f"Scaling {session} ..."):
        scaled = launcher.scale(session_id, cpu, memory, restart, wait, timeout)
    _print_session(scaled, json_)
    if not json_:
        _say(f"{'resources:':<14}{scaled.resources.show()}")


@main.command("list")
@click.option("--archived", is_flag=True, help="Those that are archived, if you are their owner.")
@as_json
@click.pass_obj
def list_(connect: Callable[[], Api], archived: bool, json_: bool) -> None:
    """List the workspaces that you belong to."""
    manager = WorkspaceManager(api=connect())
    found = manager.archived() if archived else manager.list_workspaces()
    if json_:
        return _print_json([_workspace_json(item) for item in found])
    rows = [[w.name, w.role or "-", _servers(w), str(w.members), w.description] for w in found]
    _table(["workspace", "you are", "your servers", "members", "description"], rows)


@main.command()
@click.argument("workspace")
@click.option("--description", default="", metavar="TEXT", help="A sentence for the workspace's card.")
@click.option("--config", metavar="FILE", help="Its YAML: resources, environment, packages, security, members.")
@click.option("--experiment", metavar="E", help="Link it to an MLflow experiment, as 'maestro link' does.")
@as_json
@click.pass_obj
def create(
    connect: Callable[[], Api], workspace: str, description: str, config: str | None, experiment: str | None,
    json_: bool,
) -> None:  # fmt: skip
    """Create a workspace; you are its owner."""
    settings = read_workspace_file(config, workspace) if config else {}
    if experiment is not None:
        settings["experiment"] = experiment
    made = WorkspaceManager(api=connect()).create_workspace(workspace, description, settings=settings)
    if json_:
        return _print_json(_workspace_json(made))
    _say(f"Created {made.name}. Add people with 'maestro access {made.name} --user NAME --role editor'.")


@main.command()
@click.argument("workspace")
@click.pass_obj
def archive(connect: Callable[[], Api], workspace: str) -> None:
    """Archive a workspace: nobody starts a server in it any more; files and runs are kept."""
    WorkspaceManager(api=connect()).archive(workspace)
    _say(f"{workspace} is archived. 'maestro restore {workspace}' opens it again.")


@main.command()
@click.argument("workspace")
@click.pass_obj
def restore(connect: Callable[[], Api], workspace: str) -> None:
    """Open an archived workspace again ('maestro list --archived')."""
    WorkspaceManager(api=connect()).restore(workspace)
    _say(f"{workspace} is open again.")


@main.command()
@click.argument("workspace")
@click.option("--yes", is_flag=True, help="Do not ask; nothing brings a purged workspace back.")
@as_json
@click.pass_obj
def purge(connect: Callable[[], Api], workspace: str, yes: bool, json_: bool) -> None:
    """Remove an archived workspace for good, after the retention time, and say what was removed."""
    if not yes:
        click.confirm(f"Remove all files, runs and models of {workspace}?", abort=True, err=True)
    with _err.status(f"Purging {workspace} ..."):
        report = WorkspaceManager(api=connect()).purge(workspace)
    if json_:
        return _print_json(report.model_dump(mode="json"))
    for removed in report.removed:
        _say(f"removed  {removed.show()}")
    for kept in report.kept:
        _say(f"kept     {kept.what}: {kept.why}")
    for left in report.left:
        _say(f"left     {left}")
    if report.state == "purging":
        _say(f"The purge goes on by itself; look again with 'maestro purge {report.workspace_id} --yes'.")


@main.command()
@click.argument("workspace")
@click.argument("user", required=False)
@click.option("--group", "--team", metavar="G", help="A group of the Hub instead of a user.")
@click.pass_obj
def transfer(connect: Callable[[], Api], workspace: str, user: str | None, group: str | None) -> None:
    """Make somebody else the owner in your place; you become an editor."""
    made = WorkspaceManager(api=connect()).transfer(workspace, user, group)
    _say(f"{made.name} is {made.role} of {workspace}.")


@main.command()
@click.argument("workspace")
@click.argument("user")
@click.option("--role", metavar="ROLE", default="editor", show_default=True, help="owner, editor or viewer.")
@click.pass_obj
def invite(connect: Callable[[], Api], workspace: str, user: str, role: str) -> None:
    """Invite somebody who has no account yet; they accept it after signing up under that name."""
    made = WorkspaceManager(api=connect()).invite(workspace, user, role)
    _say(f"{made.user} may become {made.role.value} of {made.workspace} until {made.expires_at:%Y-%m-%d}.")


@main.group()
def invitations() -> None:
    """Invitations: those for you, and those that you made."""


@invitations.command("list")
@click.option("--workspace", "-w", metavar="W", help="Those to this workspace (owners) instead of yours.")
@as_json
@click.pass_obj
def invitations_list(connect: Callable[[], Api], workspace: str | None, json_: bool) -> None:
    """List open invitations."""
    found = WorkspaceManager(api=connect()).invitations(workspace)
    if json_:
        return _print_json([item.model_dump(mode="json") for item in found])
    rows = [
        [item.invitation_id, item.workspace, item.user, item.role.value, item.invited_by, f"{item.expires_at:%Y-%m-%d}"]
        for item in found
    ]
    _table(["invitation", "workspace", "user", "role", "invited by", "until"], rows)


@invitations.command("accept")
@click.argument("invitation")
@click.pass_obj
def invitations_accept(connect: Callable[[], Api], invitation: str) -> None:
    """Become a member."""
    manager = WorkspaceManager(api=connect())
    offered = {one.invitation_id: one.workspace for one in manager.invitations()}
    made = manager.accept(invitation)
    _say(f"You are {made.role} of {offered.get(invitation, 'the workspace')} now.")


@invitations.command("decline")
@click.argument("invitation")
@click.option("--workspace", "-w", metavar="W", help="Withdraw one that was made for this workspace (owners).")
@click.pass_obj
def invitations_decline(connect: Callable[[], Api], invitation: str, workspace: str | None) -> None:
    """Decline one that is for you, or withdraw one that was made."""
    WorkspaceManager(api=connect()).decline(invitation, workspace)
    _say("The invitation is gone.")


@main.command()
@click.argument("workspace", required=False)
@as_json
@click.pass_obj
def stats(connect: Callable[[], Api], workspace: str | None, json_: bool) -> None:
    """Show what a workspace uses: its storage, its servers, the hours of this month."""
    shown = WorkspaceManager(api=connect()).usage(workspace)
    if json_:
        return _print_json(shown.model_dump(mode="json"))
    used = "not measured yet" if shown.storage_used is None else show_memory(shown.storage_used)
    limit = "" if shown.storage_limit is None else f" of {show_memory(shown.storage_limit)}"
    hours = f"{shown.month.cpu:.1f} cpu hours, {shown.month.gpu:.1f} GPU hours"
    _say(f"{shown.workspace}: files {used}{limit}; this month {hours}")
    rows = [[one.session_id, one.user, one.status, *_usage(one), one.ends_reason or ""] for one in shown.launches]
    _table(["session", "user", "status", "cpu", "memory", "works", "ends because"], rows)


@main.command()
@click.argument("session")
@click.pass_obj
def keep(connect: Callable[[], Api], session: str) -> None:
    """Keep an idle server running that would be stopped soon."""
    NotebookLauncher(api=connect()).keep(session)
    _say("It is kept running.")


@main.command()
@click.argument("workspace", required=False)
@as_json
@click.pass_obj
def info(connect: Callable[[], Api], workspace: str | None, json_: bool) -> None:
    """Show a workspace and its members."""
    manager = WorkspaceManager(api=connect())
    shown = manager.get_workspace(workspace)
    members = manager.members(shown.name)
    if json_:
        listed = [{**vars(member), "added_at": member.added_at.isoformat()} for member in members]
        return _print_json({**_workspace_json(shown), "members": listed})
    _say(f"{shown.name}: you are {shown.role or 'no member'}, {_servers(shown)} servers. {shown.description}")
    rows = [[m.name, m.kind, m.role, m.added_by, f"{m.added_at:%Y-%m-%d}"] for m in members]
    _table(["member", "kind", "role", "added by", "since"], rows)


@main.command()
@click.argument("workspace")
@click.option("--user", metavar="U", help="A user of the Hub.")
@click.option("--group", "--team", metavar="G", help="A group of the Hub.")
@click.option("--role", metavar="ROLE", default="editor", show_default=True, help="owner, editor or viewer.")
@click.option("--now", is_flag=True, help="End servers that may not go on at once, not after the grace time.")
@click.pass_obj
def access(
    connect: Callable[[], Api], workspace: str, user: str | None, group: str | None, role: str, now: bool
) -> None:
    """Add a member to a workspace, or change their role."""
    member = WorkspaceManager(api=connect()).add_member(workspace, user, role, group, now)
    _say(f"{member.name} is {member.role} of {workspace}.")


@main.command()
@click.argument("workspace")
@click.argument("user", required=False)
@click.option("--group", "--team", metavar="G", help="A group of the Hub instead of a user.")
@click.option("--now", is_flag=True, help="End their servers there at once, not after the grace time.")
@click.pass_obj
def revoke(connect: Callable[[], Api], workspace: str, user: str | None, group: str | None, now: bool) -> None:
    """Remove a member from a workspace."""
    WorkspaceManager(api=connect()).remove_member(workspace, user, group, now)
    _say(f"{user or group} is no member of {workspace} any more.")


@main.command()
@click.argument("workspace", required=False)
@as_json
@click.pass_obj
def limits(connect: Callable[[], Api], workspace: str | None, json_: bool) -> None:
    """Show your limits in a workspace, what is in use, and who set them."""
    shown = WorkspaceManager(api=connect()).limits(workspace)
    if json_:
        return _print_json(shown)
    rows = [
        [
            item["title"],
            item["shown"],
            item.get("in_use_shown") or "-",
            item.get("left_shown") or "-",
            item["source"],
            item.get("origin") or "-",
        ]
        for item in shown["limits"]
    ]
    _table(["limit", "at most", "in use", "left", "set for", "set by"], rows)


@main.command()
@click.option("--workspace", "-w", metavar="W", help=f"The workspace to launch in {HERE}.")
@as_json
@click.pass_obj
def profiles(connect: Callable[[], Api], workspace: str | None, json_: bool) -> None:
    """Show the profiles that you may launch."""
    found = NotebookLauncher(api=connect()).profiles(workspace)
    if json_:
        return _print_json(found)
    rows = [
        [p["name"], f"{p['cpu']:g}", p["memory_shown"], _gpu(p), _up_to(p), _idle(p), p["refusal"] or p["description"]]
        for p in found
    ]
    _table(["profile", "cpu", "memory", "gpu", "at most", "idle", ""], rows)


@main.group()
def quota() -> None:
    """Quotas, for admins: what is set in maestro.yaml and at runtime.

    A figure that is set here wins over maestro.yaml's of the same level, from the next decision on. Nothing that runs
    is ended by it.
    """


def _level(command: Command) -> Command:
    """The options that say for whom a quota is set."""
    for option in (
        click.option("--pool", is_flag=True, help="What all people (with --group: all its members) may have together."),
        click.option("--workspace", "-w", metavar="W", help="What all servers of this workspace may have together."),
        click.option("--group", metavar="G", help="What each member of this Hub group may have."),
        click.option("--user", metavar="U", help="What this user may have."),
    ):
        command = option(command)
    return command


def _for_whom(user: str | None, group: str | None, workspace: str | None, pool: bool) -> dict[str, str]:
    named = {"user": user, "group": group, "workspace": workspace}
    given = [(level, name) for level, name in named.items() if name is not None]
    if len(given) > 1 or (pool and (user or workspace)):
        raise MaestroError(
            "invalid_request", "A quota is for everyone, or for one of --user, --group, --workspace; --pool goes with "
            "--group or alone.",
        )  # fmt: skip
    level, name = given[0] if given else ("everyone", "")
    if pool:
        level = "group-pool" if name else "pool"
    return {"level": level, "name": name}


@quota.command("list")
@as_json
@click.pass_obj
def quota_list(connect: Callable[[], Api], json_: bool) -> None:
    """List every figure, for whom it is set, and where it stands."""
    found = QuotaManager(api=connect()).quotas()
    if json_:
        return _print_json(found)
    rows = [[q["limit"], q["set_for"], q["shown"], q["origin"], _hidden(q)] for q in found]
    _table(["limit", "set for", "at most", "set by", "in the file"], rows)


def _hidden(figure: dict[str, Any]) -> str:
    return str(figure["file_shown"] or "-") if figure["set_by"] else "-"


@quota.command("set")
@click.argument("limit")
@click.argument("value")
@_level
@click.pass_obj
def quota_set(
    connect: Callable[[], Api], limit: str, value: str, user: str | None, group: str | None, workspace: str | None,
    pool: bool,
) -> None:  # fmt: skip
    """Set a figure at runtime: maestro quota set max_gpu_total 8 --group ml --pool

    LIMIT is called as in maestro.yaml; VALUE is written as there: 8, 0.5, 64Gi.
    """
    made = QuotaManager(api=connect()).set(limit, value, **_for_whom(user, group, workspace, pool))
    _say(f"{made['limit']} is {made['shown']} for {made['set_for']}.")


@quota.command("unset")
@click.argument("limit")
@_level
@click.pass_obj
def quota_unset(
    connect: Callable[[], Api], limit: str, user: str | None, group: str | None, workspace: str | None, pool: bool
) -> None:
    """Take back what was set at runtime; maestro.yaml counts again."""
    QuotaManager(api=connect()).remove(limit, **_for_whom(user, group, workspace, pool))
    _say(f"{limit} is taken back; maestro.yaml counts again.")


@quota.command("near")
@as_json
@click.pass_obj
def quota_near(connect: Callable[[], Api], json_: bool) -> None:
    """List who has 80 % of a limit in use, or more."""
    found = QuotaManager(api=connect()).near()
    if json_:
        return _print_json(found)
    if not found:
        return _say("Nobody has 80 % of a limit in use.")
    rows = [[n["who"], n["limit"], n["in_use_shown"], n["shown"], f"{n['set_for']}, {n['origin']}"] for n in found]
    _table(["who", "limit", "in use", "at most", "set for"], rows)


@main.group()
def templates() -> None:
    """Notebook templates."""


@templates.command("list")
@as_json
@click.pass_obj
def templates_list(connect: Callable[[], Api], json_: bool) -> None:
    """List the notebook templates."""
    found = NotebookLauncher(api=connect()).templates()
    if json_:
        return _print_json(found)
    _table(["template", "title", ""], [[t["name"], t["title"], t["description"]] for t in found])


def _resources(cpu: str | None, memory: str | None, gpu: str | None, gpu_type: str | None) -> ResourceConfig | None:
    if cpu is None and memory is None and gpu is None and gpu_type is None:
        return None
    size = parse_memory(memory) if memory is not None else parse_memory("2Gi")
    return ResourceConfig(
        cpu_cores=parse_cpu(cpu) if cpu is not None else 1,
        memory_gb=size / 1024**3,
        gpu_count=parse_gpu(gpu) if gpu is not None else (1 if gpu_type else 0),
        gpu_type=gpu_type,
    )


def _print_session(session: NotebookSession, json_: bool) -> None:
    if json_:
        return _print_json(_session_json(session))
    for key in ("notebook_url", "session_id", "status"):
        _say(f"{key + ':':<14}{getattr(session, key)}")
    if session.ended_reason:
        _say(f"{'reason:':<14}{session.ended_reason}")


def _session_json(session: NotebookSession) -> dict[str, Any]:
    resources = {**session.resources.model_dump(), "memory": format_memory(session.resources.memory)}
    return {name: _plain_json(value) for name, value in vars(session).items()} | {"resources": resources}


def _workspace_json(workspace: Workspace) -> dict[str, Any]:
    return {name: _plain_json(value) for name, value in vars(workspace).items()}


def _plain_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _servers(workspace: Workspace) -> str:
    limit = "any number" if workspace.servers_limit is None else str(workspace.servers_limit)
    return f"{workspace.servers_used} of {limit}"


def _usage(launch: LaunchUsage) -> list[str]:
    """cpu, memory and whether something works, of the last sample; of what it was given."""
    given = launch.resources
    if launch.latest is None:
        return [f"- of {given.cpu:g}", f"- of {show_memory(given.memory)}", "-"]
    last = launch.latest
    cpu, memory = f"{last.cpu:.2f} of {given.cpu:g}", f"{show_memory(last.memory)} of {show_memory(given.memory)}"
    return [cpu, memory, "yes" if last.busy else "no"]


def _gpu(profile: dict[str, Any]) -> str:
    return f"{profile['gpu']} {profile['gpu_type'] or ''}".strip() if profile["gpu"] else "-"


def _up_to(profile: dict[str, Any]) -> str:
    """The most that may be asked for now, where it is another amount than the profile's own."""
    if profile.get("max_cpu") is None:
        return "-"
    own = (profile["cpu"], profile["memory"], profile["gpu"])
    if (profile["max_cpu"], profile["max_memory"], profile["max_gpu"]) == own:
        return "-"
    gpus = f", {profile['max_gpu']} gpu" if profile["max_gpu"] else ""
    return f"{profile['max_cpu']:g} cpu, {profile['max_memory_shown']}{gpus}"


def _idle(profile: dict[str, Any]) -> str:
    minutes = profile.get("idle_minutes")
    return "-" if minutes is None else f"{minutes} min" if minutes else "never"


for _command in (advisories, security_scan, sync, version, *JOBS, *METADATA, *REQUESTS, *ENVIRONMENTS):
    main.add_command(_command)


if __name__ == "__main__":
    main()
