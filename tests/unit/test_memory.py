"""A kernel that was stopped because memory ran out, and what its user is told."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server_extension import provisioner
from server_extension.memory import GRACE, OutOfMemory, kernel_sentence, program_sentence, used_of
from server_extension.provisioner import MaestroProvisioner, raise_oom_score
from server_extension.usage.sampler import Sample

GIB = 2**30


def sample(used: float = 8, limit: float | None = 16, peak: float = 0, **more: Any) -> Sample:
    """A sample in GiB, of a server with a limit."""
    return Sample(
        memory=int(used * GIB),
        limit=None if limit is None else int(limit * GIB),
        peak=int(peak * GIB),
        **{"enforced": limit is not None, "oom_kills": 0} | more,
    )


# -- the sentences


@pytest.mark.parametrize(
    ("used", "peak", "limit", "shown"),
    [
        (15.9, 0, 16, "15.9 of 16 GiB"),
        (3.0, 15.87, 16, "15.9 of 16 GiB"),  # it grew between two samples
        (3.0, 16.0, 16, "16 of 16 GiB"),
        (3.0, 0, 16, "16 of 16 GiB"),  # no counter of the peak: that it was stopped says it
        (17.0, 17.0, 16, "16 of 16 GiB"),
        (0.39, 0, 0.390625, "399.4 of 400 MiB"),
        (1.4, 0, 1.5, "1.4 of 1.5 GiB"),
    ],
)
def test_the_figure_is_what_was_used_of_the_limit(used: float, peak: float, limit: float, shown: str) -> None:
    assert used_of(sample(used, limit, peak)) == shown


def test_a_kernel_that_used_it_all_is_named_with_what_to_do() -> None:
    seen = sample(15.9, kernels={"k-1": 15 * GIB, "k-2": GIB})
    assert kernel_sentence(seen, "k-1", "train.ipynb") == (
        "The kernel of train.ipynb was stopped: it used 15.9 of 16 GiB; ask for a larger profile, or load less at once."
    )
    assert kernel_sentence(seen, "k-1", None).startswith("A kernel was stopped: it used 15.9 of 16 GiB;")


def test_other_kernels_that_share_the_memory_are_named_too() -> None:
    seen = sample(15.9, kernels={"k-1": 8 * GIB, "k-2": 7 * GIB})
    assert kernel_sentence(seen, "k-1", "a.ipynb") == (
        "The kernel of a.ipynb was stopped: with the other kernels it used 15.9 of 16 GiB; shut down kernels that you "
        "do not need, ask for a larger profile, or load less at once."
    )


def test_where_no_limit_is_seen_none_is_named() -> None:
    seen = sample(3.2, None, kernels={"k-1": int(3.2 * GIB)})
    assert kernel_sentence(seen, "k-1", "a.ipynb") == (
        "The kernel of a.ipynb was stopped: memory ran out; it held 3.2 GiB when it was last looked at. Load less at "
        "once, or ask for a larger profile."
    )
    assert "it held" not in kernel_sentence(sample(3.2, None), "k-1", "a.ipynb")


def test_a_program_is_told_from_a_kernel() -> None:
    assert program_sentence(sample(16)).startswith("A program in this server was stopped: all together used 16 of 16")


# -- the evidence


class Watched:
    """A watcher whose counter and clock the test turns."""

    def __init__(self, kills: int | None = 4) -> None:
        self.kills = kills
        self.now = 100.0
        self.told: list[str] = []
        self.watcher = OutOfMemory(
            lambda: self.kills, lambda name, _: self.told.append(name), self._notebook, lambda: self.now
        )

    async def _notebook(self, kernel_id: str) -> str | None:
        return f"{kernel_id}.ipynb"

    def look(self, **more: Any) -> None:
        self.watcher.look(sample(oom_kills=self.kills, **more))


async def test_a_kernel_is_explained_when_the_counter_rose() -> None:
    watched = Watched()
    watched.look()
    watched.kills = 5
    await watched.watcher.kernel_killed("k-1")
    assert watched.told == ["memory-k-1"]
    watched.look()
    watched.now += GRACE + 1
    watched.look()
    assert watched.told == ["memory-k-1"], "once"


@pytest.mark.parametrize("kills", [4, None])
async def test_a_kernel_that_somebody_killed_is_not(kills: int | None) -> None:
    watched = Watched(kills)
    await watched.watcher.kernel_killed("k-1")
    assert watched.told == []


async def test_a_sample_that_sees_the_counter_first_leaves_it_to_the_kernel() -> None:
    watched = Watched()
    watched.kills = 5
    watched.look()
    watched.now += 3
    watched.look()
    await watched.watcher.kernel_killed("k-1")
    assert watched.told == ["memory-k-1"]


def test_a_kill_that_no_kernel_died_of_was_a_programs() -> None:
    watched = Watched()
    watched.kills = 5
    watched.look()
    assert watched.told == []
    watched.now += GRACE + 1
    watched.look()
    watched.look()
    assert watched.told == ["memory-program"]


def test_another_programs_end_on_the_same_machine_is_not_ours() -> None:
    watched = Watched()
    watched.kills = 5
    watched.look(limit=None)
    watched.now += GRACE + 1
    watched.look(limit=None)
    assert watched.told == []


# -- the kernel's process


@pytest.mark.parametrize(
    ("server", "kernel"), [("0", "500"), ("-998", "500"), ("300", "800"), ("900", "1000"), ("1000", "1000")]
)
def test_a_kernels_score_is_above_its_servers(tmp_path: Path, server: str, kernel: str) -> None:
    for name, score in (("self", server), ("7", server)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "oom_score_adj").write_text(f"{score}\n")
    raise_oom_score(7, tmp_path)
    assert (tmp_path / "7/oom_score_adj").read_text() == kernel
    raise_oom_score(8, tmp_path)  # it has ended already


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(provisioner, "killed", [told.append])
    return told


def kernel(killed: list[str]) -> MaestroProvisioner:
    """A provisioner with a process that sleeps in the kernel's place."""
    made = MaestroProvisioner(kernel_id="k-1")
    made.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    made.pid = made.pgid = made.process.pid
    return made


async def test_a_kernel_that_is_killed_from_outside_is_told_once(killed: list[str]) -> None:
    process = kernel(killed)
    assert await process.poll() is None and killed == []
    process.process.kill()
    process.process.wait()
    for _ in range(3):
        assert await process.poll() == -signal.SIGKILL
    assert killed == ["k-1"]


@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_a_kernel_that_the_server_ends_is_not(killed: list[str], end: str) -> None:
    process = kernel(killed)
    await getattr(process, end)()
    await process.wait()
    assert killed == []


async def test_a_kernel_that_ends_by_itself_is_not(killed: list[str]) -> None:
    process = kernel(killed)
    process.process.terminate()
    await process.wait()
    assert killed == []
