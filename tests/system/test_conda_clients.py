"""The real py-rattler against the real index service, its channels small packages made here.

py-rattler is driven as ``maestro install W PACKAGE --conda`` does inside a notebook server, configured with nothing but
the files of a launch. conda itself cannot be had from Python's index: its recorded requests are replayed.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import rattler
import rattler.exceptions
import yaml
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from maestro_core.clients import client_environment, client_files
from maestro_core.errors import MaestroError
from notebooks.conda_environment import Place, install, place_of
from tests import conda_kit, package_kit
from tests.index_service import index_service

ROOT = Path(__file__).resolve().parents[2]
#: what ipykernel's package of the test channel stands for: this Python, which has it
PYTHON = {"bin/python": f'#!/bin/sh\nexec {sys.executable} "$@"\n'}


@dataclass
class House:
    """The index, and what is behind it."""

    url: str
    channels: conda_kit.Channels
    authority: package_kit.Authority
    folder: Path

    def server(self, name: str, token: str, role: str = "editor") -> Place:
        """A notebook server in the workspace, with the files of its launch; of a new name: a new one."""
        etc, env, work = (self.folder / name / part for part in ("etc", "env", "work"))
        for path in (etc, env, work):
            path.mkdir(parents=True, exist_ok=True)
        for filename, text in client_files(self.url, token).items():
            (etc / filename).write_text(text)
        return place_of(self.environ(name, role), "demo")

    def environ(self, name: str, role: str = "editor") -> dict[str, str]:
        """What that server has in its environment."""
        etc, env, work = (str(self.folder / name / part) for part in ("etc", "env", "work"))
        return client_environment(etc) | {
            "MAESTRO_LAUNCH_ID": "launch-1", "MAESTRO_WORKSPACE": "demo", "MAESTRO_ROLE": role,
            "MAESTRO_ENV": env, "MAESTRO_WORKSPACE_DIR": work,
        }  # fmt: skip

    def get(self, path: str, token: str = "alive") -> httpx.Response:
        return httpx.get(f"{self.url}/conda/t/{token}/{path}", trust_env=False)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One index and one policy for all stories; ``alive`` is the token of a launch."""
    channels, folder = conda_kit.Channels(), tmp_path_factory.mktemp("conda")
    with (
        package_kit.upstream_and_authority() as (_, authority),
        package_kit.running((channels.app(), lambda port: setattr(channels, "port", port))),
    ):
        channels.add("python", "3.11.9", files=PYTHON)
        channels.add("ipykernel", "6.29.5", ("python",))
        for version in ("1.26.4", "2.1.0"):
            channels.add("numpy", version, ("python",))
        channels.add("requests", "2.32.0")
        channels.add("needs-requests", "1.0", ("requests >=2",))
        channels.add("needs-new-numpy", "1.0", ("numpy >=2",))
        channels.add("tensorflow", "2.16.1")
        channels.add("only-there", "1.0", channel="pytorch")
        channels.add("bwa", "0.7", channel="bioconda")
        authority.rule(
            blocked_packages=["numpy>=2", {"package": "requests", "reason": "use our client"}],
            approval_required=["tensorflow"],
            index={"channel_alias": channels.url},
        )
        with index_service(authority, folder / "state") as index:
            yield House(index.url, channels, authority, folder)


def refusal(place: Place, *packages: str) -> MaestroError:
    with pytest.raises(MaestroError) as caught:
        install(place, packages)
    assert "alive" not in caught.value.message, "the token was shown"
    return caught.value


