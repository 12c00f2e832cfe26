"""Executions as runs: what the recorder writes beside the cells, what becomes of it, and who sends it when."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from IPython.core.interactiveshell import InteractiveShell

from ipython_magics.capture import history, page, recorder, send, switch
from ipython_magics.capture.recorder import Recorder
from ipython_magics.refusal import NotDone
from maestro_core.errors import MaestroError
from maestro_core.executions import parameters_of
from maestro_core.models import read_model
from maestro_core.workspace_settings import WorkspaceSettings
from server_extension import executions

QUIET = 0.3
#: display() would show it in another shell, the process's first
SHOW = "get_ipython().display_pub.publish({{'text/html': {!r}}})"


class Notebook:
    """A shell whose cells are recorded."""

    def __init__(self, folder: Path, quiet: float = 60.0) -> None:
        self.shell = InteractiveShell()
        self.shell.history_manager.outputs = defaultdict(list)  # IPython shares it between shells
        self.folder = folder
        self.recorder = Recorder(self.shell, "k-1", folder, quiet)
        self.recorder.start()

    def run(self, source: str, cell_id: str | None = None) -> Any:
        return self.shell.run_cell(source, store_history=True, cell_id=cell_id)

    def stretches(self) -> list[history.Stretch]:
        self.recorder.flush()
        found = [history.read(file) for file in sorted(self.folder.glob("*.jsonl"))]
        return [one for one in found if one is not None]


@pytest.fixture
def notebook(tmp_path: Path) -> Notebook:
    return Notebook(tmp_path / "executions")


def saved(*sources: str, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    """A notebook of code cells, the first with tags."""
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"c{at}", "source": one, "metadata": {}, "outputs": [], "execution_count": None}
        for at, one in enumerate(sources)
    ]
    cells[0]["metadata"] = {"tags": list(tags)}
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


# -- the recorder


def test_a_stretch_has_sources_times_outputs_and_errors(notebook: Notebook) -> None:
    notebook.run("x = 6", "c0")
    notebook.run("print('hello')\nx * 7", "c1")
    assert not notebook.run("raise ValueError('no such column')", "c2").success
    (stretch,) = notebook.stretches()
    assert [(cell.number, cell.cell_id) for cell in stretch.cells] == [(1, "c0"), (2, "c1"), (3, "c2")]
    assert stretch.cells[0].source == "x = 6"
    shown = {one["kind"]: one["data"] for one in stretch.cells[1].outputs}
    assert shown["stdout"]["text/plain"] == "hello\n" and shown["execute_result"]["text/plain"] == "42"
    assert all(cell.ended and cell.ended >= cell.began for cell in stretch.cells)
    assert stretch.outcome == ("FAILED", "ValueError: no such column")
    assert stretch.closed is not None, "a cell that raises ends the stretch"
    told = history.as_json(stretch, {"notebook": "a.ipynb"})
    assert told["cells"][1]["outputs"][0]["size"] == 6 and "hello" not in json.dumps(told["cells"][1]["outputs"])


def test_a_pause_ends_a_stretch_and_the_next_cell_begins_another(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path, QUIET)
    notebook.run("1")
    limit = time.monotonic() + 20
    while not any(one.closed for one in notebook.stretches()):
        assert time.monotonic() < limit
        time.sleep(0.05)
    notebook.run("2")
    assert [one.outcome[0] for one in notebook.stretches()] == ["FINISHED", "FINISHED"]


def test_run_all_again_is_another_stretch_and_one_cell_again_is_not(notebook: Notebook) -> None:
    for cell in ("c0", "c1", "c0", "c1", "c1"):
        notebook.run("pass", cell)
    assert [len(one.cells) for one in notebook.stretches()] == [2, 3]


def test_a_killed_kernel_leaves_a_cell_that_never_ended(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # a kernel that dies in its second cell
        other = Notebook(tmp_path)
        other.run("x = 1")
        other.recorder.before(
            type("Info", (), {"raw_cell": "train()", "cell_id": "", "store_history": True, "silent": False})
        )
        other.recorder.flush()
        os._exit(9)
    os.waitpid(child, 0)
    ((file, head, over),) = executions._look(tmp_path)
    assert over and head["kernel"] == "k-1", "its process is gone, so nothing more will come"
    stretch = history.read(file)
    assert stretch is not None and stretch.outcome == ("KILLED", "the kernel was killed while cell [2] ran")


def test_of_large_outputs_the_size_is_kept(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_OUTPUT", 1000)
    notebook.run("print('x' * 5000)")
    notebook.run(SHOW.format("y" * 5000))
    (stretch,) = notebook.stretches()
    text, picture = stretch.cells[0].outputs[0], stretch.cells[1].outputs[0]
    assert (text["size"], len(text["data"]["text/plain"])) == (5001, 1000)
    assert picture["size"] == 5000 and "text/html" not in picture["data"]
    cells = history.as_notebook(stretch, None)[0]["cells"]
    assert "4001 more characters were not kept" in cells[0]["outputs"][0]["text"]


def test_a_full_disk_stops_no_cell(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder.os, "write", full)
    assert notebook.run("6 * 7").result == 42
    monkeypatch.undo()
    notebook.run("'again'")
    assert notebook.stretches()[-1].cells[-1].source == "'again'"


def test_a_cell_costs_less_than_a_fifth_of_a_millisecond(notebook: Notebook) -> None:
    """Two notes in a queue; bench/kernel_start.py measures it in a kernel."""
    info = type("Info", (), {"raw_cell": "x = 1\n" * 100, "cell_id": "c0", "store_history": True, "silent": False})
    result = type("Result", (), {"error_before_exec": None, "error_in_exec": None})
    times = []
    for _ in range(300):
        began = time.perf_counter()
        notebook.recorder.before(info)
        notebook.recorder.after(result)
        times.append(time.perf_counter() - began)
    assert statistics.median(times) < 0.0002


def test_what_anybody_may_write_is_read_without_trouble(tmp_path: Path) -> None:
    file = tmp_path / "1-k.jsonl"
    lines = [
        '{"kernel": 5}',
        "[1]",
        '{"cell": "x", "source": 3}',
        "{",
        '{"done": 1, "outputs": [7, {"data": 1}], "error": "e"}',
    ]
    file.write_text("\n".join(lines))
    stretch = history.read(file)
    assert stretch is not None and stretch.cells[0].source == "" and stretch.outcome[0] == "FINISHED"
    file.write_text("")
    assert history.read(file) is None


# -- the switch


def kernel_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **environ: str) -> switch.Switch:
    monkeypatch.setattr(switch.kernel, "own_id", lambda: "k-1")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return switch.Switch(InteractiveShell(), {"MAESTRO_LAUNCH_ID": "l-1", "MAESTRO_WORKSPACE": "team", **environ})


def test_on_request_a_person_switches_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = kernel_of(monkeypatch, tmp_path, MAESTRO_CAPTURE="on-request")
    chosen.begin()
    assert "is not recorded; %mlflow_capture on begins it" in chosen.status()
    assert "becomes a run, 30 seconds after its last cell" in chosen.turn(True)
    assert chosen.status().startswith("What runs here is recorded:")
    assert chosen.turn(False) == "What runs here is recorded no longer." and "not recorded" in chosen.status()


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"MAESTRO_CAPTURE": "off"}, "Recording is off in team; an owner"),
        ({}, "Recording is off in team"),
        ({"MAESTRO_CAPTURE": "always", "MAESTRO_JOB": "j-1"}, "Only the kernel of an open notebook"),
        ({"MAESTRO_CAPTURE": "always", "MAESTRO_KERNEL_ID": "another"}, "Only the kernel of an open notebook"),
    ],
)
def test_where_nothing_is_recorded_a_sentence_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environ: dict[str, str], sentence: str
) -> None:
    chosen = kernel_of(monkeypatch, tmp_path, **environ)
    chosen.begin()
    for ask in (chosen.status, lambda: chosen.turn(True)):
        with pytest.raises(NotDone, match=sentence):
            ask()


def test_always_is_the_owners_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = kernel_of(monkeypatch, tmp_path, MAESTRO_CAPTURE="always")
    chosen.begin()
    assert chosen.status().startswith("What runs here is recorded:")
    with pytest.raises(NotDone, match="recorded always; an owner can change that"):
        chosen.turn(False)


# -- the setting


@pytest.mark.parametrize(
    ("written", "read"),
    [(False, "off"), ("off", "off"), ("on request", "on-request"), ("Always", "always"), (None, "on-request")],
)
def test_the_setting_is_read_as_people_write_it(written: object, read: str) -> None:
    settings = read_model(WorkspaceSettings, {"capture": written})
    assert settings.captures == read
    assert settings.stored() == ({} if written is None else {"capture": read})


@pytest.mark.parametrize("written", [True, "sometimes", 3])
def test_another_word_is_refused(written: object) -> None:
    with pytest.raises(MaestroError, match="capture is off, on-request or always"):
        read_model(WorkspaceSettings, {"capture": written})


# -- what becomes of a stretch


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("lr = 0.1\nname = 'adam'  # text", {"lr": "0.1", "name": "adam"}),
        ("depth: int = 3\ndeep = depth * 2", {"depth": "3", "deep": "depth * 2"}),
        ("lr = 1\nlr = 2\na, b = 1, 2\nx.y = 3\nd['k'] = 4", {"lr": "2"}),
        ("%matplotlib inline\nlr = 1", {}),
        ("# nothing", {}),
    ],
)
def test_parameters_are_plain_assignments(source: str, found: dict[str, str]) -> None:
    assert parameters_of(source) == found


def test_injected_parameters_win(notebook: Notebook) -> None:
    notebook.run("lr = 0.1\nsteps = 5", "c0")
    notebook.run("lr = 0.2", "c1")
    content = saved("lr = 0.1\nsteps = 5", "lr = 0.2", tags=("parameters",))
    content["cells"][1]["metadata"] = {"tags": ["injected-parameters"]}
    (stretch,) = notebook.stretches()
    assert history.parameters(stretch, content) == {"lr": "0.2", "steps": "5"}
    assert history.parameters(stretch, None) == {}


def test_the_page_is_the_saved_notebook_where_it_ran_as_saved(notebook: Notebook) -> None:
    content = saved("x = 1", "x + 1", "x + 2")
    content["cells"].insert(1, {"cell_type": "markdown", "id": "m", "source": "# Results", "metadata": {}})
    notebook.run("x = 1", "c0")
    notebook.run("x + 1", "c1")
    (stretch,) = notebook.stretches()
    shown, is_saved = history.as_notebook(stretch, content)
    assert is_saved and [cell["cell_type"] for cell in shown["cells"]] == ["code", "markdown", "code", "code"]
    assert [cell.get("execution_count") for cell in shown["cells"]] == [1, None, 2, None]
    notebook.run("x + 40", "c1")
    (stretch,) = notebook.stretches()
    shown, is_saved = history.as_notebook(stretch, content)
    assert not is_saved and [cell["source"] for cell in shown["cells"]] == ["x = 1", "x + 1", "x + 40"]


def test_the_page_lets_nothing_run_and_escapes_what_is_text(notebook: Notebook) -> None:
    notebook.run(SHOW.format("<b>bold</b><script>alert(1)</script>"))
    (stretch,) = notebook.stretches()
    text = page.render(history.as_notebook(stretch, None)[0], page.Head("<img src=x>.ipynb", "</header><script>"))
    policy = text.index("Content-Security-Policy")
    assert (
        "default-src 'none'" in html.unescape(text[policy:])
        and policy < text.index("<b>bold</b>")
        and "script-src" not in text
    )
    assert "&lt;img src=x&gt;.ipynb" in text and "&lt;/header&gt;&lt;script&gt;" in text
    assert "http://" not in text and "https://" not in text, "nothing is fetched"


# -- in MLflow


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "demo")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.sqlite")
    mlflow.create_experiment("demo", artifact_location=(tmp_path / "artifacts").as_uri())
    for name, value in {
        "EXPERIMENT": "demo",
        "WORKSPACE": "team",
        "USER": "ann",
        "WORKSPACE_DIR": str(tmp_path),
    }.items():
        monkeypatch.setenv(f"MAESTRO_{name}", value)
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def test_a_stretch_becomes_one_run_however_often_it_is_sent(client: Any, notebook: Notebook, tmp_path: Path) -> None:
    content = saved("lr = 0.5", "raise ValueError('bad <b>')", tags=("parameters",))
    (tmp_path / "work.ipynb").write_text(json.dumps(content))
    notebook.run("lr = 0.5", "c0")
    notebook.run("raise ValueError('bad <b>')", "c1")
    (stretch,) = notebook.stretches()
    first = send.send(client, stretch, "work.ipynb")
    assert send.send(client, stretch, "work.ipynb") == first
    (run,) = client.search_runs(["1"])
    assert run.info.run_name.startswith("work 20") and run.info.status == "FAILED"
    assert run.data.params == {"lr": "0.5"}
    tags = run.data.tags
    assert tags["maestro.reason"] == "ValueError: bad <b>" and tags["maestro.notebook"] == "work.ipynb"
    assert tags["maestro.dirty"] == "false" and len(tags["maestro.snapshot"]) == 64
    names = {file.path for file in client.list_artifacts(run.info.run_id, "executed")}
    assert names == {"executed/history.json", "executed/notebook.html"}
    told = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/executed/history.json")
    assert (told["status"], told["snapshot"], len(told["cells"])) == ("FAILED", tags["maestro.snapshot"], 2)


def test_code_that_is_not_saved_is_dirty(client: Any, notebook: Notebook, tmp_path: Path) -> None:
    (tmp_path / "work.ipynb").write_text(json.dumps(saved("x = 1")))
    notebook.run("x = 2", "c0")
    send.send(client, notebook.stretches()[0], "work.ipynb")
    assert client.search_runs(["1"])[0].data.tags["maestro.dirty"] == "true"


def test_ones_own_run_gets_the_history_and_is_neither_doubled_nor_changed(client: Any, notebook: Notebook) -> None:
    notebook.run(
        "import mlflow\ntags = {'maestro.kernel': 'k-1'}\n"
        "with mlflow.start_run(run_name='mine', tags=tags): mlflow.log_param('lr', 3)"
    )
    notebook.run("lr = 4")
    before = client.search_runs(["1"])
    send.send(client, notebook.stretches()[0], "work.ipynb")
    (run,) = client.search_runs(["1"])
    assert (run.info.run_name, run.data.params, run.data.tags) == ("mine", {"lr": "3"}, before[0].data.tags)
    (folder,) = client.list_artifacts(run.info.run_id, "executed")
    assert folder.is_dir and {Path(one.path).name for one in client.list_artifacts(run.info.run_id, folder.path)} == {
        "history.json", "notebook.html",
    }  # fmt: skip


def test_questions_to_the_magics_alone_make_no_run() -> None:
    cells = [history.Cell(1, "", "%mlflow_runs\n", 13, 1.0), history.Cell(2, "", " ", 1, 2.0)]
    stretch = history.Stretch("1", "k-1", "l-1", "", 1.0, cells)
    assert not history.is_worth_a_run(stretch)
    cells.append(history.Cell(3, "", "x = 1", 5, 3.0))
    assert history.is_worth_a_run(stretch)


# -- the server's part


class Sender(executions.Executions):
    """The loop, with a program that answers as it is told."""

    def __init__(self, home: Path, *codes: int) -> None:
        async def notebook_of(kernel_id: str) -> str | None:
            return "work.ipynb" if kernel_id == "k-1" else None

        super().__init__({"MAESTRO_LAUNCH_ID": "l-2"}, notebook_of, logging.getLogger("test"), home)
        self.codes = list(codes)
        self.sent: list[tuple[str, str]] = []

    async def _program(self, file: Path, path: str) -> tuple[int, str]:
        self.sent.append((file.stem, path))
        return (self.codes.pop(0) if self.codes else 0), "it says so"


def stretch_file(folder: Path, name: str, *, over: bool, pid: int | None = None, born: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mine = os.getpid()
    head = {"kernel": "k-1", "pid": pid or mine, "born": recorder.born(mine) if born is None else born, "at": 1.0}
    lines = [head, {"cell": 1, "source": "x", "at": 1.0}, *([{"end": 2.0}] if over else [])]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_is_over_is_sent_in_order_and_what_runs_waits(tmp_path: Path) -> None:
    folder = tmp_path / executions.FOLDER / "l-2"
    stretch_file(folder, "2", over=True)
    stretch_file(folder, "1", over=True)
    stretch_file(folder, "3", over=False)
    stretch_file(folder, "4", over=False, born="of another process with the same id")
    sender = Sender(tmp_path)
    assert asyncio.run(sender.once(folder))
    assert [name for name, _ in sender.sent] == ["1", "2", "4"] and sender.sent[0][1] == "work.ipynb"
    assert [file.stem for file in folder.glob("*.jsonl")] == ["3"]


def test_while_mlflow_is_away_everything_waits_in_order(tmp_path: Path) -> None:
    folder = tmp_path / executions.FOLDER / "l-2"
    for name in ("1", "2"):
        stretch_file(folder, name, over=True)
    sender = Sender(tmp_path, executions.LATER, executions.LATER)
    assert not asyncio.run(sender.once(folder)) and sender._pause == executions.FIRST_PAUSE
    assert not asyncio.run(sender.once(folder)) and sender._pause == 2 * executions.FIRST_PAUSE
    assert asyncio.run(sender.once(folder)) and sender._pause == executions.LOOK_SECONDS
    assert [name for name, _ in sender.sent] == ["1", "1", "1", "2"]


def test_what_mlflow_refuses_holds_nothing_up_for_ever(tmp_path: Path) -> None:
    folder = tmp_path / executions.FOLDER / "l-2"
    for name in ("1", "2"):
        stretch_file(folder, name, over=True)
    sender = Sender(tmp_path, *[1] * executions.TRIES)
    while not asyncio.run(sender.once(folder)):
        assert len(sender.sent) < 10
    assert [name for name, _ in sender.sent] == ["1"] * executions.TRIES + ["2"]


def test_what_an_ended_server_left_is_sent_by_the_next_and_a_running_ones_is_not(tmp_path: Path) -> None:
    root = tmp_path / executions.FOLDER
    stretch_file(root / "l-0", "1", over=False)
    stretch_file(root / "l-1", "2", over=True)
    sender = Sender(tmp_path)
    held = executions._locked(root / "l-1")
    assert held is not None
    try:
        for folder in sender._left_folders():
            assert asyncio.run(sender._take_over(folder))
        assert [name for name, _ in sender.sent] == ["1"] and not (root / "l-0").exists()
    finally:
        os.close(held)
    assert asyncio.run(sender._take_over(root / "l-1")) and len(sender.sent) == 2
