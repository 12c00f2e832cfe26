"""Writes a sweep's summary into its parent run: a table, a plot, the best trial's parameters; then ends the run.

Run as ``python -m server_extension.jobs.sweep_summary PARENT_RUN`` with a :class:`maestro_core.sweeps.SummaryOrder` as
JSON on its standard input. Safe to run again: what was written is not written twice.
"""

from __future__ import annotations

import csv
import io
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.entities import Metric, Param, RunTag

from maestro_core.experiments import TAG_REASON
from maestro_core.sweeps import SummaryOrder, TrialView, best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TAG_WRITTEN, TAG_BEST_TRIAL, TAG_BEST_RUN = (
    "maestro.sweep.summary",
    "maestro.sweep.best_trial",
    "maestro.sweep.best_run",
)
NOTE = "mlflow.note.content"
#: trials in the run's description, and parameters in the plot
_SHOWN_TRIALS, _SHOWN_PARAMETERS = 50, 6
#: MLflow's own bounds: of a parameter's value, and of a tag that we write
_MAX_PARAM, _MAX_NOTE = 6000, 5000
FOLDER = "summary"


def main() -> None:
    """Called as a program.

    Raises:
        SystemExit: with MLflow's word, when it does not take the summary.
    """
    order = SummaryOrder.model_validate_json(sys.stdin.buffer.read())
    try:
        write(mlflow.MlflowClient(), sys.argv[1], order)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {str(error)[:300]}")
    print(f"The summary of {order.name} is in its run {sys.argv[1]}.")


def write(client: mlflow.MlflowClient, run_id: str, order: SummaryOrder) -> None:
    """Write it and end the run.

    Raises:
        MlflowException: MLflow refuses it or does not answer.
    """
    winner = best(order.trials, order.goal)
    client.log_text(run_id, table(order.trials), f"{FOLDER}/trials.csv")
    client.log_text(run_id, page(order, winner, len(order.trials)), f"{FOLDER}/summary.md")
    if (figure := plot(order)) is not None:
        client.log_figure(run_id, figure, f"{FOLDER}/plot.png")
    if client.get_run(run_id).data.tags.get(TAG_WRITTEN) is None:
        # one call: all of it is there, or nothing
        client.log_batch(run_id, _metrics(order), _params(winner), _tags(order, winner))
    client.set_terminated(run_id, order.status)


def _metrics(order: SummaryOrder) -> list[Metric]:
    """The metric by trial, and the best so far, so that MLflow draws them too."""
    winner = best(order.trials, order.goal)
    if order.metric is None or winner is None:
        return []
    now, found = int(time.time() * 1000), []
    for (number, value), record in zip(_values(order), _records(order), strict=True):
        found.append(Metric(order.metric, value, now, number))
        found.append(Metric(f"best {order.metric}"[:250], record, now, number))
    # MLflow shows the last value of each: the best trial's comes last, at the last step
    found.append(Metric(order.metric, winner.value or 0.0, now + 1, order.total))
    return found[-1000:]


def _params(winner: TrialView | None) -> list[Param]:
    return (
        [] if winner is None else [Param(name, _text(value)[:_MAX_PARAM]) for name, value in winner.parameters.items()]
    )


def _tags(order: SummaryOrder, winner: TrialView | None) -> list[RunTag]:
    tags = {TAG_WRITTEN: "1", NOTE: page(order, winner, _SHOWN_TRIALS)[:_MAX_NOTE]}
    if order.reason:
        tags[TAG_REASON] = order.reason[:500]
    if winner is not None:
        tags |= {TAG_BEST_TRIAL: str(winner.number), TAG_BEST_RUN: winner.run_id or ""}
    return [RunTag(key, value) for key, value in tags.items()]


def _values(order: SummaryOrder) -> list[tuple[int, float]]:
    """Number and value of each trial that has one."""
    return [(trial.number, trial.value) for trial in order.trials if trial.value is not None]


def _records(order: SummaryOrder) -> list[float]:
    """The best value until each trial that has one."""
    better = max if order.goal == "maximize" else min
    return list(itertools.accumulate((value for _, value in _values(order)), better))


# -- what people read -------------------------------------------------------------------------------------------------


def names_of(trials: Iterable[TrialView]) -> list[str]:
    """The parameters that differ, in the sweep's order."""
    return list(dict.fromkeys(name for trial in trials for name in trial.parameters))


