"""Files: fetched from upstream once however many want them, verified, kept, and streamed while they arrive.

A client gets the last part of a file only after the whole has been verified, so it can never take a forged or broken
one for complete: until then the connection is cut, or, for what fits in the part held back, refused with a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx

from maestro_core.errors import MaestroError

from .cache import DiskCache
from .http import HostCheck, Http, away
from .masking import masked
from .pages import STRONG_HASHES
from .turns import Turns

_log = logging.getLogger(__name__)

#: what is held back until the file is verified, in bytes
HELD_BACK = 1024**2
_CHUNK = 256 * 1024
_WRITE = 1024**2
_RETRIES = 3
_UNFIT_KEPT = 1000
#: downloads of one launch that run at a time, and those that run or wait; uv asks for 50 files at once
_RUNNING, _UNFINISHED = 6, 100
#: how long a download goes on that nobody reads; who tries again within that time finds it where it was
_UNREAD_SECONDS = 30.0


@dataclass(frozen=True)
class Wanted:
    """A file to be had.

    Attributes:
        name: of the file in the cache: its key and suffix.
        url: upstream's address.
        hashes: hex by algorithm; empty where upstream gives none (then nothing can be compared).
        size: bytes, or None.
        check: looks at the whole file before its last part is given away, in a thread; raises ``MaestroError``. What
            passed it once lies in the cache and is not looked at again.
        whole: give nothing away before that.
        small: it belongs to a file, and waits for no large one.
    """

    name: str
    url: str
    hashes: Mapping[str, str]
    size: int | None = None
    check: Callable[[Path], None] | None = None
    whole: bool = False
    small: bool = False

    def strongest(self) -> tuple[str, str] | None:
        """The algorithm that is compared, and its value."""
        for algorithm in (*STRONG_HASHES, *self.hashes):
            if algorithm in self.hashes and algorithm in hashlib.algorithms_guaranteed:
                return algorithm, self.hashes[algorithm].lower()
        return None


class Delivery:
    """A file that can be read while it still arrives.

    Attributes:
        size: bytes of the whole file, or None while upstream has not said.
        arrived: all of it is here, maybe not yet verified. unwanted: nobody reads it, and it is to end.
        content: all of a small file that has just arrived; None: it is read from disk.
    """

    def __init__(self, path: Path, size: int | None, complete: bool) -> None:
        self.path = path
        self.size = size
        self.complete = complete
        self.written = size or 0 if complete else 0
        self.content: bytes | None = None
        self.failure: MaestroError | None = None
        self.begun = complete
        self.unwanted = False
        self.arrived = complete
        self.turn: asyncio.Future[str] | None = None
        self._news = asyncio.Event()
        self._handle: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._readers = 0

    def tell(self) -> None:
        """Wake everybody who waits for more."""
        self._news.set()
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Wait until upstream has begun to answer, so that the size is known where it says one.

        Raises:
            MaestroError: ``upstream_unavailable``.
        """
        while not self.begun and self.failure is None:
            await self._news.wait()
        if self.failure is not None:
            raise self.failure

    async def finish(self) -> int:
        """Wait until the whole file is here and verified; its size.

        Raises:
            MaestroError: ``upstream_unavailable``.
        """
        while not self.complete and self.failure is None:
            await self._news.wait()
        if self.failure is not None:
            raise self.failure
        return self.written

    async def read(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from ``start`` to before ``end``, as they may be given away.

        Raises:
            MaestroError: ``upstream_unavailable``, if it breaks off or is not what upstream's page announced.
        """
        place = start
        while True:
            if self.failure is not None:
                raise self.failure
            limit = self.written if self.complete else self.written - HELD_BACK
            if end is not None:
                limit = min(limit, end)
            if place < limit:
                size = min(_CHUNK, limit - place)
                if self.content is not None:
                    part = self.content[place : place + size]
                else:
                    part = await asyncio.to_thread(self._read_at, place, size)
                if not part:
                    raise away(self.path.as_uri(), "was shortened while it was read")
                place += len(part)
                yield part
            elif self.complete or (end is not None and place >= end):
                return
            else:
                await self._news.wait()

    def _read_at(self, place: int, size: int) -> bytes:
        if self._handle is None:
            raise RuntimeError("closed")
        return os.pread(self._handle, size, place)

    @property
    def unread(self) -> bool:
        """Whether nobody reads it and more is to come."""
        return self._readers == 0 and not self.arrived and self.failure is None

    def add_reader(self) -> None:
        """Keep the file open for one more reader."""
        self._readers += 1

    def remove_reader(self) -> None:
        """One reader has gone."""
        self._readers -= 1
        self.close_unread()

    def close_unread(self) -> None:
        """Close the file if nobody reads it and nothing more arrives."""
        if self._readers == 0 and (self.complete or self.failure) and self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Downloads:
    """Hands out files, from the cache, from folders of this machine, or from upstream.

    Args:
        http: how upstreams are asked; cache: where files are kept.
    """

    def __init__(self, http: Http, cache: DiskCache) -> None:
        self._http = http
        self._cache = cache
        self._arriving: dict[str, Delivery] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._checked: dict[tuple[str, int, int], MaestroError | None] = {}
        self._unfit: OrderedDict[str, MaestroError] = OrderedDict()
        self._turns = Turns(_RUNNING)
        self._unread: dict[Delivery, asyncio.TimerHandle] = {}

    async def close(self) -> None:
        """Give up what is still arriving."""
        for timer in self._unread.values():
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def open(self, wanted: Wanted, may_visit: HostCheck, asker: str = "") -> AsyncIterator[Delivery]:
        """The file, maybe still arriving, for as long as it is read.

        Who leaves early does not end the download while others read, nor at once.

        Args:
            asker: the launch; each has a few downloads running, and what more it asks for waits for these.

        Raises:
            MaestroError: ``upstream_unavailable``; ``busy``; what ``wanted.check`` raised, now or the last time.
        """
        if wanted.name in self._unfit:
            raise self._unfit[wanted.name]
        delivery = self._arriving.get(wanted.name) or await self._find(wanted) or self._begin(wanted, may_visit, asker)
        self._turns.join(delivery, _line(asker, wanted))
        delivery.add_reader()
        if timer := self._unread.pop(delivery, None):
            timer.cancel()
        try:
            yield delivery
        finally:
            delivery.remove_reader()
            if delivery.unread:
                loop = asyncio.get_running_loop()
                self._unread[delivery] = loop.call_later(_UNREAD_SECONDS, self._give_up, wanted, delivery)

    async def read(self, wanted: Wanted, may_visit: HostCheck, limit: int, asker: str = "") -> bytes:
        """A small file as a whole.

        Raises:
            MaestroError: as :meth:`open`; ``upstream_unavailable`` also if it has more than ``limit`` bytes.
        """
        async with self.open(wanted, may_visit, asker) as delivery:
            if await delivery.finish() > limit:
                raise away(wanted.url, f"has more than {limit} bytes where a small file belongs")
            return b"".join([part async for part in delivery.read()])

    async def _find(self, wanted: Wanted) -> Delivery | None:
        """What is on this machine already, or has begun to arrive meanwhile."""
        if wanted.url.startswith("file:"):
            return await self._from_folder(wanted)
        path = await self._cache.find(wanted.name)
        if path is not None:
            with contextlib.suppress(OSError):
                return Delivery(path, (await asyncio.to_thread(path.stat)).st_size, complete=True)
        return self._arriving.get(wanted.name)

    def _begin(self, wanted: Wanted, may_visit: HostCheck, asker: str) -> Delivery:
        line = _line(asker, wanted)
        if self._turns.count(line) >= _UNFINISHED:
            raise MaestroError(
                "busy", f"This server has {_UNFINISHED} downloads under way already; try again when some have ended."
            )
        handle, draft = self._cache.draft()
        delivery = self._arriving[wanted.name] = Delivery(draft, wanted.size, complete=False)
        delivery.turn = self._turns.ask(delivery, line)
        task = asyncio.create_task(self._run(wanted, may_visit, delivery, handle, delivery.turn))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return delivery

    def _give_up(self, wanted: Wanted, delivery: Delivery) -> None:
        """End a download that nobody reads: at once if it waits for its turn, else with the next part that arrives."""
        self._unread.pop(delivery, None)
        if not delivery.unread:
            return
        delivery.unwanted = True
        if self._arriving.get(wanted.name) is delivery:
            del self._arriving[wanted.name]
        if delivery.turn is not None and not delivery.turn.done():
            delivery.turn.set_exception(_unread(wanted))

    async def _run(
        self, wanted: Wanted, may_visit: HostCheck, delivery: Delivery, handle: int, turn: asyncio.Future[str]
    ) -> None:
        writer = _Writer(handle, wanted, delivery, self._cache)
        try:
            async with self._turns.taken(delivery, turn):
                await self._fetch(wanted, may_visit, writer)
            delivery.arrived = True
            await writer.finish()
            writer.forget_draft()
            delivery.path = await self._cache.keep(wanted.name, delivery.path)
            delivery.size = delivery.written
            delivery.complete = True
        except MaestroError as error:
            delivery.failure = error
            if error.code == "package_blocked":
                self._remember(wanted.name, error)
        except asyncio.CancelledError:
            delivery.failure = away(wanted.url, "was given up, because the index is stopping")
            raise
        except Exception:
            _log.exception("A download failed: %s", masked(urlsplit(wanted.url).path))
            delivery.failure = MaestroError("internal", "The package index could not store the file; tell an admin.")
        finally:
            os.close(handle)
            writer.forget_draft()
            if self._arriving.get(wanted.name) is delivery:
                del self._arriving[wanted.name]
            if delivery.failure is not None:
                delivery.path.unlink(missing_ok=True)
            delivery.tell()
            delivery.close_unread()

    def _remember(self, name: str, error: MaestroError) -> None:
        """What did not pass its check; the name holds the file's hash, so another file has another name."""
        self._unfit[name] = error
        while len(self._unfit) > _UNFIT_KEPT:
            self._unfit.popitem(last=False)

    async def _fetch(self, wanted: Wanted, may_visit: HostCheck, writer: _Writer) -> None:
        """Fetch to the end; when upstream breaks off, go on from there."""
        for attempt in range(_RETRIES):
            headers = {"Accept-Encoding": "identity"}
            if writer.place:
                headers["Range"] = f"bytes={writer.place}-"
            try:
                async with self._http.get(wanted.url, headers, may_visit, not wanted.small) as response:
                    _check_answer(wanted, response, writer.place)
                    writer.begin(response)
                    async for part in response.aiter_raw(_CHUNK):
                        await writer.add(part)
                return
            except httpx.HTTPError as error:
                await writer.flush()
                if writer.complete:
                    return
                _log.warning("Upstream broke off after %s bytes: %s", writer.place, type(error).__name__)
                if attempt == _RETRIES - 1:
                    raise away(wanted.url, "broke off in the middle of a file") from None

    async def _from_folder(self, wanted: Wanted) -> Delivery:
        path = Path(url2pathname(urlsplit(wanted.url).path))
        try:
            status = await asyncio.to_thread(path.stat)
            state = (f"{path} {sorted(wanted.hashes.items())}", status.st_mtime_ns, status.st_size)
            if state not in self._checked:
                self._checked[state] = await asyncio.to_thread(_verify_file, path, wanted)
            delivery = Delivery(path, status.st_size, complete=True)
        except OSError:
            raise away(wanted.url, "does not have the file that its page lists") from None
        problem = self._checked[state]
        if problem is not None:
            delivery.close_unread()
            raise problem
        return delivery


class _Writer:
    """Writes what arrives and hashes it on the way, in threads."""

    def __init__(self, handle: int, wanted: Wanted, delivery: Delivery, cache: DiskCache) -> None:
        self._cache = cache
        self._drafted = 0
        self._handle = handle
        self._wanted = wanted
        self._delivery = delivery
        self._strongest = wanted.strongest()
        self._digest = hashlib.new(self._strongest[0]) if self._strongest else None
        self._parts: list[bytes] = []
        self._waiting = 0
        self.place = 0

    def begin(self, response: httpx.Response) -> None:
        """Upstream answers; its length is the size if the page told none."""
        length = response.headers.get("content-length", "")
        if self._delivery.size is None and self.place == 0 and length.isdigit():
            self._delivery.size = int(length)
        self._delivery.begun = True
        self._delivery.tell()

    @property
    def complete(self) -> bool:
        """Whether as much is here as was told."""
        return self.place == self._delivery.size

    async def add(self, part: bytes) -> None:
        if self._delivery.unwanted:
            raise _unread(self._wanted)
        self._parts.append(part)
        self._waiting += len(part)
        size = self._delivery.size
        if size is not None and self.place + self._waiting > size:
            raise _forged(self._wanted)
        if self._waiting >= _WRITE:
            await self.flush()

    async def flush(self) -> None:
        if self._parts:
            content = await self._take()
            await asyncio.to_thread(self._store, content)
            self._delivery.written = self.place
            self._delivery.tell()

    async def finish(self) -> None:
        """Write what is left, and see that all of it is what it should be: one turn of a thread for a small file.

        Raises:
            MaestroError: ``upstream_unavailable``; ``busy``; what the check raised.
        """
        before = self.place
        content = await self._take()
        await asyncio.to_thread(self._end, content)
        self._delivery.written = self.place
        if before == 0:
            self._delivery.content = content

    async def _take(self) -> bytes:
        """What waits to be written, with room made for it."""
        content, self._parts, self._waiting = b"".join(self._parts), [], 0
        self._drafted += len(content)
        await self._cache.grow(len(content))
        if self._cache.drafting > max(self._cache.limit, self._drafted):  # a large file alone has its way
            raise MaestroError("busy", "The package index has no room for so many files at once; try again later.")
        self.place += len(content)
        return content

    def _end(self, content: bytes) -> None:
        self._store(content)
        self.verify()
        if self._wanted.check is not None:
            self._wanted.check(self._delivery.path)

    def forget_draft(self) -> None:
        """It no longer counts as a draft: it is kept, or goes."""
        self._cache.drafting -= self._drafted
        self._drafted = 0

    def verify(self) -> None:
        """Raises:
        MaestroError: ``upstream_unavailable``, if it is not as long as told, or another file than its page announced.
        """
        size, told = self._delivery.size, self._wanted.size
        if size is not None and self.place < size and told is None:
            raise away(self._wanted.url, "broke off in the middle of a file")
        wrong_size = told is not None and told != self.place
        wrong_hash = self._strongest is not None and not hmac.compare_digest(
            self._digest.hexdigest() if self._digest else "", self._strongest[1]
        )
        if wrong_size or wrong_hash:
            raise _forged(self._wanted)

    def _store(self, content: bytes) -> None:
        if self._digest is not None:
            self._digest.update(content)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._handle, rest) :]


