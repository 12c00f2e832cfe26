"""What the policy refused, kept for the launch that asked, so that its notebook can explain it after the cell."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from maestro_core.packages import PYPI, CompiledPolicy, Verdict

_LAUNCHES = 5000
_PER_LAUNCH = 200
#: refusals of the same package among the last ones are counted, not listed again (clients ask several times)
_LOOK_BACK = 20


@dataclass(frozen=True)
class Denial:
    """One refused download.

    Attributes:
        id: grows, over restarts of the index too; ask for what came after the last one you have seen.
        time: UTC, ISO 8601, of the last time.
        message: the sentence that the client got.
        action: ``block`` or ``ask``; ``missing``: it is no refusal, there is no such package.
        revision: of the policy that refused.
        count: how often in a row.
    """

    id: int
    time: str
    package: str
    version: str | None
    file: str
    channel: str
    action: str
    message: str
    rule: str
    level: str
    revision: str
    count: int = 1


class Denials:
    """The latest denials of each launch, in memory: the latest launches, and the latest denials of each."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._last = int(now().timestamp() * 1000)  # an earlier process stayed below it
        self._by_launch: OrderedDict[str, deque[Denial]] = OrderedDict()

    def record(
        self,
        launch: str,
        policy: CompiledPolicy,
        package: str,
        version: str | None,
        file: str,
        verdict: Verdict,
        channel: str = PYPI,
    ) -> Denial:
        """Remember a refusal of one file."""
        told = {"action": verdict.action.value, "message": verdict.reason, "rule": verdict.rule, "level": verdict.level}
        return self._keep(launch, package=package, version=version, file=file, channel=channel,
                          revision=policy.revision, **told)  # fmt: skip

    def miss(self, launch: str, policy: CompiledPolicy, package: str, message: str) -> Denial:
        """Remember that a name was asked for that there is not: it is told beside the refusals."""
        return self._keep(
            launch, package=package, version=None, file="", channel=PYPI, revision=policy.revision,
            action="missing", message=message, rule="", level="global",
        )  # fmt: skip

    def _keep(self, launch: str, **told: Any) -> Denial:
        kept = self._by_launch.setdefault(launch, deque(maxlen=_PER_LAUNCH))
        self._by_launch.move_to_end(launch)
        if len(self._by_launch) > _LAUNCHES:
            self._by_launch.popitem(last=False)
        self._last += 1
        denial = Denial(id=self._last, time=self._now().isoformat(timespec="milliseconds"), **told)
        for old in list(kept)[-_LOOK_BACK:]:
            if (old.package, old.message) == (denial.package, denial.message):
                kept.remove(old)
                denial = replace(denial, count=old.count + 1)
                break
        kept.append(denial)
        return denial

    def since(self, launch: str, last_seen: int = 0) -> list[dict[str, Any]]:
        """The denials of a launch after the one with that id, oldest first."""
        return [asdict(denial) for denial in self._by_launch.get(launch, ()) if denial.id > last_seen]
