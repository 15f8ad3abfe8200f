"""Convolutional nets without shortcuts or normalisation in the usual place."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdljax.nets import _layers

Array = jax.Array


class NetworkInNetwork(_layers.Net):
    """Network-in-network for CIFAR: each convolution is followed by two 1 x 1 ones.

    In training, half of the activations are dropped after the first two poolings
    (`rngs={"dropout": key}`). The stages are what is pooled.

    References:
      Lin, Chen & Yan, `Network In Network <https://arxiv.org/abs/1312.4400>`_, ICLR
      2014; the sizes are those of the authors' CIFAR-10 net.

    Departures: (1) the scores are averaged without a ReLU before, so that `logits` are
      a linear map of `pooled`, the mean of the last stage, and take either sign.
    """

    layers = (*_layers.names(3), "pooled", "logits")
    preactivations = _layers.names(3, "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Activations of images `[batch, height, width, channels]`."""
        conv, out, x = self._conv(use_bias=True), {}, images
        overlapping = {"window_shape": (3, 3), "strides": (2, 2)}
        # As in Caffe: the last window reaches over the edge.
        overlapping["padding"] = ((0, 1), (0, 1))
        drop = nn.Dropout(0.5, deterministic=not train)
        sizes = ((5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192)))
        for i, (size, widths) in enumerate(sizes):
            name = f"stage{i + 1}"
            for j, width in enumerate(widths):
                convolve = conv(width, size if j == 0 else 1, name=f"{name}_conv{j}")
                x = convolve(nn.relu(x) if j else x)
            out[f"{name}_preact"] = x
            x = out[name] = nn.relu(x)
            if i == 0:
                x = drop(nn.max_pool(x, **overlapping))
            elif i == 1:
                x = drop(nn.avg_pool(x, **overlapping, count_include_pad=False))
        out["pooled"] = _layers.mean_pool(x)
        out["logits"] = self._logits(out["pooled"], _layers.he)
        return out


class CifarCNN(_layers.Net):
    """The CIFAR-10 net of the Python package `cifar-10-model`, whose weights are free.

    Six 3 x 3 convolutions, each followed by ReLU and then normalisation; max-pooling
    after the second and the fourth; two hidden layers, of each of which a fifth is
    dropped in training (`rngs={"dropout": key}`). Its images, 32 x 32, are 0 to 255.

    Stages 1 to 3 end with pooling or with the last convolution, `stage4` is the first
    hidden layer and `pooled` the second.

    Departures: (1) the last layer has no ReLU: the released net ends with one and the
      softmax of it, which changes no prediction; (2) running statistics move by a
      tenth in each step, in the released net by 0.85.
    """

    layers = (*_layers.names(4), "pooled", "logits")
    preactivations = _layers.names(4, "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Activations of images `[batch, 32, 32, 3]`."""
        conv = self._conv(use_bias=True, padding="VALID")
        norm = self._norm(train, epsilon=1e-3)
        out, x = {}, images
        for i, width in enumerate((64, 64, 128, 128, 64, 64)):
            before = conv(width, name=f"conv{i}")(x)
            x = norm(name=f"norm{i}")(nn.relu(before))
            if i % 2:
                x = x if i == 5 else _layers.max_pool(x, 2)
                name = f"stage{i // 2 + 1}"
                out[name], out[f"{name}_preact"] = x, before
        x = jnp.reshape(x, (x.shape[0], -1))
        for i, (name, width) in enumerate((("stage4", 1024), ("pooled", 512))):
            x = nn.Dense(width, dtype=self.dtype, name=f"hidden{i}")(x)
            if name == "stage4":
                out["stage4_preact"] = x
            x = out[name] = nn.relu(x)
            x = nn.Dropout(0.2, deterministic=not train)(x)
        out["logits"] = self._logits(x)
        return out
