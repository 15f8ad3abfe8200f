"""Implements the objectives by family; `rdljax.objectives` is their public module."""
