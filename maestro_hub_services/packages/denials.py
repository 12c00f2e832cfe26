"""What the policy refused, kept for the launch that asked, so that its notebook can explain it after the cell."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from maestro_core.denials import MAX_REPORTED, DeniedDownload
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


#: what waits to be told the service
_UNTOLD = 2000


class Denials:
    """The latest denials of each launch, in memory: the latest launches, and the latest denials of each.

    Each is told the workspaces service too (:mod:`.telling`), where it is kept as an event.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._last = int(now().timestamp() * 1000)  # an earlier process stayed below it
        self._by_launch: OrderedDict[str, deque[Denial]] = OrderedDict()
        self._untold: OrderedDict[tuple[str, ...], DeniedDownload] = OrderedDict()

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
        self._to_be_told(
            DeniedDownload(
                launch_id=launch, package=package[:200], version=version[:200] if version else None,
                channel=channel, action=verdict.action,
                rule=verdict.rule[:300], message=verdict.reason[:2000],
            )
        )  # fmt: skip
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

    def untold(self) -> list[DeniedDownload]:
        """What the service has not heard of yet, some of it; whoever takes it tells it, or brings it back."""
        keys = list(self._untold)[:MAX_REPORTED]
        return [self._untold.pop(key) for key in keys]

    def tell_again(self, denials: Iterable[DeniedDownload]) -> None:
        """It could not be told."""
        for denial in denials:
            self._to_be_told(denial)

    def _to_be_told(self, denial: DeniedDownload) -> None:
        key = (denial.launch_id, denial.package, denial.channel, denial.action.value, denial.rule)
        before = self._untold.get(key)
        if before is None and len(self._untold) >= _UNTOLD:
            return
        count = min(denial.count + (before.count if before else 0), 1_000_000)
        self._untold[key] = denial.model_copy(update={"count": count})

    def since(self, launch: str, last_seen: int = 0) -> list[dict[str, Any]]:
        """The denials of a launch after the one with that id, oldest first."""
        return [asdict(denial) for denial in self._by_launch.get(launch, ()) if denial.id > last_seen]
