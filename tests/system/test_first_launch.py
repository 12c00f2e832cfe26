"""The first launch, as people do it: a browser, a notebook in a workspace, its runs in MLflow under their own name.

``MAESTRO_SHOTS=folder`` keeps the pictures of the walk (the docs' pictures are made this way).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.system.chromium import chromium  # noqa: F401
from tests.system.house import ROOT, Maestro, Person, until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

LONG = 120_000  # ms; the first notebook of a cold machine


def shot(page: Page, name: str) -> None:
    """Keep a picture, when pictures are asked for."""
    folder = os.environ.get("MAESTRO_SHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")


def new_page(browser: Browser) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
    page.set_default_timeout(30_000)
    return page


def sign_in(page: Page, url: str, name: str, password: str) -> None:
    page.goto(url)
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").first.fill(password)
    page.get_by_role("button", name="Sign in").click()


def run_all(page: Page) -> None:
    """Run > Run All Cells, as the menu has it, and wait until the kernel is idle again."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


class Mlflow:
    """MLflow's REST API as somebody, in one workspace."""

    def __init__(self, url: str, token: str, workspace: str) -> None:
        headers = {"Authorization": f"token {token}", "X-MLFLOW-WORKSPACE": workspace}
        self._client = httpx.Client(base_url=f"{url}services/mlflow/api/2.0/mlflow/", headers=headers, timeout=30)

    def experiments(self) -> httpx.Response:
        return self._client.post("experiments/search", json={"max_results": 50})

    def runs(self) -> list[dict[str, Any]]:
        """All runs of all experiments; an empty list when there is nothing to see."""
        answer = self.experiments()
        if answer.status_code != 200:
            return []
        ids = [found["experiment_id"] for found in answer.json().get("experiments", [])]
        found = self._client.post("runs/search", json={"experiment_ids": ids, "max_results": 50})
        return list(found.json().get("runs", [])) if ids else []


def tags(run: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}


@pytest.fixture(scope="module")
def stranger(maestro: Maestro) -> Person:
    return maestro.person("stranger")


