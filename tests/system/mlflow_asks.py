"""A request for each of MLflow's addresses, made from MLflow's own messages and filled with somebody's things.

A field is filled by its name: ``run_id`` with a run, wherever it stands in a message. So a route that a newer MLflow
adds is asked for somebody's things too, without anybody writing its request down.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.system.tracking_hub import Client

#: of several that exclude each other, the one that names something
PREFERRED = frozenset({"mlflow_experiment", "feedback", "text", "string_value"})
_WELL_KNOWN = {
    "google.protobuf.Timestamp": "2026-01-01T00:00:00Z",
    "google.protobuf.Duration": "1s",
    "google.protobuf.FieldMask": "name",
    "google.protobuf.Struct": {"a": "b"},
    "google.protobuf.Value": "a",
    "google.protobuf.ListValue": ["a"],
}
_DEEP = 4


@dataclass
class Things:
    """What a person keeps in a workspace: the id of each kind of thing, by the names that MLflow's messages use.

    Attributes:
        mark: stands in everything that can hold a text, and in no request for it.
    """

    workspace: str
    mark: str = ""
    experiment: str = ""
    run: str = ""
    model: str = ""
    trace: str = ""
    assessment: str = ""
    dataset: str = ""
    issue: str = ""
    schema: str = ""
    queue: str = ""
    names: dict[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> frozenset[str]:
        """What no other person's row may name."""
        found = (self.run, self.model, self.trace, self.assessment, self.dataset, self.issue, self.schema, self.queue)
        return frozenset(found)

    @property
    def values(self) -> dict[str, str]:
        """Field name -> value."""
        return {
            **dict.fromkeys(("experiment_id", "experiment_ids", "source_id"), self.experiment),
            **dict.fromkeys(("run_id", "run_ids", "run_uuid", "run_uuids", "source_run_id"), self.run),
            **dict.fromkeys(("model_id", "model_ids", "logged_model_id"), self.model),
            **dict.fromkeys(("trace_id", "trace_ids", "request_id", "request_ids", "item_id", "item_ids"), self.trace),
            **dict.fromkeys(("dataset_id", "dataset_ids"), self.dataset),
            **dict.fromkeys(("schema_id", "schema_ids"), self.schema),
            "assessment_id": self.assessment,
            "issue_id": self.issue,
            "queue_id": self.queue,
            "experiment_name": self.names["experiment"],
            "workspace_name": self.workspace,
            "version": "1",
            "alias": "champion",
            "stage": "Archived",
            "metric_key": "loss",
            "metric_keys": "loss",
            "path": "plot.txt",
            "artifact_path": f"{self.experiment}/{self.run}/artifacts/plot.txt",
            "artifact_location": "",
            "source": f"runs:/{self.run}/model",
            "run_link": "",
            "key": "note",
            "tag_key": "note",
            "value": "changed",
            "status": "resolved",
            "severity": "high",
            "view_type": "ALL",
            "run_view_type": "ALL",
            "records": '[{"inputs": {"q": "changed"}}]',
            "serialized_scorer": "{}",
            "model_json": "{}",
            "trace_metadata": "",
            "stages": "None",
            "type": "MLFLOW_EXPERIMENT",
            **dict.fromkeys(("filter", "filter_string", "filter_string1", "filter_string2", "filters"), ""),
            **dict.fromkeys(("page_token", "etag", "upload_id", "order_by", "max_timestamp_millis"), ""),
        }

    def name_for(self, path: str) -> str:
        """What ``name`` means at an address."""
        if path.endswith(("/create", "/register", "/logged-models", "/get-or-create-user")):
            return "changed-new"
        return next((name for word, name in self.names.items() if f"/{word}" in path), "changed")


