"""Advisories: OSV's records are read as OSV means them, and known malware stays out whatever a policy says."""

from __future__ import annotations

import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from maestro_core.advisories import Advisory, Malware, Range, read_osv
from maestro_core.errors import MaestroError
from maestro_core.packages import Action, PackagePolicy, Rule, compile_policy, decide
from maestro_hub_services.store import Store
from notebooks.advisories import AdvisoryManager
from notebooks.api import Api


def record(number: str = "GHSA-aaaa", **more: Any) -> dict[str, Any]:
    """An OSV record about `lib`: affected from 1.0 up to, not including, 1.5, and from 2.0 up to 2.1."""
    events = [{"introduced": "1.0"}, {"fixed": "1.5"}, {"introduced": "2.0"}, {"last_affected": "2.1"}]
    affected = {
        "package": {"ecosystem": "PyPI", "name": "Lib"},
        "ranges": [{"type": "ECOSYSTEM", "events": events}, {"type": "GIT", "events": [{"introduced": "abc"}]}],
        "versions": ["0.9.post1"],
    }
    return {"id": number, "modified": "2026-01-02T00:00:00Z", "summary": "Bad", "affected": [affected], **more}


def malware(name: str = "evil", versions: list[str] | None = None) -> Advisory:
    affected: dict[str, Any] = {"package": {"ecosystem": "PyPI", "name": name}}
    if versions is None:
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]
    else:
        affected["versions"] = versions
    return read_osv({"id": f"MAL-2026-{name}", "affected": [affected]})[0]


