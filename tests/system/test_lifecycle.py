"""A workspace's life on the real system: set up from a file, shared, handed over, archived, restored, purged.

Meanwhile ``maestro.yaml`` opens the GPU profile to everyone, and lets an archived workspace go at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner, Result
from playwright.sync_api import Browser, Page, expect

from maestro_spawner.machine.host import gpu_devices
from notebooks.cli import main
from tests.system.chromium import chromium  # noqa: F401
from tests.system.house import Maestro, Person, until
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
def house(maestro: Maestro) -> Iterator[Maestro]:
    """The running system under a policy for these tests."""

    def change(policy: dict[str, Any]) -> None:
        for profile in policy["profiles"]:
            profile.pop("groups", None)
        policy["retention"]["archived_days"] = 0
        policy["packages"]["index"] = {"upstream": "http://127.0.0.1:9/simple/"}  # nothing is fetched here

    with maestro.ruled(change):
        yield maestro


@pytest.fixture(scope="module")
def ivy(house: Maestro) -> Person:
    """Owns the workspaces made here."""
    return house.person("ivy")


def command(house: Maestro, person: Person, *arguments: str) -> Result:
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
    refused = command(house, person, "launch", "-w", workspace)
    assert "This machine has no GPU; take a profile without one." in refused.stderr
    with person.api() as api:
        assert api.patch(f"workspaces/{workspace}", json={"resources": resources}).is_success


def ended(person: Person, session: str, seconds: float) -> None:
    with person.api() as api:
        until(lambda: api.get(f"launches/{session}").json()["status"] == "ended", seconds, f"{session} runs on")


class TestFromAFile:
    """Every key of the documents' files is obeyed, or refused by name."""

    async def test_the_workspace_that_the_second_document_configures(
        self, house: Maestro, ivy: Person, tmp_path: Path
    ) -> None:
        file = tmp_path / "workspace-config.yaml"
        file.write_text(CONFIG)
        assert "Created life-configured." in done(
            command(house, ivy, "create", "life-configured", "--config", str(file))
        )
        shown = command(house, ivy, "limits", "life-configured", "--json")
        limits = {one["name"]: one for one in json.loads(done(shown))["limits"]}
        assert (limits["max_storage_per_workspace"]["shown"], limits["max_storage_per_workspace"]["origin"]) == (
            "20 GiB",
            "its owners",
        )
        without_gpu(house, ivy, "life-configured", {"cpu": 4, "memory": "8g", "disk": "20g"})
        launch = started(house, ivy, "life-configured")
        assert (launch["resources"]["cpu"], launch["resources"]["memory"]) == (4, 8 * 1024**3)
        for package, word in (("aiohttp", "blocked"), ("numpy", "allowed")):
            shown = json.loads(done(command(house, ivy, "check-package", package, "life-configured", "--json")))
            assert shown["answer"] == word
        done(command(house, ivy, "stop", "life-configured"))

    async def test_the_template_of_the_second_document(self, house: Maestro, ivy: Person, tmp_path: Path) -> None:
        file = tmp_path / "data-science-template.yaml"
        file.write_text(TEMPLATE)
        done(command(house, ivy, "create", "life-templated", "--config", str(file)))
        without_gpu(house, ivy, "life-templated", {"cpu": 8, "memory": "16g"})
        assert started(house, ivy, "life-templated")["resources"]["cpu"] == 8
        server = NotebookServer(f"{house.url}user/{ivy.name}/life-templated/", token=ivy.token())
        server.api("PUT", "api/contents/ours.py", json={"type": "file", "format": "text", "content": "word = 'seen'"})
        cell = "import os, ours; print(ours.word, os.environ['JUPYTER_ENABLE_LAB'])"
        assert (await server.open_notebook("a.ipynb").run(cell)).text == "seen yes\n"
        with ivy.api() as api:
            asked = api.get("workspaces/life-templated/environment").json()
        assert asked["version"] == 1 and "seaborn" in asked["requirements"]
        done(command(house, ivy, "stop", "life-templated"))

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
        self, house: Maestro, ivy: Person, tmp_path: Path, old: str, new: str, named: str
    ) -> None:
        file = tmp_path / "workspace-config.yaml"
        file.write_text(CONFIG.replace(old, new))
        refused = command(house, ivy, "create", "never", "--config", str(file))
        assert refused.exit_code != 0
        assert named in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        assert "never" not in done(command(house, ivy, "list"))


