"""The service's answers: pages, files, denials. Every request is authorised again, by token, project and version."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import logging
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tornado import httputil, iostream, web
from tornado.http1connection import HTTP1Connection

from maestro_core.denials import SolverRefusal
from maestro_core.errors import MaestroError
from maestro_core.packages import PYPI, Action, CompiledPolicy, TokenOwner, Verdict, decide, normal_name
from maestro_core.requests import no_such_package

from .downloads import Delivery, Downloads, Wanted, parse_range
from .http import HostCheck
from .index import Index, Shelf
from .masking import masked
from .metadata import MAX_BYTES, check_metadata, check_wheel
from .negotiation import CONTENT_TYPES, Form, choose_form, takes_gzip
from .pages import File, Page
from .views import REFUSED, Body, verdict_on

_log = logging.getLogger(__name__)

COMPANIONS = (".metadata", ".provenance", ".asc")
_REASON_LIMIT = 400
#: files without a hash are fetched again after that many seconds: nothing tells whether they are still the same
_UNHASHED_SECONDS = 3600

#: what lies in the cache was looked at by these rules; a change of them makes another name of it
_CHECKED = "metadata 1"

_NOT_FROM_A_SERVER = (
    "The package index is for running notebook servers: it needs their password, which pip, uv and conda find in the "
    "server's own configuration. Install from a notebook or terminal of a running server, without --isolated."
)
_TITLES = {
    Action.BLOCK: "Blocked by the package policy",
    Action.ASK: "Held back by the package policy",
}


def reason_phrase(sentence: str) -> str:
    """A sentence as the reason phrase of HTTP/1.1: pip shows that, and nothing else, of a refusal.

    ASCII without ``<``, which tornado takes for an attack and replaces the whole by "Unknown".
    """
    text = sentence.replace("<=", " up to ").replace("<", " below ")
    text = "".join(sign if " " <= sign <= "~" else "?" for sign in " ".join(text.split()))
    return text[:_REASON_LIMIT].strip() or "Refused"


class IndexHandler(web.RequestHandler):
    """What all answers share: who asks, how a refusal looks, headers that keep browsers out."""

    SUPPORTED_METHODS: tuple[str, ...] = ("GET", "HEAD")

    def initialize(self, index: Index) -> None:
        """Called by tornado with the route's arguments."""
        self.index = index

    def set_default_headers(self) -> None:
        """Nothing that comes from upstream may act as a page of the Hub, whose origin this may be."""
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-cache")  # kept copies are asked about again: the policy may have changed
        self.clear_header("Server")

    async def caller(self) -> TokenOwner:
        """The launch that asks.

        The answer to a missing or dead password is 403 and never 401: pip would prompt for a user name.

        Raises:
            MaestroError: ``forbidden``; ``service_unavailable``.
        """
        token = _password(self.request.headers.get("Authorization", ""))
        if not token:
            raise MaestroError("forbidden", _NOT_FROM_A_SERVER)
        return await self.index.authority.owner(token)

    async def admitted(self) -> tuple[TokenOwner, CompiledPolicy]:
        """The launch that asks and the policy of its workspace.

        Raises:
            MaestroError: as :meth:`caller`.
        """
        owner = await self.caller()
        return owner, await self.index.authority.policy(owner.workspace)

    def refuse(self, status: int, title: str, sentence: str, **more: Any) -> None:
        """End with a refusal: reason phrase for pip, problem+json (RFC 9457) for uv."""
        self.clear()
        self.set_status(status, reason_phrase(sentence))
        self.set_header("Content-Type", "application/problem+json")
        problem = {"type": "about:blank", "title": title, "status": status, "detail": sentence, **more}
        self.finish(json.dumps(problem))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Errors raised by a handler, as problem+json and without a traceback."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, MaestroError):
            self.refuse(error.status, "The package index refused", error.message, code=error.code)
        elif isinstance(error, web.HTTPError):
            sentence = error.reason or httputil.responses.get(status_code, "Unknown")
            self.refuse(status_code, sentence, sentence)
        else:
            self.refuse(500, "A mistake of the package index", "The package index made a mistake; tell an admin.")

    def _request_summary(self) -> str:
        """What tornado writes of a request into the log."""
        return masked(super()._request_summary())

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """A refusal is no error of ours."""
        if not isinstance(value, MaestroError | iostream.StreamClosedError):
            super().log_exception(typ, value, tb)

    def project(self, name: str) -> str:
        """The normal name.

        Raises:
            tornado.web.HTTPError: 404 for what names no package, such as look-alike letters.
        """
        try:
            return normal_name(name)
        except ValueError as error:
            raise web.HTTPError(404, reason=reason_phrase(f"{error}.")) from None

    async def listed(self, owner: TokenOwner, policy: CompiledPolicy, project: str) -> tuple[Page, str]:
        """The project's page and its stamp.

        Raises:
            tornado.web.HTTPError: 404 where upstream has none.
            MaestroError: as :meth:`.library.Library.listing`.
        """
        shelf = await self.index.shelf(policy)
        try:
            listing = await shelf.library.listing(project)
        except MaestroError as error:
            if error.code == "package_blocked":  # clients swallow what is said here; the notebook tells it
                verdict = Verdict(Action.BLOCK, error.message, "internal_names")
                self.index.denials.record(owner.launch_id, policy, project, None, "", verdict)
            raise
        if listing is None:
            raise web.HTTPError(404, reason=reason_phrase(no_such_package(project).message))
        return listing.page, listing.stamp

    def form(self) -> Form:
        """The form that the client wants.

        Raises:
            tornado.web.HTTPError: 406.
        """
        self.set_header("Vary", "Accept, Accept-Encoding")
        form = choose_form(self.request.headers.get("Accept", ""))
        if form is None:
            raise web.HTTPError(406, reason=f"This index answers in {', '.join(CONTENT_TYPES.values())}.")
        return form

    def send_body(self, body: Body, form: Form) -> None:
        """A rendered page, compressed where the client takes it, or 304."""
        self.set_header("ETag", body.etag)
        self.set_header("Content-Type", CONTENT_TYPES[form] + ("; charset=utf-8" if form == "text" else ""))
        if self.check_etag_header():
            self.set_status(304)
            self.finish()
            return
        if takes_gzip(self.request.headers.get("Accept-Encoding", "")):
            self.set_header("Content-Encoding", "gzip")
            self.finish(body.zipped)
        else:
            self.finish(body.plain)

    def compute_etag(self) -> None:
        """ETags are set by hand; tornado would hash every body."""
        return None


