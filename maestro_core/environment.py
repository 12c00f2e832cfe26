"""The environment of a notebook server and of its kernels: which names who may set.

A plan sets variables of the server, and never those that the Hub or the loader decides by. A workspace (its
template, its owners) sets variables of kernels and terminals alone, and only names of a short list.
"""

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


#: the variable in which a launch carries a workspace's own variables to its kernels, as a JSON object
KERNEL_ENVIRONMENT = "MAESTRO_KERNEL_ENV"

#: the folder in which a viewer's file browser, and so the path of a notebook, shows their private home
VIEWER_HOME = "My home"

#: what a workspace may set for its kernels and terminals: where they import from, time and language, threads, caches
ALLOWED_NAMES = frozenset({
    "PYTHONPATH", "PYTHONHASHSEED", "PYTHONUNBUFFERED", "JUPYTER_ENABLE_LAB", "TZ", "LANG", "LANGUAGE",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "POLARS_MAX_THREADS",
    "TOKENIZERS_PARALLELISM", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE",
    "TRANSFORMERS_OFFLINE", "TORCH_HOME", "KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "CUDA_LAUNCH_BLOCKING",
    "PYTORCH_CUDA_ALLOC_CONF",
})  # fmt: skip
#: names of a project's own, and families of the same kind
ALLOWED_PREFIXES = ("APP_", "MY_", "PROJECT_", "LC_", "NUMEXPR_")
MAX_VARIABLES, MAX_VALUE = 50, 4096


def check_environment(environment: object) -> dict[str, str]:
    """The variables that a workspace gives its kernels and terminals, checked name by name.

    Args:
        environment: from a template, a form or the API: names and values, a value being text, a number or yes/no.

    Returns:
        names and values as text.

    Raises:
        MaestroError: ``invalid_request``, naming the variable.
    """
    if not isinstance(environment, Mapping):
        raise _refused("environment is an object of names and values.", "")
    if len(environment) > MAX_VARIABLES:
        raise _refused(f"environment has {len(environment)} variables; {MAX_VARIABLES} are the most.", "")
    return {str(name): _checked_value(name, value) for name, value in environment.items()}


def _checked_value(name: object, value: object) -> str:
    shown = repr(str(name)[:60])
    if not valid_variable(name):
        raise _refused(f"{shown} cannot name a variable; take letters, digits and underscores.", str(name))
    if not (name in ALLOWED_NAMES or str(name).startswith(ALLOWED_PREFIXES)):
        raise _refused(
            f"A workspace cannot set {shown} for its kernels; a name of its own begins with APP_, MY_ or PROJECT_.",
            str(name),
            allowed=[*sorted(ALLOWED_NAMES), *(f"{prefix}*" for prefix in ALLOWED_PREFIXES)],
        )
    if isinstance(value, bool):  # YAML reads `yes` as true
        value = "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise _refused(f"The value of {shown} is no text; write it in quotes.", str(name))
    text = str(value)
    if len(text) > MAX_VALUE or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise _refused(f"The value of {shown} is one line of at most {MAX_VALUE} characters.", str(name))
    return text


def _refused(sentence: str, name: str, **details: object) -> MaestroError:
    return MaestroError("invalid_request", sentence, {"field": f"environment.{name[:60]}".rstrip("."), **details})
