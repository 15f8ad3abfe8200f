"""One step, many ways to take it: in a loop, a scan, several seeds together, mapped."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rdljax import objectives, teachers, terms, training
from tests import test_devices as every
from tests import test_training as some

# An epoch's; each training has an order of its own.
STEPS = some.N // some.BATCH
SEEDS = (0, 1, 2)
PHASE = some.PHASE


def keyless(tree):
    def one(x):
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(one, tree)


def order(seed):
    """The batches of an epoch, `[steps, batch]`."""
    index = np.random.default_rng(seed).permutation(some.N).astype(np.int32)
    return index.reshape(STEPS, some.BATCH)


class Lab:
    """What all trainings share."""

    def __init__(self, devices=2, phase=PHASE):
        self.devices, self.phase = jax.local_devices()[:devices], phase
        self.net, self.teacher, arrays = some.setting(training.AXIS)
        self.arrays = training.replicate(arrays, self.devices)
        self.body = training.make_step(
            self.net, self.teacher, phase, some.OPTIMIZER, some.view
        )
        self.step = self.pmap(self.body)

    def begin(self, seed, view_key=None):
        state = training.init(
            jax.random.key(seed),
            self.net,
            self.teacher,
            [self.phase],
            some.view,
            self.arrays,
            {"index": order(0)[0]},
            devices=len(self.devices),
            view_key=view_key,
        )
        return training.begin_phase(state, self.phase, some.OPTIMIZER)

    def pmap(self, step):
        return training.pmap(step, self.devices)

    def shard(self, index):
        return training.shard({"index": index}, len(self.devices), axis=index.ndim - 1)

    def one_by_one(self, seed, index, view_key=None):
        """The state and the metrics `[steps]` of a plain loop."""
        state, metrics = self.begin(seed, view_key), []
        for batch in index:
            state, metric = self.step(state, self.arrays, self.shard(batch))
            metrics.append(metric)
        return keyless(state), jax.tree.map(lambda *x: np.stack(x), *metrics)


SLOW = pytest.mark.slow
ALL = pytest.param(tuple(some.LOSS), marks=SLOW, id="all terms")


def of_terms(names):
    return Lab(phase=PHASE._replace(terms={name: some.LOSS[name] for name in names}))


@pytest.fixture(scope="module", params=[pytest.param(some.NAMES, id="terms"), ALL])
def lab(request):
    return of_terms(request.param)


few = pytest.param(("task", "hint", "count"), id="few terms")


@pytest.fixture(scope="module", params=[few, ALL])
def small(request):
    """For what is written out, and takes as many times as long to compile."""
    return of_terms(request.param)


@pytest.fixture(scope="module")
def plain(lab):
    """By seed, the plain loop over an order of its own."""
    return {seed: lab.one_by_one(seed, order(seed)) for seed in SEEDS}


class TestSuccessive:
    @pytest.mark.parametrize("unrolled", [False, pytest.param(True, marks=SLOW)])
    def test_an_epoch_in_one_program(self, lab, plain, unrolled):
        steps = lab.pmap(training.scan_steps(lab.body, unrolled=unrolled))
        found = steps(lab.begin(0), lab.arrays, lab.shard(order(0)))
        assert found[1]["loss"].shape == (STEPS,)
        every.assert_same(keyless(found), plain[0], 1e-4)

    @pytest.mark.parametrize("count", [1, 2, 7])
    @pytest.mark.parametrize("unrolled", [False, True])
    def test_a_loop_on_the_device_or_written_out(self, unrolled, count):
        def step(state, arrays, batch, *, axis_name=None):
            return jnp.sin(state) * batch, {"loss": state}

        steps = training.scan_steps(step, unrolled=unrolled)
        example = 1.0, (), np.full(count, 0.5, np.float32)
        text = jax.jit(steps).lower(*example).as_text()
        assert ("stablehlo.while" in text) is not unrolled
        state, metrics = jax.jit(steps)(*example)
        assert metrics["loss"].shape == (count,) and metrics["loss"][0] == 1
        assert state == pytest.approx(np.sin(metrics["loss"][-1]) / 2)

    @pytest.mark.parametrize("unrolled", [True, pytest.param(False, marks=SLOW)])
    def test_from_the_middle_of_an_epoch(self, small, unrolled):
        """Some steps one by one, the others in one program."""
        steps = small.pmap(training.scan_steps(small.body, unrolled=unrolled))
        state, _ = small.step(small.begin(0), small.arrays, small.shard(order(0)[0]))
        state, metrics = steps(state, small.arrays, small.shard(order(0)[1:]))
        expected, all_metrics = small.one_by_one(0, order(0))
        last = {name: x[1:] for name, x in all_metrics.items()}
        every.assert_same(keyless((state, metrics)), (expected, last), 1e-4)


class TestTogether:
    def test_each_is_its_own_single_training(self, lab, plain):
        states = training.stack_trainings([lab.begin(seed) for seed in SEEDS])
        steps = lab.pmap(training.scan_steps(training.vmap_trainings(lab.body)))
        index = np.stack([order(seed) for seed in SEEDS], axis=1)
        states, metrics = steps(states, lab.arrays, lab.shard(index))
        assert metrics["loss"].shape == (STEPS, len(SEEDS))
        for i, seed in enumerate(SEEDS):
            found = (
                training.select_training(states, i),
                {k: v[:, i] for k, v in metrics.items()},
            )
            every.assert_same(keyless(found), plain[seed], 1e-4)

    def test_they_differ(self, plain):
        losses = [plain[seed][1]["loss"] for seed in SEEDS]
        for one, other in itertools.combinations(losses, 2):
            assert abs(one - other).max() > 0.1

    @pytest.mark.parametrize("lab", [ALL], indirect=True)
    def test_two_of_them_differ_at_every_step(self, lab, plain):
        losses = [plain[seed][1]["loss"] for seed in SEEDS[:2]]
        assert abs(losses[0] - losses[1]).min() > 1e-2

    def test_with_the_same_batches(self, lab):
        key = jax.random.key(5)
        states = [lab.begin(seed, key) for seed in SEEDS]
        states = training.stack_trainings(states, same_view=True)
        steps = lab.pmap(training.scan_steps(training.vmap_trainings(lab.body)))
        states, _ = steps(states, lab.arrays, lab.shard(order(0)))
        for i, seed in enumerate(SEEDS):
            expected, _ = lab.one_by_one(seed, order(0), key)
            every.assert_same(
                keyless(training.select_training(states, i)), expected, 1e-4
            )

    @pytest.mark.parametrize("same", [False, True])
    def test_written_out_they_are_the_same(self, small, same):
        key, seeds = jax.random.key(5) if same else None, SEEDS[:2]
        orders = [order(0 if same else seed)[:1] for seed in seeds]
        index = orders[0][0] if same else np.concatenate(orders)
        states = [small.begin(seed, key) for seed in seeds]
        states = training.stack_trainings(states, same_view=same)
        form = jax.tree.map(lambda x: (x.shape, x.dtype), states)
        step = small.pmap(training.vmap_trainings(small.body, unrolled=True))
        states, metrics = step(states, small.arrays, small.shard(index))
        assert jax.tree.map(lambda x: (x.shape, x.dtype), states) == form
        for i, seed in enumerate(seeds):
            found = (
                training.select_training(states, i),
                {k: np.asarray(v)[[i]] for k, v in metrics.items()},
            )
            expected = small.one_by_one(seed, orders[i], key)
            every.assert_same(keyless(found), expected, 1e-4)

    @pytest.mark.parametrize("same", [False, True])
    def test_the_teacher_looks_once_at_the_same_batch(self, lab, same):
        def targets(arrays, batch):
            found = lab.teacher.targets(arrays, batch)
            jax.debug.callback(lambda x: seen.append(x.shape), found["logits"])
            return found

        seen = []
        names = ("task", "kd")
        phase = lab.phase._replace(terms={k: some.LOSS[k] for k in names})
        body = training.make_step(
            lab.net,
            teachers.Teacher(lab.teacher.arrays, targets),
            phase,
            some.OPTIMIZER,
            some.view,
        )
        begin = Lab(phase=phase).begin
        states = training.stack_trainings([begin(s) for s in SEEDS], same_view=same)
        index = order(0)[0] if same else np.stack([order(s)[0] for s in SEEDS])
        jax.block_until_ready(
            lab.pmap(training.vmap_trainings(body))(
                states, lab.arrays, lab.shard(index)
            )
        )
        jax.effects_barrier()
        # A callback that is vectorised is called for each; one that is not, once.
        assert len(seen) == len(lab.devices) * (1 if same else len(SEEDS))

    @pytest.mark.parametrize(
        "numbers",
        [
            ([0.1, 1], [4, 1], [0.05, 0.2]),
            pytest.param(
                ([0.1, 1, 1, 1], [4, 4, 1, 4], [0.05, 0.05, 0.05, 0.2]), marks=SLOW
            ),
        ],
        ids=["two", "four"],
    )
    def test_other_weights_temperatures_and_rates(self, lab, numbers):
        """Each is the training with these numbers alone."""

        def phase_of(weight, kd):
            loss = {
                "task": some.LOSS["task"],
                "kd": (weight, terms.on_layers("logits", kd)),
            }
            return training.Phase(loss, epochs=1)

        def body_of(numbers):
            kd = terms.from_objective(objectives.kd, temperature=numbers["temperature"])
            phase = phase_of(numbers["weight"], kd)
            optimizer = optax.sgd(numbers["rate"], momentum=0.9)
            return training.make_step(lab.net, lab.teacher, phase, optimizer, some.view)

        begin = Lab(phase=phase_of(1.0, terms.from_objective(objectives.kd))).begin
        names, count = ("weight", "temperature", "rate"), len(numbers[0])
        numbers = dict(zip(names, map(np.float32, numbers), strict=True))
        together = training.vmap_over(body_of, numbers)
        states = training.stack_trainings([begin(0)] * count, same_view=True)
        steps = lab.pmap(training.scan_steps(together))
        states, metrics = steps(states, lab.arrays, lab.shard(order(0)))
        assert (np.diff(np.sort(metrics["loss"][-1])) > 1e-4).all()
        for i in range(count):
            alone = body_of({k: float(v[i]) for k, v in numbers.items()})
            step, state = lab.pmap(alone), begin(0)
            for batch in order(0):
                state, _ = step(state, lab.arrays, lab.shard(batch))
            found = training.select_training(states, i)
            every.assert_same(keyless(found), keyless(state), 1e-4)

    def test_at_one_step_alone(self, lab):
        ahead, _ = lab.step(lab.begin(0), lab.arrays, lab.shard(order(0)[0]))
        with pytest.raises(ValueError, match=r"at the same step, got steps \[1, 0\]"):
            training.check_same_step([ahead, lab.begin(1)])

    def test_what_is_of_one_training_is_said(self, lab):
        states = training.stack_trainings([lab.begin(0)] * 2)
        for call in (
            lambda: training.begin_phase(states, lab.phase, some.OPTIMIZER),
            lambda: training.reshard_like(states, states),
        ):
            with pytest.raises(ValueError, match="the state of one training"):
                call()

    @pytest.mark.parametrize("same", [False, True])
    def test_stacked_and_taken_apart(self, lab, same):
        key = jax.random.key(3) if same else None
        states = [lab.begin(seed, key) for seed in SEEDS]
        together = training.stack_trainings(states, same_view=same)
        for i, state in enumerate(states):
            found = training.select_training(together, i)
            jax.tree.map(np.testing.assert_array_equal, *map(keyless, (found, state)))


# What draws, remembers or trains. (How an objective alone is vectorised and scanned,
# test_objectives.py says.)
SOME = ["crd_sharded", "rdl pairs", "vid"]


@pytest.mark.parametrize(
    "names", [SOME, pytest.param(list(every.CASES), marks=pytest.mark.slow)], ids=len
)
def test_terms_scanned_together_and_mapped(names, float64):
    """Many terms in one phase: an epoch of two seeds at once, and step by step."""
    named = every.together(names)
    loss = {"task": (1.0, terms.cross_entropy())}
    loss |= {name: (1e-2, term) for name, term in named.items()}
    phase, dtype = training.Phase(loss, epochs=1), np.float64
    optimizer, source = optax.sgd(0.01, momentum=0.9), every.teacher(np.float64)
    devices = 2
    chosen = jax.local_devices()[:devices]
    arrays = training.Arrays(source.arrays, every.data(dtype))
    steps, seeds = every.N // every.BATCH, 2
    index = np.stack(
        [
            np.random.default_rng(seed)
            .permutation(every.N)[: steps * every.BATCH]
            .reshape(steps, every.BATCH)
            .astype(np.int32)
            for seed in range(seeds)
        ],
        axis=1,
    )

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def begin(net, seed, devices):
        state = training.init(
            jax.random.key(seed),
            net,
            source,
            [phase],
            every.view,
            arrays,
            {"index": index[0, 0]},
            devices=devices,
        )
        return training.begin_phase(every.of_dtype(state, dtype), phase, optimizer)

    net = every.Net(4)
    step = jax.jit(training.make_step(net, source, phase, optimizer, every.view))
    expected = []
    for seed in range(seeds):
        state = begin(net, seed, 1)
        state = state._replace(
            per_device=jax.tree.map(lambda x: x[0], state.per_device)
        )
        for batch in index[:, seed]:
            state, metrics = step(state, arrays, {"index": batch})
        rows = jax.tree.map(lambda x: x[: every.N], state.per_device)
        expected.append(keyless((metrics, state.replicated, rows)))

    net = every.Net(4, training.AXIS)
    body = training.vmap_trainings(
        training.make_step(net, source, phase, optimizer, every.view)
    )
    states = training.stack_trainings(
        [begin(net, seed, devices) for seed in range(seeds)]
    )
    states, metrics = training.pmap(training.scan_steps(body), chosen)(
        states,
        training.replicate(arrays, chosen),
        training.shard({"index": index}, devices, axis=2),
    )
    for seed in range(seeds):
        state = training.select_training(states, seed)
        rows = jax.tree.map(
            lambda x: np.reshape(x, (-1, *x.shape[2:]))[: every.N], state.per_device
        )
        last = {name: x[-1, seed] for name, x in metrics.items()}
        found = keyless((last, state.replicated, rows))
        assert all(np.isfinite(x) for x in last.values())
        every.assert_same(found, expected[seed], 1e-7)


class TestCompiled:
    def test_it_is_the_step_for_these_shapes_alone(self, lab):
        shapes = jax.eval_shape(lambda: lab.begin(0))
        batch = lab.shard(order(0)[0])
        program = training.compile_step(
            lab.body, shapes, lab.arrays, batch, lab.devices
        )
        assert program.seconds > 0
        found = program.step(lab.begin(0), lab.arrays, batch)
        expected = lab.step(lab.begin(0), lab.arrays, batch)
        every.assert_same(keyless(found), keyless(expected), 1e-4)
        with pytest.raises(TypeError):
            program.step(found[0], lab.arrays, lab.shard(order(0)[0][:8]))

    @pytest.mark.slow
    def test_it_is_the_epoch_for_these_shapes_alone(self, lab, plain):
        shapes, steps = jax.eval_shape(lambda: lab.begin(0)), lab.shard(order(0))
        body = training.scan_steps(lab.body)
        program = training.compile_step(body, shapes, lab.arrays, steps, lab.devices)
        found = program.step(lab.begin(0), lab.arrays, steps)
        every.assert_same(keyless(found), plain[0], 1e-4)
        with pytest.raises(TypeError):
            program.step(found[0], lab.arrays, lab.shard(order(0)[:1]))

    def test_memory_grows_by_what_is_kept(self):
        """Of a step that keeps 8 MiB, and of one that keeps 64."""

        def memory(mebibytes):
            def step(state, arrays, batch, *, axis_name=None):
                size = mebibytes * 2**18
                kept = jnp.sin(state.replicated.step + jnp.arange(size, dtype=float))
                return state, {"loss": jnp.sort(kept)[0]}

            lab = Lab(devices=1)
            example = lab.begin(0), lab.arrays, lab.shard(order(0)[0])
            return training.compile_step(step, *example, lab.devices).memory / 2**20

        # (To sort takes what is sorted, and what it becomes.)
        assert 56 <= memory(64) - memory(8) <= 2.2 * 56


class TestShard:
    def test_axes_before_the_examples_follow_the_devices(self):
        index = np.arange(3 * 2 * 8).reshape(3, 2, 8)
        found = training.shard({"index": index}, 4, axis=2)["index"]
        assert found.shape == (4, 3, 2, 2)
        np.testing.assert_array_equal(found[1], index[:, :, 2:4])
        image = np.zeros((3, 8, 5, 5, 1))
        assert training.shard({"image": image}, 2, axis=1)["image"].shape == (
            *(2, 3, 4),
            *(5, 5, 1),
        )

    def test_a_batch_that_does_not_divide(self):
        with pytest.raises(ValueError, match="a batch of 8 is not divisible by 3"):
            training.shard({"index": np.zeros((4, 8))}, 3, axis=1)
