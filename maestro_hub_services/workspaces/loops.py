"""What the service does by itself, again and again: a table of loops, each a function and its pause."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from maestro_core.errors import MaestroError

from .authority import Authority
from .domain import (
    departures,
    invitations,
    job_queue,
    job_watch,
    jobs,
    lifecycle,
    missing_groups,
    scaling,
    sweep_turns,
    sweeps,
    usage,
)

log = logging.getLogger("maestro.loops")


@dataclass(frozen=True)
class Loop:
    """One thing to do.

    Attributes:
        what: after "... failed" in the log.
        seconds: the pause between two times.
        do: safe to repeat; what it raises is logged, and it is done again.
    """

    what: str
    seconds: float
    do: Callable[[Authority], Awaitable[None]]


async def hold_network(authority: Authority) -> None:
    """The network as ``maestro.yaml`` wants it now."""
    await authority.network.hold(authority.policy.current.egress)


#: a change of groups at the Hub counts for what runs within 60 s: found within 20 s, and noted at once
LOOPS: tuple[Loop, ...] = (
    Loop("ending servers whose user's role is gone", 1, departures.Ender().end_due),
    Loop("looking at the roles behind running servers", 20, departures.review_everything),
    Loop("comparing groups with the Hub's", 20, missing_groups.forget_missing),
    Loop("writing figures of usage", 10, usage.flush),
    Loop("thinning figures of usage", 300, usage.tidy),
    Loop("settling resizes that were cut off", 10, scaling.settle_cut_off),
    Loop("working off the queue of jobs", 0.5, job_queue.work_off),
    Loop("looking after jobs", 2, job_watch.watch),
    Loop("forgetting old jobs", 300, jobs.forget_old),
    Loop("closing the network of notebook servers", 2, hold_network),
    Loop("going on with sweeps", 1, sweep_turns.turn),
    Loop("forgetting old sweeps", 300, sweeps.forget_old),
    Loop("going on with purges", 10, lifecycle.go_on),
    Loop("removing invitations that ran out", 300, invitations.forget_run_out),
)


async def run_for_ever(authority: Authority, loop: Loop) -> None:
    """One loop, until it is cancelled. A Hub that is away is said once, not at every turn."""
    away = False
    while True:
        try:
            await loop.do(authority)
            away = False
        except MaestroError as error:
            if not away:
                log.warning("Not done this time: %s: %s", loop.what, error.message)
            away = True
        except Exception:
            log.exception("%s failed; trying again", loop.what.capitalize())
        await asyncio.sleep(loop.seconds)
