"""Real sandboxes: what code in one sees and may do, for a root Hub and for an ordinary user's."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from maestro_core import sandbox
from maestro_core.launches import LaunchPlan
from maestro_spawner.machine import folder, host

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.skipif(host.bubblewrap_problem() is not None, reason=f"no sandbox: {host.bubblewrap_problem()}"),
]

SECRET = "only-the-hub-knows-this"
UP = "the-sandbox-is-up\n"


@dataclass
class House:
    """A state with two workspaces, and one launch into the first.

    Attributes:
        drop: whose sandbox it is: ``root`` (drops to the system user), ``user`` (an ordinary user's Hub).
    """

    state: Path
    owner: sandbox.Owner | None
    before: tuple[str, ...]

    def plan(self, role: str = "editor", **changes: Any) -> LaunchPlan:
        mounts = [
            {
                "name": "workspace",
                "kind": "directory",
                "source": str(self.state / "workspaces/mine"),
                "target": "/workspace",
            },
            {"name": "home", "kind": "directory", "source": str(self.state / "homes/ann"), "target": "/home/jovyan"},
            {
                "name": "dataset-iris",
                "kind": "directory",
                "source": str(self.state.parent / "iris"),
                "target": "/datasets/iris",
            },
        ]
        return LaunchPlan.model_validate(
            {
                "launch_id": "l1",
                "user": "ann",
                "server_name": "demo",
                "workspace": {"workspace_id": "mine", "name": "demo", "gid": 20001},
                "role": role,
                "profile": "small",
                "resources": {},
                "mounts": mounts,
                "index_url": "http://127.0.0.1:8182/services/packages",
                "index_token": "index-token",
                **changes,
            }
        )  # fmt: skip

    def run(
        self, script: str, role: str = "editor", cgroup: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside, started as a server is."""
        plan, launch = self.plan(role), self.state / "run/launches/l1"
        folder.make(launch, plan, self.owner if os.geteuid() == 0 else None)
        if self.before and self.owner is not None:
            os.chown(launch, *self.owner)  # an ordinary user's Hub has made it
        binds, sources = sandbox.launch_binds(plan, str(launch), (), (), cgroup), []
        if not self.before and self.owner is not None:
            host.make_stage()
            binds, sources = sandbox.staged(binds, host.STAGE)
        variables = sandbox.server_environment(environment, "/usr")
        options = sandbox.encode_options(sandbox.bwrap_options(binds, variables))
        with host.options_file(options) as descriptor:
            command = sandbox.bwrap_command(["/bin/sh", "-c", f"echo {UP.strip()} >&2\n{script}"], descriptor)
            if sources and self.owner is not None:
                command = sandbox.dropped(command, self.owner, host.STAGE, sources)
            done = subprocess.run(
                [*self.before, *command],
                env={**sandbox.HELPER_ENVIRONMENT},
                pass_fds=[descriptor],
                capture_output=True,
                text=True,
                timeout=30,
            )
        assert done.stderr.startswith(UP), f"there was no sandbox: {done.stderr}"
        done.stderr = done.stderr.removeprefix(UP)
        return done


def _house(base: Path, owner: sandbox.Owner | None, before: tuple[str, ...]) -> House:
    state = base / "state"
    for path in ("workspaces/mine", "workspaces/theirs", "homes/ann", "homes/bob", "keys", "hub", "run/launches"):
        (state / path).mkdir(parents=True)
    (state / "workspaces/mine/notes.txt").write_text("mine")
    (state / "workspaces/theirs/notes.txt").write_text("theirs")
    (state / "keys/cookie_secret").write_text(SECRET)
    (base / "iris").mkdir()
    (base / "iris/iris.csv").write_text("1,2,3")
    if owner is not None:
        for path in ("workspaces/mine", "workspaces/mine/notes.txt", "workspaces/theirs", "homes/ann", "homes/bob"):
            os.chown(state / path, *owner)
    return House(state, owner, before)


@pytest.fixture(params=["root", "user"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    """As root: below a folder that is closed to everybody else, as /root is. As a user: everything is that user's."""
    root = os.geteuid() == 0
    if request.param == "root" and not root:
        pytest.skip("only a root Hub drops to another user")
    base = Path(tempfile.mkdtemp(prefix="maestro-house-"))
    try:
        if request.param == "root":
            yield _house(base, host.owner_of_servers(), ())
        elif root:
            nobody = pwd.getpwnam("nobody")
            house = _house(base, sandbox.Owner(nobody.pw_uid, nobody.pw_gid), ())
            subprocess.run(["chown", "-R", f"{nobody.pw_uid}:{nobody.pw_gid}", str(base)], check=True)
            drop = ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups", "--")
            yield House(house.state, house.owner, drop)
        else:
            yield _house(base, None, ())
    finally:
        shutil.rmtree(base)


def test_a_server_is_somebody_inside_without_any_privilege(house: House) -> None:
    done = house.run(
        "id -u; id -g; whoami; pwd; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; ls -A /root 2>&1"
    )
    lines = done.stdout.split()
    assert lines[:4] == ["1000", "1000", "jovyan", "/home/jovyan"], done.stderr
    assert int(lines[lines.index("CapEff:") + 1], 16) == 0
    assert lines[lines.index("NoNewPrivs:") + 1] == "1"
    assert "No such file" in done.stdout


def test_its_workspace_home_and_datasets_are_there_and_nothing_else_of_the_machine(house: House) -> None:
    done = house.run("cat /workspace/notes.txt; cat /datasets/iris/iris.csv; ls -A / /datasets /home /opt /opt/maestro")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mine1,2,3")
    shown = set(done.stdout.split("\n")[1:])
    assert not {"root", "srv", "var", "mnt", "media", "boot"} & shown
    hidden = [house.state, house.state / "keys/cookie_secret", house.state / "workspaces/theirs", house.state / "run"]
    for path in hidden:
        done = house.run(f"ls -d {path}")
        assert done.returncode != 0, f"{path} can be seen"
        assert "No such file" in done.stderr


def test_no_file_of_the_state_is_found_whatever_one_looks_through(house: House) -> None:
    programs = " -o ".join(f"-path '{path}'" for path in ("/proc", "/sys", "/dev", "/usr", "/lib*", "/bin", "/sbin"))
    files = f"find / \\( {programs} \\) -prune -o -type f -print"
    done = house.run(f"{files}; {files} | xargs -d '\\n' grep -sl {SECRET}")
    assert "/workspace/notes.txt" in done.stdout
    assert "cookie_secret" not in done.stdout
    assert "private" not in done.stdout, "keys of the machine"


def test_an_editor_writes_the_workspace_and_the_file_is_the_owners(house: House) -> None:
    done = house.run("echo more > /workspace/new.txt && mkdir /home/jovyan/x && touch /opt/maestro/env/y /tmp/z")
    assert done.returncode == 0, done.stderr
    made = house.state / "workspaces/mine/new.txt"
    assert made.read_text() == "more\n"
    if house.owner is not None:
        assert made.stat().st_uid == house.owner.uid


def test_a_viewer_reads_everything_and_the_kernel_refuses_every_write(house: House) -> None:
    writes = (
        "touch /workspace/new",
        "echo x >> /workspace/notes.txt",
        "rm /workspace/notes.txt",
        "mv /workspace/notes.txt /workspace/other.txt",
        "chmod 777 /workspace/notes.txt",
        "ln -s /etc/passwd /workspace/link",
        "mount -o remount,rw /workspace",
    )
    done = house.run("cat /workspace/notes.txt; touch /home/jovyan/mine", "viewer")
    assert (done.returncode, done.stdout) == (0, "mine"), done.stderr
    for write in writes:
        done = house.run(write, "viewer")
        assert done.returncode != 0, write
        expected = ("Read-only file system", "must be superuser", "permission denied")
        assert any(reason in done.stderr for reason in expected), done.stderr
    assert sorted(os.listdir(house.state / "workspaces/mine")) == ["notes.txt"]
    assert (house.state / "workspaces/mine/notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "place",
    ["/etc/maestro/pip.conf", "/etc/maestro/x", "/etc/passwd", "/etc/x", "/usr/x", "/x", "/datasets/iris/x", "/opt/x"],
)
def test_what_is_not_the_users_own_cannot_be_written(house: House, place: str) -> None:
    done = house.run(f"echo x > {place}")
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr, done.stderr


def test_package_clients_find_their_password(house: House) -> None:
    done = house.run("cat /etc/maestro/netrc")
    assert done.stdout.endswith(" login launch password index-token\n"), done.stderr


def test_the_environment_is_what_was_given_and_no_descriptor_is_left_open(house: House) -> None:
    done = house.run("env; echo ---; ls /proc/self/fd", MAESTRO_LAUNCH_ID="l1", ODD="a b'\"$(x){y}\n--bind")
    variables, descriptors = done.stdout.split("---\n")
    names = {line.split("=")[0] for line in variables.splitlines() if "=" in line}
    assert names - {"PWD", "OLDPWD", "_"} == {
        "PATH", "LANG", "TMPDIR", "HOME", "USER", "LOGNAME", "SHELL", "MAESTRO_LAUNCH_ID", "ODD",
    }  # fmt: skip
    assert "a b'\"$(x){y}\n--bind" in variables
    assert set(descriptors.split()) <= {"0", "1", "2", "3"}, "3 is of ls itself"


def test_other_peoples_processes_do_not_exist(house: House) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        done = house.run(f"ls /proc | grep -c '^[0-9]'; kill -0 {sleeper.pid} 2>&1; cat /proc/{sleeper.pid}/environ")
        assert int(done.stdout.split()[0]) < 8
        assert sleeper.poll() is None
        assert done.returncode != 0
    finally:
        sleeper.kill()
        sleeper.wait()


def test_the_launchs_own_cgroup_is_read_where_programs_look_for_their_limits(house: House) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    places = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2" and os.access(fields[1], os.W_OK)]
    if not places:
        pytest.skip("no cgroup v2 that may be written here")
    group = places[0] / f"maestro-test-{os.getpid()}"
    group.mkdir()
    try:
        done = house.run("ls /sys/fs/cgroup; echo 0 > /sys/fs/cgroup/cgroup.procs", cgroup=str(group))
        assert "cgroup.procs" in done.stdout.split()
        assert "maestro-servers" not in done.stdout and "Read-only file system" in done.stderr
        assert house.run("ls /sys/fs").returncode != 0, "without one there is nothing of it"
    finally:
        group.rmdir()


def test_nothing_of_the_stage_is_left_on_the_machine(house: House) -> None:
    house.run("true")
    assert not os.path.isdir(host.STAGE) or os.listdir(host.STAGE) == []


def test_the_users_of_a_machine_see_no_secret_in_the_list_of_processes(house: House) -> None:
    done = house.run("cat /proc/*/cmdline | tr '\\0' ' '", JUPYTERHUB_API_TOKEN="never-shown")
    assert "never-shown" not in done.stdout


def test_an_interpreter_is_found_wherever_its_links_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, linked, venv = tmp_path / "versions/3.11.9", tmp_path / "versions/3.11", tmp_path / "venv"
    (real / "bin").mkdir(parents=True)
    (real / "bin/python3.11").touch()
    linked.symlink_to("3.11.9")
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python3").symlink_to(linked / "bin/python3.11")
    (venv / "bin/python").symlink_to("python3")
    assert set(host.runtime_paths(str(venv))) == {str(venv), str(real), str(linked)}


def test_the_machine_without_bubblewrap_is_told_which_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    check: Callable[[str], str | None] = host.bubblewrap_problem.__wrapped__
    monkeypatch.setattr(host.shutil, "which", lambda *arguments, **named: None)
    problem = check("maestro-sandbox")
    assert problem is not None
    assert "install the package bubblewrap" in problem
    assert problem.count(".") == 1, "one sentence"
