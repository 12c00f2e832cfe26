"""A project's page as one policy shows it, in JSON or HTML.

A package that is refused as a whole keeps its real files on the page; their addresses carry the reason, and asking for
one is refused (the client then aborts and shows the reason). Where only some versions are refused as a whole they are
marked as yanked besides (PEP 592), so that resolvers take an allowed one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from maestro_core.names import slug
from maestro_core.packages import Action, CompiledPolicy, Verdict, decide, decide_file

from .negotiation import Form
from .pages import STRONG_HASHES, File, Page

#: a path segment that starts so tells what, who and which rule: the rest of the sentence would drown the output
REFUSED = "refused-"
_UNKNOWN_VERSION = "?"


@dataclass(frozen=True, slots=True)
class Body:
    """A rendered page: plain and compressed, and its ETag."""

    plain: bytes
    zipped: bytes
    etag: str

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return len(self.plain) + len(self.zipped)


def verdict_on(policy: CompiledPolicy, page: Page, file: File) -> Verdict:
    """What the policy says about one file; a version that cannot be read is refused by any rule about versions."""
    if page.quarantine is not None:
        return quarantined(page)
    return decide_file(policy, page.name, file.version or _UNKNOWN_VERSION, file.is_source)


def verdicts_on(policy: CompiledPolicy, page: Page) -> list[Verdict]:
    """What the policy says about each file of a page, in its order."""
    whole = decide(policy, page.name) if policy.is_uniform(page.name) and page.quarantine is None else None
    all_alike = whole is not None and (not whole.allowed or policy.sdists.action is Action.ALLOW)
    known: dict[tuple[str | None, bool], Verdict] = {}
    verdicts = []
    for file in page.files:
        if whole is not None and (all_alike or not file.is_source):
            verdicts.append(whole)
            continue
        key = (file.version, file.is_source)
        if key not in known:
            known[key] = verdict_on(policy, page, file)
        verdicts.append(known[key])
    return verdicts


def quarantined(page: Page) -> Verdict:
    """The refusal of a project that the index behind this one has quarantined."""
    why = f" ({page.quarantine})" if page.quarantine else ""
    sentence = (
        f"{page.name} is quarantined by the index that it comes from{why}, so nothing of it installs. "
        "Look there for what happened, and take something else meanwhile."
    )
    return Verdict(Action.BLOCK, sentence, "project-status: quarantined")


def file_path(project: str, file: File, verdict: Verdict) -> str:
    """Our own path of a file, below the service's prefix; a refused one tells why."""
    segment = file.key if verdict.allowed else REFUSED + slug(verdict.reason.partition(")")[0], 100)
    return f"files/{project}/{segment}/{quote(file.filename)}"


def render_page(page: Page, policy: CompiledPolicy, form: Form, prefix: str) -> Body:
    """The page's bytes. Takes time for a large page: call it in a thread.

    Args:
        prefix: the service's path with slashes at both ends; addresses are paths below it, so no host is needed.
    """
    verdicts = verdicts_on(policy, page)
    # A version of which some file is allowed stays what a resolver takes: the refused file then says why.
    allowed = {file.version for file, verdict in zip(page.files, verdicts, strict=True) if verdict.allowed}
    entries = [
        (file, _entry(page.name, file, verdict, prefix, yank=bool(allowed) and file.version not in allowed))
        for file, verdict in zip(page.files, verdicts, strict=True)
    ]
    if form == "json":
        return make_body(_json_page(page, [entry for _, entry in entries]))
    return make_body(_html_page(page, entries))


def render_names(names: Iterable[str], form: Form, prefix: str) -> Body:
    """The root page: every project."""
    listed = sorted(set(names))
    if form == "json":
        data = {"meta": {"api-version": "1.0"}, "projects": [{"name": name} for name in listed]}
        return make_body(json.dumps(data, separators=(",", ":")).encode())
    links = [f'<a href="{escape(prefix)}simple/{quote(name)}/">{escape(name)}</a><br>' for name in listed]
    return make_body(_html([("pypi:repository-version", "1.0")], "Simple index", links))


def make_body(plain: bytes) -> Body:
    """Compress a page once for everybody."""
    return Body(plain, gzip.compress(plain, 5, mtime=0), f'"{hashlib.sha256(plain).hexdigest()[:32]}"')


