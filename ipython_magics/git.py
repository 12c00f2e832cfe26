"""The git commit that a notebook's folder is at: MLflow's own guess looks at the kernel's program."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

#: seconds for which an answer is not asked for again; seconds to wait for git
FRESH, PATIENCE = 5.0, 2.0
_known: dict[Path, tuple[float, str | None]] = {}


def commit_of(folder: Path) -> str | None:
    """The commit that is checked out where a folder lies; None where there is no repository, or no git."""
    until, commit = _known.get(folder, (0.0, None))
    if time.monotonic() >= until:
        commit = _ask(folder)
        _known.clear()
        _known[folder] = (time.monotonic() + FRESH, commit)
    return commit


def _ask(folder: Path) -> str | None:
    program = shutil.which("git")
    if program is None or not _in_repository(folder):
        return None
    # nothing of the repository's own configuration runs for this question
    quiet = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    try:
        done = subprocess.run(
            [program, "-C", str(folder), *quiet, "rev-parse", "--verify", "--quiet", "HEAD"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    commit = done.stdout.strip()
    return commit if done.returncode == 0 and len(commit) in (40, 64) else None


def _in_repository(folder: Path) -> bool:
    """A program is started where it could say something only."""
    return any((one / ".git").exists() for one in (folder, *folder.parents))
