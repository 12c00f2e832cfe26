"""What the index's service finds out about a request: versions, licence, closure; what it says when it cannot."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from packaging.metadata import RawMetadata

from maestro_core.requests import Facts, FactsReport, Wanted, WantedList
from maestro_hub_services.packages import closure, facts
from maestro_hub_services.packages.authority import Authority
from maestro_hub_services.packages.facts import licence, look, look_for_ever
from maestro_hub_services.packages.index import Index, Shelf
from maestro_hub_services.packages.pages import File
from maestro_hub_services.packages.pip_config import PipConfig
from tests import package_kit as kit


class Desk:
    """The index's service with its upstream."""

    def __init__(self, upstream: kit.Upstream, authority: kit.Authority, index: Index) -> None:
        self.upstream, self.authority, self.index = upstream, authority, index

    async def look(self, package: str, version: str = "") -> Facts:
        wanted = Wanted(request_id="r-1", workspace="demo", package=package, version=version, channel="pypi")
        return await look(self.index, wanted)

    def rule(self, **section: Any) -> None:
        self.authority.rule(upstream=self.upstream.url, **section)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async def read_config() -> PipConfig:
        return PipConfig()

    with kit.upstream_and_authority() as (upstream, authority):
        index = Index(
            Authority(authority.url, kit.SERVICE_TOKEN), tmp_path / "packages", "/services/packages/", read_config
        )
        await index.open()
        yield Desk(upstream, authority, index)
        await index.close()


def names(found: Facts) -> dict[str, str]:
    return {item.name: item.version for item in found.closure}


async def test_the_whole_closure_with_who_needs_what(desk: Desk) -> None:
    desk.upstream.add("app", "1.0", ("lib>=2", "Other_Thing", 'old; python_version < "3"', 'more; extra == "x"'))
    desk.upstream.add("lib", "1.0")
    desk.upstream.add("lib", "2.5", ("other-thing<3",))
    desk.upstream.add("other-thing", "2.0")
    desk.upstream.add("other-thing", "3.0")
    found = await desk.look("app")
    assert (found.version, found.problem, found.python) == ("1.0", "", closure.PYTHON)
    assert names(found) == {"app": "1.0", "lib": "2.5", "other-thing": "2.0"}
    assert [item.name for item in found.closure] == ["app", "lib", "other-thing"], "what was asked for comes first"
    assert {item.name: item.required_by for item in found.closure} == {
        "app": (), "lib": ("app",), "other-thing": ("app", "lib"),
    }  # fmt: skip


async def test_extras_and_going_back_to_an_older_parent(desk: Desk) -> None:
    desk.upstream.add("app", "1.0", ("lib[fast]",))
    desk.upstream.add("lib", "2.0", ("missing>=9",))
    desk.upstream.add("lib", "1.0", ('speed; extra == "fast"',))
    desk.upstream.add("speed", "1.0")
    desk.upstream.add("missing", "1.0")
    found = await desk.look("app")
    assert names(found) == {"app": "1.0", "lib": "1.0", "speed": "1.0"}


async def test_versions_the_newest_first_with_what_there_is_of_each(desk: Desk) -> None:
    desk.upstream.add("app", "1.0")
    desk.upstream.add("app", "2.0", yanked="broken")
    desk.upstream.add("app", "10.0rc1")
    desk.upstream.add_file("app", "app-3.0.tar.gz", b"source")
    desk.upstream.add_file("app", "app-4.0-cp311-cp311-win_amd64.whl", b"elsewhere")
    found = await desk.look("app")
    shown = [(one.version, one.wheel, one.source, one.yanked) for one in found.versions]
    assert shown == [
        ("10.0rc1", True, False, None),
        ("4.0", False, False, None),
        ("3.0", False, True, None),
        ("2.0", True, False, "broken"),
        ("1.0", True, False, None),
    ]
    assert (found.version_count, found.version) == (5, "3.0")
    assert "source only" in found.problem and not found.closure[0].wheel
    assert (await desk.look("app", "==2.0")).version == "2.0", "a pin takes a yanked one"


async def test_blocked_versions_are_left_out_and_blocked_packages_are_not(desk: Desk) -> None:
    desk.upstream.add("app", "1.0", ("lib", "bad"))
    for version in ("1.0", "2.0"):
        desk.upstream.add("lib", version)
    desk.upstream.add("bad", "1.0")
    desk.rule(blocked_packages=["lib>=2", "bad"], approval_required=["app"])
    assert names(await desk.look("app")) == {"app": "1.0", "lib": "1.0", "bad": "1.0"}