def test_from_sign_up_to_a_run_in_mlflow(maestro: Maestro, chromium: Browser, stranger: Person) -> None:  # noqa: F811
    name, password = "ann@example.com", "correct horse battery"
    ann = new_page(chromium)

    # She signs up, and waits for the admin's word
    ann.goto(maestro.url)
    ann.get_by_role("link", name="Sign up").click()
    shot(ann, "sign-up")
    ann.get_by_label("User name").fill(name)
    ann.get_by_label("Password", exact=True).fill(password)
    ann.get_by_label("The same password again").fill(password)
    ann.get_by_role("button", name="Ask for an account").click()
    sign_in(ann, maestro.url, name, password)
    expect(ann.locator("body")).to_contain_text(re.compile("admin", re.IGNORECASE))
    expect(ann.get_by_role("button", name="Sign in")).to_be_visible()

    admin = new_page(chromium)
    sign_in(admin, maestro.url, "admin", maestro.admin.password)
    admin.get_by_role("link", name="Accounts").click()
    shot(admin, "accounts")
    row = admin.locator("tr", has_text=name)
    row.get_by_role("button", name=re.compile("Approve")).click()
    expect(admin.locator("body")).to_contain_text(name)

    # The landing page shows workspaces as cards; she makes one, and adds a member
    sign_in(ann, maestro.url, name, password)
    expect(ann.get_by_role("heading", name="Workspaces")).to_be_visible()
    expect(ann.locator("body")).to_contain_text(re.compile(r"owner, 0 of 3 servers"))
    ann.get_by_text("New workspace").click()
    ann.locator("#create-name").fill("churn")
    ann.locator("#create-description").fill("Why customers leave")
    ann.get_by_role("button", name="Create workspace").click()
    expect(ann.locator("body")).to_contain_text("churn")
    ann.goto(f"{maestro.url}services/workspaces/w/churn")
    maestro.person("bob")
    ann.locator("#member-name").fill("bob")
    ann.locator("#member-role").select_option("viewer")
    ann.get_by_role("button", name="Add", exact=True).click()
    expect(ann.get_by_label("Role of bob", exact=True)).to_have_value("viewer")
    shot(ann, "workspace")
    ann.goto(maestro.url)
    shot(ann, "cards")

    # The Hub's own form for that workspace, then JupyterLab with the notebook
    ann.goto(f"{maestro.url}hub/spawn/{name}/churn")
    ann.get_by_text("Small", exact=True).click()
    ann.locator("#spawn-template").select_option("start-here")
    shot(ann, "form")
    ann.get_by_role("button", name="Start").click()
    ann.wait_for_url(re.compile("/lab"), timeout=LONG)
    expect(ann.locator(".jp-Notebook")).to_contain_text("Start here", timeout=LONG)
    expect(ann.get_by_text(re.compile("Python 3 .*Idle"))).to_be_visible(timeout=LONG)
    run_all(ann)
    expect(ann.locator(".jp-Notebook")).to_contain_text("hello-magics finished", timeout=LONG)
    expect(ann.locator(".jp-Notebook")).not_to_contain_text("Error")
    shot(ann, "notebook")

    # Her files lie in the workspace's folder, not in the server's
    assert list((maestro.state / "workspaces").glob("*/Start here.ipynb"))

    # The runs are hers, in the workspace's experiment, tagged with notebook and workspace
    token = token_of(ann, maestro, name)
    runs = Mlflow(maestro.url, token, "churn").runs()
    assert {run["info"]["run_name"] for run in runs} == {"hello", "hello-magics"}
    for run in runs:
        found = tags(run)
        assert run["info"]["status"] == "FINISHED"
        assert found["mlflow.user"] == name
        assert found["maestro.workspace"] == "churn"
        assert found["maestro.notebook"] == "Start here.ipynb"
    hello = next(run for run in runs if run["info"]["run_name"] == "hello")
    assert {(item["key"], item["value"]) for item in hello["data"]["params"]} == {("learning_rate", "0.001")}

    # Another user gets nothing: not by the API, not in the list of workspaces, not by naming the run
    theirs = Mlflow(maestro.url, stranger.token(), "churn")
    assert theirs.experiments().status_code in (403, 404)
    assert theirs.runs() == []
    run_id = hello["info"]["run_id"]
    got = theirs._client.get("runs/get", params={"run_id": run_id})
    assert got.status_code in (403, 404) and "learning_rate" not in got.text
    personal = stranger.api().get("me").json()["personal_workspace"]
    own = Mlflow(maestro.url, stranger.token(), personal)
    assert own._client.get("runs/get", params={"run_id": run_id}).status_code in (403, 404)

    # MLflow's page opens with the Hub's sign-in and shows her workspaces only
    ann.goto(f"{maestro.url}services/mlflow/")
    expect(ann.get_by_role("link", name="churn")).to_be_visible(timeout=60_000)
    shot(ann, "mlflow-workspaces")
    ann.goto(f"{maestro.url}services/mlflow/#/experiments?workspace=churn")
    expect(ann.get_by_role("link", name="churn").first).to_be_visible(timeout=60_000)
    shot(ann, "mlflow")

    # A removed server leaves its files
    ann.goto(maestro.url)
    ann.get_by_role("button", name=re.compile("Stop")).first.click()
    expect(ann.locator("body")).to_contain_text(re.compile(r"0 of 3 servers"), timeout=60_000)


def token_of(page: Page, maestro: Maestro, name: str) -> str:
    """A token made as the Hub's token page makes one."""
    page.goto(f"{maestro.url}hub/token")
    page.locator("#token-note").fill("test")
    page.get_by_role("button", name=re.compile("Request new API token")).click()
    shown = page.locator("#token-result")
    expect(shown).not_to_be_empty()
    return until(lambda: shown.inner_text().strip(), 10, "no token")


