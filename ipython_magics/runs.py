"""What the magics do with MLflow. Everything that goes wrong becomes one sentence."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import address, kernel, links
from .refusal import NotDone

if TYPE_CHECKING:
    from . import tables

NO_ANSWER = "MLflow does not answer (it may still be starting); run the cell again in a moment."
NO_RUN = "No run is active; start one with %mlflow_start_run."
CHANGED = "This run has another value of that parameter, and MLflow keeps the first; start a new run to change it."
#: characters of MLflow's own message that a sentence quotes
MAX_QUOTE = 300


@dataclass(frozen=True)
class Ask:
    """What ``%mlflow_start_run`` was asked for; the same ask again is the cell run again."""

    name: str = ""
    experiment: str = ""
    nested: bool = False
    tags: tuple[tuple[str, str], ...] = ()


@dataclass
class Runs:
    """The runs of this kernel that the magics started, and MLflow's fluent API behind them."""

    started: dict[str, Ask] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)  # runs that had their line
    of_cell: str | None = None  # the run that ends with this cell
    cell_is_run: bool = False  # whether this cell began with %%mlflow_run

    def start(self, ask: Ask) -> links.RunLine:
        """Start a run; the run that the same ask started goes on if it is still active.

        Raises:
            NotDone: another run is active, or MLflow does not do it.
        """
        with self._mlflow() as mlflow:
            active = mlflow.active_run()
            if active is not None and self.started.get(active.info.run_id) == ask:
                return _line(mlflow, active, "goes on")
            if active is not None and not ask.nested:
                raise NotDone(
                    f"Run {active.info.run_name} is still active; end it with %mlflow_end_run, or start this one in it "
                    "with --nested."
                )
            from .mlflow_plugins.experiment import experiment_id

            run = mlflow.start_run(
                run_name=ask.name or None,
                experiment_id=experiment_id(ask.experiment) if ask.experiment else None,
                nested=ask.nested,
                tags=dict(ask.tags) or None,
            )
            self.started[run.info.run_id] = ask
            self.shown.add(run.info.run_id)
            return _line(mlflow, run, "started")

    def start_for_cell(self, ask: Ask) -> None:
        """Start a run that ends when the cell does.

        Raises:
            NotDone: another run is active, or MLflow does not do it.
        """
        self.start(ask)
        with self._active_run() as (_, run):
            self.of_cell = run.info.run_id

    def resume(self, wanted: str) -> links.RunLine:
        """Go on with a run that has ended: of this notebook the last one, or one by name or id.

        Raises:
            NotDone: there is none, another is active, or MLflow does not do it.
        """
        with self._mlflow() as mlflow:
            from maestro_core.experiments import TAG_REASON

            from . import tables

            active = mlflow.active_run()
            if active is not None:
                raise NotDone(f"Run {active.info.run_name} is still active; end it with %mlflow_end_run first.")
            found = tables.find(mlflow, wanted) if wanted else next(iter(tables.of_notebook(mlflow, 1)), None)
            if found is None:
                raise NotDone("This notebook has no run yet; start one with %mlflow_start_run.")
            run = mlflow.start_run(run_id=found.info.run_id)
            mlflow.MlflowClient().set_tag(run.info.run_id, TAG_REASON, "")
            self.shown.add(run.info.run_id)
            return _line(mlflow, run, "goes on")

    def list(self, count: int) -> tables.RunTable:
        """The newest runs of this notebook.

        Raises:
            NotDone: MLflow does not answer.
        """
        with self._mlflow() as mlflow:
            from . import tables

            runs = tables.of_notebook(mlflow, count)
            models = tables.models_of(mlflow, runs)
            return tables.RunTable(runs, address.is_ours(mlflow.get_tracking_uri()), models)

    def compare(self, first: str = "", second: str = "") -> tables.Comparison:
        """Two runs side by side, the older one first where none is named: the last two of this notebook.

        Args:
            second: if only the first is named, it is compared with the last run of this notebook.

        Raises:
            NotDone: one of them is not found, or MLflow does not answer.
        """
        with self._mlflow() as mlflow:
            from . import tables

            if first and second:
                return tables.Comparison(*(tables.find(mlflow, wanted) for wanted in (first, second)))
            last = tables.of_notebook(mlflow, 2)
            if first:
                one = tables.find(mlflow, first)
                last = [*[run for run in last if run.info.run_id != one.info.run_id][:1], one]
            if len(last) < 2:
                raise NotDone("This notebook has no two runs yet that could be compared.")
            return tables.Comparison(last[1], last[0])

    def autolog(self, on: bool, models: bool) -> str:
        """Turn mlflow's autologging on or off.

        Raises:
            NotDone: MLflow does not do it.
        """
        with self._mlflow() as mlflow:
            # a model at each fit takes seconds (scikit-learn: 2.5-5 s against 0.4 s): only if asked for
            mlflow.autolog(disable=not on, log_models=models, silent=True)
        if not on:
            return "What libraries fit is logged no longer."
        return "What libraries fit is logged from now on" + (", models too." if models else ", without the models.")

    def finish(self, run_id: str, status: str, reason: str = "", text: str = "") -> links.RunLine | None:
        """End an active run whose cell or kernel has ended; None if it is not there to be ended.

        Args:
            reason: for its tag. text: of the traceback, for an artifact.
        """
        try:
            with self._active_run() as (mlflow, run):
                if run.info.run_id != run_id:
                    return None
                if reason:
                    from maestro_core.experiments import TAG_REASON

                    mlflow.set_tag(TAG_REASON, reason)
                if text:
                    mlflow.log_text(text, "traceback.txt")
            return self.end(status)
        except NotDone:
            return None

    def line_of(self, run_id: str) -> links.RunLine | None:
        """The line of a run that plain code ended; None where MLflow does not say at once, or the run is elsewhere."""
        import mlflow

        if not address.is_ours(mlflow.get_tracking_uri()):
            return None
        self.shown.add(run_id)
        if (kept := _kept(run_id)) is not None:
            return kept
        run = _quick_look(run_id)
        if run is None:
            return None
        what = str(run.get("status", "")).lower()
        url = links.run_url(str(run.get("experiment_id", "")), run_id)
        return links.RunLine(str(run.get("run_name") or run_id), what, url)

    def log_param(self, key: str, value: str) -> None:
        """Log a parameter of the active run.

        Raises:
            NotDone: no run is active, or MLflow does not do it.
        """
        with self._active_run() as (mlflow, _):
            mlflow.log_param(key, value)

    def log_metric(self, key: str, value: float, step: int | None) -> None:
        """Log a metric of the active run.

        Raises:
            NotDone: no run is active, or MLflow does not do it.
        """
        with self._active_run() as (mlflow, _):
            mlflow.log_metric(key, value, step=step)

    def log_notebook(self) -> str:
        """Log this notebook, as it was last saved, as an artifact of the active run.

        Returns:
            One sentence that says what was logged.

        Raises:
            NotDone: no run is active, the notebook is not known, or MLflow does not do it.
        """
        with self._active_run() as (mlflow, _):
            path = kernel.notebook_path()
            if path is None:
                raise NotDone("This kernel belongs to no notebook that can be found; nothing was logged.")
            file = kernel.notebook_file(path)
            try:
                saved = time.strftime("%H:%M:%S", time.localtime(file.stat().st_mtime))
            except OSError as error:
                raise NotDone(f"{path} cannot be read ({error.strerror}); save the notebook first.") from None
            mlflow.log_artifact(str(file), artifact_path="notebook")
            return f"Logged {path} as it was saved at {saved}."

    def end(self, status: str) -> links.RunLine:
        """End the active run.

        Args:
            status: FINISHED, FAILED or KILLED.

        Raises:
            NotDone: no run is active, or MLflow does not do it.
        """
        with self._active_run() as (mlflow, run), _without_mlflows_own_links():
            mlflow.end_run(status)
            self.started.pop(run.info.run_id, None)
            return _line(mlflow, run, status.lower())

    @contextmanager
    def _active_run(self) -> Iterator[tuple[Any, Any]]:
        with self._mlflow() as mlflow:
            run = mlflow.active_run()
            if run is None:
                raise NotDone(NO_RUN)
            yield mlflow, run

    @contextmanager
    def _mlflow(self) -> Iterator[Any]:
        """mlflow, imported now. Its store keeps what the launch's own MLflow cannot be told (mlflow_plugins.store)."""
        import mlflow
        import requests

        try:
            yield mlflow
        except (mlflow.exceptions.MlflowException, requests.RequestException, OSError) as error:
            raise NotDone(sentence(error)) from None


