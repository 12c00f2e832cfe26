"""``maestro.yaml`` as it is in force: read again when it changes; a bad file leaves the last good one.

The last good text is kept in the state, so that a mistake does not close a Hub that is started again. Without any good
file nothing is launched, and everyone is told which line is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from maestro_core.errors import MaestroError
from maestro_core.packages import overridden
from maestro_core.policy import MAX_POLICY_BYTES, Policy, parse_policy
from maestro_hub_services.store import Store

#: seconds between two looks at the file
INTERVAL = 2.0
ACTOR = "policy"
log = logging.getLogger("maestro.policy")


class PolicyFile:
    """The policy of one file.

    Args:
        path: ``maestro.yaml``.
        kept: where the last good text is kept.
        environment: variables that stand for lists of packages (:data:`maestro_core.packages.OVERRIDES`).
    """

    def __init__(self, path: Path, kept: Path, environment: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._kept = kept
        self._environment = environment or {}
        self._seen: tuple[int, int, int] | None = None
        self._policy: Policy | None = None
        self.problem: MaestroError | None = None

    @property
    def current(self) -> Policy:
        """The policy in force.

        Raises:
            MaestroError: ``invalid_policy`` when there never was a good one.
        """
        if self._policy is None:
            raise self.problem or MaestroError("invalid_policy", f"{self._path.name} was not read yet; try again.")
        return self._policy

    async def reload(self, store: Store) -> bool:
        """Read the file if it changed; note in the events what came of it. True if it was read."""
        before, problem = self._policy, self.problem
        if not await asyncio.to_thread(self._read):
            return False
        if self.problem is not None:
            if problem is None or problem.message != self.problem.message:
                log.error("%s", self.problem.message)
                async with store.write() as unit:
                    await unit.events.append("policy_refused", ACTOR, message=self.problem.message)
        elif self._policy is not None and (before is None or before.revision != self._policy.revision):
            log.info("%s is in force, revision %s", self._path.name, self._policy.revision)
            async with store.write() as unit:
                await unit.events.append("policy_loaded", ACTOR, revision=self._policy.revision)
        return True

    async def watch(self, store: Store) -> None:
        """Look again every 2 s, for ever."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.reload(store)
            except Exception:
                log.exception("Looking at %s failed; looking again", self._path)

    def _read(self) -> bool:
        """Blocking, in a thread. True if there was something new."""
        try:
            found = os.stat(self._path)
        except OSError as error:
            return self._refuse(None, f"{self._path.name} cannot be read ({error.strerror}); put the file back.")
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen == self._seen:
            return False
        try:
            text = self._text(self._path)
            self._policy = self._parse(text, self._path)
        except OSError as error:
            return self._refuse(None, f"{self._path.name} cannot be read ({error.strerror}); let the service read it.")
        except UnicodeDecodeError:
            return self._refuse(
                seen, f"{self._path.name} is not UTF-8 text; mend the file, it is read again by itself."
            )
        except MaestroError as error:
            return self._refuse(seen, error.message)
        self._seen, self.problem = seen, None
        self._keep(text)
        return True

    def _parse(self, text: str, path: Path) -> Policy:
        policy = parse_policy(text, path.name)
        return policy.model_copy(update={"packages": overridden(policy.packages, self._environment)})

    def _text(self, path: Path) -> str:
        with path.open("rb") as file:
            return file.read(MAX_POLICY_BYTES + 1).decode("utf-8")

    def _refuse(self, seen: tuple[int, int, int] | None, message: str) -> bool:
        self._seen = seen
        self.problem = MaestroError("invalid_policy", message)
        if self._policy is None:
            # there may be none, or one of another version: then nothing is in force
            with contextlib.suppress(OSError, UnicodeDecodeError, MaestroError):
                self._policy = self._parse(self._text(self._kept), self._kept)
        return True

    def _keep(self, text: str) -> None:
        draft = self._kept.with_suffix(".new")
        try:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            draft.replace(self._kept)
        except OSError as error:
            log.warning("The last good policy could not be kept: %s", error)
