"""uv as a notebook server calls it, against the real index: what its answers are taken for."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from maestro_core.client_words import NOT_ANSWERING
from maestro_core.clients import client_environment, client_files
from server_extension.packages.uv import NeedsSource, OutOfTime, Uv, UvError
from tests import package_kit as kit
from tests.system.test_index_clients import LIMIT, UV, Service, service  # noqa: F401 - the fixture


@pytest.fixture(scope="module")
def stocked(service: Service) -> Service:  # noqa: F811
    """The index, with what these tests ask for."""
    upstream = service.upstream
    for version in ("1.0", "2.0"):
        upstream.add("env-plot", version, ("env-ink",))
        upstream.add("env-ink", version)
    upstream.add_file("env-old", "env_old-1.0.tar.gz", source("env-old", "1.0"))
    return service


def source(name: str, version: str) -> bytes:
    """A source archive that nobody needs to build."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file, content in {
            "setup.py": b"raise SystemExit('built')",
            "PKG-INFO": kit.metadata(name, version),
        }.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{file}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def uv(stocked: Service, tmp_path: Path) -> Uv:
    """uv for an environment of its own, configured as a launch is."""
    return uv_in(tmp_path, stocked.url)


def uv_in(folder: Path, index: str, seconds: float = LIMIT) -> Uv:
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, folder / "env"], check=True, timeout=LIMIT)
    (folder / "etc").mkdir()
    for filename, text in client_files(index, "alive").items():
        (folder / "etc" / filename).write_text(text)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)} | client_environment(str(folder / "etc"))
    return Uv(UV, folder / "env/bin/python", folder / "cache", environ, seconds)


def shown(packages: list[dict[str, str]]) -> list[str]:
    return [f"{it['name']} {it['version']}" for it in packages]


def test_the_records_versions_are_taken_where_they_fit(uv: Uv) -> None:
    assert shown(uv.lock(["env-plot"])) == ["env-ink 2.0", "env-plot 2.0"]
    assert shown(uv.lock(["env-plot"], {"env-ink": "1.0", "other": "7"})) == ["env-ink 1.0", "env-plot 2.0"]
    assert shown(uv.lock(["env-plot>1"], {"env-plot": "1.0"})) == ["env-ink 2.0", "env-plot 2.0"]
    assert shown(uv.lock(["env-plot"], leave_out=["env-ink"])) == ["env-plot 2.0"]
    assert shown(uv.lock(["env-plot==1.0"], alone=True)) == ["env-plot 1.0"]


def test_the_files_of_the_lock_are_installed_and_no_others(uv: Uv, tmp_path: Path) -> None:
    lock = uv.lock(["env-plot"])
    assert lock[1]["hashes"] == [f"sha256:{kit.sha256(kit.wheel('env-plot', '2.0', ('env-ink',)))}"]
    forged = {**lock[1], "hashes": ["sha256:" + "0" * 64]}
    with pytest.raises(UvError, match=r"[Hh]ash"):
        uv.install([lock[0], forged])
    assert not list((tmp_path / "env").rglob("env_ink*"))  # all or nothing
    uv.install(lock)
    assert len(list((tmp_path / "env").rglob("env_*.dist-info"))) == 2


def test_nothing_is_built_from_source_before_the_server_runs(uv: Uv) -> None:
    with pytest.raises(NeedsSource):
        uv.lock(["env-old"])
    with pytest.raises(NeedsSource):
        uv.install([{"name": "env-old", "version": "1.0", "hashes": [f"sha256:{'0' * 64}"]}])


def test_why_something_cannot_be_had(stocked: Service, uv: Uv, tmp_path: Path) -> None:
    with pytest.raises(UvError, match="env-nothing was not found in the package registry"):
        uv.lock(["env-nothing"])
    lock = uv.lock(["env-plot"])
    stocked.rule(blocked_packages=[{"package": "env-ink", "reason": "it stains"}])
    reason = r"^env-ink is blocked by the global policy \(rule env-ink\): it stains\. Ask an admin of this Hub"
    for ask in (lambda: uv.lock(["env-plot"]), lambda: uv.install(lock)):
        with pytest.raises(UvError, match=reason):
            ask()
    stocked.rule()


def test_an_index_that_does_not_answer_and_time_that_is_over(tmp_path: Path, stocked: Service) -> None:
    (tmp_path / "away").mkdir()
    with pytest.raises(UvError) as error:
        uv_in(tmp_path / "away", "http://localhost:9/services/packages").lock(["env-plot"])
    assert str(error.value) == NOT_ANSWERING
    (tmp_path / "late").mkdir()
    with pytest.raises(OutOfTime):
        uv_in(tmp_path / "late", stocked.url, seconds=0).lock(["env-plot"])