def test_a_colleague_is_invited_signs_up_accepts_and_becomes_the_owner(house: Maestro, ivy: Person) -> None:
    done(command(house, ivy, "create", "life-sharing"))
    unknown = {"kind": "user", "name": "noa", "role": "editor", "adding": "1"}
    refused = ivy.submit(f"{HOME}w/life-sharing", unknown, to=f"{HOME}w/life-sharing/members")
    assert refused.status_code == 404
    button = BeautifulSoup(refused.text, "html.parser").find("button", string=lambda text: "Invite noa" in text)
    asked = ivy.submit(f"{HOME}w/life-sharing", unknown, to=str(button["formaction"]))
    assert "noa may become editor of life-sharing until" in page(asked)

    noa = house.person("noa")
    first = noa.get("")
    assert "ivy invites you to life-sharing as editor" in page(first)
    hidden = BeautifulSoup(first.text, "html.parser").find("input", {"name": "invitation"})
    accepted = noa.submit(HOME, {"invitation": str(hidden["value"])}, to=f"{HOME}invitations/accept")
    assert "You are editor" in page(accepted) and "invites you" not in page(accepted)

    handed = ivy.submit(f"{HOME}w/life-sharing", {"kind": "user", "name": "noa"}, to=f"{HOME}w/life-sharing/transfer")
    assert "noa is owner of life-sharing now, and you are an editor." in page(handed)
    assert "Hand this workspace over" not in page(ivy.get(f"{HOME}w/life-sharing")), "an editor manages no members"
    assert "ivy is owner of life-sharing." in done(command(house, noa, "transfer", "life-sharing", "ivy"))


def test_a_members_server_ends_at_once_when_an_owner_says_now(house: Maestro, ivy: Person) -> None:
    kai = house.person("kai")
    done(command(house, ivy, "create", "life-leaving"))
    done(command(house, ivy, "access", "life-leaving", "--user", "kai"))
    session = started(house, kai, "life-leaving")["session_id"]
    assert done(command(house, kai, "keep", session)).strip() == "It is kept running."
    shown = until(lambda: _sampled(house, ivy, "life-leaving"), 60, "nothing is measured")
    assert (shown["user"], shown["session_id"]) == ("kai", session)
    assert "kai" in done(command(house, ivy, "stats", "life-leaving"))

    removed = ivy.submit(
        f"{HOME}w/life-leaving", {"kind": "user", "name": "kai"}, to=f"{HOME}w/life-leaving/members/remove"
    )
    assert "What kai runs here ends at" in page(removed)
    assert "kai is no member of life-leaving any more" in page(removed)
    gone = ivy.submit(f"{HOME}w/life-leaving", {"back": "life-leaving"}, to=f"{HOME}stop/{session}")  # End now
    assert "The server in life-leaving is stop" in page(gone)
    ended(kai, session, 30)

    done(command(house, ivy, "access", "life-leaving", "--user", "kai"))
    session = started(house, kai, "life-leaving")["session_id"]
    done(command(house, ivy, "revoke", "life-leaving", "kai", "--now"))
    ended(kai, session, 30)


def _sampled(house: Maestro, person: Person, workspace: str) -> dict[str, Any] | None:
    """The first server of a workspace that was measured."""
    found = json.loads(done(command(house, person, "stats", workspace, "--json")))["launches"]
    return next((one for one in found if one["latest"]), None)


