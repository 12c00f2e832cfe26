"""The security scan: what it reads out of files that anybody wrote, and what it says of packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maestro_core.advisories import Malware, read_osv
from maestro_core.packages import PackagePolicy, compile_policy
from maestro_core.scans import Finding, Kind, Package, ScanReport, Severity, judge, judge_startup
from server_extension.launch import StartError
from server_extension.scan import startup
from server_extension.scan.code import blocked_names, risks
from server_extension.scan.files import look
from server_extension.scan.installed import installed
from server_extension.scan.sbom import cyclonedx
from server_extension.scan.secrets import secrets_in
from server_extension.scan.sources import Files, Source, python_of

#: of the shape of a token, made for this test; put together here so that nobody takes it for one
TOKEN = "ghp_" + "a1B2" * 9


def notebook(folder: Path, *cells: str | dict[str, Any], name: str = "n.ipynb") -> Path:
    written = [{"cell_type": "code", "source": one, "outputs": []} if isinstance(one, str) else one for one in cells]
    path = folder / name
    path.write_text(json.dumps({"cells": written, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}))
    return path


def only(folder: Path) -> Source:
    (source,) = Files(folder)
    return source


def test_each_line_knows_its_cell(tmp_path: Path) -> None:
    notebook(tmp_path, {"cell_type": "markdown", "source": "# hi"}, "%pip install x\nimport os\n", "y = !ls\nx = 1")
    source = only(tmp_path)
    assert source.code.split("\n")[:5] == ["pass", "import os", "", "y = None", "x = 1"]
    assert [source.place(line) for line in (1, 2, 4, 5)] == [(2, 1), (2, 2), (3, 1), (3, 2)]


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("%%bash\nrm -rf x", ["pass", "pass"]),
        ("%%time\nimport os", ["pass", "import os"]),
        ("if True:\n    !ls\nelse:\n    %magic", ["if True:", "    pass", "else:", "    pass"]),
        ("len?", ["pass"]),
        ("x = 7 % 3", ["x = 7 % 3"]),
    ],
)
def test_what_is_ipythons_own_is_taken_out(cell: str, code: list[str]) -> None:
    assert python_of(cell) == code


def test_what_cannot_be_read_is_named_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.ipynb").write_text("{")
    (tmp_path / "deep.ipynb").write_text("[" * 100_000)
    (tmp_path / "list.ipynb").write_text("[]")
    notebook(tmp_path, "def (", "import socket", name="half.ipynb")
    (tmp_path / "link.py").symlink_to("/etc/passwd")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    notebook(tmp_path / ".ipynb_checkpoints", "import socket")
    files = Files(tmp_path)
    assert [source.path for source in files] == ["half.ipynb"]
    assert len(files.notes) == 4 and "half.ipynb, cell 1 is no Python" in " ".join(files.notes)


@pytest.mark.parametrize(
    "code",
    ["import socket", "import socket as s", "from socket import create_connection", "import os\nos.system('x')",
     "import os as o\no.system('x')", "from os import system", "import subprocess.x"],
)  # fmt: skip
def test_blocked_imports_and_calls_are_found(code: str) -> None:
    assert list(blocked_names(Source("a.py", code), {"socket", "subprocess", "os.system"}))


@pytest.mark.parametrize("code", ["import os\nos.path.join('a')", "socket = 1", "from . import socket", "x.system()"])
def test_what_only_looks_like_it_is_not(code: str) -> None:
    assert not list(blocked_names(Source("a.py", code), {"socket", "os.system"}))


def test_bandit_names_cell_and_line(tmp_path: Path) -> None:
    notebook(tmp_path, "import subprocess, pickle", "x = 1\nsubprocess.run('ls ' + x, shell=True)", "eval(input())")
    found, notes = risks([only(tmp_path)])
    assert not notes
    assert {(one.rule, one.where) for one in found} == {
        ("B602", "n.ipynb, cell 2, line 2"), ("B307", "n.ipynb, cell 3, line 1"),
    }  # fmt: skip


def test_secrets_are_found_and_never_repeated(tmp_path: Path) -> None:
    output = {"output_type": "stream", "name": "stdout", "text": ["fine\n", f"token: {TOKEN}\n"]}
    shown = {"output_type": "display_data", "data": {"image/png": TOKEN * 50, "text/plain": "<Figure>"}}
    cell = {"cell_type": "code", "source": f"t = '{TOKEN}'", "outputs": [output, shown]}
    notebook(tmp_path, cell, "password = os.environ['PASSWORD']", "hash = 'd41d8cd98f00b204e9800998ecf8427e'")
    found = list(secrets_in(only(tmp_path)))
    assert [(one.cell, one.line) for one in found if one.rule == "GitHub Token"] == [(1, 1), (1, 2)]
    assert {one.cell for one in found} == {1}
    assert TOKEN not in json.dumps([one.model_dump(mode="json") for one in found])


def test_all_of_it_together_the_worst_first(tmp_path: Path) -> None:
    notebook(tmp_path, f"import socket\neval(x)\nt = '{TOKEN}'")
    answer = look(tmp_path, ["socket"])
    found = [Finding.model_validate(one) for one in answer["findings"]]  # type: ignore[attr-defined]
    assert [one.severity for one in found] == sorted((one.severity for one in found), key=list(Severity).index)
    assert {one.kind for one in found} == {Kind.SECRET, Kind.IMPORT, Kind.CODE} and answer["files"] == 1


LIB = {"id": "PYSEC-1", "summary": "Bad", "aliases": ["CVE-2026-1"], "database_specific": {"severity": "HIGH"},
       "affected": [{"package": {"ecosystem": "PyPI", "name": "lib"},
                     "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2"}]}]}]}  # fmt: skip
EVIL = {"id": "MAL-1", "affected": [{"package": {"ecosystem": "PyPI", "name": "evil"}}]}


def test_packages_are_compared_with_policy_and_advisories() -> None:
    written = PackagePolicy.model_validate({"blocked_packages": ["old"], "approval_required": ["new"]})
    policy = compile_policy(written, malware=Malware.of(read_osv(EVIL)))
    packages = [Package(name=name, version=version) for name, version in
                [("Lib", "1.9"), ("lib", "2.0"), ("evil", "1"), ("old", "1"), ("new", "1"),
                 ("fine", "1"), ("r\u0435", "1")]]  # fmt: skip
    found = judge(policy, read_osv(LIB), packages)
    assert [(one.what, one.kind, one.severity) for one in found] == [
        ("evil 1", Kind.MALWARE, Severity.HIGH),
        ("Lib 1.9", Kind.ADVISORY, Severity.HIGH),
        ("old 1", Kind.PACKAGE, Severity.MEDIUM),
        ("r\u0435 1", Kind.PACKAGE, Severity.MEDIUM),
        ("new 1", Kind.PACKAGE, Severity.LOW),
    ]
    assert found[1].why == "PYSEC-1, CVE-2026-1: Bad" and found[1].todo == "Install 2 or newer."


def test_an_image_is_held_to_the_list_for_images() -> None:
    written = PackagePolicy.model_validate({"blocked_packages": ["requests"], "approval_required": ["new"]})
    packages = [Package(name="requests", version="2"), Package(name="new", version="1"), Package(name="evil")]
    policy = compile_policy(written, malware=Malware.of(read_osv(EVIL)))
    assert {one.what for one in judge_startup(policy, packages)} == {"requests 2", "evil"}
    off = written.model_copy(update={"startup_blocked_packages": ()})
    policy = compile_policy(off, malware=Malware.of(read_osv(EVIL)))
    assert [one.what for one in judge_startup(policy, packages)] == ["evil"]


def test_packages_are_read_without_running_them(tmp_path: Path) -> None:
    def dist(prefix: Path, name: str, version: str) -> None:
        folder = prefix / f"lib/python3.11/site-packages/{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    image, own, home = tmp_path / "image", tmp_path / "env", tmp_path / "home"
    dist(image, "numpy", "2.0")
    dist(own, "rich", "15")
    dist(home / "project/venv", "evil", "1")
    (home / "project/venv/pyvenv.cfg").write_text("")
    meta = home / "conda/conda-meta"
    meta.mkdir(parents=True)
    record = {"name": "zlib", "version": "1.3", "channel": "http://x/conda-forge/linux-64", "subdir": "linux-64"}
    (meta / "zlib.json").write_text(json.dumps(record))
    (meta / "broken.json").write_text("{")
    found, notes = installed(image, own, [home])
    assert not notes
    assert [(one.name, one.channel, one.place) for one in found] == [
        ("evil", "pypi", str(home / "project/venv")), ("numpy", "pypi", "image"), ("rich", "pypi", "this server"),
        ("zlib", "conda-forge", str(home / "conda")),
    ]  # fmt: skip


def test_the_bill_of_materials_names_packages_and_what_is_known() -> None:
    policy = compile_policy(PackagePolicy(), malware=Malware.of(read_osv(EVIL)))
    packages = (Package(name="Lib", version="1.9"), Package(name="evil", version="1"),
                Package(name="zlib", version="1.3", channel="conda-forge"))  # fmt: skip
    report = ScanReport(workspace="demo", packages=packages, findings=judge(policy, read_osv(LIB), packages))
    document = json.loads(cyclonedx(report))
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert {one["purl"] for one in document["components"]} == {
        "pkg:pypi/lib@1.9", "pkg:pypi/evil@1", "pkg:conda/zlib@1.3?channel=conda-forge",
    }  # fmt: skip
    found = {one["id"]: one["affects"][0]["ref"] for one in document["vulnerabilities"]}
    assert found == {"PYSEC-1": "pypi/Lib@1.9", "MAL-1": "pypi/evil@1"}


def test_the_program_answers_in_json(tmp_path: Path) -> None:
    notebook(tmp_path, "import socket")
    question = json.dumps({"folder": str(tmp_path), "names": ["socket"]})
    command = [sys.executable, "-m", "server_extension.scan", "files"]
    done = subprocess.run(command, input=question, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["findings"][0]["what"] == "import socket"


def test_a_start_is_refused_when_nobody_can_say_that_the_image_is_fine() -> None:
    startup.check({})
    startup.check({startup.VARIABLE: "warn"})
    with pytest.raises(StartError, match="did not say whether this image may be used"):
        startup.check({startup.VARIABLE: "refuse", "MAESTRO_SERVICE_URL": "http://127.0.0.1:1/api"})


def test_a_long_list_is_cut() -> None:
    assert startup.listed([f"p{number:02}" for number in range(12)]).endswith("p09 and 2 more")
