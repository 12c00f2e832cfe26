"""What is prepared before a notebook server starts, and what its extension does; the real server is a system test."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from string import Template

import pytest

from maestro_core.launches import ENVIRONMENT_DIR
from server_extension import environment, kernelspec, launch, start, templates
from server_extension.launch import Launch, StartError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a launch."""
    for name in ("workspace", "home"):
        (tmp_path / name).mkdir()
    return {
        "HOME": str(tmp_path / "home"),
        "PATH": "/usr/bin:/bin",
        "MAESTRO_WORKSPACE": "demo",
        "MAESTRO_WORKSPACE_DIR": str(tmp_path / "workspace"),
        "MAESTRO_ENV": str(tmp_path / "env"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:8183/services/mlflow",
    }


# -- what a launch must name


def test_the_environment_is_where_sandboxes_and_pods_have_it(environ: dict[str, str]) -> None:
    del environ["MAESTRO_ENV"]
    assert str(Launch.from_environ(environ).environment) == ENVIRONMENT_DIR == launch.DEFAULT_ENVIRONMENT


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"MAESTRO_WORKSPACE_DIR": ""}, "MAESTRO_WORKSPACE_DIR=. is no folder"),
        ({"MAESTRO_WORKSPACE_DIR": "/no/such"}, "MAESTRO_WORKSPACE_DIR=/no/such is no folder"),
        ({"HOME": "relative"}, "HOME=relative is no folder"),
        ({"MAESTRO_ENV": "/"}, "MAESTRO_ENV=/ cannot hold the kernels' packages"),
        ({"MAESTRO_ENV": "env"}, "MAESTRO_ENV=env cannot hold the kernels' packages"),
    ],
)
def test_a_launch_that_names_no_folders_is_refused(
    environ: dict[str, str], change: dict[str, str], sentence: str
) -> None:
    with pytest.raises(StartError, match=sentence):
        Launch.from_environ(environ | change)


def test_the_environment_is_not_on_the_workspaces_volume(environ: dict[str, str]) -> None:
    """Slow there, and what an editor plants would run as everyone."""
    with pytest.raises(StartError, match="name a folder of its own"):
        Launch.from_environ(environ | {"MAESTRO_ENV": f"{environ['MAESTRO_WORKSPACE_DIR']}/.env"})


def test_a_refusal_is_one_sentence_on_the_error_output(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "server_extension.start"],
        env={**environ, "MAESTRO_WORKSPACE_DIR": "/no/such", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "maestro-singleuser: MAESTRO_WORKSPACE_DIR=/no/such is no folder; the launch has to name one that exists.\n"
    )


# -- the environment of kernels


@pytest.fixture
def prepared(environ: dict[str, str]) -> Launch:
    made = Launch.from_environ(environ)
    start.prepare(made, environ)
    return made


def output(*command: str | Path) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True, cwd="/").stdout


def test_its_own_packages_come_before_those_of_the_prefix(prepared: Launch) -> None:
    places = output(prepared.python, "-c", "import sys; print(*sys.path, sep='\\n')").split("\n")
    own = next(index for index, place in enumerate(places) if place.startswith(str(prepared.environment)))
    prefix = next(
        index for index, place in enumerate(places) if place.startswith(f"{sys.prefix}/lib") and "site-p" in place
    )
    assert own < prefix
    assert output(prepared.python, "-c", "import mlflow.version").strip() == ""


def test_it_is_made_anew_at_each_start(prepared: Launch, environ: dict[str, str]) -> None:
    broken = prepared.environment / "left-over"
    broken.touch()
    start.prepare(prepared, environ)
    assert not broken.exists() and prepared.python.exists()


def test_a_folder_that_holds_something_else_is_left_alone(environ: dict[str, str]) -> None:
    folder = Path(environ["MAESTRO_ENV"])
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(StartError, match="holds something else than an environment"):
        environment.make_environment(Launch.from_environ(environ))
    assert (folder / "thesis.tex").read_text() == "years of work"


