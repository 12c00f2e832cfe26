"""Sends what processes left that have ended, and ends the runs that they cannot end any more.

The notebook server does it for kernels and programs that died, its next start for a server that died, and whoever runs
a notebook without a server calls :func:`send_leftovers` when that is done.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ..address import TRACKING
from .journal import Journal, open_runs
from .sender import Away, Sender

KERNEL_GONE = "the kernel ended without ending its run (killed, restarted or out of memory)"
PROGRAM_GONE = "the program ended without ending its run (killed or out of memory)"
SERVER_GONE = "the server ended before the run did"


def sender_of_launch() -> Sender | None:
    """To the launch's own MLflow; None where it has none."""
    return Sender(TRACKING) if TRACKING is not None else None


def send_leftovers(sender: Sender, place: Path, launch: str, log: logging.Logger) -> bool:
    """Look once. Blocking: call it in a thread.

    Args:
        sender: to MLflow. place: the folder of journals. launch: this one.

    Returns:
        whether nothing is left.
    """
    done = True
    for found in sorted(place.iterdir()) if place.is_dir() else ():
        if found.is_symlink() or not found.is_dir() or found.name.startswith("."):
            continue
        try:
            journal = Journal.adopt(found)
        except OSError as error:
            log.info("Maestro: what waits for MLflow in %s cannot be read: %s", found.name, error.strerror)
            continue
        if journal is not None:
            done = _settle(sender, journal, launch, log) and done
    return done


def _settle(sender: Sender, journal: Journal, launch: str, log: logging.Logger) -> bool:
    sent = False
    try:
        waited = journal.waiting
        sender.send(journal, corrects=True)
        _end_runs(sender, journal, launch)
        sent = True
        if waited:
            log.info("Maestro: MLflow has what an ended process left.")
    except (Away, OSError) as error:
        log.debug("Maestro: what an ended process left waits for MLflow: %s", error)
    lost, sender.dropped[:] = list(sender.dropped), []
    for sentence in lost[:5]:
        log.warning("Maestro: %s", sentence)
    if sent:
        journal.remove()
    journal.close()
    return sent


def _end_runs(sender: Sender, journal: Journal, launch: str) -> None:
    """End what the process began, unless another one goes on with it.

    Raises:
        Away: MLflow does not answer.
    """
    owner = journal.owner
    reason = KERNEL_GONE if owner.get("kernel") else PROGRAM_GONE
    if owner.get("launch") != launch:
        reason = SERVER_GONE
    mine = journal.open_runs()
    if not mine:
        return
    others = {run for place in journal.place.parent.iterdir() if place != journal.place for run in open_runs(place)}
    for run_id in mine:
        if run_id not in others:
            sender.end_run(run_id, str(owner.get("workspace") or ""), reason)
