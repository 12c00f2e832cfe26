"""How much longer a notebook server takes to start with Maestro's spawner: ``python -m bench.launch [-n 20]``.

Two Hubs that are alike but for the spawner (JupyterHub's SimpleLocalProcessSpawner, and ours with its question to the
workspaces service, its sandbox and its confirmation) start the same notebook server from the same environment with the
same variables, in turns. A start counts from the request to the Hub until the server answers through the proxy. Both
Hubs run all the time, with one workspaces service each, so whatever else the machine does meets both.

A ratio below 1 is no free sandbox: the stock spawner leaves the waiting to the Hub, which looks at growing intervals of
up to 5 s, while ours looks every 50 ms whether the server listens. What ours adds and what that saves are one figure.

The measure is the ratio of the medians, asked to be at most 1.10; beside it stand the quartiles and what a bootstrap
over the pairs says of the ratio's uncertainty. Seconds are those of this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench/results/launch.json"
ASKED = 1.10
READY_SECONDS, SERVER_SECONDS = 120.0, 120.0
USER = "bench"
KINDS = ("stock", "maestro")

CONFIG = """
import json, os, sys
exec(compile(open({config!r}).read(), {config!r}, "exec"))
bench = json.load(open({settings!r}))
c.JupyterHub.services.append({{"name": "bench", "api_token": bench["token"]}})
c.JupyterHub.load_roles.append({{"name": "bench", "services": ["bench"], "scopes": ["admin:users", "admin:servers"]}})
c.Authenticator.allow_all = True
if bench["kind"] == "stock":
    c.JupyterHub.spawner_class = "simple"
    c.Spawner.cmd = [str(maestro.singleuser_prefix) + "/bin/python", "-P", "-m", "server_extension.start"]
    c.Spawner.environment.update(bench["environment"])
    c.SimpleLocalProcessSpawner.home_dir_template = bench["home"]
"""


class Hub:
    """One Hub with its proxy and its workspaces service, by ``maestro_hub_services.run`` on a state of its own.

    Args:
        kind: ``stock`` or ``maestro``.
        folder: for everything that it writes.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self._folder = kind, folder
        self._token = secrets.token_hex(16)
        folder.mkdir()
        self._process = self._start()
        self._url = self._wait_ready()
        headers = {"Authorization": f"token {self._token}"}
        self._api = httpx.Client(base_url=f"{self._url}hub/api/", headers=headers, timeout=SERVER_SECONDS)
        self._api.post(f"users/{USER}").raise_for_status()

    def _start(self) -> subprocess.Popen[bytes]:
        places = {name: self._folder / name for name in ("workspace", "home", "env")}
        for place in places.values():
            place.mkdir()
        settings, config = self._folder / "bench.json", self._folder / "config.py"
        settings.write_text(
            json.dumps(
                {
                    "kind": self.kind,
                    "token": self._token,
                    "home": str(places["home"]),
                    "environment": {
                        "MAESTRO_LAUNCH_ID": "bench",
                        "MAESTRO_WORKSPACE": "bench",
                        "MAESTRO_WORKSPACE_DIR": str(places["workspace"]),
                        "MAESTRO_ENV": str(places["env"]),
                        "MAESTRO_ROLE": "editor",
                        # A sandbox cannot write to the prefix either; and what root wrote there, only root could read.
                        "PYTHONDONTWRITEBYTECODE": "1",
                    },
                }
            )
        )
        config.write_text(CONFIG.format(config=str(ROOT / "jupyterhub_config.py"), settings=str(settings)))
        own = {"MAESTRO_STATE": str(self._folder / "state"), "MAESTRO_PORT": "0", "MAESTRO_SERVICES": "workspaces"}
        with (self._folder / "output").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "maestro_hub_services.run", "--config", str(config)],
                cwd=ROOT,
                env={**os.environ, **own},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _wait_ready(self) -> str:
        ready = self._folder / "state/run/ready.json"

        def look() -> str | None:
            if self._process.poll() is not None:
                raise SystemExit(f"The {self.kind} Hub ended:\n{(self._folder / 'output').read_text()}")
            return str(json.loads(ready.read_text())["url"]) if ready.exists() else None

        return until(look, READY_SECONDS, f"the {self.kind} Hub is ready")

    def start_and_stop(self) -> float:
        """Start the user's server, and stop it.

        Returns:
            seconds from the request until the server answered through the proxy.
        """
        began = time.perf_counter()
        answer = self._api.post(f"users/{USER}/server", json={})
        if not answer.is_success:
            raise SystemExit(f"The {self.kind} Hub refused the start: {answer.text}")
        until(self._answers, SERVER_SECONDS, f"a server of the {self.kind} Hub answers", pause=0.01)
        took = time.perf_counter() - began
        self._api.delete(f"users/{USER}/server").raise_for_status()
        until(self._gone, SERVER_SECONDS, f"a server of the {self.kind} Hub has stopped")
        return took

    def _answers(self) -> bool:
        answer = self._api.get(f"{self._url}user/{USER}/api", follow_redirects=False)
        return answer.is_success and "version" in answer.text

    def _gone(self) -> bool:
        return not self._api.get(f"users/{USER}").json()["servers"]

    def end(self) -> None:
        """End it and what it started."""
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        self._process.kill()


