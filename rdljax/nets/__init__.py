"""Builds nets: Flax Linen modules that return one dict of activations.

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
`network_in_network`      for CIFAR                          984,356
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
`mnist_cnn_small`         the same with 8 and 16 maps, 64    8,234 (1 channel, 10)
========================= ================================== ==========================

Numbers of parameters are for 100 classes and three channels unless stated otherwise.
The nets from `resnet8` to `shufflenet_v2` are those of RepDistiller, with the same
numbers of parameters.

Called with images `[batch, height, width, channels]` and `train`, a net returns a dict
of activations: `stem`, `stage1`, `stage2`, ... (the outputs of the stages), `pooled`
(the input of the last linear layer) and `logits`. The attribute `layers` has these
names in depth order; the order of the dict's keys has no meaning, since jit sorts them.
`preactivations` has, also in depth order, the names of the pre-activations of the
stages, for objectives that compare signs (`ab`): `stage1_preact`, ... are the stages
before their last ReLU or, in wide residual nets, the outputs of the next normalisation;
if the stages end without a ReLU, they are the stages themselves (`mobilenet_v2`,
`efficientnet_lite0`). jit does not compute activations that are not used.

`build` makes a net of `NETS` by its name. To define a net of your own, subclass `Net`
and use the convolution `conv`. `NetLike` is the interface of all nets, including those
of other programs that `capture` wraps.

================= ======================================================================
module            contents
================= ======================================================================
`nets.capture`    the activations of any Flax model: `linen` and `nnx` wrap a model as a
                  `LinenNet` or `NNXNet`; `report` lists its activations (a `Report` of
                  the type `Row` for each)
`nets.from_torch` weights of PyTorch programs: `read`, `to_flax`, `to_torch`, `write`
`nets.from_keras` weights of the package `cifar-10-model`: `read`, `to_flax`
`nets.regressors` small modules that terms train: `Regressor`, `Pointwise`, `Embedding`,
                  `Coder`
`nets.resnet`     `ResNet` (of blocks `Basic` or `Bottleneck`), `WideResNet`
`nets.vgg`        `VGG`
`nets.mobile`     `MobileNetV2`, `EfficientNetLite0`
`nets.shuffle`    `ShuffleNetV1`, `ShuffleNetV2`
`nets.plain`      `NetworkInNetwork`, `CifarCNN`
`nets.mlp`        `MLP`
`nets.mnist`      `MnistCNN`
================= ======================================================================
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp

from rdljax import errors
from rdljax._types import NetLike
from rdljax.nets import _layers, mlp, mnist, mobile, plain, resnet, shuffle, vgg

__all__ = ["NETS", "Net", "NetLike", "build", "conv"]

Net: TypeAlias = _layers.Net
conv = _layers.conv


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
    """Builds a net by its name.

    Args:
      name: One of `NETS`.
      classes: Number of logits.
      dtype: Dtype of the activations, such as `jnp.bfloat16`. Parameters, running
        statistics and logits are always float32.
      axis_name: Name of the mapped axis of devices over which batch normalisation
        computes its statistics in training (`training.AXIS` under `training.pmap`), so
        that a step does not depend on the number of devices. None: the statistics of
        each device, also for steps that are not mapped.

    Returns:
      A Flax module with the attributes `layers` and `preactivations`, the names of its
      activations in depth order.

    Raises:
      UnknownName: There is no such net; the message has the closest name.
    """
    errors.check_name("net", name, NETS)
    return NETS[name](classes=classes, dtype=dtype, axis_name=axis_name)
