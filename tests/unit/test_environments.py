"""The environment of a workspace: how changes merge, what a server is told to build, who may do what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.environments import EnvironmentChange, LockedPackage, lock_text, merged, moved
from maestro_core.errors import MaestroError
from maestro_core.models import read_model
from maestro_hub_services.store.environments import MAX_TARGETS
from maestro_hub_services.workspaces.domain import admission
from notebooks.cli import main
from tests.workspaces_kit import World, ask, running_world

TARGET, OTHER = "3.11/linux-x86_64/0123456789ab", "3.12/linux-x86_64/0123456789ab"


NAMES = st.sampled_from(["a", "b", "c"])
VERSIONS = st.sampled_from(["==1", "==2", "<3"])
ASKED = st.dictionaries(NAMES, VERSIONS).map(lambda found: {name: name + text for name, text in found.items()})


def locked(name: str, version: str, digit: str = "0") -> dict[str, Any]:
    return {"name": name, "version": version, "hashes": [f"sha256:{digit * 64}"]}


def change(**body: Any) -> EnvironmentChange:
    return read_model(EnvironmentChange, body)


class TestMerge:
    def test_two_additions_stand_beside_each_other(self) -> None:
        asked = merged(change(add=["Polars"]), {}, {"rich": "rich<14"}, 1, "bob")
        assert asked == {"polars": "Polars", "rich": "rich<14"}

    def test_what_is_there_already_needs_nothing(self) -> None:
        current = {"rich": "rich[jupyter]<14"}
        built = {"target": TARGET, "installed": [locked("rich", "13.2")]}
        assert merged(change(add=["rich"], built=built), {}, current, 1, "bob") == current

    @pytest.mark.parametrize(
        ("body", "base", "current", "sentence"),
        [
            ({"add": ["rich==15"]}, {}, {"rich": "rich<14"}, "rich: bob changed it to rich<14 in version 4"),
            ({"add": ["rich>14"]}, {"rich": "rich"}, {}, "rich: bob removed it in version 4"),
            ({"remove": ["rich"]}, {"rich": "rich"}, {"rich": "rich<14"}, "and this change removes it"),
        ],
    )
    def test_the_same_package_changed_by_two_is_told(
        self, body: dict[str, Any], base: dict[str, str], current: dict[str, str], sentence: str
    ) -> None:
        with pytest.raises(MaestroError, match="look at that version first") as refused:
            merged(change(**body), base, current, 4, "bob")
        assert refused.value.code == "conflict" and sentence in refused.value.message

    def test_a_bare_name_does_not_hide_that_another_version_is_installed(self) -> None:
        built = {"target": TARGET, "installed": [locked("rich", "15.0")]}
        with pytest.raises(MaestroError, match="rich<14"):
            merged(change(add=["rich"], built=built), {}, {"rich": "rich<14"}, 4, "bob")

    @given(ASKED, ASKED, ASKED)
    def test_nobodys_change_is_lost_without_a_word(
        self, base: dict[str, str], ours: dict[str, str], theirs: dict[str, str]
    ) -> None:
        added = [text for name, text in ours.items() if base.get(name) != text]
        removed = [name for name in base if name not in ours]
        if not added and not removed:
            return
        try:
            made = merged(change(add=added, remove=removed), base, theirs, 2, "bob")
        except MaestroError as refused:
            name = refused.details["package"]
            assert base.get(name) != theirs.get(name) != ours.get(name) != base.get(name)  # both changed it, otherwise
            return
        for name in base.keys() | ours.keys() | theirs.keys():
            wanted = ours.get(name) if ours.get(name) != base.get(name) else theirs.get(name)
            assert made.get(name) == wanted

    def test_both_removing_it_is_no_conflict(self) -> None:
        assert merged(change(remove=["rich"]), {"rich": "rich"}, {}, 2, "bob") == {}

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"add": ["x @ https://example.org/x.whl"]},
            {"add": ["--index-url x"]},
            {"add": ["rich"], "remove": ["Rich"]},
            {"add": ["rich"], "built": {"target": "3.11", "installed": []}},
            {"built": {"target": TARGET, "installed": [locked("rich", "1.0\n--index-url x")]}},
            {"built": {"target": TARGET, "installed": [locked("rich", "1.0") | {"hashes": ["sha256:0 --pre"]}]}},
        ],
    )
    def test_what_is_no_package_is_refused(self, body: dict[str, Any]) -> None:
        with pytest.raises(MaestroError):
            change(**body)

    def test_a_lock_is_text_for_pip_and_uv(self) -> None:
        packages = [LockedPackage.model_validate(locked(name, "1.0")) for name in ("b", "a")]
        zeros = "0" * 64
        assert lock_text(packages) == f"a==1.0 --hash=sha256:{zeros}\nb==1.0 --hash=sha256:{zeros}\n"

    def test_a_difference_reads_like_one(self) -> None:
        shown = [move.show() for move in moved({"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"})]
        assert shown == ["- a 1", "b 1 -> 2", "+ d 1"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state") as made:
        members = [{"user": "bob", "role": "editor"}, {"user": "eve", "role": "viewer"}]
        answer = await call(made, "ann", "POST", "/workspaces", {"name": "demo", "members": members})
        assert answer.status_code == 201, answer.text
        yield made


async def call(world: World, who: str, method: str, path: str, body: Any = None) -> httpx.Response:
    async with world.client(who) as client:
        return await client.request(method, path, json=body)


async def environment(world: World, method: str, path: str = "", body: Any = None, who: str = "ann") -> Any:
    answer = await call(world, who, method, f"/workspaces/demo/environment{path}", body)
    assert answer.is_success, answer.text
    return answer.json()


async def refused(world: World, method: str, path: str, body: Any = None, who: str = "ann") -> tuple[str, str]:
    answer = await call(world, who, method, f"/workspaces/demo/environment{path}", body)
    assert not answer.is_success
    return answer.json()["error"]["code"], answer.json()["error"]["message"]


class TestVersions:
    async def test_additions_removals_and_the_way_back(self, world: World) -> None:
        empty = await environment(world, "GET")
        assert (empty["version"], empty["current"], empty["requirements"]) == (0, 0, [])
        first = await environment(world, "POST", body={"add": ["rich<14", "polars"], "reason": "plots"})
        assert (first["version"], first["author"], first["reason"]) == (1, "ann", "plots")
        assert first["requirements"] == ["polars", "rich<14"] and not first["settled"]
        second = await environment(world, "POST", body={"remove": ["polars"]}, who="bob")
        assert (second["version"], second["parent"], second["requirements"]) == (2, 1, ["rich<14"])
        again = await environment(world, "POST", body={"add": ["rich"]})
        assert again["version"] == 2  # it says so already
        difference = await environment(world, "GET", "/diff?from=1&to=2")
        assert difference["requirements"] == [{"name": "polars", "before": "polars", "after": None}]
        back = await environment(world, "POST", "/rollback", {"version": 1})
        assert (back["version"], back["requirements"]) == (3, first["requirements"])
        versions = (await environment(world, "GET", "/history"))["versions"]
        assert [(it["version"], it["reason"]) for it in versions] == [(3, "back to version 1"), (2, ""), (1, "plots")]
        async with world.authority.store.read() as unit:
            events = await unit.events.latest(kinds=["environment_changed"])
        assert [event.fields["moved"] for event in events][1] == ["- polars polars"]

    async def test_what_a_loop_changes_is_counted_on_one_event(self, world: World) -> None:
        for _ in range(3):
            await environment(world, "POST", body={"add": ["rich"]})
            await environment(world, "POST", body={"remove": ["rich"]})
        async with world.authority.store.read() as unit:
            events = await unit.events.latest(kinds=["environment_changed"])
        assert [(event.fields["moved"], event.count) for event in events] == [
            (["- rich rich"], 3),
            (["+ rich rich"], 3),
        ]
        assert events[0].fields["number"] == 6, "the last one's"

    async def test_a_viewer_looks_and_changes_nothing(self, world: World) -> None:
        await environment(world, "POST", body={"add": ["rich"]})
        assert (await environment(world, "GET", who="eve"))["version"] == 1
        deposit = {"version": 1, "target": TARGET, "packages": []}
        for method, path, body in (
            ("POST", "", {"add": ["polars"]}),
            ("POST", "/rollback", {"version": 1}),
            ("PUT", "/build", deposit),
        ):
            assert (await refused(world, method, path, body, who="eve"))[0] == "forbidden"

    async def test_what_is_not_there_is_named(self, world: World) -> None:
        assert (await refused(world, "GET", "?version=7"))[0] == "unknown_version"
        assert (await refused(world, "POST", "/rollback", {"version": 1}))[0] == "unknown_version"
        await environment(world, "POST", body={"add": ["rich"]})
        assert (await refused(world, "POST", "/rollback", {"version": 1}))[0] == "conflict"
        assert (await refused(world, "POST", "", {"add": ["polars"], "parent": 4}))[0] == "unknown_version"

    async def test_the_policy_is_asked_before_it_is_everybodys(self, world: World) -> None:
        rules = {"blocked_packages": ["requests", "numpy>=2"]}
        assert (await call(world, "ann", "PATCH", "/workspaces/demo", {"security": rules})).is_success
        code, sentence = await refused(world, "POST", "", {"add": ["requests"]})
        assert code == "package_blocked" and "requests is blocked by the policy of workspace demo" in sentence
        assert (await refused(world, "POST", "", {"add": ["numpy==2.1"]}))[0] == "package_blocked"
        assert (await environment(world, "POST", body={"add": ["numpy<2"]}))["version"] == 1

    async def test_the_settings_packages_are_the_first_version(self, world: World) -> None:
        spec = {"name": "made", "packages": ["rich<14"], "environment": {"python_version": "3.11"}}
        assert (await call(world, "ann", "POST", "/workspaces", spec)).is_success
        path = "/workspaces/made/environment"
        made = (await call(world, "ann", "GET", path)).json()
        assert (made["version"], made["requirements"], made["python_version"]) == (1, ["rich<14"], "3.11")
        await call(world, "ann", "POST", path, {"add": ["polars"]})
        await call(world, "ann", "PATCH", "/workspaces/made", {"packages": ["duckdb"]})
        asked = (await call(world, "ann", "GET", path)).json()
        assert (asked["version"], asked["requirements"]) == (3, ["duckdb", "polars"])


class TestBuild:
    async def test_what_a_server_installed_is_the_next_ones_lock(self, world: World) -> None:
        built = {"target": TARGET, "installed": [locked("rich", "13.2"), locked("pygments", "2.0")]}
        await environment(world, "POST", body={"parent": 0, "add": ["rich"], "built": built})
        build = await environment(world, "GET", f"/build?version=1&target={TARGET}", who="eve")
        assert build["complete"] and [it["name"] for it in build["packages"]] == ["pygments", "rich"]
        shown = await environment(world, "GET")
        assert shown["settled"] and shown["packages"][1] == {"name": "rich", "version": "13.2"}
        built = {"target": TARGET, "removed": ["pygments", "rich"]}
        await environment(world, "POST", body={"parent": 1, "remove": ["rich"], "built": built})
        build = await environment(world, "GET", f"/build?version=2&target={TARGET}")
        assert build["complete"] and build["packages"] == [] and build["requirements"] == []

    async def test_another_python_resolves_from_what_there_is(self, world: World) -> None:
        built = {"target": TARGET, "installed": [locked("rich", "13.2")]}
        await environment(world, "POST", body={"add": ["rich"], "built": built})
        build = await environment(world, "GET", f"/build?version=1&target={OTHER}")
        assert not build["complete"] and build["locked_for"] == TARGET and build["packages"][0]["version"] == "13.2"
        deposit = {"version": 1, "target": OTHER, "packages": [locked("rich", "14.0", "1")]}
        assert (await environment(world, "PUT", "/build", deposit))["complete"]
        late = {**deposit, "packages": [locked("rich", "15.0", "2")]}
        kept = await environment(world, "PUT", "/build", late, who="bob")
        assert kept["packages"][0]["version"] == "14.0"  # the first one stays
        assert (await environment(world, "GET"))["targets"] == [TARGET, OTHER]

    async def test_a_version_keeps_the_files_of_so_many_targets(self, world: World) -> None:
        await environment(world, "POST", body={"add": ["rich"]})
        files = {"version": 1, "packages": [locked("rich", "14.0")]}
        for number in range(MAX_TARGETS):
            await environment(world, "PUT", "/build", {**files, "target": f"3.11/linux/{number:012x}"})
        code, message = await refused(world, "PUT", "/build", {**files, "target": TARGET})
        assert code == "conflict" and "files for 20 kinds of servers already" in message
        await environment(world, "PUT", "/build", {**files, "target": "3.11/linux/000000000000"})  # known: the answer
        async with world.authority.store.write() as unit:
            place = await unit.workspaces.by_name("demo")
            row = await unit.environments.newest(place.id)
            await unit.environments.put_lock(row.id, TARGET, [], complete=False)
            await unit.environments.put_lock(row.id, OTHER, [], complete=True)
        await environment(world, "POST", body={"remove": ["rich"]})
        await environment(world, "POST", "/rollback", {"version": 1})
        async with world.authority.store.read() as unit:
            row = await unit.environments.newest(place.id)
            assert row.number == 3 and await unit.environments.count_locks(row.id) == MAX_TARGETS
            assert await unit.environments.lock(row.id, TARGET) is None, "it was not complete"

    async def test_files_are_kept_of_what_is_built_alone(self, world: World) -> None:
        await environment(world, "POST", body={"add": ["rich"]})
        await environment(world, "POST", body={"add": ["polars"]})
        plan = await admission.plan(world.authority, ask(world.hub.users["bob"], "demo"))
        await environment(world, "POST", body={"add": ["numpy"]})
        token = world.hub.server_token("bob", plan.server_name)
        answers = {}
        for version in (1, 2, 3):  # before the server, the server's, and the current one
            files = {"version": version, "target": TARGET, "packages": [locked("rich", "14.0")]}
            async with world.client(token=token) as client:
                answers[version] = (await client.put("/workspaces/demo/environment/build", json=files)).status_code
        assert answers == {1: 409, 2: 200, 3: 200}
        old = {"version": 2, "target": OTHER, "packages": []}
        assert "nor that of your server" in (await refused(world, "PUT", "/build", old))[1], "ann runs none"

    async def test_two_servers_merge_and_the_next_resolves_what_both_asked_for(self, world: World) -> None:
        for who, name in (("ann", "rich"), ("bob", "polars")):
            built = {"target": TARGET, "installed": [locked(name, "1.0")]}
            await environment(world, "POST", body={"parent": 0, "add": [name], "built": built}, who=who)
        build = await environment(world, "GET", f"/build?version=2&target={TARGET}")
        assert build["requirements"] == ["polars", "rich"] and not build["complete"]
        assert [it["name"] for it in build["packages"]] == ["polars", "rich"]

    async def test_going_back_brings_the_same_files(self, world: World) -> None:
        for parent, version in enumerate(("13.2", "14.0")):
            built = {"target": TARGET, "installed": [locked("rich", version)]}
            await environment(world, "POST", body={"parent": parent, "add": ["rich"], "built": built})
        await environment(world, "POST", "/rollback", {"version": 1})
        build = await environment(world, "GET", f"/build?version=3&target={TARGET}")
        assert build["complete"] and build["packages"] == [locked("rich", "13.2")]

    async def test_a_plan_names_the_version(self, world: World) -> None:
        ann = world.hub.users["ann"]
        assert (await admission.plan(world.authority, ask(ann, "demo"))).environment["MAESTRO_ENVIRONMENT"] == ""
        await environment(world, "POST", body={"add": ["rich"]})
        plan = await admission.plan(world.authority, ask(ann, "demo"))
        assert (plan.environment_version, plan.environment["MAESTRO_ENVIRONMENT"]) == (1, "1")


async def maestro(world: World, *arguments: str, who: str = "ann") -> tuple[int, str]:
    """Run the command as somebody; exit code and what it printed."""
    variables = {"MAESTRO_URL": world.address, "MAESTRO_TOKEN": f"token-of-{who}"}
    done = await asyncio.to_thread(CliRunner().invoke, main, list(arguments), env=variables)
    return done.exit_code, " ".join((done.output + done.stderr).split())


async def test_the_command_adds_looks_compares_and_goes_back(world: World) -> None:
    assert await maestro(world, "packages", "demo") == (
        0,
        "Nothing was installed in demo yet. Use pip in a notebook, or 'maestro install'.",
    )
    code, told = await maestro(world, "install", "demo", "rich<14", "polars", "--reason", "plots")
    assert code == 0 and "Version 1 of the environment of demo: polars, rich<14." in told
    assert (await maestro(world, "install", "demo", "rich"))[1].startswith(
        "Nothing to change: rich stands in version 1"
    )
    code, told = await maestro(world, "uninstall", "demo", "Polars")
    assert code == 0 and "Version 2 of the environment of demo: rich<14." in told
    assert "Nobody asked for polars" in (await maestro(world, "uninstall", "demo", "polars"))[1]
    assert "by ann" in (await maestro(world, "packages", "demo"))[1]
    assert "- polars polars" in (await maestro(world, "packages", "demo", "--diff", "1", "2"))[1]
    code, told = await maestro(world, "packages", "demo", "--rollback", "1")
    assert code == 0 and "Version 3 of the environment of demo: polars, rich<14." in told
    code, told = await maestro(world, "packages", "demo", "--history", who="eve")
    assert code == 0 and "back to version 1" in told and "plots" in told
    assert (await maestro(world, "install", "demo", "duckdb", who="eve"))[0] == 4
    assert (await maestro(world, "install", "demo", "not a package"))[0] == 2
    assert json.loads((await maestro(world, "packages", "demo", "--json"))[1])["current"] == 3
