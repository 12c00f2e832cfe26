"""A real server whose workspace or home has no room left: it starts, works, says what to delete, and can be cleaned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maestro_core.launches import HOME_DIR, WORKSPACE_DIR
from tests.system.singleuser import Opened, opened, prefix, until

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not (prefix() / "bin/maestro-singleuser").is_file(), reason="no single-user environment here"),
]
#: runs inside in front of the server: a folder with more than the volume takes
FILL = 'mkdir "$0/data" && head -c 100M /dev/zero > "$0/data/big.bin" 2>/dev/null; exec "$@"'
THEME = "lab/api/settings/@jupyterlab/apputils-extension:themes"


def full(tmp_path: Path, place: str) -> Any:
    """A server with a volume of 20 MB in a place, filled to the last byte."""
    volume = ("--size", str(20 * 2**20), "--tmpfs", place)
    return opened(tmp_path, more_options=volume, program=("sh", "-c", FILL, place), MAESTRO_HEARTBEAT_SECONDS="1")


def message(launch: Opened, name: str) -> str:
    found = launch.server.api("GET", "maestro/notices").json()["notices"]
    return next((str(notice["message"]) for notice in found if notice["id"] == name), "")


def notebook(size: int) -> dict[str, Any]:
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "x" * size}
    return {"type": "notebook", "content": {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}}


async def test_a_full_workspace_can_be_opened_and_cleaned(tmp_path: Path) -> None:
    with full(tmp_path, WORKSPACE_DIR) as launch:
        api = launch.server.api
        assert api("GET", "lab").status_code == 200
        seen = await launch.server.open_notebook("a.ipynb").run("print(6 * 7); open('new', 'w').write('x' * 100_000)")
        assert "42" in seen.text and "No space left on device" in seen.text
        refused = api("PUT", "api/contents/report.ipynb", json=notebook(200_000))
        assert refused.status_code == 507 and refused.json()["message"].startswith("There is no space left, so report")
        assert api("GET", "api/contents/report.ipynb").status_code == 404
        told = until(lambda: message(launch, "full-workspace"), "the notice")
        assert told.endswith("Most space is taken by data/big.bin (20 MiB).") and "the workspace demo is full" in told
        # the file browser frees the space, and the notice goes
        assert api("DELETE", "api/contents/data").status_code == 204
        assert api("PUT", "api/contents/report.ipynb", json=notebook(200_000)).status_code == 201
        until(lambda: not message(launch, "full-workspace"), "no notice")


async def test_with_a_full_home_the_server_works_and_settings_last_until_it_stops(tmp_path: Path) -> None:
    with full(tmp_path, HOME_DIR) as launch:
        api = launch.server.api
        assert api("PUT", THEME, json={"raw": '{"theme": "JupyterLab Dark"}'}).status_code == 204
        assert "JupyterLab Dark" in api("GET", THEME).text
        kernel = launch.server.open_notebook("a.ipynb")
        assert (await kernel.run("print(6 * 7)")).text.strip() == "42"
        told = until(lambda: message(launch, "full-home"), "the notice")
        assert "your private home (~ in a terminal) is full" in told and "data/big.bin (20 MiB)" in told
        await launch.server.terminal("rm -r ~/data && echo the e''nd", ends="the end")
        until(lambda: not message(launch, "full-home"), "no notice")
