"""uv, as this server calls it: resolving through the launch's index, and installing with hashes required."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maestro_core.client_words import reason_in

#: a package of a lock: name, version, hashes (``maestro_core.environments.LockedPackage`` as JSON)
Package = dict[str, Any]
_NO_WHEELS = "building from source is disabled"


class UvError(Exception):
    """uv did not do it; the message says why, in one line for the user."""


class OutOfTime(UvError):
    """The time was over; what was downloaded so far is kept for the next attempt."""


class NeedsSource(UvError):
    """There is no wheel, and what its build would run is not run here."""


class Uv:
    """uv for one environment.

    Args:
        program: uv's own file. python: of the environment. cache: a folder beside it, so that files are linked into
            the environment and not copied.
        environ: the server's, with the addresses of index and password (``maestro_core.clients``).
        seconds: for all calls together.
        sources: whether a package may be built from source, which runs its code.
    """

    def __init__(
        self,
        program: Path,
        python: Path,
        cache: Path,
        environ: Mapping[str, str],
        seconds: float = 600.0,
        *,
        sources: bool = False,
    ) -> None:
        self._program, self._python, self._sources = program, python, sources
        self._environ = {
            **environ,
            "UV_CACHE_DIR": str(cache),
            "UV_LINK_MODE": "hardlink",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_HTTP_RETRIES": "1",
            "NO_COLOR": "1",
        }
        self._end = time.monotonic() + seconds

    def lock(
        self,
        requirements: Sequence[str],
        prefer: Mapping[str, str] | None = None,
        leave_out: Iterable[str] = (),
        *,
        alone: bool = False,
    ) -> list[Package]:
        """Resolve requirements for the environment's Python.

        Args:
            prefer: versions by name that are taken where they fit.
            leave_out: names that are not looked for even where something needs them.
            alone: the packages themselves, without what they need.

        Raises:
            UvError: there is no solution, the policy refuses one, or the index does not answer.
        """
        import tomllib

        with tempfile.TemporaryDirectory(prefix="maestro-") as folder:
            asked, excluded, result = (Path(folder) / name for name in ("in.txt", "out.txt", "pylock.toml"))
            asked.write_text("\n".join([*requirements, ""]))
            excluded.write_text("\n".join([*leave_out, ""]))
            if prefer:
                result.write_text(_preferences(prefer))
            options = ["--no-deps"] if alone else []
            self._run(
                "compile", asked, "--excludes", excluded, "--format", "pylock.toml", "--output-file", result, *options
            )
            return _read(tomllib.loads(result.read_text()))

    def install(self, packages: Sequence[Package]) -> None:
        """Install these files and nothing that they need besides; their hashes are required.

        Raises:
            UvError: one of them is not to be had; then nothing was installed.
        """
        with tempfile.TemporaryDirectory(prefix="maestro-") as folder:
            lock = Path(folder) / "lock.txt"
            lines = [
                f"{it['name']}=={it['version']} {' '.join(f'--hash={text}' for text in it['hashes'])}"
                for it in packages
            ]
            lock.write_text("\n".join([*lines, ""]))
            self._run("install", "--no-deps", "--require-hashes", "-r", lock)

    def _run(self, command: str, *arguments: str | Path) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise OutOfTime("the time for it was over")
        line = [str(self._program), "pip", command, *map(str, arguments), "--python", str(self._python), "--quiet"]
        line += [] if self._sources else ["--no-build"]
        try:
            done = subprocess.run(
                line,
                env=self._environ,
                cwd=os.sep,  # uv looks for projects around it
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=left,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise OutOfTime("the time for it was over") from None
        except OSError as error:
            raise UvError(f"uv cannot be started ({error.strerror})") from None
        if done.returncode and _NO_WHEELS in done.stderr:
            raise NeedsSource("there is no wheel of it")
        if done.returncode:
            raise UvError(reason_in(done.stderr))


def _preferences(prefer: Mapping[str, str]) -> str:
    lines = ['lock-version = "1.0"', 'created-by = "maestro"']
    for name, version in sorted(prefer.items()):
        lines += ["[[packages]]", f"name = {json.dumps(name)}", f"version = {json.dumps(version)}"]
    return "\n".join([*lines, ""])


def _read(lock: dict[str, Any]) -> list[Package]:
    """The packages of a pylock.toml (PEP 751): the hashes of their wheels, or of the source where there is no wheel."""
    found = []
    for package in lock.get("packages", ()):
        files = package.get("wheels") or [package.get("sdist") or {}]
        hashes = sorted({f"sha256:{it['hashes']['sha256']}" for it in files if it.get("hashes", {}).get("sha256")})
        if not hashes or "version" not in package:
            raise UvError(f"the index names no hash of {package.get('name')}")
        found.append({"name": package["name"], "version": package["version"], "hashes": hashes[:20]})
    return sorted(found, key=lambda it: str(it["name"]))
