"""Sweeps: one plan of many cells, run in this process, on local processes or on a Ray cluster, with the same result."""
