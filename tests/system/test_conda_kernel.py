"""A conda environment inside a real notebook server: made by the command, recorded, used as a kernel."""

from __future__ import annotations

import pytest

from tests import conda_kit
from tests import package_kit as kit
from tests.system.house import Maestro, until
from tests.system.singleuser import NotebookServer, has_bubblewrap

pytestmark = [pytest.mark.bwrap, pytest.mark.timeout(180)]
WORKSPACE = "condalab"
#: what Python's package of the channel stands for: that of the kernels, which has ipykernel
PYTHON = {"bin/python": '#!/bin/sh\nexec "$MAESTRO_ENV/bin/python" "$@"\n'}


async def test_conda_packages_come_into_a_running_server_as_a_kernel(maestro: Maestro) -> None:
    if not has_bubblewrap():
        pytest.skip("bubblewrap makes no sandboxes here")
    ada, channels = maestro.person("conda-ada"), conda_kit.Channels()
    channels.add("python", "3.11.9", files=PYTHON)
    channels.add("ipykernel", "6.29.5", ("python",))
    channels.add("samtools", "1.20", ("python",))
    channels.add("bcftools", "1.0")
    channels.add("telnetlib3", "2.0")
    spec = {"name": WORKSPACE, "security": {"blocked_packages": [{"package": "telnetlib3", "reason": "use ssh"}]}}
    with (
        kit.running((channels.app(), lambda port: setattr(channels, "port", port))),
        maestro.packages_from("file:///nowhere", channels.url),
        ada.api() as api,
    ):
        assert api.post("workspaces", json=spec).status_code == 201
        started = api.post("launches", json={"workspace": WORKSPACE})
        assert started.status_code in (201, 202), started.text
        launch = f"launches/{started.json()['session_id']}"
        until(lambda: api.get(launch).json()["status"] == "running", 60, "the server does not come up")
        server = NotebookServer(f"{maestro.url}user/{ada.name}/{WORKSPACE}/", token=ada.token())
        try:
            cell = server.open_notebook("a.ipynb")
            done = (await cell.run(f"!maestro install {WORKSPACE} samtools --conda")).text
            assert "Installed with conda: ipykernel 6.29.5, python 3.11.9, samtools 1.20." in done, done
            refused = (await cell.run(f"!maestro install {WORKSPACE} telnetlib3 --conda")).text
            assert (
                f"telnetlib3 is blocked by the policy of workspace {WORKSPACE} (rule telnetlib3): use ssh." in refused
            )
            kept = api.get(f"workspaces/{WORKSPACE}/conda").json()
            assert (kept["version"], kept["author"], kept["requirements"]) == (1, ada.name, ["samtools"])
            shown = (await cell.run(f"!maestro packages {WORKSPACE} --history")).text
            assert "conda" in shown and "samtools" in shown, shown
            file = "dependencies: [samtools, bcftools]"
            done = await cell.run(
                f"!echo '{file}' > environment.yml; maestro install {WORKSPACE} --conda -f environment.yml"
            )
            assert "Version 2 of the conda environment" in done.text and "bcftools 1.0" in done.text, done.text
            assert api.post(f"workspaces/{WORKSPACE}/conda/rollback", json={"version": 1}).status_code == 201
            back = (await cell.run(f"!maestro install {WORKSPACE} --conda")).text
            assert "Removed: bcftools." in back, back

            kernels = server.api("GET", "api/kernelspecs").json()["kernelspecs"]
            assert kernels["conda"]["spec"]["display_name"] == f"conda ({WORKSPACE})"
            theirs = server.open_notebook("b.ipynb", kernel="conda")
            shown = await theirs.run("!cat $CONDA_PREFIX/share/samtools/version.txt")
            assert shown.text.strip() == "1.20"
        finally:
            api.delete(launch)
            until(lambda: api.get(launch).json()["status"] == "ended", 60, "the server does not stop")
