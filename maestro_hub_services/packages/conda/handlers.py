"""What conda clients get: repodata in two forms, packages, and a reason with every refusal.

The token stands in the path, because that is where conda clients put it:
``/conda/t/<token>/<channel>/<subdir>/<file>``. It is asked about at every request, as is the policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from tornado import iostream, web

from maestro_core.conda import channel_verdict, conda_channel, fate_of
from maestro_core.conda_files import check_subdir, parse_file_name
from maestro_core.packages import CompiledPolicy, TokenOwner, Verdict

from ..handlers import DeliveryHandler, reason_phrase
from .channels import Channels, Folder, Place, View

#: the forms that clients ask for first are not made (shards, bz2, current_repodata, run_exports, notices): they then
#: take one of these
PACKED, PLAIN = "repodata.json.zst", "repodata.json"
_CHUNK = 1024**2


class CondaHandler(DeliveryHandler):
    """``/conda/t/<token>/<channel>/<subdir>/<file>``: everything that a conda client asks for."""

    async def get(self, token: str, path: str) -> None:
        owner = await self.index.authority.owner(token)
        policy = await self.index.authority.policy(owner.workspace)
        channel, subdir, filename = _parts(path)
        verdict = channel_verdict(policy, channel)
        package = parse_file_name(filename)
        if not verdict.allowed:
            self._refuse_channel(owner, policy, channel, filename, verdict)
        elif filename in (PACKED, PLAIN):
            await self._repodata(policy, channel, subdir, filename)
        elif package is not None:
            await self._package(owner, policy, channel, subdir, filename)
        else:
            raise web.HTTPError(404, reason="There is no such file of a channel; repodata.json.zst is there.")

    head = get

    @property
    def channels(self) -> Channels:
        """All channels."""
        return self.index.channels

    def refuse(self, status: int, title: str, sentence: str, **more: Any) -> None:
        """As for pip and uv, with the two words besides that conda prints."""
        if status == HTTPStatus.NOT_FOUND:
            self.clear()
            self.set_status(status, reason_phrase(sentence))
            self.set_header("Content-Type", "text/plain; charset=utf-8")  # conda takes JSON here for an error page
            self.finish(f"{sentence}\n")
            return
        super().refuse(status, title, sentence, reason=title, message=sentence, **more)

    def _refuse_channel(
        self, owner: TokenOwner, policy: CompiledPolicy, channel: str, filename: str, verdict: Verdict
    ) -> None:
        package = parse_file_name(filename)
        if package is not None:
            self.deny(owner, policy, package.name, package.version, filename, verdict, channel)
        else:
            self.refuse(403, "Refused by the package policy", verdict.reason, code="package_blocked", channel=channel)

    async def _folder(self, policy: CompiledPolicy, channel: str, subdir: str) -> tuple[Place, Folder]:
        place = await self.channels.place(policy)
        folder = await self.channels.folder(place, channel, subdir)
        if not folder.form:
            raise web.HTTPError(404, reason=f"There is no channel {channel} with {subdir} behind this index.")
        return place, folder

    async def _repodata(self, policy: CompiledPolicy, channel: str, subdir: str, form: str) -> None:
        _, folder = await self._folder(policy, channel, subdir)
        view = await self.channels.view(folder, policy, channel)
        self.set_header("ETag", f'"{view.etag}-{"zst" if form == PACKED else "json"}"')
        self.set_header("Content-Type", "application/zstd" if form == PACKED else "application/json")
        if self.check_etag_header():
            self.set_status(304)
            return
        await self._send_view(view, packed=form == PACKED)

    async def _send_view(self, view: View, packed: bool) -> None:
        size = view.size if packed else await asyncio.to_thread(_unpacked_size, view.path)
        self.set_header("Content-Length", str(size))
        if self.request.method == "HEAD":
            return
        try:
            async for part in _read(view.path, packed):
                self.write(part)
                await self.flush()
        except iostream.StreamClosedError:
            return

    async def _package(
        self, owner: TokenOwner, policy: CompiledPolicy, channel: str, subdir: str, filename: str
    ) -> None:
        place, folder = await self._folder(policy, channel, subdir)
        found = await self.channels.find(folder, filename)
        if found is None:
            raise web.HTTPError(404, reason=f"The channel {channel} has no {filename[:150]} in its repodata.")
        entry, wanted = found
        try:
            _, verdict = fate_of(policy, channel, entry.name, entry.version)
        except ValueError as error:
            raise web.HTTPError(404, reason=reason_phrase(f"{error}.")) from None
        if not verdict.allowed:
            self.deny(owner, policy, entry.name, entry.version, filename, verdict, channel)
            return
        await self.send_file(place.downloads, wanted, place.may_visit_for(wanted), owner.launch_id)


def _parts(path: str) -> tuple[str, str, str]:
    """Channel, platform's folder and file.

    Raises:
        tornado.web.HTTPError: 404 for what cannot be a file of a channel (``notices.json`` of a channel, for one).
    """
    channel, _, rest = path.rpartition("/")[0].rpartition("/")
    try:
        return conda_channel(channel), check_subdir(rest), path.rpartition("/")[2]
    except ValueError as error:
        raise web.HTTPError(404, reason=reason_phrase(f"{error}.")) from None


def _unpacked_size(path: Path) -> int:
    with path.open("rb") as file:
        return zstandard.frame_content_size(file.read(32))


async def _read(path: Path, packed: bool) -> AsyncIterator[bytes]:
    """The file as it is, or unpacked, in parts; read in threads."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        reader: BinaryIO = file if packed else zstandard.ZstdDecompressor().stream_reader(file, closefd=False)
        while part := await asyncio.to_thread(reader.read, _CHUNK):
            yield part
    finally:
        await asyncio.to_thread(file.close)