class TestRattler:
    def test_what_is_allowed_installs_and_is_a_kernel(self, house: House) -> None:
        place = house.server("first", "alive")
        done = install(place, ["numpy"])
        assert done.packages == {"ipykernel": "6.29.5", "numpy": "1.26.4", "python": "3.11.9"}  # not 2.1: a rule
        assert (place.folder / "share/numpy/version.txt").read_text() == "1.26.4"
        assert done.kernel
        assert self.says("print(__import__('os').environ['CONDA_PREFIX'])", place) == str(place.folder)

        again = install(place, ["pytorch::only-there"])
        assert again.changed == ("only-there",)
        record = yaml.safe_load(place.record.read_text())
        assert record["dependencies"] == ["numpy", "pytorch::only-there"]
        assert record["channels"] == ["conda-forge", "pytorch"]
        assert "alive" not in place.record.read_text()
        self.rebuilt_elsewhere(house, place)

    def rebuilt_elsewhere(self, house: House, place: Place) -> None:
        """Another server builds what the record says, newer packages or not, and refuses another file."""
        house.channels.add("only-there", "2.0", channel="pytorch")
        text = place.record.read_text()
        viewer = house.server("second", "alive", role="viewer")
        viewer.record.write_text(text)
        assert install(viewer, []).packages["only-there"] == "1.0"
        assert "A viewer cannot add packages" in refusal(viewer, "numpy").message
        third = house.server("third", "alive")
        third.record.write_text(re.sub(r"(only-there 1.0 0 sha256:)\w{4}", r"\g<1>0000", text))
        assert "is another file now" in refusal(third).message

    def test_channels_without_ipykernel_make_no_kernel(self, house: House) -> None:
        place = dataclasses.replace(house.server("bare", "alive"), channels=("pytorch",))
        done = install(place, ["only-there ==1.0"])
        assert (done.packages, done.kernel) == ({"only-there": "1.0"}, False)
        assert not (place.kernels / "conda").exists()

    @staticmethod
    def says(code: str, place: Place) -> str:
        """What the registered kernel prints."""
        manager = KernelManager(
            kernel_name="conda", kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(place.kernels)])
        )
        manager.start_kernel()
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        try:
            printed: list[str] = []
            client.execute_interactive(
                code, timeout=60, output_hook=lambda it: printed.append(it["content"].get("text", ""))
            )
            return "".join(printed).strip()
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    @pytest.mark.parametrize(
        ("package", "code", "sentence"),
        [
            (
                "requests",
                "package_blocked",
                "requests is blocked by the global policy (rule requests): use our client.",
            ),
            ("needs-requests", "package_blocked", "requests is blocked by the global policy (rule requests)"),
            ("tensorflow", "package_blocked", "tensorflow needs an approval by the global policy (rule tensorflow)"),
            ("numpy ==2.1.0", "conflict", "numpy-2-1-0-is-blocked-by-the-global-policy-rule-numpy-above-2"),
            ("needs-new-numpy", "conflict", "numpy-2-1-0-is-blocked-by-the-global-policy-rule-numpy-above-2"),
            ("bioconda::bwa", "package_blocked", "The channel bioconda is not trusted by the global policy"),
            ("not-there", "conflict", "No candidates were found for not-there"),
            ("!!", "invalid_request", "is no package as conda writes it"),
        ],
    )
    def test_what_is_refused_says_why(self, house: House, package: str, code: str, sentence: str) -> None:
        refused = refusal(house.server("refused", "alive"), package)
        assert sentence in refused.message
        assert refused.code == code

    @pytest.mark.parametrize("spec", ["numpy ==2.1.0", "requests"])
    async def test_an_explicit_file_reads_the_reason_too(self, house: House, spec: str, tmp_path: Path) -> None:
        """It names files, so nothing is solved: the file itself is refused."""
        place = house.server("explicit", "alive")
        channel = rattler.Channel("conda-forge", rattler.ChannelConfig(channel_alias=f"{place.alias}/"))
        gateway = rattler.Gateway(cache_dir=tmp_path / "cache")
        found = await gateway.query([channel], ["noarch"], [spec], recursive=False)
        records = [record for records in found for record in records]
        assert len(records) == 1
        with pytest.raises(rattler.exceptions.InstallerError, match=r"403 .* is blocked by the global policy \(rule"):
            await rattler.install(records, tmp_path / "env", cache_dir=tmp_path / "cache", show_progress=False)

    def test_denials_name_what_was_refused(self, house: House) -> None:
        refusal(house.server("denied", "alive"), "needs-requests")
        told = httpx.get(f"{house.url}/denials", auth=("launch", "alive"), trust_env=False).json()["denials"]
        assert ("requests", "conda-forge") in {(it["package"], it["channel"]) for it in told}

    def test_a_dead_token_says_so(self, house: House) -> None:
        house.authority.admit("ending", launch="launch-2")
        place = house.server("ending", "ending")
        assert house.get("conda-forge/noarch/repodata.json", "ending").status_code == 200
        del house.authority.tokens["ending"]
        deadline = time.monotonic() + 30
        while house.get("conda-forge/noarch/repodata.json", "ending").status_code == 200:
            assert time.monotonic() < deadline, "the token still opens the index"
            time.sleep(0.2)
        assert "belongs to a notebook server that has ended" in refusal(place, "numpy").message


class TestConda:
    """conda's requests, as they were recorded (not run: conda is not on Python's index)."""

    def test_the_forms_that_it_tries(self, house: House) -> None:
        probes = {
            name: house.get(f"conda-forge/noarch/{name}")
            for name in (
                "repodata_shards.msgpack.zst",
                "repodata.json.zst",
                "repodata.json.bz2",
                "current_repodata.json",
            )
        }
        assert [it.status_code for it in probes.values()] == [404, 200, 404, 404]
        assert all(it.headers["content-type"].startswith("text/plain") for it in probes.values() if it.is_error)

    def test_an_environment_file_and_an_explicit_file_are_refused_with_what_it_prints(self, house: House) -> None:
        """Both end in requests for files: of an environment.yml after solving, of an explicit file at once."""
        listed = house.get("conda-forge/noarch/repodata.json").json()["packages.conda"]
        for filename in ("requests-2.32.0-0.conda", "numpy-2.1.0-0.conda"):
            assert filename in listed
            refused = house.get(f"conda-forge/noarch/{filename}")
            printed = f"HTTP {refused.status_code} {refused.json()['reason']} {refused.json()['message']}"
            assert printed.startswith("HTTP 403 Blocked by the package policy ")
            assert "is blocked by the global policy (rule " in printed


class TestCommand:
    """``maestro install W PACKAGE --conda``."""

    def run(self, house: House, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        environment = {name: os.environ[name] for name in ("PATH", "HOME")} | {"PYTHONPATH": str(ROOT)} | environ
        return subprocess.run(
            [sys.executable, "-m", "notebooks.cli", "install", "demo", *arguments],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def test_inside_a_server(self, house: House) -> None:
        house.server("command", "alive")
        environ = house.environ("command")
        done = self.run(house, "numpy", "--conda", **environ)
        assert done.returncode == 0, done.stderr
        assert "Installed with conda: ipykernel 6.29.5, numpy 1.26.4, python 3.11.9." in done.stdout
        assert "the kernel 'conda (demo)'" in done.stdout
        refused = self.run(house, "requests", "--conda", **environ)
        assert refused.returncode == 5
        assert refused.stderr.startswith(
            "Error: requests is blocked by the global policy (rule requests): use our client."
        )
        assert "alive" not in refused.stderr + refused.stdout + done.stdout

    def test_outside_of_a_server_it_says_where_to_run(self, house: House) -> None:
        told = self.run(house, "numpy", "--conda")
        assert told.returncode == 2
        assert "run this in a notebook or terminal there" in told.stderr.replace("\n", " ")
