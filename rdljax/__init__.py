"""Transfers representations between networks, and from brains to networks.

Nothing is imported here, so that ``from rdljax import objectives`` only needs jax.
"""

__version__ = "0.1.0"
