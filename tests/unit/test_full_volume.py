"""A volume without room: the server starts all the same, and its user is told what to delete."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado import web

from server_extension import launch, start
from server_extension.contents import LaunchContents
from server_extension.environment import kernel_variables
from server_extension.launch import Launch
from server_extension.storage import Storage, full_sentence
from server_extension.usage import disk

GIB = 2**30
FULL, ROOMY = disk.Room(20 * GIB, 0, 1000), disk.Room(20 * GIB, 10 * GIB, 1000)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    for name in ("workspace", "home"):
        (tmp_path / name).mkdir()
    return {
        "HOME": str(tmp_path / "home"),
        "PATH": "/usr/bin:/bin",
        "MAESTRO_WORKSPACE": "demo",
        "MAESTRO_WORKSPACE_DIR": str(tmp_path / "workspace"),
        "MAESTRO_ENV": str(tmp_path / "env"),
    }


def no_room(monkeypatch: pytest.MonkeyPatch, below: Path, code: int = errno.ENOSPC) -> None:
    """Let nothing be written below a folder."""
    write = Path.write_bytes

    def refuse(path: Path, data: bytes) -> int:
        if path.is_relative_to(below):
            raise OSError(code, os.strerror(code))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", refuse)


# -- the start


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_with_a_full_home_the_servers_own_files_go_beside_it(
    environ: dict[str, str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(environ["HOME"])
    (home / ".jupyter/lab/user-settings").mkdir(parents=True)
    (home / ".jupyter/lab/user-settings/theme").write_text("dark")
    no_room(monkeypatch, home, code)
    made = Launch.from_environ(environ)
    assert made.home_full
    start.prepare(made, environ)
    variables = start.server_variables(made, environ)
    inside = [name for name, folder in variables.items() if name in start.FOLDERS and str(home) in folder]
    assert inside == []
    kept = Path(variables["JUPYTERLAB_SETTINGS_DIR"])
    assert (kept / "theme").read_text() == "dark", "it looks as it did"
    assert Path(kernel_variables(made, environ)["IPYTHONDIR"]).is_relative_to(made.private)


def test_with_room_everything_is_kept_in_the_home(environ: dict[str, str]) -> None:
    made = Launch.from_environ(environ)
    assert not made.home_full and made.settings == made.home
    assert "IPYTHONDIR" not in kernel_variables(made, environ)
    assert list(made.home.iterdir()) == [], "the probe leaves nothing"


def test_another_fault_of_the_home_is_not_called_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_room(monkeypatch, tmp_path, errno.EIO)
    assert not launch._is_full(tmp_path)


# -- what its user is told


class Told:
    """The storage of a launch, with the volumes' room in the test's hand."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workspace, self.home = tmp_path / "workspace", tmp_path / "home"
        self.rooms = {self.workspace: ROOMY, self.home: ROOMY}
        self.told: list[tuple[str, str | None]] = []
        for folder in self.rooms:
            folder.mkdir()
        monkeypatch.setattr(disk, "room", lambda folder: self.rooms[folder])
        self.storage = Storage(self.workspace, self.home, "demo", 30, lambda name, text: self.told.append((name, text)))


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(tmp_path, monkeypatch)


async def test_a_full_workspace_is_told_once_with_what_takes_the_space(told: Told) -> None:
    (told.workspace / "data").mkdir()
    (told.workspace / "data/big.bin").write_bytes(os.urandom(3 * 2**20))
    await told.storage.look()
    assert told.told == []
    told.rooms[told.workspace] = FULL
    await told.storage.look()
    await told.storage.look()
    assert told.told == [
        (
            "full-workspace",
            "The volume of the workspace demo is full (20 GiB): delete something before you save. "
            "Most space is taken by data/big.bin (3 MiB).",
        )
    ]
    told.rooms[told.workspace] = ROOMY
    await told.storage.look()
    assert told.told[1:] == [("full-workspace", None)]


async def test_a_full_home_is_told_apart(told: Told) -> None:
    told.rooms[told.home] = FULL
    await told.storage.look()
    ((name, sentence),) = told.told
    assert name == "full-home" and sentence is not None
    assert sentence.startswith("The volume of your private home (~ in a terminal) is full")


def test_at_most_five_are_named_the_largest_first() -> None:
    found = disk.Survey(entries={f"folder-{number}": number * GIB for number in range(1, 9)})
    sentence = full_sentence("the workspace demo", FULL, found)
    assert "folder-8 (8 GiB), folder-7 (7 GiB)" in sentence and sentence.count("folder-") == 5


def test_a_disk_that_somebody_else_filled_says_so() -> None:
    assert full_sentence("the workspace demo", FULL, disk.Survey()).endswith(
        "What fills it lies elsewhere on the same disk."
    )


def test_too_many_files_are_no_lack_of_bytes() -> None:
    assert "holds as many files as it can" in full_sentence("x", disk.Room(20 * GIB, 9 * GIB, 0), disk.Survey())


# -- saving


@pytest.fixture
def contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LaunchContents:
    monkeypatch.setattr(disk, "room", lambda folder: FULL)
    return LaunchContents(root_dir=str(tmp_path), delete_to_trash=False, always_delete_dir=True)


async def fail_to_save(self: Any, model: Any, path: str) -> None:
    Path(self._get_os_path(path)).touch()
    raise web.HTTPError(500, "Unexpected error while saving file: [Errno 2] No such file or directory: '.~a'")


NOTEBOOK = {"type": "notebook", "content": nbformat.v4.new_notebook()}


async def test_what_finds_no_room_says_so_and_leaves_nothing_half_made(
    contents: LaunchContents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.ipynb").write_text("as it was")
    monkeypatch.setattr(AsyncLargeFileManager, "save", fail_to_save)
    for name in ("new.ipynb", "old.ipynb"):
        with pytest.raises(web.HTTPError, match=f"There is no space left, so {name} was not saved") as refusal:
            await contents.save(NOTEBOOK, name)
        assert refusal.value.status_code == 507
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.ipynb", "as it was")]


async def test_another_fault_keeps_its_own_words(contents: LaunchContents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "room", lambda folder: ROOMY)
    monkeypatch.setattr(AsyncLargeFileManager, "save", fail_to_save)
    with pytest.raises(web.HTTPError, match="Unexpected error"):
        await contents.save(NOTEBOOK, "new.ipynb")


async def test_what_is_deleted_is_gone(contents: LaunchContents, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    await contents.delete("folder")
    assert not (tmp_path / "folder").exists()