def _check_answer(wanted: Wanted, response: httpx.Response, place: int) -> None:
    if place and response.status_code == 206:
        if response.headers.get("content-range", "").startswith(f"bytes {place}-"):
            return
    elif not place and response.status_code == 200:
        return
    missing = response.status_code in (403, 404, 410)
    why = "does not have the file that its page lists" if missing else f"answered {response.status_code}"
    error = away(wanted.url, why)
    error.details["missing"] = missing
    raise error


def _verify_file(path: Path, wanted: Wanted) -> MaestroError | None:
    """What is wrong with a file of this machine. Blocking."""
    strongest = wanted.strongest()
    if strongest is not None:
        with path.open("rb") as file:
            if not hmac.compare_digest(hashlib.file_digest(file, strongest[0]).hexdigest(), strongest[1]):
                return _forged(wanted)
    try:
        if wanted.check is not None:
            wanted.check(path)
    except MaestroError as error:
        return error
    return None


def _line(asker: str, wanted: Wanted) -> str:
    """Small files stand in a line of their own."""
    return f"{asker} small" if wanted.small else asker


def _unread(wanted: Wanted) -> MaestroError:
    return away(wanted.url, "had to wait until nobody read the file any more")


def _forged(wanted: Wanted) -> MaestroError:
    address = masked(urlsplit(wanted.url)._replace(query="").geturl())
    _log.error("A file is not what upstream's page announced: %s", address)
    return MaestroError(
        "upstream_unavailable",
        "The file is not the one that the index behind this one announced (its size or hash differs), "
        "so it was not handed on; tell an admin.",
    )


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """One range of bytes as (start, before end); None where the header asks for none that we serve: send the whole.

    Raises:
        ValueError: if the range lies outside the file (416).
    """
    unit, _, text = header.partition("=")
    first, separator, last = text.strip().partition("-")
    if unit.strip().lower() != "bytes" or not separator or "," in text:
        return None
    if not (first.isdigit() or not first) or not (last.isdigit() or not last) or not (first or last):
        return None
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise ValueError
        return size - length, size
    start = int(first)
    end = min(int(last) + 1, size) if last else size
    if start >= size:
        raise ValueError
    return (start, end) if start < end else None
