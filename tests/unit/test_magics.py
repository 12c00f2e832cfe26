"""The magics in a real IPython, with the real mlflow on a database of this test."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

import ipython_magics
from ipython_magics import kernel, links, runs
from ipython_magics.magics import MlflowMagics
from ipython_magics.values import ValueRefused, number, param_value

DOCS = Path(__file__).resolve().parents[2] / "docs" / "notebooks.md"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{folder}/mlflow.sqlite"
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("demo", artifact_location=(folder / "artifacts").as_uri())
    yield uri
    mlflow.set_tracking_uri(before)


class Cells:
    """A notebook's cells: run one, see what is printed and shown."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell

    def run(self, source: str) -> str:
        with capture_output() as seen:
            self.result = self.shell.run_cell(source)
        shown = "".join(output.data["text/plain"] for output in seen.outputs)
        return f"{seen.stdout}{seen.stderr}{shown}".strip()

    @property
    def last_run(self) -> Any:
        return mlflow.MlflowClient().search_runs(["1"], max_results=1)[0]


def new_shell() -> InteractiveShell:
    """Without the history, whose database would stay open."""
    return InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))


@pytest.fixture
def cells(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cells]:
    monkeypatch.setenv("MAESTRO_LAUNCH_ID", "l-1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "demo")
    shell = new_shell()
    ipython_magics.load_ipython_extension(shell)
    yield Cells(shell)
    while mlflow.active_run():
        mlflow.end_run()


# -- a run, as the front page shows it


def test_a_run_with_parameters_and_metrics(cells: Cells) -> None:
    assert cells.run("%mlflow_start_run first try --tags team=blue stage=draft") == "Run first try started"
    cells.run("lr, losses = 0.01, [0.9, 0.4]")
    cells.run("%mlflow_log_param lr lr")
    cells.run("%mlflow_log_param optimizer adam")
    cells.run("%mlflow_log_metric loss losses[-1] --step len(losses)")
    assert cells.run("%mlflow_end_run") == "Run first try finished"

    run = cells.last_run
    assert run.info.run_name == "first try" and run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.01", "optimizer": "adam"}
    assert (run.data.tags["team"], run.data.tags["stage"]) == ("blue", "draft")
    (point,) = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert (point.value, point.step) == (0.4, 2)


def test_a_cell_that_is_run_again_goes_on_with_its_run(cells: Cells) -> None:
    cells.run("%mlflow_start_run again")
    first = mlflow.active_run().info.run_id
    assert cells.run("%mlflow_start_run again") == "Run again goes on"
    assert mlflow.active_run().info.run_id == first
    cells.run("%mlflow_end_run")
    cells.run("%mlflow_start_run again")
    assert mlflow.active_run().info.run_id != first, "what has ended does not go on"


def test_another_run_waits_for_the_first_or_nests(cells: Cells) -> None:
    cells.run("%mlflow_start_run outer")
    outer = mlflow.active_run().info.run_id
    assert "Run outer is still active" in cells.run("%mlflow_start_run other")
    assert cells.result.success, "a refusal does not stop the notebook"
    assert mlflow.active_run().info.run_id == outer
    cells.run("%mlflow_start_run inner --nested")
    cells.run("%mlflow_start_run inner --nested")
    assert cells.last_run.data.tags["mlflow.parentRunId"] == outer
    cells.run("%mlflow_end_run --status failed")
    assert cells.last_run.info.status == "FAILED"
    assert mlflow.active_run().info.run_id == outer


def test_an_experiment_is_made_when_it_is_named(cells: Cells) -> None:
    cells.run("%mlflow_start_run --experiment 'churn 2026'")
    made = mlflow.get_experiment_by_name("churn 2026")
    assert mlflow.active_run().info.experiment_id == made.experiment_id
    cells.run("%mlflow_end_run")
    cells.run("%mlflow_start_run")
    assert mlflow.active_run().info.experiment_id == "1", "the next run is in the workspace's own again"


def test_the_notebook_is_logged_as_it_was_saved(cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "churn.ipynb").write_text("{}")
    monkeypatch.setenv("MAESTRO_WORKSPACE_DIR", str(tmp_path))
    monkeypatch.setattr(kernel, "notebook_path", lambda: "reports/churn.ipynb")
    cells.run("%mlflow_start_run")
    assert re.fullmatch(
        r"Logged reports/churn.ipynb as it was saved at \d\d:\d\d:\d\d\.", cells.run("%mlflow_log_notebook")
    )
    run_id = mlflow.active_run().info.run_id
    assert [file.path for file in mlflow.MlflowClient().list_artifacts(run_id, "notebook")] == ["notebook/churn.ipynb"]


# -- what goes wrong is one sentence


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("%mlflow_log_param lr 1", runs.NO_RUN),
        ("%mlflow_log_metric lr 1", runs.NO_RUN),
        ("%mlflow_log_notebook", runs.NO_RUN),
        ("%mlflow_end_run", runs.NO_RUN),
    ],
)
def test_without_a_run_nothing_is_logged_and_the_notebook_goes_on(cells: Cells, cell: str, sentence: str) -> None:
    assert cells.run(cell) == sentence
    assert cells.result.success


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (
            "%mlflow_log_param lr",
            "UsageError: %mlflow_log_param takes a name and a value; %mlflow_log_param? shows how.",
        ),
        ("%mlflow_log_metric loss los", "UsageError: The value los is no number, and no variable has that name."),
        ("%mlflow_log_metric loss [1, 2]", "UsageError: The value [1, 2] is a list, not a number."),
        ("%mlflow_log_metric loss 1 --step 1.5", "UsageError: The step 1.5 is no whole number."),
        ("%mlflow_log_metric loss 1/0", "UsageError: 1/0 cannot be computed: ZeroDivisionError: division by zero."),
        ("%mlflow_start_run a --tags blue", "UsageError: --tags blue is no KEY=VALUE."),
        ("%mlflow_start_run 'a", "UsageError: %mlflow_start_run: No closing quotation."),
        ("%mlflow_start_run --color red", "UsageError: unrecognized arguments: --color"),
        ("%mlflow_end_run --status GONE", "UsageError: argument --status: invalid choice: 'GONE' (choose from"),
    ],
)
def test_a_mistake_in_the_line_is_one_sentence(cells: Cells, cell: str, sentence: str) -> None:
    shown = cells.run(cell)
    assert shown.startswith(sentence) and "\n" not in shown
    assert not cells.result.success
    assert mlflow.active_run() is None