class RootHandler(IndexHandler):
    """``/``: what this is, for somebody who opens it in a browser."""

    async def get(self) -> None:
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish("Maestro's package index. pip and uv of a notebook server use it by themselves, below simple/.\n")

    head = get


class HealthHandler(IndexHandler):
    """``/health``: for the Hub and for probes."""

    async def get(self) -> None:
        self.finish({"status": "ok"})

    head = get


class NamesHandler(IndexHandler):
    """``/simple/``: every project."""

    async def get(self) -> None:
        _, policy = await self.admitted()
        form = self.form()
        shelf = await self.index.shelf(policy)
        self.send_body(await self.index.names_body(await shelf.library.names(), form), form)

    head = get


class ProjectHandler(IndexHandler):
    """``/simple/<project>/``: the real files, those that the policy refuses included."""

    async def get(self, name: str) -> None:
        owner, policy = await self.admitted()
        form, project = self.form(), self.project(name)
        try:
            page, stamp = await self.listed(owner, policy, project)
        except web.HTTPError as error:
            if error.status_code == 404:  # clients swallow it too ("from versions: none"); the notebook tells it
                self.index.denials.miss(owner.launch_id, policy, project, no_such_package(project).message)
            raise
        self.send_body(await self.index.page_body(page, stamp, policy, form), form)

    head = get


