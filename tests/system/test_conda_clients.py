"""The real py-rattler against the real index service, its channels small packages made here.

py-rattler is driven as ``maestro install W PACKAGE --conda`` does inside a notebook server, configured with nothing but
the files of a launch. conda itself cannot be had from Python's index: its recorded requests are replayed.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from maestro_core.clients import client_environment, client_files
from maestro_core.conda_environments import CondaBuild, CondaChange, merged_specs, specs_by_name
from maestro_core.errors import MaestroError
from notebooks.conda_environment import Installed, install
from notebooks.conda_files import Wish, named, read_file
from notebooks.conda_place import Place, place_of
from tests import conda_kit, package_kit
from tests.index_service import index_service

ROOT = Path(__file__).resolve().parents[2]
#: Python's package of the test channel: this Python in an environment of its own, which sees ipykernel here
SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
PYTHON = {
    "bin/python": f'#!/bin/bash\nexec -a "$0" {Path(sys.executable).resolve()} "$@"\n',
    "pyvenv.cfg": f"home = {Path(sys.executable).resolve().parent}\ninclude-system-site-packages = false\n",
    f"{SITE}/these.pth": f"{sysconfig.get_path('purelib')}\n",
}


class Workspace:
    """The workspace's conda environment, as the service keeps it (its own tests: test_conda_environments.py)."""

    def __init__(self) -> None:
        self.build = CondaBuild()

    def current(self, target: str) -> CondaBuild:
        return self.build

    def keep(self, change: CondaChange) -> int:
        assert change.built is not None and "alive" not in change.model_dump_json(), "the token was kept"
        number = self.build.version + 1
        asked = merged_specs(
            change, specs_by_name(self.build.requirements), specs_by_name(self.build.requirements), 1, ""
        )
        channels = tuple(dict.fromkeys([*self.build.channels, *change.channels]))
        self.build = CondaBuild(
            version=number, requirements=tuple(asked.values()), channels=channels, complete=True,
            packages=change.built.packages,
        )  # fmt: skip
        return number


@dataclass
class House:
    """The index, and what is behind it."""

    url: str
    channels: conda_kit.Channels
    authority: package_kit.Authority
    folder: Path
    upstream: package_kit.Upstream

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
        package_kit.upstream_and_authority() as (upstream, authority),
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
        for name, version in (("small-model", "1.0"), ("small-model", "2.0"), ("small-evil", "1.0")):
            upstream.add(name, version)
        authority.rule(
            blocked_packages=["numpy>=2", {"package": "requests", "reason": "use our client"}, "small-evil"],
            approval_required=["tensorflow"],
            upstream=upstream.url,
            index={"channel_alias": channels.url},
        )
        with index_service(authority, folder / "state") as index:
            yield House(index.url, channels, authority, folder, upstream)


def add(place: Place, *packages: str, record: Workspace | None = None) -> Installed:
    return install(place, named(packages), record or Workspace())


def refusal(place: Place, *packages: str, record: Workspace | None = None) -> MaestroError:
    with pytest.raises(MaestroError) as caught:
        add(place, *packages, record=record)
    assert "alive" not in caught.value.message, "the token was shown"
    return caught.value


