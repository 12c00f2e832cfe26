"""Brings what a journal holds to MLflow: in order, and each thing once, however often it is sent.

A call whose answer was lost is sent again. That changes nothing, by what mlflow 3.17.2 does (``SqlAlchemyStore``): a
metric of the same run, key, step, time and value is there once, a parameter of the same value is taken, tags and states
are set again, and a run that is created under a given id is there already (``tracking.given_ids``).
"""

from __future__ import annotations

import contextlib
import logging
import posixpath
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from maestro_core.experiments import TAG_REASON

from ..address import Address
from ..hub_token import HubToken
from .journal import Entry, Journal

API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"
#: a call that only makes an experiment
ENSURE = "experiments/create"
#: what a journal may hold, below :data:`API`; the rest of a record's endpoint is not for a file to choose
CALLS = frozenset({
    "runs/create", "runs/update", "runs/log-metric", "runs/log-parameter", "runs/log-batch", "runs/set-tag",
    "runs/delete-tag", "runs/log-inputs", "experiments/set-experiment-tag", ENSURE,
})  # fmt: skip
#: seconds to connect, to answer; MLflow may be slow, and nobody waits here
TIMEOUT = (3.0, 60.0)
#: statuses that are about the moment; 401 is a token that has ended, and the next one goes on
FOR_NOW = frozenset({401, 408, 425, 429, 500, 502, 503, 504})
#: how long MLflow refuses for somebody's role before what waits is dropped; how long it fails at one and the same call,
#: which holds up all after it, before that one is
REFUSED_SECONDS, STUMBLES_SECONDS = 60.0, 600.0
#: MLflow's own limits of a batch (mlflow.utils.validation)
MOST_METRICS, MOST_ENTITIES, MOST_OTHERS = 1000, 1000, 100
#: records that are read at a time
_MANY = 1000
_ID = re.compile(r"[0-9a-f]{32}")
log = logging.getLogger("maestro")


