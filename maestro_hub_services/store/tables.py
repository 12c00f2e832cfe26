"""The tables. What a column means is said here; who may write it, in the repository of its aggregate.

Users are keyed on the Hub's name AND its creation stamp: a deleted and re-created user of the same name inherits
nothing. Rows are never deleted where something else may still point at them: workspaces are archived, launches end.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
    text,
)

#: names of constraints, so that a later migration can change them on every database
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Moment(TypeDecorator[datetime]):
    """A moment, always with its zone: UTC in the database, aware in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_Id = String(32)


#: a 64-bit key that counts up by itself on every database (sqlite does so for INTEGER alone)
_Serial = BigInteger().with_variant(Integer(), "sqlite")

workspace = Table(
    "workspace",
    metadata,
    Column("id", _Id, primary_key=True),  # immutable; directories and labels carry it
    Column("name", String(30), nullable=False, unique=True),  # of archived ones too: their volume has the name
    Column("description", String(1000), nullable=False, server_default=""),
    Column("personal", Boolean, nullable=False),
    # of a personal workspace: whose it is
    Column("personal_user", String(255)),
    Column("personal_created", String(64)),
    Column("gid", Integer, nullable=False, unique=True),  # owns the files on Kubernetes; never handed out again
    Column("template", String(30)),  # what a launch opens that names no template
    Column("created_by", String(255), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("archived_by", String(255)),
    Column("archived_at", Moment),
    # bytes that its files take, as last measured; NULL: never measured
    Column("storage_used", BigInteger),
    Column("storage_measured_at", Moment),
    # maestro_core.workspace_settings.WorkspaceSettings as JSON; NULL: nothing is set
    Column("settings", JSON(none_as_null=True)),
    # The end: once purging has begun nothing brings it back. When nothing is left `name` becomes the id, so that the
    # name is free again; the row stays, and with it the gid and the id.
    Column("purged_name", String(30)),
    Column("purge_by", String(255)),
    Column("purge_at", Moment),
    Column("purge_report", JSON(none_as_null=True)),
    Column("purged_at", Moment),
    Column("creator_created", String(64)),  # creation stamp of created_by: whose quota it counts in
    UniqueConstraint("personal_user", "personal_created"),
    Index("ix_workspace_created_by", "created_by"),
)

member = Table(
    "member",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("workspace_id", _Id, ForeignKey("workspace.id"), nullable=False),
    Column("kind", String(8), nullable=False),  # user or group
    Column("name", String(255), nullable=False),
    Column("created", String(64), nullable=False, server_default=""),  # of a user; empty for a group
    Column("role", String(16), nullable=False),
    Column("added_by", String(255), nullable=False),
    Column("added_at", Moment, nullable=False),
    UniqueConstraint("workspace_id", "kind", "name"),
    Index("ix_member_kind_name", "kind", "name"),
)

launch = Table(
    "launch",
    metadata,
    Column("id", _Id, primary_key=True),  # the API's session_id
    Column("kind", String(8), nullable=False, server_default="server"),
    Column("workspace_id", _Id, ForeignKey("workspace.id"), nullable=False),
    Column("user", String(255), nullable=False),
    Column("user_created", String(64), nullable=False),
    Column("server_name", String(30), nullable=False),
    Column("role", String(16), nullable=False),  # with which it was admitted: the mount is fixed by it
    Column("profile", String(30), nullable=False),
    Column("cpu", Float, nullable=False),
    Column("memory", BigInteger, nullable=False),  # bytes
    Column("gpu", Integer, nullable=False),
    Column("gpu_type", String(63)),
    Column("experiment", String(250), nullable=False),
    Column("default_url", String(300), nullable=False),  # what JupyterLab opens
    Column("status", String(16), nullable=False),  # reserved, running, ended
    Column("token_mac", String(64)),  # HMAC of the index token; NULL once ended
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("ended_at", Moment),
    Column("ended_reason", String(200)),
    Column("image", String(500)),  # container image; NULL: the deployment's own
    Column("idle_minutes", Integer),  # after which it is culled; NULL: the deployment's own time
    # what will end it, as its user is told; NULL: nothing
    Column("ends_at", Moment),
    Column("ends_kind", String(8)),  # role: its user's role is gone or lower; idle
    Column("ends_reason", String(200)),
    Column("kept_at", Moment),  # when its user last asked to keep it running
    # since when its amounts are being changed: until it is settled, cpu and memory are the higher of before and after
    Column("resizing_at", Moment),
    # one server has one active launch
    Index(
        "uq_launch_active_server",
        "user",
        "user_created",
        "server_name",
        unique=True,
        sqlite_where=text("status != 'ended'"),
        postgresql_where=text("status != 'ended'"),
    ),
    # what admission and reconcile look at stays small however many launches have ended
    Index(
        "ix_launch_active_workspace",
        "workspace_id",
        sqlite_where=text("status != 'ended'"),
        postgresql_where=text("status != 'ended'"),
    ),
    Index("uq_launch_token_mac", "token_mac", unique=True),
    Index("ix_launch_user_created_at", "user", "created_at"),
)

invitation = Table(
    "invitation",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("workspace_id", _Id, ForeignKey("workspace.id"), nullable=False),
    Column("user", String(255), nullable=False),
    # of the first account of that name that Maestro saw: from then on it is for that one alone
    Column("user_created", String(64), nullable=False, server_default=""),
    Column("role", String(16), nullable=False),
    # an owner who is none any more has invited nobody; NULL: an admin, who needs no role
    Column("invited_by", String(255), nullable=False),
    Column("inviter_created", String(64)),
    Column("invited_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    UniqueConstraint("workspace_id", "user"),
    Index("ix_invitation_user", "user"),
)

#: what launches used: samples of the last hour, minutes of the last day, hours of the time that maestro.yaml says
usage = Table(
    "usage",
    metadata,
    Column("launch_id", _Id, ForeignKey("launch.id"), nullable=False),
    Column("span", Integer, nullable=False),  # seconds that a row stands for; 0: a sample
    Column("at", BigInteger, nullable=False),  # seconds of the epoch at which the span began
    Column("samples", Integer, nullable=False),
    Column("seconds", Float, nullable=False),  # over which cpu_seconds were measured
    Column("cpu_seconds", Float, nullable=False),
    Column("memory", BigInteger, nullable=False),  # bytes, mean of the samples
    Column("memory_peak", BigInteger, nullable=False),
    Column("gpu", Float),  # percent, mean; NULL: no GPU, or one that does not say
    Column("gpu_memory", BigInteger, nullable=False),
    Column("busy", Float, nullable=False),  # share of the samples
    Index("ix_usage_launch_id_at", "launch_id", "at"),
    Index("ix_usage_span_at", "span", "at"),
)

event = Table(
    "event",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("actor", String(255), nullable=False),  # a Hub user's name, or the part of ours that acted
    Column("workspace_id", _Id),  # no foreign keys: events outlive what they speak of
    Column("launch_id", _Id),
    Column("user", String(255)),  # whom it is about
    Column("fields", JSON, nullable=False),
    # what repeats is counted on its event for a while: how often, when last, and a hash of what it is to be the same
    Column("count", Integer, nullable=False, server_default="1"),
    Column("last_at", Moment),
    Column("same", String(64)),
    Index("ix_event_workspace_id_id", "workspace_id", "id"),
    Index("ix_event_kind_id", "kind", "id"),
    Index("ix_event_same", "same", sqlite_where=text("same IS NOT NULL"), postgresql_where=text("same IS NOT NULL")),
    Index("ix_event_user_kind_at", "user", "kind", "at"),
)

#: limits that admins set at runtime; a row wins over maestro.yaml's figure of the same level
quota_override = Table(
    "quota_override",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("level", String(16), nullable=False),  # a key of maestro_core.quota.LEVELS
    Column("name", String(255), nullable=False, server_default=""),  # of the group, user or workspace
    # creation stamp of the user or id of the workspace: one re-created under the name inherits nothing
    Column("stamp", String(64), nullable=False, server_default=""),
    Column("limit_name", String(40), nullable=False),
    Column("value", Float, nullable=False),
    Column("set_by", String(255), nullable=False),
    Column("set_at", Moment, nullable=False),
    UniqueConstraint("level", "name", "stamp", "limit_name"),
)

#: the Hub groups of a launch's user, as last known while it was active: what group pools count
launch_group = Table(
    "launch_group",
    metadata,
    Column("launch_id", _Id, ForeignKey("launch.id"), primary_key=True),
    Column("group_name", String(255), primary_key=True),
    Index("ix_launch_group_group_name", "group_name"),
)

#: what a launch held and how long: budgets are sums over these intervals. Seconds of the epoch, UTC, so that both
#: databases can subtract; a step of the clock moves `began` of what is open, never what time was used.
charge = Table(
    "charge",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("launch_id", _Id, ForeignKey("launch.id"), nullable=False),
    Column("workspace_id", _Id, ForeignKey("workspace.id"), nullable=False),
    Column("user", String(255), nullable=False),
    Column("user_created", String(64), nullable=False),
    Column("cpu", Float, nullable=False),
    Column("gpu", Integer, nullable=False),
    Column("began", Float, nullable=False),
    Column("ended", Float),  # NULL: still held
    Index("ix_charge_launch_id", "launch_id"),
    Index("ix_charge_user_ended", "user", "ended"),
    Index("ix_charge_workspace_id_ended", "workspace_id", "ended"),
    Index("ix_charge_ended", "ended"),
)

#: advisories about packages, as admins imported them (maestro_core.advisories)
advisory = Table(
    "advisory",
    metadata,
    Column("id", String(100), primary_key=True),
    Column("package", String(200), primary_key=True),
    Column("malware", Boolean, nullable=False),
    Column("modified", String(40), nullable=False),
    Column("body", JSON, nullable=False),
    Column("import_id", String(32), nullable=False),  # of the import that brought it last
    Column("imported_at", Moment, nullable=False),
    Index("ix_advisory_package", "package"),
    Index("ix_advisory_malware", "malware"),
)

#: requests for packages; one of a package may be pending in a workspace, whoever asks joins it
package_request = Table(
    "package_request",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("workspace_id", _Id, ForeignKey("workspace.id"), nullable=False),
    Column("package", String(200), nullable=False),  # normal name
    Column("channel", String(100), nullable=False),
    Column("version", String(100), nullable=False, server_default=""),  # a specifier, of who asked first
    Column("status", String(16), nullable=False),  # pending, approved, denied, withdrawn
    # what the policy said: the rule, and its sentence
    Column("rule", String(250), nullable=False),
    Column("sentence", String(1000), nullable=False),
    Column("asked_at", Moment, nullable=False),
    Column("decided_by", String(255)),
    Column("decided_at", Moment),
    Column("answer", String(500), nullable=False, server_default=""),
    # maestro_core.requests.Facts as JSON; NULL: the index's service has not looked yet
    Column("facts", JSON(none_as_null=True)),
    Index(
        "uq_package_request_pending",
        "workspace_id",
        "package",
        "channel",
        unique=True,
        sqlite_where=text("status = 'pending'"),
        postgresql_where=text("status = 'pending'"),
    ),
    Index("ix_package_request_workspace_id_asked_at", "workspace_id", "asked_at"),
    Index("ix_package_request_status", "status"),
)

request_asker = Table(
    "request_asker",
    metadata,
    Column("request_id", _Id, ForeignKey("package_request.id"), primary_key=True),
    Column("user", String(255), primary_key=True),
    Column("user_created", String(64), primary_key=True),
    Column("version", String(100), nullable=False, server_default=""),
    Column("reason", String(500), nullable=False, server_default=""),
    Column("asked_at", Moment, nullable=False),
    Index("ix_request_asker_user", "user", "user_created"),
)

#: what people decided about packages; each row is a rule of origin "decision" in the compiled policy
package_rule = Table(
    "package_rule",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("workspace_id", _Id, ForeignKey("workspace.id")),  # NULL: everywhere
    Column("request_id", _Id, ForeignKey("package_request.id")),
    Column("package", String(200), nullable=False),
    Column("version", String(100), nullable=False, server_default=""),
    Column("channel", String(100)),  # NULL: all
    Column("action", String(8), nullable=False),
    Column("set_by", String(255), nullable=False),
    Column("set_at", Moment, nullable=False),
    Column("until", Moment),  # NULL: until somebody takes it back
    Index("ix_package_rule_workspace_id", "workspace_id"),
    Index("ix_package_rule_request_id", "request_id"),
)

#: versions of a workspace's environment: what people asked for; never changed, each made from its parent
environment = Table(
    "environment",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("workspace_id", _Id, ForeignKey("workspace.id"), nullable=False),
    Column("kind", String(16), nullable=False),  # what manages the packages: python or conda
    Column("number", Integer, nullable=False),  # counts up from 1 in each workspace and kind
    Column("parent", Integer, nullable=False),  # 0: made from nothing
    Column("author", String(255), nullable=False),
    Column("launch_id", _Id),  # the server in which it was installed
    Column("at", Moment, nullable=False),
    Column("reason", String(200), nullable=False, server_default=""),
    Column("python_version", String(16)),  # that the workspace asks for
    Column("requirements", JSON, nullable=False),
    Column("channels", JSON),  # of conda's: those that are looked in
    UniqueConstraint("workspace_id", "kind", "number"),
)

#: the files of a version for one target (Python, platform, what the image has)
environment_lock = Table(
    "environment_lock",
    metadata,
    Column("environment_id", _Serial, ForeignKey("environment.id"), primary_key=True),
    Column("target", String(80), primary_key=True),
    Column("complete", Boolean, nullable=False),  # false: only what to prefer when it is resolved
    Column("packages", JSON, nullable=False),  # [{name, version, hashes}]; conda's: build, channel and sha256
)

#: a notebook without outputs, once for each address in a workspace (maestro_core.snapshots)
snapshot_content = Table(
    "snapshot_content",
    metadata,
    Column("workspace_id", _Id, ForeignKey("workspace.id"), primary_key=True),
    Column("address", String(64), primary_key=True),
    Column("size", Integer, nullable=False),  # of the JSON
    Column("cells", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),  # zstd of JSON
)

#: each time that a notebook was saved with other sources than before
snapshot = Table(
    "snapshot",
    metadata,
    Column("id", _Serial, primary_key=True),
    Column("workspace_id", _Id, ForeignKey("workspace.id"), nullable=False),
    Column("path", String(1000), nullable=False),
    Column("address", String(64), nullable=False),
    Column("author", String(255), nullable=False),
    Column("launch_id", _Id, nullable=False),
    Column("saved_at", Moment, nullable=False),
    Index("ix_snapshot_workspace_id_path_id", "workspace_id", "path", "id"),
    Index("ix_snapshot_workspace_id_address", "workspace_id", "address"),
)

#: single files that admins let in for a few minutes, whatever the rules say
package_grant = Table(
    "package_grant",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("workspace_id", _Id, ForeignKey("workspace.id"), nullable=False),
    Column("package", String(200), nullable=False),
    Column("version", String(100), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("until", Moment, nullable=False),
    Index("ix_package_grant_workspace_id", "workspace_id"),
)

#: a notebook or script that runs without a browser (maestro_core.jobs); it holds nothing, its attempts' launches do
job = Table(
    "job",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("workspace_id", _Id, ForeignKey("workspace.id"), nullable=False),
    Column("user", String(255), nullable=False),
    Column("user_created", String(64), nullable=False),
    Column("name", String(100), nullable=False),
    Column("kind", String(16), nullable=False),  # notebook, script, sweep-summary
    Column("path", String(1000), nullable=False),
    Column("address", String(64), nullable=False),  # of its code, in job_code
    Column("experiment", String(250), nullable=False),
    Column("parameters", JSON, nullable=False),
    # what is asked of each attempt's launch, as JSON: profile, resources, image
    Column("ask", JSON, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("timeout", Integer, nullable=False),  # seconds of one attempt
    Column("max_concurrency", Integer),
    Column("queue", String(250), nullable=False),  # what counts together for that
    # the job that carries a schedule waits for its time; then another one carries it
    Column("schedule", String(100)),
    Column("timezone", String(60), nullable=False),
    Column("series", _Id),  # the first job of a schedule
    Column("sweep_id", _Id),
    Column("tags", JSON, nullable=False),
    Column("work", JSON(none_as_null=True)),  # more of the work order: parent_run, open_parent, metric
    Column("status", String(16), nullable=False),
    Column("reason", String(1000)),
    Column("attempt", Integer, nullable=False),  # the number of the last one; 0: none yet
    Column("failures", Integer, nullable=False),  # attempts that count against retries
    Column("not_before", Moment),  # NULL: as soon as there is room
    Column("cancel_by", String(255)),  # who wants it to end
    Column("cancel_at", Moment),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("ended_at", Moment),
    # what the queue looks at stays small however many have ended
    Index(
        "ix_job_open",
        "created_at",
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("ix_job_workspace_id_created_at", "workspace_id", "created_at"),
    Index("ix_job_user_created_at", "user", "created_at"),
    Index("ix_job_sweep_id", "sweep_id"),
    Index("ix_job_series", "series"),
)

#: the code of jobs, once for each address in a workspace; notebooks' are snapshots' addresses
job_code = Table(
    "job_code",
    metadata,
    Column("workspace_id", _Id, ForeignKey("workspace.id"), primary_key=True),
    Column("address", String(64), primary_key=True),
    Column("body", LargeBinary, nullable=False),  # zstd of a notebook's JSON without outputs, or of a script
)

job_attempt = Table(
    "job_attempt",
    metadata,
    Column("job_id", _Id, ForeignKey("job.id"), primary_key=True),
    Column("number", Integer, primary_key=True),  # from 1
    Column("launch_id", _Id, ForeignKey("launch.id"), nullable=False, unique=True),
    Column("token_mac", String(64), unique=True),  # HMAC of its token; NULL: the token is dead
    Column("token_until", Moment, nullable=False),
    Column("phase", String(16)),  # NULL: its worker has said nothing yet
    Column("cell", Integer, nullable=False),
    Column("cells", Integer, nullable=False),
    Column("heard_at", Moment),
    Column("run_id", String(64)),
    Column("parent_run", String(64)),
    Column("metrics", JSON(none_as_null=True)),
    Column("outcome", String(16)),
    Column("reason", String(1000)),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment),
)

#: the last of what an attempt wrote
job_log = Table(
    "job_log",
    metadata,
    Column("job_id", _Id, ForeignKey("job.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),  # bytes before it
    Column("length", Integer, nullable=False),  # bytes
    Column("body", LargeBinary, nullable=False),
)

#: the executed notebook of a job's last attempt
job_output = Table(
    "job_output",
    metadata,
    Column("job_id", _Id, ForeignKey("job.id"), primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),  # zstd of JSON
)

#: one notebook or script with many sets of parameters (maestro_core.sweeps); its trials are jobs
sweep = Table(
    "sweep",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("workspace_id", _Id, ForeignKey("workspace.id"), nullable=False),
    Column("user", String(255), nullable=False),
    Column("user_created", String(64), nullable=False),
    Column("name", String(100), nullable=False),
    Column("kind", String(16), nullable=False),  # notebook, script
    Column("path", String(1000), nullable=False),
    Column("address", String(64), nullable=False),
    Column("body", LargeBinary, nullable=False),  # its code as in job_code, which forgets; empty when it is over
    Column("experiment", String(250), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", String(1000)),
    Column("parent_run", String(64)),  # NULL: the first trial has not begun
    Column("summary_job", _Id),
    Column("cancel_by", String(255)),  # who wants it to end
    Column("stopped", String(1000)),  # why no more trials begin, where nobody cancelled it
    Column("created_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Index(
        "ix_sweep_open",
        "created_at",
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("ix_sweep_workspace_id_created_at", "workspace_id", "created_at"),
    Index("ix_sweep_user_created_at", "user", "created_at"),
)

#: what is known of a trial for good: its job may be forgotten
sweep_trial = Table(
    "sweep_trial",
    metadata,
    Column("sweep_id", _Id, ForeignKey("sweep.id"), primary_key=True),
    Column("number", Integer, primary_key=True),  # from 1
    Column("parameters", JSON, nullable=False),  # those that differ between trials
    Column("job_id", _Id, nullable=False),
    Column("status", String(16), nullable=False),  # queued until its job is over
    Column("reason", String(1000)),
    Column("value", Float),  # of the sweep's metric
    Column("run_id", String(64)),
)
