"""Saved versions of notebooks: their addresses, who may keep and read them, what a server sends and when."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from maestro_core.snapshots import MAX_NOTEBOOK, address_of, cell_digest, check_path, code_digests, stripped
from notebooks.cli import main
from notebooks.versions import copy_name, difference, write_copy
from server_extension.service import NotAnswered
from server_extension.snapshots import Snapshots, read_state
from tests.workspaces_kit import World, running_world, until


def notebook(*sources: str, **more: Any) -> dict[str, Any]:
    cells = [
        {"cell_type": "code", "source": one, "metadata": {}, "outputs": [{"x": 1}], "execution_count": 7}
        for one in sources
    ]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **more}


def packed(what: Any) -> str:
    return base64.b64encode(zstandard.compress(json.dumps(what).encode())).decode()


def put(path: str, one: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"path": path, "address": address_of(one), "content": packed(one), **more}


# -- addresses


def test_running_a_notebook_changes_no_address_and_writing_in_it_does() -> None:
    before = notebook("x = 1")
    ran = json.loads(json.dumps(before))
    ran["cells"][0] |= {"outputs": [{"output_type": "stream", "text": "hi"}], "execution_count": 9}
    ran["metadata"] = {"kernelspec": {"name": "other"}}
    assert address_of(ran) == address_of(before) == address_of(stripped(before))
    assert address_of(notebook("x = 2")) != address_of(before)
    tagged = json.loads(json.dumps(before))
    tagged["cells"][0]["metadata"] = {"tags": ["parameters"]}
    assert address_of(tagged) != address_of(before)


@given(st.lists(st.text(max_size=30), max_size=4))
def test_lines_and_text_are_the_same_source(sources: list[str]) -> None:
    lines = notebook(*sources)
    for cell in lines["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    assert address_of(lines) == address_of(notebook(*sources))
    assert code_digests(lines) == tuple(cell_digest(one) for one in sources)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["cells", "source", "metadata", "tags", "cell_type"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["cells", "metadata"]), _JUNK))
def test_what_is_no_notebook_has_no_address(data: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        address_of({"nbformat": 4, **data})


@pytest.mark.parametrize("path", ["../a.ipynb", "/a.ipynb", "a.py", "a//b.ipynb", "a/./b.ipynb", "a\n.ipynb"])
def test_a_path_stays_in_the_workspace(path: str) -> None:
    with pytest.raises(ValueError):
        check_path(path)


# -- the service


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path / "state") as world:
        world.hub.add("vic")
        async with world.client("ann") as ann:
            assert (await ann.post("workspaces", json={"name": "demo", "description": ""})).status_code == 201
            await ann.put("workspaces/demo/members", json={"user": "vic", "role": "viewer"})
        yield world


async def server(world: World, name: str) -> tuple[str, str]:
    """Start somebody's server in demo: its launch, and its token."""
    async with world.client(name) as client:
        started = await client.post("launches", json={"workspace": "demo"})
        assert started.status_code == 201, started.text
        return str(started.json()["session_id"]), world.hub.server_token(name, "demo")


async def test_a_version_is_kept_once_with_its_author_from_the_token(world: World) -> None:
    launch, token = await server(world, "ann")
    first, second = notebook("x = 1"), notebook("x = 2")
    async with world.client(token=token) as own:
        path = f"launches/{launch}/snapshots"
        short = {key: value for key, value in put("a.ipynb", first).items() if key != "content"}
        assert (await own.post(path, json=short)).json()["wanted"] is True
        for one in (first, first, second, first):
            assert (await own.post(path, json=put("a.ipynb", one))).json()["wanted"] is False
        assert (await own.post(path, json=short | {"path": "copy.ipynb"})).json()["wanted"] is False
        forged = await own.post(path, json=put("a.ipynb", first, author="eve"))
        assert forged.status_code == 400
        listed = (await own.get("workspaces/demo/snapshots", params={"path": "a.ipynb"})).json()["snapshots"]
        addresses = [address_of(one) for one in (first, second, first)]
        assert [one["address"] for one in listed] == addresses
        assert {one["author"] for one in listed} == {"ann"}
        assert len((await own.get("workspaces/demo/snapshots")).json()["snapshots"]) == 4
        async with world.authority.store.read() as unit:
            workspace = await unit.workspaces.by_name("demo")
            assert workspace is not None
            saves = await unit.snapshots.saves(workspace.id, addresses[0], 50)
        assert [one.path for one in saves] == ["copy.ipynb", "a.ipynb", "a.ipynb"]
        kept = (await own.get(f"workspaces/demo/snapshots/{addresses[1][:8]}")).json()["notebook"]
        assert kept == stripped(second)


