"""``python -m bench [NAME ...]``: run the benchmarks named, or all, one after another.

A benchmark is a module of this package with a function ``main(arguments) -> exit code``.
"""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = (
    "decision",
    "environment",
    "hub_cpu",
    "index",
    "job_start",
    "kernel_start",
    "launch",
    "repodata",
    "save",
    "tracking",
)


def main(names: list[str]) -> int:
    """Run them; 0 if every measure held."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"There is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    return max(importlib.import_module(f"bench.{name}").main([]) for name in names or BENCHMARKS)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