def keep_things(who: Client, workspace: str) -> Things:
    """One of each kind."""
    mark = f"mark-of-{secrets.token_hex(4)}"
    name = f"{workspace}-{secrets.token_hex(4)}"
    things = Things(workspace, mark, names={
        "experiment": name, "registered-models": name, "model-versions": name, "scorers": name, "datasets": name,
        "label-schemas": name, "review-queues": name, "issues": name,
    })  # fmt: skip
    note, three = [{"key": "note", "value": mark}], "/api/3.0/mlflow/"

    def made(path: str, body: dict[str, Any], method: str = "POST") -> dict[str, Any]:
        answer = who.call(method, path, body)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        return dict(answer.json())

    things.experiment = made("experiments/create", {"name": name, "tags": note})["experiment_id"]
    run = who.run(things.experiment, run_name="kept", tags=note)
    things.run = run["info"]["run_id"]
    made("runs/log-parameter", {"run_id": things.run, "key": "depth", "value": mark})
    made("runs/log-metric", {"run_id": things.run, "key": "loss", "value": 41.25, "timestamp": 1, "step": 1})
    data = {"name": mark, "digest": "d", "source_type": "local", "source": mark}
    made("runs/log-inputs", {"run_id": things.run, "datasets": [{"dataset": data}]})
    assert who.put_artifact(run, "plot.txt", mark.encode()).status_code == 200
    model = made("logged-models", {"experiment_id": things.experiment, "name": "kept", "tags": note,
                                   "source_run_id": things.run})  # fmt: skip
    things.model = model["model"]["info"]["model_id"]
    place = f"api/2.0/mlflow-artifacts/artifacts/{things.experiment}/models/{things.model}/artifacts/plot.txt"
    assert who.http.put(place, content=mark.encode()).status_code == 200
    made("registered-models/create", {"name": name, "description": mark, "tags": note})
    version = {"name": name, "source": f"runs:/{things.run}/model", "run_id": things.run, "description": mark}
    made("model-versions/create", {**version, "tags": note})
    made("registered-models/alias", {"name": name, "alias": "champion", "version": "1"})
    place_of = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": things.experiment}}
    info = {
        "trace_id": f"tr-{things.run}", "trace_location": place_of, "request_time": "2026-01-01T00:00:00Z",
        "state": "OK", "tags": {"note": mark}, "request_preview": mark,
    }  # fmt: skip
    things.trace = made(f"{three}traces", {"trace": {"trace_info": info}})["trace"]["trace_info"]["trace_id"]
    feedback = {"assessment_name": "good", "feedback": {"value": mark}, "source": {"source_type": "HUMAN",
                "source_id": "x"}, "trace_id": things.trace, "rationale": mark}  # fmt: skip
    said = made(f"{three}traces/{things.trace}/assessments", {"assessment": feedback})
    things.assessment = said["assessment"]["assessment_id"]
    dataset = made(f"{three}datasets/create", {"name": name, "experiment_ids": [things.experiment], "tags":
                   f'{{"note": "{mark}"}}'})  # fmt: skip
    things.dataset = dataset["dataset"]["dataset_id"]
    records = f'[{{"inputs": {{"q": "{mark}"}}}}]'
    made(f"{three}datasets/{things.dataset}/records", {"dataset_id": things.dataset, "records": records})
    issue = {"experiment_id": things.experiment, "name": name, "description": mark}
    things.issue = made(f"{three}issues", issue)["issue"]["issue_id"]
    schema = {"experiment_id": things.experiment, "name": name, "type": "FEEDBACK", "title": mark,
              "input": {"text": {"max_length": 5}}, "instruction": mark}  # fmt: skip
    things.schema = made(f"{three}label-schemas/create", schema)["label_schema"]["schema_id"]
    queue = {"experiment_id": things.experiment, "name": name, "queue_type": "CUSTOM", "users": [mark],
             "schema_ids": [things.schema]}  # fmt: skip
    things.queue = made(f"{three}review-queues/create", queue)["review_queue"]["queue_id"]
    made(
        f"{three}review-queues/items/add", {"queue_id": things.queue, "item_type": "TRACE", "item_ids": [things.trace]}
    )
    scorer = {"experiment_id": things.experiment, "name": name, "serialized_scorer": f'{{"note": "{mark}"}}'}
    made(f"{three}scorers/register", scorer)
    who.get(f"{three}label-schemas/list", experiment_id=things.experiment)  # the first look makes the standard ones
    return things


@dataclass(frozen=True)
class Ask:
    """One request."""

    method: str
    path: str
    query: Mapping[str, Any]
    body: Any

    def by(self, who: Client) -> Any:
        """Send it; the answer."""
        options: dict[str, Any] = {"params": self.query}
        if isinstance(self.body, bytes):
            options["content"] = self.body
        elif self.body is not None:
            options["json"] = self.body
        return who.http.request(self.method, self.path.removeprefix("/"), **options)


#: fields that name the same kind of thing
KINDS: dict[str, tuple[str, ...]] = {
    "experiment": ("experiment_id", "experiment_ids", "source_id", "experiment_name"),
    "run": ("run_id", "run_ids", "run_uuid", "run_uuids", "source_run_id", "source"),
    "model": ("model_id", "model_ids", "logged_model_id"),
    "trace": ("trace_id", "trace_ids", "request_id", "request_ids", "item_id", "item_ids"),
    "dataset": ("dataset_id", "dataset_ids"),
    "schema": ("schema_id", "schema_ids"),
    "assessment": ("assessment_id",),
    "issue": ("issue_id",),
    "queue": ("queue_id",),
    "name": ("name",),
    "path": ("artifact_path",),
}


def ask_for(method: str, address: str, things: Things, other: Things | None = None, kind: str = "") -> Ask:
    """A request for one address (MLflow's own rule), for these things; one kind of them may be of another's."""
    values = {**things.values, "name": things.name_for(address)}
    if other is not None:
        others = {**other.values, "name": other.name_for(address)}
        values |= {name: others[name] for name in KINDS[kind]}

    def value(match: re.Match[str]) -> str:
        return values.get(match[1]) or "x"

    path = re.sub(r"<(?:path:)?(\w+)>", value, address)
    message = _messages().get((method, address))
    body = None if message is None else _filled(message, values, ())
    if method == "GET":
        plain = body if body is not None else {**values, "max_results": 10}
        query = {key: one for key, one in plain.items() if not isinstance(one, dict) and one not in ("", [""])}
        return Ask(method, path, query, None)
    if method == "PUT" and "mlflow-artifacts" in address:
        return Ask(method, path, {}, b"changed")
    if address.endswith("/upload-artifact"):
        return Ask(method, path, {"run_uuid": things.run, "path": "plot.txt"}, b"changed")
    return Ask(method, path, {}, {"experiment_ids": [things.experiment]} if body is None else body)