class DeliveryHandler(IndexHandler):
    """What all files share: how one is sent, with ranges, and how one is refused."""

    def deny(
        self,
        owner: TokenOwner,
        policy: CompiledPolicy,
        package: str,
        version: str | None,
        file: str,
        verdict: Verdict,
        channel: str = PYPI,
    ) -> None:
        """Refuse a file by policy, and remember it for the launch that asked."""
        self.index.denials.record(owner.launch_id, policy, package, version, file, verdict, channel)
        _log.info("Refused %s to launch %s by policy %s", file, owner.launch_id, policy.revision)
        self.refuse(
            403,
            _TITLES[verdict.action],
            verdict.reason,
            code="package_blocked",
            package=package,
            version=version,
            action=verdict.action.value,
            rule=verdict.rule,
            level=verdict.level,
        )

    _sending: asyncio.Task[Any] | None = None
    _gone = False

    def on_connection_close(self) -> None:
        """The client has gone: it reads no more, so that the download ends unless somebody else does."""
        self._gone = True
        if self._sending is not None:
            self._sending.cancel()

    def send_small(self, wanted: Wanted, content: bytes) -> None:
        """A small file that was just looked at: as a whole, whatever range is asked for."""
        self.set_header("ETag", f'"{wanted.name[:32]}"')
        self.set_header("Content-Type", "application/octet-stream")
        if self.check_etag_header():
            self.set_status(304)
            self.finish()
        else:
            self.finish(content)

    async def send_file(
        self, downloads: Downloads, wanted: Wanted, may_visit: HostCheck, asker: str
    ) -> MaestroError | None:
        """The file, or the range of it that was asked for; what cut it off after something was sent, else None.

        Raises:
            MaestroError: as :meth:`.downloads.Downloads.open`, as long as nothing is sent.
        """
        etag = f'"{wanted.name[:32]}"'
        self.set_header("ETag", etag)
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Content-Type", "application/octet-stream")
        if self.check_etag_header():
            self.set_status(304)
            return None
        if self.request.method == "HEAD" and wanted.size is not None:
            self.set_header("Content-Length", str(wanted.size))
            return None
        self._sending = asyncio.current_task()
        try:
            async with downloads.open(wanted, may_visit, asker) as delivery:
                await (delivery.finish() if wanted.whole else delivery.start())
                return await self._stream(delivery, etag)
        except asyncio.CancelledError:
            if not self._gone:
                raise
            return None
        finally:
            self._sending = None

    async def _stream(self, delivery: Delivery, etag: str) -> MaestroError | None:
        start, end = 0, delivery.size
        asked = self.request.headers.get("Range", "")
        if asked and self.request.headers.get("If-Range", etag) == etag:
            size = delivery.size if delivery.size is not None else await delivery.finish()
            try:
                part = parse_range(asked, size)
            except ValueError:
                self.set_header("Content-Range", f"bytes */{size}")
                raise web.HTTPError(416, reason="That range lies outside the file") from None
            if part is not None:
                start, end = part
                self.set_status(206)
                self.set_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if end is not None:
            self.set_header("Content-Length", str(end - start))
        if self.request.method == "HEAD":
            return None
        try:
            async for part_ in delivery.read(start, end):
                self.write(part_)
                await self.flush()
        except MaestroError as error:
            if not self._headers_written:
                raise  # nothing is out yet: an ordinary refusal
            self._cut()
            return error
        except iostream.StreamClosedError:
            pass  # the client has gone; the download goes on for a while, for who tries again
        return None

    def _cut(self) -> None:
        """End the connection in the middle, so that the client sees that the file is not complete."""
        if isinstance(self.request.connection, HTTP1Connection):
            self.request.connection.stream.close()


class FileHandler(DeliveryHandler):
    """``/files/<project>/<key>/<file>``: a file, or its ``.metadata`` and the like."""

    async def get(self, name: str, segment: str, filename: str) -> None:
        owner, policy = await self.admitted()
        page, _ = await self.listed(owner, policy, self.project(name))
        file, suffix = _find(page, filename)
        if file is None:
            raise web.HTTPError(404, reason=f"The project {page.name} has no file of that name.")
        verdict = verdict_on(policy, page, file)
        if not verdict.allowed and not _forced(policy, page, file, verdict):
            self.deny(owner, policy, page.name, file.version, file.filename, verdict)
            return
        if segment != file.key and not segment.startswith(REFUSED):
            raise web.HTTPError(404, reason=f"The file {file.filename[:100]} has changed upstream; ask again.")
        wanted = _wanted(file, suffix)
        if wanted is None:
            raise web.HTTPError(404, reason=f"Upstream has no {suffix} of that file.")
        shelf = await self.index.shelf(policy)
        try:
            wanted = await self._with_metadata(shelf, owner.launch_id, page.name, file, wanted, suffix)
            if suffix == ".metadata" and (content := self.index.shown.get(wanted.name)) is not None:
                self.send_small(wanted, content)
                return
            failure = await self.send_file(shelf.downloads, wanted, shelf.library.may_visit, owner.launch_id)
        except MaestroError as error:
            failure = error
        if failure is None:
            return
        verdict = Verdict(Action.BLOCK, failure.message, str(failure.details.get("rule", "")))
        if self._headers_written:
            if failure.code == "package_blocked":  # the client saw a broken connection; the notebook tells why
                self.index.denials.record(owner.launch_id, policy, page.name, file.version, filename, verdict)
        elif failure.code == "package_blocked":
            self.deny(owner, policy, page.name, file.version, filename, verdict)
        else:
            raise failure

    head = get

    @staticmethod
    async def _shown(shelf: Shelf, asker: str, told: Wanted, suffix: str) -> bytes | None:
        """The metadata of a wheel; None where upstream lists some and has none, as some mirrors do.

        Raises:
            tornado.web.HTTPError: 404 to who asks for just that: clients then look into the wheel.
            MaestroError: ``upstream_unavailable``.
        """
        try:
            return await shelf.downloads.read(told, shelf.library.may_visit, MAX_BYTES, asker)
        except MaestroError as error:
            if not error.details.get("missing"):
                raise
        if suffix:
            raise web.HTTPError(404, reason="Upstream lists metadata of that file and has none.")
        return None

    async def _with_metadata(
        self, shelf: Shelf, asker: str, project: str, file: File, wanted: Wanted, suffix: str
    ) -> Wanted:
        """Look at what is shown of a file before it is given away, and see to it that a wheel is what was shown.

        Raises:
            MaestroError: ``package_blocked``; ``upstream_unavailable``.
        """
        told = _wanted(file, ".metadata") if suffix in ("", ".metadata") else None
        version, shown = file.version or "", None
        if told is not None:
            shown = self.index.shown.get(told.name)
            if shown is None:
                shown = await self._shown(shelf, asker, told, suffix)
            if shown is not None:
                check_metadata(shown, project, version)
                self.index.shown.put(told.name, shown)
        if suffix or file.is_source:
            return wanted
        check = partial(check_wheel, project=project, version=version, shown=shown)
        return replace(wanted, check=check, whole=shown is None)


