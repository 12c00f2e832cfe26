"""Every address of MLflow, tried by everybody with somebody's real things: what is not allowed happens nowhere.

Two workspaces: ``reef`` (olga owns it, ed edits it, vera views it, rita was an editor) and ``lagoon`` (lina's). A route
that a newer MLflow adds is not in our table, so it is refused, and ``tests/unit/test_tracking_routes.py`` fails until
somebody has decided about it; what it would do with others' things is tried here without anybody writing that down.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest

from maestro_hub_services.tracking.routes import REASONS, ROUTES, Access, Route, addresses
from tests.system.mlflow_alone import MlflowAlone
from tests.system.mlflow_asks import KINDS, Rows, Things, ask_for, keep_things
from tests.system.singleuser import until
from tests.system.tracking_hub import PREFIX, Client

#: words of the gate's refusals
SHUT = (
    "There is no workspace",
    "this takes",
    "Only owners of",
    "Send `Authorization",
    "A viewer's server may only",
    "This token loads",
)
MEMBERS = {"owner", "editor", "viewer", "editor's server", "owner's server", "viewer's server"}
WRITERS = {"owner", "editor", "editor's server", "owner's server"}
ANYBODY = {*MEMBERS, "stranger", "removed", "another's owner"}
#: who is let in; everybody else, and whatever is not named, is refused
LET_IN: dict[Access, set[str]] = {
    Access.PUBLIC: {*ANYBODY, "nobody"},
    Access.SIGNED_IN: ANYBODY,
    Access.LISTED: MEMBERS,
    Access.READ: MEMBERS,
    Access.EDIT: WRITERS,
    Access.OWN: WRITERS,
    Access.MANAGE: {"owner"},
    Access.CLOSED: set(),
}
#: what an editor may take off somebody's things, besides tags
LOOSE = {"tags", "registered_model_aliases", "review_queue_items"}
#: GraphQL has no addresses but fields; a newer MLflow's are to be looked at before they stand here
GRAPHQL = {
    "mlflowGetExperiment", "mlflowGetMetricHistoryBulkInterval", "mlflowGetRun", "mlflowListArtifacts",
    "mlflowSearchModelVersions", "mlflowSearchRuns", "mlflowSearchDatasets", "test", "testMutation",
}  # fmt: skip


@dataclass
class House:
    """The people, and what two of them keep."""

    mlflow: MlflowAlone
    people: dict[str, Client]
    lina: Client
    reef: Things
    lagoon: Things
    rows: Rows


@pytest.fixture(scope="module")
def house(mlflow: MlflowAlone) -> Iterator[House]:
    """Rita keeps things in reef and leaves it."""
    member = mlflow.workspaces.member
    for user, role in (("olga", "owner"), ("ed", "editor"), ("vera", "viewer"), ("rita", "editor")):
        member(user, reef=role)
    member("lina", lagoon="owner")
    for user, role in (("ed", "editor"), ("olga", "editor"), ("vera", "viewer")):
        mlflow.workspaces.servers[user, "reef"] = {"reef": {"role": role}}
    rita, lina = mlflow.client("rita", "reef"), mlflow.client("lina", "lagoon")
    reef, lagoon = keep_things(rita, "reef"), keep_things(lina, "lagoon")
    member("rita", reef=None)
    people = {
        "owner": mlflow.client("olga", "reef"),
        "editor": mlflow.client("ed", "reef"),
        "viewer": mlflow.client("vera", "reef"),
        "editor's server": mlflow.client("ed", "reef", "reef"),
        "owner's server": mlflow.client("olga", "reef", "reef"),
        "viewer's server": mlflow.client("vera", "reef", "reef"),
        "loader": Client(mlflow.url, mlflow.token("olga", scopes=["custom:maestro:models!server=olga/reef"]), "reef"),
        "stranger": mlflow.client("sam", "reef"),
        "removed": rita,
        "another's owner": Client(mlflow.url, lina.token, "reef"),
        "nobody": Client(mlflow.url, "", "reef"),
    }
    people["nobody"].http.headers.pop("Authorization")
    rows = Rows(mlflow.state)
    try:
        yield House(mlflow, people, lina, reef, lagoon, rows)
    finally:
        rows.close()


def may(role: str, route: Route) -> bool:
    """Whether the gate is to hand a request on; for nothing that reef keeps has a registered model its files."""
    if role == "loader":
        return route.access is Access.PUBLIC or (
            route.loads and "artifacts" not in route.path and "logged" not in route.path
        )
    return role in LET_IN[route.access]


def let_in(answer: httpx.Response) -> bool:
    """Whether the gate handed a request on; what MLflow made of it is another question."""
    closed = any(reason in answer.text for reason in REASONS.values())
    return not closed and not any(words in answer.text for words in SHUT)


@pytest.mark.parametrize(
    "role", ["nobody", "stranger", "another's owner", "loader", "viewer", "viewer's server", "removed"]
)
def test_who_may_not_write_changes_nothing(house: House, role: str) -> None:
    """Each address, asked for things that are there; and who may not read reads nothing, not even what was theirs."""
    who, before, wrong = house.people[role], house.rows.now(), []
    if role == "removed":  # within 5 s, out of what is theirs too
        until(lambda: who.get("runs/get", run_id=house.reef.run).status_code == 404, "Rita is out", 10)
    for route in ROUTES:
        for address in addresses(route):
            answer = ask_for(route.method, address, house.reef).by(who)
            if let_in(answer) is not may(role, route):
                wrong.append(f"{route.method} {address}: {answer.status_code} {answer.text[:100]}")
            if not let_in(answer) and answer.status_code not in (401, 403, 404):
                wrong.append(f"{route.method} {address}: refused with {answer.status_code}")
            if role not in {*MEMBERS, "loader"} and house.reef.mark in answer.text:
                wrong.append(f"{route.method} {address} shows it")
            if house.rows.now() != before:
                before = house.rows.now()
                wrong.append(f"{route.method} {address} changed something")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("role", ["editor", "owner's server"])
def test_who_edits_takes_nothing_of_others_away(house: House, role: str) -> None:
    """What an owner keeps stays: only tags, aliases and links of it may go."""
    who, kept = house.people[role], keep_things(house.people["owner"], "reef")
    began, wrong = house.rows.now(), []
    for route in ROUTES:
        address = route.path
        answer = ask_for(route.method, address, kept).by(who)
        if let_in(answer) is not may(role, route):
            wrong.append(f"{route.method} {address}: {answer.status_code} {answer.text[:100]}")
        now = house.rows.now()
        gone = {table for table, key in began.keys() - now.keys()}
        gone = {table for table in gone if not table.endswith("_tags") and table not in LOOSE}
        if gone:
            wrong.append(f"{route.method} {address} takes {gone} away")
        began = {key: now[key] for key in began if key in now}
    assert not wrong, "\n".join(wrong)
    run = who.get("runs/get", run_id=kept.run).json()["run"]
    assert run["info"]["lifecycle_stage"] == "active" and run["info"]["user_id"] == "olga"
    assert who.get(f"logged-models/{kept.model}").status_code == 200
    assert who.get("registered-models/get", name=kept.names["registered-models"]).status_code == 200


def test_the_owner_is_let_in_to_all_that_is_open(house: House) -> None:
    kept, wrong = keep_things(house.people["owner"], "reef"), []
    for route in ROUTES:
        answer = ask_for(route.method, route.path, kept).by(house.people["owner"])
        if let_in(answer) is not may("owner", route):
            wrong.append(f"{route.method} {route.path}: {answer.status_code} {answer.text[:100]}")
    assert not wrong, "\n".join(wrong)


def test_nothing_of_one_workspace_is_reached_from_another(house: House) -> None:
    """Lina asks in lagoon for reef's things: all of them, and one of each kind among things of her own."""
    before, wrong = house.rows.now(), []
    seen = set(before)
    for route in ROUTES:
        if route.access is Access.CLOSED:
            continue
        own = ask_for(route.method, route.path, house.lagoon)
        asked = [ask_for(route.method, route.path, house.reef)]
        asked += [ask_for(route.method, route.path, house.lagoon, house.reef, kind) for kind in KINDS]
        for ask in asked:
            if ask == own:
                continue
            answer, what = ask.by(house.lina), f"{ask.method} {ask.path} {ask.query or ask.body}"[:500]
            if house.reef.mark in answer.text:
                wrong.append(f"{what} shows {answer.text[:300]}")
            now = house.rows.now()
            lost = [key for key in before if now.get(key) != before[key] and "lagoon" not in str(before[key])]
            lost = [key for key in lost if any(one in before[key] for one in house.reef.ids) or key[0] == "artifacts"]
            linked = [now[key] for key in now.keys() - seen if any(one in now[key] for one in house.reef.ids)]
            wrong += [
                f"{what} changed {key} from {before[key]}" for key in lost if "reef" in key[1] or key[0] != "artifacts"
            ]
            wrong += [f"{what} made {row[:300]}" for row in linked]
            before, seen = now, seen | now.keys()
    assert not wrong, "\n".join(wrong)


