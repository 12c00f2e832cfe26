"""Where channels lie: what ``maestro.yaml`` says, else what conda and rattler on this machine are configured to use."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, urlsplit

from maestro_core.errors import MaestroError
from maestro_core.packages import IndexSettings

from ..cache import DiskCache
from ..downloads import Downloads, Wanted
from ..http import Http, split_credentials
from ..pip_config import PipConfig
from .condarc import CondaConfig

#: a collection of channels with a name, which is no place
COLLECTION = "defaults"


class Place:
    """Where channels lie under one setting, with the connections to there.

    Args:
        settings: what ``maestro.yaml`` says; it wins.
        config: what this machine is configured to use.
    """

    def __init__(self, settings: IndexSettings, config: CondaConfig, cache: DiskCache) -> None:
        self._settings, self._config = settings, config
        places = [settings.channel_alias or config.alias, *settings.channels.values(), *config.channels.values()]
        addresses = tuple(self._mirrored(place) for place in places if place)
        hosts = [urlsplit(address).hostname or "" for address in addresses]
        trusted = () if config.verify else tuple(dict.fromkeys(hosts))
        pip = PipConfig(cert=config.cert, proxy=config.proxy, trusted_hosts=trusted)
        self.hosts = set(hosts)
        self.http = Http(pip, addresses)
        self.downloads = Downloads(self.http, cache)

    def address(self, channel: str) -> str:
        """The address of a channel, without password.

        Raises:
            MaestroError: ``upstream_unavailable`` where none is configured.
        """
        own = self._settings.channels.get(channel)
        if own:
            return split_credentials(own)[0]
        if not self._settings.channel_alias and channel in self._config.channels:
            return split_credentials(self._mirrored(self._config.channels[channel]))[0]
        if channel == COLLECTION:
            raise MaestroError(
                "upstream_unavailable",
                "The channel defaults is a collection with no place of its own; an admin can name one for it under "
                "'packages: index: channels:' in maestro.yaml.",
            )
        alias = self._settings.channel_alias or self._config.alias
        if not alias:
            raise MaestroError(
                "upstream_unavailable",
                "Nothing on this machine says where conda channels lie; an admin can name it under "
                "'packages: index: channel_alias:' in maestro.yaml.",
            )
        address = f"{alias.rstrip('/')}/{quote(channel)}"
        return split_credentials(address if self._settings.channel_alias else self._mirrored(address))[0]

    def may_visit(self, host: str) -> bool:
        """Whether a host is one of those that are configured, or that a folder's repodata named."""
        return host in self.hosts

    def may_visit_for(self, wanted: Wanted) -> Callable[[str], bool]:
        """Where a file may come from: what is verified by a strong hash may lie where a configured host sends us.

        Never on this machine or at a bare address: large hosts of channels redirect to stores of the internet.
        """
        if "sha256" not in wanted.hashes:
            return self.may_visit
        return lambda host: self.may_visit(host) or is_public_name(host)

    def _mirrored(self, address: str) -> str:
        """rattler's mirror of an address, if it has one; the longest start that fits wins."""
        for start in sorted(self._config.mirrors, key=len, reverse=True):
            stem = start.rstrip("/")
            if address == stem or address.startswith(stem + "/"):
                return self._config.mirrors[start].rstrip("/") + address[len(stem) :]
        return address


def may_name(url: str, files: str) -> bool:
    """Whether repodata at ``url`` may say that its files lie at ``files``: on its own host, or on the internet."""
    here, there = urlsplit(url), urlsplit(files)
    if (here.scheme, here.netloc) == (there.scheme, there.netloc) and here.scheme != "file":
        return True
    return there.scheme == "https" and is_public_name(there.hostname or "")


def is_public_name(host: str) -> bool:
    """Whether a host is a name as the internet has them: no address, and none of this machine or network."""
    last = host.rpartition(".")[2]
    return "." in host and last.isalpha() and last not in ("local", "internal", "localhost", "lan", "home", "arpa")
