"""Every refusal of Maestro: one table from which statuses, exit codes and the docs are made.

A :class:`MaestroError` carries one sentence for a person (what, why, what to do), a code for a program and
details for both. The message is shown as it is on forms, pages and terminals: it never holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ErrorKind:
    """What a code means to each of the ways out.

    Attributes:
        status: HTTP status of the REST API and of the Hub's form.
        exit_code: exit code of the ``maestro`` CLI.
        meaning: one line for the docs.
    """

    status: int
    exit_code: int
    meaning: str


ERRORS: dict[str, ErrorKind] = {
    "invalid_request": ErrorKind(400, 2, "The request itself is malformed: a missing or unknown field, a wrong type."),
    "invalid_name": ErrorKind(400, 2, "A name does not follow the rules of servers, workspaces, users or packages."),
    "invalid_resources": ErrorKind(400, 2, "An amount of cpu, memory or gpu cannot be read or is out of range."),
    "invalid_policy": ErrorKind(400, 2, "maestro.yaml, or a value an admin sets, has a mistake."),
    "not_signed_in": ErrorKind(401, 4, "No token, or one that the Hub does not know (any more)."),
    "forbidden": ErrorKind(403, 4, "The token or the role does not allow this."),
    "quota_exceeded": ErrorKind(403, 5, "A limit would be passed; the message says which, and what is in use."),
    "profile_closed": ErrorKind(403, 5, "The profile is not open to this person, or none covers what was asked for."),
    "package_blocked": ErrorKind(403, 5, "The package policy holds this package back."),
    "unknown_workspace": ErrorKind(404, 3, "There is no such workspace that this person belongs to."),
    "unknown_user": ErrorKind(404, 3, "The Hub does not know this user."),
    "unknown_group": ErrorKind(404, 3, "The Hub does not know this group."),
    "unknown_member": ErrorKind(404, 3, "The workspace has no such member."),
    "unknown_invitation": ErrorKind(404, 3, "There is no such invitation, or it is for somebody else, or it ran out."),
    "unknown_profile": ErrorKind(404, 3, "maestro.yaml has no such profile."),
    "unknown_template": ErrorKind(404, 3, "There is no such notebook template."),
    "unknown_snapshot": ErrorKind(404, 3, "The workspace has no such version of a notebook."),
    "unknown_launch": ErrorKind(404, 3, "There is no such launch, or it is somebody else's."),
    "unknown_job": ErrorKind(404, 3, "There is no such job, or it is of a workspace that this person does not see."),
    "unknown_sweep": ErrorKind(
        404, 3, "There is no such sweep, or its workspace is one that this person does not see."
    ),
    "unknown_request": ErrorKind(404, 3, "There is no such request for a package, or it is others'."),
    "unknown_package": ErrorKind(404, 3, "The index behind ours has no package of that name."),
    "unknown_quota": ErrorKind(404, 3, "No such quota was set at runtime."),
    "unknown_version": ErrorKind(404, 3, "The environment of the workspace has no such version."),
    "unknown_path": ErrorKind(404, 3, "The API has no such path or method."),
    "name_taken": ErrorKind(409, 6, "Something else has that name already."),
    "conflict": ErrorKind(409, 6, "The thing is in a state that does not allow this now."),
    "server_running": ErrorKind(409, 6, "A server of that name is running or starting already."),
    "restart_needed": ErrorKind(
        409, 6, "A running server cannot be resized so; a restart does it, when it is asked for."
    ),
    "too_large": ErrorKind(413, 2, "The request is larger than the service reads."),
    "start_failed": ErrorKind(502, 7, "The Hub accepted the launch, but the server did not start."),
    "hub_unavailable": ErrorKind(503, 7, "The Hub does not answer."),
    "service_unavailable": ErrorKind(503, 7, "The workspaces service does not answer; nothing was started."),
    "upstream_unavailable": ErrorKind(502, 7, "The package index behind this one does not answer."),
    "busy": ErrorKind(503, 7, "The package index has too many downloads under way; try again when some have ended."),
    "timeout": ErrorKind(504, 7, "It took longer than the limit; what was begun is taken back or goes on as told."),
    "internal": ErrorKind(500, 1, "A mistake of ours; the log of the service has the details under the given id."),
}


class MaestroError(Exception):
    """A refusal or failure with a sentence for the person.

    Args:
        code: a key of :data:`ERRORS`.
        message: one sentence: what, why, what to do.
        details: values for a program (limits, names); JSON-serialisable, no secrets.

    Raises:
        KeyError: if the code is not in the table (a mistake in our code, found by any test).
    """

    def __init__(self, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.kind = ERRORS[code]
        self.code = code
        self.message = message
        self.details: dict[str, Any] = dict(details or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.kind.status

    def as_json(self) -> dict[str, Any]:
        """The one error body of every API: ``{"error": {"code", "message", "details"}}``."""
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}

    @classmethod
    def from_json(cls, body: Any, fallback: str = "internal") -> MaestroError:
        """Read :meth:`as_json` back; anything else becomes the ``fallback`` code with a plain sentence."""
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict) or error.get("code") not in ERRORS:
            return cls(fallback, "The answer could not be read; try again, or ask the admin to look at the log.")
        details = error.get("details")
        return cls(error["code"], str(error.get("message", "")), details if isinstance(details, dict) else {})
