"""A workspace's life on the real system: set up from a file, shared, handed over, archived, restored, purged.

A system of its own: its ``maestro.yaml`` opens the GPU profile to everyone, and lets an archived workspace go at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from bs4 import BeautifulSoup
from click.testing import CliRunner, Result
from playwright.sync_api import Browser, Page, expect

from maestro_spawner.host import gpu_devices
from notebooks.cli import main
from tests.system.chromium import chromium  # noqa: F401
from tests.system.house import ROOT, Maestro, Person, Run, until
from tests.system.singleuser import NotebookServer, has_bubblewrap

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not has_bubblewrap(), reason="bubblewrap makes no sandboxes here"),
]
HOME = "services/workspaces/"

#: as the project's second document writes them
CONFIG = """
resources:
  cpu: 4
  memory: 8g
  gpu: 1
  disk: 20g

environment:
  python_version: "3.11"
  jupyter_version: "latest"

security:
  trusted_channels: ["conda-forge", "defaults", "pytorch"]
  blocked_packages: ["aiohttp", "telnetlib"]
"""
TEMPLATE = """
name: data-science-workspace
resources:
  cpu: 8
  memory: 16g
  gpu: 1

packages:
  - numpy
  - pandas
  - scikit-learn
  - matplotlib
  - seaborn
  - jupyterlab

security:
  trusted_channels: ["conda-forge", "defaults"]
  approval_required: []

environment:
  PYTHONPATH: "/workspace"
  JUPYTER_ENABLE_LAB: "yes"
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maestro]:
    folder = tmp_path_factory.mktemp("lifecycle")
    policy = yaml.safe_load((ROOT / "maestro.yaml").read_text())
    for profile in policy["profiles"]:
        profile.pop("groups", None)
    policy["retention"]["archived_days"] = 0
    (folder / "maestro.yaml").write_text(yaml.safe_dump(policy))
    run = Run(folder / "state", environment={"MAESTRO_POLICY": str(folder / "maestro.yaml")})
    try:
        yield Maestro(run)
    finally:
        run.stop()


@pytest.fixture(scope="module")
def pia(house: Maestro) -> Person:
    """Owns the workspaces made here."""
    return house.person("pia")


def maestro(house: Maestro, person: Person, *arguments: str) -> Result:
    """The ``maestro`` command in the person's terminal."""
    signed_in = {"MAESTRO_URL": house.url, "MAESTRO_TOKEN": person.token()}
    return CliRunner().invoke(main, list(arguments), env=signed_in, catch_exceptions=False)


def done(result: Result) -> str:
    """What it printed; it must have worked."""
    assert result.exit_code == 0, result.output
    return result.stdout


def page(answer: httpx.Response) -> str:
    """The text of a page."""
    return " ".join(BeautifulSoup(answer.text, "html.parser").get_text(" ").split())


def started(house: Maestro, person: Person, workspace: str, **ask: Any) -> dict[str, Any]:
    """A running server of the person; the launch."""
    with person.api() as api:
        answer = api.post("launches", json={"workspace": workspace, **ask})
        assert answer.is_success, answer.text
        path = f"launches/{answer.json()['session_id']}"
        until(lambda: api.get(path).json()["status"] == "running", 120, "the server does not come up")
        return dict(api.get(path).json())


def without_gpu(house: Maestro, person: Person, workspace: str, resources: dict[str, Any]) -> None:
    """Where the machine has no GPU a start is refused for that, and the workspace asks for none from then on."""
    if gpu_devices():
        return
    refused = maestro(house, person, "launch", "-w", workspace)
    assert "This machine has no GPU; take a profile without one." in refused.stderr
    with person.api() as api:
        assert api.patch(f"workspaces/{workspace}", json={"resources": resources}).is_success


def ended(person: Person, session: str, seconds: float) -> None:
    with person.api() as api:
        until(lambda: api.get(f"launches/{session}").json()["status"] == "ended", seconds, f"{session} runs on")