class Away(Exception):
    """MLflow does not answer, or not yet; the message says how, without a secret.

    Attributes:
        status: of its answer; 0 if there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _Refused(Exception):
    """MLflow answered, and will say the same again.

    Attributes:
        role: whether it is about who asks, not about what. stumbles: whether it only seems to be for good.
    """

    def __init__(self, message: str, role: bool, stumbles: bool = False) -> None:
        super().__init__(message)
        self.role = role
        self.stumbles = stumbles


@dataclass
class Sender:
    """Sends to one MLflow.

    Args:
        to: MLflow's address.

    Attributes:
        took: how long its last answer took, in seconds.
        dropped: what was given up since somebody looked, a sentence each.
    """

    to: Address
    took: float = 0.0
    dropped: list[str] = field(default_factory=list)
    _session: requests.Session | None = None
    _experiments: dict[tuple[str, str], str] = field(default_factory=dict)
    _refused_since: float | None = None
    _stumbled: tuple[tuple[Path, int], float] | None = None

    def send(self, journal: Journal, corrects: bool = False) -> None:
        """Send everything that waits.

        Args:
            corrects: these runs may have been ended as lost meanwhile, and what the journal says of them is true.

        Raises:
            Away: it is not all sent; what is, is marked.
            OSError: the journal cannot be read or written.
        """
        while batch := journal.entries(_MANY):
            for group in groups(batch):
                self._send_group(journal, group, corrects)

    def _send_group(self, journal: Journal, group: Sequence[Entry], corrects: bool) -> None:
        try:
            self._send(journal, merged(group), corrects)
        except _Refused as refusal:
            if len(group) > 1:
                self._send_singly(journal, group, corrects)
            else:
                self._give_up(journal, group[0], refusal)
        except Away as away:
            if away.status != 500 or "path" in group[0].record:  # a disk that is full: artifacts are answered so
                raise
            if len(group) > 1:
                self._send_singly(journal, group, corrects)
            else:
                self._give_up(journal, group[0], _Refused("it fails at it each time", False, stumbles=True))
        else:
            self._refused_since = None
            journal.mark_sent(group[-1].end)

    def _send_singly(self, journal: Journal, group: Sequence[Entry], corrects: bool) -> None:
        for entry in group:
            self._send_group(journal, [entry], corrects)

    def _give_up(self, journal: Journal, entry: Entry, refusal: _Refused) -> None:
        now = time.monotonic()
        if refusal.role:
            self._refused_since = self._refused_since or now
            if now - self._refused_since < REFUSED_SECONDS:
                raise Away(str(refusal))
        if refusal.stumbles:
            at = (journal.place, entry.end)
            if self._stumbled is None or self._stumbled[0] != at:
                self._stumbled = (at, now)
            if now - self._stumbled[1] < STUMBLES_SECONDS:
                raise Away(str(refusal))
        what = str(entry.record.get("call") or entry.record.get("path") or "a record").rpartition("/")[2]
        self.dropped.append(f"MLflow refused {what} that had waited, and it is lost: {refusal}")
        del self.dropped[:-100]
        journal.mark_sent(entry.end)

    def _send(self, journal: Journal, record: Mapping[str, Any], corrects: bool) -> None:
        if "path" in record:
            self._send_file(journal, record)
            return
        call, body, workspace = str(record.get("call")), dict(record.get("body") or {}), _workspace(record)
        if call not in CALLS:
            raise _Refused("it is nothing that is kept here", False)
        if name := record.get("experiment"):
            body["experiment_id"] = self.experiment(str(name), workspace)
        if call == ENSURE:
            return
        if call == "runs/create":
            self._create(body, str(record.get("run")), workspace)
        elif call == "runs/delete-tag":
            self._gone_is_fine(call, body, workspace)
        else:
            if corrects and call == "runs/update":
                self._take_back(body, workspace)
            self.ask("POST", API + call, workspace, json=body)

    def _create(self, body: Mapping[str, Any], run_id: str, workspace: str) -> None:
        try:
            answer = self.ask("POST", API + "runs/create", workspace, json=body)
        except _Refused:
            if self.run(run_id, workspace) is None:
                raise
            return  # another request created it between MLflow's look and its writing
        if answer["run"]["info"]["run_id"] != run_id:
            raise _Refused("MLflow is another one than Maestro's, and gave the run an id of its own", False)

    def _gone_is_fine(self, call: str, body: Mapping[str, Any], workspace: str) -> None:
        try:
            self.ask("POST", API + call, workspace, json=body)
        except _Refused as refusal:
            if refusal.role or "RESOURCE_DOES_NOT_EXIST" not in str(refusal):
                raise

    def _take_back(self, body: Mapping[str, Any], workspace: str) -> None:
        """A run that was taken to be lost has ended as it says itself."""
        run = self.run(str(body.get("run_id")), workspace)
        tags = {tag["key"]: tag["value"] for tag in (run or {}).get("data", {}).get("tags", ())}
        if tags.get(TAG_REASON, "").startswith("the server ended"):
            gone = {"run_id": body["run_id"], "key": TAG_REASON}
            self._gone_is_fine("runs/delete-tag", gone, workspace)

    def _send_file(self, journal: Journal, record: Mapping[str, Any]) -> None:
        workspace, root = _workspace(record), str(record.get("root") or "")
        try:
            copy = journal.file(str(record.get("file"))).open("rb")
        except (OSError, ValueError):
            raise _Refused("its copy is gone", False) from None
        with copy:
            if run_id := record.get("run"):
                run = self.run(str(run_id), workspace)
                if run is None:
                    raise _Refused("its run is gone", False)
                root = run["info"]["artifact_uri"]
            parts = urlsplit(root)
            if parts.scheme != "mlflow-artifacts" or parts.netloc:
                raise _Refused("its run keeps artifacts elsewhere", False)
            place = posixpath.join(ARTIFACTS + parts.path.strip("/"), str(record["path"]))
            headers = {"Content-Type": str(record.get("type") or "application/octet-stream")}
            self.ask("PUT", place, workspace, data=copy, headers=headers)

    def experiment(self, name: str, workspace: str) -> str:
        """The id of an experiment, which is created if it is missing.

        Raises:
            Away, _Refused: MLflow does not say it.
        """
        known = self._experiments.get((workspace, name))
        for _ in range(2):
            known = known or self._find_experiment(name, workspace)
            if known is None:
                try:
                    known = str(
                        self.ask("POST", API + "experiments/create", workspace, json={"name": name})["experiment_id"]
                    )
                except _Refused as refusal:
                    if "RESOURCE_ALREADY_EXISTS" not in str(refusal):
                        raise
        if known is None:
            raise Away("an experiment is being made")
        self._experiments[workspace, name] = known
        return known

    def _find_experiment(self, name: str, workspace: str) -> str | None:
        try:
            answer = self.ask("GET", API + "experiments/get-by-name", workspace, params={"experiment_name": name})
        except _Refused as refusal:
            if "RESOURCE_DOES_NOT_EXIST" in str(refusal) and not refusal.role:
                return None
            raise
        return str(answer["experiment"]["experiment_id"])

    def run(self, run_id: str, workspace: str) -> dict[str, Any] | None:
        """A run as MLflow has it; None if there is none.

        Raises:
            Away, _Refused: MLflow does not say it.
        """
        if not _ID.fullmatch(run_id):
            return None
        try:
            found = self.ask("GET", API + "runs/get", workspace, params={"run_id": run_id})["run"]
        except _Refused as refusal:
            if "RESOURCE_DOES_NOT_EXIST" in str(refusal) and not refusal.role:
                return None
            raise
        return found if isinstance(found, dict) else None

    def end_run(self, run_id: str, workspace: str, reason: str) -> bool:
        """End a run as KILLED if it is RUNNING.

        Returns:
            whether it was.

        Raises:
            Away: MLflow does not answer.
        """
        try:
            run = self.run(run_id, workspace)
            if run is None or run["info"].get("status") != "RUNNING":
                return False
            self.ask(
                "POST", API + "runs/set-tag", workspace, json={"run_id": run_id, "key": TAG_REASON, "value": reason}
            )
            ended = {"run_id": run_id, "status": "KILLED", "end_time": int(time.time() * 1000)}
            self.ask("POST", API + "runs/update", workspace, json=ended)
        except _Refused as refusal:
            if refusal.role:
                raise Away(str(refusal)) from None
            return False
        return True

    def probe(self) -> None:
        """See whether MLflow answers, and how fast.

        Raises:
            Away: it does not.
        """
        with contextlib.suppress(_Refused):
            self.run("0" * 32, "")

    def ask(self, method: str, path: str, workspace: str, headers: Mapping[str, str] | None = None, **how: Any) -> Any:
        """One request; the answer's JSON.

        Raises:
            Away: there is no answer, or not one for good.
            _Refused: it is refused.
        """
        if self._session is None:
            self._session = requests.Session()
        began = time.monotonic()
        try:
            answer = self._session.request(
                method,
                self.to.url + path,
                headers={**({WORKSPACE_HEADER: workspace} if workspace else {}), **(headers or {})},
                auth=HubToken(self.to),
                timeout=TIMEOUT,
                **how,
            )
        except requests.RequestException as error:
            raise Away(type(error).__name__) from None
        self.took = time.monotonic() - began
        if answer.status_code in FOR_NOW:
            raise Away(f"status {answer.status_code}", answer.status_code)
        try:
            found = answer.json() if answer.text.strip() else {}
        except ValueError:
            found = {"message": "no JSON"} if answer.status_code == 200 else {}
        if answer.status_code == 200 and isinstance(found, dict):
            return found
        said = found if isinstance(found, dict) else {}
        message = " ".join(f"{said.get('error_code', answer.status_code)}: {said.get('message', '')}".split())[:300]
        role = answer.status_code == 403 or (answer.status_code == 404 and "There is no workspace" in message)
        # MLflow says BAD_REQUEST of most errors of its database, a busy pool of connections among them
        raise _Refused(message, role, stumbles=said.get("error_code") == "BAD_REQUEST")


def groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The entries in their order, with neighbours together that one batch of MLflow's can hold."""
    group: list[Entry] = []
    kinds = {"metrics": 0, "params": 0, "tags": 0}
    params: dict[str, Any] = {}
    for entry in entries:
        parts = batch_parts(entry.record)
        if group and (parts is None or not _fits(group[0].record, entry.record, kinds, params, parts)):
            yield group
            group, kinds, params = [], dict.fromkeys(kinds, 0), {}
        group.append(entry)
        if parts is None:
            yield group
            group = []
            continue
        for kind in kinds:
            kinds[kind] += len(parts[kind])
        params |= {one.get("key", ""): one.get("value") for one in parts["params"]}
    if group:
        yield group