def test_a_parameter_keeps_its_first_value(cells: Cells) -> None:
    cells.run("%mlflow_start_run")
    cells.run("%mlflow_log_param lr 1")
    assert cells.run("%mlflow_log_param lr 1") == ""
    assert cells.run("%mlflow_log_param lr 2") == runs.CHANGED
    assert cells.result.success


# -- what a value means


class Estimator:
    def __str__(self) -> str:
        return "Estimator(depth=3)"


class Table:
    def __str__(self) -> str:
        return "a  b\n1  2"


NAMESPACE = {
    "lr": 0.1,
    "adam": print,
    "depth": 3,
    "model": Estimator(),
    "data": Table(),
    "day": datetime.date(2026, 11, 21),
}


@pytest.mark.parametrize(
    ("text", "logged"),
    [
        ("lr", "0.1"),
        ("lr * 2", "0.2"),
        ("0.001", "0.001"),
        ("1e-3", "0.001"),
        ("True", "True"),
        ("'0.10'", "0.10"),
        ("[1, 2]", "[1, 2]"),
        ("hello", "hello"),
        ("hello world", "hello world"),
        ("2**10", "1024"),
        ("2026-11-21", "2026-11-21"),
        ("1/5", "1/5"),
        ("s3://bucket/table.csv", "s3://bucket/table.csv"),
        ("resnet-50", "resnet-50"),
        ("max", "max"),
        ("max(depth, 5)", "5"),
        ("adam", "adam"),
        ("model", "Estimator(depth=3)"),
        ("day", "2026-11-21"),
    ],
)
def test_a_parameter_is_a_variable_a_literal_or_text(text: str, logged: str) -> None:
    assert param_value(text, NAMESPACE) == logged


