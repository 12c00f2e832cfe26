"""What the tests of the package index stand on: an upstream of small real wheels, and the service that it asks.

Both are real servers on loopback. The upstream's files lie on another host name than its pages (``localhost`` and
``127.0.0.1``), as those of large indexes do.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from maestro_core.packages import CompiledPolicy, PackagePolicy, compile_policy

JSON = "application/vnd.pypi.simple.v1+json"
SERVICE_TOKEN = "the-index-itself"


def sha256(content: bytes) -> str:
    """Hex of SHA-256."""
    return hashlib.sha256(content).hexdigest()


def metadata(name: str, version: str, requires: tuple[str, ...] = ()) -> bytes:
    """The METADATA of a wheel."""
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {it}" for it in requires),
    ]
    return ("\n".join(lines) + "\n").encode()


def wheel(
    name: str, version: str, requires: tuple[str, ...] = (), padding: int = 0, told: bytes | None = None
) -> bytes:
    """A wheel that pip and uv install: one module that knows its version. ``told``: its METADATA, if another."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    content = {
        f"{module}.py": f"VERSION = {version!r}\n".encode(),
        f"{info}/METADATA": metadata(name, version, requires) if told is None else told,
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if padding:
        content[f"{module}_data.bin"] = hashlib.shake_128(name.encode()).digest(padding)
    record = []
    for path, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(data)}")
    content[f"{info}/RECORD"] = ("\n".join([*record, f"{info}/RECORD,,"]) + "\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, data in content.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def wheel_name(name: str, version: str) -> str:
    """Its file name."""
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


@dataclass
class Upstream:
    """An index that can be changed and broken while it runs.

    Attributes:
        projects: name -> entries of PEP 691 with ``url`` relative to the file server.
        files: path -> content, of the file server.
        redirects: path of the file server -> address.
        form: ``json`` or ``html``.
        away: answer nothing but 503.
        statuses: path -> what is answered there instead.
        asked: paths in order, of both servers.
        extra: more keys of every JSON page.
        max_age: seconds for which pages say that they stay fresh.
        gate: files (not their metadata) wait for it half-way.
    """

    projects: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    form: str = "json"
    away: bool = False
    statuses: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    max_age: int = 0
    gate: threading.Event | None = None
    port: int = 0

    @property
    def url(self) -> str:
        """The index's root."""
        return f"http://127.0.0.1:{self.port}/simple/"

    def add(self, name: str, version: str, requires: tuple[str, ...] = (), padding: int = 0, **fields: Any) -> str:
        """Publish a wheel with its metadata; its file name."""
        content, filename = wheel(name, version, requires, padding), wheel_name(name, version)
        told = metadata(name, version, requires)
        return self.add_file(name, filename, content, told, **fields)

    def add_file(self, name: str, filename: str, content: bytes, told: bytes | None = None, **fields: Any) -> str:
        """Publish any file."""
        path = f"/packages/{name}/{filename}"
        self.files[path] = content
        entry: dict[str, Any] = {
            "filename": filename,
            "url": f"http://localhost:{self.port}{path}",
            "hashes": {"sha256": sha256(content)},
            "size": len(content),
        }
        if told is not None:
            self.files[path + ".metadata"] = told
            entry["core-metadata"] = {"sha256": sha256(told)}
        self.projects.setdefault(name, []).append({**entry, **fields})
        return filename

    def page(self, name: str) -> tuple[str, bytes]:
        """Content type and body of a project's page."""
        entries = self.projects[name]
        if self.form == "json":
            data = {"meta": {"api-version": "1.1"}, "name": name, "files": entries, **self.extra}
            return JSON, json.dumps(data).encode()
        links = []
        for entry in entries:
            href = f"{entry['url']}#sha256={entry['hashes']['sha256']}"
            yanked = f' data-yanked="{escape(str(entry["yanked"]))}"' if entry.get("yanked") else ""
            told = entry.get("core-metadata")
            more = f' data-core-metadata="sha256={told["sha256"]}"' if told else ""
            python = entry.get("requires-python")
            requires = f' data-requires-python="{escape(python)}"' if python else ""
            links.append(f'<a href="{href}"{yanked}{more}{requires} data-future="kept">{entry["filename"]}</a>')
        return "text/html", f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()


class _UpstreamHandler(web.RequestHandler):
    def initialize(self, upstream: Upstream) -> None:
        self.upstream = upstream

    async def get(self, path: str) -> None:
        upstream, path = self.upstream, "/" + path
        upstream.asked.append(path)
        if upstream.away:
            self.set_status(503)
        elif path in upstream.statuses:
            self.set_status(upstream.statuses[path])
        elif path in upstream.redirects:
            self.redirect(upstream.redirects[path])
        elif path in upstream.files:
            await self._file(upstream.files[path])
        elif path == "/simple/":
            self.set_header("Content-Type", JSON)
            self.finish(json.dumps({"meta": {}, "projects": [{"name": name} for name in upstream.projects]}))
        elif path.startswith("/simple/") and path.split("/")[2] in upstream.projects:
            kind, body = upstream.page(path.split("/")[2])
            self.set_header("Content-Type", kind)
            self.set_header("Cache-Control", f"max-age={upstream.max_age}")
            self.finish(body)
        else:
            self.set_status(404)

    async def _file(self, content: bytes) -> None:
        start = 0
        asked = self.request.headers.get("Range")
        if asked:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.set_header("Content-Length", str(len(content) - start))
        half = (len(content) + start) // 2
        self.write(content[start:half])
        await self.flush()
        if self.upstream.gate is not None and not self.request.path.endswith(".metadata"):
            await asyncio.to_thread(self.upstream.gate.wait, 20)
        self.write(content[half:])


@dataclass
class Authority:
    """The workspaces service, as the index sees it.

    Attributes:
        tokens: index token -> what ``POST /policy/tokens`` answers.
        policies: workspace -> its compiled policy.
        away: answer nothing but 503.
        denials: what was told, a report each.
    """

    tokens: dict[str, dict[str, str]] = field(default_factory=dict)
    policies: dict[str, CompiledPolicy] = field(default_factory=dict)
    away: bool = False
    asked: list[str] = field(default_factory=list)
    denials: list[list[dict[str, Any]]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Its API."""
        return f"http://127.0.0.1:{self.port}/api"

    def admit(self, token: str, workspace: str = "demo", launch: str = "launch-1") -> str:
        """Make a launch with that token."""
        self.tokens[token] = {"launch_id": launch, "user": "ada", "workspace": workspace}
        return token

    def rule(
        self, workspace: str = "demo", upstream: str = "", own: dict[str, Any] | None = None, **section: Any
    ) -> None:
        """Put a policy in force: keyword arguments are the keys of ``packages`` in maestro.yaml."""
        if upstream:
            section["index"] = {"upstream": upstream, **section.get("index", {})}
        narrow = PackagePolicy.model_validate(own) if own else None
        policy = compile_policy(PackagePolicy.model_validate(section), narrow, workspace_name=workspace)
        self.policies[workspace] = policy


class _AuthorityHandler(web.RequestHandler):
    def initialize(self, authority: Authority) -> None:
        self.authority = authority

    def prepare(self) -> None:
        self.authority.asked.append(self.request.path)
        if self.authority.away:
            raise web.HTTPError(503)
        if self.request.headers.get("Authorization") != f"token {SERVICE_TOKEN}":
            raise web.HTTPError(401)

    def get(self) -> None:
        if self.request.path == "/api/policy/requests":
            self.finish({"wanted": []})
            return
        if self.request.path == "/api/policy/names":
            self.finish({"asked": []})
            return
        policy = self.authority.policies.get(self.get_query_argument("workspace"))
        if policy is None:
            self.set_status(404)
            self.finish({"error": {"code": "unknown_workspace", "message": "There is none.", "details": {}}})
            return
        self.set_header("Content-Type", "application/json")
        self.finish(policy.model_dump_json())

    def post(self) -> None:
        if self.request.path == "/api/policy/denials":
            self.authority.denials.append(json.loads(self.request.body)["denials"])
            self.set_status(204)
            return
        owner = self.authority.tokens.get(json.loads(self.request.body)["token"])
        if owner is None:
            self.set_status(404)
            self.finish({"error": {"code": "unknown_launch", "message": "Dead.", "details": {}}})
            return
        self.finish(owner)


@contextmanager
def running(*apps: tuple[web.Application, Callable[[int], None]]) -> Iterator[None]:
    """Serve applications on random loopback ports from a thread; each is told its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    servers: list[HTTPServer] = []

    async def start() -> None:
        for app, told in apps:
            sockets = bind_sockets(0, "127.0.0.1")
            server = HTTPServer(app)
            server.add_sockets(sockets)
            servers.append(server)
            told(sockets[0].getsockname()[1])

    async def stop() -> None:
        for server in servers:
            server.stop()
            await server.close_all_connections()

    asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def upstream_and_authority() -> Iterator[tuple[Upstream, Authority]]:
    """Both servers, empty: an open policy for the workspace ``demo``, and the token ``alive`` of its launch."""
    upstream, authority = Upstream(), Authority()
    upstream_app = web.Application([(r"/(.*)", _UpstreamHandler, {"upstream": upstream})])
    authority_app = web.Application([(r"/api/policy/.*", _AuthorityHandler, {"authority": authority})])

    def told(owner: Upstream | Authority) -> Callable[[int], None]:
        return lambda port: setattr(owner, "port", port)

    with running((upstream_app, told(upstream)), (authority_app, told(authority))):
        authority.admit("alive")
        authority.rule(upstream=upstream.url)
        yield upstream, authority