async def test_who_may_read_and_who_may_not(world: World) -> None:
    launch, token = await server(world, "ann")
    async with world.client(token=token) as own:
        assert (await own.post(f"launches/{launch}/snapshots", json=put("a.ipynb", notebook("x")))).is_success
    async with world.client("vic") as vic, world.client("eve") as eve, world.client("ann") as ann:
        assert len((await vic.get("workspaces/demo/snapshots")).json()["snapshots"]) == 1
        assert (await eve.get("workspaces/demo/snapshots")).status_code == 404
        assert (await eve.get(f"workspaces/demo/snapshots/{address_of(notebook('x'))}")).status_code == 404
        # a person's token is no server's
        assert (await ann.post(f"launches/{launch}/snapshots", json=put("a.ipynb", notebook("y")))).status_code == 404
        assert (await ann.get("workspaces/demo/snapshots/zz")).json()["error"]["code"] == "unknown_snapshot"
    launch, token = await server(world, "vic")
    async with world.client(token=token) as viewer:
        refused = await viewer.post(f"launches/{launch}/snapshots", json=put("a.ipynb", notebook("y")))
        assert refused.status_code == 403


@pytest.mark.parametrize(
    "content",
    [packed(notebook("other")), packed([]), "###", base64.b64encode(b"no zstd").decode(),
     base64.b64encode(zstandard.compress(b" " * (MAX_NOTEBOOK + 1))).decode(),
     base64.b64encode(zstandard.compress(bytes(60_000_000), 3)).decode()],
)  # fmt: skip
async def test_a_content_that_is_not_what_it_says_is_refused(world: World, content: str) -> None:
    launch, token = await server(world, "ann")
    async with world.client(token=token) as own:
        body = put("a.ipynb", notebook("x")) | {"content": content}
        answer = await own.post(f"launches/{launch}/snapshots", json=body)
        assert answer.status_code == 400 and "content" in answer.json()["error"]["message"]
        assert (await own.get("workspaces/demo/snapshots")).json()["snapshots"] == []


async def test_old_versions_and_contents_that_nobody_has_any_more_go(world: World) -> None:
    async with world.authority.store.write() as unit:
        workspace = await unit.workspaces.by_name("demo")
        assert workspace is not None
        for number in range(5):
            await unit.snapshots.keep(workspace.id, f"{number:064}", b"x", 1, 1)
            await unit.snapshots.note(workspace.id, "a.ipynb", f"{number:064}", "ann", "l-1")
        await unit.snapshots.note(workspace.id, "b.ipynb", f"{0:064}", "ann", "l-1")
        await unit.snapshots.thin(workspace.id, "a.ipynb", 2)
    async with world.authority.store.read() as unit:
        left = await unit.snapshots.versions(workspace.id, None, 10)
        assert [(one.path, int(one.address)) for one in left] == [("b.ipynb", 0), ("a.ipynb", 4), ("a.ipynb", 3)]
        assert [await unit.snapshots.has(workspace.id, f"{number:064}") for number in range(5)] == [
            True, False, False, True, True,
        ]  # fmt: skip
    async with world.authority.store.write() as unit:
        assert await unit.snapshots.forget_workspace(workspace.id) == 3


# -- the notebook server