@pytest.mark.parametrize(
    ("version", "affected"),
    [("0.9", False), ("0.9.post1", True), ("1.0", True), ("1.4.9", True), ("1.5", False), ("1.5rc1", True),
     ("2.0", True), ("2.1", True), ("2.1.post1", False), ("2.0-weird+++", True), (None, False)],
)  # fmt: skip
def test_a_version_is_affected_as_the_events_say(version: str | None, affected: bool) -> None:
    assert read_osv(record())[0].affects(version) is affected


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True),
    st.integers(0, 30),
)
def test_ranges_agree_with_walking_through_the_events(bounds: list[int], version: int) -> None:
    bounds.sort()
    events = [{"introduced" if place % 2 == 0 else "fixed": str(bound)} for place, bound in enumerate(bounds)]
    walked = False
    for event in events:
        if "introduced" in event and version >= int(event["introduced"]):
            walked = True
        if "fixed" in event and version >= int(event["fixed"]):
            walked = False
    affected = {"package": {"ecosystem": "PyPI", "name": "x"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    assert read_osv({"id": "X-1", "affected": [affected]})[0].affects(str(version)) is walked


def test_what_is_withdrawn_or_of_another_ecosystem_is_left_out() -> None:
    assert read_osv(record(withdrawn="2026-01-01T00:00:00Z")) == []
    other = record()
    other["affected"][0]["package"]["ecosystem"] = "npm"
    assert read_osv(other) == []


@pytest.mark.parametrize("bad", [[], {"affected": []}, {"id": "../x", "affected": record()["affected"]}])
def test_what_is_no_record_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError):
        read_osv(bad)


def test_the_summary_is_one_printable_line() -> None:
    assert read_osv(record(summary="a\x1b[31m\nb"))[0].summary == "a[31m b"


POLICIES = [
    PackagePolicy(),
    PackagePolicy(preset="strict", allowlist=["evil"]),  # type: ignore[arg-type]
    PackagePolicy(preset="seed"),
]


@pytest.mark.parametrize("written", POLICIES)
def test_no_policy_and_no_approval_opens_known_malware(written: PackagePolicy) -> None:
    approved = Rule(name="evil", action=Action.ALLOW, origin="decision")
    policy = compile_policy(written, decisions=[approved], malware=Malware.of([malware()]))
    verdict = decide(policy, "Evil", "1.0")
    assert verdict.action is Action.BLOCK and verdict.malware
    assert "known malware (MAL-2026-evil)" in verdict.reason
    assert decide(policy, "evil", None).action is Action.BLOCK


def test_one_bad_version_leaves_the_others() -> None:
    policy = compile_policy(PackagePolicy(), malware=Malware.of([malware("torch", ["9.9"])]))
    assert decide(policy, "torch", "9.9").malware
    assert decide(policy, "torch", "9.8").allowed and decide(policy, "torch").allowed
    assert not policy.is_uniform("torch") and policy.is_uniform("numpy")
    assert decide(policy, "pytorch", "9.9", "conda-forge").malware  # conda's name of the same thing


def test_what_is_new_in_the_book_changes_the_policys_revision() -> None:
    before, after = (compile_policy(PackagePolicy(), malware=Malware.of(book)) for book in ([], [malware()]))
    assert before.revision != after.revision
    assert before.revision == compile_policy(PackagePolicy()).revision


def test_a_policy_never_decides_without_the_malware_that_it_counts_on() -> None:
    policy = compile_policy(PackagePolicy(), malware=Malware.of([malware()]))
    sent = type(policy).model_validate_json(policy.model_dump_json())
    with pytest.raises(RuntimeError):
        decide(sent, "numpy", "1.0")
    with pytest.raises(ValueError):
        sent.knowing(Malware())
    assert decide(sent.knowing(Malware.of([malware()])), "evil").malware


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    store = await Store.open(database_url)
    yield store
    await store.close()


async def test_an_import_takes_the_place_of_the_one_before(store: Store) -> None:
    lib, evil = read_osv(record())[0], malware()
    async with store.write() as unit:
        await unit.advisories.put([lib, evil], "a" * 16)
        assert await unit.advisories.end_import("a" * 16) == 0
    changed = lib.model_copy(update={"summary": "Worse", "ranges": (Range(introduced="3"),)})
    async with store.write() as unit:
        await unit.advisories.put([changed], "b" * 16)
        assert await unit.advisories.end_import("b" * 16) == 1
    async with store.read() as unit:
        assert await unit.advisories.about(["lib", "evil"]) == [changed]
        status = await unit.advisories.status()
    assert (status.count, status.malware, status.newest) == (1, 0, "2026-01-02T00:00:00Z")


class FakeService(httpx.BaseTransport):
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.parts: list[dict[str, Any]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert len(request.content) <= 256 * 1024
        self.parts.append(json.loads(request.content))
        return httpx.Response(200, json={"count": 1})


def manager(service: FakeService) -> AdvisoryManager:
    return AdvisoryManager(api=Api("http://127.0.0.1:1", "t" * 32, transport=service))


def test_osvs_zip_is_sent_in_parts_that_the_service_takes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number in range(40):
            many = record(f"PYSEC-{number}")
            many["affected"][0]["versions"] = [f"1.{minor}" for minor in range(3000)]
            archive.writestr(f"PYSEC-{number}.json", json.dumps(many))
        archive.writestr("broken.json", "{")
        archive.writestr("README.txt", "hello")
    service = FakeService()
    done = manager(service).import_osv([tmp_path / "all.zip"])
    assert done.records == 40 and len(done.skipped) == 1 and "broken.json" in done.skipped[0]
    assert len(service.parts) > 2 and [part["last"] for part in service.parts] == [False] * (len(service.parts) - 1) + [
        True
    ]
    assert len({part["import_id"] for part in service.parts}) == 1
    assert sum(len(part["advisories"]) for part in service.parts) == 40


def test_an_import_of_nothing_forgets_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    service = FakeService()
    with pytest.raises(MaestroError, match="There is no OSV record"):
        manager(service).import_osv([tmp_path])
    assert service.parts == []


def test_versions_compare_as_versions() -> None:
    assert Range(introduced="1.9", fixed="1.10").has(Version("1.9.5"))
