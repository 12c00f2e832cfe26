"""Set-up: what it hands from pip to uv, what it builds from, and when it does a step again."""

from __future__ import annotations

import sys
from pathlib import Path

import image
import indexes
import pytest
import sources
import steps

# --- pip's settings


def pip_that_says(folder: Path, listing: str) -> list[str]:
    """A command that prints a listing, as `pip config list` would."""
    script = folder / "pip.py"
    script.write_text(f"print({listing!r})")
    return [sys.executable, str(script)]


def test_the_environment_wins_over_the_users_file_and_that_over_the_machines(tmp_path: Path) -> None:
    listing = "\n".join(
        [
            "user.cert='/home/u/ca.pem'",
            ":env:.index-url='https://env.example/simple'",
            "global.cert='/etc/ca.pem'",
            "global.index-url='https://global.example/simple'",
            "install.no-index='true'",
            "freeze.timeout='5'",
        ]
    )
    assert indexes.pip_settings(pip_that_says(tmp_path, listing)) == {
        "cert": "/home/u/ca.pem",
        "index-url": "https://env.example/simple",
        "no-index": "true",
    }


def test_without_pip_there_are_no_settings() -> None:
    assert indexes.pip_settings([sys.executable, "-c", "raise SystemExit(1)"]) == {}


def test_uv_looks_where_pip_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = {
        "index-url": "https://user:secret@index.example/simple",
        "extra-index-url": "https://a.example/simple\nhttps://b.example/simple",
        "find-links": f"{tmp_path} {tmp_path}/not-there https://links.example/",
        "trusted-host": "a.example b.example",
        "cert": "/etc/ca.pem",
        "no-index": "true",
    }
    env = indexes.uv_environment(settings, {})
    assert env["UV_DEFAULT_INDEX"] == "https://user:secret@index.example/simple"
    assert env["UV_INDEX"] == "https://a.example/simple https://b.example/simple"
    assert env["UV_INDEX_STRATEGY"] == "unsafe-best-match"  # as pip; hashes say which file it must be
    assert env["UV_FIND_LINKS"] == f"{tmp_path},https://links.example/"  # uv refuses a folder that is not there
    assert env["UV_INSECURE_HOST"] == "a.example b.example"
    assert env["SSL_CERT_FILE"] == env["NODE_EXTRA_CA_CERTS"] == "/etc/ca.pem"
    assert indexes.uv_flags(settings) == ["--no-index"]
    assert "UV_INDEX" not in indexes.public(env) and "UV_FIND_LINKS" not in indexes.public(env)


@pytest.mark.parametrize("variable", indexes.UV_CONFIGURED)
def test_whoever_has_configured_uv_is_left_alone(variable: str) -> None:
    env = indexes.uv_environment({"index-url": "https://pip.example/simple"}, {variable: "https://uv.example"})
    assert env[variable] == "https://uv.example"
    assert not [name for name in env if name.startswith("UV_") and "pip.example" in env[name]]


def test_a_build_gets_addresses_and_no_folders_of_this_machine() -> None:
    conf = image._pip_conf(
        {
            "index-url": "https://index.example/simple",
            "extra-index-url": "file:///opt/simple https://a.example/simple",
            "find-links": "/opt/wheels",
            "cert": "/etc/ssl/certs/ca.crt",
        }
    )
    assert conf.splitlines() == [
        "[global]",
        "index-url = https://index.example/simple",
        "extra-index-url = https://a.example/simple",
        "cert = /etc/ssl/certs/ca.crt",
    ]


# --- what the project is built from


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project like ours, with what must not get in lying about."""
    root = tmp_path / "checkout"
    files = {
        "setup.cfg": "[options.packages.find]\ninclude =\n    core*\n[options.data_files]\nshare =\n    data/*.txt\n",
        "core/__init__.py": "",
        "core/part/table.json": "{}",
        "core/__pycache__/old.py": "",
        "core/old.pyc": "",
        "data/one.txt": "1",
        "data/two.bin": "2",
        "tests/test_core.py": "",
        "build/lib/core/gone.py": "",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_sources_are_what_setup_cfg_names(checkout: Path) -> None:
    found = [str(path) for path in sources.sources(checkout)]
    assert found == ["core/__init__.py", "core/part/table.json", "data/one.txt", "setup.cfg"]


def test_a_change_of_content_or_name_is_a_new_digest(checkout: Path) -> None:
    seen = {steps.digest(*sources.sources(checkout), root=checkout)}
    (checkout / "data/one.txt").write_text("changed")
    seen.add(steps.digest(*sources.sources(checkout), root=checkout))
    (checkout / "data/one.txt").rename(checkout / "data/three.txt")
    seen.add(steps.digest(*sources.sources(checkout), root=checkout))
    (checkout / "tests/test_core.py").write_text("not part of it")
    seen.add(steps.digest(*sources.sources(checkout), root=checkout))
    seen.add(steps.digest(*sources.sources(checkout), root=checkout, salt="another Python"))
    assert len(seen) == 4


# --- steps


def test_a_step_says_what_it_does_and_how_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with steps.step("The Hub", tmp_path / "log/hub.log") as log:
        log.run([sys.executable, "-c", "print('much talk')"], cwd=tmp_path)
    shown = capsys.readouterr().out
    assert shown.startswith("  The Hub....") and shown.rstrip().endswith(" s")
    assert "much talk" not in shown
    assert "much talk" in (tmp_path / "log/hub.log").read_text()
    assert (tmp_path / "log/hub.log").stat().st_mode & 0o077 == 0


def test_a_failed_step_is_one_sentence_and_the_end_of_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(steps.SetupError) as failed, steps.step("The Hub", tmp_path / "hub.log") as log:
        log.run([sys.executable, "-c", "print('no space'); raise SystemExit(3)"], cwd=tmp_path)
    assert 'Set-up stopped at "The Hub"' in str(failed.value)
    assert "code 3" in str(failed.value) and str(tmp_path / "hub.log") in str(failed.value)
    shown = capsys.readouterr()
    assert shown.out.rstrip().endswith("failed") and "no space" in shown.err


def test_a_program_that_is_missing_is_one_sentence_too(tmp_path: Path) -> None:
    with pytest.raises(steps.SetupError, match="could not be started"):
        steps.Log(tmp_path / "log").run([tmp_path / "no-such-program"], cwd=tmp_path)


@pytest.mark.parametrize("broken", ["", "{", "[]"])
def test_a_broken_stamp_counts_as_none(tmp_path: Path, broken: str) -> None:
    steps.write_stamp(tmp_path, {"lock": "abc"})
    assert steps.read_stamp(tmp_path) == {"lock": "abc"}
    (tmp_path / steps.STAMP).write_text(broken)
    assert steps.read_stamp(tmp_path) == {}
    assert steps.read_stamp(tmp_path / "nowhere") == {}
