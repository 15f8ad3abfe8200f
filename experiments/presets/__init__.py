"""Holds the configs, one file each: a docstring as lab note, and `get_config()`."""
