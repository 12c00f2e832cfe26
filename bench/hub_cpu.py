"""What a spawn costs the Hub on Kubernetes, ours over stock KubeSpawner: ``python -m bench.hub_cpu [-n 8]``.

Two Hubs that are alike but for the spawner run on the cluster of ``KUBECONFIG`` all the time, with the rights of
``tests/cluster/rbac.yaml`` and one workspaces service each; their servers are pods on its fake nodes (label ``type:
fake``), which cost nothing. In turns (ABBA) 50 people start a server at once on one of them, and stop it again. Stock
is as bare as can be: an image, amounts, no volumes, no variables; ours asks the service, mounts claims and confirms.

Hub CPU is what the Hub's process used (user and system) from the first request until a second after the last server was
ready, by the number of servers; the service's own process stands beside it. ``POST /servers`` counts from the request
until the Hub's answer, with 50 at once. Each side's first round, which makes people's claims, is not counted.

Measures: Hub CPU a spawn at most 1.10 of stock (ratio of the medians of the rounds); p95 of ``POST /servers`` at most
1.15 (over all requests). Beside them stands what a bootstrap over the rounds says of the ratio's uncertainty.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.launch import machine, until  # noqa: E402
from tests.cluster.cluster import KUBE, Cluster, node_address, service_account_kubeconfig  # noqa: E402

RESULT = ROOT / "bench/results/hub_cpu.json"
ASKED_CPU, ASKED_P95 = 1.10, 1.15
KINDS = ("stock", "maestro")
PEOPLE, PORT = 50, 8888
SECONDS = 120.0
TICKS = os.sysconf("SC_CLK_TCK")
NODES = {"type": "fake"}
TOLERATIONS = [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}]
POLICY = {
    "profiles": [{"name": "small", "cpu": 0.1, "memory": "64Mi", "node_selector": NODES, "tolerations": TOLERATIONS}]
}
CONFIG = """
import json
exec(compile(open({config!r}).read(), {config!r}, "exec"))
bench = json.load(open({settings!r}))
c.JupyterHub.services.append({{"name": "bench", "api_token": bench["token"]}})
c.JupyterHub.load_roles.append({{"name": "bench", "services": ["bench"], "scopes": ["admin:users", "admin:servers"]}})
c.Authenticator.allow_all = True
c.KubeSpawner.namespace, c.KubeSpawner.image = bench["namespace"], "lab:1"
if bench["kind"] == "stock":
    c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
    c.KubeSpawner.node_selector, c.KubeSpawner.tolerations = bench["nodes"], bench["tolerations"]
    c.KubeSpawner.cpu_limit = c.KubeSpawner.cpu_guarantee = 0.1
    c.KubeSpawner.mem_limit = c.KubeSpawner.mem_guarantee = "64M"
