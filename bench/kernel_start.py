"""What Maestro adds to a kernel: time and memory of its start, and time of a cell: ``python -m bench.kernel_start``.

Kernels of the notebook servers' environment are started in turns: ipykernel's own, and the same with Maestro's
extension, in a workspace that records always (what costs most). A start is the processor time of the process up to the
kernel's first answer; its wall clock, which swings by more than what is measured on a busy machine, stands beside it.
Memory is what the process holds then (``VmRSS``). In each, 400 cells of ``pass`` are run by IPython itself, which calls
all that is registered around cells, and the median is taken; that they were recorded is looked at.

Asked: at most 20 ms, 10 MB and 0.2 ms more. Measured are differences of medians over pairs; beside them stand what a
bootstrap over the pairs says of their uncertainty, and the time that loading the extension takes by itself.
"""

from __future__ import annotations

import argparse
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

RESULT = ROOT / "bench/results/kernel_start.json"
#: what may be added, by measure
ASKED = {"start_ms": 20.0, "memory_mb": 10.0, "cell_ms": 0.2}
KINDS = ("ipykernel", "maestro")
SECONDS = 120.0
CELLS = """
import statistics, time
_shell, _times = get_ipython(), []
for _ in range({count}):
    _began = time.perf_counter()
    _shell.run_cell("pass", store_history=True)
    _times.append(time.perf_counter() - _began)
time.sleep(0.5)
print(statistics.median(_times) * 1000)
"""
LOAD = """
import time
_began = time.perf_counter()
import ipython_magics
ipython_magics.load_ipython_extension(get_ipython())
print((time.perf_counter() - _began) * 1000)
"""


def variables(home: str, kind: str) -> dict[str, str]:
    """What a launch gives its kernels, as far as the extension reads it."""
    shared = {
        "HOME": home,
        "IPYTHONDIR": f"{home}/.ipython",
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if kind == "ipykernel":
        return shared
    return shared | {
        "MAESTRO_LAUNCH_ID": "l-bench", "MAESTRO_WORKSPACE": "bench", "MAESTRO_WORKSPACE_DIR": home,
        "MAESTRO_CAPTURE": "always", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9/mlflow",
    }  # fmt: skip


def one(kind: str, cells: int, load: bool = False) -> dict[str, float]:
    """Start a kernel, look at it, run cells in it, end it.

    Args:
        load: load the extension by a cell, and say how long that takes.
    """
    from jupyter_client import KernelManager

    from tests.system.singleuser import prefix

    with tempfile.TemporaryDirectory() as home:
        manager = KernelManager()
        extension = ["--IPKernelApp.extra_extensions=ipython_magics"] if kind == "maestro" and not load else []
        manager.kernel_spec.argv = [
            str(prefix() / "bin/python"), "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}",
            *extension,
        ]  # fmt: skip
        began = time.perf_counter()
        manager.start_kernel(env=variables(home, kind), cwd=home, stderr=subprocess.DEVNULL)
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=SECONDS)
            took = (time.perf_counter() - began) * 1000
            if load:
                return {"load_ms": _said(client, LOAD)}
            used, memory = _processor(manager.provisioner.pid), _resident(manager.provisioner.pid)
            cell = _said(client, CELLS.format(count=cells))
            recorded = sum(file.read_text().count('"done"') for file in Path(home).glob(".local/**/*.jsonl"))
            if (recorded >= cells - 1) != (kind == "maestro"):
                raise RuntimeError(f"{recorded} of {cells} cells were recorded by {kind}")
            return {"start_ms": used, "memory_mb": memory, "cell_ms": cell, "wall_ms": took}
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def _said(client: Any, code: str) -> float:
    """The number that a cell prints last."""
    printed: list[str] = []

    def hear(message: Mapping[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=hear, timeout=SECONDS)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"the cell failed: {reply['content'].get('evalue')}")
    return float("".join(printed).split()[-1])


def _processor(pid: int) -> float:
    """Milliseconds that the threads of a process have run."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def _resident(pid: int) -> float:
    """MB that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def summary(found: Mapping[str, Sequence[Mapping[str, float]]], samples: int = 5000) -> dict[str, Any]:
    """By measure: the medians, their difference, and its uncertainty."""
    chance = random.Random(1)
    result: dict[str, Any] = {}
    for name, asked in ASKED.items():
        plain, ours = ([row[name] for row in found[kind]] for kind in KINDS)
        pairs = list(zip(plain, ours, strict=True))
        drawn = sorted(_difference(chance.choices(pairs, k=len(pairs))) for _ in range(samples))
        result[name] = {
            "added": round(_difference(pairs), 4), "asked": asked,
            "added_95_percent": [round(drawn[int(samples * share)], 4) for share in (0.025, 0.975)],
            "medians": {kind: round(statistics.median(row[name] for row in found[kind]), 4) for kind in KINDS},
        }  # fmt: skip
    return result


def _difference(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(ours for _, ours in pairs) - statistics.median(plain for plain, _ in pairs)


def _rounded(row: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in row.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write :data:`RESULT`; 0 if each measure is at most what is asked."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_start", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", "--count", type=int, default=20, help="kernels to start of each kind (20)")
    parser.add_argument("--cells", type=int, default=400, help="cells to run in each (400)")
    options = parser.parse_args(arguments)
    before = machine()
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    one("maestro", 10)  # what the disk has to bring in
    for turn in range(options.count):
        for kind in KINDS if turn % 2 else reversed(KINDS):
            found[kind].append(one(kind, options.cells))
    loads = [one("maestro", 0, load=True)["load_ms"] for _ in range(max(3, options.count // 4))]
    result = summary(found)
    made_by = f"python -m bench.kernel_start -n {options.count} --cells {options.cells}"
    everything = {
        "made_by": made_by, "machine": before, **result, "load_ms_median": round(statistics.median(loads), 2),
        "kernels": {kind: [_rounded(row) for row in found[kind]] for kind in KINDS},
    }  # fmt: skip
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(everything, indent=2) + "\n")
    for name, row in result.items():
        low, high = row["added_95_percent"]
        print(f"{name}: {row['added']:.3f} more ({low:.3f} to {high:.3f}), asked {row['asked']:g}")
    print(f"loading by itself {everything['load_ms_median']} ms; written to {RESULT.relative_to(ROOT)}")
    return 0 if all(row["added"] <= row["asked"] for row in result.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
