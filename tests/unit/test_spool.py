"""What is logged while MLflow is away or slow: code goes on, and MLflow has everything later, in order, once.

MLflow, its store and its gate are real; what goes wrong is made to (tests/flaky_mlflow.py).
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from ipython_magics import address, runs
from ipython_magics.address import Address
from ipython_magics.mlflow_plugins import auth, store
from ipython_magics.spool import leftovers, road, sender
from ipython_magics.spool.journal import Entry, Journal, JournalFull
from ipython_magics.spool.sender import Away, Sender, groups, merged
from tests.flaky_mlflow import FlakyMlflow

ROOT = Path(__file__).resolve().parents[2]


def until(done: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found


# -- the journal


def test_a_journal_gives_back_what_it_was_given_whatever_the_machine_left_of_it(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, {"kernel": "k"})
    for number in range(3):
        journal.append({"n": number})
    first = journal.entries(1)[0]
    journal.mark_sent(first.end)
    journal.close()
    calls = journal.place / "calls"
    lines = calls.read_bytes().split(b"\n")
    calls.write_bytes(b"\n".join([lines[0], b"\0" * 20, lines[1], lines[2][:-4]]))  # damaged, and torn at its end

    again = Journal.adopt(journal.place)
    assert again is not None and again.owner == {"kernel": "k"}
    again.append({"n": 3})
    assert [entry.record["n"] for entry in again.entries(10)] == [1, 3]
    again.mark_sent(again.entries(10)[-1].end)
    assert not again.waiting and calls.stat().st_size == 0


def test_a_journal_is_nobody_elses_while_its_process_lives(tmp_path: Path) -> None:
    program = """
        import sys
        from pathlib import Path
        from ipython_magics.spool.journal import Journal
        journal = Journal.create(Path(sys.argv[1]), {})
        journal.append({"n": 1})
        print(journal.place, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    place = Path(process.stdout.readline().strip())
    assert Journal.adopt(place) is None
    process.kill()
    process.wait()
    journal = Journal.adopt(place)
    assert journal is not None and journal.waiting


def test_a_full_journal_takes_no_more_and_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(tmp_path, {})
    journal.append({"n": 1})
    monkeypatch.setattr("ipython_magics.spool.journal.MAX_CALLS", 20)
    with pytest.raises(JournalFull):
        journal.append({"n": 2})
    (tmp_path / "large").write_bytes(b"x" * 100)
    monkeypatch.setattr("ipython_magics.spool.journal.MAX_FILES", 50)
    with pytest.raises(JournalFull):
        journal.copy(tmp_path / "large")
    assert [entry.record["n"] for entry in journal.entries(5)] == [1]


def numbers(journal: Journal) -> list[int]:
    return [entry.record["n"] for entry in journal.entries(100)]


def left_by(journal: Journal) -> Journal:
    """The journal as another process finds it, after this one was killed."""
    journal.close()
    found = Journal.adopt(journal.place)
    assert found is not None
    return found


def test_a_full_disk_that_takes_no_place_costs_no_record(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, {})
    for number in range(9):
        journal.append({"n": number})
    first, *_, last = journal.entries(9)
    journal.mark_sent(first.end)
    (journal.place / "sent.new").mkdir()  # nothing can be written there any more
    with pytest.raises(OSError):
        journal.mark_sent(journal.entries(1)[0].end)
    journal.mark_sent(last.end)  # which needs no room: the files begin anew
    for number in range(10, 20):
        journal.append({"n": number})
    assert numbers(left_by(journal)) == list(range(10, 20))


def test_a_kill_between_the_place_and_the_calls_only_sends_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.create(tmp_path, {})
    journal.append({"n": 0})
    journal.append({"n": 1})
    journal.mark_sent(journal.entries(1)[0].end)

    def fail(*_: int) -> None:
        raise OSError("Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(OSError):
            journal.mark_sent(journal.entries(1)[0].end)
    journal.append({"n": 2})
    assert numbers(journal) == [2], "in this process nothing is sent twice"
    assert numbers(left_by(journal)) == [0, 1, 2]


def test_a_record_that_the_disk_took_half_of_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(tmp_path, {})
    journal.append({"n": 0})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:5]) if len(data) > 5 else 0)
        with pytest.raises(JournalFull):
            journal.append({"n": 1})
    journal.append({"n": 2})
    with (journal.place / "calls").open("ab") as calls:
        calls.write(b"torn")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: 0)  # who comes after finds no room either
        again = left_by(journal)
    again.append({"n": 3})
    assert numbers(again) == [0, 2, 3]