def until(what: Callable[[], Any], seconds: float, told: str, pause: float = 0.05) -> Any:
    """Ask until the answer is true.

    Raises:
        SystemExit: it did not become true in time.
    """
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := what():
            return found
        time.sleep(pause)
    raise SystemExit(f"Gave up: {told} was not so within {seconds:.0f} s.")


@contextlib.contextmanager
def hubs() -> Iterator[dict[str, Hub]]:
    """Both Hubs, running."""
    folder = Path(tempfile.mkdtemp(prefix="maestro-bench-"))
    running: dict[str, Hub] = {}
    try:
        for kind in KINDS:
            running[kind] = Hub(kind, folder / kind)
        yield running
    finally:
        for hub in running.values():
            hub.end()
        shutil.rmtree(folder, ignore_errors=True)


def measure(running: Mapping[str, Hub], count: int) -> dict[str, list[float]]:
    """Start ``count`` servers on each Hub in turns (ABBA), after one on each that is not counted."""
    for kind in KINDS:
        running[kind].start_and_stop()
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(count):
        for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
            took[kind].append(running[kind].start_and_stop())
        stock, maestro = took["stock"][-1], took["maestro"][-1]
        print(f"  {number + 1:2d} of {count}: stock {stock:.2f} s, maestro {maestro:.2f} s", flush=True)
    return took


def summary(took: Mapping[str, Sequence[float]], samples: int = 5000) -> dict[str, Any]:
    """The ratio of the medians with its spread, and each side's own."""
    pairs = list(zip(took["stock"], took["maestro"], strict=True))
    chance = random.Random(1)
    drawn = sorted(_ratio(chance.choices(pairs, k=len(pairs))) for _ in range(samples))
    return {
        "ratio_of_medians": round(_ratio(pairs), 3),
        "ratio_95_percent": [round(drawn[int(samples * 0.025)], 3), round(drawn[int(samples * 0.975)], 3)],
        "asked": ASKED,
        "seconds": {kind: _spread(values) for kind, values in took.items()},
    }


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(pair[1] for pair in pairs) / statistics.median(pair[0] for pair in pairs)


def _spread(values: Sequence[float]) -> dict[str, float]:
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    named = {"min": min(values), "q1": quarters[0], "median": quarters[1], "q3": quarters[2], "max": max(values)}
    return {name: round(value, 3) for name, value in named.items()}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 1024**3, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "root": os.geteuid() == 0,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write :data:`RESULT`; 0 if the ratio is at most :data:`ASKED`."""
    parser = argparse.ArgumentParser(prog="python -m bench.launch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", "--count", type=int, default=20, help="servers to start on each Hub (20)")
    options = parser.parse_args(arguments)
    before = machine()
    print(f"Starting {options.count} servers on each of two Hubs, in turns ...", flush=True)
    with hubs() as running:
        took = measure(running, options.count)
    result = summary(took)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    made_by = f"python -m bench.launch -n {options.count}"
    everything = {"made_by": made_by, "machine": before, **result, "starts": took}
    RESULT.write_text(json.dumps(everything, indent=2) + "\n")
    low, high = result["ratio_95_percent"]
    print(f"ratio {result['ratio_of_medians']:.3f} ({low:.3f} to {high:.3f}), asked {ASKED:.2f}")
    print(f"written to {RESULT.relative_to(ROOT)}")
    return 0 if result["ratio_of_medians"] <= ASKED else 1


if __name__ == "__main__":
    raise SystemExit(main())
