"""A launch as bubblewrap is told it: from a plan to the command line, without touching anything.

What a server sees: the machine's programs (read-only), the interpreter that it runs from (read-only), its workspace,
its private home, its datasets, and what belongs to this launch alone. The Hub's state, other workspaces and other
people's processes do not exist for it.

A command line is readable by every user of a machine, so the options go through a file descriptor (``--args``) and
the server's variables with them; the helpers in front of bubblewrap run with a fixed environment of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from .environment import valid_variable
from .errors import MaestroError
from .launches import CLIENT_CONFIG_DIR, ENVIRONMENT_DIR, HOME_DIR, LaunchPlan
from .mounts import checked_mounts

#: the system user to which a root Hub drops; it owns workspaces and homes then
SANDBOX_USER = "maestro-sandbox"
#: who one is inside
UID = GID = 1000
USER_NAME = "jovyan"

#: of the machine, each where it exists; a link (``/bin`` on Debian) is followed
SYSTEM_PATHS = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
    "/etc/alternatives", "/etc/ca-certificates", "/etc/ca-certificates.conf", "/etc/crypto-policies", "/etc/fonts",
    "/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
    "/etc/locale.alias", "/etc/localtime", "/etc/magic", "/etc/mime.types", "/etc/networks", "/etc/nsswitch.conf",
    "/etc/protocols", "/etc/resolv.conf", "/etc/services", "/etc/terminfo", "/etc/timezone",
    # certificates, without the folders of private keys beside them
    "/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/ssl/openssl.cnf", "/etc/pki/ca-trust", "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem", "/etc/pki/tls/openssl.cnf",
    "/sys/devices/system/cpu", "/sys/devices/system/node",
)  # fmt: skip

#: the folders of one launch, below ``run/launches/<launch id>`` or ``run/jobs/<launch id>``
ETC, ENV, SYSTEM = "etc", "env", "system"

#: the environment of unshare, sh, mount, setpriv and bwrap: nothing of a user's reaches what may run as root
HELPER_ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "LC_ALL": "C"}

# As root, in a mount namespace of its own: every source gets a place that the sandbox's user can reach, because the
# checkout, the interpreter and the state may lie below a folder that is closed to it (/root). The arguments are data.
_STAGE = """set -eu
stage=$1; shift
mount -t tmpfs -o mode=0755,nosuid,nodev,size=1m maestro "$stage"
n=0
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir "$stage/$n"; else : > "$stage/$n"; fi
  mount --rbind "$1" "$stage/$n"
  n=$((n + 1)); shift