def _entry(project: str, file: File, verdict: Verdict, prefix: str, yank: bool) -> dict[str, Any]:
    path = prefix + file_path(project, file, verdict)
    entry = {**file.fields, "filename": file.filename, "url": path}
    entry.setdefault("hashes", {})
    if entry.get("provenance"):
        entry["provenance"] = f"{path}.provenance"
    if yank:
        entry["yanked"] = verdict.reason
    return entry


def _json_page(page: Page, entries: list[dict[str, Any]]) -> bytes:
    data = {"meta": {"api-version": "1.0"}, **page.top, "name": page.name, "files": entries}
    if page.versions:
        data["versions"] = list(page.versions)
    return json.dumps(data, separators=(",", ":")).encode()


def _html_page(page: Page, entries: list[tuple[File, dict[str, Any]]]) -> bytes:
    metas = dict(page.metas) or _metas_from_json(page)
    metas.setdefault("pypi:repository-version", "1.0")
    links = [_link(entry, file.attributes) for file, entry in entries]
    return _html(metas.items(), f"Links for {page.name}", links)


def _metas_from_json(page: Page) -> dict[str, str]:
    meta, status = page.top.get("meta"), page.top.get("project-status")
    found = {"pypi:repository-version": str(meta.get("api-version", "1.0")) if isinstance(meta, dict) else "1.0"}
    if isinstance(status, dict) and status.get("status"):
        found["pypi:project-status"] = str(status["status"])
        if status.get("reason"):
            found["pypi:project-status-reason"] = str(status["reason"])
    return found


def _link(entry: dict[str, Any], more: tuple[tuple[str, str], ...]) -> str:
    attributes = dict(more)
    if entry.get("requires-python"):
        attributes["data-requires-python"] = str(entry["requires-python"])
    if entry.get("yanked"):
        attributes["data-yanked"] = entry["yanked"] if isinstance(entry["yanked"], str) else ""
    metadata = entry.get("core-metadata") or entry.get("dist-info-metadata")
    if metadata:
        text = _fragment(metadata) if isinstance(metadata, dict) else "true"
        attributes["data-core-metadata"] = attributes["data-dist-info-metadata"] = text or "true"
    if "gpg-sig" in entry:
        attributes["data-gpg-sig"] = "true" if entry["gpg-sig"] else "false"
    if entry.get("provenance"):
        attributes["data-provenance"] = str(entry["provenance"])
    fragment = _fragment(entry["hashes"])
    href = entry["url"] + (f"#{fragment}" if fragment else "")
    written = "".join(f' {escape(name)}="{escape(value)}"' for name, value in attributes.items())
    return f'<a href="{escape(href)}"{written}>{escape(entry["filename"])}</a><br>'


def _fragment(hashes: dict[str, Any]) -> str:
    for name in (*STRONG_HASHES, *hashes):
        if name in hashes:
            return f"{quote(name)}={quote(str(hashes[name]))}"
    return ""


def _html(metas: Iterable[tuple[str, str]], title: str, links: list[str]) -> bytes:
    head = "".join(f'<meta name="{escape(name)}" content="{escape(value)}">\n' for name, value in metas)
    body = "\n".join(links)
    head += f"<title>{escape(title)}</title>"
    return f"<!DOCTYPE html>\n<html><head>\n{head}</head>\n<body>\n{body}\n</body></html>\n".encode()


class BodyCache:
    """Rendered pages, the latest used ones, within a set size.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int = 64 * 1024**2) -> None:
        self._limit = limit
        self._size = 0
        self._bodies: OrderedDict[tuple[str, ...], Body] = OrderedDict()

    def get(self, key: tuple[str, ...]) -> Body | None:
        """The page under that key, which then counts as used."""
        body = self._bodies.get(key)
        if body is not None:
            self._bodies.move_to_end(key)
        return body

    def put(self, key: tuple[str, ...], body: Body) -> None:
        """Keep a page; the longest unused ones go. One that is larger than the cache is not kept."""
        if body.size > self._limit:
            return
        old = self._bodies.pop(key, None)
        self._size += body.size - (old.size if old else 0)
        self._bodies[key] = body
        while self._size > self._limit:
            _, gone = self._bodies.popitem(last=False)
            self._size -= gone.size
