"""The client against a real HTTP server that answers as the service would, and as it should not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from maestro_core.errors import ERRORS, MaestroError
from notebooks import NotebookLauncher, ResourceConfig, WorkspaceManager
from notebooks.cli import main
from notebooks.settings import check_url, config_path, find_settings, write_config

LAUNCH = {
    "session_id": "l1",
    "user": "john@example.com",
    "server_name": "demo",
    "workspace": "demo",
    "role": "editor",
    "profile": "small",
    "resources": {"cpu": 2, "memory": 4 * 1024**3},
    "status": "running",
    "notebook_url": "/user/john@example.com/demo/lab",
    "mlflow_experiment": "demo",
    "created_at": "2026-01-01T00:00:00Z",
}

#: as the client reaches it
MLFLOW = "/services/mlflow/api/2.0/mlflow"


class Service:
    """A scripted service: answers by (method, path) in order, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, Any, str | None]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                service.asked.append((self.command, self.path, body, self.headers.get("Authorization")))
                path = self.path.removeprefix("/services/workspaces/api/v1/jupyter")
                answers = service.answers.get((self.command, path), [(404, None)])
                status, data = answers.pop(0) if len(answers) > 1 else answers[0]
                raw = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def on(self, method: str, path: str, *answers: tuple[int, Any]) -> None:
        """Answer ``method path`` with these, the last one from then on."""
        self.answers[method, path] = list(answers)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    for name in ("MAESTRO_URL", "MAESTRO_TOKEN", "MAESTRO_SERVICE_URL", "JUPYTERHUB_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found = Service()
    yield found
    found.close()


@pytest.fixture
def signed_in(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("MAESTRO_URL", service.url)
    monkeypatch.setenv("MAESTRO_TOKEN", "secret-token")
    return service


def run(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=stdin, catch_exceptions=False)


def test_the_sdk_launches_as_the_first_seed_writes_it(signed_in: Service) -> None:
    signed_in.on("POST", "/launches", (202, {**LAUNCH, "status": "reserved"}))
    signed_in.on("GET", "/launches/l1", (200, {**LAUNCH, "status": "reserved"}), (200, LAUNCH))
    session = NotebookLauncher().launch(
        user_email="john@example.com",
        workspace="demo",
        resources=ResourceConfig(cpu_cores=2, memory_gb=4),
        mlflow_experiment="my-experiment",
    )
    assert session.status == "running"
    assert session.session_id == "l1"
    assert session.notebook_url == f"{signed_in.url}/user/john@example.com/demo/lab"
    method, path, body, authorization = signed_in.asked[0]
    assert (method, path) == ("POST", "/services/workspaces/api/v1/jupyter/launches")
    assert body == {
        "workspace": "demo",
        "user": "john@example.com",
        "resources": {"cpu": 2, "memory": 4 * 1024**3, "gpu": 0},
        "mlflow_experiment": "my-experiment",
    }
    assert authorization == "token secret-token"


def test_a_server_that_does_not_start_says_why(signed_in: Service) -> None:
    signed_in.on("POST", "/launches", (202, {**LAUNCH, "status": "reserved"}))
    signed_in.on("GET", "/launches/l1", (200, {**LAUNCH, "status": "ended", "ended_reason": "the image was not found"}))
    with pytest.raises(MaestroError, match="did not start: the image was not found") as refused:
        NotebookLauncher().launch(workspace="demo")
    assert refused.value.code == "start_failed"


def test_a_stop_waits_until_the_server_has_ended(signed_in: Service) -> None:
    ended = {**LAUNCH, "status": "ended", "ended_reason": "stopped"}
    signed_in.on("DELETE", "/launches/l1", (202, LAUNCH))
    signed_in.on("GET", "/launches/l1", (200, LAUNCH), (200, ended))
    assert NotebookLauncher().stop("l1", wait=False).status == "running"
    assert NotebookLauncher().stop("l1").status == "ended"
    signed_in.on("GET", "/launches/l1", (200, LAUNCH))
    with pytest.raises(MaestroError, match="still stops after 0 s"):
        NotebookLauncher().stop("l1", timeout=0)


def test_scaling_names_what_changes_and_waits_for_a_server_that_is_started_again(signed_in: Service) -> None:
    scaled = {**LAUNCH, "resources": {"cpu": 8, "memory": 16 * 1024**3}}
    signed_in.on("POST", "/launches/l1/scale", (200, scaled))
    signed_in.on("GET", "/launches", (200, {"launches": [LAUNCH]}))
    shown = run("scale", "demo", "--cpu=8", "--memory=16g")
    assert shown.exit_code == 0 and "8 cpu, 16 GiB" in shown.stdout
    assert signed_in.asked[-1][2] == {"cpu": "8", "memory": "16g"}
    signed_in.on("POST", "/launches/l1/scale", (202, {**scaled, "session_id": "l2", "status": "reserved"}))
    signed_in.on("GET", "/launches/l2", (200, {**scaled, "session_id": "l2"}))
    assert NotebookLauncher().scale("l1", memory="1Gi", restart=True).session_id == "l2"
    assert ("POST", {"memory": "1Gi", "restart": True}) in [(method, body) for method, _, body, _ in signed_in.asked]


def test_the_command_prints_address_session_and_status(signed_in: Service) -> None:
    signed_in.on("POST", "/launches", (201, LAUNCH))
    signed_in.on("GET", "/launches/l1", (200, LAUNCH))
    shown = run("launch", "--workspace", "demo", "--cpu", "2", "--memory", "4Gi", "--template", "data-exploration")
    assert shown.exit_code == 0
    lines = dict(line.split(":", 1) for line in shown.stdout.strip().splitlines())
    assert lines["notebook_url"].strip() == f"{signed_in.url}/user/john@example.com/demo/lab"
    assert lines["session_id"].strip() == "l1"
    assert lines["status"].strip() == "running"
    assert signed_in.asked[0][2]["template"] == "data-exploration"
    as_json = json.loads(run("launch", "-w", "demo", "--json").stdout)
    assert {"notebook_url", "session_id", "status"} <= set(as_json)


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("launch", "--memory", "lots"), "'lots' is not an amount of memory", 2),
        (("launch", "--cpu", "-1"), "'-1' is not an amount of cpu", 2),
        (("launch", "--workspace", "a" * 31), "cannot name a workspace", 2),
        (("access", "demo", "--user", "ann", "--role", "king"), "'king' is not a role", 2),
        (("revoke", "demo"), "one user or one group", 2),
        (("login", "not-an-address"), "is not the address of a Hub", 2),
    ],
)
def test_bad_input_is_one_sentence_and_asks_nobody(
    signed_in: Service, arguments: tuple[str, ...], words: str, code: int
) -> None:
    shown = run(*arguments)
    assert shown.exit_code == code
    assert words in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1
    assert signed_in.asked == []


