"""A conda channel for tests: small real packages, the repodata about them, and a server that can be changed and broken.

The packages are built here from conda's own format (CEP-10: a zip of two tars): what they hold is a file or two.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from typing import Any

import zstandard
from tornado import web


def conda_package(name: str, version: str, depends: tuple[str, ...] = (), files: dict[str, str] | None = None) -> bytes:
    """A ``.conda`` file that installers take; files whose path begins with ``bin/`` can be executed."""
    content = files or {f"share/{name}/version.txt": version}
    index = index_json(name, version, depends)
    paths = [
        {
            "_path": path,
            "path_type": "hardlink",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "size_in_bytes": len(text.encode()),
        }
        for path, text in content.items()
    ]
    info = {
        "info/index.json": json.dumps(index),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}),
        "info/about.json": "{}",
    }
    stem = f"{name}-{version}-0"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for member, data in (
            ("metadata.json", json.dumps({"conda_pkg_format_version": 2}).encode()),
            (f"pkg-{stem}.tar.zst", _tar(content)),
            (f"info-{stem}.tar.zst", _tar(info)),
        ):
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), data)
    return buffer.getvalue()


def index_json(name: str, version: str, depends: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a package says about itself."""
    return {
        "name": name,
        "version": version,
        "build": "0",
        "build_number": 0,
        "depends": list(depends),
        "subdir": "noarch",
        "noarch": "generic",
        "timestamp": 1_600_000_000_000,
    }


def _tar(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text.encode()), 0o755 if path.startswith("bin/") else 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return zstandard.compress(buffer.getvalue())


@dataclass
class Channels:
    """A server of channels.

    Attributes:
        repodata: ``channel/subdir`` -> the whole document.
        files: path -> content.
        away: answer nothing but 503. forbidden: nothing but 403.
        asked, answers: paths and statuses in order.
        redirects: path -> address.
        forms: the names under which it has repodata.
    """

    repodata: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    away: bool = False
    forbidden: bool = False
    asked: list[str] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    forms: tuple[str, ...] = ("repodata.json.zst", "repodata.json")
    port: int = 0

    @property
    def url(self) -> str:
        """Where the channels lie."""
        return f"http://127.0.0.1:{self.port}/"

    def document(self, channel: str, subdir: str = "noarch") -> dict[str, Any]:
        """The repodata of a channel's folder, to be changed."""
        empty = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": {}, "removed": [], "repodata_version": 1}
        return self.repodata.setdefault(f"{channel}/{subdir}", empty)

    def add(
        self,
        name: str,
        version: str,
        depends: tuple[str, ...] = (),
        channel: str = "conda-forge",
        files: dict[str, str] | None = None,
    ) -> str:
        """Publish a package; its file name."""
        content, filename = conda_package(name, version, depends, files), f"{name}-{version}-0.conda"
        self.document(channel, "linux-64")
        record = index_json(name, version, depends) | {
            "sha256": hashlib.sha256(content).hexdigest(),
            "md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
            "size": len(content),
        }
        self.document(channel)["packages.conda"][filename] = record
        self.files[f"/{channel}/noarch/{filename}"] = content
        return filename

    def app(self) -> web.Application:
        """The server."""
        return web.Application([(r"(/.*)", _ChannelHandler, {"channels": self})])


class _ChannelHandler(web.RequestHandler):
    def initialize(self, channels: Channels) -> None:
        self.channels = channels

    def on_finish(self) -> None:
        self.channels.answers.append(self.get_status())

    def get(self, path: str) -> None:
        channels = self.channels
        channels.asked.append(path)
        folder, _, filename = path.strip("/").rpartition("/")
        if channels.away or channels.forbidden:
            self.set_status(503 if channels.away else 403)
        elif path in channels.redirects:
            self.redirect(channels.redirects[path])
        elif path in channels.files:
            self.finish(channels.files[path])
        elif folder in channels.repodata and filename in channels.forms:
            body = json.dumps(channels.repodata[folder]).encode()
            self.finish(zstandard.compress(body) if filename.endswith(".zst") else body)
        else:
            self.set_status(404)
            self.finish("not here")
