"""Experiments: `python -m experiments.run NAME`."""
