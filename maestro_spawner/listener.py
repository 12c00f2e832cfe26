"""Who listens on a port of this machine: servers share its network, so a port says nothing about whose server it is.

Read from ``/proc/net/tcp``: the socket of each listener has a number (inode), and a process holds it among its open
files. What cannot be seen counts as somebody else's.
"""

from __future__ import annotations

import os
from pathlib import Path

from maestro_spawner.machine.process import Process

_PROC = Path("/proc")
#: the state LISTEN in /proc/net/tcp
_LISTEN = "0A"
#: addresses that get what is sent to 127.0.0.1, as the kernel writes them: 127.0.0.1 and 0.0.0.0, then their IPv6 forms
_REACHED = {
    "0100007F",
    "00000000",
    "0000000000000000FFFF00000100007F",
    "0" * 32,
}


def listens(root: Process, port: int) -> bool | None:
    """Whether a port of 127.0.0.1 is served by ``root`` or processes below it alone; None: nobody listens there."""
    sockets = _listening(port)
    if not sockets:
        return None
    return sockets <= _held_by([root, *root.descendants()])


def _listening(port: int) -> set[str]:
    """The inodes of the sockets that listen there."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:  # no IPv6
            continue
        for line in lines:
            fields = line.split()
            address, _, number = fields[1].rpartition(":")
            if fields[3] == _LISTEN and int(number, 16) == port and address in _REACHED:
                found.add(fields[9])
    return found


def _held_by(processes: list[Process]) -> set[str]:
    """The inodes of all sockets that these processes have open."""
    found = set()
    for process in processes:
        folder = _PROC / str(process.pid) / "fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                target = os.readlink(folder / name)
            except OSError:  # closed meanwhile
                continue
            if target.startswith("socket:["):
                found.add(target[len("socket:[") : -1])
    return found
