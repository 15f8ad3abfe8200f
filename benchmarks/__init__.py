"""Benchmarks: contenders side by side, with ratios, peak memory and equal values."""