def test_each_field_of_graphql_is_known_and_shows_nothing_of_another_workspace(house: House) -> None:
    from mlflow.server.graphql.graphql_schema_extensions import schema

    kinds = [("query", schema.graphql_schema.query_type), ("mutation", schema.graphql_schema.mutation_type)]
    assert {name for _, kind in kinds for name in kind.fields} == GRAPHQL
    values = house.reef.values
    for operation, kind in kinds:
        for name, field in kind.fields.items():
            argument, asked = next(iter(field.args.items()))
            fields = getattr(asked.type, "fields", None)
            given: Any = "x" if fields is None else {
                key: [values[_snake(key)]] if str(one.type).startswith("[") else values[_snake(key)]
                for key, one in fields.items() if values.get(_snake(key)) and "Int" not in str(one.type)
            }  # fmt: skip
            query = f"{operation} Q($i: {asked.type}) {{ {name}({argument}: $i) {_all_of(field.type)} }}"
            body = {"query": query, "variables": {"i": given}, "operationName": "Q"}
            for who, sees in ((house.lina, False), (house.people["viewer"], True)):
                answer = who.call("POST", "/graphql", body)
                assert answer.status_code == 200, f"{name}: {answer.text}"
                assert "Unknown" not in answer.text and "Cannot query" not in answer.text, answer.text
                if not sees:
                    assert house.reef.mark not in answer.text and "41.25" not in answer.text, f"{name}: {answer.text}"
                elif name == "mlflowGetRun":
                    assert house.reef.mark in answer.text


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _all_of(kind: Any, deep: int = 0) -> str:
    """Every field of a GraphQL type, and of the types in it."""
    while hasattr(kind, "of_type"):
        kind = kind.of_type
    fields = getattr(kind, "fields", None)
    if fields is None:
        return ""
    if deep > 5:
        return "{ __typename }"
    return "{ __typename " + " ".join(f"{name} {_all_of(one.type, deep + 1)}" for name, one in fields.items()) + " }"


