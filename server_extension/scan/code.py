"""Code that does what the policy blocks, or something risky: names by the syntax tree, risks by bandit."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maestro_core.scans import Finding, Kind, Severity

from .sources import Source

#: seconds for all files together
BANDIT_SECONDS = 120
#: an assert is no risk in a notebook; importing subprocess is none before it is used
_LEFT_OUT = "B101,B404,B403"


def blocked_names(source: Source, names: Collection[str]) -> Iterator[Finding]:
    """Imports and calls of what the policy blocks.

    Args:
        names: modules (``socket``) and what is in them (``os.system``).
    """
    modules = {name for name in names if "." not in name}
    members = {name for name in names if "." in name}
    called: dict[str, str] = {}
    for node in ast.walk(ast.parse(source.code)):
        for name, shown in _uses(node, called):
            if (
                name.partition(".")[0] in modules
                or name in members
                or any(name.startswith(f"{one}.") for one in members)
            ):
                cell, line = source.place(node.lineno)  # type: ignore[attr-defined]
                yield Finding(
                    kind=Kind.IMPORT,
                    severity=Severity.MEDIUM,
                    what=shown,
                    path=source.path,
                    cell=cell,
                    line=line,
                    why=f"The package policy blocks {name}.",
                    rule=name,
                    todo="Do it another way, or ask an admin of this Hub.",
                )


def _uses(node: ast.AST, called: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(what is used, how it is written); remembers under which name a module is called."""
    if isinstance(node, ast.Import):
        for one in node.names:
            called[one.asname or one.name.partition(".")[0]] = one.name if one.asname else one.name.partition(".")[0]
            yield one.name, f"import {one.name}"
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        for one in node.names:
            called[one.asname or one.name] = f"{node.module}.{one.name}"
            yield f"{node.module}.{one.name}", f"from {node.module} import {one.name}"
    elif isinstance(node, ast.Attribute) and (dotted := _dotted(node)):
        first, _, rest = dotted.partition(".")
        if first in called and "." in f"{called[first]}.{rest}":
            full = f"{called[first]}.{rest}"
            if full.count(".") >= 1 and full != called[first]:
                yield full, dotted


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (inner := _dotted(node.value)):
        return f"{inner}.{node.attr}"
    return None


def risks(sources: Sequence[Source]) -> tuple[list[Finding], list[str]]:
    """What bandit finds, and a sentence if it could not look."""
    if not sources:
        return [], []
    with tempfile.TemporaryDirectory(prefix="maestro-scan-") as folder:
        by_name = {}
        for number, source in enumerate(sources):
            path = Path(folder, f"{number}.py")
            path.write_text(source.code, encoding="utf-8", errors="replace")
            by_name[path.name] = source
        try:
            report = _bandit(Path(folder))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return [], [f"bandit did not end well ({type(error).__name__}): risky calls were not looked for."]
    found = [one for result in report.get("results", ()) if (one := _finding(by_name, result)) is not None]
    return found, []


def _bandit(folder: Path) -> Mapping[str, Any]:
    command = [sys.executable, "-P", "-s", "-m", "bandit", "-q", "-r", "-f", "json", "--exit-zero", "-s", _LEFT_OUT]
    done = subprocess.run(
        # no configuration of the user's: /dev/null is an empty one
        [*command, "--severity-level", "medium", "--ini", "/dev/null", str(folder)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=BANDIT_SECONDS,
        check=True,
    )
    report = json.loads(done.stdout)
    if not isinstance(report, Mapping):
        raise ValueError("no report")
    return report


def _finding(by_name: Mapping[str, Source], result: Mapping[str, Any]) -> Finding | None:
    source = by_name.get(Path(str(result.get("filename"))).name)
    if source is None:
        return None
    number = int(result.get("line_number") or 0)
    cell, line = source.place(number)
    lines = source.code.split("\n")
    written = lines[number - 1].strip() if 1 <= number <= len(lines) else ""
    return Finding(
        kind=Kind.CODE,
        severity=Severity.HIGH if result.get("issue_severity") == "HIGH" else Severity.MEDIUM,
        what=written[:120] or str(result.get("test_name")),
        why=f"{result.get('test_id')} {result.get('test_name')}: {result.get('issue_text')}",
        rule=str(result.get("test_id")),
        todo="See whether input of others can reach it.",
        path=source.path,
        cell=cell,
        line=line,
    )