def table(trials: Sequence[TrialView]) -> str:
    """The trials as CSV."""
    names, file = names_of(trials), io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["trial", *names, "value", "status", "reason", "run_id"])
    for trial in trials:
        values = [_text(trial.parameters.get(name)) for name in names]
        value = "" if trial.value is None else repr(trial.value)
        writer.writerow([trial.number, *values, value, trial.status.value, trial.reason or "", trial.run_id or ""])
    return file.getvalue()


def page(order: SummaryOrder, winner: TrialView | None, most: int) -> str:
    """The summary as Markdown, with the best trials first.

    Args:
        most: trials that are shown.
    """
    good = sum(trial.status.value == "succeeded" for trial in order.trials)
    lines = [f"# {_cell(order.name)}", "", f"{good} of {order.total} trials of `{_cell(order.path)}` succeeded."]
    if order.reason:
        lines += ["", f"It ended so: {_cell(order.reason.rstrip('.'))}."]
    if winner is not None:
        chosen = ", ".join(f"{name} = {_text(value)}" for name, value in winner.parameters.items())
        lines += ["", f"**Best:** trial {winner.number}, {_cell(order.metric)} {winner.value:.6g} with {_cell(chosen)}"]
    names, sign = names_of(order.trials), -1 if order.goal == "maximize" else 1
    ranked = sorted(order.trials, key=lambda one: (one.value is None, sign * (one.value or 0.0), one.number))[:most]
    heads = ["trial", *names, order.metric or "value", "status"]
    lines += ["", _row(heads), _row(["---"] * len(heads))]
    for trial in ranked:
        value = "" if trial.value is None else f"{trial.value:.6g}"
        lines.append(
            _row([trial.number, *(_text(trial.parameters.get(name)) for name in names), value, trial.status.value])
        )
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: object) -> str:
    """Somebody's text within a line of Markdown."""
    text = "".join(sign if sign.isprintable() else " " for sign in str(value))
    return "".join("\\" + sign if sign in "\\|`*_[]<>#" else sign for sign in text)[:200]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def plot(order: SummaryOrder) -> Figure | None:
    """The metric by trial, and by each parameter; None where no trial has a value."""
    trials = [trial for trial in order.trials if trial.value is not None]
    if not trials:
        return None
    from matplotlib.figure import Figure  # no window, no global state

    names = [name for name in names_of(trials) if _varies(trials, name)][:_SHOWN_PARAMETERS]
    columns = min(3, 1 + len(names))
    rows = -(-(1 + len(names)) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    _by_trial(axes[0], order)
    for name, place in zip(names, axes[1:], strict=False):
        _by_parameter(place, order, trials, name)
    for place in axes[1 + len(names) :]:
        place.set_axis_off()
    figure.suptitle(_plain(f"{order.name}: {order.metric} ({order.goal})"))
    return figure


def _varies(trials: Sequence[TrialView], name: str) -> bool:
    return len({_text(trial.parameters.get(name)) for trial in trials}) > 1


def _by_trial(axes: Axes, order: SummaryOrder) -> None:
    numbers, values = zip(*_values(order), strict=True)
    axes.scatter(numbers, values, s=18, label="trial")
    axes.step(numbers, _records(order), where="post", color="tab:orange", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(_plain(str(order.metric)))
    axes.legend(fontsize="small")


def _by_parameter(axes: Axes, order: SummaryOrder, trials: Sequence[TrialView], name: str) -> None:
    values = [trial.parameters.get(name) for trial in trials]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values):
        places: list[Any] = list(numbers)
        if min(numbers) > 0 and max(numbers) >= 100 * min(numbers):
            axes.set_xscale("log")
    else:
        shown = list(dict.fromkeys(_text(value) for value in values))
        places = [shown.index(_text(value)) for value in values]
        axes.set_xticks(range(len(shown)), [_plain(text[:20]) for text in shown], rotation=30, ha="right")
    axes.scatter(places, [trial.value or 0.0 for trial in trials], s=18)
    axes.set_xlabel(_plain(name))
    axes.set_ylabel(_plain(str(order.metric)))


def _plain(text: str) -> str:
    """Text in a plot: a dollar would begin a formula."""
    return text.replace("$", r"\$")[:120]


if __name__ == "__main__":
    main()
