"""Benchmarks: ratios within one run, written to ``bench/results``. ``python -m bench`` runs them all."""
