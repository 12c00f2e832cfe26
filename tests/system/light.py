"""A running Maestro whose servers are light ones, so that many start at once, late, or never.

What a server does goes by its name: ``late-...`` opens its port when :meth:`LightHouse.open` lets it, ``never-...``
never does (and the Hub gives it up after :data:`GIVE_UP_SECONDS`), ``real-...`` is JupyterLab, every other one
opens it at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx

from maestro_hub_services.installation import PORTS
from maestro_hub_services.run.processes import Process
from maestro_hub_services.store import Store
from maestro_hub_services.store.events import EventRow
from tests.system.house import API, ROOT, Maestro, Run
from tests.system.singleuser import prefix

GIVE_UP_SECONDS = 3

SERVER = """
import http.server, os, time, urllib.parse
name = os.environ["JUPYTERHUB_SERVER_NAME"]
while name.startswith(("late", "never")) and not os.path.exists("/workspace/open-" + name):
    time.sleep(0.05)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.end_headers()
    def log_message(self, *arguments):
        pass
address = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
http.server.ThreadingHTTPServer(("127.0.0.1", address.port), Handler).serve_forever()
"""

CONFIG = """
load_subconfig({config!r})

def by_name(spawner):
    if spawner.name.startswith("never"):
        spawner.start_timeout = {give_up}
    if spawner.name.startswith("real"):
        spawner.cmd = [{python!r}, "-P", "-m", "server_extension.start"]

# a 429 of the Hub's own would leave no event: here the quotas alone hold
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.active_server_limit = 0
c.Spawner.pre_spawn_hook = by_name
c.MaestroLocalSpawner.cmd = [{python!r}, "-P", "-c", {server!r}]
"""

POLICY = """
profiles:
  - {name: small, cpu: 1, memory: 1Gi}
  - {name: brief, cpu: 1, memory: 1Gi, idle: 1}
quotas:
  everyone: {max_concurrent_notebooks: 3}
  groups: {many: {max_concurrent_notebooks: 50}}
  pools: {groups: {crowd: {max_cpu_total: 5}}}
"""

T = TypeVar("T")


class LightHouse:
    """One such Maestro, killed and started again on its state.

    Args:
        new_run: starts a run.
        folder: for its state and files.
        store_db: of the workspaces service.
    """

    def __init__(self, new_run: Callable[..., Run], folder: Path, store_db: str) -> None:
        config, policy = folder / "hub_config.py", folder / "maestro.yaml"
        values = {"config": str(ROOT / "jupyterhub_config.py"), "python": f"{prefix()}/bin/python"}
        config.write_text(CONFIG.format(**values, server=SERVER, give_up=GIVE_UP_SECONDS))
        policy.write_text(POLICY)
        self.store_db = store_db
        self.state = folder / "state"
        self._start = lambda **ports: new_run(
            "--config", str(config), state=self.state, MAESTRO_SERVICES="workspaces", MAESTRO_POLICY=str(policy),
            MAESTRO_STORE_DB=store_db, MAESTRO_CULL_SECONDS="2", **ports,
        )  # fmt: skip
        self.maestro = Maestro(self._start())

    def token(self, name: str, *groups: str) -> str:
        """The token of a person, whom the admin's API makes if there is none, in these groups."""
        admin = self.maestro.admin
        admin.hub("POST", f"users/{name}")
        for group in groups:
            admin.hub("POST", f"groups/{group}")
            assert admin.hub("POST", f"groups/{group}/users", {"users": [name]}).is_success
        answer = admin.hub("POST", f"users/{name}/tokens", {"note": "test", "expires_in": 3600})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def api(self, token: str) -> httpx.Client:
        """Maestro's API."""
        headers = {"Authorization": f"token {token}"}
        return httpx.Client(base_url=self.maestro.url + API, headers=headers, timeout=90.0)

    def hub(self, token: str) -> httpx.Client:
        """The Hub's API."""
        headers = {"Authorization": f"token {token}"}
        return httpx.Client(base_url=f"{self.maestro.url}hub/api/", headers=headers, timeout=90.0)

    # -- what is so ----------------------------------------------------------------------------------------------

    def ask_store(self, question: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """Look into the service's database."""

        async def look() -> T:
            store = await Store.open(self.store_db or f"sqlite+aiosqlite:///{self.state}/service/maestro.sqlite")
            try:
                async with store.read() as unit:
                    return await question(unit)
            finally:
                await store.close()

        return asyncio.run(look())

    def refusals(self, *users: str) -> list[EventRow]:
        """The events of refused launches of these people."""
        found = self.ask_store(lambda unit: unit.events.latest(kinds=["launch_refused"], limit=1000))
        return [event for event in found if event.user in users]

    def processes(self, server: str) -> list[Process]:
        """The living processes of a server's sandbox, known by a variable in their environment."""
        wanted = (f"JUPYTERHUB_SERVER_NAME={server}".encode(), str(self.state).encode())
        found = []
        for entry in os.listdir("/proc"):
            try:
                environment = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                mounts = Path(f"/proc/{entry}/mountinfo").read_bytes()
            except OSError:
                continue
            process = Process.of(int(entry)) if entry.isdigit() else None
            if process is not None and wanted[0] in environment and wanted[1] in mounts:
                found.append(process)
        return found

    # -- what happens --------------------------------------------------------------------------------------------

    def open(self, workspace_id: str, server: str) -> None:
        """Let a late server go on."""
        (self.state / "workspaces" / workspace_id / f"open-{server}").touch()

    def kill_hub(self) -> None:
        """kill -9, and wait until the run has noticed."""
        os.kill(self.maestro.ready["pids"]["hub"], signal.SIGKILL)
        assert self.maestro.run.process.wait(30) == 1

    def start_again(self) -> None:
        """On the same state and ports."""
        ports = {PORTS[name].variable: str(number) for name, number in self.maestro.ready["ports"].items()}
        run = self._start(**ports)
        self.maestro.run, self.maestro.ready = run, run.ready

    def service(self) -> Process:
        """The process of the workspaces service."""
        parts = {int(pid): command for pid, command in self.maestro.ready["pids"]["parts"].items()}
        [pid] = [pid for pid, command in parts.items() if "maestro_hub_services.workspaces" in command]
        found = Process.of(pid)
        assert found is not None
        return found

    def answers(self) -> bool:
        """Whether the workspaces service does."""
        try:
            return httpx.get(f"{self.maestro.url}{API}health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False