@pytest.mark.parametrize(
    ("text", "why"),
    [("data", "data is a Table, too much for"), ("'x' * 6001", "6001 characters"), ("lr.shape", "AttributeError")],
)
def test_what_no_parameter_can_hold_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueRefused, match=why):
        param_value(text, NAMESPACE)


def test_numbers_of_other_libraries_are_numbers() -> None:
    import numpy as np

    variables = {"array": np.array([0.5]), "many": np.zeros(3), "scalar": np.float32(2), "flag": True}
    assert number("array", variables, "value") == 0.5
    assert number("scalar", variables, "value") == 2.0
    assert number("flag", variables, "value") == 1.0
    assert number("1/4", variables, "value") == 0.25
    assert number("-scalar", variables, "value") == -2.0
    with pytest.raises(ValueRefused, match="many has several elements"):
        number("many", variables, "value")


def test_a_name_in_quotes_may_have_blanks(cells: Cells) -> None:
    cells.run("%mlflow_start_run")
    cells.run('%mlflow_log_metric "val loss"   0.5   --step=3')
    cells.run("%mlflow_log_metric --step 4 loss 0.25")
    assert cells.last_run.data.metrics == {"val loss": 0.5, "loss": 0.25}


# -- links


def test_the_link_is_one_that_the_browser_can_follow() -> None:
    plain = {"MAESTRO_PUBLIC_PREFIX": "/hub-base/", "MLFLOW_WORKSPACE": "demo"}
    assert links.run_url("1", "ab", plain) == "/hub-base/services/mlflow/#/experiments/1/runs/ab?workspace=demo"
    domains = {"MAESTRO_PUBLIC_PREFIX": "/", "JUPYTERHUB_HOST": "https://hub.example.org"}
    assert links.run_url("1", "ab", domains) == "https://hub.example.org/services/mlflow/#/experiments/1/runs/ab"


def test_a_name_cannot_bring_markup() -> None:
    shown = links.RunLine("<img src=x onerror=alert(1)>", "started", "/x")._repr_html_()
    assert "<img" not in shown and "&lt;img" in shown


# -- loading


