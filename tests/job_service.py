"""The workspaces service as a job's worker sees it, and MLflow's as far as the worker asks it: for tests of the worker.

Both can be away for a while. What the worker said is kept to be looked at.
"""

from __future__ import annotations

import base64
import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import zstandard

TOKEN = "mjob_0123456789abcdef"


class JobServiceStub:
    """What it answers, and what it was told.

    Attributes:
        order: the answer of ``GET work``. cancel: the answer to signs of life.
        status: of all answers; another than 200: it is away, or knows the token no longer.
        beats, logs, notebooks, dones: what it was told.
        lost: statuses that the next creations of runs answer with, although they are done.
        runs: MLflow's, by id: ``{"info", "tags", "params", "metrics", "experiment"}``; mlflow_status: of its answers.
    """

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.order = dict(order)
        self.cancel = False
        self.status = self.mlflow_status = 200
        self.beats: list[dict[str, Any]] = []
        self.logs: list[tuple[int, str]] = []
        self.notebooks: list[dict[str, Any]] = []
        self.dones: list[dict[str, Any]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, str] = {}
        self.artifacts: dict[str, bytes] = {}
        self.url = self.mlflow_url = ""
        self.lost: list[int] = []
        self._numbers = itertools.count(1)

    @property
    def log(self) -> str:
        """The log as it came together; what is missing is shown as such."""
        text = b""
        for offset, piece in self.logs:
            assert offset <= len(text), f"bytes {len(text)} to {offset} of the log are missing"
            text = text[:offset] + piece.encode()
        return text.decode()

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """A worker's question."""
        what = path.rpartition("/")[2]
        if method == "GET":
            return 200, self.order
        assert body["attempt"] == self.order["attempt"]
        if what == "progress":
            self.beats.append(body)
            return 200, {"cancel": self.cancel}
        if what == "log":
            self.logs.append((body["offset"], body["text"]))
        elif what == "notebook":
            unpacked = zstandard.ZstdDecompressor().decompress(base64.b64decode(body["content"]), 64 * 1024 * 1024)
            self.notebooks.append(json.loads(unpacked))
        elif what == "done":
            self.dones.append(body)
        return 200, {}

    def mlflow(self, path: str, query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        """A question to MLflow's REST API."""
        what = path.partition("/api/2.0/mlflow/")[2]
        if what == "experiments/get-by-name":
            found = self.experiments.get(query["experiment_name"])
            return (200, {"experiment": {"experiment_id": found}}) if found else (404, {})
        if what == "experiments/create":
            self.experiments[body["name"]] = str(len(self.experiments) + 1)
            return 200, {"experiment_id": self.experiments[body["name"]]}
        if what == "experiments/search":
            return 200, {"experiments": [{"experiment_id": one} for one in self.experiments.values()]}
        if what == "runs/create":
            made = self._create(body)
            return (200, {"run": made}) if not self.lost else (self.lost.pop(), {})
        if what == "runs/search":
            return 200, {"runs": self._search(body["filter"])}
        run = self.runs[body["run_id"]]
        if what == "runs/log-batch":
            run["params"] |= {one["key"]: one["value"] for one in body.get("params", ())}
            run["metrics"] |= {one["key"]: one["value"] for one in body.get("metrics", ())}
        elif what == "runs/set-tag":
            run["tags"][body["key"]] = body["value"]
        elif what == "runs/update":
            run["info"] |= {"status": body["status"], "end_time": body["end_time"]}
        return 200, {}

    def _create(self, body: Any) -> dict[str, Any]:
        tags = {tag["key"]: tag["value"] for tag in body["tags"]}
        run_id = tags.pop("maestro.run_id", "") or f"run{next(self._numbers)}"
        if run_id in self.runs:
            return {"info": self.runs[run_id]["info"]}
        info = {"run_id": run_id, "status": "RUNNING", "run_name": body["run_name"], "start_time": body["start_time"]}
        info["artifact_uri"] = f"mlflow-artifacts:/1/{run_id}/artifacts"
        self.runs[run_id] = {
            "info": info, "tags": tags, "params": {}, "metrics": {}, "experiment": body["experiment_id"],
        }  # fmt: skip
        return {"info": info}

    def _search(self, wanted: str) -> list[dict[str, Any]]:
        pairs = [one.split(" = ") for one in wanted.split(" and ")]
        needed = {key.removeprefix("tags.").strip("`"): value.strip("'") for key, value in pairs}
        return [
            {
                "info": run["info"],
                "data": {
                    kind: [{"key": key, "value": value} for key, value in run[kind].items()]
                    for kind in ("metrics", "tags")
                },
            }
            for run in self.runs.values()
            if needed.items() <= run["tags"].items()
        ]


@contextmanager
def job_service(order: Mapping[str, Any]) -> Iterator[JobServiceStub]:
    """Both, on one port of this machine."""
    stub = JobServiceStub(order)

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def do_PUT(self) -> None:
            self._answer("PUT")

        def _answer(self, method: str) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            address = urlsplit(self.path)
            tracking = address.path.startswith("/mlflow/")
            status = stub.mlflow_status if tracking else stub.status
            answer: Any = {}
            if self.headers.get("Authorization") != f"token {TOKEN}":
                status = 401
            if status == 200 and "/mlflow-artifacts/" in address.path:
                stub.artifacts[address.path.partition("/artifacts/")[2]] = data
            elif status == 200 and tracking:
                body = json.loads(data) if data else None
                status, answer = stub.mlflow(address.path, dict(parse_qsl(address.query)), body)
            elif status == 200:
                status, answer = stub.answer(method, address.path, json.loads(data) if data else None)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_port}/api"
    stub.mlflow_url = f"http://127.0.0.1:{server.server_port}/mlflow"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
