"""After a cell: one line for each package that the index refused to it, with the way to ask for it.

pip and uv say it in their own output, wherever they run; the line adds the link. Only where a cell has run programs
(``!pip``, ``%pip``, ``%%bash``, ``subprocess``, whatever their name) is the index asked what it refused to this launch:
the time that a process' children took tells, and reading it costs a microsecond.
"""

from __future__ import annotations

import html
import json
import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from .links import public

#: seconds that the index has to answer; by which its clock, told in whole seconds, may be off
TIMEOUT, SLACK = 2.0, 1.5
#: lines after one cell
MOST = 10
_MAX_ANSWER = 1024 * 1024
_VERSION_SIGNS = "<>=!~"


@dataclass(frozen=True)
class Index:
    """Where the index tells what it refused.

    Attributes:
        url: of ``denials``. password: the launch's. Secret.
    """

    url: str
    password: str

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Index | None:
        """From the files that pip and uv read; None where the launch has none."""
        import configparser  # not at a kernel's start
        import netrc

        try:
            config = configparser.ConfigParser(interpolation=None)
            config.read_string(Path(environ["PIP_CONFIG_FILE"]).read_text())
            simple = config.get("global", "index-url")
            entry = netrc.netrc(environ["NETRC"]).authenticators(urlsplit(simple).hostname or "")
        except (KeyError, OSError, configparser.Error, netrc.NetrcParseError):
            return None
        if entry is None or not simple.endswith("/simple/") or not simple.startswith(("http://", "https://")):
            return None
        return cls(f"{simple.removesuffix('simple/')}denials", entry[2])

    def refused(self) -> list[tuple[float, dict[str, Any]]]:
        """What it refused to this launch: how many seconds ago, and what.

        Raises:
            OSError, ValueError: it does not answer, or nothing that can be read.
        """
        import base64
        from email.utils import parsedate_to_datetime
        from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

        class NoRedirect(HTTPRedirectHandler):
            def redirect_request(self, *_: Any) -> None:
                """The password goes to this address alone."""

        credentials = base64.b64encode(f"launch:{self.password}".encode()).decode()
        request = Request(self.url, headers={"Authorization": f"Basic {credentials}"})  # noqa: S310 - checked above
        with build_opener(ProxyHandler({}), NoRedirect).open(request, timeout=TIMEOUT) as answer:
            now = parsedate_to_datetime(answer.headers["Date"])
            listed = json.loads(answer.read(_MAX_ANSWER))["denials"]
        return [((now - datetime.fromisoformat(one["time"])).total_seconds(), one) for one in listed]


@dataclass(frozen=True)
class DenialLine:
    """One refused package; ``url`` is the request page with it filled in, empty where nobody can approve it."""

    message: str
    url: str

    @classmethod
    def of(cls, denial: Mapping[str, Any], environ: Mapping[str, str]) -> DenialLine:
        """From what the index tells."""
        message = str(denial.get("message", ""))
        if denial.get("action") != "ask":
            return cls(message, "")
        package, version = str(denial.get("package", "")), str(denial.get("version") or "")
        about_versions = set(str(denial.get("rule", ""))) & set(_VERSION_SIGNS)
        query = {"workspace": environ.get("MAESTRO_WORKSPACE", ""), "package": package}
        query |= {"version": version} if version and about_versions else {}
        return cls(message, f"{public('services/workspaces/requests', environ)}?{urlencode(query)}")

    def __repr__(self) -> str:
        return f"{self.message} Request access: {self.url}" if self.url else self.message

    def _repr_html_(self) -> str:
        """Shown by JupyterLab; a reason is somebody's text."""
        line = html.escape(self.message)
        if not self.url:
            return line
        return f'{line} <a href="{html.escape(self.url)}" target="_blank" rel="noopener"><b>Request access</b></a>'


class Watch:
    """Looks at what each cell's programs took, and shows what was refused to them.

    Args:
        show: displays an object under the cell.
    """

    def __init__(self, show: Any, environ: Mapping[str, str] = os.environ) -> None:
        # as it is when the kernel starts: what a cell sets later leads nowhere
        self._environ = dict(environ)
        self._show = show
        self._index: Index | None = None
        self._children = children()
        self._began = time.monotonic()

    def before(self, *_: Any) -> None:
        """IPython's ``pre_run_cell``."""
        self._children, self._began = children(), time.monotonic()

    def after(self, *_: Any) -> None:
        """IPython's ``post_run_cell``. Whatever goes wrong here is nobody's matter in a notebook."""
        if children() == self._children:
            return
        try:
            for line in self.refused(time.monotonic() - self._began):
                self._show(line)
        except (OSError, ValueError, KeyError, TypeError):
            return

    def refused(self, seconds: float) -> Sequence[DenialLine]:
        """What was refused within the last seconds, a line a package.

        Raises:
            OSError, ValueError, KeyError, TypeError: the index does not answer as it should.
        """
        self._index = self._index or Index.of(self._environ)
        if self._index is None:
            return ()
        found = [one for age, one in self._index.refused() if age <= seconds + SLACK]
        lines = {str(one.get("package")): DenialLine.of(one, self._environ) for one in found}
        return tuple(lines.values())[:MOST]


def children() -> tuple[float, float]:
    """The processor time of programs that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime, used.ru_stime


def watch(shell: Any) -> None:
    """Begin, in a kernel."""
    from IPython.display import display

    it = Watch(display)
    shell.events.register("pre_run_cell", it.before)
    shell.events.register("post_run_cell", it.after)
