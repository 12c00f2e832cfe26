"""A real Hub with Maestro's MLflow as its service, and a stand-in that answers ``/authorize/tracking``.

Hub, proxy and MLflow are real and composed as ``compose.py`` does it; the stand-in lets a test say who belongs where,
change it, and take the workspaces service away.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from bs4 import BeautifulSoup

from maestro_hub_services.compose import proxy_command
from tests.system.singleuser import ROOT, free_port, until

PASSWORD = "one-for-all"
PREFIX = "/services/mlflow/"

CONFIG = """
import json
settings = json.load(open({settings!r}))
prefix, callback = "/services/mlflow/", "/services/mlflow/oauth_callback"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = settings["password"]
c.Authenticator.allow_all = True
c.JupyterHub.allow_named_servers = True
c.JupyterHub.db_url = "sqlite:///" + settings["db"]
c.JupyterHub.cookie_secret_file = settings["secret"]
c.JupyterHub.bind_url = settings["url"]
c.JupyterHub.hub_bind_url = settings["hub_url"]
c.ConfigurableHTTPProxy.command = settings["proxy"]
c.ConfigurableHTTPProxy.api_url = settings["proxy_url"]
c.ConfigurableHTTPProxy.pid_file = settings["proxy_pid"]
c.Proxy.extra_routes = {{prefix: settings["mlflow_url"]}}
c.JupyterHub.services = [
    {{"name": "tests", "api_token": settings["admin_token"]}},
    {{"name": "mlflow", "api_token": settings["mlflow_token"], "command": settings["command"], "display": False,
      "environment": settings["environment"], "oauth_client_id": "service-mlflow", "oauth_redirect_uri": callback,
      "oauth_no_confirm": True}},
]
c.JupyterHub.load_roles = [
    {{"name": "user", "scopes": ["self", "access:services!service=mlflow"]}},
    {{"name": "tests", "services": ["tests"], "scopes": ["admin:users", "admin:servers", "tokens", "list:users"]}},
]
"""


def processes(ancestor: int) -> list[int]:
    """The pids below ``ancestor``."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [ancestor]
    for pid in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def memory_mb(pid: int) -> float:
    """Resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class StandInWorkspaces:
    """The workspaces service's answer to MLflow: set :attr:`people` and :attr:`servers`, or :attr:`away`.

    Attributes:
        people: user -> workspace -> grant, for persons.
        servers: (user, server) -> workspace -> grant, for notebook servers.
        away: answer nothing but 503.
        asked: every question so far.
        purged: workspaces whose data is to go; removed: what was said to be gone of them.
    """

    def __init__(self, token: str) -> None:
        self.people: dict[str, dict[str, dict[str, Any]]] = {}
        self.servers: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        self.away = False
        self.asked: list[dict[str, Any]] = []
        self.purged: list[str] = []
        self.removed: list[dict[str, Any]] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.say({"workspaces": stand_in.purged}, "/authorize/purged")

            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.endswith("/authorize/purged"):
                    stand_in.purged.remove(question["workspace"])
                    stand_in.removed.append(question)
                    self.say({}, "/authorize/purged")
                else:
                    self.say(stand_in.answer(question), "/authorize/tracking")

            def say(self, answer: dict[str, Any], path: str) -> None:
                allowed = self.headers["Authorization"] == f"token {token}" and self.path.endswith(path)
                body = json.dumps(answer).encode()
                self.send_response(503 if stand_in.away else 200 if allowed else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/workspaces/api/v1/jupyter"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(question)
        if question["servers"] is None:
            return {"workspaces": self.people.get(question["user"], {})}
        found: dict[str, Any] = {}
        for server in question["servers"]:
            found |= self.servers.get((question["user"], server), {})
        return {"workspaces": found}

    def member(self, user: str, **roles: str | None) -> None:
        """Give ``user`` a role in workspaces by name; None takes it away."""
        mine = self.people.setdefault(user, {})
        for workspace, role in roles.items():
            if role is None:
                mine.pop(workspace, None)
            else:
                mine[workspace] = {"role": role}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class TrackingHub:
    """One Hub on a folder of its own.

    Args:
        folder: everything lies below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir(mode=0o700, parents=True)
        self.port, self.mlflow_port, hub_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.mlflow_url = f"http://127.0.0.1:{self.mlflow_port}"
        mlflow_token, self._admin_token = secrets.token_hex(16), secrets.token_hex(16)
        self.workspaces = StandInWorkspaces(mlflow_token)
        self._settings = {
            "password": PASSWORD,
            "db": str(folder / "jupyterhub.sqlite"),
            "secret": str(folder / "cookie_secret"),
            "url": self.url,
            "hub_url": f"http://127.0.0.1:{hub_port}",
            "proxy": proxy_command(),
            "proxy_url": f"http://127.0.0.1:{free_port()}",
            "proxy_pid": str(folder / "proxy.pid"),
            "mlflow_url": self.mlflow_url,
            "mlflow_token": mlflow_token,
            "admin_token": self._admin_token,
            "command": [sys.executable, "-m", "maestro_hub_services.tracking"],
            "environment": mlflow_environment(self.state, self.mlflow_port, self.url, self.workspaces.url),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> TrackingHub:
        """Start it and wait until MLflow is ready."""
        settings, config = self.folder / "settings.json", self.folder / "config.py"
        settings.write_text(json.dumps(self._settings))
        config.write_text(CONFIG.format(settings=str(settings)))
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MAESTRO_", "MLFLOW_"))
        }
        environment |= {"PYTHONPATH": str(ROOT), "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(16)}
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(config)],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(lambda: self._healthy(), f"MLflow is ready: {self.folder / 'hub.log'}")
        return self

    def _healthy(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log[-3000:]
        try:
            return httpx.get(f"{self.url}{PREFIX}health").status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def log(self) -> str:
        return (self.folder / "hub.log").read_text(errors="replace")

    @property
    def mlflow_pid(self) -> int:
        """MLflow's process, found among the Hub's children."""
        assert self.process is not None
        for pid in processes(self.process.pid):
            if b"maestro_hub_services.tracking" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise AssertionError("MLflow is not running")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the Hub; its proxy ends in either case."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None
        if number == signal.SIGKILL:
            os.kill(int((self.folder / "proxy.pid").read_text()), signal.SIGKILL)

    def close(self) -> None:
        self.stop()
        self.workspaces.close()

    def admin(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """The Hub's API as an admin."""
        headers = {"Authorization": f"token {self._admin_token}"}
        return httpx.request(method, f"{self.url}/hub/api/{path}", json=body, headers=headers, timeout=30)

    def token(self, user: str, server: str | None = None, scopes: Sequence[str] | None = None) -> str:
        """A token of ``user`` that may enter MLflow; narrowed to a server as a notebook server's is."""
        self.admin("POST", f"users/{user}")
        asked = list(scopes) if scopes is not None else ["access:services!service=mlflow"]
        if server is not None:
            asked.append(f"access:servers!server={user}/{server}")
        answer = self.admin("POST", f"users/{user}/tokens", {"scopes": asked})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def client(self, user: str, workspace: str | None = None, server: str | None = None) -> Client:
        """MLflow's REST API as that user (or as their notebook server) in that workspace."""
        return Client(self.url, self.token(user, server), workspace)


def mlflow_environment(state: Path, port: int, url: str, service_url: str) -> dict[str, str]:
    """What ``compose.py`` tells the service."""
    return {
        "PYTHONPATH": str(ROOT),
        "MAESTRO_STATE": str(state),
        "MAESTRO_POLICY": str(ROOT / "maestro.yaml"),
        "MAESTRO_BIND": f"127.0.0.1:{port}",
        "MAESTRO_PUBLIC_URL": f"{url}/",
        "MAESTRO_SERVICE_URL": service_url,
        "MAESTRO_MLFLOW_URL": f"{url}/services/mlflow",
        "MAESTRO_INDEX_URL": f"{url}/services/packages",
        "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}oauth_callback",
    }


class Client:
    """MLflow's REST API with one token."""

    def __init__(self, url: str, token: str, workspace: str | None) -> None:
        self.token = token
        self.workspace = workspace
        headers = {"Authorization": f"Bearer {token}"} | ({"X-MLFLOW-WORKSPACE": workspace} if workspace else {})
        self.http = httpx.Client(base_url=url + PREFIX, headers=headers, timeout=30)

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """``path`` is below ``api/2.0/mlflow/``, or absolute below the prefix with a leading slash."""
        place = path[1:] if path.startswith("/") else f"api/2.0/mlflow/{path}"
        return self.http.request(method, place, json=body, **options)

    def get(self, path: str, /, **parameters: Any) -> httpx.Response:
        return self.call("GET", path, params=parameters)

    def post(self, path: str, /, **body: Any) -> httpx.Response:
        return self.call("POST", path, body)

    def experiment(self, name: str | None = None, **more: Any) -> str:
        """A new experiment's id."""
        answer = self.post("experiments/create", name=name or f"e-{secrets.token_hex(4)}", **more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["experiment_id"])

    def run(self, experiment: str, **more: Any) -> dict[str, Any]:
        """A new run's info."""
        answer = self.post("runs/create", experiment_id=experiment, start_time=1, **more)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["run"])

    def put_artifact(self, run: Mapping[str, Any], name: str, content: bytes) -> httpx.Response:
        info = run["info"]
        place = f"api/2.0/mlflow-artifacts/artifacts/{info['experiment_id']}/{info['run_id']}/artifacts/{name}"
        return self.http.put(place, content=content)


class Browser:
    """Somebody with a browser: signed in at the Hub, sending what Chromium sends."""

    def __init__(self, hub: TrackingHub, name: str) -> None:
        self.hub = hub
        self.http = httpx.Client(base_url=hub.url, follow_redirects=True, timeout=30)
        form = BeautifulSoup(self.http.get("/hub/login").text, "html.parser").find("input", {"name": "_xsrf"})
        assert form is not None
        fields = {"_xsrf": str(form["value"]), "username": name, "password": PASSWORD}
        assert self.http.post("/hub/login?next=/hub/token", data=fields).status_code == 200

    def visit(self, path: str = PREFIX, **options: Any) -> httpx.Response:
        """Open an address, and go on from the page that ends a sign-in."""
        headers = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}
        answer = self.http.get(path, headers=headers, **options)
        way_on = BeautifulSoup(answer.text, "html.parser").find("a", {"id": "on"})
        return answer if way_on is None else self.visit(str(way_on["href"]), **options)

    def fetch(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """What a script of MLflow's page does; further headers replace its own."""
        sent = {
            "Origin": self.hub.url,
            "Sec-Fetch-Mode": "cors",
            "Sec-Fetch-Site": "same-origin",
            "X-XSRFToken": self.cookie("mlflow-request-header-X-XSRFToken"),
            "X-MLFLOW-WORKSPACE": "reef",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.request(method, PREFIX + path, json=body, headers=sent, follow_redirects=False)

    def cookie(self, name: str) -> str:
        return str(self.http.cookies.get(name, path=PREFIX) or "")
