"""A small Hub with the local spawner and the stand-in service: for what a spawner does, before the whole system runs.

Its accounts are JupyterHub's dummy ones: any name, one password. It runs on a state of the test's own, and can be
killed and started again on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from bs4 import BeautifulSoup

from maestro_hub_services.compose import proxy_command
from tests.plan_service import TOKEN
from tests.system.singleuser import ROOT, free_port, prefix, until

PASSWORD = "one-for-all"
ADMIN_TOKEN = "token-of-the-tests-own-service"
HUB_SECRET = "a-secret-in-the-hubs-environment"

#: a server that starts in no time, for tests that only need one to be there
LIGHT = """
import http.server, os, urllib.parse
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.end_headers()
    def log_message(self, *arguments):
        pass
address = urllib.parse.urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
http.server.HTTPServer(("127.0.0.1", address.port), Handler).serve_forever()
"""

CONFIG = """
import json
settings = json.load(open({settings!r}))
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {password!r}
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = settings["spawner_class"]
c.JupyterHub.allow_named_servers = True
c.JupyterHub.db_url = "sqlite:///" + settings["db"]
c.JupyterHub.cookie_secret_file = settings["secret"]
c.JupyterHub.bind_url = "http://127.0.0.1:%d" % settings["port"]
c.JupyterHub.hub_bind_url = "http://127.0.0.1:%d" % settings["hub_port"]
c.JupyterHub.services = [{{"name": "tests", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [{{"name": "tests", "services": ["tests"], "scopes": [
    "admin:users", "admin:servers", "read:servers", "list:users"]}}]
c.ConfigurableHTTPProxy.command = settings["proxy"]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:%d" % settings["proxy_port"]
c.ConfigurableHTTPProxy.pid_file = settings["proxy_pid"]
c.Spawner.poll_interval = 1
for section, traits in settings["traits"].items():
    c[section].update(traits)
"""


class TrialHub:
    """One Hub on one state directory.

    Args:
        state: Maestro's state, which servers must not see; the Hub's files lie in ``hub/`` below it.
        service_url: of the stand-in.
        traits: section -> traits, over the defaults here.
        light: servers are :data:`LIGHT` ones.
    """

    def __init__(
        self,
        state: Path,
        service_url: str,
        traits: Mapping[str, Mapping[str, Any]] | None = None,
        light: bool = False,
    ) -> None:
        self.state = state
        self.folder = state / "hub"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        local: dict[str, Any] = {"state_dir": str(state), "singleuser_prefix": str(prefix()), "http_timeout": 60}
        mixin = {"service_url": service_url, "service_token": TOKEN}
        self._settings: dict[str, Any] = {
            "spawner_class": "maestro_spawner.local.MaestroLocalSpawner",
            "db": str(self.folder / "jupyterhub.sqlite"),
            "secret": str(self.folder / "cookie_secret"),
            "proxy": proxy_command(),
            "proxy_pid": str(self.folder / "proxy.pid"),
            "port": self.port,
            "hub_port": free_port(),
            "proxy_port": free_port(),
            "traits": {"MaestroLocalSpawner": local, "MaestroMixin": mixin},
        }
        if light:
            local["cmd"] = [f"{prefix()}/bin/python", "-c", LIGHT]
        for section, values in (traits or {}).items():
            self._settings["traits"].setdefault(section, {}).update(values)
        self.process: subprocess.Popen[bytes] | None = None
        self.api = httpx.Client(
            base_url=f"{self.url}hub/api/", headers={"Authorization": f"token {ADMIN_TOKEN}"}, timeout=90
        )

    @property
    def log(self) -> str:
        """What the Hub has said so far."""
        return (self.folder / "hub.log").read_text(errors="replace")

    def start(self) -> TrialHub:
        """Start it and wait until it answers."""
        settings, config = self.folder / "settings.json", self.folder / "config.py"
        settings.write_text(json.dumps(self._settings))
        config.write_text(CONFIG.format(settings=str(settings), password=PASSWORD, token=ADMIN_TOKEN))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MAESTRO_")},
            "PYTHONPATH": str(ROOT),
            "HUB_SECRET": HUB_SECRET,
            "CONFIGPROXY_AUTH_TOKEN": HUB_SECRET,
        }
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
        until(self._answers, "the Hub answers")
        return self

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log[-3000:]
        try:
            return httpx.get(f"{self.url}hub/health").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it: SIGTERM stops its servers, SIGKILL leaves them; its proxy ends in either case."""
        if self.process is None:
            return
        self.process.send_signal(number)
        self.process.wait(90)
        self.process = None
        if number == signal.SIGKILL:
            self._end_proxy()

    def _end_proxy(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.folder / "proxy.pid").read_text()), signal.SIGKILL)

    def server(self, user: str, server: str = "") -> dict[str, Any]:
        """The Hub's model of a server; empty if it is not started."""
        answer = self.api.get(f"users/{user}", params={"include_stopped_servers": 1})
        servers = answer.json().get("servers", {}) if answer.is_success else {}
        return dict(servers.get(server, {}))

    def start_server(self, user: str, server: str, options: Mapping[str, Any] | None = None) -> httpx.Response:
        """Start a server by the API and wait until it is ready, or return the refusal."""
        self.api.post(f"users/{user}")
        answer = self.api.post(f"users/{user}/servers/{server}", json=dict(options or {}))
        if answer.is_success:
            until(lambda: self.server(user, server).get("ready"), f"{user}/{server} is ready:\n{self.log[-2000:]}")
        return answer

    def stop_server(self, user: str, server: str) -> None:
        """Stop a server and wait until the Hub has done so."""
        answer = self.api.delete(f"users/{user}/servers/{server}")
        assert answer.is_success, answer.text
        until(lambda: not self.server(user, server).get("pending"), f"{user}/{server} has stopped")


class Browser:
    """Somebody who is signed in at a :class:`TrialHub`, and what their browser sends."""

    def __init__(self, hub: TrialHub, name: str) -> None:
        self.name = name
        self.client = httpx.Client(base_url=hub.url, follow_redirects=True, timeout=90)
        page = self.client.get("hub/login")
        form = BeautifulSoup(page.text, "html.parser").find("form")
        assert form is not None
        token = form.find("input", {"name": "_xsrf"})
        assert token is not None
        fields = {"_xsrf": str(token["value"]), "username": name, "password": PASSWORD}
        answer = self.client.post("hub/login?next=/hub/token", data=fields)
        assert answer.status_code == 200, answer.text

    def get(self, path: str) -> httpx.Response:
        """Open a page."""
        return self.client.get(path)

    def submit(self, page: str, fields: Mapping[str, str]) -> httpx.Response:
        """Open a page and send its form as a browser does, to where it says, with other values in some fields."""
        opened = self.get(page)
        form = BeautifulSoup(opened.text, "html.parser").find("form", {"id": "spawn_form"})
        assert form is not None, opened.text
        given = {
            str(field["name"]): str(field.get("value", "")) for field in form.find_all("input") if "name" in field.attrs
        }
        data = {name: (None, value) for name, value in {**given, **fields}.items()}
        return self.client.post(str(form["action"]), files=data)
