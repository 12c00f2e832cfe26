"""Sees what people install and remove in this server, and makes it part of the workspace's environment.

Nothing of it runs in a kernel: once a second the time stamp of one folder is read (microseconds). When that has
changed and is still for a while, the installed packages are compared with those before, in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from packaging.requirements import Requirement

from ..launch import Launch
from .build import Outcome, build, uv_of
from .installed import Installed, look, normal, of_prefix, packages_folder, stamp, target_of
from .record import NotTold, Record
from .uv import Package, Uv, UvError

#: seconds between two looks; how long nothing may have changed before it counts
LOOK_SECONDS, STILL_SECONDS = 1.0, 2.0
#: how long at most it is waited for that
MOST_SECONDS = 60.0
#: seconds after which the service is told again, and for one report
AGAIN_SECONDS, REPORT_SECONDS = 15.0, 120.0
#: for what did not fit into the start
FINISH_SECONDS = 1800.0

#: posts a notice: its id, its level, its message
Tell = Callable[[str, str, str], None]


class Watch:
    """The environment of one server.

    Args:
        environ: the server's environment.
        tell: shows a notice; the same id replaces what is shown. Called from a thread.
    """

    def __init__(self, launch: Launch, environ: Mapping[str, str], tell: Tell, log: logging.Logger) -> None:
        self._launch, self._environ, self._record = launch, environ, Record.of(environ)
        self._tell, self._log = tell, log
        self._folder = packages_folder(launch.environment)
        self._outcome = Outcome()
        self._known: dict[str, Installed] = {}
        self._requirements: dict[str, str] = {}
        self._parent = 0
        self._seen = 0

    async def run(self) -> None:
        """As long as the server runs."""
        await asyncio.to_thread(self.begin)
        if self._outcome.unfinished:
            await asyncio.to_thread(self._finish)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if stamp(self._folder) != self._seen:
                await self._still()
                if not await asyncio.to_thread(self._compare_or_log):
                    await asyncio.sleep(AGAIN_SECONDS)

    def begin(self) -> None:
        """Start from what was built, and say what is missing of it."""
        self._outcome = Outcome.kept(self._launch.private)
        self._begin_from(self._outcome)
        for notice in notices_of(self._outcome, self._launch.workspace):
            self._tell(*notice)

    def _begin_from(self, outcome: Outcome) -> None:
        self._parent = outcome.version
        self._requirements = {_name(text): text for text in outcome.requirements}
        self._seen = stamp(self._folder)
        self._known = look(self._folder)

    def _finish(self) -> None:
        """What did not fit into the time of a start; blocks for minutes."""
        outcome = build(self._launch, self._environ, FINISH_SECONDS, sources=True)
        self._begin_from(outcome)
        ready = f"Version {outcome.version} of the environment of {self._launch.workspace} is installed now: restart "
        done = not (outcome.unfinished or outcome.problem or outcome.missing)
        notices = [("environment-build", "info", f"{ready}the kernels that are to use it.")]
        for notice in notices if done else notices_of(outcome, self._launch.workspace):
            self._tell(*notice)

    async def _still(self) -> None:
        """Wait until nothing comes or goes any more: one notice for one installation."""
        last, since = stamp(self._folder), time.monotonic()
        end = since + MOST_SECONDS
        while since + STILL_SECONDS > time.monotonic() < end:
            await asyncio.sleep(LOOK_SECONDS / 2)
            if (now := stamp(self._folder)) != last:
                last, since = now, time.monotonic()

    def _compare_or_log(self) -> bool:
        try:
            return self.compare()
        except Exception:  # a mistake of ours ends this look, not the watch
            self._log.exception("Maestro: what is installed could not be compared")
            self._seen = stamp(self._folder)
            return True

    def compare(self) -> bool:
        """See what is different, and tell the service; False where that has to be tried again."""
        seen, there = stamp(self._folder), look(self._folder)
        came = [it for name, it in there.items() if self._known.get(name) != it]
        went = sorted(self._known.keys() - there.keys())
        if came or went:
            try:
                self._report(came, went)
            except NotTold as error:
                if not error.refused:
                    self._log.info("Maestro: the environment is told later: %s", error)
                    return False
                self._tell("environment", "warning", not_joined(_shown(came) or ", ".join(went), str(error)))
        self._seen, self._known = seen, there
        return True

    def _report(self, came: list[Installed], went: list[str]) -> None:
        """Make the change a version.

        Raises:
            NotTold: it is none (yet).
        """
        if self._launch.viewer:
            if came:
                self._tell("environment", "info", own_alone(_shown(came), self._launch.workspace))
            return
        if self._record is None:
            return
        ours = [it for it in came if not it.elsewhere]
        packages, refused = self._locked(ours)
        joining = [it for it in ours if it.name not in refused]
        add = [it.name for it in joining if it.asked and not self._asked_for(it)]
        remove = [name for name in went if name in self._requirements]
        if joining or went:
            target = target_of(of_prefix())
            view = self._record.change(
                {
                    "parent": self._parent,
                    "add": add,
                    "remove": remove,
                    "reason": "installed in a server" if came else "removed in a server",
                    "built": {"target": target, "installed": packages, "removed": went},
                }
            )
            self._parent = view["version"]
            self._requirements = {_name(text): text for text in view["requirements"]}
            self._tell("environment", "info", joined(joining, went, self._launch.workspace, view["version"]))
        if foreign := [it for it in came if it.elsewhere]:
            self._tell("environment-elsewhere", "info", from_elsewhere(_shown(foreign), self._launch.workspace))
        if refused:
            name, why = next(iter(refused.items()))
            self._tell("environment-elsewhere", "warning", not_joined(name, why))

    def _asked_for(self, package: Installed) -> bool:
        """Whether what is asked for already covers it."""
        text = self._requirements.get(package.name)
        return text is not None and Requirement(text).specifier.contains(package.version, prereleases=True)

    def _locked(self, packages: list[Installed]) -> tuple[list[Package], dict[str, str]]:
        """The index's files for what is installed; and by name, why the index does not give one."""
        if not packages:
            return [], {}
        uv = uv_of(self._launch, self._environ, REPORT_SECONDS, sources=True)
        try:
            return uv.lock([_pin(it) for it in packages], alone=True), {}
        except UvError:
            return self._locked_alone(uv, packages)

    def _locked_alone(self, uv: Uv, packages: list[Installed]) -> tuple[list[Package], dict[str, str]]:
        found: list[Package] = []
        refused: dict[str, str] = {}
        for package in packages:
            try:
                found += uv.lock([_pin(package)], alone=True)
            except UvError as error:
                refused[package.name] = str(error)
        return found, refused


