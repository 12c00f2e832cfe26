"""The environment of a notebook server: which names a plan may set."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import MaestroError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
#: decided by the Hub, the loader, the shell or the interpreter; whoever sets one of these runs the server
PROTECTED = ("JUPYTERHUB_", "JPY_", "LD_", "PYTHON", "BASH_", "GCONV_", "MALLOC_", "GLIBC_")
PROTECTED_NAMES = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "ENV", "IFS", "TMPDIR"})


def valid_variable(name: object) -> bool:
    """Whether ``name`` can name a variable of the environment at all."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def is_protected(name: str) -> bool:
    """Whether only the Hub and the spawner may set it (``JUPYTERHUB_*``, ``LD_*``, ``PYTHON*``, ``PATH``, ...)."""
    return name in PROTECTED_NAMES or name.startswith(PROTECTED)


def plan_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """A plan's variables, checked: a plan never sets what the Hub or the loader decides by.

    Raises:
        MaestroError: ``internal``, naming the variable (plans are made by our service; a bad one is a mistake there).
    """
    for name, value in environment.items():
        if not valid_variable(name) or is_protected(name):
            raise MaestroError("internal", f"The plan of this launch sets {name[:40]!r}, which no plan may set.")
        if "\0" in value:
            raise MaestroError("internal", f"The plan of this launch gives {name[:40]!r} a value with a NUL character.")
    return dict(environment)
