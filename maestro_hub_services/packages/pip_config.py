"""Where pip on this machine takes packages from, told by pip itself.

pip's own option parser reads its files and variables with its own precedence, and knows its own default; so an
organisation's mirror keeps working, and no host stands in our code. pip runs in a process of its own: its modules are
large, and nothing of ours should depend on what importing them does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .ask_python import ask_python

#: `create_command` and `parse_args` are pip's private names; test_index.py watches that they go on working
_ASK_PIP = """
import json
from pip._internal.commands import create_command
told, _ = create_command("download").parse_args([])
names = ("index_url", "extra_index_urls", "find_links", "no_index", "trusted_hosts", "cert", "client_cert", "proxy")
print(json.dumps({name: getattr(told, name, None) for name in names}))
"""


class PipConfigError(Exception):
    """pip could not be asked; one sentence for the admin."""


@dataclass(frozen=True)
class PipConfig:
    """What pip is configured to use.

    Attributes:
        indexes: PEP 503 roots in pip's order; may hold a password, so it is never shown.
        find_links: pages, files or directories of links, which pip looks at first.
        trusted_hosts: ``host`` or ``host:port`` whose certificate is not checked.
        cert: a bundle of certificates instead of the system's; ``client_cert``: ours.
        proxy: for all requests.
    """

    indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None


async def read_pip_config() -> PipConfig:
    """Ask the pip of this environment, or else that of the Python it was made with.

    Raises:
        PipConfigError: if there is none, or it does not answer as expected.
    """
    said = ""
    for python in _pythons():
        code, out, said = await ask_python(python, _ASK_PIP)
        if code == 0:
            return _read(out)
    hint = said.strip().splitlines()[-1:] or ["no answer"]
    raise PipConfigError(
        f"pip could not be asked where packages come from ({hint[0][:200]}). Install pip beside the service, "
        "or name 'index: upstream:' below 'packages:' in maestro.yaml."
    )


def _pythons() -> Iterator[str]:
    yield sys.executable
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}"
    if base.exists() and str(base) != sys.executable:
        yield str(base)


def _read(out: bytes) -> PipConfig:
    try:
        told = json.loads(out)
        indexes = [] if told["no_index"] else [told["index_url"], *told["extra_index_urls"]]
        return PipConfig(
            indexes=tuple(index for index in indexes if index),
            find_links=tuple(told["find_links"]),
            trusted_hosts=tuple(told["trusted_hosts"]),
            cert=told["cert"],
            client_cert=told["client_cert"],
            proxy=told["proxy"],
        )
    except (ValueError, KeyError, TypeError):
        raise PipConfigError("pip's answer about its configuration cannot be read; another version may help.") from None
