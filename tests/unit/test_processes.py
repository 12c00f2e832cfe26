"""Processes by number and start time, and the folder of a launch by which they are found again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maestro_core.errors import MaestroError
from maestro_core.launches import LaunchPlan
from maestro_spawner.machine import folder
from maestro_spawner.machine.process import Process, with_variable


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def make_plan(tmp_path: Path, **changes: Any) -> LaunchPlan:
    for name in ("workspace", "home"):
        (tmp_path / name).mkdir(exist_ok=True)
    places = {"workspace": "/workspace", "home": "/home/jovyan"}
    mounts = [
        {"name": name, "kind": "directory", "source": str(tmp_path / name), "target": target}
        for name, target in places.items()
    ]
    plan = {
        "launch_id": "l1",
        "user": "ann",
        "server_name": "demo",
        "workspace": {"workspace_id": "w1", "name": "demo", "gid": 20001},
        "role": "editor",
        "profile": "small",
        "resources": {},
        "mounts": mounts,
        "index_url": "http://127.0.0.1:8182/services/packages",
        "index_token": "secret",
    }
    return LaunchPlan.model_validate({**plan, **changes})


def test_a_process_is_alive_until_it_ends_and_a_zombie_is_not(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process.of(sleeper.pid)
    assert process is not None
    assert process.alive()
    assert process.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has fetched its exit code
    assert not process.alive()
    assert not process.kill()


def test_a_number_that_was_given_again_is_nobody_of_ours(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process.of(sleeper.pid)
    assert process is not None
    earlier = Process(process.pid, process.started - 1, process.boot)
    another_boot = Process(process.pid, process.started, "another")
    for other in (earlier, another_boot):
        assert not other.alive()
        assert not other.kill()
    assert sleeper.poll() is None


@pytest.mark.parametrize("data", [None, {}, [], "x", {"pid": 1, "started": 1, "boot": "x"}, {"pid": "2", "started": 1}])
def test_a_state_that_is_none_is_no_process(data: Any) -> None:
    assert Process.from_json(data) is None


def test_a_process_survives_its_way_through_a_state(sleeper: subprocess.Popen[bytes]) -> None:
    process = Process.of(sleeper.pid)
    assert process is not None
    assert Process.from_json(process.as_json()) == process


def test_children_are_found(sleeper: subprocess.Popen[bytes]) -> None:
    me = Process.of(os.getpid())
    assert me is not None
    assert sleeper.pid in {child.pid for child in me.children()}


def test_processes_are_found_by_what_they_were_given(tmp_path: Path) -> None:
    environment = {**os.environ, folder.MARK: f"{tmp_path}/l1/env"}
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment)
    try:
        assert [found.pid for found in with_variable(folder.MARK, f"{tmp_path}/l1/env")] == [process.pid]
        folder.end_marked(tmp_path / "l2")
        assert process.poll() is None
        folder.end_marked(tmp_path / "l1")
        assert process.wait(10) != 0
    finally:
        process.kill()
        process.wait()


def test_a_launchs_folder_is_closed_and_its_secret_is_where_clients_look_for_it(tmp_path: Path) -> None:
    place = tmp_path / "run/launches/l1"
    folder.make(place, make_plan(tmp_path), None)
    assert place.stat().st_mode & 0o077 == 0
    assert (place / "etc").stat().st_mode & 0o077 == 0
    holding = {path.name for path in place.rglob("*") if path.is_file() and "secret" in path.read_text()}
    assert holding == {"netrc", "condarc"}, "conda takes it from a channel's address"
    folder.remove(place)
    folder.remove(place)
    assert not place.exists()


def test_files_that_are_missing_are_told_and_nothing_is_made(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    (tmp_path / "workspace").rmdir()
    with pytest.raises(MaestroError, match="'workspace' is missing on this machine"):
        folder.make(tmp_path / "run/launches/l1", plan, None)
    assert not (tmp_path / "run").exists()


def test_what_a_hub_left_is_ended_and_what_the_next_one_knows_is_not(tmp_path: Path) -> None:
    launches = tmp_path / "run/launches"
    kept, left = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    try:
        for name, process in (("kept", kept), ("left", left)):
            folder.make(launches / name, make_plan(tmp_path), None)
            folder.remember(launches / name, {"main": Process.of(process.pid), "first": None})
        (launches / "a-file").touch()
        assert folder.end_leftovers(launches, {"kept"}) == ["left"]
        assert left.wait(10) != 0
        assert kept.poll() is None
        assert (launches / "kept").is_dir()
        assert not (launches / "left").exists()
    finally:
        for process in (kept, left):
            process.kill()
            process.wait()


def test_nothing_was_left_where_there_is_nothing(tmp_path: Path) -> None:
    assert folder.end_leftovers(tmp_path / "run/launches", set()) == []