def test_loading_imports_neither_mlflow_nor_anything_heavy() -> None:
    program = """
        import sys, os
        os.environ["MAESTRO_LAUNCH_ID"] = "l-1"
        from IPython.core.interactiveshell import InteractiveShell
        shell, before = InteractiveShell(), set(sys.modules)
        shell.extension_manager.load_extension("ipython_magics")
        assert "mlflow_start_run" in shell.magics_manager.magics["line"]
        print(sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, check=True, cwd=DOCS.parents[1],
    )  # fmt: skip
    assert not {"mlflow", "pydantic", "requests", "numpy", "pandas", "maestro_core"} & set(eval(done.stdout)), (
        done.stdout
    )


def test_outside_a_launch_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAESTRO_LAUNCH_ID", raising=False)
    shell = new_shell()
    ipython_magics.load_ipython_extension(shell)
    assert "mlflow_start_run" not in shell.magics_manager.magics["line"]


# -- the docs say what the magics' own help says


MAGICS = sorted(name for name in vars(MlflowMagics) if name.startswith("mlflow_"))


@pytest.mark.parametrize("name", MAGICS)
def test_every_magic_and_option_is_in_the_docs(name: str) -> None:
    magic, page = getattr(MlflowMagics, name), DOCS.read_text()
    section = page.split(f"### `%{name}`")[1].split("\n## ")[0].split("\n### ")[0]
    usage = " ".join(magic.parser.format_usage().split()).removeprefix("::").strip()
    assert usage in section
    for action in magic.parser._actions:
        option = action.option_strings[0] if action.option_strings else action.dest
        assert f"| `{option}` | {action.help} |" in section, option


# -- a cell as a run, and how runs end


def test_a_cell_is_a_run_that_ends_with_it(cells: Cells) -> None:
    shown = cells.run("%%mlflow_run whole cell --tags a=b\nimport mlflow\nmlflow.log_metric('m', 2)\n6 * 7")
    assert shown == "Out[0]: 42\nRun whole cell finished"
    run = cells.last_run
    assert (run.info.status, run.data.metrics, run.data.tags["a"]) == ("FINISHED", {"m": 2.0}, "b")
    assert mlflow.active_run() is None


def test_a_cell_that_raises_fails_its_run_with_the_traceback(cells: Cells) -> None:
    shown = cells.run("%%mlflow_run breaks\nx = 1\nraise ValueError('no such column')")
    assert not cells.result.success and "ipython_magics" not in shown, "no frame of ours"
    run = cells.last_run
    assert run.info.status == "FAILED" and run.data.tags["maestro.reason"] == "ValueError: no such column"
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/traceback.txt")
    assert "no such column" in text and "line 3" in text


def test_an_interrupted_cell_kills_its_run(cells: Cells) -> None:
    cells.run("import mlflow\nmlflow.start_run(run_name='stopped')\nraise KeyboardInterrupt")
    run = cells.last_run
    assert (run.info.status, run.data.tags["maestro.reason"]) == ("KILLED", "the cell was interrupted")


def test_a_run_of_an_earlier_cell_goes_on_after_a_mistake(cells: Cells) -> None:
    cells.run("%mlflow_start_run long")
    cells.run("1 / 0")
    assert mlflow.active_run().info.run_name == "long"
    cells.run("%mlflow_end_run")
    assert cells.last_run.info.status == "FINISHED"


def test_a_run_that_is_left_when_the_kernel_ends_was_killed(database: str, tmp_path: Path) -> None:
    program = f"""
        import os; os.environ |= {{"MAESTRO_LAUNCH_ID": "l-1", "MLFLOW_EXPERIMENT_NAME": "demo"}}
        import mlflow; mlflow.set_tracking_uri({database!r})
        from IPython.core.interactiveshell import InteractiveShell
        import ipython_magics
        shell = InteractiveShell()
        ipython_magics.load_ipython_extension(shell)
        shell.run_cell("%mlflow_start_run left")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60, capture_output=True)
    run = mlflow.MlflowClient().search_runs(["1"], max_results=1)[0]
    assert (run.info.run_name, run.info.status) == ("left", "KILLED")
    assert run.data.tags["maestro.reason"] == "the kernel was shut down or restarted"


