"""What a launch runs: maestro-singleuser in a real sandbox, a kernel in it, and its runs in a real MLflow server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import mlflow
import pytest
import zmq
import zmq.asyncio

from maestro_core.launches import ENVIRONMENT_DIR, HOME_DIR, WORKSPACE_DIR
from maestro_core.roles import Role
from tests.system.singleuser import (
    EXPERIMENT,
    ROOT,
    Opened,
    free_port,
    hub_answers,
    hub_variables,
    launch_variables,
    opened,
    prefix,
    running,
    until,
)

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (prefix() / "bin/maestro-singleuser").is_file(), reason="no single-user environment here"),
]
PREFIX = "/services/mlflow"
#: the folder of the single-user environment's Python version
PYTHON = next((prefix() / "lib").glob("python3.*"), prefix()).name


# -- MLflow, and a launch


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server with the workspace `demo`; yields its tracking address."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.sqlite", "--enable-workspaces"),
        *("--artifacts-destination", str(folder / "artifacts"), "--static-prefix", PREFIX),
    ]
    environ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    uri = f"http://127.0.0.1:{port}{PREFIX}"

    def healthy() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-4000:]
        try:
            return httpx.get(f"{uri}/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(healthy, "MLflow's first answer")
        made = httpx.post(f"{uri}/api/3.0/mlflow/workspaces", json={"name": "demo"})
        assert made.status_code < 300, made.text
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory, tracking: str) -> Iterator[Opened]:
    """An editor's server with the template `start-here`."""
    folder = tmp_path_factory.mktemp("editor")
    bait = folder / "workspace"
    bait.mkdir()
    for name in ("jupyterhub.py", "tornado.py", "jupyter_server_config.py", "server_extension.py"):
        (bait / name).write_text(f"open('/home/jovyan/ran-{name}', 'w')\n")
    with opened(folder, tracking, MAESTRO_TEMPLATE="start-here") as launch:
        yield launch


