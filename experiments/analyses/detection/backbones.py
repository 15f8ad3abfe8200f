"""Loads the backbones of detectors: trained nets and one of their layers."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp

from experiments import command, data, display, weights
from experiments.analyses.detection import centernet
from experiments.analyses.detection import options as detection_options
from rdljax import errors, nets

Array = jax.Array

# The smallest height and width of the map that the head reads by default.
LEAST_GRID = 8


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The initial backbone of a detector.

    Attributes:
      name: The name in the table.
      seed: The seed of the training.
      net: The name of the net.
      detector: The detector with this net.
      variables: The variables of the net.
    """

    name: str
    seed: int
    net: str
    detector: centernet.Detector
    variables: Any

    @property
    def run(self) -> str:
        """Returns the name of the training."""
        return f"{self.name}-seed{self.seed}"


def parse_backbones(given: Sequence[str]) -> dict[str, str]:
    """Parses `NAME=FOLDER` or `NAME=random:NET` into `FOLDER` or `random:NET`, by name.

    Raises:
      UsageError: If one has neither form, or two have the same name.
    """
    found = {}
    for one in given:
        name, _, source = one.partition("=")
        if not (source and re.fullmatch(r"[\w.+-]+", name)):
            raise command.UsageError(
                f"expected NAME=FOLDER or NAME=random:NET, got {one!r}"
            )
        if name in found:
            raise command.UsageError(f"two backbones are called {name}")
        found[name] = source
    return found


def load_backbone(
    name: str,
    source: str,
    seed: int,
    dataset: data.Dataset,
    normalise: Callable[[Array], Array],
    options: detection_options.Options,
) -> Backbone:
    """Returns a backbone and the detector around it.

    Args:
      name: The name in the table.
      source: The folder of weights, or `random:NET`.
      seed: The seed of the training.
      dataset: The data set.
      normalise: The function that normalises its images.
      options: The settings, for `size`, `layer` and `frozen`.

    Raises:
      UsageError: If there is no such folder, or the net cannot take the canvases, or
        has no map for the head.
      UnknownName: If there is no such net, or layer.
    """
    net_name, net, draw = _net(name, source, seed, dataset)
    canvas = jnp.zeros((1, options.size, options.size, dataset.shape[-1]))
    try:
        seen = jax.eval_shape(lambda: net.apply(draw(), canvas))
    except flax.errors.FlaxError as error:
        raise command.UsageError(
            f"{name}: {net_name} cannot see canvases of {options.size} x "
            f"{options.size} pixels, since it flattens its maps and takes images of "
            "one size only; nets that take the mean over positions can, such as "
            "resnet8, wrn_16_1 and vgg8"
        ) from error
    layer = options.layer
    if layer is None:
        layer = last_stage(name, net, seen, options.size)
    errors.check_name(
        f"map of {name}", layer, [k for k, x in seen.items() if x.ndim == 4]
    )
    grid = seen[layer].shape[1]
    if options.size % grid:
        raise command.UsageError(
            f"size: {layer} of {name} has {grid} x {grid} cells, which do not divide "
            f"{options.size} pixels"
        )
    detector = centernet.Detector(
        net,
        normalise,
        layer,
        grid,
        options.size // grid,
        dataset.classes,
        options.frozen,
    )
    return Backbone(name, seed, net_name, detector, draw())


def _net(
    name: str, source: str, seed: int, dataset: data.Dataset
) -> tuple[str, Any, Callable[[], Any]]:
    """Returns the name of a backbone's net, the net, and a function for its variables.

    Raises:
      UsageError: If there is no such folder, or the net sees other channels.
      UnknownName: If there is no such net.
    """
    drawn = source.removeprefix("random:")
    if drawn != source:
        net = nets.build(drawn, dataset.classes)
        blank = jnp.zeros((1, *dataset.shape))
        return drawn, net, functools.partial(net.init, jax.random.key(seed), blank)
    trained = weights.load(source.replace("{seed}", str(seed)))
    own, channels = trained.shape[-1], dataset.shape[-1]
    if own != channels:
        raise command.UsageError(
            f"{name} sees images of {display.count_of(own, 'channel')}, "
            f"{dataset.name} has {channels}"
        )
    net = trained.wrap_net(dataset, nets.build(trained.name, trained.classes))
    return trained.name, net, functools.partial(_itself, trained.variables)


def _itself(x: Any) -> Any:
    return x


def last_stage(name: str, net: Any, seen: dict[str, Array], size: int) -> str:
    """Returns the name of the deepest stage that is fine enough for a head.

    Args:
      name: The name of the backbone.
      net: The backbone.
      seen: The activations of the backbone, or their shapes.
      size: The height and width of the canvases in pixels.

    Raises:
      UsageError: If no stage is fine enough.
    """
    stages = [layer for layer in net.layers if layer.startswith("stage")]
    fine = [layer for layer in stages if seen[layer].shape[1] >= LEAST_GRID]
    if not fine:
        raise command.UsageError(
            f"{name} has no stage of {LEAST_GRID} x {LEAST_GRID} cells or more for "
            f"canvases of {size} pixels; --size sets larger ones, --layer names a map"
        )
    return fine[-1]
