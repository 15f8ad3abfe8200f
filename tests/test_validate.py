"""Checks of values: what they refuse, and with which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdljax import rdm, validate


def activations():
    return np.random.default_rng(0).normal(size=(8, 2, 3)).astype(np.float32)


SOUND = [
    ("activations", (activations(),)),
    ("activations", (np.zeros((0, 3)),)),
    ("activations", (activations().astype(jnp.bfloat16),)),
    ("distinct", (activations(),)),
    ("distances", (np.arange(6.0),)),
    ("distances", (np.array([1, np.nan]), np.array([2, 0]))),
    ("weights", (np.array([0, 0.5, 3]),)),
    ("indices", (np.array([[0, 4], [1, 3]], np.uint8), 5)),
    ("indices", (np.zeros(0, int), 5)),
    ("precision", (np.eye(3),)),
    ("precision", (np.stack([np.eye(3), 2 * np.eye(3)]),)),
    ("rates", (np.array([[0, 2], [1, 0]]),)),
    ("rates", (np.array([[1e-3, 2]]), 1.0, 0.0)),
]


@pytest.mark.parametrize(("name", "given"), SOUND)
def test_what_is_sound_is_returned(name, given):
    check = getattr(validate, name)
    assert check(*given) is given[0]
    of_jax = jnp.asarray(given[0])
    assert check(of_jax, *given[1:]) is of_jax


def test_every_check_is_tried():
    assert {name for name, _ in SOUND} == set(validate.__all__)


def hole(*values):
    x = activations()
    x[[2, 5], 1, 1] = values
    return x


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (
            "activations",
            (hole(np.nan, np.inf), "pooled"),
            "^pooled: expected finite numbers.* 2 of 8 stimuli, the first of them 2",
        ),
        ("activations", (hole(0, -np.inf),), "1 of 8 stimuli, the first of them 5"),
        ("distinct", (np.ones((8, 3)), "logits"), "^logits: .* same .* all 8 of them"),
        (
            "distances",
            (np.array([1, np.nan, 2]), None, "teacher's RDM"),
            "^the teacher's RDM: .*1 of 3 distances$",
        ),
        (
            "distances",
            (np.array([np.nan, np.inf]), np.array([0, 1])),
            "the RDM: .* 1 of 2 distances",
        ),
        ("weights", (np.array([1, -1e-9]),), "expected finite weights of 0 or more"),
        ("weights", (np.array([np.inf, 1]), "reliabilities"), "finite reliabilities"),
        ("weights", (np.array([np.nan, 1]),), "expected finite weights"),
        (
            "indices",
            (np.array([0, -3, 8]), 8),
            "the labels must be 0 to 7, got -3 to 8",
        ),
        ("indices", (np.array([2**32]), 8, "pairs"), "pairs must be 0 to 7, got 42949"),
        ("indices", (np.array([1.0]), 8), "the labels must be integers, got float64"),
        ("precision", (np.eye(6) + np.eye(6, k=1),), "symmetric.* by 1 of its largest"),
        ("precision", (np.ones((6, 6)) - 2 * np.eye(6),), "positive definite"),
        ("precision", (np.stack([np.eye(2), -np.eye(2)]),), "positive definite"),
        ("precision", (np.ones((3, 2)),), r"square matrix, got \(3, 2\)"),
        ("activations", (hole(np.nan, 1).astype(np.float16),), "1 of 8 stimuli"),
        ("precision", (np.full((2, 2), np.nan), "noise"), "^noise: .* finite numbers"),
        ("rates", (np.array([[0, -0.2]]),), "activations of 0 or more.* got.* of -0.2"),
        ("rates", (np.array([[0, 2]]), 1.0, 0.0), "a prior above 0 if one is 0"),
        ("rates", (np.array([[np.nan, 2]]),), "expected activations of 0 or more"),
    ],
)
def test_what_is_refused(name, given, message):
    for x in (given[0], jnp.asarray(given[0])):
        if x.dtype.kind == "i" and (np.asarray(x) != given[0]).any():
            continue  # (JAX keeps 32 bits.)
        with pytest.raises(ValueError, match=message.replace("float64", str(x.dtype))):
            getattr(validate, name)(x, *given[1:])


def test_a_check_is_not_for_jit():
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(validate.activations)(activations())


def test_what_is_refused_gives_nan_where_it_is_used():
    """The promise of losses and RDMs, which look at no values."""
    x = hole(np.nan, np.inf)
    with pytest.raises(ValueError, match="2 of 8"):
        rdm.compute(validate.activations(x))
    for compute in (rdm.compute, jax.jit(rdm.compute)):
        assert np.isnan(rdm.square(compute(x))[2, [0, 1, 3]]).all()
