"""What a server says that it uses: read from real processes, from real and recorded cgroups, and from real folders."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from server_extension.usage import cgroup, disk, gpus
from server_extension.usage.processes import Table
from server_extension.usage.sampler import Programs, Sampler

GIB = 2**30


# -- processes


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    """A program that holds 40 MB, uses CPU when it is told to, and has a child that sleeps."""
    code = """if True:
        import subprocess, sys, time
        block = bytearray(b'x') * 40_000_000
        child = subprocess.Popen(["sleep", "60"])
        print("ready", flush=True)
        for line in sys.stdin:
            until = time.process_time() + 0.3
            while time.process_time() < until: pass
            print("done", flush=True)
        child.kill()
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin
        process.stdin.close()


def work(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin and worker.stdout
    worker.stdin.write("go\n")
    worker.stdin.flush()
    assert worker.stdout.readline() == "done\n"


def test_a_tree_is_a_process_and_all_that_it_started(worker: subprocess.Popen[str]) -> None:
    table = Table.read()
    tree = table.tree(worker.pid)
    assert len(tree) == 2 and worker.pid in tree
    assert tree < table.tree(os.getpid())
    assert table.ancestors(worker.pid)[0] == os.getpid()
    assert table.tree(2**22 + 1) == set()


def test_memory_and_cpu_of_a_tree_are_what_it_took(worker: subprocess.Popen[str]) -> None:
    before = Table.read()
    work(worker)
    after = Table.read()
    assert 40e6 < after.memory(after.tree(worker.pid)) < 80e6
    spent = after.cpu(after.tree(worker.pid)) - before.cpu(before.tree(worker.pid))
    assert 0.25 < spent < 0.6


def test_a_name_with_brackets_and_blanks_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text("7 (a ) R 1) x) S 1 " + " ".join("0" for _ in range(9)) + " 100 50 25 25 20 0\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "8").mkdir()  # ended while it was looked at
    table = Table.read(tmp_path)
    assert set(table.processes) == {7}
    assert table.processes[7].parent == 1 and table.processes[7].cpu == pytest.approx(200 / os.sysconf("SC_CLK_TCK"))


# -- cgroups


def tree_of(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def proc_with(tmp_path: Path, own: str, mounts: str) -> Path:
    """A /proc whose processes are the real ones, and whose cgroups are these."""
    proc = tmp_path / "proc"
    tree_of(proc, {"self/cgroup": own, "self/mountinfo": mounts, "vmstat": "nr_free_pages 1\noom_kill 3\n"})
    return proc


V2 = {
    "memory.current": f"{15 * GIB}\n",
    "memory.stat": f"anon {14 * GIB}\ninactive_file {2 * GIB}\n",
    "memory.max": f"{16 * GIB}\n",
    "memory.peak": f"{16 * GIB}\n",
    "memory.events": "low 0\nhigh 0\nmax 41\noom 2\noom_kill 2\noom_group_kill 0\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
}
V1 = {
    "memory.usage_in_bytes": f"{15 * GIB}\n",
    "memory.stat": f"cache 1\ntotal_inactive_file {2 * GIB}\n",
    "memory.limit_in_bytes": f"{16 * GIB}\n",
    "memory.max_usage_in_bytes": f"{16 * GIB}\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
}


@pytest.mark.parametrize(
    ("own", "root", "below"),
    [
        ("/", "/", ""),  # a container with a cgroup namespace
        ("/kubepods/burstable/pod1/c1", "/kubepods/burstable/pod1/c1", ""),  # one without, which sees its own alone
        ("/kubepods/burstable/pod1/c1", "/", "kubepods/burstable/pod1/c1"),  # one that sees the node's
        ("/kubepods/burstable/pod1/c1", "/..", ""),  # a mount from outside of the namespace
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_own_cgroup_is_found(tmp_path: Path, version: int, own: str, root: str, below: str) -> None:
    place = tmp_path / "sys fs/memory"
    mounted = str(place).replace(" ", "\\040")
    kind = "cgroup2 cgroup rw" if version == 2 else "cgroup cgroup rw,memory"
    proc = proc_with(
        tmp_path,
        f"0::{own}\n" if version == 2 else f"5:cpu,cpuacct:/x\n4:memory:{own}\n",
        f"20 19 0:20 / /proc rw - proc proc rw\n30 29 0:29 {root} {mounted} ro,nosuid - {kind}\n",
    )
    tree_of(place / below, (V2 if version == 2 else V1) | {"cgroup.procs": f"1\n{os.getpid()}\n"})
    found = cgroup.find("memory", Table.read(), {1, os.getpid()}, proc)
    assert found == cgroup.Controller(place / below, version)
    assert found.memory() == cgroup.MemoryReading(13 * GIB, 16 * GIB, 16 * GIB, 2)


def test_cpu_time_of_both_versions(tmp_path: Path) -> None:
    tree_of(tmp_path, V2 | {"cpuacct.usage": "2500000000\n"})
    assert cgroup.Controller(tmp_path, 2).cpu_seconds() == cgroup.Controller(tmp_path, 1).cpu_seconds() == 2.5


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    tree_of(tmp_path, V2 | V1 | {"memory.max": "max\n", "memory.limit_in_bytes": "9223372036854771712\n"})
    assert cgroup.Controller(tmp_path, 1).memory().limit is None
    tree_of(tmp_path, V2 | {"memory.max": "max\n"})
    assert cgroup.Controller(tmp_path, 2).memory().limit is None


@pytest.mark.parametrize(
    "members",
    [
        f"{os.getpid()}\n{os.getppid()}\n0\n",  # processes of another pid namespace
        "{me}\n{stranger}\n",
        "{stranger}\n",
        "",
    ],
)
def test_a_cgroup_with_others_in_it_is_not_read(tmp_path: Path, members: str, worker: subprocess.Popen[str]) -> None:
    """The session or container of the Hub, whose figures are everybody's."""
    place = tmp_path / "memory"
    tree_of(place, V1 | {"cgroup.procs": members.format(me=os.getpid(), stranger=worker.pid)})
    proc = proc_with(tmp_path, "4:memory:/\n", f"30 29 0:29 / {place} rw - cgroup cgroup rw,memory\n")
    own = {os.getpid(), os.getppid()}
    assert cgroup.find("memory", Table.read(), own, proc) is None


# -- samples


@pytest.fixture
def no_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "find", lambda *_: None)


def test_without_a_cgroup_the_processes_are_counted(no_cgroup: None, worker: subprocess.Popen[str]) -> None:
    sampler = Sampler()
    programs = Programs(kernels={"k-1": worker.pid})
    first = sampler.take(programs, 0.0)
    assert (first.limit, first.enforced, sampler.memory()) == (None, False, None)
    assert first.memory >= first.kernels["k-1"] > 40e6
    work(worker)
    second = sampler.take(programs, 1.0)
    assert 0.25 < second.cpu_seconds - first.cpu_seconds < 1.0
    assert second.oom_kills is None or second.oom_kills >= 0


def test_cpu_time_never_goes_back(no_cgroup: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = Sampler()
    totals = iter([10.0, 12.0, 5.0, 6.0])
    monkeypatch.setattr(Table, "cpu", lambda *_: next(totals))
    assert [sampler.take(Programs(), 0.0).cpu_seconds for _ in range(4)] == [10.0, 12.0, 12.0, 13.0]


def test_a_terminals_program_works_when_it_uses_cpu(no_cgroup: None, worker: subprocess.Popen[str]) -> None:
    sampler, programs = Sampler(), Programs(terminals={"1": worker.pid})
    assert not sampler.take(programs, 0.0).working, "it ran before the first sample"
    assert not sampler.take(programs, 1.0).working, "it waits"
    work(worker)
    assert sampler.take(programs, 2.0).working
    assert not sampler.take(programs, 3.0).working


def test_a_kernels_own_cpu_is_not_what_its_programs_use(no_cgroup: None, worker: subprocess.Popen[str]) -> None:
    sampler, programs = Sampler(), Programs(kernels={"k-1": worker.pid})
    sampler.take(programs, 0.0)
    work(worker)
    assert not sampler.take(programs, 1.0).working


def test_the_machine_says_when_it_stopped_a_process_for_want_of_memory(no_cgroup: None, tmp_path: Path) -> None:
    proc = proc_with(tmp_path, "", "")
    assert Sampler(proc).oom_kills() == 3
    (proc / "vmstat").unlink()
    assert Sampler(proc).oom_kills() is None


# -- GPUs; the driver is the one thing that a test machine has not


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> Path:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf 'NVIDIA A100, 97, 1024, 40960\\nNVIDIA A100, [N/A], 0, 40960\\n'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


async def test_gpus_are_read_from_the_drivers_program(nvidia_smi: Path) -> None:
    found = gpus.program({"PATH": str(nvidia_smi.parent)})
    first, second = await gpus.read(found)
    assert first == {"name": "NVIDIA A100", "utilization": 97.0, "memory": GIB, "memory_total": 40 * GIB}
    assert second["utilization"] is None


def test_a_launch_without_a_gpu_asks_nobody(nvidia_smi: Path) -> None:
    assert gpus.program({"PATH": str(nvidia_smi.parent), "NVIDIA_VISIBLE_DEVICES": "void"}) is None
    assert gpus.program({"PATH": "/nowhere"}) is None


@pytest.mark.parametrize("script", ["exit 9", "echo nonsense", "exec sleep 60"])
def test_a_driver_that_does_not_answer_is_no_gpu(
    nvidia_smi: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "SECONDS", 0.3)
    nvidia_smi.write_text(f"#!/bin/sh\n{script}\n")
    assert asyncio.run(gpus.read(str(nvidia_smi))) == []


# -- disk


def write(path: Path, megabytes: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(4096) * int(megabytes * 256))


def test_what_takes_the_space_is_said_where_it_says_most(tmp_path: Path) -> None:
    write(tmp_path / "data/raw/2024.parquet", 12)
    write(tmp_path / "data/readme.txt", 0.01)
    for number in range(4):
        write(tmp_path / f"models/{number}.pt", 2)
    write(tmp_path / "notes.ipynb", 0.5)
    found = disk.survey(tmp_path)
    assert found.complete and 20.4e6 < found.size < 22.5e6
    assert [name for name, _ in found.largest()] == ["data/raw/2024.parquet", "models"]
    assert dict(found.largest())["models"] == pytest.approx(8 * 2**20, rel=0.01)


def test_a_file_with_two_names_counts_once_and_a_link_not_at_all(tmp_path: Path) -> None:
    write(tmp_path / "inside/a", 4)
    os.link(tmp_path / "inside/a", tmp_path / "inside/b")
    write(tmp_path / "outside", 8)
    (tmp_path / "inside/c").symlink_to(tmp_path / "outside")
    (tmp_path / "inside/up").symlink_to(tmp_path)
    assert 4e6 < disk.survey(tmp_path / "inside").size < 4.5e6


def test_a_walk_ends_where_it_takes_too_long(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).touch()
    assert not disk.survey(tmp_path, limit=10).complete
    assert not disk.survey(tmp_path, seconds=-1).complete
    assert disk.survey(tmp_path).complete
    assert disk.survey(tmp_path / "gone") == disk.Survey()


def test_a_deep_tree_counts_into_what_is_above_it(tmp_path: Path) -> None:
    write(tmp_path / "a/b/c/d/e/f/g", 3)
    (name, size), *rest = disk.survey(tmp_path).largest()
    assert rest == [] and name == "a/b/c/d" and size >= 3 * 2**20


@pytest.mark.parametrize(
    ("total", "free", "files", "full"),
    [
        (20 * GIB, 10 * GIB, 1000, False),
        (20 * GIB, 63 * 2**20, 1000, True),
        (20 * GIB, 1 * GIB, 3, True),
        (20 * GIB, 1 * GIB, None, False),
        (100 * 2**20, 3 * 2**20, None, False),  # a small volume
        (100 * 2**20, 1 * 2**20, None, True),
        (0, 0, None, False),
    ],
)
def test_when_a_volume_is_full(total: int, free: int, files: int | None, full: bool) -> None:
    assert disk.Room(total, free, files).full is full


def test_a_volume_says_how_much_room_it_has(tmp_path: Path) -> None:
    found = disk.room(tmp_path)
    assert 0 < found.free <= found.total


def test_a_sample_is_quick() -> None:
    sampler = Sampler()
    start = time.perf_counter()
    for _ in range(5):
        sampler.take(Programs(), 0.0)
    assert (time.perf_counter() - start) / 5 < 0.25