"""


@dataclass(frozen=True)
class Round:
    """One round of one side: milliseconds of CPU a server, and of each request."""

    hub_ms: float
    service_ms: float
    posts_ms: tuple[float, ...]
    stop_ms: float


class Hub:
    """One Hub with its services, by ``maestro_hub_services.run``, whose servers are pods of a namespace of its own."""

    def __init__(self, kind: str, folder: Path, cluster: Cluster) -> None:
        self.kind, self._folder, self._cluster = kind, folder, cluster
        self._token = secrets.token_hex(16)
        folder.mkdir()
        self._process = self._start()
        ready = folder / "state/run/ready.json"
        until(lambda: self._alive() and ready.exists(), SECONDS, f"the {kind} Hub is ready")
        self.url = str(json.loads(ready.read_text())["url"])
        self._proxy_token = (folder / "state/keys/proxy_token").read_text().strip()
        of_proxy = _command(self._pid("configurable-http-proxy")).split()
        self._proxy = f"http://127.0.0.1:{of_proxy[of_proxy.index('--api-port') + 1]}/api/routes"
        self._pids = {name: self._pid(name) for name in ("jupyterhub", "maestro_hub_services.workspaces")}

    def _start(self) -> subprocess.Popen[bytes]:
        folder, namespace = self._folder, self._cluster.namespace
        settings, config = folder / "bench.json", folder / "config.py"
        known = {"kind": self.kind, "token": self._token, "namespace": namespace}
        settings.write_text(json.dumps({**known, "nodes": NODES, "tolerations": TOLERATIONS}))
        config.write_text(CONFIG.format(config=str(ROOT / "jupyterhub_config.py"), settings=str(settings)))
        (folder / "maestro.yaml").write_text(yaml.safe_dump(POLICY))
        own = {
            "MAESTRO_STATE": str(folder / "state"),
            "MAESTRO_PORT": "0",
            "MAESTRO_SERVICES": "workspaces",
            "MAESTRO_POLICY": str(folder / "maestro.yaml"),
            "MAESTRO_PROVIDER": "kubernetes",
            "MAESTRO_HOST": node_address(self._cluster),
            "MAESTRO_NAMESPACE": namespace,
            "MAESTRO_STORAGE_SIZE": "1Mi",
            "MAESTRO_STORAGE_CLASS": namespace,
            "KUBECONFIG": str(service_account_kubeconfig(self._cluster, folder)),
        }
        with (folder / "output").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "maestro_hub_services.run", "--config", str(config)],
                cwd=ROOT,
                env={**os.environ, **own},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _alive(self) -> bool:
        if self._process.poll() is not None:
            raise SystemExit(f"The {self.kind} Hub ended:\n{(self._folder / 'output').read_text()[-3000:]}")
        return True

    def _pid(self, program: str) -> int:
        """The process below ours that runs this."""
        found = [pid for pid in _below(self._process.pid) if program in _command(pid)]
        if not found:
            raise SystemExit(f"The {self.kind} Hub has no process {program}.")
        return found[0]

    def client(self) -> httpx.AsyncClient:
        """The Hub's API, as the bench's own service."""
        limits = httpx.Limits(max_connections=PEOPLE, max_keepalive_connections=PEOPLE)
        headers = {"Authorization": f"token {self._token}"}
        return httpx.AsyncClient(base_url=f"{self.url}hub/api/", headers=headers, timeout=SECONDS, limits=limits)

    def cpu(self, module: str) -> float:
        """Milliseconds of CPU that a process has used."""
        fields = Path(f"/proc/{self._pids[module]}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / TICKS

    async def prepare(self) -> None:
        """The people."""
        async with self.client() as api:
            (await api.post("users", json={"usernames": PEOPLE_NAMES})).raise_for_status()

    async def round(self) -> Round:
        """Everybody starts at once; when all run, everybody stops."""
        async with self.client() as api:
            hub, service = self.cpu("jupyterhub"), self.cpu("maestro_hub_services.workspaces")
            posts = await asyncio.gather(*(self._post(api, name) for name in PEOPLE_NAMES))
            await self._until_ready()
            await asyncio.sleep(1)  # confirmations follow
            used = self.cpu("jupyterhub") - hub
            of_service = self.cpu("maestro_hub_services.workspaces") - service
            await asyncio.gather(*(api.delete(f"users/{name}/server") for name in PEOPLE_NAMES))
            await self._until_gone(api)
            stopped = self.cpu("jupyterhub") - hub - used
        return Round(used / PEOPLE, of_service / PEOPLE, tuple(posts), stopped / PEOPLE)

    async def _post(self, api: httpx.AsyncClient, name: str) -> float:
        began = time.perf_counter()
        answer = await api.post(f"users/{name}/server", json={})
        if not answer.is_success:
            raise SystemExit(f"The {self.kind} Hub refused a start: {answer.text[:500]}")
        return (time.perf_counter() - began) * 1000

    async def _until_ready(self) -> None:
        """Look at the proxy's table, which costs the Hub nothing: a server's route is the last step of its start."""
        async with httpx.AsyncClient(headers={"Authorization": f"token {self._proxy_token}"}) as proxy:
            await self._until(lambda: self._routes(proxy), lambda routes: routes == PEOPLE)

    async def _routes(self, proxy: httpx.AsyncClient) -> int:
        return sum(route.startswith("/user/") for route in (await proxy.get(self._proxy)).json())

    async def _until_gone(self, api: httpx.AsyncClient) -> None:
        async def servers() -> int:
            return sum(len(user["servers"]) for user in (await api.get("users", params={"limit": 200})).json())

        await self._until(servers, lambda left: left == 0)

    async def _until(self, look: Callable[[], Awaitable[int]], done: Callable[[int], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not done(await look()):
            if time.monotonic() > end:
                raise SystemExit(f"The servers of the {self.kind} Hub did not get there within {SECONDS:.0f} s.")
            await asyncio.sleep(0.2)

    def end(self) -> None:
        """End it and what it started."""
        self._process.send_signal(2)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(90)
        self._process.kill()


PEOPLE_NAMES = [f"p{number:02d}" for number in range(PEOPLE)]


def _below(pid: int) -> Iterator[int]:
    """A process's children, and theirs."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from _below(int(child))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """Something that answers for the fake pods: what answers already, or the script beside the tests' cluster."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            yield
            return
    script = subprocess.Popen([sys.executable, str(KUBE / "stub-servers"), str(PORT)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        script.terminate()
        script.wait(10)


def volumes(name: str) -> list[dict[str, Any]]:
    """Enough volumes that fake nodes can take too: those of a real storage class often lie on one node."""
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{name}-{number}", "labels": {"bench": name}},
            "spec": {
                "storageClassName": name,
                "accessModes": ["ReadWriteMany"],
                "capacity": {"storage": "100Gi"},
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": "/var/empty"},
            },
        }
        for number in range(PEOPLE + 2)
    ]


@contextlib.contextmanager
def hubs() -> Iterator[dict[str, Hub]]:
    """Both Hubs, running, each with a namespace."""
    folder = Path(tempfile.mkdtemp(prefix="maestro-bench-"))
    running: dict[str, Hub] = {}
    clusters = [Cluster(f"maestro-bench-{kind}-{secrets.token_hex(2)}", os.environ["KUBECONFIG"]) for kind in KINDS]
    try:
        for kind, cluster in zip(KINDS, clusters, strict=True):
            cluster.run("create", "namespace", cluster.namespace)
            cluster.apply(*volumes(cluster.namespace))
            running[kind] = Hub(kind, folder / kind, cluster)
        yield running
    finally:
        for hub in running.values():
            hub.end()
        for cluster in clusters:
            cluster.run("delete", "namespace", cluster.namespace, "--ignore-not-found", timeout=300)
            cluster.run("delete", "pv", "--selector", f"bench={cluster.namespace}", "--wait=false")
        shutil.rmtree(folder, ignore_errors=True)


