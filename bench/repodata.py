"""How long repodata of conda-forge's size takes through the package index: ``python -m bench.repodata [-n 400000]``.

An upstream on loopback has one folder with that many generated records (compressed as channels are, so that the hashes
do not shrink). The index runs as the service that it is, with a policy that holds back versions of some packages, so
that a changed copy has to be made. Cold is the first request on an empty cache: fetched, taken in, changed, sent.
Warm is the next one: asked again with the kept copy's ETag (304), and sent whole once more.

Measures: cold at most 20 s, in at most 2 GiB (the service and its worker, each at its peak, added); warm at most 20 ms
(median of the 304s, and of the time to the first byte).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import zstandard

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.launch import machine  # noqa: E402
from tests import conda_kit, package_kit  # noqa: E402
from tests.index_service import index_service  # noqa: E402

RESULT = ROOT / "bench/results/repodata.json"
COLD_SECONDS, COLD_BYTES, WARM_SECONDS = 20.0, 2 * 1024**3, 0.020
PATH = "conda/t/alive/conda-forge/linux-64/repodata.json.zst"
#: rules about versions: of each, some records change
RULES = [f"package-{number}>=2" for number in range(200)]


def repodata(count: int) -> bytes:
    """A document with that many records, alike to conda-forge's in length; the same in every run."""
    chance = random.Random(1)
    packages: dict[str, Any] = {}
    for number in range(count):
        name, version = f"package-{number % (count // 20 or 1)}", f"{number % 5}.{number % 17}.{number % 7}"
        build = f"py31{number % 4}h{number:07x}_{number % 3}"
        depends = [f"package-{chance.randrange(count)} >={number % 5},<{number % 5 + 1}.0a0" for _ in range(6)]
        packages[f"{name}-{version}-{build}.conda"] = {
            "build": build,
            "build_number": number % 3,
            "depends": [*depends, "libgcc-ng >=12", "python >=3.11,<3.12.0a0", "python_abi 3.11.* *_cp311"],
            "constrains": ["other-package >=1.2.3"],
            "license": "BSD-3-Clause",
            "license_family": "BSD",
            "md5": hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest(),
            "name": name,
            "sha256": hashlib.sha256(str(number).encode()).hexdigest(),
            "size": chance.randrange(10_000_000),
            "subdir": "linux-64",
            "timestamp": 1_600_000_000_000 + number,
            "version": version,
        }
    return json.dumps({"info": {"subdir": "linux-64"}, "packages": {}, "packages.conda": packages}).encode()


class Watch(threading.Thread):
    """What a process and its children use: their largest memory in bytes (VmHWM), their time on a core in seconds."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peaks: dict[int, int] = {}
        self.cores: dict[int, float] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            for pid in [self.pid, *self._children()]:
                with contextlib.suppress(OSError, StopIteration):
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    told = next(line for line in lines if line.startswith("VmHWM"))
                    self.peaks[pid] = max(self.peaks.get(pid, 0), int(told.split()[1]) * 1024)
                    spent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
                    self.cores[pid] = sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> tuple[int, int, float]:
        """Memory of the process, and of its largest child; time of all together."""
        self._over.set()
        self.join()
        child = max((size for pid, size in self.peaks.items() if pid != self.pid), default=0)
        return self.peaks[self.pid], child, sum(self.cores.values())

    def _children(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        return []


def measure(url: str, pid: int, warm: int) -> dict[str, Any]:
    """One cold request, then warm ones."""
    watch = Watch(pid)
    watch.start()
    with httpx.Client(timeout=300, trust_env=False) as client:
        began = time.perf_counter()
        answer = client.get(url)
        cold = time.perf_counter() - began
        service, worker, cores = watch.stop()
        answer.raise_for_status()
        document = json.loads(zstandard.ZstdDecompressor().decompress(answer.content))
        changed = sum(1 for it in document["packages.conda"].values() if "is-blocked-by" in it["depends"][0])
        kept, first, whole = [], [], []
        for _ in range(warm):
            began = time.perf_counter()
            told = client.get(url, headers={"If-None-Match": answer.headers["etag"]})
            kept.append(time.perf_counter() - began)
            assert told.status_code == 304
            began = time.perf_counter()
            with client.stream("GET", url) as stream:
                parts = stream.iter_raw()
                next(parts)
                first.append(time.perf_counter() - began)
                for _ in parts:
                    pass
            whole.append(time.perf_counter() - began)
    return {
        "records": len(document["packages.conda"]),
        "records_changed": changed,
        "megabytes_sent": round(len(answer.content) / 1e6, 1),
        "cold_seconds": round(cold, 2),
        "cold_seconds_on_a_core": round(cores, 2),
        "peak_mib": {"service": service // 1024**2, "worker": worker // 1024**2},
        "warm_milliseconds": {name: spread(values) for name, values in
                              (("304", kept), ("first_byte", first), ("whole", whole))},
    }  # fmt: skip


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes, in milliseconds."""
    named = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: round(value * 1000, 2) for name, value in named.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write :data:`RESULT`; 0 if every measure holds."""
    parser = argparse.ArgumentParser(prog="python -m bench.repodata", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", "--records", type=int, default=400_000, help="records of the folder (400000)")
    parser.add_argument("-w", "--warm", type=int, default=30, help="warm requests of each kind (30)")
    options = parser.parse_args(arguments)
    before = machine() | {"niceness": os.nice(0)}
    plain = repodata(options.records)
    print(f"{options.records} records, {len(plain) / 1e6:.0f} MB unpacked ...", flush=True)
    channels = conda_kit.Channels()
    channels.files["/conda-forge/linux-64/repodata.json.zst"] = zstandard.compress(plain)
    size = len(plain)
    del plain
    with (
        package_kit.upstream_and_authority() as (_, authority),
        package_kit.running((channels.app(), lambda port: setattr(channels, "port", port))),
    ):
        authority.rule(blocked_packages=RULES, index={"channel_alias": channels.url})
        with tempfile.TemporaryDirectory() as state, index_service(authority, Path(state)) as index:
            result = measure(f"{index.url}/{PATH}", index.pid, options.warm)
    warm, peak = result["warm_milliseconds"], sum(result["peak_mib"].values()) * 1024**2
    held = {
        "cold": result["cold_seconds"] <= COLD_SECONDS,
        "memory": peak <= COLD_BYTES,
        "warm": max(warm["304"]["median"], warm["first_byte"]["median"]) <= WARM_SECONDS * 1000,
    }
    asked = {"cold_seconds": COLD_SECONDS, "peak_mib": COLD_BYTES // 1024**2, "warm_milliseconds": WARM_SECONDS * 1000}
    made_by = f"python -m bench.repodata -n {options.records} -w {options.warm}"
    everything = {"made_by": made_by, "machine": before, "megabytes_unpacked": round(size / 1e6), **result}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(everything | {"asked": asked, "held": held}, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    print(f"written to {RESULT.relative_to(ROOT)}")
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
