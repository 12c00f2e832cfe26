"""What Maestro adds to a Hub's configuration, and what it leaves as it found it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jupyterhub.proxy import ConfigurableHTTPProxy
from jupyterhub.scopes import define_custom_scopes, scope_definitions
from traitlets.config import Config

from maestro_hub_services import compose, culler
from maestro_hub_services.installation import PORTS, SERVICES, Installation
from maestro_hub_services.keys import KeyFileError, ensure_key
from maestro_hub_services.proxy import MaestroProxy
from maestro_hub_services.run import checks, processes
from maestro_hub_services.run.checks import Refused, check_policy, choose_ports
from maestro_hub_services.settings import Settings, SettingsError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def maestro(tmp_path: Path) -> Installation:
    return Installation(state=tmp_path / "state", policy=ROOT / "maestro.yaml")


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """These stories are about the config; whether this machine has bubblewrap is the spawner's."""
    monkeypatch.setattr(compose, "isolation_problem", lambda: None)


def composed(maestro: Installation, c: Config | None = None) -> Config:
    """Everything that jupyterhub_config.py calls, but for the Hub's own set-up."""
    c = Config() if c is None else c
    compose.add_roles(c)
    compose.add_spawner(c, maestro)
    compose.add_culler(c, maestro)
    compose.add_authenticator(c, maestro)
    compose.add_services(c, maestro)
    compose.add_proxy(c, maestro)
    compose.add_pages(c)
    return c


def in_force(c: Config, section: str, name: str, initial: Any) -> Any:
    """The value that a trait takes, additions to the default included."""
    value = c[section][name]
    return value.get_value(initial) if hasattr(value, "get_value") else value


def roles(c: Config) -> dict[str, dict[str, Any]]:
    return {role["name"]: role for role in in_force(c, "JupyterHub", "load_roles", [])}


def services(c: Config) -> dict[str, dict[str, Any]]:
    return {service["name"]: service for service in in_force(c, "JupyterHub", "services", [])}


# --- who may do what


def test_every_scope_is_one_that_the_hub_takes(maestro: Installation) -> None:
    custom = in_force(composed(maestro), "JupyterHub", "custom_scopes", {})
    try:
        define_custom_scopes(custom)
    finally:
        for scope in custom:
            scope_definitions.pop(scope, None)
    assert set(custom) == set(compose.SCOPES)


def test_everyone_may_use_and_manage_and_review_where_named_and_enter_the_services(maestro: Installation) -> None:
    everyone = in_force(composed(maestro), "JupyterHub", "extra_user_scopes", set())
    assert everyone == {
        "custom:maestro:use",
        "custom:maestro:manage",
        "custom:maestro:review",
        "custom:maestro:models",
        "access:services!service=workspaces",
        "access:services!service=packages",
        "access:services!service=mlflow",
    }


def test_a_hub_that_redefines_its_user_role_keeps_what_it_says(maestro: Installation) -> None:
    c = Config()
    c.JupyterHub.load_roles = [{"name": "user", "scopes": ["self", "read:hub"]}]
    found = roles(composed(maestro, c))["user"]["scopes"]
    assert {"self", "read:hub", "custom:maestro:use"} <= set(found)
    assert "extra_user_scopes" not in c.JupyterHub


def test_admins_are_those_of_the_config_and_of_a_group(maestro: Installation) -> None:
    c = Config()
    c.Authenticator.admin_users = {"root"}
    compose.add_roles(c, admins=["ann"])
    role = roles(c)["maestro-admin"]
    assert role["users"] == ["ann", "root"]
    assert role["groups"] == ["maestro-admins"]
    assert {"custom:maestro:admin", "custom:maestro:review", "custom:maestro:audit"} <= set(role["scopes"])
    assert not {scope for scope in role["scopes"] if scope.rpartition(":")[2] in ("plan", "policy", "authorize")}


def test_each_machine_holds_the_least(maestro: Installation) -> None:
    found = roles(composed(maestro))
    assert found["maestro-workspaces"]["services"] == ["workspaces"]
    assert set(found["maestro-workspaces"]["scopes"]) == {
        "list:users",
        "read:users",
        "list:groups",
        "read:groups",
        "read:servers",
        "start:servers",
        "delete:servers",
    }
    for name, scope in (("maestro-packages", "policy"), ("maestro-mlflow", "authorize"), ("maestro-spawner", "plan")):
        assert set(found[name]["scopes"]) == {f"custom:maestro:{scope}", "access:services!service=workspaces"}
    assert set(found["maestro-idle-culler"]["scopes"]) == {
        "list:users",
        "read:users:activity",
        "read:servers",
        "delete:servers",
        "custom:maestro:cull",
        "access:services!service=workspaces",
    }