def _filled(message: Any, values: Mapping[str, str], above: tuple[str, ...]) -> dict[str, Any]:
    """A message as JSON, each field by its name."""
    found: dict[str, Any] = {}
    for one in message.fields:
        group = one.containing_oneof
        if group is not None and len(group.fields) > 1:
            names = [other.name for other in group.fields]
            if one.name != next((name for name in names if name in PREFERRED), names[0]):
                continue
        value = _value(one, values, above)
        if value not in (None, "", [""]):
            found[one.name] = value
    return found


def _value(one: Any, values: Mapping[str, str], above: tuple[str, ...]) -> Any:
    repeated = one.is_repeated if hasattr(one, "is_repeated") else one.label == one.LABEL_REPEATED
    if values.get(one.name) == "":
        return None
    if one.message_type is not None:
        kind = one.message_type
        if kind.full_name in _WELL_KNOWN:
            inner: Any = _WELL_KNOWN[kind.full_name]
        elif kind.full_name in above or len(above) > _DEEP:
            return None
        elif kind.GetOptions().map_entry:
            return {"note": "changed"} if kind.fields_by_name["value"].message_type is None else None
        else:
            inner = _filled(kind, values, (*above, kind.full_name))
        return [inner] if repeated else inner
    if one.enum_type is not None:
        names = [value.name for value in one.enum_type.values]
        inner = values[one.name] if values.get(one.name) in names else names[min(1, len(names) - 1)]
    elif one.cpp_type == one.CPPTYPE_STRING:
        inner = values.get(one.name, "" if one.type == one.TYPE_BYTES else "changed")
    elif one.cpp_type == one.CPPTYPE_BOOL:
        inner = False
    else:
        inner = 10 if one.name == "max_results" else 1
    return [inner] if repeated else inner


@cache
def _messages() -> dict[tuple[str, str], Any]:
    """Address -> the message that MLflow's view reads, from MLflow's own tables."""
    from mlflow.server import handlers

    found = {}
    for kind, view in handlers.HANDLERS.items():
        for path, method_list in _places(kind):
            for method in method_list:
                found[method, path] = kind.DESCRIPTOR
        del view
    return found


def _places(kind: Any) -> Iterator[tuple[str, list[str]]]:
    from mlflow.protos import databricks_pb2
    from mlflow.server import handlers

    for service in _services():
        for method in service.DESCRIPTOR.methods:
            if method.input_type is kind.DESCRIPTOR:
                for endpoint in method.GetOptions().Extensions[databricks_pb2.rpc].endpoints:
                    for path in handlers._get_paths(endpoint.path, version=endpoint.since.major):
                        yield path, [endpoint.method]


def _services() -> list[Any]:
    from mlflow.protos.mlflow_artifacts_pb2 import MlflowArtifactsService
    from mlflow.protos.model_registry_pb2 import ModelRegistryService
    from mlflow.protos.service_pb2 import MlflowService
    from mlflow.protos.webhooks_pb2 import WebhookService

    return [MlflowService, ModelRegistryService, MlflowArtifactsService, WebhookService]


class Rows:
    """MLflow's database and artifacts: what is in them, and whether anything changed since the last look."""

    def __init__(self, state: Path) -> None:
        self._database = sqlite3.connect(f"file:{state / 'mlflow/mlflow.sqlite'}?mode=ro", uri=True)
        self._artifacts = state / "mlflow/artifacts"
        self._version: tuple[int, ...] = ()
        self._found: dict[tuple[str, str], str] = {}

    def now(self) -> dict[tuple[str, str], str]:
        """Every row and every file: (table, key) -> content."""
        files = [one for one in self._artifacts.rglob("*") if one.is_file()]
        stamps = sorted((str(one), one.stat().st_mtime_ns, one.stat().st_size) for one in files)
        version = (self._database.execute("pragma data_version").fetchone()[0], hash(tuple(stamps)))
        if version != self._version:
            self._found = dict(self._rows())
            self._found |= {
                ("artifacts", str(one.relative_to(self._artifacts))): one.read_bytes().hex() for one in files
            }
            self._version = version
        return dict(self._found)

    def _rows(self) -> Iterator[tuple[tuple[str, str], str]]:
        for (table,) in self._database.execute("select name from sqlite_master where type = 'table'").fetchall():
            columns = self._database.execute(f"pragma table_info('{table}')").fetchall()
            keys = [number for number, column in enumerate(columns) if column[5]] or range(len(columns))
            for row in self._database.execute(f"select * from '{table}'"):
                yield (table, repr([row[number] for number in keys])), repr(row)

    def close(self) -> None:
        self._database.close()
