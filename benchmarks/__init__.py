"""Measures times and peak memory of contenders that compute the same values."""