async def measure(running: Mapping[str, Hub], count: int) -> dict[str, list[Round]]:
    """So many rounds on each side in turns (ABBA), after one on each that is not counted."""
    for kind in KINDS:
        await running[kind].prepare()
        await running[kind].round()
    rounds: dict[str, list[Round]] = {kind: [] for kind in KINDS}
    for number in range(count):
        for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
            rounds[kind].append(await running[kind].round())
        shown = ", ".join(
            f"{kind} {rounds[kind][-1].hub_ms:.1f} ms of Hub CPU, p95 {p95(rounds[kind][-1:]):.0f} ms" for kind in KINDS
        )
        print(f"  {number + 1:2d} of {count}: {shown}", flush=True)
    return rounds


def p95(rounds: Sequence[Round]) -> float:
    """Of all requests of these rounds, in milliseconds."""
    return statistics.quantiles([post for one in rounds for post in one.posts_ms], n=20, method="inclusive")[18]


def cpu(rounds: Sequence[Round]) -> float:
    """Median Hub CPU a spawn, in milliseconds."""
    return statistics.median(one.hub_ms for one in rounds)


def summary(rounds: Mapping[str, Sequence[Round]], samples: int = 2000) -> dict[str, Any]:
    """Both ratios with their spread, and each side's own figures."""
    pairs = list(zip(rounds["stock"], rounds["maestro"], strict=True))
    chance = random.Random(1)
    found: dict[str, Any] = {}
    for name, figure, asked in (("hub_cpu", cpu, ASKED_CPU), ("post_p95", p95, ASKED_P95)):
        drawn = sorted(_ratio(chance.choices(pairs, k=len(pairs)), figure) for _ in range(samples))
        found[name] = {
            "ratio": round(_ratio(pairs, figure), 3),
            "ratio_95_percent": [round(drawn[int(samples * 0.025)], 3), round(drawn[int(samples * 0.975)], 3)],
            "asked": asked,
            **{f"{kind}_ms": round(figure(rounds[kind]), 2) for kind in KINDS},
        }
    found["a_spawn_ms"] = {
        kind: {
            "hub": _spread([one.hub_ms for one in rounds[kind]]),
            "workspaces_service": _spread([one.service_ms for one in rounds[kind]]),
            "hub_for_the_stop": _spread([one.stop_ms for one in rounds[kind]]),
            "post": _spread([post for one in rounds[kind] for post in one.posts_ms]),
        }
        for kind in KINDS
    }
    return found


def _ratio(pairs: Sequence[tuple[Round, Round]], figure: Any) -> float:
    return float(figure([pair[1] for pair in pairs]) / figure([pair[0] for pair in pairs]))


def _spread(values: Sequence[float]) -> dict[str, float]:
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    named = {"min": min(values), "q1": quarters[0], "median": quarters[1], "q3": quarters[2], "max": max(values)}
    return {name: round(value, 2) for name, value in named.items()}


def lacking() -> str | None:
    """Why it cannot be measured here, or None."""
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG is not set"
    nodes = Cluster("default", os.environ["KUBECONFIG"]).items("nodes", "type=fake")
    return None if nodes else "the cluster has no fake nodes (label type: fake)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write :data:`RESULT`; 0 if both ratios hold, or where there is no such cluster."""
    parser = argparse.ArgumentParser(prog="python -m bench.hub_cpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-n", "--count", type=int, default=8, help="rounds on each Hub (8)")
    options = parser.parse_args(arguments)
    if why := lacking():
        print(f"What a spawn costs the Hub is not measured: {why}.")
        return 0
    before = machine()
    print(f"{PEOPLE} servers at once on each of two Hubs, {options.count} times in turns ...", flush=True)
    with answering(), hubs() as running:
        rounds = asyncio.run(measure(running, options.count))
    result = summary(rounds)
    made_by = f"python -m bench.hub_cpu -n {options.count}"
    at_once = {"at_once": PEOPLE, "load_after": round(os.getloadavg()[0], 2)}
    RESULT.write_text(json.dumps({"made_by": made_by, "machine": before, **at_once, **result}, indent=2) + "\n")
    for name in ("hub_cpu", "post_p95"):
        low, high = result[name]["ratio_95_percent"]
        print(f"{name}: ratio {result[name]['ratio']:.3f} ({low:.3f} to {high:.3f}), asked {result[name]['asked']:.2f}")
    print(f"written to {RESULT.relative_to(ROOT)}")
    return 0 if all(result[name]["ratio"] <= result[name]["asked"] for name in ("hub_cpu", "post_p95")) else 1


if __name__ == "__main__":
    raise SystemExit(main())
