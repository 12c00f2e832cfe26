"""The executed notebook as the service takes it: packed, and cut where its outputs are too large."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

#: characters that the service takes at most, and bytes of JSON behind them (maestro_core.jobs)
MOST, MOST_JSON = 4 * 1024 * 1024, 8 * 1024 * 1024
_CUT = "[This output is too large to be kept with the job; the notebook in the workspace's folder jobs has it.]\n"


def as_json(notebook: Any) -> bytes:
    """The notebook's file."""
    return json.dumps(notebook, ensure_ascii=False, indent=1).encode("utf-8", "replace")


def packed(text: bytes) -> str:
    """zstd in base64; the largest outputs are replaced by a line that says so until it fits. Slow: for a thread."""
    found = _pack(text) if len(text) <= MOST_JSON else ""
    if found and len(found) <= MOST:
        return found
    notebook = json.loads(text)
    sizes = sorted(
        (
            (len(json.dumps(output)), index, at)
            for index, cell in enumerate(notebook["cells"])
            for at, output in enumerate(cell.get("outputs", ()))
        ),
        reverse=True,
    )
    smaller = copy.deepcopy(notebook)
    left = len(text)
    for number, (size, index, at) in enumerate(sizes, start=1):
        smaller["cells"][index]["outputs"][at] = {"output_type": "stream", "name": "stderr", "text": _CUT}
        left -= size
        # packing is the slow part: tried when it may fit, and then each time that half of the rest has gone
        if left <= MOST_JSON and (number & (number - 1) == 0 or number == len(sizes)):
            found = _pack(as_json(smaller))
            if len(found) <= MOST:
                return found
    return _pack(as_json(smaller))


def _pack(text: bytes) -> str:
    import zstandard

    return base64.b64encode(zstandard.ZstdCompressor(level=3).compress(text)).decode()