def test_the_admin_reaches_workspaces_and_launches_from_the_hubs_navigation(
    maestro: Maestro,
    chromium: Browser,  # noqa: F811
) -> None:
    page = new_page(chromium)
    sign_in(page, maestro.url, "admin", maestro.admin.password)
    page.goto(f"{maestro.url}hub/admin")
    page.get_by_role("link", name="Maestro").click()
    expect(page.locator("body")).to_contain_text("churn")
    shot(page, "admin")


@pytest.fixture
def command(maestro: Maestro, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m notebooks.cli`` as a person."""

    def run(person: Person, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "MAESTRO_URL": maestro.url,
            "MAESTRO_TOKEN": person.token(),
            "XDG_CONFIG_HOME": str(tmp_path),
        }
        program = [sys.executable, "-m", "notebooks.cli", *arguments]
        return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=180)

    return run


def test_the_command_line_does_the_same(
    maestro: Maestro, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    cora = maestro.person("cora")
    assert command(cora, "create", "fraud", "--description", "Card fraud").returncode == 0
    launched = command(
        cora, "launch", "--user", "cora", "--workspace", "fraud", "--cpu", "2", "--memory", "4Gi",
        "--template", "data-exploration", "--json",
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    session = json.loads(launched.stdout)
    assert session["status"] == "running"
    assert session["resources"] == {"cpu": 2.0, "memory": "4Gi", "gpu": 0, "gpu_type": None}
    assert session["notebook_url"].startswith(f"{maestro.url}user/cora/fraud/lab")
    assert "data-exploration.ipynb" in session["notebook_url"]
    server = httpx.get(
        f"{maestro.url}user/cora/fraud/api/contents/data-exploration.ipynb",
        headers={"Authorization": f"token {cora.token()}"},
    )
    assert server.status_code == 200
    shown = command(cora, "status")
    assert session["session_id"] in shown.stdout and "running" in shown.stdout
    assert command(cora, "stop", "fraud").returncode == 0
    assert "No server is running" in command(cora, "status").stdout


def test_the_sdk_does_the_same(maestro: Maestro, tmp_path: Path) -> None:
    from notebooks import NotebookLauncher, WorkspaceManager
    from notebooks.models import ResourceConfig

    dave = maestro.person("dave@example.com")
    token = dave.token()
    workspaces = WorkspaceManager(maestro.url, token)
    made = workspaces.create_workspace("ml-research-team", "Shared workspace for ML research", owner="dave@example.com")
    assert made.role == "owner"
    maestro.person("alice")
    assert workspaces.add_member(made.workspace_id, user_email="alice", role="editor").role == "editor"
    launcher = NotebookLauncher(maestro.url, token)
    session = launcher.launch(
        user_email="dave@example.com",
        workspace="ml-research-team",
        resources=ResourceConfig(cpu_cores=1, memory_gb=1),
        mlflow_experiment="my-experiment",
    )
    assert session.status == "running" and session.mlflow_experiment == "my-experiment"
    assert session.notebook_url.startswith(maestro.url)
    assert launcher.stop(session.session_id).status == "ended"


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("launch", "--workspace", "no-such-place"), "no-such-place", 3),
        (("launch", "--workspace", "fraud"), "fraud", 3),  # cora's
        (("launch", "--memory", "lots"), "'lots' is not an amount of memory", 2),
        (("launch", "--name", "a" * 31), "cannot name a server", 2),
        (("launch", "--template", "no-such-template"), "no-such-template", 3),
        (("launch", "--memory", "9000Gi"), "9000Gi", 5),
        (("launch", "--profile", "no-such-profile"), "no-such-profile", 3),
        (("launch", "--user", "cora"), "admin", 4),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    maestro: Maestro,
    stranger: Person,
    command: Callable[..., subprocess.CompletedProcess[str]],
    arguments: tuple[str, ...],
    words: str,
    code: int,
) -> None:
    refused = command(stranger, *arguments)
    assert refused.returncode == code, refused.stderr
    assert words.replace("9000Gi", "8.8 TiB") in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "No server is running" in command(stranger, "status").stdout
    servers = stranger.hub("GET", "users/stranger?include_stopped_servers=1").json()["servers"]
    assert [name for name in servers if name] == []
