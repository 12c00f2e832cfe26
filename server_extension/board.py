"""The notices that JupyterLab shows: the service's and this server's own, as one list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from maestro_core.usage import Notice

#: how long a notice stays whose moment has passed, should the service be away and not take it back
_AFTERWARDS = timedelta(minutes=2)


def _utcnow() -> datetime:
    return datetime.now(UTC)


class Board:
    """What the user is told now.

    Args:
        changed: called whenever what is shown has changed.
    """

    def __init__(self, changed: Callable[[], None], clock: Callable[[], datetime] = _utcnow) -> None:
        self._changed = changed
        self._clock = clock
        self._own: dict[str, Notice] = {}
        self._theirs: dict[str, Notice] = {}
        self._dismissed: dict[str, Notice] = {}
        self._last: tuple[Notice, ...] = ()

    def post(self, notice: Notice) -> None:
        """Show a notice of this server's own; one of the same id is replaced, and one that was dismissed comes back."""
        self._own[notice.id] = notice
        self._dismissed.pop(notice.id, None)
        self._tell()

    def withdraw(self, notice_id: str) -> None:
        """Take a notice of this server's own back."""
        self._own.pop(notice_id, None)
        self._tell()

    def take(self, notices: Iterable[Notice]) -> None:
        """Show exactly these of the service."""
        self._theirs = {notice.id: notice for notice in notices}
        self._tell()

    def dismiss(self, notice_id: str) -> None:
        """The user has read it: it stays away, in every window, until it says something else."""
        notice = self._theirs.get(notice_id) or self._own.get(notice_id)
        if notice is not None:
            self._dismissed[notice_id] = notice
            self._tell()

    def shown(self) -> tuple[Notice, ...]:
        """What is to be shown, the service's first."""
        now = self._clock()
        return tuple(
            notice
            for notice in (self._own | self._theirs).values()
            if self._dismissed.get(notice.id) != notice and not (notice.until and notice.until + _AFTERWARDS < now)
        )

    def _tell(self) -> None:
        kept = self._own | self._theirs
        self._dismissed = {name: notice for name, notice in self._dismissed.items() if name in kept}
        shown = self.shown()
        if shown != self._last:
            self._last = shown
            self._changed()