def test_a_copy_stays_until_its_record_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that sends may find everything sent between a copy and its record."""
    journal = Journal.create(tmp_path, {})
    (tmp_path / "model").write_text("x" * 10)
    journal.append({"n": 0})
    name = journal.copy(tmp_path / "model")
    journal.mark_sent(journal.entries(1)[0].end)
    journal.append({"n": 1, "file": name})
    assert journal.file(name).read_text() == "x" * 10
    with pytest.raises(JournalFull), monkeypatch.context() as patch:
        lost = journal.copy(tmp_path / "model")  # of which there comes no record
        patch.setattr("ipython_magics.spool.journal.MAX_RECORD", 0)
        journal.append({"file": lost})
    journal.mark_sent(journal.entries(1)[0].end)
    assert not journal.file(name).exists() and not (journal.place / "calls").stat().st_size

    def fail(_: Path, copy: Path) -> None:
        copy.write_text("x")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ipython_magics.spool.journal.shutil.copyfile", fail)
        with pytest.raises(OSError):
            journal.copy(tmp_path / "model")
    monkeypatch.setattr("ipython_magics.spool.journal.MAX_FILES", 10)
    journal.copy(tmp_path / "model")  # what failed takes no room
    assert len(list((journal.place / "files").iterdir())) == 1


def test_neighbours_are_sent_as_one_batch_and_their_order_stays() -> None:
    def entry(call: str, **body: Any) -> Entry:
        return Entry({"call": f"runs/{call}", "body": body, "workspace": "demo"}, 0)

    entries = [
        entry("log-metric", run_id="a", key="m", value=1.0, timestamp=1, step=0),
        entry("set-tag", run_id="a", key="t", value="x"),
        entry("log-parameter", run_id="a", key="p", value="1"),
        entry("log-parameter", run_id="a", key="p", value="2"),  # MLflow is to refuse it on its own
        entry("log-metric", run_id="b", key="m", value=1.0, timestamp=1, step=0),
        entry("update", run_id="b", status="FINISHED"),
        *(entry("log-metric", run_id="b", key="m", value=1.0, timestamp=1, step=step) for step in range(1500)),
    ]
    found = list(groups(entries))
    assert [len(group) for group in found] == [3, 1, 1, 1, 1000, 500]
    assert [one for group in found for one in group] == entries
    batch = merged(found[0])
    assert batch["call"] == "runs/log-batch" and {key: len(batch["body"][key]) for key in ("metrics", "params")} == {
        "metrics": 1,
        "params": 1,
    }


class Stumbling(Sender):
    """To an MLflow that fails at one value, and loses none of the others."""

    def __init__(self) -> None:
        super().__init__(Address("http://127.0.0.1:9/services/mlflow"))
        self.got: list[float] = []

    def ask(self, method: str, path: str, workspace: str, headers: Any = None, **how: Any) -> Any:
        body = how["json"]
        values = [one["value"] for one in body.get("metrics", [body])]
        if 13.0 in values:
            raise Away("status 500", 500)
        self.got += values
        return {}


def test_a_call_that_mlflow_fails_at_holds_up_the_rest_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, client = Journal.create(tmp_path, {}), Stumbling()
    for value in (12.0, 13.0, 14.0):
        body = {"run_id": "a" * 32, "key": "m", "value": value, "timestamp": 1, "step": 0}
        journal.append({"call": "runs/log-metric", "body": body, "workspace": "demo"})
    with pytest.raises(Away):
        client.send(journal)
    assert client.got == [12.0] and journal.waiting
    monkeypatch.setattr(sender, "STUMBLES_SECONDS", 0.0)
    client.send(journal)
    assert client.got == [12.0, 14.0] and not journal.waiting
    assert client.dropped == ["MLflow refused log-metric that had waited, and it is lost: it fails at it each time"]


# -- with MLflow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlakyMlflow]:
    server = FlakyMlflow(tmp_path_factory.mktemp("flaky"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def lines(server: FlakyMlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A launch whose MLflow is the server; the lines that the user sees."""
    server.behave()
    for name, value in variables(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(address, "TRACKING", Address(server.url))
    monkeypatch.setattr(auth, "TRACKING", Address(server.url))
    monkeypatch.setattr(road, "_road", None)
    monkeypatch.setattr(road, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(road, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(road, "SLOW", 10.0)  # a busy machine is no slow MLflow
    monkeypatch.setattr(store, "QUICK", (10.0, 10.0))
    said: list[str] = []
    monkeypatch.setattr(road, "_say", said.append)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.url)
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    server.calls()
    try:
        yield said
        server.behave()
        while mlflow.active_run():
            mlflow.end_run()
        until(lambda: not way().waiting, "everything is sent")
        way().end()
    finally:
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # set_experiment's, for programs
        mlflow.set_tracking_uri(before)


def variables(server: FlakyMlflow, folder: Path) -> dict[str, str]:
    return {
        "MAESTRO_LAUNCH_ID": "l-1",
        "MAESTRO_WORKSPACE": "demo",
        "MAESTRO_USER": "ann",
        "MAESTRO_EXPERIMENT": "demo",
        "MAESTRO_TRACKING_URI": server.url,
        "MAESTRO_TRACKING_SPOOL": str(folder / "spool"),
        "MLFLOW_TRACKING_URI": server.url,
        "MLFLOW_TRACKING_AUTH": "maestro",
        "MLFLOW_WORKSPACE": "demo",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "JUPYTERHUB_API_TOKEN": "token-of-ann",
    }


def way() -> road.Road:
    found = road.road()
    assert found is not None
    return found


def opened() -> None:
    until(lambda: not way().closed, "the road is open again")


def history(run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in mlflow.MlflowClient().get_metric_history(run_id, key)]


def test_with_mlflow_there_everything_is_as_ever(server: FlakyMlflow, lines: list[str]) -> None:
    with mlflow.start_run() as run:
        mlflow.log_param("lr", 0.1)
        with pytest.raises(MlflowException, match="Changing param values is not allowed"):
            mlflow.log_param("lr", 0.2)
        with pytest.raises(MlflowException, match="Names may only contain"):
            mlflow.log_metric("bad*", 1)
        mlflow.log_metric("m", 1.5, step=3)
        mlflow.log_text("hello", "a/b.txt")
    sent = server.calls()
    assert sent.count("POST api/2.0/mlflow/runs/log-metric") == 2, "each at once, in its own call"
    found = mlflow.get_run(run.info.run_id)
    assert found.info.status == "FINISHED" and "maestro.run_id" not in found.data.tags
    assert mlflow.artifacts.load_text(f"{found.info.artifact_uri}/a/b.txt") == "hello"
    assert lines == []


def test_while_mlflow_is_away_code_goes_on_and_mlflow_has_it_all_later(
    server: FlakyMlflow, lines: list[str], tmp_path: Path
) -> None:
    server.behave("away")
    began = time.monotonic()
    mlflow.set_experiment("never asked for")
    inherited = os.environ["MLFLOW_EXPERIMENT_ID"]
    with mlflow.start_run(run_name="outer") as outer:
        mlflow.log_params({"lr": 0.1, "seed": 1})
        with mlflow.start_run(nested=True) as inner:
            for step in range(2000):
                mlflow.log_metric("m", step / 2, step=step)
        mlflow.set_tag("stage", "draft")
        mlflow.set_tag("stage", "done")
        mlflow.set_tag("gone", "1")
        mlflow.delete_tag("gone")
        mlflow.log_text("hello", "a/b.txt")
        with pytest.raises(MlflowException, match="Changing param values is not allowed"):
            mlflow.log_param("lr", 0.2)
        with pytest.raises(MlflowException, match="Names may only contain"):
            mlflow.log_metric("bad*", 1)
        assert mlflow.get_run(inner.info.run_id).data.metrics["m"] == 999.5
        with pytest.raises(MlflowException, match="MLflow does not answer"):
            mlflow.search_runs(output_format="list")
    assert time.monotonic() - began < 15
    assert lines == [road.AWAY]
    assert server.calls() and "POST api/2.0/mlflow/runs/create" not in server.calls()

    server.behave()
    opened()
    found = mlflow.get_run(outer.info.run_id)
    assert mlflow.get_experiment(found.info.experiment_id).name == "never asked for"
    assert found.info.status == "FINISHED" and found.info.run_name == "outer"
    assert found.data.params == {"lr": "0.1", "seed": "1"}
    assert found.data.tags["stage"] == "done" and "gone" not in found.data.tags
    assert mlflow.artifacts.load_text(f"{found.info.artifact_uri}/a/b.txt") == "hello"
    assert mlflow.get_run(inner.info.run_id).data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert history(inner.info.run_id, "m") == [(step, step / 2) for step in range(2000)]
    again = mlflow.search_runs(experiment_names=["never asked for"], output_format="list")
    assert len(again) == 2
    # The experiment that set_experiment gave out meanwhile goes on, and is the real one.
    with mlflow.start_run() as later:
        pass
    assert mlflow.get_run(later.info.run_id).info.experiment_id == found.info.experiment_id
    assert mlflow.get_experiment(inherited).experiment_id == found.info.experiment_id, "in programs too"


def test_an_answer_that_is_lost_doubles_nothing(server: FlakyMlflow, lines: list[str]) -> None:
    mlflow.set_experiment("lost answers")
    server.behave("lost")
    with mlflow.start_run() as run:
        for step in range(20):
            mlflow.log_metric("m", 1.0, step=step)
        mlflow.log_param("lr", 1)
    until(lambda: server.calls().count("POST api/2.0/mlflow/runs/create") >= 1, "it was sent again")
    server.behave()
    opened()
    assert [one.info.run_id for one in mlflow.search_runs(experiment_names=["lost answers"], output_format="list")] == [
        run.info.run_id
    ]
    assert history(run.info.run_id, "m") == [(step, 1.0) for step in range(20)]


def test_a_slow_mlflow_slows_nothing(server: FlakyMlflow, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with mlflow.start_run() as run:
        monkeypatch.setattr(road, "SLOW", 0.3)
        monkeypatch.setattr(store, "QUICK", (5.0, 0.5))
        server.behave(seconds=1.2)
        began = time.monotonic()
        for step in range(100):
            mlflow.log_metric("m", 1.0, step=step)
        mlflow.log_text("hello", "a.txt")
    assert time.monotonic() - began < 30, "one call is waited for, and not for long"
    assert len(history(run.info.run_id, "m")) == 100, "who reads waits until it is sent"
    assert len(lines) <= 1
    server.behave()
    mlflow.set_experiment("any")
    mlflow.MlflowClient().set_tag(run.info.run_id, "a", "b")
    opened()


def test_the_magics_say_one_line_and_keep_it_too(server: FlakyMlflow, lines: list[str]) -> None:
    server.behave("away")
    magics = runs.Runs()
    assert "started" in repr(magics.start(runs.Ask("by magic")))
    run_id = mlflow.active_run().info.run_id
    magics.log_metric("m", 1.0, None)
    with pytest.raises(runs.NotDone, match="MLflow does not answer"):
        magics.list(5)
    assert "finished" in repr(magics.end("FINISHED"))
    assert lines == [road.AWAY]
    server.behave()
    opened()
    assert mlflow.get_run(run_id).data.metrics == {"m": 1.0}


def test_threads_and_forked_workers_log_as_they_like(server: FlakyMlflow, lines: list[str]) -> None:
    with mlflow.start_run() as run:
        run_id = run.info.run_id

        def work(name: str) -> None:
            client = mlflow.MlflowClient()
            for step in range(25):
                client.log_metric(run_id, name, step, step=step)

        threads = [threading.Thread(target=work, args=(f"thread-{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        server.behave("away")
        fork = multiprocessing.get_context("fork").Process(target=_forked, args=(work, run_id))
        fork.start()
        for thread in threads:
            thread.join()
        fork.join(30)
        assert fork.exitcode == 0
        server.behave()
        opened()
        client = Sender(Address(server.url))
        log = logging.getLogger("test")
        place = Path(os.environ["MAESTRO_TRACKING_SPOOL"])
        until(lambda: leftovers.send_leftovers(client, place, "l-1", log), "what the worker left is sent")
        for name in (*(f"thread-{number}" for number in range(4)), "worker"):
            assert history(run_id, name) == [(step, step) for step in range(25)], name
    assert mlflow.get_run(run_id).info.status == "FINISHED", "the worker's end is not the run's"


def _forked(work: Callable[[str], None], run_id: str) -> None:
    work("worker")
    os._exit(0)


# -- processes that end


def program(server: FlakyMlflow, folder: Path, text: str) -> subprocess.Popen[str]:
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MAESTRO_"))},
        **variables(server, folder),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


KILLED = """
    import mlflow, sys
    run = mlflow.start_run()
    mlflow.log_metric("m", 1.0)
    print(run.info.run_id, flush=True)
    sys.stdin.readline()
    mlflow.log_metric("m", 2.0, step=1)
    print("away", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_sent_and_its_run_ends(
    server: FlakyMlflow, lines: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = program(server, tmp_path, KILLED)
    assert process.stdout is not None and process.stdin is not None
    run_id = process.stdout.readline().strip()
    place = tmp_path / "spool"
    client, log = Sender(Address(server.url)), logging.getLogger("test")
    assert leftovers.send_leftovers(client, place, "l-1", log), "it lives: its journal is left alone"
    assert mlflow.get_run(run_id).info.status == "RUNNING"
    server.behave("away")
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "away\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not leftovers.send_leftovers(client, place, "l-1", log)

    server.behave()
    assert leftovers.send_leftovers(client, place, "l-1", log)
    found = mlflow.get_run(run_id)
    assert found.info.status == "KILLED" and found.info.end_time
    assert found.data.tags["maestro.reason"] == leftovers.PROGRAM_GONE
    assert history(run_id, "m") == [(0, 1.0), (1, 2.0)]
    assert list(place.iterdir()) == []


def test_a_run_that_another_process_goes_on_with_is_not_ended(
    server: FlakyMlflow, lines: list[str], tmp_path: Path
) -> None:
    process = program(server, tmp_path, KILLED)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    process.kill()
    process.wait()
    with mlflow.start_run(run_id=run_id):
        assert leftovers.send_leftovers(Sender(Address(server.url)), tmp_path / "spool", "l-1", logging.getLogger())
        assert mlflow.get_run(run_id).info.status == "RUNNING"
    assert mlflow.get_run(run_id).info.status == "FINISHED"


def test_an_end_that_mlflow_hears_of_late_wins_over_the_guess(
    server: FlakyMlflow, lines: list[str], tmp_path: Path
) -> None:
    """The server died after the run had ended: MLflow was told that the server ended, and hears the truth at last."""
    with mlflow.start_run() as run:
        server.behave("away")
    server.behave()
    # As maestro_hub_services.tracking.orphans does it, before the journal is sent.
    run_id = run.info.run_id
    other = Sender(Address(server.url))
    until(lambda: not way().waiting, "sent")
    other.ask(
        "POST", sender.API + "runs/set-tag", "demo", json={"run_id": run_id, "key": "maestro.reason", "value": "x"}
    )
    journal = Journal.create(tmp_path / "older", {"launch": "l-0", "workspace": "demo"})
    body = {"run_id": run_id, "status": "FINISHED", "end_time": 5}
    reason = {"run_id": run_id, "key": "maestro.reason", "value": "the server ended: culled"}
    other.ask("POST", sender.API + "runs/set-tag", "demo", json=reason)
    other.ask("POST", sender.API + "runs/update", "demo", json={"run_id": run_id, "status": "KILLED", "end_time": 9})
    journal.append({"call": "runs/update", "body": body, "workspace": "demo"})
    journal.close()
    assert leftovers.send_leftovers(other, tmp_path / "older", "l-1", logging.getLogger("test"))
    found = mlflow.get_run(run_id)
    assert found.info.status == "FINISHED" and "maestro.reason" not in found.data.tags


def test_what_a_removed_member_logged_is_dropped_with_a_line(
    server: FlakyMlflow, lines: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with mlflow.start_run() as run:
        server.behave("away")
        mlflow.log_metric("m", 1.0)
        server.behave(member=False)
        until(lambda: way()._sender._refused_since, "it is refused")
        assert way().waiting, "a refusal may pass"
        monkeypatch.setattr(sender, "REFUSED_SECONDS", 0.0)
        until(lambda: not way().waiting, "it is dropped")
        server.behave()
        opened()
    assert "MLflow refused log-metric that had waited, and it is lost" in caplog.text
    assert mlflow.get_run(run.info.run_id).data.metrics == {}


def test_the_journal_sends_nothing_that_it_would_not_keep(
    server: FlakyMlflow, lines: list[str], tmp_path: Path
) -> None:
    """Whoever writes into the folder cannot make the server call other addresses with its token."""
    journal = Journal.create(tmp_path / "planted", {})
    journal.append({"call": "../../../../hub/api/users", "body": {}, "workspace": "demo"})
    journal.append({"call": "experiments/delete", "body": {"experiment_id": "1"}, "workspace": "demo"})
    journal.append({"path": "x", "file": "../../../etc/passwd", "root": "mlflow-artifacts:/x", "workspace": "demo"})
    journal.close()
    server.calls()
    client = Sender(Address(server.url))
    assert leftovers.send_leftovers(client, tmp_path / "planted", "l-1", logging.getLogger("test"))
    assert server.calls() == []


# -- runs with an id of their own (maestro_hub_services.tracking.given_ids)


def test_a_given_id_is_taken_once_and_is_its_own_experiments(server: FlakyMlflow, lines: list[str]) -> None:
    client = Sender(Address(server.url))
    one, other = client.experiment("given", "demo"), client.experiment("other", "demo")
    tags = [{"key": "maestro.run_id", "value": "a" * 32}]
    ask = {"experiment_id": one, "start_time": 1, "tags": tags}
    for _ in range(2):
        made = client.ask("POST", sender.API + "runs/create", "demo", json=ask)["run"]
        assert made["info"]["run_id"] == "a" * 32 and made["info"]["user_id"] == "ann"
    for wrong in (
        {**ask, "experiment_id": other},
        {**ask, "tags": [{"key": "maestro.run_id", "value": "../../etc"}]},
        {**ask, "tags": [{"key": "maestro.run_id", "value": 1}]},
    ):
        with pytest.raises(Exception, match=r"another run of this id|no run id|maestro\.run_id"):
            client.ask("POST", sender.API + "runs/create", "demo", json=wrong)
    fresh = client.ask("POST", sender.API + "runs/create", "demo", json={"experiment_id": one, "start_time": 1})
    assert fresh["run"]["info"]["run_id"] != "a" * 32
    assert store.known.run("a" * 32) is None and json
