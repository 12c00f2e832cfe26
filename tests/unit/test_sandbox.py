"""From a plan to bubblewrap's command line: what is shown, what is hidden, and that no text becomes an option."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_core import sandbox
from maestro_core.environment import plan_environment
from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan
from maestro_core.mounts import checked_mounts
from maestro_core.sandbox import Bind, Owner

LAUNCH_DIR = "/srv/maestro/state/run/launches/l1"
PREFIX = "/srv/hub/maestro/.venv-singleuser"


def mount(name: str, source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "directory", "source": source, "target": target, **more}


WORKSPACE = mount("workspace", "/srv/maestro/state/workspaces/w1", "/workspace")
HOME = mount("home", "/srv/maestro/state/homes/ann/w1", "/home/jovyan")


def make_plan(role: str = "editor", mounts: tuple[dict[str, Any], ...] = (WORKSPACE, HOME), **more: Any) -> LaunchPlan:
    return LaunchPlan.model_validate(
        {
            "launch_id": "l1",
            "user": "ann",
            "server_name": "demo",
            "workspace": {"workspace_id": "w1", "name": "demo", "gid": 20001},
            "role": role,
            "profile": "small",
            "resources": {"cpu": 1, "memory": "1Gi"},
            "mounts": mounts,
            **more,
        }
    )


def binds_of(plan: LaunchPlan, *runtime: str) -> dict[str, Bind]:
    return {bind.target: bind for bind in sandbox.launch_binds(plan, LAUNCH_DIR, runtime or (PREFIX,))}


def options_of(plan: LaunchPlan, **environment: str) -> list[str]:
    return list(sandbox.bwrap_options(sandbox.launch_binds(plan, LAUNCH_DIR, (PREFIX,)), environment))


def triples(options: list[str], kind: str) -> dict[str, str]:
    """target -> source of one kind of bind."""
    return {options[i + 2]: options[i + 1] for i, option in enumerate(options) if option == kind}


# -- what a server sees ---------------------------------------------------------------------------------------------


def test_an_editor_writes_the_workspace_the_home_and_the_kernels_environment_and_nothing_else() -> None:
    writable = triples(options_of(make_plan()), "--bind")
    assert writable == {
        "/workspace": WORKSPACE["source"],
        "/home/jovyan": HOME["source"],
        "/opt/maestro/env": f"{LAUNCH_DIR}/env",
    }


def test_a_viewer_gets_the_workspace_read_only_even_if_the_plan_forgot_to_say_so() -> None:
    options = options_of(make_plan("viewer"))
    assert triples(options, "--ro-bind")["/workspace"] == WORKSPACE["source"]
    assert "/workspace" not in triples(options, "--bind")
    assert triples(options, "--bind")["/home/jovyan"] == HOME["source"], "a viewer's home is theirs"


def test_a_launch_sees_its_own_cgroup_read_only_where_it_has_one() -> None:
    """There programs read what they may take: the JVM, joblib, our own sampler."""
    binds = sandbox.launch_binds(make_plan(), "/launch", (), cgroup="/sys/fs/cgroup/maestro-servers/l1")
    assert Bind("/sys/fs/cgroup/maestro-servers/l1", "/sys/fs/cgroup", read_only=True) in binds
    assert not [bind for bind in sandbox.launch_binds(make_plan(), "/launch", ()) if "cgroup" in bind.target]


def test_datasets_are_read_only_whatever_the_plan_says() -> None:
    dataset = mount("dataset-iris", "/data/iris", "/datasets/iris", read_only=False)
    assert binds_of(make_plan(mounts=(WORKSPACE, HOME, dataset)))["/datasets/iris"].read_only


def test_client_configuration_and_accounts_cannot_be_written() -> None:
    binds = binds_of(make_plan())
    for place in ("/etc/maestro", "/etc/passwd", "/etc/group"):
        assert binds[place].read_only
        assert binds[place].source.startswith(LAUNCH_DIR)


def test_the_interpreter_behind_the_environment_is_shown_where_it_lies_and_what_usr_holds_only_once() -> None:
    binds = binds_of(make_plan(), PREFIX, "/srv/hub/python/3.11", "/usr", "/usr/local", f"{PREFIX}/lib")
    assert binds[PREFIX] == Bind(PREFIX, PREFIX)
    assert binds["/srv/hub/python/3.11"].read_only
    assert not {"/usr", "/usr/local", f"{PREFIX}/lib"} & set(binds)


def test_a_home_is_mounted_before_an_interpreter_that_lies_below_it() -> None:
    targets = list(binds_of(make_plan(mounts=(WORKSPACE, HOME)), "/home/jovyan/maestro/.venv-singleuser"))
    assert targets.index("/home/jovyan") < targets.index("/home/jovyan/maestro/.venv-singleuser")


def test_no_part_of_the_hubs_state_but_this_launchs_own_is_shown() -> None:
    options = options_of(make_plan())
    state = [word for word in options if word.startswith("/srv/maestro/state")]
    assert set(state) == {
        WORKSPACE["source"],
        HOME["source"],
        *(f"{LAUNCH_DIR}/{name}" for name in ("env", "etc", "system/passwd", "system/group")),
    }


@pytest.mark.parametrize("shown", [["/srv/maestro"], ["/srv/maestro/state"], ["/"], ["/opt", "/srv/"]])
def test_a_state_inside_of_what_every_server_sees_is_refused(shown: list[str]) -> None:
    with pytest.raises(MaestroError, match="which servers can read"):
        sandbox.check_hidden(shown, "/srv/maestro/state")
    sandbox.check_hidden(["/srv/maestro/.venv-singleuser", "/srv/mae"], "/srv/maestro/state")


def test_namespaces_user_and_a_closed_root() -> None:
    options = options_of(make_plan())
    for wanted in ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--clearenv"):
        assert wanted in options
    assert options[options.index("--uid") + 1] == options[options.index("--gid") + 1] == "1000"
    assert "--die-with-parent" not in options, "servers outlive the Hub"
    last_mount = max(i for i, option in enumerate(options) if option.endswith("bind"))
    assert options.index("--remount-ro") > last_mount, "or nothing could be mounted below it"
    assert options[-2:] == ["--chdir", "/home/jovyan"], "not in the workspace: Python looks for modules where it starts"


# -- the environment ------------------------------------------------------------------------------------------------


def test_secrets_are_options_behind_a_descriptor_and_never_words_of_the_command_line() -> None:
    secret = "a-token-that-nobody-sees"
    options = options_of(make_plan(), JUPYTERHUB_API_TOKEN=secret)
    assert secret in options
    command = sandbox.bwrap_command(["/x/bin/python", "-m", "server"], 7, 8)
    command = sandbox.dropped(command, Owner(999, 999), "/run/stage", ["/a"])
    assert secret.encode() in sandbox.encode_options(options)
    assert not any(secret in word for word in command)


def test_the_server_has_what_it_was_given_and_inherits_nothing() -> None:
    environment = sandbox.server_environment({"JUPYTERHUB_USER": "ann", "HOME": "/root", "USER": "root"}, PREFIX)
    assert environment["HOME"] == "/home/jovyan"
    assert environment["USER"] == environment["LOGNAME"] == "jovyan"
    assert environment["PATH"].startswith(f"{PREFIX}/bin:")
    assert set(environment) == {"PATH", "LANG", "TMPDIR", "HOME", "USER", "LOGNAME", "SHELL", "JUPYTERHUB_USER"}


@pytest.mark.parametrize(
    "name", ["JUPYTERHUB_API_TOKEN", "LD_PRELOAD", "PYTHONPATH", "PATH", "BASH_ENV", "A=B", "", "A B"]
)
def test_a_plan_sets_no_variable_that_the_hub_or_the_loader_decides_by(name: str) -> None:
    with pytest.raises(MaestroError, match="no plan may set"):
        plan_environment({name: "x"})


def test_a_plans_ordinary_variables_pass() -> None:
    assert plan_environment({"MLFLOW_TRACKING_URI": "http://x", "NETRC": "/etc/maestro/netrc"})


# -- hostile text ---------------------------------------------------------------------------------------------------

HOSTILE = ["--bind\0/\0/root", "x\0y", "\0"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_nul_character_begins_no_further_option(text: str) -> None:
    with pytest.raises(MaestroError, match="NUL"):
        sandbox.encode_options(options_of(make_plan(), MLFLOW_EXPERIMENT_NAME=text))


@given(st.text(max_size=200).filter(lambda text: "\0" not in text))
def test_any_other_value_of_a_variable_stays_one_word(text: str) -> None:
    encoded = sandbox.encode_options(options_of(make_plan(), MLFLOW_EXPERIMENT_NAME=text))
    words = encoded.decode("utf-8", "surrogateescape").split("\0")[:-1]
    place = words.index("MLFLOW_EXPERIMENT_NAME")
    assert words[place - 1 : place + 2] == ["--setenv", "MLFLOW_EXPERIMENT_NAME", text]
    assert words == options_of(make_plan(), MLFLOW_EXPERIMENT_NAME=text)


@pytest.mark.parametrize(
    "target",
    ["/etc", "/", "/workspace/..", "/workspace/sub", "/datasets", "/datasets/", "/datasets/../etc", "/datasets/a/b", "",
     "/datasets/--bind", "workspace", "/home/jovyan/../../etc/passwd", "/datasets/{x}", "/opt/maestro/env"],
)  # fmt: skip
def test_a_plan_mounts_nothing_but_at_the_known_places(target: str) -> None:
    with pytest.raises(MaestroError, match="no plan has"):
        sandbox.launch_binds(make_plan(mounts=(WORKSPACE, HOME, mount("x", "/data", target))), LAUNCH_DIR, (PREFIX,))


@pytest.mark.parametrize("source", ["/", "", "relative", "/srv/../etc", "/srv//x", "/srv/x/", "-rf", "/a\nb", "/a\0b"])
def test_a_source_is_a_plain_absolute_path(source: str) -> None:
    with pytest.raises(MaestroError, match="no plan has"):
        checked_mounts(make_plan(mounts=({**WORKSPACE, "source": source}, HOME)), "directory")


@pytest.mark.parametrize("name", ["", "--help", "A", "a b", "x" * 60, "a;b", "é"])
def test_the_name_of_a_mount_is_a_plain_word(name: str) -> None:
    with pytest.raises(MaestroError, match="no plan has"):
        checked_mounts(make_plan(mounts=({**WORKSPACE, "name": name}, HOME)), "directory")


def test_a_plan_needs_a_workspace_and_a_home_and_each_place_once() -> None:
    for mounts in ((WORKSPACE,), (HOME,), (), (WORKSPACE, HOME, {**WORKSPACE, "name": "other"})):
        with pytest.raises(MaestroError, match="no plan has"):
            checked_mounts(make_plan(mounts=mounts), "directory")


def test_a_claim_on_one_machine_is_said_to_be_one() -> None:
    claim = {"name": "dataset-x", "kind": "claim", "source": "data", "target": "/datasets/x"}
    with pytest.raises(MaestroError, match="is a claim, and servers of this Hub take a directory"):
        checked_mounts(make_plan(mounts=(WORKSPACE, HOME, claim)), "directory")


# -- a root Hub -----------------------------------------------------------------------------------------------------


def test_every_source_is_staged_once_and_the_targets_stay() -> None:
    binds = [Bind("/srv/hub/a", "/a"), Bind("/srv/hub/b", "/b", read_only=False), Bind("/srv/hub/a", "/c")]
    moved, sources = sandbox.staged(binds, "/run/stage")
    assert sources == ["/srv/hub/a", "/srv/hub/b"]
    assert moved == [Bind("/run/stage/0", "/a"), Bind("/run/stage/1", "/b", False), Bind("/run/stage/0", "/c")]


def test_root_gives_up_everything_before_bubblewrap_and_paths_are_arguments_of_the_script() -> None:
    hostile = "/srv/$(touch x); `id` '\" \\ --"
    command = sandbox.dropped(["bwrap", "--args", "7"], Owner(998, 997), "/run/stage", [hostile])
    assert command[:4] == ["unshare", "--mount", "--propagation", "private"]
    script = command[command.index("-c") + 1]
    assert hostile not in script
    assert command[command.index("-c") + 2 :][:3] == ["sh", "/run/stage", hostile]
    drop = command[command.index("setpriv") :]
    assert {"--reuid=998", "--regid=997", "--clear-groups", "--no-new-privs", "--bounding-set=-all"} < set(drop)
    assert drop[drop.index("--") + 1 :] == ["bwrap", "--args", "7"]


def test_helpers_run_with_a_fixed_environment() -> None:
    assert set(sandbox.HELPER_ENVIRONMENT) == {"PATH", "LC_ALL"}


def test_only_root_gives_files_away() -> None:
    account = SimpleNamespace(pw_uid=998, pw_gid=997)
    assert sandbox.sandbox_owner(0, lambda name: account) == (998, 997)
    assert sandbox.sandbox_owner(1000, lambda name: account) is None


# -- without bubblewrap ---------------------------------------------------------------------------------------------


def test_without_a_sandbox_the_variables_name_the_real_places() -> None:
    given = {
        "MAESTRO_WORKSPACE_DIR": "/workspace",
        "MAESTRO_ENV": "/opt/maestro/env",
        "PIP_CONFIG_FILE": "/etc/maestro/pip.conf",
        "NETRC": "/etc/maestro/netrc",
        "MAESTRO_WORKSPACE": "workspace",
        "OTHER": "/workspaces/x",
    }
    environment = sandbox.plain_environment(given, make_plan(), LAUNCH_DIR, PREFIX)
    assert environment["MAESTRO_WORKSPACE_DIR"] == WORKSPACE["source"]
    assert environment["HOME"] == HOME["source"]
    assert environment["MAESTRO_ENV"] == f"{LAUNCH_DIR}/env"
    assert environment["PIP_CONFIG_FILE"] == f"{LAUNCH_DIR}/etc/pip.conf"
    assert environment["NETRC"] == f"{LAUNCH_DIR}/etc/netrc"
    assert environment["MAESTRO_WORKSPACE"] == "workspace"
    assert environment["OTHER"] == "/workspaces/x"


def test_without_a_sandbox_no_viewer_is_let_near_the_files() -> None:
    with pytest.raises(MaestroError, match="install the package bubblewrap"):
        sandbox.plain_environment({}, make_plan("viewer"), LAUNCH_DIR, PREFIX)
