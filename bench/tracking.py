"""What tracking costs a notebook: ``python -m bench.tracking [-n 300]``.

Two servers run side by side: a plain ``mlflow server`` (one worker, sqlite), asked directly by MLflow's own client,
and Maestro's behind a Hub and its proxy, asked as a notebook asks it: with the server's token, the gate, the store that
keeps what cannot be sent. One process asks them in turns, so that what disturbs the machine disturbs both.

Measures, ratios of medians in one run: ``%mlflow_log_metric`` over ``mlflow.log_metric`` at most 1.05 (in turns too);
``log_metric`` through the Hub over direct at most 2.0; 1,000 metrics in a batch at most 1.2. Beside them: how long
Maestro's MLflow takes to its first answer (7 s) and what it holds (550 MB), and that the Hub answers before it; those
are goals for the machine that is named, and decide nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.launch import machine  # noqa: E402

RESULT = ROOT / "bench/results/tracking.json"
MAGIC, SINGLE, BATCH = 1.05, 2.0, 1.2
READY_SECONDS, MEMORY_MB = 7.0, 550.0
METRICS = 1000
#: seconds that a server has to come up
SECONDS = 120.0


# -- the process that asks


def ask(count: int, plain: str) -> dict[str, list[float]]:
    """Milliseconds of each call, by what was called; in the environment of a launch."""
    import mlflow
    from IPython.core.interactiveshell import InteractiveShell

    import ipython_magics
    from ipython_magics.mlflow_plugins import store
    from ipython_magics.spool import road

    # Nothing is to be kept for later here: on a busy machine that would be measured as fast.
    road.SLOW, store.QUICK = 60.0, (60.0, 60.0)
    shell = InteractiveShell()
    ipython_magics.load_ipython_extension(shell)
    ours, direct = mlflow.MlflowClient(), mlflow.MlflowClient(plain)
    run = mlflow.start_run()
    runs = {"ours": (ours, run.info.run_id), "direct": (direct, direct.create_run("0").info.run_id)}
    took: dict[str, list[float]] = {
        name: [] for name in ("ours", "direct", "batch ours", "batch direct", "magic", "raw")
    }

    def timed(name: str, call: Callable[[], Any]) -> None:
        began = time.perf_counter()
        call()
        took[name].append((time.perf_counter() - began) * 1000)

    for turn in range(count + 20):
        if turn == 20:  # connections, caches and databases are warm
            took.update({name: [] for name in took})
        for name in random.sample(sorted(runs), 2):
            client, run_id = runs[name]
            timed(name, lambda c=client, r=run_id, t=turn: c.log_metric(r, "m", float(t), step=t))  # type: ignore[misc]
        turns: dict[str, Callable[[], Any]] = {
            "magic": lambda t=turn: shell.run_line_magic("mlflow_log_metric", f"a {t} --step {t}"),  # type: ignore[misc]
            "raw": lambda t=turn: mlflow.log_metric("b", float(t), step=t),  # type: ignore[misc]
        }
        for name in random.sample(sorted(turns), 2):
            timed(name, turns[name])
        if turn % 10 == 0:
            for name in random.sample(sorted(runs), 2):
                client, run_id = runs[name]
                found = [mlflow.entities.Metric("k", float(at), turn, turn * METRICS + at) for at in range(METRICS)]
                timed(f"batch {name}", lambda c=client, r=run_id, f=found: c.log_batch(r, metrics=f))  # type: ignore[misc]
    mlflow.end_run()
    return took


# -- the servers


def plain_server(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """MLflow's own server, with one worker."""
    import httpx

    from tests.system.singleuser import free_port, until

    port = free_port()
    environ = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/plain.sqlite", "--artifacts-destination", str(folder / "plain")),
    ]
    with (folder / "plain.log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/health").status_code == 200
        except httpx.TransportError:
            return False

    until(ready, "mlflow server answers", SECONDS)
    return process, url


def starts(count: int) -> list[dict[str, float]]:
    """For each start of Maestro's MLflow alone: seconds to its first answer, and what it holds then."""
    from tests.system.mlflow_alone import MlflowAlone
    from tests.system.tracking_hub import memory_mb

    found = []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            alone = MlflowAlone(Path(folder))
            found.append({"seconds": time.monotonic() - began, "mb": memory_mb(alone._process.pid)})
            alone.close()
    return found


