"""Benchmarks: every figure a ratio to the floor of this machine, measured in the same run."""
