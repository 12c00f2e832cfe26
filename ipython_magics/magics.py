"""The magics, as IPython shows them: ``%mlflow_log_metric?`` prints what docs/notebooks.md has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from .capture.switch import Switch
from .refusal import NotDone
from .runs import Ask, Runs
from .values import ValueRefused, number, param_value

STATUSES = ("FINISHED", "FAILED", "KILLED")
AS_LINE = (
    "%%mlflow_run NAME, with two percent signs in the first line of a cell, makes that cell a run; to start one that "
    "lasts beyond it, use %mlflow_start_run."
)
_KEY_AND_VALUE = re.compile(r"""\s*(?:"([^"]+)"|'([^']+)'|(\S+))\s+(\S.*?)\s*""")
_STEP = re.compile(r"^\s*--step(?:\s+|=)(?P<first>\S+)|\s--step(?:\s+|=)(?P<last>\S+)\s*$")


@magics_class
class MlflowMagics(Magics):
    """Runs without ``import mlflow``. What cannot be logged is one line, and the notebook goes on."""

    def __init__(self, shell: Any, recorded: Switch | None = None) -> None:
        super().__init__(shell)
        self._recorded = recorded or Switch(shell)
        self.variables: Mapping[str, Any] = shell.user_ns
        self.runs = Runs()

    @magic_arguments()
    @argument("name", nargs="*", help="the run's name; MLflow makes one up if there is none")
    @argument(
        "--experiment", metavar="E", default="", help="the experiment, made if missing; the workspace's own if not said"
    )
    @argument("--nested", action="store_true", help="start it inside the active run")
    @argument("--tags", nargs="+", default=[], metavar="KEY=VALUE", help="tags of the run")
    @line_magic
    def mlflow_start_run(self, line: str) -> None:
        """Start a run. A cell that is run again goes on with the run that it started, while that is active."""
        given = _parse(self.mlflow_start_run, line)
        ask = _ask(given)
        self._show(lambda: self.runs.start(ask))

    @magic_arguments()
    @argument("key", help="the parameter's name")
    @argument("value", nargs="+", help="an expression of your variables, a literal, or just text")
    @line_magic
    def mlflow_log_param(self, line: str) -> None:
        """Log a parameter of the active run."""
        key, value = _key_and_value(self.mlflow_log_param, line)
        shown = _value(lambda: param_value(value, self.variables))
        self._show(lambda: self.runs.log_param(key, shown))

    @magic_arguments()
    @argument("key", help="the metric's name")
    @argument("value", nargs="+", help="a number, or an expression of your variables")
    @argument("--step", metavar="N", help="the step: a whole number, or an expression without blanks")
    @line_magic
    def mlflow_log_metric(self, line: str) -> None:
        """Log a metric of the active run."""
        found = _STEP.search(line)
        key, value = _key_and_value(self.mlflow_log_metric, _STEP.sub("", line, count=1))
        figure = _value(lambda: number(value, self.variables, "value"))
        step = _value(lambda: number(found["first"] or found["last"], self.variables, "step")) if found else None
        if step is not None and not step.is_integer():
            raise UsageError(f"The step {step:g} is no whole number.")
        self._show(lambda: self.runs.log_metric(key, figure, None if step is None else int(step)))

    @magic_arguments()
    @line_magic
    def mlflow_log_notebook(self, line: str) -> None:
        """Log this notebook, as it was last saved, as an artifact of the active run."""
        _parse(self.mlflow_log_notebook, line)
        self._show(self.runs.log_notebook)

    @magic_arguments()
    @argument(
        "--status", default="FINISHED", type=str.upper, choices=STATUSES, help="how it ended, FINISHED if not said"
    )
    @line_magic
    def mlflow_end_run(self, line: str) -> None:
        """End the active run."""
        status = _parse(self.mlflow_end_run, line).status
        self._show(lambda: self.runs.end(status))

    @magic_arguments()
    @argument("name", nargs="*", help="the run's name; MLflow makes one up if there is none")
    @argument("--experiment", metavar="E", default="", help="the experiment; the workspace's own if not said")
    @argument("--nested", action="store_true", help="start it inside the active run")
    @argument("--tags", nargs="+", default=[], metavar="KEY=VALUE", help="tags of the run")
    @line_magic
    def mlflow_run(self, line: str) -> None:
        """`%%mlflow_run NAME` makes the cell a run: it ends with the cell, FAILED with the traceback if that raises."""
        ask = _ask(_parse(self.mlflow_run, line))
        if not self.runs.cell_is_run:
            raise UsageError(AS_LINE)
        self.runs.cell_is_run = False
        self._show(lambda: self.runs.start_for_cell(ask))

    @magic_arguments()
    @argument("run", nargs="*", help="its name, or the start of its id; the last run of this notebook if not said")
    @line_magic
    def mlflow_resume(self, line: str) -> None:
        """Go on with a run that has ended, after a restart of the kernel say."""
        given = _parse(self.mlflow_resume, line)
        self._show(lambda: self.runs.resume(" ".join(given.run)))

    @magic_arguments()
    @argument("-n", "--number", type=int, default=20, help="how many, 20 if not said")
    @line_magic
    def mlflow_runs(self, line: str) -> None:
        """List this notebook's runs, the newest first."""
        given = _parse(self.mlflow_runs, line)
        self._show(lambda: self.runs.list(max(1, min(given.number, 200))))

    @magic_arguments()
    @argument(
        "first",
        nargs="?",
        default="",
        help="a run's name, or the start of its id; the last but one run of this notebook if not said",
    )
    @argument("second", nargs="?", default="", help="another; the last run of this notebook if not said")
    @line_magic
    def mlflow_diff(self, line: str) -> None:
        """Compare two runs: parameters, metrics, and the code that was saved when they began."""
        given = _parse(self.mlflow_diff, line)
        self._show(lambda: self.runs.compare(given.first, given.second))

    @magic_arguments()
    @argument("state", nargs="?", default="on", choices=("on", "off"), help="on if not said")
    @argument("--models", action="store_true", help="log each fitted model too, which takes seconds a fit")
    @line_magic
    def mlflow_autolog(self, line: str) -> None:
        """Log what libraries fit (scikit-learn, PyTorch, XGBoost, ...) without further code."""
        given = _parse(self.mlflow_autolog, line)
        self._show(lambda: self.runs.autolog(given.state == "on", given.models))

    @magic_arguments()
    @argument("state", nargs="?", default="status", choices=("on", "off", "status"), help="status if not said")
    @line_magic
    def mlflow_capture(self, line: str) -> None:
        """Record what runs in this notebook: each stretch of cells becomes a run, with its history and a page of it."""
        state = _parse(self.mlflow_capture, line).state
        self._show(self._recorded.status if state == "status" else lambda: self._recorded.turn(state == "on"))

    @magic_arguments()
    @argument("what", nargs="*", help="a file in YAML; a sweep's id, to see its trials; this workspace's if not said")
    @line_cell_magic
    def mlflow_sweep(self, line: str, cell: str | None = None) -> None:
        """Run this notebook with many sets of parameters, as jobs; `%%mlflow_sweep NAME` takes the cell as its YAML."""
        what = " ".join(_parse(self.mlflow_sweep, line).what)

        def act() -> Any:
            from . import sweeps  # not at a kernel's start

            return sweeps.act(what, cell)

        self._show(act)

    def _show(self, act: Callable[[], Any]) -> None:
        """Run it and show what it returns. What was not done is a line, not an error: tracking stops no notebook."""
        try:
            shown = act()
        except NotDone as refusal:
            shown = str(refusal)
        if isinstance(shown, str):
            print(shown)
        elif shown is not None:
            display(shown)


