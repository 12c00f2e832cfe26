"""Limits of local servers by cgroup v2, on a tree of plain files as the kernel's looks (few test machines have one)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from maestro_core.resources import Resources
from maestro_spawner.machine import limits


def group(path: Path, controllers: str = "cpuset cpu io memory pids", procs: str = "", handed: str = "") -> Path:
    """A cgroup's files; ``cgroup.type`` makes it another than the machine's topmost."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "cgroup.controllers").write_text(controllers)
    (path / "cgroup.subtree_control").write_text(handed)
    (path / "cgroup.procs").write_text(procs)
    (path / "cgroup.type").write_text("domain")
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = group(tmp_path / "cgroup")
    monkeypatch.setattr(limits, "ROOT", root)
    monkeypatch.setattr(limits, "_base", lambda: root)
    limits.servers_group.cache_clear()
    yield root
    limits.servers_group.cache_clear()


def test_a_launch_gets_its_amounts_as_hard_limits(tmp_path: Path) -> None:
    made = limits.make_group(tmp_path, "l1", Resources(cpu=1.5, memory="2Gi"))
    assert (made / "memory.max").read_text() == str(2 * 1024**3)
    assert (made / "cpu.max").read_text() == "150000 100000"


def test_controllers_are_handed_down_to_a_group_of_our_own(root: Path) -> None:
    group(root / limits.SERVERS)
    assert limits.servers_group() == root / limits.SERVERS
    for each in (root, root / limits.SERVERS):
        assert (each / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert limits.limits_problem() is None


def test_the_hub_moves_itself_out_of_the_way_and_nobody_else(root: Path) -> None:
    group(root / limits.SERVERS)
    group(root / limits.HUB)
    group(root, procs=f"{os.getpid()}\n")
    assert limits.servers_group() is not None
    assert (root / limits.HUB / "cgroup.procs").read_text() == str(os.getpid())


def test_the_service_finds_the_group_that_the_hub_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub has moved it into a group of its own, beside that of servers and jobs."""
    delegated = group(tmp_path / "user.slice/maestro.service", handed="+cpu +memory +pids")
    group(delegated / limits.SERVERS, handed="+cpu +memory +pids")
    group(delegated / limits.HUB, procs=f"{os.getpid()}\n")
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    read = Path.read_text
    said = f"0::/user.slice/maestro.service/{limits.HUB}\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **how: said if self.name == "cgroup" else read(self, **how))
    limits.servers_group.cache_clear()
    assert limits.servers_group() == delegated / limits.SERVERS
    limits.servers_group.cache_clear()


def test_memory_that_ran_out_is_told_with_the_limit(tmp_path: Path) -> None:
    launch = tmp_path / "l1"
    launch.mkdir()
    assert limits.ran_out_of_memory(tmp_path, "l1") is None
    (launch / "memory.max").write_text("1048576\n")
    (launch / "memory.events").write_text("low 0\noom 1\noom_kill 0\n")
    assert limits.ran_out_of_memory(tmp_path, "l1") is None
    (launch / "memory.events").write_text("low 0\noom 1\noom_kill 2\n")
    assert limits.ran_out_of_memory(tmp_path, "l1") == 1048576


def test_a_group_with_somebody_elses_processes_is_left_alone(root: Path) -> None:
    group(root, procs=f"{os.getpid()}\n{os.getppid()}\n")
    assert limits.servers_group() is None
    assert (root / "cgroup.subtree_control").read_text() == ""
    assert limits.limits_problem() == limits.NOT_ENFORCED


def test_without_the_controllers_pages_say_so(root: Path) -> None:
    group(root, controllers="pids hugetlb")
    assert limits.limits_problem() == limits.NOT_ENFORCED


def test_cgroup_v1_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    assert limits._base() is None


def test_a_group_that_is_gone_can_be_removed_again(tmp_path: Path) -> None:
    limits.remove_group(tmp_path, "gone")
    (tmp_path / "left").mkdir()
    limits.remove_group(tmp_path, "left")  # a plain folder cannot be: the kernel's own can, with its files in it