def test_a_refusal_keeps_its_sentence_code_and_details(signed_in: Service) -> None:
    refusal = MaestroError("quota_exceeded", "You have 3 of 3 servers; stop one.", {"limit": "x"})
    signed_in.on("POST", "/launches", (403, refusal.as_json()))
    shown = run("launch", "-w", "demo")
    assert shown.stderr.strip() == "Error: You have 3 of 3 servers; stop one."
    assert shown.exit_code == ERRORS["quota_exceeded"].exit_code
    with pytest.raises(MaestroError) as refused:
        NotebookLauncher().launch(workspace="demo")
    assert refused.value.code == "quota_exceeded"
    assert refused.value.details == {"limit": "x"}


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (503, b"<html>proxy", "is not running"),
        (302, b"", "is not the API of a Maestro"),
        (200, b"<html>something else", "is not the API of a Maestro"),
        (404, b"<html>", "is not the API of a Maestro"),
        (500, b"[]", "could not be read"),
    ],
)
def test_an_answer_that_is_not_ours_is_one_sentence(signed_in: Service, status: int, body: bytes, words: str) -> None:
    signed_in.on("GET", "/workspaces", (status, body))
    shown = run("list")
    assert shown.exit_code != 0
    assert words in shown.stderr
    assert "secret-token" not in shown.stderr


def test_a_redirect_never_takes_the_token_along(signed_in: Service) -> None:
    signed_in.on("GET", "/workspaces", (302, b""))
    run("list")
    assert [path for _, path, _, _ in signed_in.asked] == ["/services/workspaces/api/v1/jupyter/workspaces"]


