"""The one address that the Hub's token may go to: MLflow's, as it was when this process started.

A tutorial sets MLFLOW_TRACKING_URI or calls ``mlflow.set_tracking_uri`` with an address of its own, and what it starts
inherits that. So the launch hands the address down as MAESTRO_TRACKING_URI, and it is read once, at import, which in a
kernel is before any user code.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
#: what one library reads as the end of the host, or leaves out, and another does not
_ODD = re.compile(r"[\s\\\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Address:
    """A web address that others are compared with.

    Attributes:
        url: without a slash at its end.
    """

    url: str

    @classmethod
    def parse(cls, url: str) -> Address | None:
        """Read an address; None if it is no http or https address."""
        parts = _split(url)
        return cls(url.rstrip("/")) if parts and parts.hostname else None

    def covers(self, url: str | None) -> bool:
        """Whether ``url`` has this scheme, host and port, and a path that is this one or below it."""
        mine, other = _split(self.url), _split(url or "")
        if mine is None or other is None or _origin(mine) != _origin(other):
            return False
        # Whatever a server in between may read as "one up" or as a slash, covers nothing.
        decoded = unquote(unquote(other.path)).replace("\\", "/")
        if any(segment in (".", "..") for segment in decoded.split("/")):
            return False
        root = mine.path.rstrip("/")
        return other.path == root or other.path.startswith(f"{root}/")


def _split(url: str) -> SplitResult | None:
    if _ODD.search(url):
        return None
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - it is read from the text here, and may be none
    except ValueError:
        return None
    return parts if parts.scheme in _DEFAULT_PORTS and "@" not in parts.netloc else None


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS[parts.scheme]


#: MLflow's address of this launch, or None if there is none
TRACKING = Address.parse(os.environ.get("MAESTRO_TRACKING_URI") or os.environ.get("MLFLOW_TRACKING_URI") or "")


def is_ours(tracking_uri: str | None) -> bool:
    """Whether a tracking URI that MLflow uses now is the launch's."""
    return TRACKING is not None and TRACKING.covers(tracking_uri)
