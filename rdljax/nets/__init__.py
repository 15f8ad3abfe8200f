"""Nets: Flax Linen modules that answer one dict of activations.

===================== ====================================== ==========================
name                  net                                    parameters (10 classes)
===================== ====================================== ==========================
`mnist_cnn`           RDL prototype: 32 and 64 maps, 500     185,606 (1 channel)
`mnist_cnn_small`     of its shape: 8 and 16 maps, 64        8,234 (1 channel)
`mlp`                 256 and 64 hidden units                279,498 (32 x 32 x 1)
===================== ====================================== ==========================

Called with images `[batch, height, width, channels]` and `train`, a net answers a dict:
`stage1`, `stage2`, ... (what a stage ends with), `pooled` (the vector that the last
linear layer reads) and `logits`. `layers` has the names in depth order; the order of
the dict's keys means nothing, since jit sorts them.
"""

import functools
from collections.abc import Callable, Mapping

from flax import linen as nn

from rdljax import _names
from rdljax.nets import mlp, mnist

__all__ = ["NETS", "build"]

NETS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": functools.partial(mlp.MLP, widths=(256, 64)),
    "mnist_cnn": functools.partial(mnist.MnistCNN, maps=(32, 64), units=500),
    "mnist_cnn_small": functools.partial(mnist.MnistCNN, maps=(8, 16), units=64),
}


def build(name: str, classes: int) -> nn.Module:
    """The net of that name.

    Args:
      name: One of `NETS`.
      classes: The number of logits.

    Returns:
      A Flax module with `layers`, the names of its activations in depth order.

    Raises:
      UnknownName: There is no such net; the message has the nearest name.
    """
    _names.check("net", name, NETS)
    return NETS[name](classes=classes)
