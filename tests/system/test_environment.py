"""The environment of a workspace on the real system: what one installs, everybody has at their next start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from maestro_core.clients import client_environment
from server_extension.packages.build import Outcome
from server_extension.packages.watch import notices_of
from tests import package_kit as kit
from tests.system.house import API, ROOT, Maestro, Person, until
from tests.system.singleuser import NotebookServer, has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(400)]
WORKSPACE = "labs"
ENVIRONMENT = f"workspaces/{WORKSPACE}/environment"
MINOR = sys.version_info.minor
HAVE = (
    "from importlib.metadata import distributions as d\n"
    "print(sorted(f\"{it.name} {it.version}\" for it in d() if it.name.startswith('small-')))"
)


@pytest.fixture(scope="module")
def upstream(maestro: Maestro) -> Iterator[kit.Upstream]:
    """An index of small wheels behind the house's own."""
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    with kit.upstream_and_authority() as (upstream, _):
        upstream.add("small-plot", "1.0", ("small-ink",))
        upstream.add("small-plot", "2.0", ("small-ink",))
        upstream.add("small-ink", "1.0")
        only_here = f"small_table-1.0-cp3{MINOR}-none-any.whl"
        upstream.add_file("small-table", only_here, kit.wheel("small-table", "1.0"), kit.metadata("small-table", "1.0"))
        upstream.add("small-table", "1.1", **{"requires-python": f">=3.{MINOR + 1}"})
        upstream.add("small-yaml", "1.0")
        upstream.add("small-yaml", "1.5")
        with maestro.packages_from(upstream.url):
            yield upstream


@contextmanager
def running(maestro: Maestro, person: Person) -> Iterator[NotebookServer]:
    """Their server in the workspace."""
    with person.api() as api:
        started = api.post("launches", json={"workspace": WORKSPACE})
        assert started.status_code in (201, 202), started.text
        launch = f"launches/{started.json()['session_id']}"
        until(lambda: api.get(launch).json()["status"] == "running", 60, "the server does not come up")
        url = f"{maestro.url}user/{person.name}/{WORKSPACE}/"
        try:
            yield NotebookServer(url, None, Path(), token=person.token())
        finally:
            api.delete(launch)
            until(lambda: api.get(launch).json()["status"] == "ended", 60, "the server does not stop")


def progress(person: Person) -> str:
    """Wait for the start of their server, and read its progress page to the end."""
    path = f"users/{person.name}/servers/{WORKSPACE}/progress"

    def look() -> str | None:
        answer = person.hub("GET", path)
        return answer.text if answer.is_success and "Checking quota" in answer.text else None

    return until(look, 60, "no progress is shown")


def notice(server: NotebookServer, text: str) -> str:
    """Wait for what JupyterLab says."""

    def said() -> str | None:
        told = [it["message"] for it in server.api("GET", "maestro/notices").json()["notices"]]
        return next((message for message in told if text in message), None)

    return until(said, 30, f"a notice with {text!r}")