class DenialsHandler(IndexHandler):
    """``/denials?since=<id>``: what was refused to the asking launch, and to nobody else."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST")

    async def get(self) -> None:
        owner = await self.caller()
        since = self.get_query_argument("since", "0")
        if not re.fullmatch(r"\d{1,15}", since):
            raise MaestroError("invalid_request", "since is the id of the last denial seen, a whole number.")
        found = self.index.denials.since(owner.launch_id, int(since))
        self.finish({"denials": found, "next": found[-1]["id"] if found else int(since)})

    async def post(self) -> None:
        """A client's solver could take no version because of the policy: that is a denial too, with its sentence.

        Raises:
            MaestroError: ``invalid_request``; as :meth:`admitted`.
        """
        owner, policy = await self.admitted()
        try:
            told = SolverRefusal.model_validate_json(self.request.body)
            verdict = decide(policy, told.package, told.version, told.channel)
        except ValueError:
            raise MaestroError("invalid_request", "Tell package, version and channel of what was refused.") from None
        if not verdict.allowed:
            self.index.denials.record(
                owner.launch_id, policy, told.package, told.version, "", verdict, channel=told.channel
            )
        self.finish({"refused": verdict.reason})

    head = get


class MissingHandler(IndexHandler):
    """Everything else."""

    def prepare(self) -> None:
        raise web.HTTPError(404, reason="The package index has no such path")


def _password(authorization: str) -> str:
    """The token in an ``Authorization`` header: Basic's password (or the user, where that stands alone), or Bearer."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() in ("bearer", "token"):
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        user, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return ""
    return password or user


def _find(page: Page, filename: str) -> tuple[File | None, str]:
    """The file that a path means, and the suffix of what belongs to it."""
    file = page.find(filename)
    if file is not None:
        return file, ""
    for suffix in COMPANIONS:
        if filename.endswith(suffix):
            return page.find(filename.removesuffix(suffix)), suffix
    return None, ""


def _forced(policy: CompiledPolicy, page: Page, file: File, verdict: Verdict) -> bool:
    """Whether an admin lets this very file in now; never malware, nor what upstream has quarantined."""
    if verdict.malware or page.quarantine is not None:
        return False
    return policy.grants_file(page.name, file.hashes.get("sha256"), datetime.now(UTC))


def _wanted(file: File, suffix: str) -> Wanted | None:
    if suffix:
        companion = file.companion(suffix)
        if companion is None:
            return None
        url, hashes = companion
    else:
        url, hashes = file.url, file.hashes
    parts = [_CHECKED, file.key, suffix, url, *(f"{name}={hashes[name]}" for name in sorted(hashes))]
    if not hashes and not url.startswith("file:"):
        parts.append(str(int(time.time() // _UNHASHED_SECONDS)))
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:48]
    return Wanted(name, url, hashes, None if suffix else file.size, small=bool(suffix))