def notices_of(outcome: Outcome, workspace: str) -> Iterable[tuple[str, str, str]]:
    """What the user is told about the environment that was built: id, level, message."""
    version = f"version {outcome.version} of the environment of {workspace}"
    if outcome.problem:
        again = f"{version} was not installed, start the server again to have it"
        yield "environment-build", "warning", f"{outcome.problem.rstrip('.')}: {again}."
    elif outcome.unfinished:
        why = "takes long, or builds something from source, and goes on beside the server"
        yield "environment-build", "info", f"The installation of {version} {why}."
    elif outcome.missing:
        listed = "; ".join(f"{name} ({why})" for name, why in outcome.missing.items())
        yield "environment-build", "warning", f"This server lacks packages of {version}: {listed}."[:1900]
    if outcome.moved:
        image = "for the packages of this image"
        shown, before = _show(outcome.target), _show(outcome.locked_for or "")
        anew = f"for {shown} (they were for {before})" if shown != before else image
        listed = ", ".join(outcome.moved)
        yield "environment-moved", "info", f"The packages of {workspace} were resolved anew {anew}: {listed}."[:1900]
    own = outcome.target.partition("/")[0]
    if outcome.python_version and own and not f"{own}.".startswith(f"{_minor(outcome.python_version)}."):
        yield (
            "environment-python",
            "warning",
            f"{workspace} asks for Python {outcome.python_version}, and this server has {own}; take an image with it.",
        )


def joined(came: list[Installed], went: list[str], workspace: str, version: int) -> str:
    """The quiet line."""
    asked = [it for it in came if it.asked] or came
    others = len(came) - len(asked)
    needed = f" and {others} package{'s' if others > 1 else ''} that {'they need' if len(asked) > 1 else 'it needs'}"
    parts = []
    if came:
        parts.append(f"{_shown(asked)}{needed if others else ''} {_is(asked, others)} now part of {workspace}")
    if went:
        parts.append(f"{', '.join(went)} {'are' if len(went) > 1 else 'is'} no longer part of {workspace}")
    return f"{'; '.join(parts)}: version {version} of its environment."


def own_alone(shown: str, workspace: str) -> str:
    """A viewer's packages."""
    return f"{shown}: installed for you alone, until this server ends; editors add packages to {workspace}."


def from_elsewhere(shown: str, workspace: str) -> str:
    """What did not come from the index."""
    return (
        f"{shown}: not from the package index, so it is here until this server ends and does not become part of "
        f"{workspace}."
    )


def not_joined(shown: str, why: str) -> str:
    """What is installed, and cannot be everybody's."""
    return f"{shown} is here until this server ends, but not part of the workspace: {why.rstrip('.')}."


def _is(asked: list[Installed], others: int) -> str:
    return "are" if len(asked) + others > 1 else "is"


def _shown(packages: list[Installed]) -> str:
    listed = [f"{it.name} {it.version}" for it in sorted(packages, key=lambda it: it.name)]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def _show(target: str) -> str:
    python, _, rest = target.partition("/")
    return f"Python {python} on {rest.partition('/')[0]}" if rest else "another Python"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _pin(package: Installed) -> str:
    return f"{package.name}=={package.version}"


def _name(requirement: str) -> str:
    return normal(Requirement(requirement).name)
