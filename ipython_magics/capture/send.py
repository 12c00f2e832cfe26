"""Brings one stretch of executed cells to MLflow: ``python -m ipython_magics.capture.send FILE NOTEBOOK``.

A stretch in which the notebook's own code had runs is logged to those, and to no run of its own. It can be repeated:
its run is found by the stretch's name, and what is logged again is the same.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maestro_core.executions import MAX_PARAMETERS, TAG_CAPTURED
from maestro_core.experiments import (
    TAG_DIRTY,
    TAG_KERNEL,
    TAG_LAUNCH,
    TAG_NOTEBOOK,
    TAG_REASON,
    TAG_SNAPSHOT,
)
from maestro_core.snapshots import address_of, cell_digest, code_digests

from .. import kernel
from . import history
from .history import Stretch
from .page import Head, render

#: exit codes: MLflow does not answer now (sysexits.h, EX_TEMPFAIL); there is nothing to send
LATER, NOTHING = 75, 0
#: runs of the notebook's own that a stretch is logged to, the newest; of those that are looked at
MAX_OWN, _LOOKED_AT = 10, 200
MAX_NOTEBOOK = 64 * 1024 * 1024
ARTIFACTS = "executed"
_HTML, _JSON = "notebook.html", "history.json"


def main(arguments: Sequence[str]) -> int:
    """Send one; the exit code."""
    import mlflow
    import requests

    file, path = Path(arguments[0]), arguments[1] if len(arguments) > 1 else ""
    stretch = history.read(file)
    path = path or (_relative(stretch.session) if stretch else "")
    if stretch is None or not path or not history.is_worth_a_run(stretch):
        return NOTHING
    try:
        send(mlflow.MlflowClient(), stretch, path)
    except (requests.RequestException, mlflow.exceptions.MlflowException) as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        refused = getattr(error, "error_code", "") in ("PERMISSION_DENIED", "INVALID_PARAMETER_VALUE")
        return 1 if refused else LATER
    return 0


def send(client: Any, stretch: Stretch, path: str) -> list[str]:
    """Log a stretch; the ids of the runs that have it now.

    Args:
        client: an ``MlflowClient``. path: of the notebook, below the workspace.

    Raises:
        mlflow.exceptions.MlflowException, requests.RequestException: MLflow refuses, or does not answer.
    """
    saved = _saved(kernel.notebook_file(path))
    about = {"notebook": path, **_version(stretch, saved)}
    found = _runs(client, stretch)
    captured = [run for run in found if run.data.tags.get(TAG_CAPTURED) == stretch.name]
    own = [run for run in found if TAG_CAPTURED not in run.data.tags and _overlaps(run, stretch)]
    if own and not captured:
        place = f"{ARTIFACTS}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(stretch.began))}"
        for run in own[:MAX_OWN]:
            _log_artifacts(client, run.info.run_id, stretch, saved, about, place)
        return [run.info.run_id for run in own[:MAX_OWN]]
    run_id = captured[0].info.run_id if captured else _create(client, stretch, about)
    for name, value in list(history.parameters(stretch, saved).items())[:MAX_PARAMETERS]:
        client.log_param(run_id, name, value)
    _log_artifacts(client, run_id, stretch, saved, about, ARTIFACTS)
    status, reason = stretch.outcome
    if reason:
        client.set_tag(run_id, TAG_REASON, reason)
    client.set_terminated(run_id, status, int(stretch.ended * 1000))
    return [run_id]


def _create(client: Any, stretch: Stretch, about: Mapping[str, str]) -> str:
    from ..mlflow_plugins.context import FROM_LAUNCH
    from ..mlflow_plugins.experiment import experiment_id

    path = about["notebook"]
    tags = {tag: value for tag, name in FROM_LAUNCH.items() if (value := os.environ.get(name))}
    tags |= {
        TAG_NOTEBOOK: path, TAG_KERNEL: stretch.kernel, TAG_CAPTURED: stretch.name,
        "mlflow.source.name": path, "mlflow.source.type": "NOTEBOOK",
    }  # fmt: skip
    if stretch.launch:
        tags[TAG_LAUNCH] = stretch.launch
    if address := about.get("snapshot"):
        tags |= {TAG_SNAPSHOT: address, TAG_DIRTY: str(about["dirty"]).lower()}
    name = f"{Path(path).stem} {time.strftime('%Y-%m-%d %H:%M', time.gmtime(stretch.began))}"
    experiment = experiment_id(os.environ["MAESTRO_EXPERIMENT"])
    run = client.create_run(experiment, start_time=int(stretch.began * 1000), tags=tags, run_name=name)
    return str(run.info.run_id)


def _log_artifacts(
    client: Any, run_id: str, stretch: Stretch, saved: Mapping[str, Any] | None, about: Mapping[str, Any], place: str
) -> None:
    notebook, is_saved = history.as_notebook(stretch, saved)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder)
        (written / _JSON).write_text(json.dumps(history.as_json(stretch, about), indent=1), encoding="utf-8")
        (written / _HTML).write_text(render(notebook, head(stretch, about, is_saved)), encoding="utf-8")
        client.log_artifacts(run_id, folder, place)


def head(stretch: Stretch, about: Mapping[str, Any], is_saved: bool) -> Head:
    """What stands over the cells."""
    status, reason = stretch.outcome
    count, seconds = len(stretch.cells), stretch.ended - stretch.began
    cells = f"{count} cell{'' if count == 1 else 's'} ran in {seconds:.1f} s"
    order = "" if is_saved else "; they stand in the order in which they ran"
    facts = [
        ("Workspace", os.environ.get("MAESTRO_WORKSPACE", "")), ("Run by", os.environ.get("MAESTRO_USER", "")),
        ("Began", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(stretch.began))),
        ("Version", _version_shown(about)),
    ]  # fmt: skip
    return Head(
        title=str(about["notebook"]), bad=status != "FINISHED",
        sentence=f"{cells}{order}. {reason}".strip() if reason else f"{cells}{order}.",
        facts=[fact for fact in facts if fact[1]],
    )  # fmt: skip


def _version_shown(about: Mapping[str, Any]) -> str:
    address = str(about.get("snapshot") or "")
    return address[:12] + (", and code that was not saved" if about.get("dirty") else "") if address else ""


def _runs(client: Any, stretch: Stretch) -> list[Any]:
    """The newest runs of the stretch's kernel."""
    experiments = [one.experiment_id for one in client.search_experiments(max_results=1000)]
    quoted = stretch.kernel.replace("'", "")
    wanted = f"tags.`{TAG_KERNEL}` = '{quoted}'"
    order = ["attributes.start_time DESC"]
    if not experiments:
        return []
    return list(client.search_runs(experiments, filter_string=wanted, max_results=_LOOKED_AT, order_by=order))


def _overlaps(run: Any, stretch: Stretch) -> bool:
    began, ended = run.info.start_time / 1000, (run.info.end_time or float("inf")) / 1000
    return bool(began <= stretch.ended + 0.5 and ended >= stretch.began)


def _version(stretch: Stretch, saved: Mapping[str, Any] | None) -> dict[str, Any]:
    """The version as it is saved now, and whether code ran that does not stand in it. A viewer saves none."""
    if saved is None or os.environ.get("MAESTRO_ROLE") == "viewer":
        return {}
    known = set(code_digests(saved))
    dirty = any(cell_digest(cell.source) not in known for cell in stretch.cells if cell.source.strip())
    return {"snapshot": address_of(saved), "dirty": dirty}


def _saved(file: Path) -> dict[str, Any] | None:
    try:
        if file.stat().st_size > MAX_NOTEBOOK:
            return None
        found = json.loads(file.read_bytes())
        address_of(found)
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _relative(session: str) -> str:
    """The notebook's path when its kernel started, below the workspace; empty where it is not there."""
    folder, path = os.environ.get("MAESTRO_WORKSPACE_DIR", ""), Path(session)
    return str(path.relative_to(folder)) if session and folder and path.is_relative_to(folder) else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