class TestFromAFile:
    """Every key of the documents' files is obeyed, or refused by name."""

    async def test_the_workspace_that_the_second_document_configures(
        self, house: Maestro, pia: Person, tmp_path: Path
    ) -> None:
        file = tmp_path / "workspace-config.yaml"
        file.write_text(CONFIG)
        assert "Created configured." in done(maestro(house, pia, "create", "configured", "--config", str(file)))
        shown = maestro(house, pia, "limits", "configured", "--json")
        limits = {one["name"]: one for one in json.loads(done(shown))["limits"]}
        assert (limits["max_storage_per_workspace"]["shown"], limits["max_storage_per_workspace"]["origin"]) == (
            "20 GiB",
            "its owners",
        )
        without_gpu(house, pia, "configured", {"cpu": 4, "memory": "8g", "disk": "20g"})
        launch = started(house, pia, "configured")
        assert (launch["resources"]["cpu"], launch["resources"]["memory"]) == (4, 8 * 1024**3)
        for package, word in (("aiohttp", "blocked"), ("numpy", "allowed")):
            shown = json.loads(done(maestro(house, pia, "check-package", package, "configured", "--json")))
            assert shown["answer"] == word
        done(maestro(house, pia, "stop", "configured"))

    async def test_the_template_of_the_second_document(self, house: Maestro, pia: Person, tmp_path: Path) -> None:
        file = tmp_path / "data-science-template.yaml"
        file.write_text(TEMPLATE)
        done(maestro(house, pia, "create", "templated", "--config", str(file)))
        without_gpu(house, pia, "templated", {"cpu": 8, "memory": "16g"})
        assert started(house, pia, "templated")["resources"]["cpu"] == 8
        server = NotebookServer(f"{house.url}user/{pia.name}/templated/", token=pia.token())
        server.api("PUT", "api/contents/ours.py", json={"type": "file", "format": "text", "content": "word = 'seen'"})
        cell = "import os, ours; print(ours.word, os.environ['JUPYTER_ENABLE_LAB'])"
        assert (await server.open_notebook("a.ipynb").run(cell)).text == "seen yes\n"
        done(maestro(house, pia, "stop", "templated"))

    @pytest.mark.parametrize(
        ("old", "new", "named"),
        [
            ("cpu: 4", "cpus: 4", "resources.cpus"),
            ("disk: 20g", "disk: 200g", "max_storage_per_workspace"),
            ("cpu: 4", "cpu: 40", "No profile open to you covers 40 cpu"),
            ('jupyter_version: "latest"', 'jupyter_version: "3.6"', "environment.jupyter_version"),
            ('jupyter_version: "latest"', "LD_PRELOAD: /workspace/x.so", "LD_PRELOAD"),
            ("blocked_packages", "blocked_pakages", "security.blocked_pakages"),
        ],
    )
    def test_what_cannot_be_is_refused_by_name(
        self, house: Maestro, pia: Person, tmp_path: Path, old: str, new: str, named: str
    ) -> None:
        file = tmp_path / "workspace-config.yaml"
        file.write_text(CONFIG.replace(old, new))
        refused = maestro(house, pia, "create", "never", "--config", str(file))
        assert refused.exit_code != 0
        assert named in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        assert "never" not in done(maestro(house, pia, "list"))


