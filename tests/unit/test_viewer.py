"""A viewer's file browser: the workspace, which they cannot change, and their home, which they can."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from tornado import web

from maestro_core.environment import VIEWER_HOME
from server_extension.viewer import ViewerContents, ViewerKernels, inside_home


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    (folder / "data").mkdir(parents=True)
    (folder / "report.ipynb").write_text(nbformat.writes(nbformat.v4.new_notebook()))
    (folder / "data/notes.txt").write_text("theirs")
    (tmp_path / "secret.txt").write_text("the Hub's")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    (folder / ".ssh/id").write_text("key")
    (folder / "mine.txt").write_text("mine")
    return folder


@pytest.fixture
def contents(workspace: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> ViewerContents:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(home / ".local"))
    return ViewerContents(
        root_dir=str(workspace), home_dir=str(home), workspace="demo", allow_hidden=False, delete_to_trash=False
    )


def text(content: str) -> dict[str, Any]:
    return {"type": "file", "format": "text", "content": content}


async def names(contents: ViewerContents, path: str) -> list[str]:
    return sorted(entry["name"] for entry in (await contents.get(path))["content"])


# -- what is shown


async def test_the_home_stands_beside_the_workspaces_files(contents: ViewerContents) -> None:
    assert await names(contents, "") == [VIEWER_HOME, "data", "report.ipynb"]
    assert await names(contents, "/") == [VIEWER_HOME, "data", "report.ipynb"]
    assert await names(contents, VIEWER_HOME) == ["mine.txt"], "without what is hidden"
    shown = await contents.get(f"{VIEWER_HOME}/mine.txt")
    assert (shown["path"], shown["content"], shown["writable"]) == (f"{VIEWER_HOME}/mine.txt", "mine", True)


async def test_a_folder_of_that_name_in_the_workspace_is_hidden_by_it(
    contents: ViewerContents, workspace: Path
) -> None:
    (workspace / VIEWER_HOME).mkdir()
    (workspace / VIEWER_HOME / "theirs.txt").touch()
    assert (await names(contents, "")).count(VIEWER_HOME) == 1
    assert await names(contents, VIEWER_HOME) == ["mine.txt"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt", "data/../../secret.txt", f"{VIEWER_HOME}/../secret.txt", f"{VIEWER_HOME}/x/../../secret.txt",
        f"{VIEWER_HOME}/..", f"{VIEWER_HOME}/../workspace/report.ipynb", f"data/../{VIEWER_HOME}/mine.txt",
        f"{VIEWER_HOME}//../secret.txt", f"{VIEWER_HOME}\0/mine.txt", "my home/mine.txt", "~/mine.txt",
        f"{VIEWER_HOME}x/mine.txt",
    ],
)  # fmt: skip
async def test_no_path_leads_anywhere_else(contents: ViewerContents, path: str, tmp_path: Path) -> None:
    for act in (contents.get(path), contents.save(text("x"), path), contents.delete(path)):
        with pytest.raises(web.HTTPError):
            await act
    assert (tmp_path / "secret.txt").read_text() == "the Hub's"


async def test_hidden_files_are_hidden_in_both(contents: ViewerContents, workspace: Path) -> None:
    (workspace / ".git").mkdir()
    assert await contents.is_hidden(f"{VIEWER_HOME}/.ssh/id") and await contents.is_hidden(".git")
    assert not await contents.is_hidden(f"{VIEWER_HOME}/mine.txt") and not await contents.is_hidden("data")


# -- what is refused, and what is not


async def test_every_change_of_the_workspace_is_refused_in_one_sentence(
    contents: ViewerContents, workspace: Path
) -> None:
    notebook = {"type": "notebook", "format": "json", "content": nbformat.v4.new_notebook()}
    mine = f"{VIEWER_HOME}/mine.txt"
    acts = [
        contents.save(notebook, "report.ipynb"),
        contents.save(text("x"), "new.txt"),
        contents.save(text("x") | {"chunk": 1}, "upload.bin"),
        contents.save({"type": "directory"}, "folder"),
        contents.new_untitled("", type="notebook"),
        contents.delete("report.ipynb"),
        contents.rename("report.ipynb", "other.ipynb"),
        contents.rename("report.ipynb", f"{VIEWER_HOME}/stolen.ipynb"),
        contents.rename(mine, "gift.txt"),
        contents.copy("report.ipynb"),
        contents.copy("data", ""),
        contents.copy(mine, "data"),
        contents.delete(VIEWER_HOME),
        contents.rename(VIEWER_HOME, f"{VIEWER_HOME}/deeper"),
    ]
    for act in acts:
        with pytest.raises(web.HTTPError) as refusal:
            await act
        assert refusal.value.status_code == 403
        assert str(refusal.value.log_message).startswith(
            "You are viewer of demo, its files are read-only for you: save"
        )
    assert sorted(path.name for path in workspace.iterdir()) == ["data", "report.ipynb"]


async def test_the_home_is_theirs(contents: ViewerContents, home: Path) -> None:
    await contents.save(text("new"), f"{VIEWER_HOME}/new.txt")
    await contents.save({"type": "directory"}, f"{VIEWER_HOME}/folder")
    await contents.rename(f"{VIEWER_HOME}/new.txt", f"{VIEWER_HOME}/folder/renamed.txt")
    assert (home / "folder/renamed.txt").read_text() == "new"
    await contents.delete(f"{VIEWER_HOME}/mine.txt")
    made = await contents.new_untitled(VIEWER_HOME, type="notebook")
    assert made["path"] == f"{VIEWER_HOME}/Untitled.ipynb"
    checkpoint = await contents.create_checkpoint(made["path"])
    await contents.restore_checkpoint(checkpoint["id"], made["path"])
    assert sorted(path.name for path in home.iterdir() if not path.name.startswith(".")) == ["Untitled.ipynb", "folder"]


# -- a copy


async def test_a_copy_of_what_is_in_the_window_goes_home(contents: ViewerContents, home: Path) -> None:
    changed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1", id="a")])
    model = {"type": "notebook", "format": "json", "content": changed}
    assert await contents.copy_home("report.ipynb", model) == f"{VIEWER_HOME}/report.ipynb"
    assert json.loads((home / "report.ipynb").read_text())["cells"][0]["source"] in ("1 + 1", ["1 + 1"])
    assert await contents.copy_home("report.ipynb", model) == f"{VIEWER_HOME}/report-Copy1.ipynb"


async def test_a_copy_of_what_is_on_disk_goes_home(contents: ViewerContents, home: Path) -> None:
    assert await contents.copy_home("/data/notes.txt", None) == f"{VIEWER_HOME}/notes.txt"
    assert (home / "notes.txt").read_text() == "theirs"
    await contents.copy("data", VIEWER_HOME)
    assert (home / "data/notes.txt").read_text() == "theirs"


@pytest.mark.parametrize("path", ["missing.ipynb", "../secret.txt"])
async def test_what_is_not_there_is_not_copied(contents: ViewerContents, path: str) -> None:
    with pytest.raises(web.HTTPError) as refusal:
        await contents.copy_home(path, None)
    assert refusal.value.status_code == 404


@pytest.mark.parametrize(
    "model", [{"type": None}, {"type": "notebook", "content": "x"}, {"type": "file", "content": 7}]
)
async def test_what_is_no_document_is_not_copied(contents: ViewerContents, model: dict[str, Any], home: Path) -> None:
    before = sorted(home.rglob("*.ipynb"))
    with pytest.raises((web.HTTPError, nbformat.ValidationError, AttributeError)):
        await contents.copy_home("report.ipynb", {"format": None, "content": None} | model)
    assert sorted(home.rglob("*.ipynb")) == before


# -- kernels


def test_a_kernel_starts_beside_its_notebook(workspace: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    (home / "deep").mkdir()
    kernels = ViewerKernels(root_dir=str(workspace))
    assert kernels.cwd_for_path("data") == str(workspace / "data")
    assert kernels.cwd_for_path(f"{VIEWER_HOME}/deep") == str(home / "deep")
    assert kernels.cwd_for_path(f"{VIEWER_HOME}/deep/gone.ipynb") == str(home / "deep")
    assert kernels.cwd_for_path(VIEWER_HOME) == str(home)


def test_which_paths_are_at_home() -> None:
    assert inside_home(f"/{VIEWER_HOME}/a/b") == "a/b"
    assert inside_home(VIEWER_HOME) == ""
    assert inside_home(f"a/{VIEWER_HOME}") is None
