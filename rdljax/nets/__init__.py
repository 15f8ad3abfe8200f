"""Nets: Flax Linen modules that answer one dict of activations.

========================= ================================== ==========================
name                      net                                parameters
========================= ================================== ==========================
`resnet8`                 residual, depth 6 n + 2, widths    83,892
`resnet14`                16, 32, 64, for CIFAR              181,108
`resnet20`                                                   278,324
`resnet32`                                                   472,756
`resnet44`                                                   667,188
`resnet56`                                                   861,620
`resnet110`                                                  1,736,564
`resnet8x4`               the same, widths 64, 128, 256      1,233,540
`resnet32x4`                                                 7,433,860
`wrn_16_1`                wide residual, depth and widening  180,916
`wrn_16_2`                                                   703,284
`wrn_40_1`                                                   569,780
`wrn_40_2`                                                   2,255,156
`vgg8`                    VGG with normalisation, for CIFAR  3,965,028
`vgg11`                                                      9,277,284
`vgg13`                                                      9,462,180
`vgg16`                                                      14,774,436
`vgg19`                                                      20,086,692
`resnet50`                bottlenecks, stem for CIFAR        23,705,252
`mobilenet_v2`            width 0.5, for CIFAR               812,836
`shufflenet_v1`           three groups, for CIFAR            949,258
`shufflenet_v2`           width 1, for CIFAR                 1,355,528
`network_in_network`      of CIFAR                           984,356
`resnet18_imagenet`       residual, stem for ImageNet        11,689,512 (1000 classes)
`resnet34_imagenet`                                          21,797,672 (1000 classes)
`resnet50_imagenet`       bottlenecks, stem for ImageNet     25,557,032 (1000 classes)
`efficientnet_lite0`      inverted residuals, ImageNet       4,652,008 (1000 classes)
`cifar_cnn`               of the package `cifar-10-model`    968,394 (10 classes)
`mlp_1024`                4 hidden layers with               6,402,148
`mlp_2048`                normalisation, 32 x 32 x 3         19,095,652
`mlp_4096`                                                   63,357,028
`mlp`                     256 and 64 hidden units            279,498 (32 x 32 x 1, 10)
`mnist_cnn`               RDL prototype: 32 and 64 maps, 500 185,606 (1 channel, 10)
`mnist_cnn_small`         of its shape: 8 and 16 maps, 64    8,234 (1 channel, 10)
========================= ================================== ==========================

Parameters are those of 100 classes and three channels where nothing else is said; those
from `resnet8` to `shufflenet_v2` are the nets of RepDistiller, with its numbers.

Called with images `[batch, height, width, channels]` and `train`, a net answers a dict:
`stem`, `stage1`, `stage2`, ... (what a stage ends with), `pooled` (the vector that the
last linear layer reads) and `logits`. `layers` has these names in depth order; the
order of the dict's keys means nothing, since jit sorts them. `preactivations` names, in
depth order too, a form of each stage that has no ReLU yet, for the objectives that
compare signs (`ab`): `stage1_preact`, ..., what the stage is before its last ReLU or,
in wide residual nets, as the next normalisation answers it; the stages themselves where
they end without one (`mobilenet_v2`, `efficientnet_lite0`). jit leaves out what nobody
reads.

Weights trained in PyTorch are read by `nets.from_torch`; nets that are not of this
package take the same place through `nets.capture`. `build` makes a net of `NETS` by its
name; a net of one's own is a subclass of `Net`, whose convolutions are `conv`. Programs
that take any net, wrapped ones too, ask for a `NetLike`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import jax.numpy as jnp

from rdljax import errors
from rdljax.nets import _layers, mlp, mnist, mobile, plain, resnet, shuffle, vgg

__all__ = ["NETS", "Net", "NetLike", "build", "conv"]

Net: TypeAlias = _layers.Net
conv = _layers.conv


class NetLike(Protocol):
    """A net that is trained or asked for activations: a `Net`, or what wraps one."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the activations in depth order."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns variables, as `flax.linen.Module.init`."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns activations by layer, as `flax.linen.Module.apply`."""