@pytest.fixture
def client(tracking: str, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    """MLflow's own client, looking at the workspace from outside."""
    monkeypatch.setenv("MLFLOW_WORKSPACE", "demo")
    return mlflow.MlflowClient(tracking_uri=tracking)


# -- the server


def test_the_template_is_there_and_the_kernel_is_the_workspaces(editor: Opened) -> None:
    assert (editor.workspace / "Start here.ipynb").read_bytes() == (
        ROOT / "templates/notebooks/Start here.ipynb"
    ).read_bytes()
    specs = editor.server.api("GET", "api/kernelspecs").json()
    assert specs["default"] == "python3" and set(specs["kernelspecs"]) == {"python3"}
    assert specs["kernelspecs"]["python3"]["spec"]["display_name"] == "Python 3 (demo)"
    assert "logo-svg" in specs["kernelspecs"]["python3"]["resources"]


def test_the_server_runs_nothing_that_lies_in_the_workspace(editor: Opened) -> None:
    assert editor.server.api("GET", "lab").status_code == 200
    assert [path.name for path in editor.home.glob("ran-*")] == []
    assert b"ran-" not in editor.server.log.read_bytes()


def test_jupyterlab_opens_with_settings_that_are_kept_in_the_private_home(editor: Opened) -> None:
    page = editor.server.api("GET", "lab").text
    config = json.loads(page.split('id="jupyter-config-data" type="application/json">')[1].split("</script>")[0])
    assert "@jupyterlab/apputils-extension:announcements" in config["disabledExtensions"]
    setting = "lab/api/settings/@jupyterlab/apputils-extension:themes"
    assert editor.server.api("PUT", setting, json={"raw": '{"theme": "JupyterLab Dark"}'}).status_code == 204
    assert list(editor.home.glob(".jupyter/lab/user-settings/@jupyterlab/apputils-extension/themes.*"))


# -- kernels


async def test_a_kernel_starts_without_mlflow_and_with_the_magics(editor: Opened) -> None:
    notebook = editor.server.open_notebook("Start here.ipynb")
    seen = await notebook.run("import sys; print('mlflow' in sys.modules, 'pydantic' in sys.modules, sys.prefix)")
    assert seen.text.split() == ["False", "False", ENVIRONMENT_DIR]
    assert (await notebook.run("import os; print(os.getcwd())")).text.strip() == WORKSPACE_DIR


async def test_magics_log_a_run_with_the_notebook_it_came_from(editor: Opened, client: mlflow.MlflowClient) -> None:
    (editor.workspace / "train.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    notebook = editor.server.open_notebook("train.ipynb")
    started = await notebook.run("%mlflow_start_run baseline")
    (run,) = [run for run in runs_of(client) if run.info.run_name == "baseline"]
    link = f"/services/mlflow/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?workspace=demo"
    assert link in started.html and f"Run baseline started: {link}" in started.shown[0]["text/plain"]

    await notebook.run("rate = 0.5\n%mlflow_log_param rate rate\n%mlflow_log_metric loss rate / 2 --step 3")
    assert "Logged train.ipynb as it was saved" in (await notebook.run("%mlflow_log_notebook")).text
    ended = await notebook.run("%mlflow_end_run")
    assert link in ended.html and ended.text == "", "one line, and not MLflow's own with an address of the server's"

    run = client.get_run(run.info.run_id)
    assert (run.data.params, run.data.metrics, run.info.status) == ({"rate": "0.5"}, {"loss": 0.25}, "FINISHED")
    assert run.info.user_id == "ann"
    tags = {name: run.data.tags[name] for name in ("maestro.notebook", "maestro.workspace", "maestro.launch")}
    assert tags == {"maestro.notebook": "train.ipynb", "maestro.workspace": "demo", "maestro.launch": "l-1"}
    assert run.data.tags["mlflow.source.name"] == "train.ipynb"
    assert [file.path for file in client.list_artifacts(run.info.run_id, "notebook")] == ["notebook/train.ipynb"]


async def test_a_renamed_notebook_is_known_by_its_new_name(editor: Opened, client: mlflow.MlflowClient) -> None:
    notebook = editor.server.open_notebook("old.ipynb")
    await notebook.run("import mlflow\nwith mlflow.start_run(run_name='before'): pass")
    notebook.rename("new.ipynb")
    # and a program that the notebook starts belongs to it too
    await notebook.run("import time; time.sleep(1.1)\nwith mlflow.start_run(run_name='after'): pass")
    await notebook.run("!python -c \"import mlflow; mlflow.start_run(run_name='program'); mlflow.end_run()\"")
    names = {run.info.run_name: run.data.tags.get("maestro.notebook") for run in runs_of(client)}
    assert [names.get(name) for name in ("before", "after", "program")] == ["old.ipynb", "new.ipynb", "new.ipynb"]


async def test_the_token_is_in_no_address_that_the_server_was_asked_for(editor: Opened) -> None:
    notebook = editor.server.open_notebook("token.ipynb")
    await notebook.run("import mlflow\nwith mlflow.start_run(): pass")
    assert b"?token=" not in editor.server.log.read_bytes().replace(b"/lab?token=...", b"")


def runs_of(client: mlflow.MlflowClient) -> list[mlflow.entities.Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return client.search_runs([experiment.experiment_id]) if experiment else []


# -- packages


@pytest.mark.parametrize("install", ["!pip install", "%pip install", "!uv pip install"])
async def test_what_is_installed_lands_in_the_launchs_environment(editor: Opened, install: str) -> None:
    name = "maestro_sample_" + "".join(letter for letter in install if letter.isalpha())
    wheel(editor.workspace / "wheels", name)
    notebook = editor.server.open_notebook("packages.ipynb")
    seen = await notebook.run(f"{install} --no-index --find-links {WORKSPACE_DIR}/wheels {name}")
    seen = await notebook.run(f"import {name}; print({name}.__file__)")
    assert seen.text.strip() == f"{ENVIRONMENT_DIR}/lib/{PYTHON}/site-packages/{name}.py", seen.text
    assert list(editor.env.glob(f"lib/python3.*/site-packages/{name}.py"))


def wheel(folder: Path, name: str) -> None:
    """A wheel with one module."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "answer = 42\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


async def test_a_terminal_is_in_the_workspace_and_in_the_same_environment(editor: Opened) -> None:
    seen = await editor.server.terminal('echo "<$PWD|$VIRTUAL_ENV|$(command -v pip)|$(command -v uv)>"', ends="bin/uv>")
    assert f"<{WORKSPACE_DIR}|{ENVIRONMENT_DIR}|{ENVIRONMENT_DIR}/bin/pip|{ENVIRONMENT_DIR}/bin/uv>" in seen


async def test_a_workspaces_own_variables_reach_kernels_and_terminals_and_not_the_server(
    tmp_path: Path, tracking: str
) -> None:
    """A module on the workspace's PYTHONPATH that is named like one of the server's would run in it otherwise."""
    source = tmp_path / "workspace/src"
    source.mkdir(parents=True)
    (source / "jupyterhub.py").write_text("open('/home/jovyan/ran', 'w')\n")
    (source / "prices.py").write_text("rate = 0.19\n")
    given = json.dumps({"PYTHONPATH": f"{WORKSPACE_DIR}/src", "MY_TABLE": "a $TABLE"})
    with opened(tmp_path, tracking, MAESTRO_KERNEL_ENV=given) as launch:
        notebook = launch.server.open_notebook("a.ipynb")
        seen = await notebook.run("import os, sys, prices; print(prices.rate, os.environ['MY_TABLE'])")
        assert seen.text.strip() == "0.19 a $TABLE"
        terminal = await launch.server.terminal('echo "<$PYTHONPATH|$MY_TABLE>"', ends=">\r\n")
        assert f"<{WORKSPACE_DIR}/src|a $TABLE>" in terminal
        server = await notebook.run("print('PYTHONPATH' in open(f'/proc/{os.getppid()}/environ').read())")
        assert server.text.strip() == "False"
        assert not (launch.home / "ran").exists()


# -- what others may see and change


async def test_a_kernels_output_is_for_its_own_server(editor: Opened) -> None:
    """All servers of a machine share the loopback interface; a subscriber without the kernel's keys gets nothing."""
    notebook = editor.server.open_notebook("secret.ipynb")
    await notebook.run("pass")
    found = await notebook.run("import ipykernel; print(open(ipykernel.get_connection_file()).read())")
    connection = json.loads(found.text)
    stranger = zmq.asyncio.Context().socket(zmq.SUB)
    try:
        stranger.subscribe(b"")
        stranger.connect(f"tcp://{connection['ip']}:{connection['iopub_port']}")
        await notebook.run("import time\nfor _ in range(10): print('secret', flush=True); time.sleep(0.1)")
        assert await stranger.poll(500) == 0
    finally:
        stranger.close(linger=0)


async def test_a_users_own_extensions_do_not_replace_the_magics(editor: Opened) -> None:
    profile = editor.home / ".ipython/profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_config.py").write_text("c.InteractiveShellApp.extensions = ['autoreload']\n")
    notebook = editor.server.open_notebook("own.ipynb")
    seen = await notebook.run(
        "print(sorted(n for n in get_ipython().magics_manager.magics['line'] if 'load' in n or 'mlf' in n))"
    )
    assert "autoreload" in seen.text and "mlflow_start_run" in seen.text


async def test_code_of_an_earlier_launch_leaves_no_configuration_for_the_server(tmp_path: Path, tracking: str) -> None:
    plant = """
        import os, pathlib
        own = os.environ.get("JUPYTER_CONFIG_DIR", "/tmp/none")
        environment = os.environ["VIRTUAL_ENV"] + "/etc/jupyter"
        for place in (own, environment, "~/.jupyter", "/workspace"):
            folder = pathlib.Path(place).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "jupyter_server_config.py").write_text("open('/home/jovyan/ran', 'w')")
        packages = pathlib.Path("~/.local/lib/PYTHON/site-packages").expanduser()
        packages.mkdir(parents=True)
        (packages / "planted.pth").write_text("import os; open('/home/jovyan/ran', 'w')")
        print("planted")
    """
    with opened(tmp_path, tracking) as first:
        seen = await first.server.open_notebook("a.ipynb").run(textwrap.dedent(plant).replace("PYTHON", PYTHON))
        assert "planted" in seen.text
    with opened(tmp_path, tracking) as second:
        assert not (second.home / "ran").exists()
        notebook = second.server.open_notebook("a.ipynb")
        assert (await notebook.run("import sys; print(sys.prefix)")).text.strip() == ENVIRONMENT_DIR


async def test_what_kernels_and_wheels_leave_is_no_template_and_no_extension_of_the_server(
    tmp_path: Path, tracking: str
) -> None:
    """nbconvert's templates are code that the server runs; kernels are found from the same folders all the same."""
    plant = """
        import os, pathlib, subprocess, sys
        run = "{{ cycler.__init__.__globals__.os.system('touch /home/jovyan/ran') }}"
        own = pathlib.Path("~/.local/share/jupyter").expanduser()
        for place in (own, pathlib.Path(sys.prefix, "share/jupyter"), pathlib.Path(sys.prefix, "var/jupyter")):
            for name in ("lab", "base"):
                folder = place / "nbconvert/templates" / name
                folder.mkdir(parents=True)
                (folder / "conf.json").write_text('{"mimetypes": {"text/html": true}}')
                (folder / "index.html.j2").write_text(run)
            (place / "labextensions/planted/static").mkdir(parents=True)
            (place / "labextensions/planted/package.json").write_text(
                '{"name": "planted", "version": "1.0.0", "jupyterlab": {"_build": {"load": "static/planted.js"}}}')
        for where in ("--user", "--sys-prefix"):
            command = [sys.executable, "-m", "ipykernel", "install", where, "--name", "own" + where]
            done = subprocess.run(command, capture_output=True, text=True)
            print(done.stdout, done.stderr)
        old = pathlib.Path("~/.ipython/profile_default").expanduser()
        (old / "ipython_notebook_config.py").write_text("c.NotebookApp.x = 1")
    """
    for name in ("first", "second"):
        with opened(tmp_path, tracking) as launch:
            api = launch.server.api
            if name == "first":
                seen = await launch.server.open_notebook("a.ipynb").run(textwrap.dedent(plant))
                assert "Error" not in seen.text and seen.text.count("Installed kernelspec") == 2, seen.text
                content = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
                (launch.workspace / "a.ipynb").write_text(json.dumps(content))
            exported = api("GET", "nbconvert/html/a.ipynb")
            assert exported.status_code == 200 and "<html" in exported.text
            assert "planted" not in api("GET", "lab").text
            kernels = api("GET", "api/kernelspecs").json()["kernelspecs"]
            # what was installed into the environment ends with it
            assert set(kernels) == {"python3", "own--user", *(["own--sys-prefix"] if name == "first" else [])}
            assert kernels["python3"]["spec"]["display_name"] == "Python 3 (demo)"
            assert not (launch.home / "ran").exists()


async def test_a_viewers_server_works_and_changes_nothing(tmp_path: Path, tracking: str) -> None:
    (tmp_path / "workspace").mkdir()
    content = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    (tmp_path / "workspace" / "report.ipynb").write_text(content)
    with opened(tmp_path, tracking, role=Role.VIEWER, MAESTRO_TEMPLATE="start-here") as viewer:
        api = viewer.server.api
        assert api("GET", "lab").status_code == 200
        opens = api("GET", "api/contents/report.ipynb?content=1")
        assert opens.status_code == 200 and not opens.json()["writable"]
        assert api("GET", "api/contents/report.ipynb/checkpoints").json() == []
        notebook = viewer.server.open_notebook("report.ipynb")
        assert (await notebook.run("1 + 1")).shown[0]["text/plain"] == "2"
        seen = await notebook.run("open('new', 'w')")
        assert "Read-only file system" in seen.text
        assert "Logged report.ipynb" in (await notebook.run("%mlflow_start_run seen\n%mlflow_log_notebook")).text
        saved = api("PUT", "api/contents/report.ipynb", json={"type": "notebook", "content": json.loads(content)})
        assert saved.status_code == 403
        assert saved.json()["message"].startswith("You are viewer of demo, its files are read-only for you: save into")
        assert sorted(path.name for path in viewer.workspace.iterdir()) == ["report.ipynb"]
        terminal = await viewer.server.terminal("touch new; echo the e''nd", ends="the end")
        assert "Read-only file system" in terminal
        assert api("GET", "api/status").status_code == 200


async def test_a_viewers_private_home_is_in_the_file_browser_and_takes_copies(tmp_path: Path, tracking: str) -> None:
    (tmp_path / "workspace").mkdir()
    empty = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "workspace" / "report.ipynb").write_text(json.dumps(empty))
    with opened(tmp_path, tracking, role=Role.VIEWER) as viewer:
        api = viewer.server.api
        assert [entry["name"] for entry in api("GET", "api/contents/").json()["content"]] == ["report.ipynb", "My home"]
        changed = empty | {"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "mine"}]}
        copy = {"path": "report.ipynb", "type": "notebook", "format": "json", "content": changed}
        assert api("POST", "maestro/copy-home", json=copy).json() == {"path": "My home/report.ipynb"}
        assert "mine" in (viewer.home / "report.ipynb").read_text()
        for bad in ({}, {"path": 7}, {"path": "/"}, []):
            assert api("POST", "maestro/copy-home", json=bad).status_code == 400
        assert api("POST", "maestro/copy-home", json={"path": "../etc/passwd"}).status_code == 404
        # the copy is a notebook like any other: it is saved, runs beside its files, and goes into a run
        saved = api("PUT", "api/contents/My home/report.ipynb", json={"type": "notebook", "content": changed})
        assert saved.status_code == 200 and saved.json()["path"] == "My home/report.ipynb"
        notebook = viewer.server.open_notebook("My home/report.ipynb")
        assert (await notebook.run("import os; print(os.getcwd())")).text.strip() == HOME_DIR
        logged = await notebook.run("%mlflow_start_run copy\n%mlflow_log_notebook")
        assert "Logged My home/report.ipynb" in logged.text
        for path in ("My home/.jupyter", "My home/../workspace/report.ipynb", "My home/../../etc/passwd"):
            assert api("GET", f"api/contents/{path}").status_code in (400, 404)


def test_an_editor_is_offered_no_copy(editor: Opened) -> None:
    refused = editor.server.api("POST", "maestro/copy-home", json={"path": "Start here.ipynb"})
    assert refused.status_code == 404 and "You are no viewer here" in refused.json()["message"]
    assert "My home" not in [entry["name"] for entry in editor.server.api("GET", "api/contents/").json()["content"]]


# -- without a sandbox, as in a pod


async def test_the_same_without_a_sandbox(tmp_path: Path, tracking: str) -> None:
    """A pod has its own files: the paths come from the environment alone."""
    folders = {name: tmp_path / name for name in ("work files", "home", "env")}
    for folder in folders.values():
        folder.mkdir()
    port = free_port()
    with hub_answers("ann", "demo") as hub_api:
        environ = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **hub_variables(hub_api, port),
            **launch_variables(tracking),
            "HOME": str(folders["home"]),
            "MAESTRO_WORKSPACE_DIR": str(folders["work files"]),
            "MAESTRO_ENV": str(folders["env"]),
        }
        command = [str(prefix() / "bin/python"), "-P", "-m", "server_extension.start"]
        with running(command, environ, f"http://127.0.0.1:{port}/user/ann/demo/", tmp_path / "log") as server:
            notebook = server.open_notebook("a.ipynb")
            assert (await notebook.run("import os; print(os.getcwd())")).text.strip() == str(folders["work files"])
            assert "started" in (await notebook.run("%mlflow_start_run plain")).html
            terminal = await server.terminal('echo "<$PWD>"', ends=">\r\n")
            assert f"<{folders['work files']}>" in terminal
