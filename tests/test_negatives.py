"""Negatives: of other classes, uniform, and the same on any number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdljax import errors, objectives
from rdljax.terms import negatives

N = 12
# Classes that are neither sorted nor of equal size.
LABELS = np.array([7, 2, 7, 0, 2, 7, 0, 7, 2, 7, 2, 7])
INDEX = np.array([3, 0, 8, 11], np.int32)
BATCH = {"index": INDEX}
BANK = objectives.Bank(
    *np.random.default_rng(0).normal(0, 0.3, (2, N, 5)).astype(np.float32),
    np.array([20.0, 30.0], np.float32),
)
S, T = np.random.default_rng(1).normal(0, 0.4, (2, 4, 5)).astype(np.float32)


def choose(negatives, seed=0, batch=BATCH):
    return negatives(jax.random.key(seed), batch, N)


def rows_of(negatives, seed=0, batch=BATCH):
    """The rows that are chosen."""
    form = jax.jit(lambda key, batch: negatives(key, batch, N).rows)
    return np.asarray(form(jax.random.key(seed), batch))


def loss_of(negatives, batch=BATCH, **options):
    """CRD with what is chosen."""

    def form(key, batch):
        return negatives(key, batch, N).loss(S, T, BANK, **options)

    return jax.jit(form)(jax.random.key(0), batch)


def others(index, labels):
    same = np.arange(N) == index if labels is None else labels == labels[index]
    return set(np.flatnonzero(~same))


@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "none"])
class TestDrawn:
    def test_the_positive_comes_first_and_the_others_are_of_other_classes(self, labels):
        rows = rows_of(negatives.per_example(500, labels))
        assert rows.shape == (4, 501)
        np.testing.assert_array_equal(rows[:, 0], INDEX)
        for index, row in zip(INDEX, rows, strict=True):
            assert set(row[1:]) == others(int(index), labels)

    def test_all_others_are_as_likely(self, labels):
        rows = rows_of(negatives.per_example(20_000, labels))
        for index, row in zip(INDEX, rows, strict=True):
            expected = 20_000 / len(others(int(index), labels))
            counts = np.bincount(row[1:], minlength=N)
            counts = counts[counts > 0]
            # Five standard deviations of a binomial count.
            assert abs(counts - expected).max() < 5 * np.sqrt(expected)

    def test_an_example_draws_the_same_in_any_batch(self, labels):
        rows = rows_of(negatives.per_example(9, labels))
        alone = rows_of(negatives.per_example(9, labels), batch={"index": INDEX[2:3]})
        np.testing.assert_array_equal(alone[0], rows[2])

    def test_each_key_draws_anew(self, labels):
        first, second = (
            rows_of(negatives.per_example(9, labels), seed) for seed in (0, 1)
        )
        assert (first != second).any()

    def test_what_is_expected_is_the_mean_over_draws(self, labels):
        keys = jax.random.split(jax.random.key(0), 3000)

        @jax.jit
        @jax.vmap
        def one(key):
            chosen = negatives.per_example(6, labels)(key, BATCH, N)
            return chosen.loss(S, T, BANK, temperature=0.5)

        losses = one(keys)
        exact = loss_of(negatives.expectation(6, labels), temperature=0.5)
        error = np.std(losses) / np.sqrt(len(losses))
        assert abs(np.mean(losses) - exact) < 4 * error < 0.02 * exact

    def test_those_drawn_independently_count_the_same_on_average(
        self, labels, monkeypatch
    ):
        def weights(student, teacher, bank, positives, rows, own, **numbers):
            assert rows is None
            return own

        monkeypatch.setattr(objectives, "crd_shared", weights)

        @jax.jit
        @jax.vmap
        def one(key):
            return negatives.bernoulli(6, labels)(key, BATCH, N).loss(S, T, BANK)

        found = one(jax.random.split(jax.random.key(0), 20_000))
        for row, index in zip(np.mean(found, axis=0), INDEX, strict=True):
            rest = others(int(index), labels)
            expected = np.where(np.isin(np.arange(N), list(rest)), 6 / len(rest), 0)
            np.testing.assert_allclose(row, expected, atol=0.03)
        # A row's draw says nothing of another's, nor of another example's.
        count = np.sum(found[:, 0] > 0, axis=1)
        p = min(1.0, 6 / len(others(int(INDEX[0]), labels)))
        deviation = np.sqrt(len(others(int(INDEX[0]), labels)) * p * (1 - p))
        assert np.std(count) == pytest.approx(deviation, abs=0.05)

    def test_what_is_shared_counts_the_same_on_average(self, labels, monkeypatch):
        def weights(student, teacher, bank, positives, rows, own, **numbers):
            return jnp.zeros((4, N)).at[:, rows].set(own)

        monkeypatch.setattr(objectives, "crd_shared", weights)

        @jax.jit
        @jax.vmap
        def one(key):
            return negatives.per_batch(6, labels)(key, BATCH, N).loss(S, T, BANK)

        mean = np.mean(one(jax.random.split(jax.random.key(0), 20_000)), axis=0)
        for row, index in zip(mean, INDEX, strict=True):
            rest = others(int(index), labels)
            expected = np.where(np.isin(np.arange(N), list(rest)), 6 / len(rest), 0)
            np.testing.assert_allclose(row, expected, atol=0.03)


def test_shared_negatives_are_without_replacement_and_never_of_the_own_class():
    @jax.jit
    def both(key):
        chosen = negatives.per_batch(N, LABELS)(key, BATCH, N)
        # All rows drawn: as the bank's rows weighted by class.
        weights = negatives.is_other(LABELS, INDEX, jnp.arange(N))
        weights = weights * N / weights.sum(axis=1, keepdims=True)
        expected = objectives.crd_shared(S, T, BANK, INDEX, None, weights)
        return chosen.rows, chosen.loss(S, T, BANK), expected

    rows, loss, expected = both(jax.random.key(0))
    np.testing.assert_array_equal(np.sort(rows), np.arange(N))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_given_negatives_are_those_of_the_batch():
    indices = np.arange(20).reshape(4, 5) % N
    # (One program: two may differ in the last bit on another machine.)
    found, expected = jax.jit(
        lambda mine: (
            loss_of(negatives.from_batch("mine"), {"index": INDEX, "mine": mine}),
            objectives.crd(S, T, BANK, mine),
        )
    )(indices)
    np.testing.assert_allclose(found, expected)


def test_a_relaxed_positive_is_any_of_the_class():
    draw = jax.vmap(lambda key: negatives.of_same_class(key, LABELS, INDEX))
    drawn = jax.jit(draw)(jax.random.split(jax.random.key(0), 4000))
    for index, column in zip(INDEX, np.asarray(drawn).T, strict=True):
        mates = np.flatnonzero(LABELS[index] == LABELS)
        counts = np.bincount(column, minlength=N)
        assert set(np.flatnonzero(counts)) == set(mates)
        expected = 4000 / len(mates)
        assert abs(counts[mates] - expected).max() < 5 * np.sqrt(expected)


@pytest.mark.parametrize(
    "make",
    [
        *(negatives.per_example, negatives.expectation),
        *(negatives.bernoulli, negatives.per_batch),
    ],
)
def test_one_class_has_no_others(make):
    with pytest.raises(ValueError, match="two classes or more"):
        make(5, np.zeros(N, int))


@pytest.mark.parametrize(
    "make",
    [
        *(negatives.per_example, negatives.expectation),
        *(negatives.bernoulli, negatives.per_batch),
    ],
)
def test_relaxed_positives_are_of_the_class_and_negatives_are_not(make, monkeypatch):
    found = []

    def spy(student, teacher, bank, *arguments, **numbers):
        found.append(arguments)
        return jnp.zeros(())

    monkeypatch.setattr(objectives, "crd", spy)
    monkeypatch.setattr(objectives, "crd_shared", spy)

    @jax.jit
    def given(key):
        """What CRD would be called with."""
        make(6, LABELS, relax=True)(key, BATCH, N).loss(S, T, BANK)
        return found.pop()

    mates = np.array([LABELS[i] == LABELS for i in INDEX])
    moved = 0
    for seed in range(20):
        arguments = jax.device_get(given(jax.random.key(seed)))
        if make is negatives.per_example:
            (indices,) = arguments
            positives = indices[:, 0]
            for own, row in zip(mates, indices[:, 1:], strict=True):
                assert not own[row].any()
        else:
            positives, rows, weights = arguments
            rows = np.arange(N) if rows is None else rows
            for own, weight in zip(mates, weights, strict=True):
                assert not weight[own[rows]].any() and weight.any()
        for own, positive in zip(mates, positives, strict=True):
            assert own[positive]
        moved += int((positives != INDEX).sum())
    assert moved > 20


@pytest.mark.parametrize(
    "make",
    [
        *(negatives.per_example, negatives.expectation),
        *(negatives.bernoulli, negatives.per_batch),
    ],
)
def test_wrong_calls(make):
    with pytest.raises(ValueError, match="same class need labels"):
        make(5, relax=True)
    with pytest.raises(ValueError, match=r"each of 12 training examples.*\(11,\)"):
        choose(make(5, LABELS[:-1]))
    with pytest.raises(errors.UnknownName, match="'index'; did you mean 'indx'"):
        make(5)(jax.random.key(0), {"indx": INDEX}, N)


def test_given_negatives_must_be_in_the_batch():
    with pytest.raises(errors.UnknownName, match="entry of the batch 'mine'"):
        choose(negatives.from_batch("mine"))


POLICIES = {
    "from batch": negatives.from_batch("mine"),
    "per example": negatives.per_example(5),
    "per example, relaxed": negatives.per_example(5, LABELS, relax=True),
    "expectation": negatives.expectation(5, LABELS),
    "expectation, relaxed": negatives.expectation(5, LABELS, relax=True),
    "bernoulli": negatives.bernoulli(5, LABELS),
    "per batch": negatives.per_batch(5, LABELS),
    "per batch, relaxed": negatives.per_batch(5, LABELS, relax=True),
}
MINE = np.arange(12).reshape(4, 3)


class TestOutOfRange:
    """An index that is no training example gives NaN, and none that is no integer."""

    @staticmethod
    @functools.cache
    def losses():
        """Of each policy the loss, and the counts of a bank in two parts."""

        def one(choose, key, batch):
            chosen = choose(key, batch, N)
            counts = [*chosen.counts_of(0, 6), *chosen.counts_of(6, 6)]
            return chosen.loss(S, T, BANK), sum(map(jnp.sum, counts))

        return jax.jit(
            lambda key, batch: {
                name: one(choose, key, batch) for name, choose in POLICIES.items()
            }
        )

    def not_finite(self, index=INDEX, mine=MINE):
        found = self.losses()(jax.random.key(0), {"index": index, "mine": mine})
        return {name for name, (loss, _) in found.items() if not np.isfinite(loss)}

    @pytest.mark.parametrize("wrong", [-1, -5, N, N + 7])
    def test_is_nan(self, wrong):
        assert not self.not_finite()
        index = np.array([3, wrong, 8, 11], np.int32)
        assert self.not_finite(index) == set(POLICIES) - {"from batch"}
        for place in ((1, 0), (2, 2)):
            mine = MINE.copy()
            mine[place] = wrong
            assert self.not_finite(mine=mine) == {"from batch"}
            # Where the bank is divided, no part may miss it.
            batch = {"index": INDEX, "mine": mine}
            _, counts = self.losses()(jax.random.key(0), batch)["from batch"]
            assert np.isnan(counts)

    @pytest.mark.parametrize("policy", POLICIES)
    def test_is_an_integer(self, policy):
        index = np.array([3, 12, 8, 11])
        batch = {"index": index, "mine": np.stack([index] * 2, axis=1)}
        name = "mine" if policy == "from batch" else "index"
        jax.eval_shape(lambda: choose(POLICIES[policy], batch=batch).rows)
        batch = {"index": index * 0.5, "mine": batch["mine"] * 0.5}
        with pytest.raises(ValueError, match=f"the {name} must be integers, got float"):
            choose(POLICIES[policy], batch=batch)

    def test_of_same_class_has_none(self):
        draw = jax.jit(lambda i: negatives.of_same_class(jax.random.key(1), LABELS, i))
        found = np.asarray(draw(np.array([-1, 4, N, 4, N + 3])))
        assert (found[[0, 2, 4]] == N).all() and (LABELS[found[[1, 3]]] == 2).all()


@pytest.mark.parametrize(
    "make",
    [
        *(negatives.per_example, negatives.expectation),
        *(negatives.bernoulli, negatives.per_batch),
    ],
)
@pytest.mark.parametrize("count", [0, -3, 2.5, 3.0, "3", True, np.array([2]), None])
def test_a_number_of_negatives_is_whole_and_above_zero(make, count):
    with pytest.raises(ValueError, match="the number of negatives must be a whole num"):
        make(count)


def test_numbers_of_numpy_and_jax_are_numbers():
    for count in (np.int64(5), np.array(5), jnp.array(5)):
        shape = jax.eval_shape(
            lambda k, c=count: choose(negatives.per_example(c)).rows, 0
        )
        assert shape.shape == (4, 6)


def test_no_more_are_shared_than_there_are():
    with pytest.raises(ValueError, match="cannot draw 13 negatives from 12 examples"):
        choose(negatives.per_batch(N + 1))


@pytest.mark.parametrize(
    "make",
    [
        *(negatives.per_example, negatives.expectation),
        *(negatives.bernoulli, negatives.per_batch),
    ],
)
def test_one_example_has_no_others(make):
    with pytest.raises(ValueError, match="two training examples or more, got 1"):
        make(1)(jax.random.key(0), {"index": np.array([0])}, 1)


def test_classes_with_the_same_lower_bits_differ():
    labels = LABELS.astype(np.int64) % 2 * 2**32
    rows = np.arange(N)
    found = negatives.is_other(labels, INDEX, rows)
    np.testing.assert_array_equal(found, labels[INDEX][:, None] != labels[rows])


def check_promotion():
    """Traces all policies where no dtype is promoted without being told."""

    def losses(key, batch):
        return {
            name: choose(key, batch, N).loss(S, T, BANK)
            for name, choose in POLICIES.items()
        }

    batch = {"index": INDEX.astype(np.uint8), "mine": MINE.astype(np.int16)}
    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(losses, jax.random.key(0), batch)


def test_no_dtype_is_promoted_without_being_told():
    check_promotion()


def test_no_dtype_is_promoted_in_double_precision(float64):
    check_promotion()