def _fits(
    first: Mapping[str, Any],
    record: Mapping[str, Any],
    kinds: Mapping[str, int],
    params: Mapping[str, Any],
    parts: Mapping[str, list[dict[str, Any]]],
) -> bool:
    after = {kind: count + len(parts[kind]) for kind, count in kinds.items()}
    return (
        (_run(first), _workspace(first)) == (_run(record), _workspace(record))
        and after["metrics"] <= MOST_METRICS
        and max(after["params"], after["tags"]) <= MOST_OTHERS
        and sum(after.values()) <= MOST_ENTITIES
        and not any(one.get("key") in params for one in parts["params"])
    )


def merged(group: Sequence[Entry]) -> Mapping[str, Any]:
    """One record for all of a group."""
    first = group[0].record
    if len(group) == 1:
        return first
    body: dict[str, Any] = {"run_id": _run(first), "metrics": [], "params": [], "tags": []}
    for entry in group:
        for kind, found in (batch_parts(entry.record) or {}).items():
            body[kind] += found
    return {"call": "runs/log-batch", "body": body, "workspace": _workspace(first)}


def batch_parts(record: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]] | None:
    """What a record logs, as a batch has it; None if it is nothing that a batch can hold."""
    call, body = record.get("call"), record.get("body")
    if not isinstance(body, dict):
        return None
    parts: dict[str, list[dict[str, Any]]] = {"metrics": [], "params": [], "tags": []}
    if call == "runs/log-batch":
        return parts | {kind: list(body.get(kind) or ()) for kind in parts}
    kind = {"runs/log-metric": "metrics", "runs/log-parameter": "params", "runs/set-tag": "tags"}.get(str(call))
    if kind is None:
        return None
    parts[kind] = [{name: value for name, value in body.items() if name not in ("run_id", "run_uuid")}]
    return parts


def _run(record: Mapping[str, Any]) -> str:
    body = record.get("body") or {}
    return str(body.get("run_id") or body.get("run_uuid") or "")


def _workspace(record: Mapping[str, Any]) -> str:
    return str(record.get("workspace") or "")