def test_the_culler_is_started_by_the_hub_and_not_waited_for(maestro: Installation) -> None:
    service = services(composed(maestro))["maestro-idle-culler"]
    assert "url" not in service
    assert service["command"][-1] == "maestro_hub_services.culler"
    assert service["environment"]["MAESTRO_SERVICE_URL"].endswith("/api/v1/jupyter")
    environment = service["environment"] | {"JUPYTERHUB_API_URL": "http://hub/api", "JUPYTERHUB_API_TOKEN": "secret"}
    made = culler.culler(environment | {"MAESTRO_IDLE_MINUTES": "90"})
    assert (made.timeout, made.cull_every, made.cull_users, made.max_age) == (5400, 60, False, 0)
    assert culler.culler(environment).timeout == 0, "profiles alone"


def test_where_mlflow_is_no_part_of_it_nothing_of_it_is_waited_for(maestro: Installation) -> None:
    without = replace(maestro, services=("workspaces", "packages"))
    assert services(composed(without))["workspaces"]["environment"]["MAESTRO_TRACKING"] == "off"
    assert services(composed(maestro))["workspaces"]["environment"]["MAESTRO_TRACKING"] == ""


def test_a_servers_token_never_manages(maestro: Installation) -> None:
    scopes = composed(maestro).Spawner.server_token_scopes
    assert "custom:maestro:use" in scopes
    assert "users:activity!user" in scopes
    assert not [scope for scope in scopes if scope.startswith("custom:") and scope != "custom:maestro:use"]


# --- services


def test_each_service_gets_settings_that_it_can_read(maestro: Installation) -> None:
    c = Config()
    c.JupyterHub.bind_url = "http://127.0.0.1:8888"
    for name, service in services(composed(maestro, c)).items():
        if name not in SERVICES:
            continue
        assert service["command"][-1] == SERVICES[name]
        hub = {"JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api", "JUPYTERHUB_API_TOKEN": service["api_token"]}
        given = {"JUPYTERHUB_SERVICE_PREFIX": f"/services/{name}/"} | hub | service["environment"]
        settings = Settings.from_environment(given)
        assert settings.port == PORTS[name].default
        assert settings.host == "127.0.0.1"
        assert settings.service_url == "http://127.0.0.1:8181/services/workspaces/api/v1/jupyter"
        assert settings.mlflow_url == "http://127.0.0.1:8888/services/mlflow"
        assert settings.index_url == "http://127.0.0.1:8182/services/packages"
        assert settings.accounts_url == "/hub/accounts"
        assert service["api_token"] not in repr(settings)


def test_mlflow_has_no_url_because_the_hub_would_wait_for_it(maestro: Installation) -> None:
    c = composed(maestro)
    mlflow = services(c)["mlflow"]
    assert "url" not in mlflow
    assert mlflow["oauth_redirect_uri"] == "/services/mlflow/oauth_callback"
    assert mlflow["environment"]["JUPYTERHUB_SERVICE_PREFIX"] == "/services/mlflow/"
    assert mlflow["environment"]["JUPYTERHUB_OAUTH_CALLBACK_URL"] == "/services/mlflow/oauth_callback"
    assert in_force(c, "Proxy", "extra_routes", {}) == {
        "/api/v1/jupyter/": "http://127.0.0.1:8181",
        "/services/mlflow/": "http://127.0.0.1:8183",
    }


def test_services_that_run_elsewhere_are_only_registered(maestro: Installation) -> None:
    outside = Installation(
        state=maestro.state,
        policy=maestro.policy,
        provider="kubernetes",
        external={name: f"http://maestro-{name}:8000" for name in SERVICES},
    )
    c = composed(outside)
    for name in SERVICES:
        assert services(c)[name]["url"] == f"http://maestro-{name}:8000"
        assert "command" not in services(c)[name]
    assert in_force(c, "Proxy", "extra_routes", {}) == {"/api/v1/jupyter/": "http://maestro-workspaces:8000"}
    assert c.MaestroMixin.service_url == "http://maestro-workspaces:8000/services/workspaces/api/v1/jupyter"
    assert c.JupyterHub.spawner_class == "maestro_spawner.kube.MaestroKubeSpawner"


