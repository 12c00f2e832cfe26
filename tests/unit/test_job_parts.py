"""Parts of a job's worker: parameters, what is sent of a log and of a large notebook, and its run at MLflow."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import zstandard

from ipython_magics.address import Address
from ipython_magics.spool import leftovers
from server_extension.jobs import output, parameters
from server_extension.jobs.order import SUCCEEDED, End, Order
from server_extension.jobs.service import NotAnswered
from server_extension.jobs.spool import MOST_WAITING, Spool
from server_extension.jobs.tracking import NoTracking, Run, send_journals
from tests.job_service import TOKEN, JobServiceStub, job_service

ROOT = Path(__file__).resolve().parents[2]


def notebook(*cells: tuple[str, list[str]]) -> Any:
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags in cells]
    )


class TestParameters:
    def test_they_stand_behind_the_tagged_cell(self) -> None:
        made = notebook(("import os", []), ("lr = 1", ["parameters"]), ("print(lr)", []))
        parameters.inject(made, {"lr": 0.5, "name": "it's", "deep": True, "none": None, "sizes": [1, "a"]})
        assert [cell.source for cell in made.cells] == [
            "import os",
            "lr = 1",
            "# Parameters\nlr = 0.5\nname = \"it's\"\ndeep = True\nnone = None\nsizes = [1, 'a']",
            "print(lr)",
        ]
        nbformat.validate(made)

    def test_without_a_tagged_cell_they_stand_in_front(self) -> None:
        made = notebook(("print(lr)", []))
        parameters.inject(made, {"lr": 1})
        assert [cell.source for cell in made.cells] == ["# Parameters\nlr = 1", "print(lr)"]

    def test_those_of_an_earlier_run_go(self) -> None:
        made = notebook(("lr = 1", ["parameters"]), ("lr = 2", ["injected-parameters"]))
        parameters.inject(made, {"lr": 3})
        assert [cell.source for cell in made.cells] == ["lr = 1", "# Parameters\nlr = 3"]
        parameters.inject(made, {})
        assert [cell.source for cell in made.cells] == ["lr = 1"]


class TestSpool:
    async def test_what_cannot_be_sent_waits_and_each_byte_is_sent_once(self) -> None:
        pieces: list[tuple[int, str]] = []
        away = True

        async def send(offset: int, text: str) -> None:
            if away:
                raise NotAnswered("log: 503")
            pieces.append((offset, text))

        spool = Spool(send)
        spool.say("grüße ")
        with pytest.raises(NotAnswered):
            await spool.deliver()
        away = False
        spool.say("x" * 100_000)
        await spool.deliver()
        assert spool.empty
        sent = b""
        for offset, text in pieces:
            assert offset == len(sent)
            sent += text.encode()
        assert sent.decode() == "grüße " + "x" * 100_000

    async def test_of_too_much_the_end_is_kept_and_its_place_is_told(self) -> None:
        pieces: list[tuple[int, str]] = []

        async def send(offset: int, text: str) -> None:
            pieces.append((offset, text))

        spool = Spool(send)
        for _ in range(MOST_WAITING // 1000 + 100):
            spool.say("ä" * 500)
        await spool.deliver()
        first, text = pieces[0]
        assert first % 2 == 0 and set(text) == {"ä"}
        assert first + sum(len(piece.encode()) for _, piece in pieces) == (MOST_WAITING // 1000 + 100) * 1000


class TestOutput:
    def unpack(self, packed: str) -> Any:
        return json.loads(zstandard.ZstdDecompressor().decompress(base64.b64decode(packed), 64 * 1024 * 1024))

    def test_of_too_large_outputs_the_largest_are_cut_and_say_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(output, "MOST_JSON", 5000)
        made = notebook(("a", []), ("b", []))
        for cell, size in zip(made.cells, (100, 20_000), strict=True):
            cell.outputs = [nbformat.v4.new_output("stream", text="y" * size)]
        small, large = self.unpack(output.packed(output.as_json(made)))["cells"]
        assert small["outputs"][0]["text"] == "y" * 100
        assert "too large to be kept" in large["outputs"][0]["text"]
        assert len(made.cells[1].outputs[0].text) == 20_000  # the notebook itself stays whole


class TestRun:
    @pytest.fixture
    def service(self) -> Iterator[JobServiceStub]:
        with job_service({}) as stub:
            yield stub

    def run_of(self, service: JobServiceStub, **changes: Any) -> Run:
        order = Order(
            job_id="j-1", launch_id="l-1", attempt=1, kind="notebook", path="a.ipynb", experiment="demo",
            snapshot="a" * 64, name="a", timeout_seconds=60, content="", **changes,
        )  # fmt: skip
        return Run(order, {"MLFLOW_TRACKING_URI": service.mlflow_url, "JUPYTERHUB_API_TOKEN": TOKEN})

    async def test_a_creation_whose_answer_got_lost_is_found_again(self, service: JobServiceStub) -> None:
        service.lost = [503]
        run = self.run_of(service)
        with pytest.raises(NoTracking):
            await run.open()
        await run.open()
        assert list(service.runs) == [run.run_id]

    async def test_a_sweeps_run_is_made_once_whoever_dies_meanwhile(self, service: JobServiceStub) -> None:
        wanted = {"name": "sweep", "tags": {"maestro.sweep": "s-1"}}
        first = self.run_of(service, open_parent=wanted, tags={"maestro.sweep": "s-1"})
        await first.open()
        again = self.run_of(service, open_parent=wanted, tags={"maestro.sweep": "s-1"})
        await again.open()
        assert again.parent_run == first.parent_run and again.run_id != first.parent_run
        own = service.runs[str(again.run_id)]
        assert own["tags"]["mlflow.parentRunId"] == first.parent_run
        assert "maestro.launch" not in service.runs[str(first.parent_run)]["tags"]  # it outlives each launch

    async def test_it_takes_over_what_the_notebooks_runs_measured_and_ends_them(self, service: JobServiceStub) -> None:
        run = self.run_of(service)
        await run.open()
        for number, loss in enumerate((0.5, 0.25)):
            service.mlflow("/api/2.0/mlflow/runs/create", {}, {
                "run_name": f"inner {number}", "start_time": number, "experiment_id": "1",
                "tags": [{"key": "maestro.launch", "value": "l-1"}],
            })  # fmt: skip
            service.runs[f"run{number + 1}"]["metrics"]["loss"] = loss
        assert await run.end(End("failed", "It broke.")) == {"loss": 0.25}
        assert {one["info"]["status"] for one in service.runs.values()} == {"FAILED"}
        assert service.runs[str(run.run_id)]["metrics"] == {"loss": 0.25}

    async def test_of_too_many_metrics_the_one_that_is_waited_for_is_told(self, service: JobServiceStub) -> None:
        run = self.run_of(service, metric="loss")
        await run.open()
        service.runs[str(run.run_id)]["metrics"] = {f"m{number}": 1.0 for number in range(1500)} | {"loss": 0.5}
        told = await run.end(SUCCEEDED)
        assert len(told) <= 1000 and told["loss"] == 0.5

    async def test_without_mlflow_there_is_no_run_and_nothing_fails(self) -> None:
        run = self.run_of(JobServiceStub({}))
        await run.open()
        assert await run.end(SUCCEEDED) == {} and run.run_id is None


#: a kernel that began a run while MLflow was away, and was killed
LEFT = """
import json, sys
from pathlib import Path
from ipython_magics.spool.journal import Journal
journal = Journal.create(Path(sys.argv[1]), {"launch": sys.argv[2], "workspace": "demo"})
journal.append({"call": "runs/set-tag", "body": {"run_id": "run0", "key": "kept", "value": "yes"}, "workspace": "demo"})
"""


class TestJournals:
    """What the kernel kept while MLflow was away is sent before the job's end is told."""

    def leave(self, place: Path, launch: str) -> None:
        subprocess.run([sys.executable, "-c", LEFT, str(place), launch], check=True, cwd=ROOT, timeout=60)

    def test_it_is_sent_by_the_worker_when_mlflow_is_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.leave(tmp_path, "l-1")
        environ = {"MAESTRO_TRACKING_SPOOL": str(tmp_path), "MAESTRO_LAUNCH_ID": "l-1"}
        monkeypatch.setenv("JUPYTERHUB_API_TOKEN", TOKEN)
        with job_service({}) as service:
            service.runs["run0"] = {"info": {"run_id": "run0"}, "tags": {}, "params": {}, "metrics": {}}
            monkeypatch.setattr(leftovers, "TRACKING", Address.parse(service.mlflow_url))
            service.mlflow_status = 503
            with pytest.raises(NoTracking, match="does not take yet"):
                send_journals(environ)
            service.mlflow_status = 200
            send_journals(environ)
            assert service.runs["run0"]["tags"] == {"kept": "yes"} and not list(tmp_path.iterdir())

    def test_anothers_journal_holds_up_no_job(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.leave(tmp_path, "l-other")
        with job_service({}) as service:
            service.mlflow_status = 503
            monkeypatch.setattr(leftovers, "TRACKING", Address.parse(service.mlflow_url))
            send_journals({"MAESTRO_TRACKING_SPOOL": str(tmp_path), "MAESTRO_LAUNCH_ID": "l-1"})
            assert len(list(tmp_path.iterdir())) == 1
