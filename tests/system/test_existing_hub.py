"""The lines of docs/add-to-your-hub.md, run as they stand in the config of a Hub with an authenticator of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from maestro_hub_services.compose import proxy_command
from maestro_hub_services.run.processes import Process, descendants, end
from tests.system.house import ROOT, Person, until
from tests.system.singleuser import free_port, prefix

PAGE = (ROOT / "docs/add-to-your-hub.md").read_text()
LINES = PAGE.partition("```python\n")[2].partition("```")[0]
INSTALLATION = 'Installation(state="/var/lib/maestro", policy="/etc/maestro/maestro.yaml")'

#: what the admin of the existing Hub has written long ago
OWN = """
c = get_config()
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "of the existing hub"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {{"root"}}
c.JupyterHub.bind_url = "http://127.0.0.1:{public}/team/"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}"
c.JupyterHub.template_vars = {{"announcement": "The existing Hub says hello"}}
c.JupyterHub.services = [{{"name": "existing", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [{{"name": "existing", "scopes": ["list:users"], "services": ["existing"]}}]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy}"
c.ConfigurableHTTPProxy.command = {command}
"""
TOKEN = "existing-" + "0" * 32


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Hub's address, when the workspaces service answers."""
    folder = tmp_path_factory.mktemp("existing")
    ports = {name: free_port() for name in ("public", "hub", "proxy")}
    services = {name: free_port() for name in ("workspaces", "packages", "mlflow")}
    own = OWN.format(**ports, token=TOKEN, command=proxy_command())
    here = f"Installation(state={str(folder / 'maestro')!r}, policy={str(ROOT / 'maestro.yaml')!r}, ports={services!r})"
    assert LINES.count(INSTALLATION) == 1
    config = folder / "jupyterhub_config.py"
    config.write_text(own + LINES.replace(INSTALLATION, here))
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "MAESTRO_SINGLEUSER_PREFIX": str(prefix())}
    log = folder / "hub.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(config)],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    url = f"http://127.0.0.1:{ports['public']}/team/"
    try:
        until(lambda: _answers(process, url, log), 120, "the Hub does not answer")
        yield url
    finally:
        left = [*descendants(process.pid), *filter(None, [Process.of(process.pid)])]
        end(left, 30)
        process.wait()


def _answers(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-3000:]
    try:
        return httpx.get(f"{url}services/workspaces/api/v1/jupyter/health").status_code == 200
    except httpx.HTTPError:
        return False


def sign_in(hub: str, name: str) -> Person:
    person = Person(hub, name, "of the existing hub")
    person.sign_in()
    return person


def test_ten_lines_are_enough() -> None:
    assert len([line for line in LINES.splitlines() if line.strip()]) <= 10


def test_people_sign_in_as_ever_and_land_on_their_workspaces(hub: str) -> None:
    ann = sign_in(hub, "ann")
    page = ann.get("")
    assert page.url.path == "/team/services/workspaces/"
    assert page.status_code == 200
    assert "personal" in page.text.lower()
    assert "/team/hub/accounts" not in page.text, "the accounts are another authenticator's"
    own = ann.get("hub/token").text
    assert "The existing Hub says hello" in own
    assert "/team/services/workspaces/" in own


def test_the_api_answers_at_the_hubs_root_too(hub: str) -> None:
    ann = sign_in(hub, "ann")
    token = {"Authorization": f"token {ann.token()}"}
    made = httpx.post(f"{hub}api/v1/jupyter/workspaces", json={"name": "lab"}, headers=token)
    assert made.status_code == 201, made.text
    [lab] = [space for space in ann.api().get("workspaces").json()["workspaces"] if space["name"] == "lab"]
    assert lab["role"] == "owner"


def test_the_hubs_admin_is_maestros_and_nobody_else(hub: str) -> None:
    for name, admin in (("root", True), ("ann", False)):
        scopes = sign_in(hub, name).api().get("me").json()["scopes"]
        assert ("custom:maestro:admin" in scopes) is admin


def test_what_was_there_goes_on(hub: str) -> None:
    users = httpx.get(f"{hub}hub/api/users", headers={"Authorization": f"token {TOKEN}"})
    assert users.status_code == 200


@pytest.mark.bwrap
@pytest.mark.skipif(not (prefix() / "bin/python").is_file(), reason="no single-user environment: scripts/setup.py test")
def test_a_server_opens_in_the_workspace(hub: str) -> None:
    bea = sign_in(hub, "bea")
    api = bea.api()
    api.post("workspaces", json={"name": "bea-lab"}).raise_for_status()
    launched = api.post("launches", json={"workspace": "bea-lab"})
    assert launched.is_success, launched.text
    session = launched.json()["session_id"]
    until(lambda: api.get(f"launches/{session}").json()["status"] == "running", 120, "the server does not start")
    path = api.get(f"launches/{session}").json()["notebook_url"]
    assert re.search(r"user/bea/bea-lab/", path)
    status = httpx.get(f"{hub}user/bea/bea-lab/api/status", headers={"Authorization": api.headers["Authorization"]})
    assert status.status_code == 200
    api.delete(f"launches/{session}").raise_for_status()


def test_mlflow_opens_with_the_hubs_sign_in(hub: str) -> None:
    ann = sign_in(hub, "ann")
    until(lambda: ann.get("services/mlflow/").status_code == 200, 90, "MLflow does not open")
    page = ann.get("services/mlflow/")  # the first answer was the sign-in's, which a browser leaves by itself
    assert page.url.path == "/team/services/mlflow/"
    assert "MLflow" in page.text