def test_a_colleague_is_invited_signs_up_accepts_and_becomes_the_owner(house: Maestro, pia: Person) -> None:
    done(maestro(house, pia, "create", "sharing"))
    unknown = {"kind": "user", "name": "newcomer", "role": "editor", "adding": "1"}
    refused = pia.submit(f"{HOME}w/sharing", unknown, to=f"{HOME}w/sharing/members")
    assert refused.status_code == 404
    button = BeautifulSoup(refused.text, "html.parser").find("button", string=lambda text: "Invite newcomer" in text)
    asked = pia.submit(f"{HOME}w/sharing", unknown, to=str(button["formaction"]))
    assert "newcomer may become editor of sharing until" in page(asked)

    newcomer = house.person("newcomer")
    first = newcomer.get("")
    assert "pia invites you to sharing as editor" in page(first)
    hidden = BeautifulSoup(first.text, "html.parser").find("input", {"name": "invitation"})
    accepted = newcomer.submit(HOME, {"invitation": str(hidden["value"])}, to=f"{HOME}invitations/accept")
    assert "You are editor" in page(accepted) and "invites you" not in page(accepted)

    handed = pia.submit(f"{HOME}w/sharing", {"kind": "user", "name": "newcomer"}, to=f"{HOME}w/sharing/transfer")
    assert "newcomer is owner of sharing now, and you are an editor." in page(handed)
    assert "Hand this workspace over" not in page(pia.get(f"{HOME}w/sharing")), "an editor manages no members"
    assert "pia is owner of sharing." in done(maestro(house, newcomer, "transfer", "sharing", "pia"))


def test_a_members_server_ends_at_once_when_an_owner_says_now(house: Maestro, pia: Person) -> None:
    kim = house.person("kim")
    done(maestro(house, pia, "create", "leaving"))
    done(maestro(house, pia, "access", "leaving", "--user", "kim"))
    session = started(house, kim, "leaving")["session_id"]
    assert done(maestro(house, kim, "keep", session)).strip() == "It is kept running."
    shown = until(lambda: _sampled(house, pia, "leaving"), 60, "nothing is measured")
    assert (shown["user"], shown["session_id"]) == ("kim", session)
    assert "kim" in done(maestro(house, pia, "stats", "leaving"))

    removed = pia.submit(f"{HOME}w/leaving", {"kind": "user", "name": "kim"}, to=f"{HOME}w/leaving/members/remove")
    assert "What kim runs here ends at" in page(removed)
    assert "kim is no member of leaving any more" in page(removed)
    gone = pia.submit(f"{HOME}w/leaving", {"back": "leaving"}, to=f"{HOME}stop/{session}")  # End now
    assert "The server in leaving is stop" in page(gone)
    ended(kim, session, 30)

    done(maestro(house, pia, "access", "leaving", "--user", "kim"))
    session = started(house, kim, "leaving")["session_id"]
    done(maestro(house, pia, "revoke", "leaving", "kim", "--now"))
    ended(kim, session, 30)


def _sampled(house: Maestro, person: Person, workspace: str) -> dict[str, Any] | None:
    """The first server of a workspace that was measured."""
    found = json.loads(done(maestro(house, person, "stats", workspace, "--json")))["launches"]
    return next((one for one in found if one["latest"]), None)


def test_an_admin_changes_a_quota_and_stops_a_server(house: Maestro, pia: Person) -> None:
    done(maestro(house, pia, "create", "watched"))
    session = started(house, pia, "watched")["session_id"]
    quota = {"level": "user", "name": "pia", "limit": "max_concurrent_notebooks", "value": "1"}
    assert "pia" in page(house.admin.submit(f"{HOME}admin/quotas", quota))
    refused = maestro(house, pia, "launch", "-w", "personal")
    assert "max_concurrent_notebooks 1, set for user pia by admin" in refused.stderr
    assert "admin on" in done(maestro(house, pia, "limits", "watched"))
    stopped = house.admin.submit(f"{HOME}admin", {"back": "admin"}, to=f"{HOME}stop/{session}")
    assert stopped.url.path.endswith("/admin") and "The server in watched is stop" in page(stopped)
    ended(pia, session, 30)
    taken_back = {name: quota[name] for name in ("level", "name", "limit")}
    house.admin.submit(f"{HOME}admin/quotas", taken_back, to=f"{HOME}admin/quotas/remove")


