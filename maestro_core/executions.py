"""What ran in a notebook, as runs: whether a workspace wants that, and what a cell of parameters says. Pure."""

from __future__ import annotations

import ast
from typing import Any, Literal

Capture = Literal["off", "on-request", "always"]
#: where a workspace does not say: nobody's cells become runs unasked, and whoever wants it needs no owner
DEFAULT_CAPTURE: Capture = "on-request"
#: the variable in which a launch carries it to its kernels
CAPTURE_VARIABLE = "MAESTRO_CAPTURE"
#: the tag of a run that a stretch of cells became
TAG_CAPTURED = "maestro.captured"
#: tags of cells whose code sets parameters, the second winning (papermill's own words)
PARAMETER_TAGS = ("parameters", "injected-parameters")
#: what MLflow keeps of a parameter (mlflow.utils.validation), and how many are logged
MAX_PARAMETER, MAX_PARAMETERS = 6000, 100


def check_capture(value: Any) -> Capture:
    """What somebody wrote: ``off``, ``on request`` or ``always``; YAML reads ``off`` as a no.

    Raises:
        ValueError: it is something else.
    """
    text = "off" if value is False else str(value).strip().lower().replace(" ", "-").replace("_", "-")
    if text not in ("off", "on-request", "always"):
        raise ValueError("capture is off, on-request or always")
    return text  # type: ignore[return-value]


def parameters_of(source: str) -> dict[str, str]:
    """The parameters that a cell sets, as papermill reads them: plain assignments to one name, the last one winning.

    Returns:
        name -> the literal's value, or where it is none, the expression as it is written.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, str] = {}
    for statement in tree.body:
        target, value = _assignment(statement)
        if target is not None and value is not None:
            found[target] = _shown(source, value)[:MAX_PARAMETER]
    return dict(list(found.items())[:MAX_PARAMETERS])


def _assignment(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id, statement.value
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id, statement.value
    return None, None


def _shown(source: str, value: ast.expr) -> str:
    try:
        return str(ast.literal_eval(value))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ast.get_source_segment(source, value) or ast.unparse(value)
