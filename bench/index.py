"""How fast the package index is: ``python -m bench.index [--seconds 4] [--rounds 5]``.

One upstream on loopback, and before it our index, proxpi and simple-repository-server (installed by name into an
environment of their own), each with one worker process, asked in turns by the same client.

Measures: a page of 2.2 MB with 4 connections, uncompressed, at least 5 times proxpi's and 100 times
simple-repository-server's rate; with gzip, as pip asks for it, at least 500 requests a second; ``pip install`` of 30
wheels through the index at most 1.10 times as long as from upstream itself, its cache full (with an empty one every
file travels twice over the same loopback: that figure is reported, without a goal); a file of 200 MB streams with less
than 40 MB more memory.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import index_world as world  # noqa: E402
from bench.launch import machine  # noqa: E402

RESULT = ROOT / "bench/results/index.json"
CONNECTIONS = 4
JSON = "application/vnd.pypi.simple.v1+json"
PROXPI, SERVER, GZIP, INSTALL, MEMORY = 5.0, 100.0, 500.0, 1.10, 40.0


def rate(server: world.Server, encoding: str, seconds: float) -> dict[str, float]:
    """Ask for the large page as fast as it comes: requests a second, and the median time of one in ms."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        headers = {"Accept": JSON, "Accept-Encoding": encoding, **server.headers}
        buffer = bytearray(1024**2)
        while time.perf_counter() < until:
            start = time.perf_counter()
            connection.request("GET", f"{server.simple if server.name != 'proxpi' else '/index/'}big/", headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"{server.name} answered {answer.status}")
            while answer.readinto(buffer):
                pass
            took.append(time.perf_counter() - start)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not took:
        raise RuntimeError(f"{server.name} gave no answer")
    return {
        "requests_per_second": round(len(took) / (time.perf_counter() - start), 1),
        "p50_ms": round(statistics.median(took) * 1000, 1),
    }


def pages(servers: list[world.Server], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """The rates of all servers, measured in turns."""
    cases = [(server, encoding) for server in servers for encoding in ("identity", "gzip")]
    found: dict[str, list[dict[str, float]]] = {}
    for server, encoding in cases:
        rate(server, encoding, 0.1)  # the first page is made
    for _ in range(rounds):
        random.shuffle(cases)
        for server, encoding in cases:
            found.setdefault(f"{server.name} {encoding}", []).append(rate(server, encoding, seconds))
    return {
        name: spread([it["requests_per_second"] for it in each])
        | {"p50_ms": statistics.median(it["p50_ms"] for it in each)}
        for name, each in sorted(found.items())
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Median, extremes, and all of it."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
        "all": [round(value, 3) for value in values],
    }


def install(variables: dict[str, str]) -> float:
    """Seconds that ``pip install`` of the thirty wheels takes into an empty folder."""
    with tempfile.TemporaryDirectory() as target:
        command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--no-compile", "-q", "--target", target]
        environment = {"PATH": os.environ["PATH"], "HOME": target, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
        start = time.perf_counter()
        subprocess.run([*command, world.BUNDLE], env=environment, check=True)
        took = time.perf_counter() - start
        if len(list(Path(target).glob("*.dist-info"))) != world.WHEELS:
            raise RuntimeError("not everything was installed")
        return took


def installs(ports: dict[str, int], rounds: int, folder: Path) -> dict[str, Any]:
    """Direct, through an index with an empty cache, and through the same with a full one, in turns."""
    took: dict[str, list[float]] = {"direct": [], "empty cache": [], "full cache": []}
    upstream = f"http://127.0.0.1:{ports['upstream']}/simple/"
    for number in range(rounds):
        with world.maestro(ports, folder / f"state{number}") as server:
            variables = world.client_variables(server, folder / "etc")
            for name in ("empty cache", "full cache"):
                pair = [name, "direct"]
                random.shuffle(pair)
                for each in pair:
                    direct = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": upstream}
                    took[each].append(install(direct if each == "direct" else variables))
    return {name: spread(values) for name, values in took.items()}


def memory(ports: dict[str, int], folder: Path) -> dict[str, Any]:
    """MB by which the index grows while it hands on a file of 200 MB that arrives, and again from its cache."""
    with world.maestro(ports, folder / "state-memory") as server:
        root = f"http://127.0.0.1:{server.port}"
        page = json.loads(_get(f"{root}{server.simple}{world.HUGE}/", {**server.headers, "Accept": JSON}))
        address = root + page["files"][0]["url"]
        grown = {}
        for name in ("arriving", "from the cache"):
            before = _status(server.pid, "VmRSS")
            Path(f"/proc/{server.pid}/clear_refs").write_text("5")
            start = time.perf_counter()
            size = world.read_all(address, server.headers)
            seconds = time.perf_counter() - start
            if size < world.HUGE_BYTES:
                raise RuntimeError("the file is not complete")
            grown[name] = {
                "grown_mb": round((_status(server.pid, "VmHWM") - before) / 1e6, 1),
                "before_mb": round(before / 1e6, 1),
                "mb_per_second": round(size / 1e6 / seconds, 1),
            }
        return grown


def _get(url: str, headers: dict[str, str]) -> bytes:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=60)
    connection.request("GET", "/" + url.split("/", 3)[3], headers=headers)
    return connection.getresponse().read()


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write :data:`RESULT`; 0 if the goals hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.index", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement of a page (4)")
    parser.add_argument("--rounds", type=int, default=5, help="of everything (5)")
    options = parser.parse_args(arguments)
    before = machine()
    with tempfile.TemporaryDirectory() as name, world.stub() as ports:
        folder = Path(name)
        print("a large page, in turns ...", flush=True)
        with world.rivals(ports, folder) as others, world.maestro(ports, folder / "state") as ours:
            rates = pages([ours, *others], options.rounds, options.seconds)
        print("pip install of 30 wheels ...", flush=True)
        seconds = installs(ports, options.rounds, folder)
        print("a file of 200 MB ...", flush=True)
        grown = memory(ports, folder)
    plain, direct = rates["maestro identity"]["median"], seconds["direct"]["median"]
    goals = {
        "page_times_proxpi": [plain / rates["proxpi identity"]["median"], ">=", PROXPI],
        "page_times_simple_repository_server": [
            plain / rates["simple-repository-server identity"]["median"], ">=", SERVER,
        ],
        "gzip_requests_per_second": [rates["maestro gzip"]["median"], ">=", GZIP],
        "install_times_direct": [seconds["full cache"]["median"] / direct, "<=", INSTALL],
        "memory_mb": [max(each["grown_mb"] for each in grown.values()), "<=", MEMORY],
    }  # fmt: skip
    measured = {
        name: {"measured": round(found, 3), "asked": f"{sign} {asked}", "holds": _holds(found, sign, asked)}
        for name, (found, sign, asked) in goals.items()
    }
    command = f"python -m bench.index --seconds {options.seconds:g} --rounds {options.rounds}"
    everything = {
        "made_by": command,
        "machine": before,
        "goals": measured,
        "page_requests_per_second": rates,
        "install_seconds": seconds,
        "install_with_empty_cache_times_direct": round(seconds["empty cache"]["median"] / direct, 3),
        "memory_of_200_mb": grown,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(everything, indent=2) + "\n")
    for goal, result in measured.items():
        print(f"{goal}: {result['measured']} (asked {result['asked']})")
    print(f"written to {RESULT.relative_to(ROOT)}")
    return 0 if all(result["holds"] for result in measured.values()) else 1


def _holds(found: float, sign: str, asked: float) -> bool:
    return found >= asked if sign == ">=" else found <= asked


if __name__ == "__main__":
    raise SystemExit(main())
