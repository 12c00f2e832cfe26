"""Requests to the indexes behind this one: certificates, passwords, proxies and trust as pip has them; no way out.

A redirect is followed only to hosts that the upstream itself has named, and a password goes only to the address it was
configured for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import netrc
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import httpx

from maestro_core.errors import MaestroError

from .pip_config import PipConfig

_log = logging.getLogger(__name__)

_TIMEOUT = httpx.Timeout(30, connect=10, pool=60)
_LIMITS = httpx.Limits(max_connections=32, max_keepalive_connections=16, keepalive_expiry=30)
_MAX_REDIRECTS = 5
#: how long an upstream that did not answer is not asked again by those who have an older answer
AWAY_SECONDS = 10.0
_USER_AGENT = "maestro-packages"

HostCheck = Callable[[str], bool]


def split_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """An address without its user and password, and those two."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None
    secret, _, host = parts.netloc.rpartition("@")
    user, _, password = secret.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))


def is_here(host: str) -> bool:
    """Whether a host's name or address means this machine, or what only this machine can reach (link-local)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local or address.is_unspecified


def away(url: str, why: str) -> MaestroError:
    """The refusal when an upstream does not answer; names its host and nothing secret."""
    host = urlsplit(url).hostname or "the configured folder"
    return MaestroError(
        "upstream_unavailable", f"The package index behind this one ({host}) {why}; try again, or tell an admin."
    )


class Http:
    """How all upstreams are asked: pages over connections of their own, so that large files never hold them all.

    Args:
        config: pip's certificates, proxy and trusted hosts.
        addresses: configured indexes and pages of links; their passwords are kept for their own origin.
    """

    def __init__(self, config: PipConfig, addresses: tuple[str, ...] = ()) -> None:
        self._config = config
        self._pages: httpx.AsyncClient | None = None
        self._files: httpx.AsyncClient | None = None
        self._netrc: netrc.netrc | None = None
        self._away: dict[str, float] = {}
        self._credentials: dict[tuple[str, int | None], tuple[str, str]] = {}
        for address in addresses:
            plain, credentials = split_credentials(address)
            if credentials:
                self._credentials[_origin(plain)] = credentials

    async def open(self) -> None:
        """Read certificates and netrc, and make the clients."""
        self._netrc = await asyncio.to_thread(_read_netrc)
        self._pages = await asyncio.to_thread(_make_client, self._config)
        self._files = await asyncio.to_thread(_make_client, self._config)

    async def close(self) -> None:
        """End its connections."""
        for client in (self._pages, self._files):
            if client is not None:
                await client.aclose()

    def is_away(self, url: str) -> bool:
        """Whether that host did not answer a moment ago."""
        return time.monotonic() < self._away.get(urlsplit(url).netloc, 0.0)

    @contextlib.asynccontextmanager
    async def get(
        self, url: str, headers: Mapping[str, str], may_visit: HostCheck, file: bool = False
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a GET, its body not yet read; redirects are followed within bounds.

        Args:
            may_visit: says whether a host name may be asked.
            file: it may be large.

        Raises:
            MaestroError: ``upstream_unavailable`` if it does not answer, fails (5xx, 401), or leads to another host.
        """
        client = self._files if file else self._pages
        if client is None:
            raise RuntimeError("open() first")
        for _ in range(_MAX_REDIRECTS + 1):
            self._check(url, may_visit)
            request = client.build_request("GET", url, headers={"User-Agent": _USER_AGENT, **headers})
            try:
                response = await client.send(request, stream=True, auth=self._auth(url), follow_redirects=False)
            except httpx.PoolTimeout as error:  # it is we who are busy; upstream may be well
                raise away(url, "is being asked for too much at once") from error
            except httpx.HTTPError as error:
                self._note_away(url, error)
                raise away(url, "does not answer") from error
            except httpx.InvalidURL:
                raise away(url, "named an address that is none") from None
            try:
                location = response.headers.get("location") if response.is_redirect else None
                if location:
                    url = self._redirected(url, location)
                    continue
                if response.status_code >= 500 or response.status_code == 401:
                    self._note_away(url, response.status_code)
                    raise away(url, f"answered {response.status_code}")
                self._away.pop(urlsplit(url).netloc, None)
                yield response
                return
            finally:
                await response.aclose()
        raise away(url, "redirects too often")

    def _check(self, url: str, may_visit: HostCheck) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not may_visit(parts.hostname):
            _log.warning("Refused to follow upstream to %s://%s", parts.scheme, parts.hostname)
            raise away(url, "is none that the configured index named, so it was not asked")

    @staticmethod
    def _redirected(url: str, location: str) -> str:
        """Where a redirect leads; never from https to http, where anybody on the way could answer."""
        target = urljoin(url, location)
        if url.startswith("https:") and target.startswith("http:"):
            raise away(url, "redirects to an address without TLS")
        return target

    def _note_away(self, url: str, reason: object) -> None:
        _log.warning("Upstream %s does not answer: %s", urlsplit(url).hostname, str(reason) or type(reason).__name__)
        self._away[urlsplit(url).netloc] = time.monotonic() + AWAY_SECONDS

    def _auth(self, url: str) -> tuple[str, str] | None:
        known = self._credentials.get(_origin(url))
        if known is not None or self._netrc is None:
            return known
        found = self._netrc.authenticators(urlsplit(url).hostname or "")
        return (found[0], found[2] or "") if found else None


def _origin(url: str) -> tuple[str, int | None]:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}", parts.port


def _make_client(config: PipConfig) -> httpx.AsyncClient:
    proxy = config.proxy or None
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {}
    for host in config.trusted_hosts:
        mounts[f"all://{host}"] = httpx.AsyncHTTPTransport(verify=False, limits=_LIMITS, proxy=proxy)
    return httpx.AsyncClient(
        verify=certificates(config), proxy=proxy, mounts=mounts, timeout=_TIMEOUT, limits=_LIMITS, headers={}
    )


@lru_cache(maxsize=8)
def certificates(config: PipConfig) -> ssl.SSLContext:
    """pip's ``cert`` alone if set; else the system's (SSL_CERT_FILE counts), and httpx's own for images without.

    Blocking, a tenth of a second.
    """
    bundle = config.cert or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle:
        folder = Path(bundle).is_dir()
        context = ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
    else:
        context = httpx.create_ssl_context()
        context.load_default_certs()
    if config.client_cert:
        context.load_cert_chain(config.client_cert)
    return context


def _read_netrc() -> netrc.netrc | None:
    """The machine's netrc, which pip reads too; None if there is none that can be read."""
    with contextlib.suppress(OSError, netrc.NetrcParseError, RuntimeError):
        return netrc.netrc()
    return None
