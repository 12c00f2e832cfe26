"""All that is found in the files of a workspace."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from maestro_core.scans import MAX_FINDINGS, Finding, in_order

from .code import blocked_names, risks
from .secrets import secrets_in
from .sources import Files

_MAX_NOTES = 100


def look(folder: Path, names: Collection[str]) -> dict[str, object]:
    """Findings as JSON, the number of files, and a sentence for what was left out."""
    files = Files(folder)
    sources = list(files)
    findings: list[Finding] = []
    for source in sources:
        findings += blocked_names(source, names)
        findings += secrets_in(source)
    risky, notes = risks([source for source in sources if source.code.strip()])
    ordered = in_order([*findings, *risky])
    notes = [*files.notes[:_MAX_NOTES], *notes]
    if len(files.notes) > _MAX_NOTES:
        notes.append(f"{len(files.notes) - _MAX_NOTES} more places could not be read.")
    if len(ordered) > MAX_FINDINGS:
        notes.append(f"There are more than {MAX_FINDINGS} findings; the others are left out.")
    shown = [one.model_dump(mode="json") for one in ordered[:MAX_FINDINGS]]
    return {"findings": shown, "files": len(sources), "notes": notes}
