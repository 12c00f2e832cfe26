"""What must be right before anything starts. Each refusal is one sentence."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import socket
from dataclasses import replace
from pathlib import Path

from maestro_core.errors import MaestroError
from maestro_core.policy import parse_policy

from ..installation import PORTS, Installation

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Refused(Exception):
    """Maestro does not start; the message says why and what to do."""


class Lock:
    """One run a state directory: ``run/lock``, held as long as this process lives.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> None:
        """Hold it, or say who does.

        Raises:
            Refused: with the number of the process that holds it.
        """
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise Refused(
                f"Maestro runs on this data already (process {holder}): use that one, stop it first, "
                "or set MAESTRO_STATE to another directory."
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)


def check_policy(path: Path) -> None:
    """See that ``maestro.yaml`` is there and can be read.

    Raises:
        Refused: naming the file and the mistake.
    """
    try:
        parse_policy(path.read_text(encoding="utf-8"), path.name)
    except FileNotFoundError:
        raise Refused(
            f"There is no policy at {path}: take the project's maestro.yaml, or set MAESTRO_POLICY."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"The policy {path} cannot be read ({error}); see that it is a text file of yours.") from None
    except MaestroError as error:
        raise Refused(error.message) from None


def choose_ports(maestro: Installation) -> Installation:
    """The same installation with every port decided: 0 becomes a free one, and a public 0 makes all random that are
    not set themselves; the others must be free.

    Raises:
        Refused: naming the port and the variable that changes it.
    """
    ports: dict[str, int] = {}
    for name, port in PORTS.items():
        if not _used(maestro, name):
            continue
        wanted = maestro.port(name)
        if maestro.port("public") == 0 and not os.environ.get(port.variable):
            wanted = 0
        host = {"public": maestro.host, "hub": maestro.hub_host}.get(name, "127.0.0.1")
        ports[name] = _free(host, wanted, f"{wanted} ({port.what})", port.variable, set(ports.values()))
    return replace(maestro, ports={**maestro.ports, **ports})


def _used(maestro: Installation, name: str) -> bool:
    return name in ("public", "hub", "proxy") or maestro.managed(name)


def _free(host: str, wanted: int, shown: str, variable: str, taken: set[int]) -> int:
    if wanted in taken:
        raise Refused(f"Port {shown} is that of another part of Maestro as well: set {variable} to another one.")
    if wanted:
        if error := _bind_problem(host, wanted):
            sentence = _BIND_ERRORS.get(error.errno or 0, _BIND_ERRORS[0])
            why = error.strerror or type(error).__name__
            raise Refused(sentence.format(shown=shown, variable=variable, host=host[:80], why=why))
        return wanted
    for _ in range(200):
        port = secrets.choice(RANDOM_PORTS)
        if port not in taken and not _bind_problem(host, port):
            return port
    raise Refused(f"No free port was found for {shown}: set {variable}, and see that MAESTRO_HOST is right.")


def _bind_problem(host: str, port: int) -> OSError | None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        return error
    return None


#: below those that the system gives to outgoing connections: one that is free now is not taken a second later
RANDOM_PORTS = range(20000, 32000)

_BIND_ERRORS = {
    0: "Port {shown} cannot be used ({why}): set {variable} to another one.",
    errno.EADDRINUSE: "Port {shown} is in use: end what uses it, or set {variable} to another one (0: any free one).",
    errno.EACCES: "Port {shown} is for root alone: set {variable} to one above 1023.",
    errno.EADDRNOTAVAIL: "MAESTRO_HOST is no address of this machine: {host!r}; take 127.0.0.1 or 0.0.0.0.",
    socket.EAI_NONAME: "MAESTRO_HOST is no address of this machine: {host!r}; take 127.0.0.1 or 0.0.0.0.",
}
