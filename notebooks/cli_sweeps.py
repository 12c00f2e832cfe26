"""How the CLI starts and shows sweeps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from maestro_core.errors import MaestroError
from maestro_core.sweeps import SweepStatus, SweepView, TrialView

from .console import print_json, say, table
from .sweeps import SweepManager

#: those that are over are shown for so long by 'maestro status', and so many
_RECENT, _SHOWN = timedelta(hours=24), 10
#: seconds between two looks at one that is waited for
_POLL = 2.0


def started(manager: SweepManager, sweep: SweepView, wait: bool, json_: bool) -> None:
    """Say that it was started; with ``wait``, how it goes on, and fail where it does."""
    if not json_:
        say(f"Started {sweep.sweep_id}: {sweep.total} trials of {sweep.path} in {sweep.workspace}, "
            f"{sweep.max_parallel} at a time.")  # fmt: skip
        say(f"Look at it with 'maestro status {sweep.sweep_id}'.")
    done = 0
    while wait and not sweep.status.over:
        time.sleep(_POLL)
        sweep = manager.sweep(sweep.sweep_id)
        if sweep.done != done and not json_:
            say(_line(sweep))
        done = sweep.done
    if json_:
        print_json(sweep.model_dump(mode="json"))
    if wait and sweep.status is not SweepStatus.SUCCEEDED:
        raise MaestroError("conflict", f"{sweep.name} {sweep.status.value}: {sweep.reason or 'no reason was noted'}")


def _line(sweep: SweepView) -> str:
    found = f", the best {best(sweep)}" if sweep.best else ""
    return f"{sweep.done} of {sweep.total} trials are over{found}."


def recent(found: list[SweepView]) -> list[SweepView]:
    """Those that are not over, and the last ones that are."""
    since = datetime.now(UTC) - _RECENT
    return [one for one in found if not one.status.over or (one.ended_at and one.ended_at > since)][:_SHOWN]


def sweep_table(found: list[SweepView]) -> None:
    """Sweeps as a table."""
    table(
        ["sweep", "name", "user", "workspace", "status", "trials", "best", ""],
        [
            [
                one.sweep_id,
                one.name,
                one.user,
                one.workspace,
                one.status.value,
                trials(one),
                best(one),
                one.reason or "",
            ]
            for one in found
        ],
    )


def trials(sweep: SweepView) -> str:
    """``3 of 12 (1 failed)``."""
    return f"{sweep.done} of {sweep.total}" + (f" ({sweep.failed} failed)" if sweep.failed else "")


def best(sweep: SweepView) -> str:
    """``accuracy 0.93``, or a dash."""
    return "-" if sweep.best is None else f"{sweep.metric} {sweep.best.value:.6g}"


def show_sweep(sweep: SweepView) -> None:
    """One sweep, a line for each thing, and its trials, the best first."""
    rows = {
        "sweep": f"{sweep.sweep_id} ({sweep.name})",
        "status": sweep.status.value,
        "why": sweep.reason or "",
        "trials": f"{trials(sweep)}, {sweep.max_parallel} at a time",
        "runs": sweep.path,
        "workspace": f"{sweep.workspace}, experiment {sweep.experiment}",
        "best": _best_trial(sweep),
        "parent run": sweep.parent_run or "",
    }
    for title, value in rows.items():
        if value:
            say(f"{title + ':':<14}{value}")
    if sweep.trials:
        say("")
        _trial_table(sweep)


def _best_trial(sweep: SweepView) -> str:
    return f"{best(sweep)}, trial {sweep.best.number}: {_parameters(sweep.best)}" if sweep.best else ""


def _parameters(trial: TrialView) -> str:
    return ", ".join(f"{name}={value}" for name, value in trial.parameters.items())


def _trial_table(sweep: SweepView) -> None:
    table(
        ["trial", "parameters", sweep.metric or "value", "status", "job", ""],
        [
            [
                str(one.number),
                _parameters(one),
                "-" if one.value is None else f"{one.value:.6g}",
                one.status.value,
                one.job_id or "",
                one.reason or "",
            ]
            for one in sweep.ranked
        ],
    )
