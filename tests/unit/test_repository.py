"""The repository itself: nothing of one machine or one registry in it, and locks that say what setup.cfg says."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
#: words of the public registries' hosts and what follows their last dot, apart so that none stands here either
HOSTS = (
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "org|com"),
    ("yarnpkg", "com"),
    ("anaconda", "org"),
    ("debian", "org"),
)
REGISTRIES = "|".join(rf"{'deb.' if name == 'debian' else ''}{name}\.(?:{end})" for name, end in HOSTS)
MACHINE_PATHS = r"(?<![\w.~}-])/(?:work|tmp/\w)/"
THIS_FILE = "tests/unit/test_repository.py"
EXTRAS = {"hub", "kubernetes", "singleuser", "hub-image", "test"}
# lock -> the extras that it holds
LOCKS = {
    "hub": {"hub", "kubernetes"},
    "hub-image": {"hub", "kubernetes", "hub-image"},
    "singleuser": {"singleuser"},
    "test": {"hub", "kubernetes", "singleuser", "test"},
}


def tracked_texts() -> dict[str, str]:
    """Every tracked text file by its name."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.fail("this checkout has no git, so its tracked files cannot be listed")
    texts = {}
    for name in listing.stdout.decode().split("\0"):
        data = (ROOT / name).read_bytes() if name and (ROOT / name).is_file() else b""
        if data and b"\0" not in data:
            texts[name] = data.decode()
    return texts


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return tracked_texts()


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    return config


def requirements(text: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def pins(lock: str) -> dict[str, list[Version]]:
    """The versions of each package that a lock names (several where Python versions differ)."""
    found: dict[str, list[Version]] = {}
    text = (ROOT / f"requirements/{lock}.lock").read_text()
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\\n]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


@pytest.mark.parametrize(
    ("what", "pattern"), [("a registry's host", REGISTRIES), ("a path of one machine", MACHINE_PATHS)]
)
def test_tracked_files_name_no_host_or_machine(texts: dict[str, str], what: str, pattern: str) -> None:
    hits = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts.items()
        if name != THIS_FILE
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not hits, f"{what} in:\n" + "\n".join(hits)


@pytest.mark.parametrize("lock", [*LOCKS, "build"])
def test_every_pin_has_hashes(lock: str) -> None:
    text = (ROOT / f"requirements/{lock}.lock").read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_satisfies_setup_cfg(setup_cfg: configparser.ConfigParser, lock: str) -> None:
    wanted = requirements(setup_cfg["options"]["install_requires"])
    for extra in LOCKS[lock]:
        wanted += requirements(setup_cfg["options.extras_require"][extra])
    locked = pins(lock)
    wrong = [
        f"{need} but the lock has {[str(v) for v in locked.get(canonicalize_name(need.name), [])] or 'nothing'}"
        for need in wanted
        if not any(need.specifier.contains(v, prereleases=True) for v in locked.get(canonicalize_name(need.name), []))
    ]
    assert not wrong, f"requirements/{lock}.lock is out of step with setup.cfg (run `make lock`): {wrong}"


@pytest.mark.parametrize("lock", ["hub", "hub-image", "singleuser"])
def test_locks_agree_on_shared_packages(lock: str) -> None:
    everything = pins("test")
    assert {n: v for n, v in pins(lock).items() if n in everything and v != everything[n]} == {}


def test_extras_are_those_that_the_docs_name(setup_cfg: configparser.ConfigParser) -> None:
    assert set(setup_cfg["options.extras_require"]) == EXTRAS


def test_templates_come_with_the_installed_project(setup_cfg: configparser.ConfigParser, texts: dict[str, str]) -> None:
    data_files = setup_cfg["options.data_files"]
    left_out = [
        name
        for name in texts
        if name.startswith("templates/")
        and not any(Path(name).match(glob) for glob in _lines(data_files.get(f"share/maestro/{Path(name).parent}")))
    ]
    assert left_out == []


def _lines(text: str | None) -> list[str]:
    return (text or "").split("\n")[1:]


def test_package_lock_has_integrity_and_no_addresses(texts: dict[str, str]) -> None:
    text = texts["package-lock.json"]
    assert '"resolved"' not in text
    assert text.count('"integrity"') > 10


def test_commands_that_the_readme_shows_exist(texts: dict[str, str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", texts["Makefile"], re.MULTILINE))
    pages = {name: text for name, text in texts.items() if name == "README.md" or name.startswith("docs/")}
    shown = {
        (name, target)
        for name, text in pages.items()
        for target in re.findall(r"(?:^[ >$]*|`)make ([a-z-]+)\b", text, re.MULTILINE)
    }
    assert sorted(pair for pair in shown if pair[1] not in targets) == []