def test_another_mlflow_that_a_user_installed_troubles_no_cell(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking.fluent", ModuleType("mlflow.tracking.fluent"))
    assert cells.run("6 * 7") == "Out[0]: 42"


def test_a_run_goes_on_after_a_restart(cells: Cells) -> None:
    cells.run("%mlflow_start_run training")
    before = mlflow.active_run().info.run_id
    cells.run("%mlflow_end_run --status killed")
    assert cells.run("%mlflow_resume training") == "Run training goes on"
    assert mlflow.active_run().info.run_id == before
    assert "is still active" in cells.run("%mlflow_resume training")
    cells.run("%mlflow_end_run")
    assert "There is no run never" in cells.run("%mlflow_resume never")


def test_the_notebook_is_the_file_in_cells_that_say_so(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "notebook_path", lambda: "a.ipynb")
    monkeypatch.setenv("MAESTRO_WORKSPACE_DIR", str(tmp_path))
    assert cells.run("print(__file__)") == str(tmp_path / "a.ipynb")
    assert cells.run("'__fi' 'le__' in globals()") == "Out[0]: False"


# -- tables


def test_the_runs_of_this_notebook_are_a_table(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "notebook_path", lambda: "a.ipynb")
    assert cells.run("%mlflow_runs") == "This notebook has no run yet."
    cells.run("%%mlflow_run <b>one</b> --tags maestro.notebook=a.ipynb\nimport mlflow\nmlflow.log_param('lr', 0.1)")
    client = mlflow.MlflowClient()
    client.create_registered_model("<i>churn")
    client.create_model_version("<i>churn", f"runs:/{cells.last_run.info.run_id}/m", cells.last_run.info.run_id)
    assert re.search(r"lr=0\.1 .* <i>churn/1", cells.run("%mlflow_runs -n 5"))
    shown = MlflowMagics(cells.shell).runs.list(5)._repr_html_()
    assert "&lt;b&gt;one&lt;/b&gt;" in shown and "<b>" not in shown and "&lt;i&gt;churn/1" in shown


def test_two_runs_stand_side_by_side(cells: Cells) -> None:
    for name, rate in (("left", 0.1), ("right", 0.2)):
        cells.run(f"%%mlflow_run {name}\nimport mlflow\nmlflow.log_param('lr', {rate})\nmlflow.log_param('same', 1)")
    shown = cells.run("%mlflow_diff left right")
    assert re.search(r"lr\s+0\.1\s+0\.2", shown) and "same" not in shown
    assert "a run without a saved version" in shown
    assert "There is no run nobody" in cells.run("%mlflow_diff left nobody")


def test_autolog_is_turned_on_and_off(cells: Cells) -> None:
    assert "without the models" in cells.run("%mlflow_autolog on")
    assert "no longer" in cells.run("%mlflow_autolog off")


def test_without_names_the_last_two_runs_are_compared(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "notebook_path", lambda: "pair.ipynb")
    assert cells.run("%mlflow_diff") == "This notebook has no two runs yet that could be compared."
    for name, rate in (("oldest", 1), ("older", 2), ("newest", 3)):
        cells.run(
            f"%%mlflow_run {name} --tags maestro.notebook=pair.ipynb\nimport mlflow\nmlflow.log_param('lr', {rate})"
        )
    assert re.search(r"older\s+newest[^$]*lr\s+2\s+3", cells.run("%mlflow_diff"))
    assert re.search(r"oldest\s+newest", cells.run("%mlflow_diff oldest"))


def test_code_that_was_not_saved_is_not_called_the_same(cells: Cells) -> None:
    def run(name: str, dirty: str) -> None:
        tags = f"maestro.snapshot={'a' * 64} maestro.dirty={dirty}"
        cells.run(f"%%mlflow_run {name} --tags {tags}\nimport mlflow")

    for name, dirty in (("saved", "false"), ("unsaved", "true"), ("again", "false")):
        run(name, dirty)
    shown = cells.run("%mlflow_diff saved unsaved")
    assert (
        "but run unsaved ran other code besides, which was not saved." in shown
        and "the same saved version of" not in shown
    )
    assert "Both ran the same saved version of the code." in cells.run("%mlflow_diff saved again")


def test_as_a_line_the_cell_magic_says_what_to_do_instead(cells: Cells) -> None:
    before = len(mlflow.MlflowClient().search_runs(["1"]))
    assert cells.run("x = 1\n%mlflow_run").startswith("UsageError: %%mlflow_run NAME, with two percent signs")
    assert not cells.result.success and len(mlflow.MlflowClient().search_runs(["1"])) == before


def test_a_cell_that_is_a_sweep_is_read_as_one(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAESTRO_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("MAESTRO_TOKEN", "t")
    assert cells.run("%%mlflow_sweep\n[").startswith("this cell is not YAML (line 2)")
    said = cells.run("%%mlflow_sweep my rates\nnotebook: a.ipynb\ngrid: {lr: [1]}\nmetric: loss")
    assert said == "metric and goal go together: say which value counts, and whether to minimize or maximize it."
    assert cells.run("%mlflow_sweep sweep.yaml").startswith("sweep.yaml cannot be read")
    assert cells.result.success
