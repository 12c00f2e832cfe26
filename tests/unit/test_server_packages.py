"""The environment in a server: what is noticed, told and built; uv and the service are stood in for."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from maestro_core.client_words import reason_in
from maestro_core.environments import EnvironmentBuild, EnvironmentChange
from server_extension import start
from server_extension.launch import Launch
from server_extension.packages import build as building
from server_extension.packages import watch as watching
from server_extension.packages.build import Outcome, build
from server_extension.packages.installed import look, packages_folder, stamp, target_of
from server_extension.packages.record import NotTold
from server_extension.packages.uv import NeedsSource, UvError
from server_extension.packages.watch import Watch, notices_of

HASH = "sha256:" + "0" * 64


def launch_in(folder: Path, viewer: bool = False) -> Launch:
    (folder / "env").mkdir(exist_ok=True)
    return Launch("demo", folder, folder / "env", folder, folder / "prefix", viewer=viewer)


def put(launch: Launch, name: str, version: str, *, asked: bool = True, url: bool = False) -> None:
    """Install a package as pip does: its RECORD last."""
    info = packages_folder(launch.environment) / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    if asked:
        (info / "REQUESTED").touch()
    if url:
        (info / "direct_url.json").write_text("{}")
    (info / "RECORD").touch()


def drop(launch: Launch, name: str, version: str) -> None:
    info = packages_folder(launch.environment) / f"{name}-{version}.dist-info"
    for file in info.iterdir():
        file.unlink()
    info.rmdir()


class FakeUv:
    """An index in which some packages are not to be had."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        self.installed: list[str] = []
        self.resolved: list[tuple[list[str], dict[str, str]]] = []
        self.without_wheel: set[str] = set()
        self.sources = False

    def with_sources(self, sources: bool) -> FakeUv:
        self.sources = sources
        return self

    def lock(
        self, requirements: list[str], prefer: dict[str, str] | None = None, leave_out: Any = (), *, alone: bool = False
    ) -> list[dict[str, Any]]:
        self.resolved.append((list(requirements), dict(prefer or {})))
        pins = [text.replace("<3", "==2.5").partition("==") for text in requirements]
        return [self._package(name, (prefer or {}).get(name) or version or "9.0") for name, _, version in pins]

    def _package(self, name: str, version: str) -> dict[str, Any]:
        if name in self.refused:
            raise UvError(self.refused[name])
        if name in self.without_wheel and not self.sources:
            raise NeedsSource("there is no wheel of it")
        return {"name": name, "version": version, "hashes": [HASH]}

    def install(self, packages: list[dict[str, Any]]) -> None:
        for package in packages:
            self._package(package["name"], package["version"])
        self.installed += [f"{package['name']} {package['version']}" for package in packages]


