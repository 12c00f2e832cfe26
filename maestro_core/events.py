"""Every kind of event: what happened, and which fields it carries. Docs and tests are made from this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EventKind:
    """A row of :data:`EVENTS`: one line of meaning and the names of its fields."""

    meaning: str
    fields: tuple[str, ...]


EVENTS: dict[str, EventKind] = {
    "workspace_created": EventKind("Somebody created a workspace.", ("name",)),
    "workspace_changed": EventKind("A workspace's description or settings changed.", ("fields",)),
    "workspace_archived": EventKind("A workspace was archived: it takes no launches.", ("name",)),
    "workspace_restored": EventKind("An archived workspace takes launches again.", ("name",)),
    "workspace_purge_begun": EventKind("An archived workspace's data is being removed.", ("name",)),
    "workspace_purged": EventKind(
        "Nothing of a workspace is left but this; its name is free again.", ("name", "removed", "kept")
    ),
    "member_added": EventKind("A user or group became a member.", ("member_kind", "member", "role")),
    "member_changed": EventKind("A member's role changed.", ("member_kind", "member", "role", "was")),
    "member_removed": EventKind("A member was removed.", ("member_kind", "member", "was")),
    "ownership_passed": EventKind("An owner handed a workspace over.", ("member_kind", "member", "was")),
    "member_invited": EventKind("Somebody was invited whom the Hub does not know yet.", ("role", "until")),
    "invitation_accepted": EventKind("An invitation became a membership.", ("role",)),
    "invitation_ended": EventKind("An invitation was withdrawn, declined or ran out.", ("reason",)),
    "environment_changed": EventKind(
        "A workspace's environment has a new version; `moved` says which packages it asks for otherwise than before, "
        "`kind_of` whether they are Python's or conda's. Repeats are counted, as those of `launch_refused`.",
        ("kind_of", "number", "parent", "reason", "moved"),
    ),
    "launch_reserved": EventKind("A launch was admitted and reserved.", ("server_name", "profile", "resources")),
    "launch_refused": EventKind(
        "A launch was refused; `limit` is the one that it would have passed. The same one of the same person within an "
        "hour is counted on it (`count`, `last_at`), and so is everything beyond 20 different ones.",
        ("server_name", "code", "message", "limit", "ask"),
    ),
    "launch_running": EventKind("A server came up, or a job's worker began.", ("server_name",)),
    "launch_scaled": EventKind("A running server was resized.", ("server_name", "resources", "was")),
    "launch_ending": EventKind("A server will be stopped, and its user is told.", ("server_name", "reason", "at")),
    "launch_spared": EventKind("A server that was to be stopped goes on.", ("server_name", "reason")),
    "launch_ended": EventKind("A launch ended.", ("server_name", "reason")),
    "job_queued": EventKind(
        "Somebody queued a job; one with a `schedule` waits for its time.", ("job_id", "name", "path", "schedule")
    ),
    "job_retried": EventKind("An attempt of a job failed, and another one follows.", ("job_id", "attempt", "reason")),
    "job_cancelled": EventKind("Somebody wants a job to end.", ("job_id", "name")),
    "job_ended": EventKind(
        "A job is over: succeeded, failed or cancelled.", ("job_id", "name", "status", "attempts", "reason")
    ),
    "sweep_started": EventKind("Somebody started a sweep.", ("sweep_id", "name", "path", "trials")),
    "sweep_cancelled": EventKind("Somebody wants a sweep to end.", ("sweep_id", "name")),
    "sweep_ended": EventKind(
        "A sweep is over: succeeded, failed or cancelled.", ("sweep_id", "name", "status", "reason")
    ),
    "quota_set": EventKind(
        "An admin set a quota at runtime; `was` is what was set at runtime before.",
        ("level", "name", "limit", "value", "was"),
    ),
    "quota_removed": EventKind(
        "An admin took back a quota of runtime: `maestro.yaml` counts again.", ("level", "name", "limit", "was")
    ),
    "package_requested": EventKind(
        "Somebody asked for a package that the policy holds back. Repeats are counted, as those of `launch_refused`.",
        ("request_id", "package", "reason"),
    ),
    "package_refused": EventKind(
        "Somebody asked for a package that the policy blocks. Repeats are counted, as those of `launch_refused`.",
        ("package", "rule"),
    ),
    "package_request_withdrawn": EventKind(
        "Somebody asks for a package no longer. Repeats are counted, as those of `launch_refused`.",
        ("request_id", "package"),
    ),
    "package_approved": EventKind(
        "A request was approved; `rules` are what installs from now on.",
        ("request_id", "package", "rules", "everywhere", "until", "reason"),
    ),
    "package_denied": EventKind("A request was denied.", ("request_id", "package", "reason")),
    "package_forced": EventKind(
        "An admin let one file in for a few minutes, whatever the rules say.",
        ("package", "version", "sha256", "until", "reason"),
    ),
    "download_denied": EventKind(
        "The package index refused a package to a server. Repeats are counted, as those of `launch_refused`.",
        ("package", "version", "action", "rule", "message"),
    ),
    "package_cache_cleared": EventKind("Somebody had the index ask upstream anew for what there is.", ()),
    "policy_loaded": EventKind("maestro.yaml was read and is in force.", ("revision",)),
    "advisories_imported": EventKind("An admin imported advisories about packages.", ("count", "malware", "removed")),
    "policy_refused": EventKind("maestro.yaml has a mistake; the last good one stays in force.", ("message",)),
}


def check_event(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an event, checked against the table.

    Raises:
        KeyError: unknown kind or field (a mistake in our code).
    """
    known = EVENTS[kind].fields
    unknown = set(fields) - set(known)
    if unknown:
        raise KeyError(f"event {kind} has no fields {sorted(unknown)}")
    return dict(fields)
