"""How long a job takes to its first cell, against nbconvert --execute: ``python -m bench.job_start [-n 20]``.

The same notebook is run from the same environment, in turns, by nbconvert in a plain process, and as a job: by the
service's runner in a sandbox, with a worker that asks for its work, makes the launch's own environment for kernels, and
opens a run at MLflow. Its first cell writes down when it runs. Time counts from the process's start (nbconvert), and
from the runner's being asked (job), so the queue's wait for quota is no part of it; service and MLflow answer at once.

The measure is the ratio of the medians, asked to be at most 1.5; beside it stand the quartiles and what a bootstrap
over the pairs says of the ratio's uncertainty.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.launch import machine  # noqa: E402

RESULT = ROOT / "bench/results/job_start.json"
ASKED = 1.5
KINDS = ("nbconvert", "job")
SECONDS = 120.0
#: what the first cell does; a clock that all processes of the machine share
STAMP = "import time\nwith open({place!r}, 'w') as file:\n    file.write(str(time.monotonic()))"


def nbconvert() -> float:
    """Seconds to the first cell of one run by nbconvert."""
    from tests.system.singleuser import prefix
    from tests.system.test_job_worker import notebook

    with tempfile.TemporaryDirectory() as folder:
        stamp = Path(folder) / "stamp"
        (Path(folder) / "train.ipynb").write_text(notebook(STAMP.format(place=str(stamp)), "2 + 2"))
        environment = {"PATH": f"{prefix()}/bin:{os.environ['PATH']}", "HOME": folder, "LANG": "C.UTF-8"}
        command = [f"{prefix()}/bin/jupyter", "nbconvert", "--to", "notebook", "--execute", "train.ipynb"]
        began = time.monotonic()
        command += ["--output", "done"]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=SECONDS)
        return float(stamp.read_text()) - began


async def job() -> float:
    """Seconds to the first cell of one job."""
    from tests.system import test_job_worker as kit

    asked: dict[str, float] = {}

    class Runner(kit.LocalRunner):
        async def start(self, plan: Any, work: Any) -> None:
            asked["at"] = time.monotonic()
            await super().start(plan, work)

    content = kit.notebook(STAMP.format(place="/workspace/stamp"), "2 + 2")
    async with kit.job(content, runner=Runner) as one:
        await one.over()
        assert one.done["outcome"] == "succeeded", one.done
        return float((one.workspace / "stamp").read_text()) - asked["at"]


def measure(count: int) -> dict[str, list[float]]:
    """Both in turns; the first of each is not counted."""
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(count + 1):
        for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
            seconds = nbconvert() if kind == "nbconvert" else asyncio.run(job())
            if number:
                took[kind].append(round(seconds, 4))
        if number:
            told = ", ".join(f"{kind} {took[kind][-1]:.2f} s" for kind in KINDS)
            print(f"  {number:2d} of {count}: {told}", flush=True)
    return took


def summary(took: Mapping[str, Sequence[float]], samples: int = 5000) -> dict[str, Any]:
    """The ratio of the medians with its spread, and each side's own."""
    pairs = list(zip(took["nbconvert"], took["job"], strict=True))
    chance = random.Random(1)
    drawn = sorted(_ratio(chance.choices(pairs, k=len(pairs))) for _ in range(samples))
    return {
        "ratio_of_medians": round(_ratio(pairs), 3),
        "ratio_95_percent": [round(drawn[int(samples * 0.025)], 3), round(drawn[int(samples * 0.975)], 3)],
        "asked": ASKED,
        "seconds": {kind: _quartiles(values) for kind, values in took.items()},
    }


def _quartiles(values: Sequence[float]) -> dict[str, float]:
    found = statistics.quantiles(values, n=4)
    return {name: round(value, 3) for name, value in zip(("q1", "median", "q3"), found, strict=True)}


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(pair[1] for pair in pairs) / statistics.median(pair[0] for pair in pairs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write :data:`RESULT`; 0 if the ratio is at most :data:`ASKED`."""
    parser = argparse.ArgumentParser(prog="python -m bench.job_start", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", "--count", type=int, default=20, help="runs of each kind (20)")
    options = parser.parse_args(arguments)
    before = machine()
    took = measure(options.count)
    result = summary(took)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    made_by = f"python -m bench.job_start -n {options.count}"
    RESULT.write_text(json.dumps({"made_by": made_by, "machine": before, **result, "starts": took}, indent=2) + "\n")
    low, high = result["ratio_95_percent"]
    print(f"ratio {result['ratio_of_medians']:.3f} ({low:.3f} to {high:.3f}), asked {ASKED:.2f}")
    print(f"written to {RESULT.relative_to(ROOT)}")
    return 0 if result["ratio_of_medians"] <= ASKED else 1


if __name__ == "__main__":
    raise SystemExit(main())