# --- Places ----------------------------------------------------------------------------------------------------------


def raw(house: House, who: Client, method: str, target: str, body: bytes | None = None) -> tuple[int, str]:
    """A request whose address is sent as it is: clients put dots right before they send."""
    address = urlsplit(house.mlflow.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    headers = {"Authorization": f"Bearer {who.token}", "X-MLFLOW-WORKSPACE": str(who.workspace)}
    connection.request(method, f"{PREFIX}{target}", body, headers)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text


def ways_to(place: str) -> list[str]:
    """Spellings of ``<up>/<place>`` that somebody in another workspace could try."""
    ups = ["..", "../..", "../../..", "../../../..", "x/../../../..", ".", "/", "\\..\\..", "..\\..", "....//....//"]
    paths = [f"{up}/{place}" for up in ups] + [place, f"workspaces/{place}", f"/workspaces/{place}", f"//{place}"]
    spelled = [*paths, *(quote(path, safe="") for path in paths)]
    spelled += [quote(quote(path, safe=""), safe="") for path in paths]
    spelled += [path.replace("..", "%2e%2e").replace("/", "%2f") for path in paths]
    spelled += [path.replace("..", "%c0%ae%c0%ae") for path in paths[:3]] + [f"{paths[0]}%00", f"{paths[0]};x"]
    return [*spelled, f"file:///{place}", f"file:{place}"]


def test_artifact_paths_lead_nowhere_else(house: House) -> None:
    """In each route that takes a path: up, encoded, twice encoded, by backslash, absolute."""
    reef, own, before = house.reef, house.lagoon, house.rows.now()
    inner = f"reef/{reef.experiment}/{reef.run}/artifacts/plot.txt"
    wrong = []
    for way in ways_to(inner):
        for method, target in (
            ("GET", f"api/2.0/mlflow-artifacts/artifacts/{way}"),
            ("GET", f"api/2.0/mlflow-artifacts/artifacts/{own.experiment}/{own.run}/artifacts/{way}"),
            ("GET", f"ajax-api/2.0/mlflow-artifacts/artifacts/{way}"),
            ("PUT", f"api/2.0/mlflow-artifacts/artifacts/{own.experiment}/{own.run}/artifacts/{way}"),
            ("PUT", f"api/2.0/mlflow-artifacts/artifacts/{way}"),
            ("DELETE", f"api/2.0/mlflow-artifacts/artifacts/{way}"),
            ("POST", f"api/2.0/mlflow-artifacts/mpu/create/{way}"),
            ("GET", f"api/2.0/mlflow-artifacts/presigned/{way}"),
            ("GET", f"api/2.0/mlflow-artifacts/artifacts?path={quote(way, safe='%')}"),
            ("GET", f"get-artifact?run_id={own.run}&path={quote(way, safe='%')}"),
            ("GET", f"ajax-api/2.0/mlflow/logged-models/{own.model}/artifacts/files?artifact_file_path={way}"),
            ("GET", f"api/2.0/mlflow/artifacts/list?run_id={own.run}&path={quote(way, safe='%')}"),
            ("GET", f"ajax-api/3.0/mlflow/get-trace-artifact?request_id={own.trace}&path={quote(way, safe='%')}"),
            ("GET", f"model-versions/get-artifact?name={own.names['model-versions']}&version=1&path={way}"),
            ("POST", f"ajax-api/2.0/mlflow/upload-artifact?run_uuid={own.run}&path={quote(way, safe='%')}"),
        ):
            try:
                _, text = raw(house, house.lina, method, target, b"planted" if method in ("PUT", "POST") else None)
            except http.client.InvalidURL:
                continue
            if reef.mark in text:
                wrong.append(f"{method} {target}: {text[:200]}")
    now = house.rows.now()
    wrong += [f"{key} changed" for key in before if now.get(key) != before[key] and "lagoon" not in key[1]]
    made = [key for key in now.keys() - before.keys() if key[0] == "artifacts"]
    wrong += [f"{key} was made" for key in made if "/lagoon/" not in key[1]]
    planted = [
        path for path in house.mlflow.state.parent.rglob("*") if path.is_file() and path.read_bytes() == b"planted"
    ]
    home = house.mlflow.state / "mlflow/artifacts/workspaces/lagoon"
    wrong += [f"{path} was made" for path in planted if home not in path.parents]
    assert not wrong, "\n".join(wrong)


def test_a_model_versions_source_lies_in_its_workspace(house: House) -> None:
    """Whatever is said: buckets, files, others' runs and models, and ways up in every spelling."""
    reef, own, lina = house.reef, house.lagoon, house.lina
    name = f"sourced-{secrets.token_hex(4)}"
    assert lina.post("registered-models/create", name=name).status_code == 200
    theirs = f"workspaces/reef/{reef.experiment}/{reef.run}/artifacts"
    mine = f"workspaces/lagoon/{own.experiment}/{own.run}/artifacts"
    sources = [
        f"s3://bucket/{theirs}", f"gs://bucket/{theirs}", f"file:///{theirs}", f"/{theirs}", theirs,
        "http://evil.example/m", "https://evil.example/m", "dbfs:/m", "hdfs://h/m", "ftp://h/m", "abfss://c@a/m", "",
        " ", "s3:", "FILE:///etc",
        f"runs:/{reef.run}/model", f"runs:/{own.run}/../{reef.run}/artifacts", f"runs:/{own.run}/%2e%2e/{reef.run}",
        f"runs://x/{reef.run}/model", f"models:/{reef.model}", f"models:/{reef.names['model-versions']}/1",
        f"models:/{reef.names['model-versions']}@champion", f"models:/{reef.model}/../{own.model}",
        f"Runs:/{reef.run}/model",
        f"mlflow-artifacts:/{theirs}", f"mlflow-artifacts://host/{theirs}", f"MLFLOW-ARTIFACTS:/{theirs}",
        *(f"mlflow-artifacts:/{mine}/{way}" for way in ways_to(f"reef/{reef.experiment}/{reef.run}/artifacts")),
        f"mlflow-artifacts:/workspaces/lagoon/../reef/{reef.experiment}", f"mlflow-artifacts:/{mine}?x=/../{theirs}",
        f"mlflow-artifacts:/{mine}#/../../{theirs}", "mlflow-artifacts:/../../etc", "mlflow-artifacts:",
    ]  # fmt: skip
    inside = re.compile(rf"(mlflow-artifacts:/workspaces/lagoon/|runs:/{own.run}/|models:/{own.model}).*")
    wrong = []
    for source in sources:
        for more in ({}, {"run_id": own.run}, {"model_id": own.model}, {"run_id": reef.run}, {"model_id": reef.model}):
            answer = lina.post("model-versions/create", name=name, source=source, **more)
            if answer.status_code != 200:
                continue
            version = answer.json()["model_version"]["version"]
            shown = lina.get("model-versions/get-download-uri", name=name, version=version).json()["artifact_uri"]
            got = lina.get("/model-versions/get-artifact", name=name, version=version, path="plot.txt")
            plain = unquote(unquote(unquote(shown)))
            up = ".." in plain.split("/") or "\\" in plain
            if reef.mark in got.text or up or not inside.fullmatch(plain):
                wrong.append(f"{source} {more}: {shown} {got.text[:100]}")
    assert not wrong, "\n".join(wrong)
    right = {"name": name, "source": f"runs:/{own.run}/model", "run_id": own.run}
    assert lina.post("model-versions/create", **right).status_code == 200


def spans(trace: bytes, **attributes: str) -> bytes:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = trace, secrets.token_bytes(8), "a step"
    span.start_time_unix_nano, span.end_time_unix_nano = 1, 2
    for key, value in attributes.items():
        attribute = span.attributes.add()
        attribute.key, attribute.value.string_value = key, value
    return bytes(request.SerializeToString())


def test_spans_name_no_place_and_no_trace_of_others(house: House, tmp_path: Path) -> None:
    """They come past MLflow's Flask application, and their attributes become tags of the trace."""
    (tmp_path / "attachments").mkdir()
    file = str(uuid.uuid4())
    (tmp_path / "attachments" / file).write_text("a file of the server")
    headers = {"X-Mlflow-Experiment-Id": house.lagoon.experiment, "Content-Type": "application/x-protobuf"}

    def send(trace: bytes, **attributes: str) -> httpx.Response:
        return house.lina.http.post("v1/traces", content=spans(trace, **attributes), headers=headers)

    for tag in ("mlflow.artifactLocation", "mlflow.trace.archiveLocation"):
        for place in (
            f"file://{tmp_path}",
            f"mlflow-artifacts:/workspaces/reef/1/traces/x?/traces/{house.lagoon.trace}/artifacts",
        ):
            trace = secrets.token_bytes(16)
            assert send(trace, **{f"mlflow.traceTag.{tag}": place}).status_code == 403
            got = house.lina.get("/ajax-api/3.0/mlflow/get-trace-artifact", request_id=f"tr-{trace.hex()}", path=file)
            assert got.status_code == 404, got.text
    assert send(secrets.token_bytes(16), **{"mlflow.traceTag.mine": "mine"}).status_code == 200
    before = house.rows.now()
    send(bytes.fromhex(house.reef.trace.removeprefix("tr-")), **{"mlflow.traceTag.note": "changed"})
    assert house.rows.now() == before
    packed = {**headers, "Content-Encoding": "gzip"}
    assert house.lina.http.post("v1/traces", content=b"", headers=packed).status_code == 400


def test_a_traces_id_is_no_path(house: House) -> None:
    """MLflow makes a folder of it."""
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": house.lagoon.experiment}}
    for trace in (f"../../../reef/{house.reef.experiment}/{house.reef.run}", "a/b", "..", "a%2fb", "a\\b", "a?b"):
        info = {"trace_id": trace, "trace_location": place, "request_time": "2026-01-01T00:00:00Z", "state": "OK"}
        answer = house.lina.call("POST", "/api/3.0/mlflow/traces", {"trace": {"trace_info": info}})
        assert answer.status_code == 403, answer.text


def test_a_viewers_server_reaches_nothing_of_its_persons_own(house: House) -> None:
    """In the personal workspace it logs to one experiment; each address, asked for the person's private things."""
    mine = f"u-vic-{secrets.token_hex(3)}"
    house.mlflow.workspaces.people["vic"] = {mine: {"role": "owner"}, "reef": {"role": "viewer"}}
    house.mlflow.workspaces.servers["vic", "reef"] = {
        "reef": {"role": "viewer"}, mine: {"role": "editor", "experiment": "from-reef"},
    }  # fmt: skip
    private = keep_things(house.mlflow.client("vic", mine), mine)
    server = house.mlflow.client("vic", mine, "reef")
    own = server.experiment("from-reef")
    before, wrong = house.rows.now(), []
    for route in ROUTES:
        answer = ask_for(route.method, route.path, private).by(server)
        if private.mark in answer.text or house.rows.now() != before:
            wrong.append(f"{route.method} {route.path}: {answer.status_code} {answer.text[:200]}")
            before = house.rows.now()
    assert not wrong, "\n".join(wrong)
    assert server.run(own)["info"]["user_id"] == "vic"
    for token, workspace in ((server.token, mine), (house.people["loader"].token, "reef")):
        page = Client(house.mlflow.url, token, workspace).get(f"/maestro/versions/{'a' * 64}", workspace=workspace)
        assert page.status_code == 404, page.text


def test_the_log_holds_no_token(house: House) -> None:
    assert not [who.token for who in house.people.values() if who.token and who.token in house.mlflow.log]
    assert json.dumps(house.reef.mark) not in house.mlflow.log