class TestRattler:
    def test_what_is_allowed_installs_and_is_a_kernel(self, house: House) -> None:
        place, record = house.server("first", "alive"), Workspace()
        done = add(place, "numpy", record=record)
        assert done.packages == {"ipykernel": "6.29.5", "numpy": "1.26.4", "python": "3.11.9"}  # not 2.1: a rule
        assert (place.folder / "share/numpy/version.txt").read_text() == "1.26.4"
        assert done.kernel
        assert self.says("print(__import__('os').environ['CONDA_PREFIX'])", place) == str(place.folder)

        again = add(place, "pytorch::only-there", record=record)
        assert (again.changed, again.version) == (("only-there",), 2)
        assert record.build.requirements == ("numpy", "pytorch::only-there")
        assert record.build.channels == ("conda-forge", "pytorch")
        self.rebuilt_elsewhere(house, record)
        removed = install(place, Wish(), record, remove=["only-there"])
        assert (removed.gone, record.build.requirements) == (("only-there",), ("numpy",))
        assert not (place.folder / "share/only-there").exists()

    def rebuilt_elsewhere(self, house: House, record: Workspace) -> None:
        """Another server builds what the record says, newer packages or not, and refuses another file."""
        house.channels.add("only-there", "2.0", channel="pytorch")
        viewer = house.server("second", "alive", role="viewer")
        built = add(viewer, record=record)
        assert (built.packages["only-there"], built.version) == ("1.0", None)
        assert "A viewer cannot change the packages" in refusal(viewer, "numpy", record=record).message
        third, other = house.server("third", "alive"), Workspace()
        files = [it.model_copy(update={"sha256": "0" * 64}) if it.name == "only-there" else it
                 for it in record.build.packages]  # fmt: skip
        other.build = record.build.model_copy(update={"packages": tuple(files)})
        assert "is another file now" in refusal(third, record=other).message

    def test_channels_without_ipykernel_make_no_kernel(self, house: House) -> None:
        place = dataclasses.replace(house.server("bare", "alive"), channels=("pytorch",))
        done = add(place, "only-there ==1.0")
        assert (done.packages, done.kernel) == ({"only-there": "1.0"}, False)
        assert not (place.kernels / "conda").exists()

    def test_an_environment_file_with_a_pip_section(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        place, record = house.server("from-file", "alive"), Workspace()
        for name, value in house.environ("from-file").items():
            monkeypatch.setenv(name, value)
        file = place.files / "environment.yml"
        file.write_text(
            "name: course\nchannels: [pytorch, nodefaults]\n"
            "dependencies: [numpy >=1, only-there=1.0, pip: [small-model]]\n"
        )
        done = install(place, read_file(file), record)
        assert {"numpy": "1.26.4", "only-there": "1.0", "small-model": "2.0"}.items() <= done.packages.items()
        assert (place.folder / SITE / "small_model.py").exists()
        assert record.build.requirements == ("numpy >=1", "only-there=1.0", "pypi::small-model")
        house.upstream.add("small-model", "3.0")  # the record's version stays
        elsewhere = house.server("from-file-2", "alive")
        assert add(elsewhere, record=record).packages["small-model"] == "2.0"
        file.write_text("dependencies: [numpy, pip: [small-evil]]\n")
        with pytest.raises(MaestroError, match=r"small-evil is blocked by the global policy \(rule small-evil\)"):
            install(place, read_file(file), record)
        file.write_text("channels: [bioconda]\ndependencies: [bwa]\n")
        with pytest.raises(MaestroError, match="The channel bioconda is not trusted by the global policy"):
            install(place, read_file(file), Workspace())

    def test_an_explicit_file_installs_these_files_and_names_every_one_that_is_refused(self, house: House) -> None:
        place, record = house.server("explicit", "alive"), Workspace()
        records = house.channels.document("conda-forge")["packages.conda"]
        file = place.files / "explicit.txt"

        def write(*filenames: str, **digests: str) -> None:
            hashed = {it: digests.get(it.split("-")[0], records[it]["md5"]) for it in filenames}
            lines = [f"https://elsewhere.example.org/conda-forge/noarch/{it}#{hashed[it]}" for it in filenames]
            file.write_text("\n".join(["@EXPLICIT", *lines]) + "\n")

        write("numpy-1.26.4-0.conda", "python-3.11.9-0.conda")
        done = install(place, read_file(file), record)
        assert (done.packages, done.kernel) == ({"numpy": "1.26.4", "python": "3.11.9"}, False)  # nothing was solved
        assert record.build.requirements[0] == "conda-forge::numpy ==1.26.4 0"
        assert add(house.server("explicit-2", "alive"), record=record).packages["numpy"] == "1.26.4"

        write("numpy-1.26.4-0.conda", "requests-2.32.0-0.conda", "numpy-2.1.0-0.conda", "tensorflow-2.16.1-0.conda")
        with pytest.raises(MaestroError) as caught:
            install(place, read_file(file), record)
        blocked, version, held_back = caught.value.message.splitlines()
        assert blocked.startswith("requests is blocked by the global policy (rule requests): use our client.")
        assert version.startswith("numpy 2.1.0 is blocked by the global policy (rule numpy>=2)".replace(">=", ">="))
        assert held_back.startswith("tensorflow needs an approval by the global policy (rule tensorflow)")

        write("numpy-1.26.4-0.conda", numpy="0" * 32)
        with pytest.raises(MaestroError, match="is another file than the one whose hash"):
            install(place, read_file(file), record)

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
            ("numpy ==2.1.0", "package_blocked", "numpy 2.1.0 is blocked by the global policy (rule numpy>=2)"),
            ("needs-new-numpy", "package_blocked", "numpy 2.1.0 is blocked by the global policy (rule numpy>=2)"),
            ("bioconda::bwa", "package_blocked", "The channel bioconda is not trusted by the global policy"),
            ("not-there", "conflict", "No candidates were found for not-there"),
            ("!!", "invalid_request", "is no package as conda writes it"),
        ],
    )
    def test_what_is_refused_says_why(self, house: House, package: str, code: str, sentence: str) -> None:
        refused = refusal(house.server("refused", "alive"), package)
        assert sentence in refused.message
        assert refused.code == code

    def test_denials_name_what_was_refused(self, house: House) -> None:
        refusal(house.server("denied", "alive"), "needs-requests")
        told = httpx.get(f"{house.url}/denials", auth=("launch", "alive"), trust_env=False).json()["denials"]
        assert ("requests", "conda-forge") in {(it["package"], it["channel"]) for it in told}
        refusal(house.server("solved", "alive"), "needs-new-numpy")  # no file was asked for: the solver took none
        told = httpx.get(f"{house.url}/denials", auth=("launch", "alive"), trust_env=False).json()["denials"]
        assert ("numpy", "2.1.0") in {(it["package"], it["version"]) for it in told}

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
    """``maestro install W PACKAGE --conda``; inside of a server: test_conda_kernel.py."""

    def test_outside_of_a_server_it_says_where_to_run(self) -> None:
        told = subprocess.run(
            [sys.executable, "-m", "notebooks.cli", "install", "demo", "numpy", "--conda"],
            env={name: os.environ[name] for name in ("PATH", "HOME")} | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert told.returncode == 2
        assert "run this in a notebook or terminal there" in told.stderr.replace("\n", " ")
