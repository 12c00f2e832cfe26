"""What a magic's value means: a literal, an expression of the user's variables, or just text.

``%mlflow_log_param lr lr`` logs the variable, ``%mlflow_log_param optimizer adam`` the word, and a date or an address
stays what was written.
"""

from __future__ import annotations

import ast
import numbers
import re
import types
from collections.abc import Mapping
from typing import Any

#: MLflow's own limit for a parameter (mlflow.utils.validation, MAX_PARAM_VAL_LENGTH)
MAX_PARAM = 6000

_DATE = re.compile(r"\d+([-/]\d+)+")


class ValueRefused(Exception):
    """The value cannot be logged; the message is one sentence for the user."""


def param_value(text: str, variables: Mapping[str, Any]) -> str:
    """The text that is logged for a parameter.

    Args:
        text: as it stands in the magic's line.
        variables: the user's namespace.

    Raises:
        ValueRefused: it raises an error, or is an object that no parameter can hold.
    """
    value = _evaluate(text, variables, arithmetic=False)
    shown = text if _means_its_name(value) else str(value)
    if not isinstance(value, str) and "\n" in shown.strip():
        raise ValueRefused(f"{text} is a {type(value).__name__}, too much for a parameter; name one of its figures.")
    if len(shown) > MAX_PARAM:
        raise ValueRefused(f"{text} is {len(shown)} characters long; MLflow keeps up to {MAX_PARAM}.")
    return shown


def number(text: str, variables: Mapping[str, Any], what: str) -> float:
    """A metric's value, or its step.

    Args:
        what: for the message, ``value`` or ``step``.

    Raises:
        ValueRefused: it is no number.
    """
    value = _evaluate(text, variables, arithmetic=True)
    if hasattr(value, "item") and getattr(value, "size", getattr(value, "numel", None)) is not None:
        # an array or tensor of one element, as every library's loss is
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            raise ValueRefused(f"{text} has several elements; a metric's {what} is one number.") from None
    if isinstance(value, numbers.Real) or (hasattr(value, "__float__") and not isinstance(value, str)):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ValueRefused(f"The {what} {text} is no number, and no variable has that name.") from None
    raise ValueRefused(f"The {what} {text} is a {type(value).__name__}, not a number.")


def _evaluate(text: str, variables: Mapping[str, Any], arithmetic: bool) -> Any:
    """The value of an expression; ``text`` itself where it is none.

    Args:
        arithmetic: whether ``1/3`` is a third, and ``2026-11-21`` a subtraction.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text
    if _DATE.fullmatch(text) and not arithmetic:
        return text
    if isinstance(tree.body, ast.Name) and tree.body.id not in variables:
        return text  # not Python's own names either: `max` is a word here
    try:
        return eval(compile(tree, "<value>", "eval"), dict(variables))  # noqa: S307 - the user's own code, in their kernel
    except NameError:
        return text
    except Exception as error:
        raise ValueRefused(f"{text} cannot be computed: {type(error).__name__}: {error}.") from None


def _means_its_name(value: Any) -> bool:
    """Functions, classes and modules are logged as they are written: ``adam``, not ``<function adam at 0x7f...>``."""
    return isinstance(value, type | types.ModuleType) or (callable(value) and hasattr(value, "__name__"))
