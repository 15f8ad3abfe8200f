"""Defines plain convolutional nets for CIFAR."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdljax.nets import _initializers, _layers

Array = jax.Array


class NetworkInNetwork(_layers.Net):
    """Network-in-network for CIFAR: two 1 x 1 convolutions follow each convolution.

    In training, dropout of half of the activations follows the first two poolings
    (`rngs={"dropout": key}`). The stages are the inputs of the poolings.

    References:
      Lin, Chen & Yan, `Network In Network <https://arxiv.org/abs/1312.4400>`_, ICLR
      2014; the sizes are those of the authors' CIFAR-10 net.

    Departures: (1) there is no ReLU before the scores are averaged, so that `logits`
      are a linear map of `pooled`, the mean of the last stage, and may be negative.
    """

    layers = (*_layers.names(3), "pooled", "logits")
    preactivations = _layers.names(3, "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, height, width, channels]`."""
        conv, drop = self._conv(use_bias=True), nn.Dropout(0.5, deterministic=not train)

        def stage(name, size, widths, x):
            x = conv(widths[0], size, name=f"{name}_conv0")(x)
            for j, width in enumerate(widths[1:], start=1):
                x = conv(width, 1, name=f"{name}_conv{j}")(nn.relu(x))
            out[f"{name}_preact"], out[name] = x, nn.relu(x)
            return out[name]

        # As in Caffe, the last window extends beyond the edge.
        windows = ((3, 3), (2, 2), ((0, 1), (0, 1)))
        out: dict[str, Array] = {}
        x = stage("stage1", 5, (192, 160, 96), images)
        x = stage("stage2", 5, (192, 192, 192), drop(nn.max_pool(x, *windows)))
        x = drop(nn.avg_pool(x, *windows, count_include_pad=False))
        x = stage("stage3", 3, (192, 192), x)
        out["pooled"] = _layers.mean_pool(x)
        out["logits"] = self._logits(out["pooled"], _initializers.he)
        return out


class CifarCNN(_layers.Net):
    """The CIFAR-10 net of the Python package `cifar-10-model`, with free weights.

    Six 3 x 3 convolutions, each followed by ReLU and then normalisation; max-pooling
    after the second and the fourth; two hidden layers, each with dropout of a fifth in
    training (`rngs={"dropout": key}`). Its images, 32 x 32, have values 0 to 255.

    Stages 1 to 3 end with pooling or with the last convolution, `stage4` is the first
    hidden layer and `pooled` the second.

    Departures: (1) the last layer has no ReLU; the released net ends with a ReLU and
      its softmax, which does not change predictions; (2) running statistics are updated
      at a rate of 0.1, in the released net at 0.85.
    """

    layers = (*_layers.names(4), "pooled", "logits")
    preactivations = _layers.names(4, "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, 32, 32, 3]`."""
        conv = self._conv(use_bias=True, padding="VALID")
        norm = self._norm(train, epsilon=1e-3)
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        drop = nn.Dropout(0.2, deterministic=not train)
        out, x = {}, images
        for i, (width, window) in enumerate(((64, 2), (128, 2), (64, 1))):
            for j in (2 * i, 2 * i + 1):
                before = conv(width, name=f"conv{j}")(x)
                x = norm(name=f"norm{j}")(nn.relu(before))
            x = _layers.max_pool(x, window)
            out[f"stage{i + 1}"], out[f"stage{i + 1}_preact"] = x, before
        x = dense(1024, name="hidden0")(jnp.reshape(x, (x.shape[0], -1)))
        out["stage4_preact"], out["stage4"] = x, nn.relu(x)
        x = dense(512, name="hidden1")(drop(out["stage4"]))
        out["pooled"] = nn.relu(x)
        out["logits"] = self._logits(drop(out["pooled"]))
        return out