def test_nothing_listens(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    service.close()
    monkeypatch.setenv("MAESTRO_URL", service.url)
    monkeypatch.setenv("MAESTRO_TOKEN", "t")
    shown = run("list")
    assert shown.exit_code == ERRORS["service_unavailable"].exit_code
    assert "Nothing answers at" in shown.stderr


def test_login_checks_the_token_and_keeps_it_to_oneself(service: Service) -> None:
    service.on("GET", "/me", (200, {"user": "ann", "admin": False, "groups": [], "scopes": []}))
    shown = run("login", service.url + "/hub/", "--token-stdin", stdin="tok-1\n")
    assert shown.exit_code == 0
    assert "Signed in" in shown.stdout and "tok-1" not in shown.output
    assert config_path().stat().st_mode & 0o777 == 0o600
    assert service.asked[-1][3] == "token tok-1"
    service.on("GET", "/workspaces", (200, {"workspaces": []}))
    assert run("list").exit_code == 0
    config_path().chmod(0o644)
    assert "can be read by others" in run("list").stderr


def test_a_token_that_the_hub_does_not_know_is_not_kept(service: Service) -> None:
    refusal = MaestroError("not_signed_in", "The Hub does not know this token; make a new one.")
    service.on("GET", "/me", (401, refusal.as_json()))
    shown = run("login", service.url, "--token-stdin", stdin="wrong\n")
    assert shown.exit_code == ERRORS["not_signed_in"].exit_code
    assert not config_path().exists()


def test_where_the_client_looks_in_order(tmp_path: Path) -> None:
    inside = {"MAESTRO_SERVICE_URL": "http://hub/api", "JUPYTERHUB_API_TOKEN": "server"}
    home = {"XDG_CONFIG_HOME": str(tmp_path)}
    write_config(config_path(home), "https://stored.example", "stored")
    outside = {"MAESTRO_URL": "https://env.example", "MAESTRO_TOKEN": "env"}
    everything = {**inside, **home, **outside}
    assert find_settings("https://arg.example", "arg", everything).token == "arg"
    assert find_settings(None, None, everything).token == "env"
    within = find_settings(None, None, {**inside, **home, "MAESTRO_WORKSPACE": "demo"})
    assert (within.api_url, within.workspace) == ("http://hub/api", "demo")
    assert find_settings(None, None, home).token == "stored"
    with pytest.raises(MaestroError, match=r"no sign-in for https://other\.example"):
        find_settings("https://other.example", None, home)  # a stored token goes to its own address only


@pytest.mark.parametrize("bad", ["ftp://x", "x", "http://", "http://user:pass@hub", ""])
def test_addresses_that_are_none(bad: str) -> None:
    with pytest.raises(MaestroError):
        check_url(bad)


def test_members_with_names_that_need_quoting(signed_in: Service) -> None:
    member = {"kind": "group", "name": "a/b", "role": "viewer", "added_by": "x", "added_at": "2026-01-01T00:00:00Z"}
    signed_in.on("PUT", "/workspaces/demo/members", (200, member))
    signed_in.on("DELETE", "/workspaces/demo/members/group/a%2Fb", (200, {}))
    manager = WorkspaceManager()
    assert manager.add_member("demo", group="a/b", role="collaborator").kind == "group"
    assert signed_in.asked[0][2] == {"role": "editor", "group": "a/b"}
    manager.remove_member("demo", group="a/b")


# What becomes of a workspace

CONFIG = """
name: another-name
description: Ours
resources: {cpu: 2, memory: 4g, disk: 20g}
environment:
  python_version: "3.11"
  MY_PLACE: here
packages: [numpy<3]
package_management: {blocked_packages: [aiohttp]}
"""
SHOWN = {
    "workspace_id": "w1", "name": "demo", "description": "Ours", "personal": False, "role": "owner",
    "created_by": "ann", "created_at": "2026-01-01T00:00:00Z", "members": 1, "servers": {"used": 0, "limit": 3},
    "archived_at": "2026-02-01T00:00:00Z", "purge_from": "2026-03-03T00:00:00Z",
}  # fmt: skip
ZOE = {"kind": "user", "name": "zoe", "role": "owner", "added_by": "ann", "added_at": "2026-01-01T00:00:00Z"}
INVITATION = {
    "invitation_id": "i1", "workspace": "demo", "user": "zoe", "role": "viewer", "invited_by": "ann",
    "invited_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-08T00:00:00Z",
}  # fmt: skip


def asked(service: Service) -> list[tuple[str, str, Any]]:
    prefix = "/services/workspaces/api/v1/jupyter"
    return [(method, path.removeprefix(prefix), body) for method, path, body, _ in service.asked]


def test_a_workspace_is_made_from_a_file(signed_in: Service, tmp_path: Path) -> None:
    signed_in.on("POST", "/workspaces", (201, SHOWN))
    file = tmp_path / "demo.yaml"
    file.write_text(CONFIG)
    assert "Created demo." in run("create", "demo", "--config", str(file)).stdout
    (_, _, body), *_ = asked(signed_in)
    assert body == {
        "name": "demo",  # the command's word, not the file's
        "description": "Ours",
        "resources": {"cpu": 2, "memory": 4 * 1024**3, "disk": 20 * 1024**3},
        "environment": {"python_version": "3.11", "variables": {"MY_PLACE": "here"}},
        "packages": ["numpy<3"],
        "security": {"blocked_packages": [{"package": "aiohttp"}]},
    }
    run("create", "demo", "--config", str(file), "--description", "Mine")
    assert asked(signed_in)[1][2]["description"] == "Mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a list", "holds no sections"),
        ("a: [", "is not YAML (line 1)"),
        ("\x00", "is not YAML"),
        ("a: &a [*a, *a]\nresources: {cpu: 1}", "a: there is no such setting"),
        ("resources: {cpus: 2}", "cpus"),
        ("environment: {LD_PRELOAD: x}", "LD_PRELOAD"),
        ("environment: {python_version: 3.10}", "in quotes"),
        ("security: {}\npackage_management: {}", "write one of them"),
        ("packages: ['numpy @ file:///etc']", "without address"),
        (None, "cannot be read"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_and_nobody_is_asked(
    signed_in: Service, tmp_path: Path, text: str | None, words: str
) -> None:
    file = tmp_path / "demo.yaml"
    if text is not None:
        file.write_text(text)
    shown = run("create", "demo", "--config", str(file))
    assert shown.exit_code == 2
    assert words in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1
    assert signed_in.asked == []


def test_a_workspace_is_archived_found_and_restored(signed_in: Service) -> None:
    signed_in.on("DELETE", "/workspaces/demo", (200, {}))
    signed_in.on("GET", "/workspaces?archived=1", (200, {"workspaces": [SHOWN]}))
    signed_in.on("POST", "/workspaces/demo/restore", (200, SHOWN))
    assert "'maestro restore demo'" in run("archive", "demo").stdout
    assert "demo" in run("list", "--archived").stdout
    found = json.loads(run("list", "--archived", "--json").stdout)
    assert found[0]["purge_from"] == "2026-03-03T00:00:00+00:00"
    assert run("restore", "demo").stdout.strip() == "demo is open again."


def test_a_purge_is_asked_for_and_says_what_is_gone(signed_in: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notebooks.workspaces._POLL", 0.01)
    begun = {"workspace": "demo", "workspace_id": "w1", "state": "purging", "left": ["the files"]}
    gone = {
        **begun, "state": "purged", "left": [], "removed": [{"what": "files", "count": 12, "bytes": 2048**2}],
        "kept": [{"what": "launches", "why": "3 in the figures of budgets"}],
    }  # fmt: skip
    signed_in.on("POST", "/workspaces/demo/purge", (200, begun))
    signed_in.on("POST", "/workspaces/w1/purge", (200, begun), (200, gone))  # its name may be somebody else's by then
    assert run("purge", "demo", stdin="n\n").exit_code == 1
    assert signed_in.asked == []
    shown = run("purge", "demo", stdin="y\n")
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["removed", "files:", "12", "(4", "MiB)"],
        ["kept", "launches:", "3", "in", "the", "figures", "of", "budgets"],
    ]
    assert json.loads(run("purge", "w1", "--yes", "--json").stdout)["state"] == "purged"


def test_a_workspace_is_handed_over(signed_in: Service) -> None:
    signed_in.on("POST", "/workspaces/demo/transfer", (200, ZOE))
    assert run("transfer", "demo", "zoe").stdout.strip() == "zoe is owner of demo."
    run("transfer", "demo", "--group", "team")
    assert [body for _, _, body in asked(signed_in)] == [{"user": "zoe"}, {"group": "team"}]
    for arguments in (("transfer", "demo"), ("transfer", "demo", "zoe", "--group", "team")):
        shown = run(*arguments)
        assert (shown.exit_code, len(asked(signed_in))) == (2, 2)
        assert "one of them" in shown.stderr


def test_a_colleague_is_invited_and_accepts(signed_in: Service) -> None:
    signed_in.on("POST", "/workspaces/demo/invitations", (201, INVITATION))
    signed_in.on("GET", "/invitations", (200, {"invitations": [INVITATION]}))
    signed_in.on("GET", "/workspaces/demo/invitations", (200, {"invitations": [INVITATION]}))
    signed_in.on("POST", "/invitations/i1/accept", (200, ZOE | {"role": "viewer"}))
    signed_in.on("DELETE", "/invitations/i1", (200, {}))
    signed_in.on("DELETE", "/workspaces/demo/invitations/i1", (200, {}))
    assert run("invite", "demo", "zoe", "--role", "viewer").stdout.startswith("zoe may become viewer of demo until")
    assert asked(signed_in)[0][2] == {"user": "zoe", "role": "viewer"}
    assert "i1" in run("invitations", "list").stdout
    assert json.loads(run("invitations", "list", "-w", "demo", "--json").stdout)[0]["user"] == "zoe"
    assert run("invitations", "accept", "i1").stdout.strip() == "You are viewer of demo now."
    run("invitations", "decline", "i1")
    run("invitations", "decline", "i1", "-w", "demo")
    assert [path for method, path, _ in asked(signed_in) if method == "DELETE"] == [
        "/invitations/i1",
        "/workspaces/demo/invitations/i1",
    ]


def test_a_member_goes_at_once(signed_in: Service) -> None:
    signed_in.on("PUT", "/workspaces/demo/members?now=1", (200, ZOE | {"role": "viewer"}))
    signed_in.on("DELETE", "/workspaces/demo/members/user/zoe?now=1", (200, {}))
    assert run("access", "demo", "--user", "zoe", "--role", "viewer", "--now").exit_code == 0
    assert run("revoke", "demo", "zoe", "--now").exit_code == 0


def test_usage_is_shown(signed_in: Service) -> None:
    point = {"at": "2026-01-01T00:00:00Z", "seconds": 30, "cpu": 0.75, "memory": 1024**3, "memory_peak": 1024**3}
    one = {
        "session_id": "l1", "user": "ann", "server_name": "demo", "workspace": "demo", "status": "running",
        "resources": {"cpu": 2, "memory": 4 * 1024**3}, "latest": {**point, "busy": 1},
    }  # fmt: skip
    other = {**one, "session_id": "l2", "latest": None, "ends_at": "2026-01-01T00:00:00Z", "ends_reason": "idle"}
    used = {"workspace": "demo", "storage_used": 1024**2, "storage_limit": 1024**3, "launches": [one, other]}
    signed_in.on("GET", "/workspaces/demo/usage", (200, {**used, "month": {"cpu": 1.25, "gpu": 0}}))
    printed = run("stats", "demo").stdout
    assert "files 1 MiB of 1 GiB; this month 1.2 cpu hours, 0.0 GPU hours" in printed
    assert "0.75 of 2" in printed and "1 GiB of 4 GiB" in printed and "idle" in printed
    assert json.loads(run("stats", "demo", "--json").stdout)["launches"][1]["ends_reason"] == "idle"


def test_an_idle_server_is_kept(signed_in: Service) -> None:
    signed_in.on("POST", "/launches/l1/keep", (200, {"notices": []}))
    assert run("keep", "l1").stdout.strip() == "It is kept running."


def test_sections_of_a_workspace_are_changed(signed_in: Service) -> None:
    signed_in.on("PATCH", "/workspaces/demo", (200, SHOWN))
    WorkspaceManager().change_workspace("demo", packages=["numpy"], security=None)
    assert asked(signed_in) == [("PATCH", "/workspaces/demo", {"packages": ["numpy"], "security": None})]


def test_a_workspace_is_linked_to_an_experiment(signed_in: Service) -> None:
    signed_in.on("POST", "/workspaces/demo/experiments", (200, SHOWN))
    signed_in.on("POST", "/workspaces", (201, SHOWN))
    assert "go to the experiment exp-123 now" in run("link", "demo", "exp-123").stdout
    assert run("create", "demo", "--experiment", "exp-123").exit_code == 0
    assert asked(signed_in) == [
        ("POST", "/workspaces/demo/experiments", {"experiment_id": "exp-123"}),
        ("POST", "/workspaces", {"name": "demo", "description": "", "experiment": "exp-123"}),
    ]


def test_what_is_kept_about_a_workspace_is_shown_and_exported(signed_in: Service) -> None:
    place, day = "/workspaces/demo", "2026-01-0{}T08:00:00Z"
    settings = {"experiment": "exp-123", "packages": ["numpy"]}
    member = {"kind": "user", "name": "ann", "role": "owner", "added_by": "ann", "added_at": day.format(1)}
    version = {"version": 1, "parent": 0, "author": "ann", "at": day.format(2), "requirements": ["numpy"]}
    saved = {"path": "a.ipynb", "author": "bob", "launch_id": "l1", "cells": 3, "size": 99}
    notebooks = [
        {**saved, "address": "b" * 64, "saved_at": day.format(4)},
        {**saved, "address": "a" * 64, "saved_at": day.format(3), "author": "ann"},
    ]
    packages = [{"name": "numpy", "version": "2.3.1"}]
    signed_in.on("GET", place, (200, {**SHOWN, "settings": settings}))
    signed_in.on("GET", f"{place}/members", (200, {"members": [member]}))
    environment = {**version, "workspace": "demo", "current": 1, "packages": packages}
    signed_in.on("GET", f"{place}/environment", (200, environment))
    signed_in.on("GET", f"{place}/environment/history", (200, {"workspace": "demo", "versions": [version]}))
    used = {"month": {"cpu": 1.25, "gpu": 0}, "months": [{"month": "2025-12", "cpu": 9.5, "gpu": 2}]}
    signed_in.on("GET", f"{place}/usage?months=24", (200, {"workspace": "demo", **used}))
    signed_in.on("GET", f"{place}/snapshots?limit=1000", (200, {"snapshots": notebooks}))
    tags = {"maestro.snapshot": "b" * 64, "maestro.notebook": "a.ipynb", "maestro.reason": "the cell raised"}
    run_of_b = {
        "info": {
            "run_id": "r1", "run_name": "first", "experiment_id": "7", "user_id": "bob", "status": "FAILED",
            "start_time": 1767600000000, "end_time": 1767600060000,
        },
        "data": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
    }  # fmt: skip
    experiments = [{"experiment_id": "3", "name": "demo"}, {"experiment_id": "7", "name": "exp-123"}]
    signed_in.on("POST", f"{MLFLOW}/experiments/search", (200, {"experiments": experiments}))
    signed_in.on("POST", f"{MLFLOW}/runs/search", (200, {"runs": [run_of_b]}))

    found = json.loads(run("export", "demo", "--format=json").stdout)
    assert found == json.loads(run("metadata", "demo", "--json").stdout)
    assert (found["experiment"], found["settings"]) == ("exp-123", settings)
    assert found["workspace"]["modified_at"].startswith("2026-01-04T08:00:00")
    assert [one["name"] for one in found["members"]] == ["ann"]
    assert found["environment"]["packages"] == packages and len(found["environment_history"]) == 1
    assert found["usage"]["month"]["cpu"] == 1.25
    assert found["usage"]["months"] == used["months"]
    assert [one["runs"] for one in found["notebooks"]] == [["first"], []]
    assert found["experiments"] == [
        {"name": "exp-123", "experiment_id": "7", "linked": True},
        {"name": "demo", "experiment_id": "3", "linked": False},
    ]
    (ran,) = found["runs"]
    assert (ran["notebook"], ran["version"], ran["user"], ran["status"]) == ("a.ipynb", "b" * 64, "bob", "FAILED")
    assert (ran["began_at"], ran["reason"]) == ("2026-01-05T08:00:00Z", "the cell raised")
    printed = run("metadata", "demo").stdout
    for words in (
        "exp-123 (7)", "demo (3)", "ann (owner)", "numpy 2.3.1", "1.2 cpu hours", "2025-12: 9.5 cpu hours",
        "a.ipynb 2026-01-05 08:00 by bob, failed",
    ):  # fmt: skip
        assert words in printed
    assert printed.splitlines()[-1].split() == ["a.ipynb", "2", "1", "2026-01-04", "08:00", "bob"]
    assert run("export", "demo", "--format=csv").exit_code != 0


def test_versions_name_their_runs_and_models_and_are_named_by_them(signed_in: Service) -> None:
    place, old, new = "/workspaces/demo", "a" * 64, "b" * 64
    signed_in.on("GET", place, (200, SHOWN))
    saves = [
        {"path": "a.ipynb", "address": one, "author": "ann", "launch_id": "l1", "cells": 1, "size": 9,
         "saved_at": "2026-01-04T08:00:00Z"} for one in (new, old)
    ]  # fmt: skip
    signed_in.on("GET", f"{place}/snapshots?limit=50", (200, {"snapshots": saves}))
    tags = [{"key": "maestro.snapshot", "value": old}]
    ran = {"info": {"run_id": "r1", "run_name": "first"}, "data": {"tags": tags}}
    model = {"name": "churn", "version": "3", "run_id": "r1", "tags": tags}
    signed_in.on("POST", f"{MLFLOW}/experiments/search", (200, {"experiments": [{"experiment_id": "3"}]}))
    signed_in.on("POST", f"{MLFLOW}/runs/search", (200, {"runs": [ran]}))
    signed_in.on("GET", f"{MLFLOW}/model-versions/search?max_results=1000", (200, {"model_versions": [model]}))
    listed = json.loads(run("version", "demo", "--json").stdout)
    assert [(one["runs"], one["models"]) for one in listed] == [([], []), (["first"], ["churn/3"])]
    printed = run("version", "demo").stdout.splitlines()
    assert printed[0].split()[-1] == "models" and printed[-1].split()[-2:] == ["first", "churn/3"]

    signed_in.on("GET", f"{MLFLOW}/model-versions/get?name=churn&version=3", (200, {"model_version": model}))
    signed_in.on("GET", f"{MLFLOW}/runs/get?run_id=first", (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}))
    signed_in.on("GET", f"{MLFLOW}/model-versions/get?name=other&version=1", (404, {}))
    notebook = {"cells": [], "nbformat": 4}
    signed_in.on("GET", f"{place}/snapshots/{old}", (200, {"address": old, "notebook": notebook}))
    for name in ("model:churn/3", "run:first"):
        assert json.loads(run("version", "demo", "--show", name).stdout) == notebook
    refused = run("version", "demo", "--show", "model:other/1")
    assert refused.exit_code != 0 and "model:other/1 is not in this workspace's MLflow" in refused.stderr