class FakeService:
    """Takes what is sent, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.refuses = False
        self.known: set[str] = set()
        self.got: list[tuple[str, str]] = []

    async def ask(self, what: str, body: str) -> Any:
        assert what == "snapshots"
        if self.away:
            raise NotAnswered("snapshots: ConnectionRefusedError")
        sent = json.loads(body)
        if self.refuses:
            raise NotAnswered("snapshots: 400", refused=True)
        if sent["address"] not in self.known and "content" not in sent:
            return {"address": sent["address"], "wanted": True}
        self.known.add(sent["address"])
        self.got.append((sent["path"], sent["address"]))
        return {"address": sent["address"], "wanted": False}


class FakeServer:
    log = logging.getLogger("test")


@pytest.fixture
async def saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[FakeService, Snapshots, Path]]:
    monkeypatch.setattr("server_extension.snapshots.FIRST_PAUSE", 0.01)
    service = FakeService()
    snapshots = Snapshots(FakeServer(), service, tmp_path)  # type: ignore[arg-type]
    task = asyncio.create_task(snapshots.run())
    yield service, snapshots, tmp_path
    task.cancel()


async def save(snapshots: Snapshots, folder: Path, one: dict[str, Any], name: str = "a.ipynb", **more: str) -> None:
    (folder / name).write_text(json.dumps(one))
    await snapshots._heard(None, "", {"action": "save", "path": name} | more)


async def test_a_save_is_sent_and_one_that_only_ran_is_not(saving: tuple[FakeService, Snapshots, Path]) -> None:
    service, snapshots, folder = saving
    await save(snapshots, folder, notebook("x = 1"))
    await until(lambda: len(service.got) == 1, "it was not sent")
    await save(snapshots, folder, notebook("x = 1", metadata={"ran": "again and again"}))
    await save(snapshots, folder, {"cells": []}, "broken.ipynb")
    await save(snapshots, folder, notebook("x = 2"))
    await until(lambda: len(service.got) == 2, "it was not sent")
    assert service.got == [("a.ipynb", address_of(notebook("x = 1"))), ("a.ipynb", address_of(notebook("x = 2")))]
    state = await snapshots.state("a.ipynb")
    assert state is not None and state.digests == (cell_digest("x = 2"),)


async def test_a_renamed_notebook_goes_on_under_its_new_name(saving: tuple[FakeService, Snapshots, Path]) -> None:
    service, snapshots, folder = saving
    await save(snapshots, folder, notebook("x"))
    await until(lambda: service.got, "it was not sent")
    (folder / "a.ipynb").rename(folder / "b.ipynb")
    await snapshots._heard(None, "", {"action": "rename", "path": "b.ipynb", "source_path": "a.ipynb"})
    await until(lambda: len(service.got) == 2, "it was not sent")
    assert service.got[1][0] == "b.ipynb" and await snapshots.state("a.ipynb") is None


async def test_what_cannot_be_sent_waits_and_keeps_its_order(saving: tuple[FakeService, Snapshots, Path]) -> None:
    service, snapshots, folder = saving
    service.away = True
    for number in range(3):
        await save(snapshots, folder, notebook(f"x = {number}"))
        await snapshots.state("a.ipynb")
    service.away = False
    await until(lambda: len(service.got) == 3, "it was not sent")
    assert [address for _, address in service.got] == [address_of(notebook(f"x = {number}")) for number in range(3)]


async def test_what_is_refused_does_not_stop_the_others(saving: tuple[FakeService, Snapshots, Path]) -> None:
    service, snapshots, folder = saving
    service.refuses = True
    await save(snapshots, folder, notebook("x"))
    await until(lambda: not snapshots._waiting and snapshots._known, "it was not sent")
    service.refuses = False
    await save(snapshots, folder, notebook("y"))
    await until(lambda: service.got, "it was not sent")


def test_a_file_that_is_too_large_or_none_has_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.ipynb"
    assert read_state(file) is None
    file.write_text(json.dumps(notebook("x")))
    assert read_state(file) is not None
    monkeypatch.setattr("server_extension.snapshots.MAX_FILE", 10)
    assert read_state(file) is None


# -- the client


def test_the_difference_of_two_versions_is_nbdimes() -> None:
    shown = difference(stripped(notebook("x = 1")), stripped(notebook("x = 2")), ("old", "new"))
    assert "-x = 1" in shown.replace("-  ", "-") and "+x = 2" in shown.replace("+  ", "+")


def test_a_copy_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / copy_name("plots.ipynb", "0a1b2c3d4e5f" + "0" * 52)
    assert path.name == "plots (0a1b2c3d4e5f).ipynb"
    write_copy(notebook("x"), path)
    with pytest.raises(Exception, match="is there already"):
        write_copy(notebook("y"), path)


def test_the_command_has_help() -> None:
    assert "saved versions of a notebook" in CliRunner().invoke(main, ["version", "--help"]).output