class FakeRecord:
    """The service: takes changes, and answers what a launch builds."""

    def __init__(self, answer: EnvironmentBuild | None = None) -> None:
        self.answer = answer
        self.changes: list[dict[str, Any]] = []
        self.deposits: list[list[dict[str, Any]]] = []
        self.problem: NotTold | None = None

    def change(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.problem is not None:
            raise self.problem
        EnvironmentChange.model_validate(body)
        self.changes.append(body)
        return {"version": body["parent"] + 1, "requirements": body["add"]}

    def build(self, version: int, target: str) -> dict[str, Any]:
        if self.answer is None:
            raise NotTold("Maestro's service does not answer")
        return self.answer.model_dump(mode="json")

    def deposit(self, version: int, target: str, packages: list[dict[str, Any]]) -> dict[str, Any]:
        self.deposits.append(packages)
        return {"packages": packages}


@pytest.fixture
def uv(monkeypatch: pytest.MonkeyPatch) -> FakeUv:
    made = FakeUv()
    for module in (building, watching):
        monkeypatch.setattr(module, "uv_of", lambda *_, sources: made.with_sources(sources))
    monkeypatch.setattr(building, "of_prefix", lambda: {"numpy": "2.0"})
    return made


class Room:
    """A server's watch, and what its user was told."""

    def __init__(self, folder: Path, record: FakeRecord, viewer: bool = False) -> None:
        self.launch, self.record, self.said = launch_in(folder, viewer), record, list[str]()
        packages_folder(self.launch.environment).mkdir(parents=True)
        self.watch = Watch(self.launch, {}, lambda _, __, text: self.said.append(text), logging.getLogger())
        self.watch._record = record  # type: ignore[assignment]
        self.watch.begin()


class TestWatch:
    def test_what_was_installed_becomes_a_version(self, tmp_path: Path, uv: FakeUv) -> None:
        room = Room(tmp_path, FakeRecord())
        put(room.launch, "rich", "15.0")
        put(room.launch, "markdown-it", "4.0", asked=False)
        assert room.watch.compare()
        (change,) = room.record.changes
        assert (change["parent"], change["add"], change["remove"]) == (0, ["rich"], [])
        assert sorted(it["name"] for it in change["built"]["installed"]) == ["markdown-it", "rich"]
        assert room.said == [
            "rich 15.0 and 1 package that it needs are now part of demo: version 1 of its environment."
        ]
        drop(room.launch, "rich", "15.0")
        assert room.watch.compare()
        assert (room.record.changes[1]["parent"], room.record.changes[1]["remove"]) == (1, ["rich"])
        assert room.record.changes[1]["built"]["removed"] == ["rich"]
        assert room.said[1] == "rich is no longer part of demo: version 2 of its environment."

    def test_another_version_of_what_is_asked_for_changes_the_files_alone(self, tmp_path: Path, uv: FakeUv) -> None:
        Outcome(version=3, requirements=["rich<16"]).keep(launch_in(tmp_path).private)
        room = Room(tmp_path, FakeRecord())
        put(room.launch, "rich", "15.0")
        room.watch.compare()
        assert (room.record.changes[0]["parent"], room.record.changes[0]["add"]) == (3, [])

    def test_a_viewers_packages_are_their_own(self, tmp_path: Path, uv: FakeUv) -> None:
        room = Room(tmp_path, FakeRecord(), viewer=True)
        put(room.launch, "rich", "15.0")
        room.watch.compare()
        assert room.record.changes == [] and "installed for you alone" in room.said[0]

    def test_what_the_index_does_not_have_stays_here(self, tmp_path: Path, uv: FakeUv) -> None:
        room = Room(tmp_path, FakeRecord())
        uv.refused = {"strange": "strange was not found"}
        for name, url in (("rich", False), ("own", True), ("strange", False)):
            put(room.launch, name, "1.0", url=url)
        room.watch.compare()
        assert [it["name"] for it in room.record.changes[0]["built"]["installed"]] == ["rich"]
        assert "own 1.0: not from the package index" in room.said[1]
        assert (
            room.said[2]
            == "strange is here until this server ends, but not part of the workspace: strange was not found."
        )

    def test_it_is_told_later_when_the_service_is_away_and_not_again_when_it_refuses(
        self, tmp_path: Path, uv: FakeUv
    ) -> None:
        room = Room(tmp_path, FakeRecord())
        put(room.launch, "rich", "15.0")
        room.record.problem = NotTold("Maestro's service does not answer")
        assert not room.watch.compare() and room.said == []
        room.record.problem = NotTold("rich: bob changed it.", refused=True)
        assert room.watch.compare()
        assert room.said == [
            "rich 15.0 is here until this server ends, but not part of the workspace: rich: bob changed it."
        ]
        room.record.problem = None
        assert room.watch.compare() and room.record.changes == []

    def test_what_pip_still_writes_does_not_count(self, tmp_path: Path) -> None:
        launch = launch_in(tmp_path)
        put(launch, "rich", "15.0")
        info = packages_folder(launch.environment) / "rich-15.0.dist-info"
        (info / "RECORD").unlink()
        assert look(packages_folder(launch.environment)) == {}

    def test_a_look_at_what_has_not_changed_takes_less_than_a_fifth_of_a_millisecond(self, tmp_path: Path) -> None:
        launch = launch_in(tmp_path)
        for number in range(300):
            put(launch, f"small-{number}", "1.0")
        folder = packages_folder(launch.environment)
        took = []
        for _ in range(50):
            began = time.perf_counter()
            stamp(folder)
            took.append(time.perf_counter() - began)
        assert sorted(took)[25] < 0.0002


class TestBuild:
    def outcome(self, folder: Path, monkeypatch: pytest.MonkeyPatch, record: FakeRecord, **more: Any) -> Outcome:
        monkeypatch.setattr(building.Record, "of", lambda _: record)
        return build(launch_in(folder, **more), {"MAESTRO_ENVIRONMENT": "4"})

    def test_a_lock_is_installed_as_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: FakeUv) -> None:
        package = {"name": "rich", "version": "15.0", "hashes": [HASH]}
        answer = EnvironmentBuild.model_validate({"version": 4, "complete": True, "packages": [package]})
        outcome = self.outcome(tmp_path, monkeypatch, FakeRecord(answer))
        assert uv.installed == ["rich 15.0"] and uv.resolved == [] and outcome.missing == {}
        assert list(notices_of(outcome, "demo")) == []

    def test_what_is_blocked_since_is_left_out_and_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: FakeUv
    ) -> None:
        packages = [{"name": name, "version": "1.0", "hashes": [HASH]} for name in ("ink", "rich")]
        answer = EnvironmentBuild.model_validate({"version": 4, "complete": True, "packages": packages})
        uv.refused = {"rich": "rich is blocked by the global policy (rule rich)"}
        outcome = self.outcome(tmp_path, monkeypatch, FakeRecord(answer))
        assert uv.installed == ["ink 1.0"]
        ((_, level, said),) = notices_of(outcome, "demo")
        assert level == "warning" and said == (
            "This server lacks packages of version 4 of the environment of demo: "
            "rich 1.0 (rich is blocked by the global policy (rule rich))."
        )

    def test_another_python_resolves_keeps_it_and_says_what_moved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: FakeUv
    ) -> None:
        record = FakeRecord(
            EnvironmentBuild.model_validate(
                {
                    "version": 4,
                    "requirements": ["rich<3", "numpy==2.0"],
                    "packages": [{"name": "ink", "version": "1.0", "hashes": [HASH]}],
                    "locked_for": "3.9/linux-x86_64/0123456789ab",
                    "python_version": "3.9",
                }
            )
        )
        outcome = self.outcome(tmp_path, monkeypatch, record)
        # the record's versions and the image's are preferred, and what the image has is not installed twice
        assert uv.resolved == [(["rich<3", "numpy==2.0"], {"numpy": "2.0", "ink": "1.0"})]
        assert uv.installed == ["rich 2.5"] == [f"{it['name']} {it['version']}" for it in record.deposits[0]]
        told = {notice: said for notice, _, said in notices_of(outcome, "demo")}
        assert (
            "(they were for Python 3.9 on linux-x86_64): ink 1.0 -> gone, rich new -> 2.5." in told["environment-moved"]
        )
        assert told["environment-python"].startswith("demo asks for Python 3.9, and this server has 3.")

    def test_what_cannot_be_resolved_does_not_take_the_rest_along(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: FakeUv
    ) -> None:
        record = FakeRecord(EnvironmentBuild.model_validate({"version": 4, "requirements": ["gone", "rich==2.0"]}))
        uv.refused = {"gone": "gone was not found"}
        outcome = self.outcome(tmp_path, monkeypatch, record)
        assert uv.installed == ["rich 2.0"] and outcome.missing == {"gone": "gone was not found"}
        assert record.deposits == []

    def test_what_has_to_be_built_from_source_waits_until_the_server_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: FakeUv
    ) -> None:
        record = FakeRecord(EnvironmentBuild.model_validate({"version": 4, "requirements": ["old==1.0", "rich==2.0"]}))
        uv.without_wheel = {"old"}
        outcome = self.outcome(tmp_path, monkeypatch, record)
        assert uv.installed == ["rich 2.0"] and outcome.unfinished and outcome.missing == {} and record.deposits == []
        outcome.keep(launch_in(tmp_path).private)
        said: list[str] = []
        watch = Watch(
            launch_in(tmp_path),
            {"MAESTRO_ENVIRONMENT": "4"},
            lambda _, __, text: said.append(text),
            logging.getLogger(),
        )
        watch.begin()
        watch._finish()
        assert uv.installed[1:] == ["old 1.0", "rich 2.0"] and len(record.deposits) == 1
        assert said[1] == (
            "Version 4 of the environment of demo is installed now: restart the kernels that are to use it."
        )

    def test_a_viewer_resolves_for_themselves(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: FakeUv
    ) -> None:
        record = FakeRecord(EnvironmentBuild.model_validate({"version": 4, "requirements": ["rich==2.0"]}))
        self.outcome(tmp_path, monkeypatch, record, viewer=True)
        assert uv.installed == ["rich 2.0"] and record.deposits == []

    def test_without_the_service_the_server_starts_and_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: FakeUv
    ) -> None:
        outcome = self.outcome(tmp_path, monkeypatch, FakeRecord())
        ((_, _, said),) = notices_of(outcome, "demo")
        assert said.startswith(
            "Maestro's service does not answer: version 4 of the environment of demo was not installed"
        )


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (
            "error: Failed to download `x==1`\n  cause: Failed to fetch: http://h/refused\n"
            "  cause: Server message: Blocked by the package policy, x is blocked (rule x). Ask an admin.\n",
            "x is blocked (rule x). Ask an admin",
        ),
        (
            "error: No solution found when resolving dependencies\n  cause: Because x was not found in the package "
            "registry and you require x, we can conclude that your requirements are unsatisfiable.\n",
            "Because x was not found in the package registry and you require x, we can conclude that your requirements "
            "are unsatisfiable",
        ),
        (
            "error: Failed to fetch: http://h/\n  cause: error sending request for url\n",
            "the package index does not answer",
        ),
        ("", "uv failed without a word"),
    ],
)
def test_uvs_reason_is_one_line(told: str, reason: str) -> None:
    assert reason_in(told) == reason


