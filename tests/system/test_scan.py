"""A security scan on the real system: advisories come in, a workspace is scanned, an image is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.house import ROOT, Maestro, Person, until
from tests.system.singleuser import has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(400)]

TOKEN = "ghp_" + "z9Y8" * 9
#: one of the image's own packages, and malware that nobody has
RECORDS = {
    "PYSEC-TEST-1": {"name": "jupyterlab", "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]},
    "MAL-TEST-1": {"name": "evil-made-up-thing", "versions": ["1.0"]},
}

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(maestro: Maestro, tmp_path: Path) -> Callable[[Person], Cli]:
    """The CLI in somebody's terminal."""

    def of(person: Person) -> Cli:
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT),
            "MAESTRO_URL": maestro.url, "MAESTRO_TOKEN": person.token(),
        }  # fmt: skip
        command = [sys.executable, "-m", "notebooks.cli"]
        return lambda *arguments: subprocess.run(
            [*command, *map(str, arguments)], env=environ, capture_output=True, text=True, timeout=200, check=False
        )

    return of


def records(folder: Path) -> Path:
    for number, about in RECORDS.items():
        package = {"ecosystem": "PyPI", "name": about["name"]}
        affected = {key: value for key, value in about.items() if key != "name"} | {"package": package}
        (folder / f"{number}.json").write_text(json.dumps({"id": number, "summary": "Bad", "affected": [affected]}))
    return folder


def launched(person: Person, **ask: Any) -> str:
    """The session's id, once it runs."""
    with person.api() as api:
        started = api.post("launches", json=ask)
        assert started.status_code in (201, 202), started.text
        session = str(started.json()["session_id"])
        until(lambda: api.get(f"launches/{session}").json()["status"] == "running", 120, "it does not come up")
        return session


def refused(person: Person, **ask: Any) -> str:
    """Why a server did not start: said at once, or a moment later."""
    with person.api() as api:
        started = api.post("launches", json=ask)
        if not started.is_success:
            return str(started.json()["error"]["message"])
        launch = f"launches/{started.json()['session_id']}"
        until(lambda: api.get(launch).json()["status"] == "ended", 60, "it started all the same")
        return str(api.get(launch).json()["ended_reason"])


def test_advisories_scan_and_the_image(maestro: Maestro, cli: Callable[[Person], Cli], tmp_path: Path) -> None:
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    person, admin = maestro.person("scanner"), cli(maestro.admin)
    me = cli(person)

    # only an admin imports
    folder = tmp_path / "osv"
    folder.mkdir()
    denied = me("advisories", "import", records(folder))
    assert denied.returncode and "custom:maestro:admin" in denied.stderr
    imported = admin("advisories", "import", folder)
    assert (
        imported.returncode == 0
        and "Read 2 records. 2 advisories are known, 1 of them about malware" in imported.stdout
    )

    # a scan is for a server that runs
    missing = me("security-scan")
    assert missing.returncode and "No server of yours runs in" in missing.stderr
    session = launched(person, workspace="personal")
    with person.api() as api:
        workspace = api.get("workspaces/personal").json()
    cell = {"cell_type": "code", "source": f"eval(x)\nt = '{TOKEN}'", "outputs": [], "metadata": {}}
    notebook = {"cells": [cell], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}
    (maestro.state / "workspaces" / workspace["workspace_id"] / "risky.ipynb").write_text(json.dumps(notebook))

    found = me("security-scan", "--json", "--sbom", tmp_path / "sbom.json", "--fail-on", "high")
    assert found.returncode == 1, found.stderr
    report = json.loads(found.stdout)
    by_rule = {one["rule"]: one for one in report["findings"]}
    assert by_rule["B307"]["cell"] == 1 and by_rule["B307"]["line"] == 1 and by_rule["GitHub Token"]["line"] == 2
    assert by_rule["PYSEC-TEST-1"]["what"].startswith("jupyterlab ")
    assert TOKEN not in found.stdout
    assert report["advisories"]["count"] == 2 and report["notes"] == []
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert [one["id"] for one in bill["vulnerabilities"]] == ["PYSEC-TEST-1"]
    shown = me("security-scan", "personal")
    assert shown.returncode == 0 and "risky.ipynb, cell 1, line 1" in shown.stdout
    with person.api() as api:
        api.delete(f"launches/{session}")

        # a workspace whose image holds what it may not
        strict = {"startup_scan": "refuse", "startup_blocked_packages": ["jupyterlab"]}
        made = api.post("workspaces", json={"name": "scan-strict", "description": "", "security": strict})
        assert made.status_code == 201, made.text
    reason = refused(person, workspace="scan-strict")
    assert "contains what the package policy blocks (jupyterlab" in reason, reason
