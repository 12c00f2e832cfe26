"""What Maestro adds to a kernel: the ``%mlflow_*`` magics, plugins that tell MLflow where it runs, and after a cell a
line for each package that was refused to it.

Loading costs a few milliseconds: mlflow (more than a second) is imported by the first magic that needs it, or by the
user. Outside a server that Maestro launched, loading does nothing.
"""

from __future__ import annotations

import os
from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython when the kernel starts.

    Args:
        shell: the ``InteractiveShell``.
    """
    if not os.environ.get("MAESTRO_LAUNCH_ID"):
        return
    from . import (
        address,  # noqa: F401 - it notes MLflow's address before user code can change it
        cells,
        denials,
        kernel,
        magics,
    )
    from .capture import switch

    recorded = switch.Switch(shell)
    kernel.announce()
    made = magics.MlflowMagics(shell, recorded)
    shell.register_magics(made)
    cells.Around(shell, made.runs).register()
    denials.watch(shell)
    recorded.begin()