def test_a_workspace_says_whether_executed_cells_become_runs(signed_in: Service) -> None:
    signed_in.on("GET", "/workspaces/demo", (200, SHOWN))
    signed_in.on("PATCH", "/workspaces/demo", (200, {**SHOWN, "settings": {"capture": "always"}}))
    assert "where somebody asks for it" in run("capture", "demo").stdout
    assert "one for each stretch of cells. It counts for servers" in run("capture", "demo", "always").stdout
    assert asked(signed_in)[-1] == ("PATCH", "/workspaces/demo", {"capture": "always"})
    assert run("capture", "demo", "sometimes").exit_code == 2


def test_other_peoples_words_cannot_drive_the_terminal(signed_in: Service) -> None:
    shown = {
        "workspace_id": "w", "name": "demo",
        "description": "[red]x[/red]\x1b[2J\x1b[31my\x1b]0;z\x07", "personal": False, "role": "owner",
        "created_by": "ann", "created_at": "2026-01-01T00:00:00Z", "members": 1, "servers": {"used": 0, "limit": 3},
    }  # fmt: skip
    signed_in.on("GET", "/workspaces", (200, {"workspaces": [shown]}))
    printed = run("list").stdout
    assert "\x1b" not in printed
    assert "[red]x[/red]y" in printed  # a colour leaves nothing of itself behind


def test_every_command_explains_itself() -> None:
    for name, command in main.commands.items():
        assert command.help, name
        assert run(name, "--help").exit_code == 0
