"""``python -m server_extension.scan packages|files``: a question as JSON on standard input, what was found as JSON.

A process of its own, of low priority: notebooks are other people's, and their size too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .installed import installed


def packages(question: Mapping[str, Any]) -> dict[str, object]:
    """What is installed: ``{"packages", "notes"}``; the question names ``environment`` and ``folders`` to search."""
    environment = Path(question["environment"]) if question.get("environment") else None
    found, notes = installed(Path(sys.prefix), environment, [Path(one) for one in question.get("folders", ())])
    return {"packages": [one.model_dump() for one in found], "notes": notes}


def files(question: Mapping[str, Any]) -> dict[str, object]:
    """What is in the code of ``folder``: ``{"findings", "files", "notes"}``; ``names`` are those that are blocked."""
    from .files import look  # its libraries take a second to load, and packages are looked for without them

    return look(Path(question["folder"]), [str(name) for name in question.get("names", ())])


def main() -> None:
    """The program."""
    os.nice(10)
    answer = {"packages": packages, "files": files}[sys.argv[1]](json.load(sys.stdin))
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
