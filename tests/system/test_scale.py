"""Scaling on one machine: the reason and the restart are offered, and done when asked for; files stay."""

from __future__ import annotations

import pytest

from maestro_core.errors import MaestroError
from notebooks import NotebookLauncher
from tests.system.house import Maestro
from tests.system.singleuser import NotebookServer, prefix

pytestmark = [
    pytest.mark.bwrap,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (prefix() / "bin/python").is_file(), reason="no single-user environment here: scripts/setup.py test"
    ),
]


def test_a_server_is_started_again_with_other_amounts(maestro: Maestro) -> None:
    sara = maestro.person("sara")
    launcher = NotebookLauncher(maestro.url, sara.token())
    first = launcher.launch()
    server = NotebookServer(f"{maestro.url}user/sara/", token=sara.token())
    file = {"type": "file", "format": "text", "content": "kept"}
    assert server.api("PUT", "api/contents/note.txt", json=file).status_code == 201
    with pytest.raises(MaestroError, match="one machine keeps the amounts") as caught:
        launcher.scale(first.session_id, cpu=0.5, memory="1Gi")
    assert caught.value.code == "restart_needed" and "(--restart)" in caught.value.message
    assert launcher.status(first.session_id).status == "running"

    second = launcher.scale(first.session_id, cpu=0.5, memory="1Gi", restart=True)
    assert second.session_id != first.session_id and second.resources.show() == "0.5 cpu, 1 GiB"
    assert launcher.status(first.session_id).status == "ended"
    assert server.api("GET", "api/contents/note.txt").json()["content"] == "kept"
    launcher.stop(second.session_id)
