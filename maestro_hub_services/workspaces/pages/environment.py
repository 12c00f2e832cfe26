"""What the workspace's page shows of its environment: plain values made from the API's model."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from maestro_core.environments import EnvironmentView, by_name

from .views import Moment, moment


@dataclass(frozen=True)
class PackageRow:
    """One package: its version, and how it was asked for (empty: something else needs it)."""

    name: str
    version: str
    asked: str


@dataclass(frozen=True)
class Packages:
    """The current version of an environment.

    Attributes:
        version: 0: nothing was installed yet.
        settled: whether it is known which versions that means.
    """

    version: int
    author: str
    at: Moment | None
    reason: str
    settled: bool
    rows: tuple[PackageRow, ...]


def packages(view: EnvironmentView, now: datetime | None = None) -> Packages:
    """The environment as the page lists it: what was asked for, and what comes with it."""
    asked, known = by_name(view.requirements), {it.name: it.version for it in view.packages}
    names = sorted(asked.keys() | known.keys())
    return Packages(
        version=view.version,
        author=view.author,
        at=moment(view.at, now) if view.at else None,
        reason=view.reason,
        settled=view.settled,
        rows=tuple(PackageRow(name, known.get(name, ""), asked.get(name, "")) for name in names),
    )
