"""Imports go one way: core <- spawner, authenticator, services, client; core and client <- the notebook's side.

The proof reads every import statement of every package, those inside functions too, and fails on a wrong-way one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: package -> the packages of ours that it may import, besides itself
MAY_IMPORT: dict[str, set[str]] = {
    "maestro_core": set(),
    "maestro_spawner": {"maestro_core"},
    "maestro_authenticator": {"maestro_core"},
    "maestro_hub_services": {"maestro_core"},
    "notebooks": {"maestro_core"},
    # what a kernel left for MLflow, its server sends: ipython_magics.spool, which imports no mlflow
    "server_extension": {"maestro_core", "notebooks", "ipython_magics"},
    "ipython_magics": {"maestro_core", "notebooks"},
}

#: a part of the spawner that the service starts jobs with; so it needs neither the Hub nor the rest of the spawner
MACHINE = "maestro_spawner.machine"
MAY_IMPORT_MACHINE = ("maestro_hub_services.workspaces.runners",)

#: what the rules may never touch: I/O, the Hub, the loop
CLOSED_TO_CORE = {
    "aiohttp", "asyncio", "httpx", "jupyterhub", "kubernetes_asyncio", "mlflow", "os", "pathlib", "requests", "shutil",
    "socket", "sqlalchemy", "subprocess", "tempfile", "threading", "time", "tornado", "urllib.request",
}  # fmt: skip

#: inside the services: a folder reads alone, and the store is opened by the workspaces service only
SERVICES = ("workspaces", "packages", "tracking")


def imported(source: str, module: str) -> Iterator[str]:
    """The absolute names of everything that a module imports (``module`` resolves the relative ones)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")[: -node.level]
                base = ".".join([*parts, base]).rstrip(".")
            yield base
            for alias in node.names:
                yield f"{base}.{alias.name}"


def violations(package: str, source: str, module: str) -> list[str]:
    """The wrong-way imports of one module, as sentences."""
    found = []
    for name in imported(source, module):
        top = name.split(".")[0]
        if _below(name, MACHINE) and any(_below(module, allowed) for allowed in MAY_IMPORT_MACHINE):
            continue
        if _below(module, MACHINE) and (top == "jupyterhub" or (top == package and not _below(name, MACHINE))):
            found.append(f"{module} imports {name}: {MACHINE} is for the service too")
        if top in MAY_IMPORT and top != package and top not in MAY_IMPORT[package]:
            found.append(
                f"{module} imports {name}: {package} may import only {sorted(MAY_IMPORT[package]) or 'nobody'}"
            )
        if package == "maestro_core" and (top in CLOSED_TO_CORE or name in CLOSED_TO_CORE):
            found.append(f"{module} imports {name}: maestro_core is pure")
        found.extend(_between_services(name, module))
    return found


def _below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _between_services(name: str, module: str) -> Iterator[str]:
    own, other = module.split("."), name.split(".")
    if own[0] != "maestro_hub_services" or other[0] != "maestro_hub_services" or len(own) < 3 or len(other) < 2:
        return
    if own[1] in SERVICES and other[1] in SERVICES and own[1] != other[1]:
        yield f"{module} imports {name}: the services speak HTTP with each other"
    if own[1] in SERVICES and own[1] != "workspaces" and other[1] == "store":
        yield f"{module} imports {name}: the store is opened by workspaces/ alone"


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Every module of a package with its file."""
    for path in sorted((ROOT / package).rglob("*.py")):
        dotted = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(dotted), path


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package: str) -> None:
    checked = 0
    for module, path in modules(package):
        checked += 1
        assert violations(package, path.read_text(), module) == []
    assert checked, f"there is no package {package}"


@pytest.mark.parametrize(
    ("package", "module", "source"),
    [
        ("maestro_core", "maestro_core.names", "import maestro_spawner"),
        ("maestro_core", "maestro_core.names", "def late():\n    from notebooks import api"),
        ("maestro_core", "maestro_core.names", "import os"),
        ("maestro_core", "maestro_core.names", "from urllib import request"),
        ("maestro_spawner", "maestro_spawner.mixin", "from maestro_hub_services.store import tables"),
        ("maestro_spawner", "maestro_spawner.machine.launched", "from ..mixin import MaestroMixin"),
        ("maestro_hub_services", "maestro_hub_services.workspaces.app", "from maestro_spawner.machine import host"),
        ("maestro_hub_services", f"{MAY_IMPORT_MACHINE[0]}.local", "from maestro_spawner import local"),
        ("notebooks", "notebooks.api", "import maestro_hub_services"),
        ("ipython_magics", "ipython_magics.magics", "from server_extension.start import main"),
        ("maestro_hub_services", "maestro_hub_services.packages.app", "from ..tracking import app"),
        ("maestro_hub_services", "maestro_hub_services.packages.app", "from maestro_hub_services import tracking"),
        ("maestro_hub_services", "maestro_hub_services.tracking.app", "from ..store.tables import Launch"),
    ],
)
def test_a_wrong_way_import_is_found(package: str, module: str, source: str) -> None:
    assert violations(package, source, module) != []


@pytest.mark.parametrize(
    ("package", "module", "source"),
    [
        ("maestro_spawner", "maestro_spawner.mixin", "from maestro_core.launches import LaunchPlan"),
        ("maestro_core", "maestro_core.names", "from .errors import MaestroError\nimport re"),
        ("server_extension", "server_extension.app", "from notebooks.api import Api"),
        ("maestro_hub_services", "maestro_hub_services.workspaces.app", "from ..store import tables"),
        (
            "maestro_hub_services",
            "maestro_hub_services.workspaces.runners.local",
            "from maestro_spawner.machine import host",
        ),
        ("maestro_spawner", "maestro_spawner.machine.launched", "from . import folder"),
    ],
)
def test_a_right_way_import_passes(package: str, module: str, source: str) -> None:
    assert violations(package, source, module) == []