done
shift
exec "$@"
"""

# "0" is the writing process itself, so nothing that it starts is left outside.
_JOIN = """set -eu
echo 0 > "$1/cgroup.procs"; shift
exec "$@"
"""


@dataclass(frozen=True)
class Bind:
    """One thing of the machine inside the sandbox.

    Attributes:
        source: absolute path outside; target: absolute path inside.
        device: a device node, which stays usable.
    """

    source: str
    target: str
    read_only: bool = True
    device: bool = False


class Owner(NamedTuple):
    """The user of a machine that the processes of servers run as, and that owns workspaces and homes."""

    uid: int
    gid: int


class _Account(Protocol):
    @property
    def pw_uid(self) -> int: ...
    @property
    def pw_gid(self) -> int: ...


def sandbox_owner(euid: int, find: Callable[[str], _Account], name: str = SANDBOX_USER) -> Owner | None:
    """Who must own what servers write, or None when it is the Hub's own user anyway.

    Whoever makes a directory for servers (volumes, homes) asks this and changes the owner where there is one.

    Args:
        euid: ``os.geteuid()``; only root gives files away.
        find: ``pwd.getpwnam``.
        name: the account.

    Raises:
        KeyError: as root, when the account does not exist (the Hub makes it at its start).
    """
    if euid != 0:
        return None
    account = find(name)
    return Owner(account.pw_uid, account.pw_gid)


def system_files() -> dict[str, str]:
    """``passwd`` and ``group`` inside: root, the one user, nobody."""
    return {
        "passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\n{USER_NAME}:x:{UID}:{GID}::{HOME_DIR}:/bin/bash\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        "group": f"root:x:0:\n{USER_NAME}:x:{GID}:\nnogroup:x:65534:\n",
    }


#: where programs (the JVM, joblib, Jupyter's own) look for the limits that hold for them
CGROUP = "/sys/fs/cgroup"


def launch_binds(
    plan: LaunchPlan,
    launch_dir: str,
    runtime: Sequence[str],
    devices: Sequence[str] = (),
    cgroup: str | None = None,
) -> list[Bind]:
    """All that this launch sees besides :data:`SYSTEM_PATHS`, in the order in which it is mounted.

    Args:
        plan: what the service decided.
        launch_dir: absolute path of this launch's folder, with :data:`ETC`, :data:`ENV` and :data:`SYSTEM` in it.
        runtime: absolute paths that every server sees read-only at the same place: the single-user environment and
            the interpreter behind it.
        devices: device nodes, for a launch with a GPU.
        cgroup: absolute path of the launch's own group of cgroup v2: programs look there for what they may take.

    Raises:
        MaestroError: as :func:`~maestro_core.mounts.checked_mounts`.
    """
    mounts = [Bind(mount.source, mount.target, mount.read_only) for mount in checked_mounts(plan, "directory")]
    mounts.sort(key=lambda bind: bind.target != HOME_DIR)  # the interpreter may lie below a real /home/jovyan
    shown = [Bind(path, path) for path in outermost(runtime) if not _inside(path, "/usr")]
    own = [
        Bind(f"{launch_dir}/{ENV}", ENVIRONMENT_DIR, read_only=False),
        Bind(f"{launch_dir}/{ETC}", CLIENT_CONFIG_DIR),
        *(Bind(f"{launch_dir}/{SYSTEM}/{name}", f"/etc/{name}") for name in system_files()),
    ]
    if cgroup is not None:
        own.append(Bind(cgroup, CGROUP))
    return [*mounts, *shown, *own, *(Bind(path, path, False, device=True) for path in devices)]


def outermost(paths: Sequence[str]) -> list[str]:
    """The paths without doubles and without those that lie below another."""
    kept: list[str] = []
    for path in sorted({path.rstrip("/") for path in paths}):
        if not any(_inside(path, other) for other in kept):
            kept.append(path)
    return kept


def check_hidden(shown: Sequence[str], hidden: str) -> None:
    """Refuse to show the Hub's state to servers by accident.

    Args:
        shown: what servers see besides :data:`SYSTEM_PATHS`; hidden: what none may see (the state).

    Raises:
        MaestroError: ``conflict``.
    """
    for path in [*SYSTEM_PATHS, *shown]:
        if _inside(hidden, path.rstrip("/") or "/"):
            raise MaestroError(
                "conflict",
                f"The Hub's state lies inside {path}, which servers can read, so nothing was started; an admin has to "
                "move the state elsewhere, or to show servers less.",
            )


def _inside(path: str, folder: str) -> bool:
    return path == folder or folder == "/" or path.startswith(folder + "/")


def server_environment(given: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The whole environment of a server inside: nothing is inherited.

    Args:
        given: the Hub's and the plan's variables (``Spawner.get_env()``); they win, but not over who one is.
        prefix: the single-user environment.
    """
    return {
        "PATH": f"{prefix}/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
        **given,
        "HOME": HOME_DIR,
        "USER": USER_NAME,
        "LOGNAME": USER_NAME,
        "SHELL": "/bin/bash",
    }


