"""Executions as runs: each *Run all*, or each stretch of cells, becomes a run with what was executed.

``recorder`` is in the kernel and only writes a file, beside the cells. ``history`` reads it, ``page`` shows it as HTML,
``send`` brings it to MLflow: a program of its own, which the notebook server starts (``server_extension.executions``),
so that neither a cell nor a kernel's memory pays for it, and a kernel that was killed is told of too.
"""