def test_an_admin_changes_a_quota_and_stops_a_server(house: Maestro, ivy: Person) -> None:
    done(command(house, ivy, "create", "life-watched"))
    session = started(house, ivy, "life-watched")["session_id"]
    quota = {"level": "user", "name": "ivy", "limit": "max_concurrent_notebooks", "value": "1"}
    assert "ivy" in page(house.admin.submit(f"{HOME}admin/quotas", quota))
    refused = command(house, ivy, "launch", "-w", "personal")
    assert "max_concurrent_notebooks 1, set for user ivy by admin" in refused.stderr
    assert "admin on" in done(command(house, ivy, "limits", "life-watched"))
    stopped = house.admin.submit(f"{HOME}admin", {"back": "admin"}, to=f"{HOME}stop/{session}")
    assert stopped.url.path.endswith("/admin") and "The server in life-watched is stop" in page(stopped)
    ended(ivy, session, 30)
    taken_back = {name: quota[name] for name in ("level", "name", "limit")}
    house.admin.submit(f"{HOME}admin/quotas", taken_back, to=f"{HOME}admin/quotas/remove")


def test_a_workspace_is_archived_restored_and_purged(house: Maestro, ivy: Person) -> None:
    done(command(house, ivy, "create", "life-passing", "--description", "Soon gone"))
    session = started(house, ivy, "life-passing")["session_id"]
    server = NotebookServer(f"{house.url}user/{ivy.name}/life-passing/", token=ivy.token())
    server.api("PUT", "api/contents/kept.txt", json={"type": "file", "format": "text", "content": "words"})
    busy = command(house, ivy, "archive", "life-passing")
    assert busy.exit_code != 0 and "1 server runs in life-passing" in busy.stderr
    done(command(house, ivy, "stop", "life-passing"))
    ended(ivy, session, 30)

    done(command(house, ivy, "archive", "life-passing"))
    assert "life-passing" not in done(command(house, ivy, "list"))
    assert "life-passing" in done(command(house, ivy, "list", "--archived"))
    refused = command(house, ivy, "launch", "-w", "life-passing")
    assert refused.exit_code != 0
    done(command(house, ivy, "restore", "life-passing"))
    done(command(house, ivy, "archive", "life-passing"))

    answer = ivy.submit(HOME, {"sure": "life-passing", "back": "home"}, to=f"{HOME}w/life-passing/purge")
    assert "Purge of life-passing" in page(answer)
    report = answer.url.path.removeprefix(httpx.URL(house.url).path)
    text = until(lambda: _free(page(ivy.get(report))), 90, "the purge does not end")
    assert "files: 1 (5 bytes)" in text and "members: 1" in text
    assert "launches: 1 in the figures of budgets" in text
    again = done(command(house, ivy, "create", "life-passing"))
    assert "Created life-passing." in again
    with ivy.api() as api:
        assert api.get("workspaces/life-passing").json()["description"] == ""


def _free(text: str) -> str:
    return text if "Nothing is left of it" in text else ""


@pytest.mark.browser
def test_a_role_changes_and_the_members_spawn_form_with_it(
    house: Maestro,
    ivy: Person,
    chromium: Browser,  # noqa: F811
) -> None:
    lyn = house.person("lyn")
    done(command(house, ivy, "create", "life-changing"))
    done(command(house, ivy, "access", "life-changing", "--user", "lyn"))
    owner, member = _window(house, chromium, ivy), _window(house, chromium, lyn)
    form = f"hub/spawn/{lyn.name}/life-changing"

    member.goto(form)
    expect(member.get_by_text("You are editor, 0 of 3 servers in use")).to_be_visible()
    expect(member.get_by_label("Notebook template")).to_be_visible()
    expect(member.get_by_text("read-only for you")).to_have_count(0)

    owner.goto(f"{HOME}w/life-changing")
    owner.get_by_label("Role of lyn", exact=True).select_option("viewer")
    owner.get_by_role("button", name="Save the role of lyn").click()
    expect(owner.get_by_role("status")).to_contain_text("lyn is now viewer of life-changing.")
    member.reload()
    expect(member.get_by_text("You are viewer")).to_be_visible()
    expect(member.get_by_text("files are read-only for you")).to_be_visible()
    expect(member.get_by_label("Notebook template")).to_have_count(0)
    expect(member.get_by_role("button", name="Start")).to_be_enabled()

    owner.get_by_role("button", name="Remove user lyn").click()
    expect(owner.get_by_role("status")).to_contain_text("lyn is no longer a member of life-changing.")
    member.reload()
    expect(member.locator("#maestro-refused")).to_contain_text(
        "There is no workspace 'life-changing' that you belong to"
    )
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