def test_a_target_is_one_that_the_service_takes() -> None:
    body = {"built": {"target": target_of({"numpy": "1.0"}), "removed": ["x"]}}
    assert EnvironmentChange.model_validate(body).built is not None
    assert target_of({"numpy": "1.0"}) != target_of({"numpy": "1.1"})


def test_what_came_of_a_build_is_read_back(tmp_path: Path) -> None:
    outcome = Outcome(version=2, missing={"x": "why"})
    outcome.keep(tmp_path)
    assert Outcome.kept(tmp_path) == outcome
    (tmp_path / building.OUTCOME).write_text(json.dumps({"other": 1}))
    assert Outcome.kept(tmp_path) == Outcome()


def test_a_wheel_leaves_the_server_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = Launch("demo", tmp_path, tmp_path / "env", tmp_path, Path(sys.prefix))

    def planted(launch: Launch, environ: Mapping[str, str]) -> Outcome:
        folder = launch.private / "config"
        folder.mkdir(parents=True)
        (folder / "jupyter_server_config.py").write_text("raise SystemExit('planted')")
        return Outcome(version=1)

    monkeypatch.setattr(building, "build", planted)
    start.prepare(launch, {"MAESTRO_ENVIRONMENT": "1"})
    assert list(launch.private.rglob("*.py")) == [] and Outcome.kept(launch.private).version == 1