def test_pods_reach_our_own_services_through_the_proxy(maestro: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/etc/kubeconfig")
    c = Config()
    c.JupyterHub.bind_url = "http://:8888"
    c = composed(replace(maestro, provider="kubernetes", host="192.0.2.7"), c)
    for name in SERVICES:
        told = services(c)[name]["environment"]
        assert told["MAESTRO_BIND"].startswith("127.0.0.1:")
        assert told["MAESTRO_SERVICE_URL"] == "http://192.0.2.7:8888/services/workspaces/api/v1/jupyter"
        assert told["MAESTRO_INDEX_URL"] == "http://192.0.2.7:8888/services/packages"
        assert told["MAESTRO_MLFLOW_URL"] == "http://192.0.2.7:8888/services/mlflow"
        assert ("KUBECONFIG" in told) == (name == "workspaces")  # who keeps the volumes
    assert c.MaestroMixin.service_url == "http://127.0.0.1:8181/services/workspaces/api/v1/jupyter"


def test_lists_of_packages_in_the_hubs_environment_reach_the_service(
    maestro: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FETCHML_JUPYTER_BLOCKED_PACKAGES", "requests,httpx")
    monkeypatch.setenv("FETCHML_JUPYTER_STARTUP_BLOCKED_PACKAGES", "off")
    told = Settings.from_environment(
        services(composed(maestro))["workspaces"]["environment"]
        | {"JUPYTERHUB_API_URL": "http://127.0.0.1:1", "JUPYTERHUB_API_TOKEN": "t", "JUPYTERHUB_SERVICE_PREFIX": "/s/"}
    )
    assert told.package_lists == {
        "FETCHML_JUPYTER_BLOCKED_PACKAGES": "requests,httpx",
        "FETCHML_JUPYTER_STARTUP_BLOCKED_PACKAGES": "off",
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_hub_that_pods_cannot_call_is_refused(maestro: Installation, host: str) -> None:
    assert replace(maestro, host=host).hub_host == "127.0.0.1"
    with pytest.raises(SettingsError, match="MAESTRO_HOST"):
        choose_ports(replace(maestro, provider="kubernetes", host=host))


def test_a_hub_below_a_prefix_keeps_everything_below_it(maestro: Installation) -> None:
    c = Config()
    c.JupyterHub.base_url = "/team"
    c = composed(maestro, c)
    assert c.JupyterHub.default_url == "/team/services/workspaces/"
    assert set(in_force(c, "Proxy", "extra_routes", {})) == {"/team/api/v1/jupyter/", "/team/services/mlflow/"}
    assert services(c)["mlflow"]["environment"]["JUPYTERHUB_SERVICE_PREFIX"] == "/team/services/mlflow/"
    assert c.MaestroMixin.service_url == "http://127.0.0.1:8181/team/services/workspaces/api/v1/jupyter"


@pytest.mark.parametrize(
    ("config", "address"),
    [
        ({}, "http://127.0.0.1:8000/services/mlflow"),
        ({"port": 80, "ip": "192.0.2.7"}, "http://192.0.2.7:80/services/mlflow"),
        ({"bind_url": "http://:8080/team/"}, "http://127.0.0.1:8080/team/services/mlflow"),
    ],
)
def test_notebooks_reach_mlflow_where_the_hub_listens(
    maestro: Installation, config: dict[str, Any], address: str
) -> None:
    c = Config()
    c.JupyterHub.update(config)
    given = services(composed(maestro, c))["workspaces"]["environment"]
    assert given["MAESTRO_MLFLOW_URL"] == address


def test_a_hub_with_tls_of_its_own_names_its_address(maestro: Installation) -> None:
    c = Config()
    c.JupyterHub.ssl_cert = "/etc/hub.pem"
    with pytest.raises(SettingsError, match="public_url"):
        composed(maestro, c)
    named = Installation(state=maestro.state, policy=maestro.policy, public_url="https://hub.example.com")
    given = services(composed(named, Config({"JupyterHub": {"ssl_cert": "/etc/hub.pem"}})))["workspaces"]["environment"]
    assert given["MAESTRO_MLFLOW_URL"] == "https://hub.example.com/services/mlflow"


def test_with_subdomains_maestro_stays_on_the_hubs_host(maestro: Installation) -> None:
    """The Hub would give services a host of their own, where no link of its pages leads."""
    c = Config()
    c.JupyterHub.subdomain_host = "https://hub.example.com"
    c = composed(maestro, c)
    assert set(in_force(c, "Proxy", "extra_routes", {})) == {
        "hub.example.com/api/v1/jupyter/",
        *(f"hub.example.com/services/{name}/" for name in SERVICES),
    }
    for name in SERVICES:
        callback = f"https://hub.example.com/services/{name}/oauth_callback"
        assert services(c)[name]["oauth_redirect_uri"] == callback
        assert services(c)[name]["environment"]["JUPYTERHUB_OAUTH_CALLBACK_URL"] == callback
    given = services(c)["workspaces"]["environment"]
    assert given["MAESTRO_MLFLOW_URL"] == "https://hub.example.com/services/mlflow"
    assert given["MAESTRO_PUBLIC_URL"] == "https://hub.example.com/"


def test_what_an_existing_hub_says_is_added_to_not_replaced(maestro: Installation) -> None:
    c = Config()
    c.JupyterHub.services = [{"name": "culler", "command": ["culler"]}]
    c.JupyterHub.load_roles = [{"name": "culler", "scopes": ["list:users"], "services": ["culler"]}]
    c.JupyterHub.extra_user_scopes = {"read:hub"}
    c.JupyterHub.template_paths = ["/etc/hub/templates"]
    c.JupyterHub.template_vars = {"announcement": "hello"}
    c.JupyterHub.proxy_class = "traefik"
    c.Spawner.environment = {"TEAM": "a"}
    c.Proxy.extra_routes = {"/wiki/": "http://wiki"}
    c = composed(maestro, c)
    assert "culler" in services(c)
    assert "culler" in roles(c)
    assert "read:hub" in c.JupyterHub.extra_user_scopes
    assert c.JupyterHub.template_paths[-1] == "/etc/hub/templates"
    assert c.JupyterHub.template_vars["announcement"] == "hello"
    assert c.JupyterHub.proxy_class == "traefik"
    assert c.Spawner.environment["TEAM"] == "a"
    assert c.Proxy.extra_routes["/wiki/"] == "http://wiki"


def test_our_own_page_is_one_readable_page() -> None:
    lines = (ROOT / "jupyterhub_config.py").read_text().splitlines()
    assert len(lines) < 50
    for part in (
        "set_up_hub",
        "add_roles",
        "add_spawner",
        "add_culler",
        "add_authenticator",
        "add_services",
        "add_proxy",
        "add_pages",
    ):
        assert any(f"compose.{part}(c" in line for line in lines), part


def test_without_bubblewrap_one_admin_is_let_in_alone(maestro: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "isolation_problem", lambda: "bubblewrap is not installed.")
    c = Config()
    c.Authenticator.admin_users = {"admin", "second"}
    c = composed(maestro, c)
    assert c.MaestroAuthenticator.allowed_users == {"admin"}
    assert c.MaestroAuthenticator.allow_all is False
    assert c.MaestroAuthenticator.allow_existing_users is False
    assert c.MaestroAuthenticator.open_sign_up is False


async def test_a_proxy_that_came_back_has_the_extra_routes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: object) -> None:
        return None

    monkeypatch.setattr(ConfigurableHTTPProxy, "restore_routes", nothing)
    added: list[tuple[str, str]] = []

    class Recorded(MaestroProxy):
        extra_routes = {"/services/mlflow/": "http://127.0.0.1:8183"}

        def __init__(self) -> None:
            pass

        async def add_route(self, routespec: str, target: str, data: dict[str, Any]) -> None:
            added.append((routespec, target))

    await Recorded().restore_routes()
    assert added == [("/services/mlflow/", "http://127.0.0.1:8183")]


# --- the environment


def test_an_installation_survives_its_own_variables(tmp_path: Path) -> None:
    there = Installation(
        state=tmp_path, policy=tmp_path / "p.yaml", host="0.0.0.0", ports={"public": 80, "hub": 1}, services=("mlflow",)
    )
    again = Installation.from_environment(there.as_environment())
    assert again.as_environment() == there.as_environment()
    assert again.port("public") == 80
    assert again.local_url("/") == "http://127.0.0.1:80/"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"MAESTRO_PORT": "eighty"}, "MAESTRO_PORT must be a port"),
        ({"MAESTRO_MLFLOW_PORT": "70000"}, "MAESTRO_MLFLOW_PORT must be a port"),
        ({"MAESTRO_PROVIDER": "cloud"}, "MAESTRO_PROVIDER must be local or kubernetes"),
        ({"MAESTRO_SERVICES": "workspaces,wiki"}, "There is no service 'wiki'"),
        ({"MAESTRO_EXTERNAL": "workspaces=x"}, "MAESTRO_EXTERNAL must be a JSON object"),
    ],
)
def test_a_bad_variable_is_named(variables: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Installation.from_environment({"MAESTRO_POLICY": "maestro.yaml"} | variables)


def test_a_service_names_all_that_it_misses() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"MAESTRO_STATE": "state"})
    for name in ("MAESTRO_BIND", "MAESTRO_POLICY", "JUPYTERHUB_API_TOKEN"):
        assert name in str(caught.value)


