"""The directory of an installation: closed to everybody else, unless it is somebody's already."""

from __future__ import annotations

from pathlib import Path

import pytest

from maestro_hub_services.keys import OF_A_STATE, ensure_key, make_private_directory, make_state_directory
from maestro_hub_services.settings import SettingsError


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_state_is_made_and_closed_and_one_that_is_empty_or_ours_is_taken(tmp_path: Path) -> None:
    assert mode(make_state_directory(tmp_path / "a/b/state")) == 0o700
    for name, content in (("empty", []), ("ours", sorted(OF_A_STATE))):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
        for entry in content:
            (tmp_path / name / entry).mkdir()
        assert mode(make_state_directory(tmp_path / name)) == 0o700


def test_a_directory_with_other_things_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    (tmp_path / "log").mkdir()
    tmp_path.chmod(0o755)
    with pytest.raises(SettingsError) as caught:
        make_state_directory(tmp_path)
    assert "'thesis.tex'" in str(caught.value) and "name a directory of its own in MAESTRO_STATE" in str(caught.value)
    assert mode(tmp_path) == 0o755
    tmp_path.chmod(0o700)  # closed already: nothing is taken from anybody
    assert make_state_directory(tmp_path) == tmp_path


def test_everything_that_is_made_in_a_state_counts_as_ours(tmp_path: Path) -> None:
    state = make_state_directory(tmp_path / "state")
    ensure_key(state, "cookie_secret")
    make_private_directory(state / "run")
    assert {entry.name for entry in state.iterdir()} <= OF_A_STATE