def another_python() -> Path | None:
    """A newer Python of this machine than this one: on the path, or beside it."""
    minors = range(MINOR + 1, MINOR + 6)
    beside = [path for it in minors for path in sorted(Path(sys.base_prefix).parent.glob(f"*/bin/python3.{it}"))]
    named = [Path(found) for it in minors if (found := shutil.which(f"python3.{it}"))]
    for path in [*named, *beside]:
        done = subprocess.run([path, "-c", "import venv; print(True)"],
                              capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
        if done.stdout.strip() == "True":
            return path
    return None


#: what a server does before it starts (server_extension.start), with the Python that its image has
BUILD = """
import dataclasses, json, os, sys
from pathlib import Path
from server_extension.environment import make_environment
from server_extension.launch import Launch
from server_extension.packages.build import build
launch = Launch.from_environ(os.environ, os.environ["TEST_PREFIX"])
make_environment(launch)
print(json.dumps(dataclasses.asdict(build(launch, os.environ))))
"""


def built_with(python: Path, maestro: Maestro, person: Person, launch_id: str, folder: Path) -> Outcome:
    """What a server whose image has another Python builds of the workspace's environment, and says of it.

    Everything is what that launch has, but for the image: another Python with uv beside it.
    """
    prefix = folder / "prefix"
    for name in ("prefix/bin", "home", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (prefix / "bin/uv").unlink(missing_ok=True)
    (prefix / "bin/uv").symlink_to(Path(sys.executable).parent / "uv")
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(folder / "home"), "PYTHONPATH": str(ROOT),
        "MAESTRO_WORKSPACE": WORKSPACE, "MAESTRO_WORKSPACE_DIR": str(folder / "work"), "MAESTRO_ENVIRONMENT": "3",
        "MAESTRO_ENV": str(folder / "env"), "MAESTRO_SERVICE_URL": f"{maestro.url}{API}".rstrip("/"),
        "JUPYTERHUB_API_TOKEN": person.token(), "TEST_PREFIX": str(prefix),
        **client_environment(str(maestro.state / "run/launches" / launch_id / "etc")),
    }  # fmt: skip
    done = subprocess.run([python, "-c", BUILD], env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return Outcome(**json.loads(done.stdout))


async def have(server: NotebookServer) -> str:
    """The tests' packages that a new kernel imports."""
    return (await server.open_notebook("look.ipynb").run(HAVE)).text.strip()


def another_image(python: Path, maestro: Maestro, ada: Person, api: httpx.Client, folder: Path) -> None:
    """An image with another Python resolves anew, keeps what still fits, and says what is different; once."""
    (launch,) = [it for it in api.get("launches").json()["launches"] if it["workspace"] == WORKSPACE]
    first = built_with(python, maestro, ada, launch["session_id"], folder / "one")
    assert (first.missing, first.problem, first.moved) == ({}, None, ["small-table 1.0 -> 1.1"])  # small-ink stays 1.0
    ((_, _, said),) = notices_of(first, WORKSPACE)
    minor = ".".join(first.target.split(".")[:2]).partition("/")[0]
    assert f"The packages of {WORKSPACE} were resolved anew for Python {minor} on " in said
    assert f"(they were for Python 3.{MINOR} on " in said and said.endswith("): small-table 1.0 -> 1.1.")
    assert len(api.get(ENVIRONMENT).json()["targets"]) == 2, "the next one finds it resolved"
    second = built_with(python, maestro, ada, launch["session_id"], folder / "two")
    assert (second.packages, second.moved) == (first.packages, [])


async def test_what_two_editors_install_is_there_at_the_next_start_until_somebody_goes_back(
    maestro: Maestro, upstream: kit.Upstream, tmp_path: Path
) -> None:
    ada, ben = maestro.person("env-ada"), maestro.person("env-ben")
    with ada.api() as api:
        members = [{"user": ben.name, "role": "editor"}]
        spec: dict[str, Any] = {"name": WORKSPACE, "members": members, "packages": ["small-yaml<1.5"]}
        assert api.post("workspaces", json=spec).status_code == 201

        with running(maestro, ada) as first, running(maestro, ben) as second:
            # the YAML's packages are the first version, resolved by the first server that starts
            assert await have(first) == await have(second) == "['small-yaml 1.0']"
            installed = await first.open_notebook("a.ipynb").run("!pip install -q small-plot")
            assert installed.status == "ok", installed.text
            line = "small-plot 2.0 and 1 package that it needs are now part of labs: version 2 of its environment."
            assert notice(first, "small-plot") == line
            await second.open_notebook("b.ipynb").run("!uv pip install small-table")
            assert notice(second, "small-table") == "small-table 1.0 is now part of labs: version 3 of its environment."
        merged = api.get(ENVIRONMENT).json()
        assert merged["requirements"] == ["small-plot", "small-table", "small-yaml<1.5"]
        assert merged["author"] == ben.name

        upstream.add("small-ink", "1.1")  # newer, and nobody asked for it
        watching = ThreadPoolExecutor(1)
        shown = watching.submit(progress, ada)
        watching.shutdown(wait=False)
        with running(maestro, ada) as third:
            everything = "['small-ink 1.0', 'small-plot 2.0', 'small-table 1.0', 'small-yaml 1.0']"
            assert await have(third) == everything
            assert "Installing 4 packages of version 3 of the workspace's environment" in shown.result(60)
            if python := another_python():
                another_image(python, maestro, ada, api, tmp_path)
            await third.open_notebook("c.ipynb").run("!pip uninstall -q -y small-table")
            assert "small-table is no longer part of labs: version 4" in notice(third, "small-table")
            back = api.post(f"{ENVIRONMENT}/rollback", json={"version": 2})
            assert (back.status_code, back.json()["version"]) == (201, 5), back.text
            rules = {"blocked_packages": [{"package": "small-plot", "reason": "ask before you plot"}]}
            assert api.patch(f"workspaces/{WORKSPACE}", json={"security": rules}).is_success
            blocked = third.open_notebook("d.ipynb")

            # the index asks for the policy every 5 seconds
            async def refused() -> bool:
                again = "!pip download -q --no-cache-dir --no-deps -d /tmp small-plot==1.0"
                return "is blocked" in (await blocked.run(again)).text

            while not await refused():
                pass

        with running(maestro, ben) as fourth:
            assert await have(fourth) == "['small-ink 1.0', 'small-yaml 1.0']"
            said = notice(fourth, "This server lacks")
            assert "lacks packages of version 5 of the environment of labs: small-plot 2.0 (" in said
            assert (
                "small-plot is blocked by the policy of workspace labs (rule small-plot): ask before you plot" in said
            )
