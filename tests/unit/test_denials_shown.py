"""After a cell that ran programs: a line for each package that was refused to it, and none where nothing was."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import timeit
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ipython_magics.denials import DenialLine, Index, Watch
from maestro_core.clients import client_files

LINK = "/services/workspaces/requests?workspace=demo&package=tensorflow"
ASKED = "tensorflow needs an approval by the global policy (rule tensorflow). Ask for it with 'maestro request'."


class FakeIndex:
    """Answers ``denials`` as the index does."""

    def __init__(self) -> None:
        self.denials: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str | None]] = []
        self.status, self.body = 200, b""
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append((self.path, self.headers.get("Authorization")))
                body = index.body or json.dumps({"denials": index.denials, "next": 0}).encode()
                self.send_response(index.status)
                if index.status == 302:
                    self.send_header("Location", "http://elsewhere.example/")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def deny(self, package: str = "tensorflow", ago: float = 0.0, **more: Any) -> None:
        moment = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(timespec="milliseconds")
        denial = {"package": package, "version": "2.16", "action": "ask", "message": ASKED, "rule": package}
        self.denials.append({**denial, "time": moment, **more})

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def index() -> Iterator[FakeIndex]:
    found = FakeIndex()
    yield found
    found.close()


@pytest.fixture
def environ(index: FakeIndex, tmp_path: Path) -> dict[str, str]:
    """The launch's files, as the spawner writes them."""
    url = f"http://127.0.0.1:{index.server.server_port}/services/packages"
    for name, text in client_files(url, "the-token").items():
        (tmp_path / name).write_text(text)
    return {
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "NETRC": str(tmp_path / "netrc"), "MAESTRO_WORKSPACE": "demo",
    }  # fmt: skip


class Cell:
    """A notebook of one cell after another."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.shown: list[DenialLine] = []
        self.watch = Watch(self.shown.append, environ)

    def run(self, program: bool = True) -> list[str]:
        self.watch.before()
        if program:
            subprocess.run([sys.executable, "-S", "-c", "sum(range(10**5))"], check=True)
        start = len(self.shown)
        self.watch.after()
        return [repr(line) for line in self.shown[start:]]


def test_a_refused_package_is_named_with_the_way_to_ask_for_it(index: FakeIndex, environ: dict[str, str]) -> None:
    cell = Cell(environ)
    index.deny()
    assert cell.run() == [f"{ASKED} Request access: {LINK}"]
    assert index.asked == [("/services/packages/denials", "Basic bGF1bmNoOnRoZS10b2tlbg==")]


def test_a_cell_that_runs_no_program_asks_nobody_and_costs_nothing(index: FakeIndex, environ: dict[str, str]) -> None:
    cell = Cell(environ)
    index.deny()
    assert cell.run(program=False) == []
    assert index.asked == []
    assert timeit.timeit(lambda: cell.run(program=False), number=1000) / 1000 < 0.0002


def test_what_was_refused_before_the_cell_is_not_its_matter(index: FakeIndex, environ: dict[str, str]) -> None:
    index.deny(ago=60)
    assert Cell(environ).run() == []


def test_a_package_is_named_once_and_a_blocked_one_without_a_link(index: FakeIndex, environ: dict[str, str]) -> None:
    index.deny()
    index.deny(version="2.15")
    index.deny("requests", action="block", message="requests is blocked.", rule="requests")
    assert Cell(environ).run() == [f"{ASKED} Request access: {LINK}", "requests is blocked."]


def test_the_version_goes_along_where_the_rule_is_about_versions(index: FakeIndex, environ: dict[str, str]) -> None:
    index.deny("pandas", version="3.0", rule="pandas>=3")
    assert Cell(environ).run()[0].endswith("?workspace=demo&package=pandas&version=3.0")


def test_a_hub_on_another_host_and_a_reason_with_markup() -> None:
    line = DenialLine.of(
        {"package": "x", "action": "ask", "rule": "x", "message": "<b>no</b>"},
        {"MAESTRO_WORKSPACE": "a&b", "MAESTRO_PUBLIC_PREFIX": "/hub/", "JUPYTERHUB_HOST": "https://hub.example.org"},
    )
    assert line.url == "https://hub.example.org/hub/services/workspaces/requests?workspace=a%26b&package=x"
    shown = line._repr_html_()
    assert "&lt;b&gt;no&lt;/b&gt;" in shown and 'rel="noopener"' in shown and "workspace=a%26b&amp;package=x" in shown


@pytest.mark.parametrize(("status", "body"), [(503, b"x"), (302, b"x"), (200, b"no json"), (200, b"{}"), (403, b"")])
def test_an_index_that_does_not_answer_as_it_should_is_nobodys_matter(
    index: FakeIndex, environ: dict[str, str], status: int, body: bytes
) -> None:
    index.status, index.body = status, body
    assert Cell(environ).run() == []


def test_a_launch_without_files_and_a_cell_that_changes_the_environment(
    index: FakeIndex, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Cell({}).run() == []
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    cell = Cell(dict(environ))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "mine.conf"))
    index.deny()
    assert len(cell.run()) == 1
    assert Index.of({**environ, "NETRC": str(tmp_path / "none")}) is None