async def test_licences_as_authors_write_them() -> None:
    assert licence({"license_expression": "MIT", "license": "x"}) == "MIT"
    assert licence({"license": "BSD-3-Clause"}) == "BSD-3-Clause"
    classifiers = ["Topic :: x", "License :: OSI Approved :: Apache Software License"]
    assert licence({"license": "Copyright " * 20, "classifiers": classifiers}) == "Apache Software License"
    assert licence({"license": "a\x1b[2Jb"}) == "a [2Jb"
    assert licence(None) == licence({}) == ""


async def test_metadata_from_the_wheel_where_none_lies_beside_it(desk: Desk) -> None:
    content = kit.wheel("app", "1.0", ("lib",))
    desk.upstream.add_file("app", kit.wheel_name("app", "1.0"), content)
    desk.upstream.add("lib", "1.0")
    assert names(await desk.look("app")) == {"app": "1.0", "lib": "1.0"}


@pytest.mark.parametrize(
    ("requires", "problem"),
    [
        (("gone",), "gone is not at the index behind ours"),
        (("lib>=9",), "No versions for Python"),
        (("lib @ https://elsewhere.example/lib.whl",), "takes lib from an address of its own"),
        (("???",), "cannot be read"),
    ],
)
async def test_what_does_not_fit_is_a_sentence(desk: Desk, requires: tuple[str, ...], problem: str) -> None:
    desk.upstream.add("app", "1.0", requires)
    desk.upstream.add("lib", "1.0")
    found = await desk.look("app")
    assert problem in found.problem
    assert found.version_count == 1, "the rest is told all the same"


async def test_no_such_package_and_an_upstream_that_is_away(desk: Desk) -> None:
    assert (await desk.look("nothing")).problem == "nothing is not at the index behind ours."
    desk.upstream.away = True
    assert "503" in (await desk.look("other")).problem


async def test_a_wheel_that_is_none(desk: Desk) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "y")
    for name, content in (("app", b"not a zip"), ("lib", buffer.getvalue())):
        desk.upstream.add_file(name, kit.wheel_name(name, "1.0"), content)
        assert "can be read" in (await desk.look(name)).problem


async def test_a_marker_that_cannot_be_evaluated_counts(desk: Desk) -> None:
    desk.upstream.add("app", "1.0", ('lib; os_name ~= "x"',))
    desk.upstream.add("lib", "1.0")
    assert names(await desk.look("app")) == {"app": "1.0", "lib": "1.0"}


async def test_a_version_too_long_to_tell_is_passed_over(desk: Desk) -> None:
    desk.upstream.add("app", "1.0")
    for long in ("1" * 201, "9" * 5000):
        desk.upstream.add_file("app", f"app-{long}.tar.gz", b"source")
    found = await desk.look("app")
    assert (found.version, found.version_count, names(found)) == ("1.0", 1, {"app": "1.0"})


async def test_one_poisoned_request_keeps_no_other_waiting(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Facts] = {}
    over = asyncio.Event()
    wanted = [
        Wanted(request_id=name, workspace="demo", package=name, version="", channel="pypi") for name in ("bad", "good")
    ]

    class Service(Authority):
        async def wanted_facts(self) -> WantedList:
            return WantedList(wanted=tuple(wanted))

        async def tell_facts(self, report: FactsReport) -> None:
            told[report.request_id] = report.facts
            if len(told) == len(wanted):
                over.set()

    for name in ("bad", "good"):
        desk.upstream.add(name, "1.0")
    real = facts.read_metadata

    async def read_metadata(shelf: Shelf, file: File) -> RawMetadata:
        if file.filename.startswith("bad"):
            raise RecursionError("written by an author")
        return await real(shelf, file)

    monkeypatch.setattr(facts, "read_metadata", read_metadata)
    looking = asyncio.create_task(look_for_ever(Service(desk.authority.url, kit.SERVICE_TOKEN), desk.index))
    try:
        await asyncio.wait_for(over.wait(), 20)
    finally:
        looking.cancel()
    assert told["bad"].problem == "It could not be looked into; the log of the package index says why."
    assert told["good"].version == "1.0"


async def test_a_large_closure_and_a_slow_upstream_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.upstream.add("app", "1.0", tuple(f"lib{number}" for number in range(10)))
    for number in range(10):
        desk.upstream.add(f"lib{number}", "1.0")
    monkeypatch.setattr(facts, "MAX_CLOSURE", 5)
    assert "more than 5 packages" in (await desk.look("app")).problem
    monkeypatch.setattr(facts, "WHOLE_SECONDS", 0.0)
    assert "took too long" in (await desk.look("app")).problem
