"""YAML that people write about jobs and sweeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from maestro_core.errors import MaestroError

#: bytes of such a file
MAX_FILE = 64 * 1024


class _Loader(yaml.SafeLoader):
    """PyYAML's, in which ``1e-3`` is a number, as in YAML 1.2 and in Python: a learning rate is no text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z"), list("-+.0123456789")
)


def read_value(text: str) -> Any:
    """What YAML makes of a text.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is none.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader


def read_keys(path: str | Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        MaestroError: ``invalid_request`` for a file that cannot be read, is no YAML, or holds no keys.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_FILE).decode("utf-8")
    except OSError as error:
        raise MaestroError("invalid_request", f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise MaestroError("invalid_request", f"{path} is not YAML; mend it and try again.") from None
    return parse_keys(text, str(path))


def parse_keys(text: str, name: str) -> dict[str, Any]:
    """The keys of such a text.

    Args:
        name: how sentences call it.

    Raises:
        MaestroError: ``invalid_request``.
    """
    try:
        data = read_value(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise MaestroError("invalid_request", f"{name} is not YAML{where}; mend it and try again.") from None
    if not isinstance(data, Mapping):
        raise MaestroError("invalid_request", f"{name} holds no keys; it starts with one like 'notebook:'.")
    return {str(key): value for key, value in data.items()}