# --- keys


def test_keys_are_made_once_and_for_us_alone(tmp_path: Path) -> None:
    key = ensure_key(tmp_path, "mlflow")
    assert ensure_key(tmp_path, "mlflow") == key
    assert ensure_key(tmp_path, "packages") != key
    path = tmp_path / "keys/mlflow"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    assert ensure_key(tmp_path, "mlflow") == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("")
    with pytest.raises(KeyFileError, match="empty"):
        ensure_key(tmp_path, "mlflow")


# --- before a run


def test_a_busy_port_is_one_sentence_with_the_variable_to_change(maestro: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        busy = other.getsockname()[1]
        with pytest.raises(Refused) as caught:
            choose_ports(maestro.with_ports(public=busy))
    assert str(busy) in str(caught.value)
    assert "MAESTRO_PORT" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_port_zero_makes_all_ports_random_and_different(maestro: Installation) -> None:
    found = choose_ports(maestro.with_ports(public=0)).ports
    assert len({found[name] for name in PORTS}) == len(PORTS)
    assert not set(found.values()) & {port.default for port in PORTS.values()}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "There is no policy at"),
        ("profiles: [", "maestro.yaml line"),
        ("no_such_section: 1", "no_such_section"),
    ],
)
def test_a_policy_with_a_mistake_is_one_sentence(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "maestro.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Refused) as caught:
        check_policy(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_runs_cannot_hold_one_lock(tmp_path: Path) -> None:
    held = checks.Lock(tmp_path / "lock")
    held.take()
    with pytest.raises(Refused, match=f"process {os.getpid()}"):
        checks.Lock(tmp_path / "lock").take()


# --- whose processes are whose


def start_sleeper(*lines: str) -> subprocess.Popen[bytes]:
    """A child that says that it is ready, and stays."""
    code = "\n".join([*lines, "print(flush=True)", "import time", "time.sleep(60)"])
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_a_process_is_its_number_and_its_start(tmp_path: Path) -> None:
    child = start_sleeper()
    process = processes.Process.of(child.pid)
    assert process is not None
    assert process.alive
    assert process in processes.descendants(os.getpid())
    assert process not in processes.descendants(os.getpid(), without=lambda command: command[0] == sys.executable)
    somebody_else = processes.Process(child.pid, process.started + 1)
    assert not somebody_else.alive
    processes.end([somebody_else], 1.0)
    assert child.poll() is None, "the same number in another life is left alone"

    record = processes.Record(tmp_path / "processes.json")
    record.write([process, somebody_else])
    assert set(processes.Record(tmp_path / "processes.json").read()) == {process, somebody_else}
    processes.end(record.read(), 5.0)
    assert child.wait(5) == -signal.SIGTERM
    assert not process.alive


def test_what_ignores_sigterm_is_killed() -> None:
    child = start_sleeper("import signal", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    process = processes.Process.of(child.pid)
    assert process is not None
    processes.end([process], 0.2)
    assert child.wait(5) == -signal.SIGKILL


def test_a_torn_record_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "processes.json"
    for text in ("", "{", json.dumps({"pid": 1}), json.dumps([{"pid": "x"}]), "[1]"):
        path.write_text(text)
        assert processes.Record(path).read() == []


def test_a_service_ends_with_its_parent_even_if_that_dies_first(tmp_path: Path) -> None:
    """As compose starts services: the parent's number is in the environment, so no moment is too early to die."""
    service = tmp_path / "service.py"
    service.write_text(
        "import time\n"
        "from maestro_hub_services.parent import exit_with_parent\n"
        "exit_with_parent(0.05)\n"
        "time.sleep(60)\n"
    )
    hub = tmp_path / "hub.py"
    hub.write_text(
        "import os, subprocess, sys, time\n"
        "there = os.environ | {'MAESTRO_PARENT_PID': str(os.getpid())}\n"
        f"print(subprocess.Popen([sys.executable, {str(service)!r}], env=there).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    there = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(hub)], stdout=subprocess.PIPE, env=there)
    assert parent.stdout is not None
    child = processes.Process.of(int(parent.stdout.readline()))
    assert child is not None
    parent.kill()
    parent.wait()
    assert processes.wait_gone([child], 15.0) == []