def bwrap_options(binds: Sequence[Bind], environment: Mapping[str, str], directory: str = HOME_DIR) -> tuple[str, ...]:
    """The options of bubblewrap, to be handed over by :func:`encode_options`.

    ``--die-with-parent`` is left out on purpose: servers outlive the Hub and are found again.

    Args:
        binds: from :func:`launch_binds`, perhaps :func:`staged`.
        environment: all of the server's variables.
        directory: where it starts.
    """
    options = ["--unshare-user", "--uid", str(UID), "--gid", str(GID)]
    options += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    options.append("--clearenv")
    for name, value in environment.items():
        if not valid_variable(name):
            raise MaestroError("internal", f"{name[:40]!r} cannot name a variable of the environment.")
        options += ["--setenv", name, value]
    for path in SYSTEM_PATHS:
        options += ["--ro-bind-try", path, path]
    options += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp", "--tmpfs", "/run"]  # noqa: S108
    for bind in binds:
        kind = "--dev-bind" if bind.device else "--ro-bind" if bind.read_only else "--bind"
        options += [kind, bind.source, bind.target]
    return (*options, "--remount-ro", "/", "--chdir", directory)


def encode_options(options: Sequence[str]) -> bytes:
    """Options as ``bwrap --args FD`` reads them.

    Raises:
        MaestroError: ``internal`` if one holds a NUL character, which would begin another option.
    """
    if any("\0" in option for option in options):
        raise MaestroError("internal", "A path or variable of this launch holds a NUL character; nothing was started.")
    return b"".join(option.encode("utf-8", "surrogateescape") + b"\0" for option in options)


def staged(binds: Sequence[Bind], stage: str) -> tuple[list[Bind], list[str]]:
    """For a root Hub: the binds with sources below ``stage``, and what must be mounted there first, in that order."""
    sources = list(dict.fromkeys(bind.source for bind in binds))
    place = {source: f"{stage}/{number}" for number, source in enumerate(sources)}
    return [Bind(place[bind.source], bind.target, bind.read_only, bind.device) for bind in binds], sources


def bwrap_command(command: Sequence[str], options_fd: int, status_fd: int | None = None) -> list[str]:
    """``bwrap`` with its options on ``options_fd``, its report (JSON) on ``status_fd``, and the server's command."""
    report = [] if status_fd is None else ["--json-status-fd", str(status_fd)]
    return ["bwrap", "--args", str(options_fd), *report, "--", *command]


def dropped(command: Sequence[str], owner: Owner, stage: str, sources: Sequence[str]) -> list[str]:
    """``command`` as root starts it: the sources mounted below ``stage``, then every privilege given up for good."""
    return [
        *("unshare", "--mount", "--propagation", "private", "--"),
        *("sh", "-c", _STAGE, "sh", stage, *sources, "--"),
        *("setpriv", f"--reuid={owner.uid}", f"--regid={owner.gid}", "--clear-groups", "--no-new-privs"),
        *("--inh-caps=-all", "--bounding-set=-all", "--", *command),
    ]


def limited(command: Sequence[str], cgroup: str) -> list[str]:
    """``command`` started inside a cgroup (an absolute directory of cgroup v2)."""
    return ["sh", "-c", _JOIN, "sh", cgroup, *command]


def plain_environment(given: Mapping[str, str], plan: LaunchPlan, launch_dir: str, prefix: str) -> dict[str, str]:
    """The environment of a server without a sandbox: the same variables, with real paths where inside ones stood.

    Raises:
        MaestroError: ``conflict`` for a viewer, whose workspace only a sandbox can keep read-only.
    """
    if plan.read_only:
        raise MaestroError(
            "conflict",
            "You are a viewer here, and this machine cannot open a workspace read-only; ask an admin to install the "
            "package bubblewrap.",
        )
    real = {mount.target: mount.source for mount in checked_mounts(plan, "directory")}
    real |= {ENVIRONMENT_DIR: f"{launch_dir}/{ENV}", CLIENT_CONFIG_DIR: f"{launch_dir}/{ETC}"}
    inside = server_environment(given, prefix)
    return {name: _real_path(value, real) for name, value in inside.items()}


def _real_path(value: str, real: Mapping[str, str]) -> str:
    for inside, outside in real.items():
        if _inside(value, inside):
            return outside + value[len(inside) :]
    return value
