"""From the workspace into the experiment: what is kept about it, its configuration and what it used.

MLflow has no transactions over files, so a state is written into a folder of its own, and the last call of a sync says
that this is the folder that counts. One run for each workspace holds them.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from maestro_core.errors import MaestroError
from maestro_core.experiments import TAG_LAUNCH, TAG_SYNC, TAG_SYNC_FOLDER, TAG_WORKSPACE

from .tracking import runs_of

#: files in the workspace's own folder that say how its work is set up
CONFIGURATION = ("*.yaml", "*.yml", "*.toml", "*.cfg", "*.ini", "requirements*.txt", "*.lock")
_MAX_FILES = 50
_MAX_BYTES = 1024 * 1024
_MIB = 1024 * 1024


def store(client: Any, experiment: str, metadata: Mapping[str, Any], workspace: Path, launch: str) -> tuple[str, bool]:
    """Write a workspace's state into its run in an experiment.

    Args:
        client: MLflow's.
        experiment: its id.
        metadata: from :func:`notebooks.metadata.workspace_metadata`.
        workspace: its folder, of which configuration files are taken.
        launch: in which this runs; it ends the run if the run was begun and nothing more.

    Returns:
        The run's id, and whether anything is there that was not before.
    """
    about = metadata["workspace"]
    files = dict(documents(metadata, workspace))
    folder = f"sync/{_digest(files)}"
    run = _run_of(client, experiment, about["workspace_id"]) or client.create_run(
        experiment,
        tags={TAG_SYNC: about["workspace_id"], TAG_WORKSPACE: about["name"], TAG_LAUNCH: launch},
        run_name=f"workspace {about['name']}",
    )
    if run.info.status == "RUNNING":
        client.set_terminated(run.info.run_id, "FINISHED")
    shown = run.data.tags.get(TAG_SYNC_FOLDER, "")
    if shown.rpartition("-")[0] == folder:
        return run.info.run_id, False
    place = f"{folder}-{secrets.token_hex(3)}"  # never that of a sync which was killed half-way
    with tempfile.TemporaryDirectory() as temporary:
        for name, content in files.items():
            path = Path(temporary) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        client.log_artifacts(run.info.run_id, temporary, place)
    client.log_batch(run.info.run_id, metrics=list(_figures(metadata["usage"])), tags=_tags(place))
    return run.info.run_id, True


def documents(metadata: Mapping[str, Any], workspace: Path) -> Iterator[tuple[str, bytes]]:
    """What goes into the folder: path and content."""
    yield "workspace.json", _json({key: metadata[key] for key in ("workspace", "experiments", "members")})
    yield "notebooks.json", _json({key: metadata[key] for key in ("notebooks", "runs")})
    yield "environment.json", _json({key: metadata[key] for key in ("environment", "environment_history")})
    yield "usage.json", _json(rounded(metadata["usage"]))
    settings = yaml.safe_dump(metadata["settings"], allow_unicode=True)
    yield "configuration/workspace-settings.yaml", settings.encode()
    for path in configuration_files(workspace):
        yield f"configuration/files/{path.name}", path.read_bytes()


def configuration_files(workspace: Path) -> list[Path]:
    """Files of the workspace's own folder, none that is hidden, linked or larger than 1 MiB.

    Raises:
        MaestroError: ``invalid_request`` when there are more than 50.
    """
    found = sorted(
        {
            path
            for pattern in CONFIGURATION
            for path in workspace.glob(pattern)
            if path.is_file() and not path.is_symlink() and path.name[0] != "." and path.stat().st_size <= _MAX_BYTES
        }
    )
    if len(found) > _MAX_FILES:
        raise MaestroError(
            "invalid_request",
            f"{len(found)} configuration files lie in the workspace's own folder; at most {_MAX_FILES} are taken: move "
            "some into a folder.",
        )
    return found


def rounded(usage: Mapping[str, Any]) -> dict[str, Any]:
    """What a workspace used, in steps that do not change from one second to the next: hours, MiB, days.

    What runs at this moment is left out.
    """
    kept = {key: value for key, value in usage.items() if key in ("storage_limit", "storage_held")}
    used = usage.get("storage_used")
    months = [*usage.get("months", ()), {"month": f"{datetime.now(UTC):%Y-%m}", **usage["month"]}]
    return {
        **kept,
        "storage_mib": None if used is None else round(used / _MIB),
        "months": [{**one, "cpu": round(one["cpu"]), "gpu": round(one["gpu"])} for one in months],
    }


def _figures(usage: Mapping[str, Any]) -> Iterator[Any]:
    """Hours by month as metrics, whose step is the month (202611): what was logged before counts once."""
    from mlflow.entities import Metric

    for month in rounded(usage)["months"]:
        begins = datetime.strptime(month["month"], "%Y-%m").replace(tzinfo=UTC)
        for name in ("cpu", "gpu"):
            yield Metric(f"{name}_hours", month[name], int(begins.timestamp() * 1000), int(f"{begins:%Y%m}"))


def _tags(place: str) -> list[Any]:
    from mlflow.entities import RunTag

    note = f"What Maestro keeps about this workspace, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: artifacts in `{place}`."
    return [RunTag(TAG_SYNC_FOLDER, place), RunTag("mlflow.note.content", note)]


def _run_of(client: Any, experiment: str, workspace_id: str) -> Any | None:
    found = runs_of(client, experiment, f"tags.`{TAG_SYNC}` = '{workspace_id}'")
    return found[0] if found else None


def _digest(files: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for name, content in sorted(files.items()):
        found.update(f"{len(name)}:{name}{len(content)}:".encode() + content)
    return found.hexdigest()[:12]


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