def measured(count: int, folder: Path) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The calls' times, and when the Hub and MLflow answered first after a start of both."""
    import httpx

    from tests.system.tracking_hub import TrackingHub

    hub = TrackingHub(folder)
    hub.workspaces.member("ed", reef="editor")
    hub.workspaces.servers["ed", "reef"] = {"reef": {"role": "editor"}}
    began, seen = time.monotonic(), {}
    healthy = hub._healthy

    def look() -> bool:
        if "hub" not in seen:
            try:
                if httpx.get(f"{hub.url}/hub/health").status_code == 200:
                    seen["hub"] = time.monotonic() - began
            except httpx.TransportError:
                return False
        return healthy()

    hub._healthy = look  # type: ignore[method-assign]
    plain: subprocess.Popen[bytes] | None = None
    try:
        hub.start()
        seen["mlflow"] = time.monotonic() - began
        plain, url = plain_server(folder)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAESTRO_", "MLFLOW_"))}
        environ |= launch(f"{hub.url}/services/mlflow", hub.token("ed", "reef"), folder)
        command = [sys.executable, "-m", "bench.tracking", "-n", str(count), "--ask", url]
        done = subprocess.run(command, cwd=ROOT, env=environ, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.strip().splitlines()[-1]), seen
    finally:
        if plain is not None:
            os.killpg(plain.pid, signal.SIGTERM)
            plain.wait()
        hub.close()


def launch(url: str, token: str, folder: Path) -> dict[str, str]:
    """The environment of a launch, without the workspace's name: the plain server has none, and Ed belongs to one."""
    return {
        "PYTHONPATH": str(ROOT),
        "MAESTRO_LAUNCH_ID": "l-1",
        "MAESTRO_WORKSPACE": "reef",
        "MAESTRO_USER": "ed",
        "MAESTRO_EXPERIMENT": "reef",
        "MAESTRO_TRACKING_URI": url,
        "MAESTRO_TRACKING_SPOOL": str(folder / "spool"),
        "MLFLOW_TRACKING_URI": url,
        "MLFLOW_TRACKING_AUTH": "maestro",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "JUPYTERHUB_API_TOKEN": token,
    }


# -- the figures


def ratio(took: Mapping[str, list[float]], one: str, other: str, asked: float) -> dict[str, Any]:
    """The ratio of the medians, what a bootstrap over the turns says of its uncertainty, and the quartiles (ms)."""
    pairs = list(zip(took[one], took[other], strict=True))
    chance = random.Random(1)
    again = sorted(
        statistics.median(a for a, _ in drawn) / statistics.median(b for _, b in drawn)
        for drawn in (chance.choices(pairs, k=len(pairs)) for _ in range(500))
    )
    found = statistics.median(took[one]) / statistics.median(took[other])
    return {
        "ratio": round(found, 3),
        "likely": [round(again[12], 3), round(again[487], 3)],
        "asked": asked,
        "holds": found <= asked,
        "turns": len(pairs),
        one: _quartiles(took[one]),
        other: _quartiles(took[other]),
    }


def _quartiles(values: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in statistics.quantiles(values, n=4)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the result; 0 if every measure held."""
    parser = argparse.ArgumentParser(prog="python -m bench.tracking", description=__doc__)
    parser.add_argument("-n", type=int, default=300, help="turns, 300 if not said")
    parser.add_argument("--ask", metavar="URL", default="", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.ask:
        print(json.dumps(ask(given.n, given.ask)))
        return 0
    result: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        took, seen = measured(given.n, Path(folder))
    result["%mlflow_log_metric over mlflow.log_metric"] = ratio(took, "magic", "raw", MAGIC)
    result["log_metric through the Hub over direct"] = ratio(took, "ours", "direct", SINGLE)
    result["1,000 metrics in a batch through the Hub over direct"] = ratio(took, "batch ours", "batch direct", BATCH)
    began = starts(3)
    slowest, largest = max(one["seconds"] for one in began), max(one["mb"] for one in began)
    result["MLflow alone, three starts"] = {
        "seconds": [round(one["seconds"], 2) for one in began],
        "mb": [round(one["mb"]) for one in began],
        "asked": [READY_SECONDS, MEMORY_MB],
        "holds": slowest <= READY_SECONDS and largest <= MEMORY_MB,
    }
    result["Hub and MLflow started together"] = {
        "seconds to the Hub's first answer": round(seen["hub"], 2),
        "seconds to MLflow's": round(seen["mlflow"], 2),
        "holds": seen["hub"] <= seen["mlflow"],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0 if all(one["holds"] for one in result.values() if "ratio" in one) else 1


if __name__ == "__main__":
    raise SystemExit(main())
