"""Where conda channels lie, as conda and rattler on this machine are configured.

``.condarc`` files are read in conda's own order (later ones win), then ``CONDA_...`` variables; rattler's
``config.toml`` adds mirrors. Where none of them names a place for channels, py-rattler's default counts: no host
stands in our code. rattler is asked in a process of its own, since its library is large.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..ask_python import ask_python

_log = logging.getLogger(__name__)

#: `_channel_configuration` is the library's private name; test_conda_channels.py watches that it goes on working
_ASK_RATTLER = """
import json
from rattler import Config
config = Config.load_from_default_locations("rattler")
alias = config.channel_config._channel_configuration.channel_alias
print(json.dumps({"alias": str(alias), "mirrors": {str(key): list(value) for key, value in config.mirrors.items()}}))
"""
_NAMES = (".condarc", "condarc", "condarc.d")


@dataclass(frozen=True)
class CondaConfig:
    """What is configured.

    Attributes:
        alias: where channels lie; empty: nowhere. May hold a password or token, so it is never shown.
        channels: channels with a place of their own, by name.
        mirrors: the start of an address -> what takes its place.
        cert: a bundle of certificates instead of the system's. verify: False where conda does not check any.
        proxy: for all requests.
    """

    alias: str = ""
    channels: Mapping[str, str] = field(default_factory=dict)
    mirrors: Mapping[str, str] = field(default_factory=dict)
    cert: str | None = None
    verify: bool = True
    proxy: str | None = None


async def read_conda_config() -> CondaConfig:
    """Read the files, and ask rattler."""
    told, rattler = await asyncio.gather(asyncio.to_thread(read_condarc, os.environ, Path.home()), _ask_rattler())
    verify = told.get("ssl_verify", True)
    proxies = told.get("proxy_servers")
    proxy = (proxies.get("https") or proxies.get("http")) if isinstance(proxies, dict) else None
    custom = told.get("custom_channels")
    return CondaConfig(
        alias=str(told.get("channel_alias") or rattler["alias"]),
        channels={
            str(name).lower(): f"{_address(str(place)).rstrip('/')}/{name}"
            for name, place in (custom.items() if isinstance(custom, dict) else ())
        },
        mirrors={str(start): str(places[0]) for start, places in rattler["mirrors"].items() if places},
        cert=verify if isinstance(verify, str) else None,
        verify=verify is not False,
        proxy=str(proxy) if proxy else None,
    )


def read_condarc(environment: Mapping[str, str], home: Path) -> dict[str, Any]:
    """The settings of all files and variables, merged as conda merges them: the last that names a key wins.

    A file that cannot be read is left out, and logged.
    """
    merged: dict[str, Any] = {}
    for path in _files(environment, home):
        try:
            told = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            _log.warning("conda's configuration %s was left out: %s", path, type(error).__name__)
            continue
        for key, value in (told if isinstance(told, dict) else {}).items():
            old = merged.get(key)
            merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    if environment.get("CONDA_CHANNEL_ALIAS"):
        merged["channel_alias"] = environment["CONDA_CHANNEL_ALIAS"]
    verify = environment.get("CONDA_SSL_VERIFY", "")
    if verify:
        merged["ssl_verify"] = {"false": False, "true": True}.get(verify.lower(), verify)
    return merged


def _files(environment: Mapping[str, str], home: Path) -> Iterator[Path]:
    """conda's search path, from the weakest to the strongest."""
    folders = [Path("/etc/conda"), Path("/var/lib/conda")]
    folders += [Path(environment[name]) for name in ("CONDA_ROOT",) if environment.get(name)]
    folders += [Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "conda", home / ".conda"]
    for folder in folders:
        yield from _in_folder(folder)
    if (home / ".condarc").is_file():
        yield home / ".condarc"
    if environment.get("CONDA_PREFIX"):
        yield from _in_folder(Path(environment["CONDA_PREFIX"]))
    named = environment.get("CONDARC")
    if named and Path(named).is_file():
        yield Path(named)


def _in_folder(folder: Path) -> Iterator[Path]:
    for name in _NAMES:
        path = folder / name
        if path.is_file():
            yield path
        elif name.endswith(".d") and path.is_dir():
            yield from sorted(entry for entry in path.iterdir() if entry.suffix in (".yml", ".yaml"))


def _address(place: str) -> str:
    return place if "://" in place else Path(place).absolute().as_uri()


async def _ask_rattler() -> dict[str, Any]:
    nothing: dict[str, Any] = {"alias": "", "mirrors": {}}
    code, out, said = await ask_python(sys.executable, _ASK_RATTLER)
    if code != 0:
        last = said.strip().splitlines()[-1:]
        _log.warning("py-rattler could not be asked where conda channels lie: %s", *last or ["no answer"])
        return nothing
    return nothing | json.loads(out)