def _ask(given: Any) -> Ask:
    """What to start, from the arguments.

    Raises:
        UsageError: a tag is none.
    """
    tags = [tuple(tag.split("=", 1)) for tag in given.tags]
    for tag in tags:
        if len(tag) != 2 or not tag[0]:
            raise UsageError(f"--tags {tag[0]} is no KEY=VALUE.")
    return Ask(" ".join(given.name), given.experiment, given.nested, tuple((key, value) for key, value in tags))


def _parse(magic: Any, line: str) -> Any:
    """The arguments of a magic's line, quoted as in a shell.

    Raises:
        UsageError: they are not as its help says.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"%{magic.__name__}: {error}.") from None
    return magic.parser.parse_args(words)


def _key_and_value(magic: Any, line: str) -> tuple[str, str]:
    """The first word (or quoted words), and the rest as it stands: an expression has blanks and quotes of its own.

    Raises:
        UsageError: one of them is missing.
    """
    found = _KEY_AND_VALUE.fullmatch(line)
    if found is None:
        raise UsageError(f"%{magic.__name__} takes a name and a value; %{magic.__name__}? shows how.")
    return found[1] or found[2] or found[3], found[4]


def _value(read: Callable[[], Any]) -> Any:
    """A value of the line.

    Raises:
        UsageError: it cannot be logged.
    """
    try:
        return read()
    except ValueRefused as refusal:
        raise UsageError(str(refusal)) from None
