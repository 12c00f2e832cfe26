"""What the local spawner looks at on the machine: who listens on a server's port, and how much a server has written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from maestro_spawner.listener import listens
from maestro_spawner.machine import server_log
from maestro_spawner.machine.process import Process

#: a process that says its port when it listens; with an argument, the child of one that only waits
LISTENER = """
import socket, subprocess, sys, time
address, depth = sys.argv[1], int(sys.argv[2])
if depth:
    subprocess.Popen([sys.executable, "-c", sys.argv[3], address, str(depth - 1), sys.argv[3]]).wait()
server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
server.bind((address, 0))
server.listen()
print(server.getsockname()[1], flush=True)
time.sleep(60)
"""
Start = Callable[..., tuple[Process, int]]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(address: str = "127.0.0.1", depth: int = 0) -> tuple[Process, int]:
            started = subprocess.Popen(
                [sys.executable, "-c", LISTENER, address, str(depth), LISTENER],
                stdout=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
            stack.callback(lambda: (os.killpg(started.pid, 9), started.wait(), started.stdout.close()))  # type: ignore[union-attr]
            assert started.stdout is not None
            port = int(started.stdout.readline())
            process = Process.of(started.pid)
            assert process is not None
            return process, port

        yield begin


class TestWhoListens:
    @pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])
    def test_a_process_has_its_own_port_and_nobody_elses(self, start: Start, address: str) -> None:
        ours, port = start(address)
        other, others_port = start()
        assert listens(ours, port) is True and listens(other, others_port) is True
        assert listens(ours, others_port) is False and listens(other, port) is False

    def test_a_child_of_a_child_counts(self, start: Start) -> None:
        ours, port = start(depth=2)
        assert len(ours.descendants()) == 2
        assert listens(ours, port) is True

    def test_a_port_on_which_nobody_listens_is_nobodys(self, start: Start) -> None:
        ours, _ = start()
        with socket.socket() as bound:  # bound, so that nobody takes it, but it does not listen
            bound.bind(("127.0.0.1", 0))
            assert listens(ours, bound.getsockname()[1]) is None

    def test_one_foreign_listener_beside_ours_is_one_too_many(self, start: Start) -> None:
        """The kernel gives a connection to the more exact address, so both are asked."""
        ours, port = start()
        with socket.socket(socket.AF_INET6) as beside:
            beside.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            beside.bind(("::", port))
            beside.listen()
            assert listens(ours, port) is False


class TestWhatAServerWrites:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "servers/ann.log"

    def test_a_log_that_grows_too_long_is_cut_and_its_end_kept(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_log, "LIMIT", 1000)
        monkeypatch.setattr(server_log, "KEPT", 100)
        with open(server_log.begin(path), "wb", buffering=0) as log:
            log.write(b"x" * 1000)
            assert not server_log.cut(path)
            log.write(b"the end\n")
            assert server_log.cut(path)
            kept = server_log.before(path).read_bytes()
            assert len(kept) == 100 and kept.endswith(b"xthe end\n")
            log.write(b"goes on\n")  # the server still has the file, and writes where it ends now
        assert path.read_bytes() == b"goes on\n"
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
        os.close(server_log.begin(path))
        assert [(file.name, file.stat().st_size) for file in path.parent.iterdir()] == [("ann.log", 0)]

    def test_of_a_long_log_only_the_end_is_read(self, path: Path) -> None:
        with open(server_log.begin(path), "wb") as log:
            log.truncate(2**40)  # a terabyte of nothing
            log.seek(0, os.SEEK_END)
            log.write(b"\nfirst\nlast \xff\n")
        assert server_log.last_lines(path, 2) == ["first", "last \ufffd"]

    def test_a_log_that_is_not_there_has_no_lines(self, path: Path) -> None:
        assert server_log.last_lines(path, 5) == [] and not server_log.cut(path)

    def test_a_link_in_its_place_is_not_followed(self, path: Path) -> None:
        path.parent.mkdir()
        path.symlink_to(path.parent / "elsewhere")
        with pytest.raises(OSError):
            server_log.begin(path)
