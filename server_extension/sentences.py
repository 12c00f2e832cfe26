"""What this server tells its user by itself, each a notice of one sentence or two."""

from __future__ import annotations

from collections.abc import Mapping

from maestro_core.usage import Notice


def viewer_notice(environ: Mapping[str, str]) -> Notice:
    """A viewer learns where files and runs go."""
    workspace, experiment = environ.get("MAESTRO_WORKSPACE", "this workspace"), environ.get("MAESTRO_EXPERIMENT", "")
    return Notice(
        id="viewer",
        message=f"You are viewer of {workspace}: files are read-only for you. Your runs are logged to your personal "
        f"workspace, experiment {experiment}.",
    )


def memory_notice(notice_id: str, sentence: str) -> Notice:
    """A kernel or program was stopped for want of memory (:mod:`server_extension.memory` has the sentence)."""
    return Notice(id=notice_id, kind="memory", level="error", message=sentence)


def image_notice(sentence: str) -> Notice:
    """The image holds what the policy blocks (:mod:`server_extension.scan.startup` has the sentence)."""
    return Notice(id="image", level="warning", message=sentence)


def full_notice(notice_id: str, sentence: str) -> Notice:
    """A volume is full (:mod:`server_extension.storage` has the sentence)."""
    return Notice(id=notice_id, kind="storage", level="error", message=sentence)


def environment_notice(notice_id: str, level: str, sentence: str) -> Notice:
    """Something about the packages of the workspace (:mod:`server_extension.packages.watch` has the sentences)."""
    return Notice.model_validate({"id": notice_id, "level": level, "message": sentence})