def test_a_workspace_is_archived_restored_and_purged(house: Maestro, pia: Person) -> None:
    done(maestro(house, pia, "create", "passing", "--description", "Soon gone"))
    session = started(house, pia, "passing")["session_id"]
    server = NotebookServer(f"{house.url}user/{pia.name}/passing/", token=pia.token())
    server.api("PUT", "api/contents/kept.txt", json={"type": "file", "format": "text", "content": "words"})
    busy = maestro(house, pia, "archive", "passing")
    assert busy.exit_code != 0 and "1 server runs in passing" in busy.stderr
    done(maestro(house, pia, "stop", "passing"))
    ended(pia, session, 30)

    done(maestro(house, pia, "archive", "passing"))
    assert "passing" not in done(maestro(house, pia, "list"))
    assert "passing" in done(maestro(house, pia, "list", "--archived"))
    refused = maestro(house, pia, "launch", "-w", "passing")
    assert refused.exit_code != 0
    done(maestro(house, pia, "restore", "passing"))
    done(maestro(house, pia, "archive", "passing"))

    answer = pia.submit(HOME, {"sure": "passing", "back": "home"}, to=f"{HOME}w/passing/purge")
    assert "Purge of passing" in page(answer)
    report = answer.url.path.removeprefix(httpx.URL(house.url).path)
    text = until(lambda: _free(page(pia.get(report))), 90, "the purge does not end")
    assert "files: 1 (5 bytes)" in text and "members: 1" in text
    assert "launches: 1 in the figures of budgets" in text
    again = done(maestro(house, pia, "create", "passing"))
    assert "Created passing." in again
    with pia.api() as api:
        assert api.get("workspaces/passing").json()["description"] == ""


def _free(text: str) -> str:
    return text if "Nothing is left of it" in text else ""


@pytest.mark.browser
def test_a_role_changes_and_the_members_spawn_form_with_it(
    house: Maestro,
    pia: Person,
    chromium: Browser,  # noqa: F811
) -> None:
    lee = house.person("lee")
    done(maestro(house, pia, "create", "changing"))
    done(maestro(house, pia, "access", "changing", "--user", "lee"))
    owner, member = _window(house, chromium, pia), _window(house, chromium, lee)
    form = f"hub/spawn/{lee.name}/changing"

    member.goto(form)
    expect(member.get_by_text("You are editor, 0 of 3 servers in use")).to_be_visible()
    expect(member.get_by_label("Notebook template")).to_be_visible()
    expect(member.get_by_text("read-only for you")).to_have_count(0)

    owner.goto(f"{HOME}w/changing")
    owner.get_by_label("Role of lee", exact=True).select_option("viewer")
    owner.get_by_role("button", name="Save the role of lee").click()
    expect(owner.get_by_role("status")).to_contain_text("lee is now viewer of changing.")
    member.reload()
    expect(member.get_by_text("You are viewer")).to_be_visible()
    expect(member.get_by_text("files are read-only for you")).to_be_visible()
    expect(member.get_by_label("Notebook template")).to_have_count(0)
    expect(member.get_by_role("button", name="Start")).to_be_enabled()

    owner.get_by_role("button", name="Remove user lee").click()
    expect(owner.get_by_role("status")).to_contain_text("lee is no longer a member of changing.")
    member.reload()
    expect(member.locator("#maestro-refused")).to_contain_text("There is no workspace 'changing' that you belong to")
    expect(member.get_by_role("button", name="Start")).to_be_disabled()


def _window(house: Maestro, browser: Browser, person: Person) -> Page:
    """A browser in which the person is signed in, once."""
    window = browser.new_context(viewport={"width": 1200, "height": 850}, base_url=house.url).new_page()
    window.goto("")
    window.get_by_label("Username").fill(person.name)
    window.get_by_label("Password").fill(person.password)
    window.get_by_role("button", name="Sign in").click()
    expect(window.get_by_role("heading", name="Workspaces")).to_be_visible()
    return window
