"""Nets that see luminance or chrominance: the colours, and weights that keep it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data, weights
from experiments.data import colour, sets
from rdljax import nets

# sRGB from 0 to 255 and L, a, b under D65, as colour tables have them
# (brucelindbloom.com's calculator; CIE white is 100, 0, 0).
KNOWN = {
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (255, 255, 255): (100.0, 0.0, 0.0),
    (0, 0, 0): (0.0, 0.0, 0.0),
    (119, 119, 119): (50.03, 0.0, 0.0),
}


def slow(rgb):
    """L*a*b* of one colour in plain Python, by the standard's formulas."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    rows = (
        (0.4124564, 0.3575761, 0.1804375),
        (0.2126729, 0.7151522, 0.0721750),
        (0.0193339, 0.1191920, 0.9503041),
    )
    white = (0.95047, 1.0, 1.08883)
    f = []
    for row, of_white in zip(rows, white, strict=True):
        t = sum(a * b for a, b in zip(row, linear, strict=True)) / of_white
        f.append(t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116)
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


class TestLab:
    @pytest.mark.parametrize("rgb", KNOWN)
    def test_known_colours(self, rgb):
        found = colour.lab(jnp.asarray(rgb, jnp.float32) / 255)
        np.testing.assert_allclose(found, KNOWN[rgb], atol=0.02)

    def test_any_colour_and_its_gradient(self):
        rgb = np.random.default_rng(0).random((40, 3))
        rgb[:4] = [[0, 0, 0], [0.001, 0, 0.002], [1, 1, 1], [0.04045] * 3]
        found = colour.lab(jnp.asarray(rgb, jnp.float32))
        np.testing.assert_allclose(found, [slow(x) for x in rgb], atol=2e-3)
        gradient = jax.grad(lambda x: colour.lab(x).sum())(
            jnp.asarray(rgb, jnp.float32)
        )
        assert np.isfinite(gradient).all()


def colours(images=24):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (images, 32, 32, 3)).astype(np.uint8)
    split = data.Split(image, np.arange(images, dtype=np.int32) % 3)
    mean, std = sets._moments(image)
    return data.Dataset("noise", 3, split, split, split, "noise", mean, std)


class TestSeeing:
    @pytest.mark.parametrize(
        ("part", "which"), [("luminance", [0]), ("chrominance", [1, 2])]
    )
    def test_a_net_sees_its_part_of_normalised_images(self, part, which):
        dataset = colours()
        net = colour.select_channels(part, nets.build("mlp", 3), dataset)
        images = data.normalise(dataset, dataset.train.image[:2])
        variables = net.init(jax.random.key(0), images)
        inputs = {x.shape[0] for x in jax.tree.leaves(variables["params"])}
        assert 32 * 32 * len(which) in inputs
        shift, scale = {"luminance": (50, 25), "chrominance": (0, 15)}[part]
        rgb = dataset.train.image[:2] / 255
        lab = np.array([slow(x) for x in rgb.reshape(-1, 3)]).reshape(rgb.shape)
        want = nets.build("mlp", 3).apply(
            variables, jnp.asarray((lab[..., which] - shift) / scale, jnp.float32)
        )
        found = net.apply(variables, images, train=False)
        np.testing.assert_allclose(found["logits"], want["logits"], atol=2e-3)

    def test_weights_keep_what_a_net_sees(self, tmp_path):
        dataset = colours()
        net = colour.select_channels("chrominance", nets.build("mlp", 3), dataset)
        images = data.normalise(dataset, dataset.train.image[:2])
        variables = net.init(jax.random.key(0), images)
        trained = weights.TrainedNet(
            "mlp", 3, (32, 32, 3), variables, None, {"run": "here"}, "chrominance"
        )
        weights.save(trained, tmp_path / "weights")
        found = weights.load(tmp_path / "weights")
        assert found.modality == "chrominance"
        again = found.net(dataset).apply(found.variables, images)
        np.testing.assert_array_equal(
            again["logits"], net.apply(variables, images)["logits"]
        )
        # Normalised by other numbers, it sees the same colours.
        other = dataclasses.replace(dataset, mean=(0.0,) * 3, std=(255.0,) * 3)
        images = data.normalise(other, dataset.train.image[:2])
        np.testing.assert_allclose(
            found.net(other).apply(found.variables, images)["logits"],
            again["logits"],
            atol=1e-4,
        )