def test_pip_of_the_environment_is_the_prefixs_and_ignores_files_of_the_notebooks_folder(
    prepared: Launch, tmp_path: Path
) -> None:
    (tmp_path / "pip.py").write_text("raise SystemExit('the wrong pip')")
    done = subprocess.run([prepared.environment / "bin/pip", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert "the wrong pip" not in done.stderr


def test_only_kernels_and_terminals_get_the_environments_programs(prepared: Launch, environ: dict[str, str]) -> None:
    variables = environment.kernel_variables(prepared, environ)
    assert variables["PATH"] == f"{prepared.environment}/bin:{sys.prefix}/bin:/usr/bin:/bin"
    assert variables["VIRTUAL_ENV"] == str(prepared.environment)
    assert not {"PATH", "VIRTUAL_ENV"} & set(start.server_variables(prepared, environ))


def test_notebooks_report_nothing_to_mlflows_makers_unless_the_image_says_so(
    prepared: Launch, environ: dict[str, str]
) -> None:
    assert environment.kernel_variables(prepared, environ)["MLFLOW_DISABLE_TELEMETRY"] == "true"
    wanted = environment.kernel_variables(prepared, {**environ, "MLFLOW_DISABLE_TELEMETRY": "false"})
    assert wanted["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_a_workspaces_own_variables_are_the_kernels_and_terminals_alone(
    prepared: Launch, environ: dict[str, str]
) -> None:
    environ["MAESTRO_KERNEL_ENV"] = '{"PYTHONPATH": "/workspace/src", "MY_PRICE": "5$ or ${HOME}"}'
    variables = environment.kernel_variables(prepared, environ)
    assert (variables["PYTHONPATH"], variables["MY_PRICE"]) == ("/workspace/src", "5$ or ${HOME}")
    assert "PYTHONPATH" not in start.server_variables(prepared, environ)
    spec = kernelspec.kernelspec(prepared, variables)
    assert Template(spec["env"]["MY_PRICE"]).safe_substitute(HOME="/root") == "5$ or ${HOME}", "as jupyter_client does"
    environment.write_terminal(prepared, variables, environ | {"SHELL": "/bin/sh"})
    script = prepared.terminal.read_text().replace("exec /bin/sh", 'echo "$MY_PRICE"')
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout.strip() == "5$ or ${HOME}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"LD_PRELOAD": "/workspace/x.so", "MY_A": "1"}', "left out: A workspace cannot set 'LD_PRELOAD'"),
        ('{"PATH": "/workspace", "MY_A": "1"}', "left out: A workspace cannot set 'PATH'"),
        ('{"MY_B": ["x"], "MY_A": "1"}', "left out: The value of 'MY_B'"),
        ("[1]", "MAESTRO_KERNEL_ENV is no JSON object"),
        ("{", "MAESTRO_KERNEL_ENV is no JSON object"),
    ],
)
def test_what_a_workspace_may_not_set_is_left_out_with_a_line_in_the_log(
    text: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert environment.workspace_variables(text) == ({"MY_A": "1"} if "MY_A" in text else {})
    assert f"maestro-singleuser: {line}" in capsys.readouterr().err


def test_the_kernel_is_pythons_usual_one_with_the_workspaces_name(prepared: Launch) -> None:
    spec = json.loads((prepared.kernels / kernelspec.NAME / "kernel.json").read_text())
    assert spec["display_name"] == "Python 3 (demo)"
    assert spec["argv"][0] == str(prepared.python)
    assert spec["argv"][-1] == "--IPKernelApp.extra_extensions=ipython_magics"


def test_a_shell_that_lets_nobody_in_is_not_the_terminals(prepared: Launch, environ: dict[str, str]) -> None:
    environment.write_terminal(prepared, {}, environ | {"SHELL": "/usr/sbin/nologin"})
    assert prepared.terminal.read_text().rstrip().rpartition("exec ")[2].endswith("sh")


# -- the server


def test_the_server_takes_its_configuration_from_where_no_user_writes(
    prepared: Launch, environ: dict[str, str]
) -> None:
    variables = start.server_variables(prepared, environ)
    config = Path(variables["JUPYTER_CONFIG_DIR"])
    assert [path.name for path in config.iterdir()] == ["migrated"] and stat.S_IMODE(config.stat().st_mode) == 0o700
    found = Path(variables["JUPYTER_CONFIG_PATH"], "jupyter_server_config.d", "maestro.json")
    assert json.loads(found.read_text())["ServerApp"]["jpserver_extensions"] == {"server_extension": True}


def test_templates_and_extensions_of_the_server_are_the_prefixs_alone(
    prepared: Launch, environ: dict[str, str]
) -> None:
    """nbconvert runs templates as code in the server; no kernel and no wheel writes where it looks for them."""
    done = subprocess.run(
        [sys.executable, "-P", "-s", "-c", "from jupyter_core.paths import jupyter_path; print(*jupyter_path())"],
        env=environ | start.server_variables(prepared, environ), capture_output=True, text=True, check=True,
    )  # fmt: skip
    places = done.stdout.split()
    assert places[0] == f"{sys.prefix}/share/jupyter"
    written = (environ["HOME"], environ["MAESTRO_ENV"], environ["MAESTRO_WORKSPACE_DIR"])
    assert not [place for place in places if place.startswith(written)]


def test_kernels_that_people_install_are_found_after_the_launchs_own(prepared: Launch) -> None:
    kernelspecs = pytest.importorskip("server_extension.kernelspecs")
    places = (prepared.kernels, prepared.installed_data / "kernels", prepared.own_data / "kernels")
    for place, names in zip(places, (("python3",), ("python3", "of-a-wheel"), ("python3", "mine")), strict=True):
        for name in names:
            (place / name).mkdir(parents=True, exist_ok=True)
            (place / name / "kernel.json").touch()
    told = [part.partition("=")[2] for part in start.server_command(prepared) if ".first_dirs=" in part]
    found = kernelspecs.LaunchKernelSpecs(first_dirs=told).find_kernel_specs()
    assert found["python3"] == str(prepared.kernels / "python3")
    assert {"of-a-wheel", "mine"} <= set(found)


def test_mlflows_address_is_handed_down_under_a_name_that_no_tutorial_sets(
    prepared: Launch, environ: dict[str, str]
) -> None:
    assert start.server_variables(prepared, environ)["MAESTRO_TRACKING_URI"] == environ["MLFLOW_TRACKING_URI"]


def test_the_spawners_arguments_win(prepared: Launch) -> None:
    command = start.server_command(prepared, ["--debug"])
    assert command[:5] == [sys.executable, "-P", "-s", "-m", "jupyterhub.singleuser"]
    assert command[-1] == "--debug"


# -- templates


def test_a_template_is_found_by_the_slug_of_its_file(tmp_path: Path) -> None:
    for name in ("Start here.ipynb", "hyperparameter-tuning-optuna.ipynb", "notes.txt"):
        (tmp_path / name).touch()
    assert templates.find_template("start-here", [tmp_path]) == tmp_path / "Start here.ipynb"
    assert templates.find_template("hyperparameter-tuning-optuna", [tmp_path]) is not None
    for name in ("", "notes", "../start-here", "/etc/passwd", "*"):
        assert templates.find_template(name, [tmp_path]) is None


def test_the_templates_of_this_project_are_found() -> None:
    assert {templates.find_template(name) for name in ("start-here", "data-exploration")} == set(
        (ROOT / "templates/notebooks").glob("*.ipynb")
    )


@pytest.fixture
def template(tmp_path: Path) -> Path:
    (tmp_path / "templates").mkdir()
    file = tmp_path / "templates" / "Start here.ipynb"
    file.write_text("the template")
    return file


def test_a_template_is_copied_once_for_the_members_of_the_workspace(template: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    assert templates.place_template(template, workspace) is True
    copy = workspace / "Start here.ipynb"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o660
    copy.write_text("somebody's work")
    assert templates.place_template(template, workspace) is False
    assert copy.read_text() == "somebody's work"
    assert [path.name for path in workspace.iterdir()] == ["Start here.ipynb"], "nothing half-made stays"


def test_a_link_in_the_workspace_leads_nowhere(template: Path, tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "Start here.ipynb").symlink_to(tmp_path / "elsewhere")
    assert templates.place_template(template, tmp_path / "workspace") is False
    assert not (tmp_path / "elsewhere").exists()


def test_on_a_volume_without_hard_links_it_is_the_same(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "workspace").mkdir()
    assert templates.place_template(template, tmp_path / "workspace") is True
    assert (tmp_path / "workspace" / "Start here.ipynb").read_text() == "the template"
    (tmp_path / "workspace" / "Start here.ipynb").write_text("work")
    assert templates.place_template(template, tmp_path / "workspace") is False
    assert [path.read_text() for path in (tmp_path / "workspace").iterdir()] == ["work"]


# -- the notebook of a kernel


def test_the_notebook_is_the_one_of_the_kernels_notebook_session() -> None:
    kernels = pytest.importorskip("server_extension.kernels")
    sessions = [
        {"type": "console", "path": "a.ipynb-console", "kernel": {"id": "k-1"}},
        {"type": "notebook", "path": "reports/a.ipynb", "kernel": {"id": "k-1"}},
        {"type": "notebook", "path": "b.ipynb", "kernel": {"id": "k-2"}},
        {"type": "notebook", "path": "starting.ipynb", "kernel": None},
    ]
    assert kernels.notebook_of("k-1", sessions) == "reports/a.ipynb"
    assert kernels.notebook_of("k-3", sessions) is None
