"""From the experiment into the workspace: runs, their metrics and chosen artifacts, as files that notebooks read."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from maestro_core.errors import MaestroError
from maestro_core.experiments import TAG_SYNC
from maestro_core.names import digest, slug

from .tracking import runs_of
from .tree import FOLDER, Tree

#: what is asked at once of MLflow
_THREADS = 4
_ABOUT = "experiment.json"
_METRIC_COLUMNS = ("run_id", "metric", "step", "time", "value")
#: tags of MLflow's own that hold documents, not words
_DOCUMENTS = frozenset({"mlflow.log-model.history", "mlflow.loggedArtifacts"})


def fetch(client: Any, experiment_id: str, name: str, tree: Tree, patterns: Sequence[str] | None) -> tuple[str, bool]:
    """Write an experiment below ``experiments/``, within :meth:`Tree.opened`.

    Args:
        client: MLflow's.
        patterns: which artifacts (``plots/*``, ``*.json``); None: those that the sync before took.

    Returns:
        The folder, and whether it holds anything else than before.

    Raises:
        MaestroError: ``invalid_request`` when the folder is somebody's own.
        OSError: the volume is full, say; the folder is as it was.
    """
    folder = folder_name(name)
    chosen = _before(tree.current(folder)) if patterns is None else sorted(set(patterns))
    runs = [run for run in runs_of(client, experiment_id) if TAG_SYNC not in run.data.tags]
    new = tree.begin()
    _write_table(new / "runs", _runs_table(runs))
    _write_table(new / "metrics", _metrics_table(client, runs))
    if chosen:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda run: _download(client, run.info.run_id, chosen, new / "artifacts"), runs))
    about = {"experiment": name, "experiment_id": experiment_id, "runs": len(runs), "artifacts": chosen}
    (new / _ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return f"{FOLDER}/{folder}", tree.publish(folder, new)


def folder_name(experiment: str) -> str:
    """A folder for an experiment: its name where that is one, else one like it that no other experiment has."""
    plain = slug(experiment, 60)
    return plain if plain == experiment else f"{plain or 'experiment'}-{digest(experiment)}"


def _before(version: Path | None) -> list[str]:
    try:
        found = json.loads((version / _ABOUT).read_text(encoding="utf-8"))["artifacts"] if version else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [str(one) for one in found] if isinstance(found, list) else []


def _runs_table(runs: Iterable[Any]) -> Any:
    """One row a run, with the columns of ``mlflow.search_runs``."""
    import pandas

    rows = [dict(_run_row(run)) for run in runs]
    columns = sorted({column for row in rows for column in row if "." in column})
    head = ["run_id", "run_name", "status", "user", "start_time", "end_time"]
    frame = pandas.DataFrame(rows, columns=[*head, *columns])
    for column in ("start_time", "end_time"):
        frame[column] = pandas.to_datetime(frame[column], unit="ms", utc=True)
    return frame


def _run_row(run: Any) -> Iterator[tuple[str, Any]]:
    info, data = run.info, run.data
    yield from (("run_id", info.run_id), ("run_name", info.run_name), ("status", info.status), ("user", info.user_id))
    yield from (("start_time", info.start_time), ("end_time", info.end_time))
    yield from ((f"metrics.{key}", value) for key, value in data.metrics.items())
    yield from ((f"params.{key}", value) for key, value in data.params.items())
    yield from ((f"tags.{key}", value) for key, value in data.tags.items() if key not in _DOCUMENTS)


def _metrics_table(client: Any, runs: Sequence[Any]) -> Any:
    """One row for each value that was logged."""
    import pandas

    asked = [(run.info.run_id, key) for run in runs for key in sorted(run.data.metrics)]
    with ThreadPoolExecutor(_THREADS) as pool:
        histories = pool.map(lambda one: client.get_metric_history(*one), asked)
        rows = [
            (run_id, key, point.step, point.timestamp, point.value)
            for (run_id, key), points in zip(asked, histories, strict=True)
            for point in sorted(points, key=lambda point: (point.step, point.timestamp))
        ]
    frame = pandas.DataFrame(rows, columns=list(_METRIC_COLUMNS))
    frame["time"] = pandas.to_datetime(frame["time"], unit="ms", utc=True)
    return frame


def _write_table(path: Path, frame: Any) -> None:
    """The same as ``.parquet`` and ``.csv``."""
    frame.to_parquet(path.with_suffix(".parquet"), index=False)
    frame.to_csv(path.with_suffix(".csv"), index=False)


def _download(client: Any, run_id: str, patterns: Sequence[str], into: Path) -> None:
    for path in _artifacts(client, run_id, ""):
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns):
            place = (into / run_id / path).parent
            place.mkdir(parents=True, exist_ok=True)
            client.download_artifacts(run_id, path, str(place))


def _artifacts(client: Any, run_id: str, below: str) -> Iterator[str]:
    """The paths of a run's files."""
    for one in client.list_artifacts(run_id, below or None):
        parts = one.path.split("/")
        if one.path.startswith("/") or "\\" in one.path or any(part in ("", ".", "..") for part in parts):
            raise MaestroError("invalid_request", f"The artifact {one.path[:80]!r} has no path of a file; delete it.")
        if one.is_dir:
            yield from _artifacts(client, run_id, one.path)
        else:
            yield one.path