def _cifar_resnet(depth: int, factor: int = 1) -> Callable[..., resnet.ResNet]:
    widths = tuple(factor * width for width in (16, 32, 64))
    stem = 16 if factor == 1 else 32
    counts = ((depth - 2) // 6,) * 3
    return functools.partial(resnet.ResNet, counts=counts, widths=widths, stem=stem)


def _wide(depth: int, widening: int) -> Callable[..., resnet.WideResNet]:
    count = (depth - 4) // 6
    return functools.partial(resnet.WideResNet, count=count, widening=widening)


def _resnet(
    counts: tuple[int, ...], block: Callable[..., Any], large: bool
) -> Callable[..., Any]:
    return functools.partial(
        resnet.ResNet,
        counts=counts,
        widths=(64, 128, 256, 512),
        stem=64,
        block=block,
        large=large,
    )


def _mlp(width: int) -> Callable[..., mlp.MLP]:
    return functools.partial(mlp.MLP, widths=(width,) * 4, normalize=True)


NETS: Mapping[str, Callable[..., Net]] = {
    **{f"resnet{d}": _cifar_resnet(d) for d in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{d}x4": _cifar_resnet(d, 4) for d in (8, 32)},
    **{f"wrn_{d}_{w}": _wide(d, w) for d in (16, 40) for w in (1, 2)},
    "vgg8": functools.partial(vgg.VGG, counts=(1, 1, 1, 1, 1)),
    "vgg11": functools.partial(vgg.VGG, counts=(1, 1, 2, 2, 2)),
    "vgg13": functools.partial(vgg.VGG, counts=(2, 2, 2, 2, 2)),
    "vgg16": functools.partial(vgg.VGG, counts=(2, 2, 3, 3, 3)),
    "vgg19": functools.partial(vgg.VGG, counts=(2, 2, 4, 4, 4)),
    "resnet50": _resnet((3, 4, 6, 3), resnet.Bottleneck, large=False),
    "mobilenet_v2": mobile.MobileNetV2,
    "shufflenet_v1": shuffle.ShuffleNetV1,
    "shufflenet_v2": shuffle.ShuffleNetV2,
    "network_in_network": plain.NetworkInNetwork,
    "resnet18_imagenet": _resnet((2, 2, 2, 2), resnet.Basic, large=True),
    "resnet34_imagenet": _resnet((3, 4, 6, 3), resnet.Basic, large=True),
    "resnet50_imagenet": _resnet((3, 4, 6, 3), resnet.Bottleneck, large=True),
    "efficientnet_lite0": mobile.EfficientNetLite0,
    "cifar_cnn": plain.CifarCNN,
    **{f"mlp_{width}": _mlp(width) for width in (1024, 2048, 4096)},
    "mlp": functools.partial(mlp.MLP, widths=(256, 64)),
    "mnist_cnn": functools.partial(mnist.MnistCNN, maps=(32, 64), units=500),
    "mnist_cnn_small": functools.partial(mnist.MnistCNN, maps=(8, 16), units=64),
}


def build(
    name: str, classes: int, *, dtype: Any = jnp.float32, axis_name: str | None = None
) -> Net:
    """Builds the net of a name.

    Args:
      name: One of `NETS`.
      classes: The number of logits.
      dtype: What activations are computed in, such as `jnp.bfloat16`. Parameters,
        running statistics and logits are float32 all the same.
      axis_name: The mapped axis of the devices over which batch normalisation takes
        its statistics in training (`training.AXIS` under `training.pmap`), so that a
        step does not depend on their number; None for those of each device alone, and
        for steps that are not mapped.

    Returns:
      A Flax module with `layers` and `preactivations`, the names of its activations in
      depth order.

    Raises:
      UnknownName: There is no such net; the message has the nearest name.
    """
    errors.check_name("net", name, NETS)
    return NETS[name](classes=classes, dtype=dtype, axis_name=axis_name)
