"""Transfer of representations between networks, and from brains to networks.

Nothing is imported here, so that ``from rdljax import objectives`` needs jax alone.
"""

__version__ = "0.1.0"