def sentence(error: BaseException) -> str:
    """One sentence for what MLflow or the network said."""
    text = " ".join(str(error).split())
    if "Changing param values is not allowed" in text:
        return CHANGED
    if getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE":
        return text[:MAX_QUOTE]
    for reason in ("Max retries exceeded", "Connection refused", "timed out", "RemoteDisconnected"):
        if reason in text:
            return NO_ANSWER
    if getattr(error, "error_code", "") in ("PERMISSION_DENIED", "UNAUTHENTICATED") or "error code 403" in text:
        return f"MLflow refuses this, nothing was logged: {text[:MAX_QUOTE]}"
    return f"MLflow did not log it: {text[:MAX_QUOTE]}"


def _quick_look(run_id: str) -> dict[str, Any] | None:
    """What MLflow knows of a run, asked once and for two seconds: mlflow's own client would try for minutes."""
    import requests

    from .hub_token import HubToken

    ours = address.TRACKING
    headers = {"X-MLFLOW-WORKSPACE": workspace} if (workspace := os.environ.get("MLFLOW_WORKSPACE")) else {}
    try:
        answer = requests.get(
            f"{ours.url if ours else ''}/api/2.0/mlflow/runs/get",
            params={"run_id": run_id},
            headers=headers,
            auth=HubToken(ours),
            timeout=(0.5, 1.5),
            allow_redirects=False,
        )
        found = answer.json()["run"]["info"]
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _kept(run_id: str) -> links.RunLine | None:
    """The line of a run whose end MLflow has not heard of yet."""
    from .spool.road import road

    way = road()
    if way is None or not way.closed:
        return None
    from .mlflow_plugins.store import known

    run = known.run(run_id)
    return links.RunLine(run.info.run_name, "ended; MLflow will hear of it", "") if run is not None else None


def _line(mlflow: Any, run: Any, what: str) -> links.RunLine:
    ours = address.is_ours(mlflow.get_tracking_uri())
    url = links.run_url(run.info.experiment_id, run.info.run_id) if ours else ""
    return links.RunLine(run.info.run_name or run.info.run_id, what, url)


@contextmanager
def _without_mlflows_own_links() -> Iterator[None]:
    """mlflow prints the address that the kernel uses; ours is the browser's."""
    name = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
