"""Defines the types that several packages share: a batch and a net."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

# The images of a batch (`image`) and its other entries, such as `label` and `index`.
Batch = Mapping[str, jax.Array]


class NetLike(Protocol):
    """The interface of all nets, including wrapped ones."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the activations in depth order."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns variables, like `flax.linen.Module.init`."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns activations by layer, like `flax.linen.Module.apply`."""
