"""Terms: an objective together with what it trains or remembers.

A term is a pair of pure functions over the whole dicts of activations of student and
teacher. Terms compose: `between(pairs, term)` picks layers, `over_global_batch(term)`
gathers the batch over the devices first. A loss is a weighted sum of terms.

    terms.between("logits", terms.plain(objectives.kd, temperature=4.0))
    terms.over_global_batch(
        terms.between({"stage1": "stage2"}, terms.rdl(pairs=50))
    )
    terms.between("pooled", terms.crd(50_000, negatives.drawn(16384, labels)))
    terms.against(["a", "b"], terms.between("pooled", terms.plain(objectives.pkt)))
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rdljax import _checks, _geometry, _indices, _names, negatives, objectives, rdm
from rdljax.nets import regressors

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Pair = str | tuple[str, str] | tuple[str, list[str]]


class State(NamedTuple):
    """What a term remembers from step to step.

    Attributes:
      replicated: The same on all devices.
      per_device: Divided over the devices by rows (a bank): from `init` all of it,
        leaves `[rows, ...]`; in `apply` this device's part. Where their number does not
        divide, the last devices' parts are filled up with zeros.
    """

    replicated: PyTree = ()
    per_device: PyTree = ()


class Term(NamedTuple):
    """An objective with what it trains or remembers: two pure functions.

    Attributes:
      init: `init(key, student, teacher) -> (params, state)`, from the activations of
        one batch, of which only shapes and dtypes count (`jax.ShapeDtypeStruct` will
        do). `params` is the pytree to train, {} if there is nothing; `state` a `State`.
      apply: `apply(params, state, student, teacher, batch, axis_name=None) -> (loss,
        state)`. `batch` has what came with the images, such as `label` and `index`;
        `axis_name` is the mapped axis of the devices, if any.
      start: None, or as `apply`, the loss of a phase of its own in which the term
        starts up: see `start_up`.
      apply_globally: None, or as `apply`, of the global batch of which each device sees
        its part, where the term knows better than to gather all of it: see
        `over_global_batch`.
    """

    init: Callable[..., tuple[PyTree, State]]
    apply: Callable[..., tuple[Array, State]]
    start: Callable[..., tuple[Array, State]] | None = None
    apply_globally: Callable[..., tuple[Array, State]] | None = None


def plain(objective: Callable[..., Array], **numbers) -> Term:
    """An objective that trains and remembers nothing.

    Args:
      objective: `objective(student, teacher, **numbers) -> scalar`.
      **numbers: The keyword arguments it is called with.
    """

    def init(key, student, teacher):
        return {}, State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        return objective(student, teacher, **numbers), state

    return Term(init, apply)


def labelled(
    objective: Callable[..., Array], *, label: str = "label", **numbers
) -> Term:
    """An objective that also takes the right classes, such as `objectives.dkd`.

    Args:
      objective: `objective(student, teacher, labels, **numbers) -> scalar`.
      label: The entry of the batch `[batch]` with the right classes.
      **numbers: The keyword arguments it is called with.
    """

    def init(key, student, teacher):
        return {}, State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        return objective(student, teacher, batch[label], **numbers), state

    return Term(init, apply)


def between(pairs: Pair | Mapping[str, str] | Sequence[Pair], term: Term) -> Term:
    """A term between chosen layers.

    Args:
      pairs: Which layers the term sees.
        One name: that layer of both, as arrays.
        A tuple of two names: the student's layer and the teacher's, as arrays. The
          second may be a list of names, as a tuple of arrays, for several teachers.
        A dict from student's to teacher's names: those layers, as dicts.
        A list of names or pairs: those layers in that order, as tuples, for the
        objectives that relate successive layers (`ab`, `fsp`, `kdsvd`).
      term: What is applied to them.

    Raises:
      UnknownName: From `init` and `apply`: a net has no layer of that name.
    """
    pick_student, pick_teacher = _pickers(pairs)

    def init(key, student, teacher):
        return term.init(key, pick_student(student), pick_teacher(teacher))

    def picking(apply):
        def picked(params, state, student, teacher, batch, axis_name=None):
            student, teacher = pick_student(student), pick_teacher(teacher)
            return apply(params, state, student, teacher, batch, axis_name)

        return picked

    return _wrapped(init, term, picking)


def over_global_batch(term: Term) -> Term:
    """A term of the global batch, for relations between examples.

    Gathers activations and batch over the devices before it applies the term, so that
    the result does not depend on the number of devices. (`rdl` shares the work out and
    sums products instead, where that moves less.) The gradient flows back through the
    gathering; averaged over the devices (`pmean` after `grad`) it is that of the global
    loss. Outside a mapped axis it is the term itself.
    """

    def gathering(apply):
        def gathered(params, state, student, teacher, batch, axis_name=None):
            if axis_name is not None:
                student, teacher, batch = lax.all_gather(
                    (student, teacher, batch), axis_name, tiled=True
                )
            return apply(params, state, student, teacher, batch)

        return gathered

    start = None if term.start is None else gathering(term.start)
    return Term(term.init, term.apply_globally or gathering(term.apply), start)


def start_up(term: Term) -> Term:
    """A term's own start-up phase, for the phase of a plan before the main one.

    It has the term's parameters and stands under the term's name:

        factors = terms.between(("stage3", "stage3"), terms.ft())
        plan = [
            training.Phase(
                {"ft": (1.0, terms.start_up(factors))}, 5, trains=("ft/paraphraser",)
            ),
            training.Phase(
                {"task": (1.0, terms.cross_entropy()), "ft": (500.0, factors)},
                200,
                trains=("student", "ft/translator"),
            ),
        ]

    Raises:
      ValueError: The term has no start-up of its own.
    """
    if term.start is None:
        raise ValueError("this term has no start-up of its own")
    return Term(term.init, term.start)


def cross_entropy(logits: str = "logits", label: str = "label") -> Term:
    """The task: classification.

    Args:
      logits: The student's layer `[batch, classes]`.
      label: The entry of the batch `[batch]` with the right class. One that is none is
        a `ValueError` where it is known, and makes the loss NaN where it is traced.
    """

    def init(key, student, teacher):
        _names.check("student layer", logits, student)
        return {}, State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        own = student[logits]
        classes = own.shape[-1]
        _checks.check_indices(label, batch[label], classes)
        right = _indices.places(batch[label], classes)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
            own.astype(_geometry.compute_dtype(own)), right
        )
        return jnp.mean(_checks.nan_unless(right < classes, losses)), state

    return Term(init, apply)


def hint(
    *, normalize: bool = False, activation: Callable[[Array], Array] | None = None
) -> Term:
    """`objectives.hint` through a trained regressor for each layer.

    The regressor (`nets.regressors.Regressor`) maps the student's layer to the
    teacher's channels, by a convolution that fits the sizes.

    Args:
      normalize: Whether batch normalisation follows the convolution.
      activation: What is applied last. RepDistiller's regressor is that of
        `hint(normalize=True, activation=jax.nn.relu)`.

    References:
      Romero et al., `FitNets: Hints for Thin Deep Nets
      <https://arxiv.org/abs/1412.6550>`_, ICLR 2015, section 2.2.

    Departures: (1) the regressor is linear unless told otherwise, where the paper's
      ends with the guided layer's non-linearity: the layers here need not have one.
    """

    def make(s, t, axis_name):
        return regressors.Regressor(
            tuple(t.shape[1:]), normalize, activation, axis_name
        )

    init, run = _module_a_layer("hint", make)

    def apply(params, state, student, teacher, batch, axis_name=None):
        mapped = run(params, student, teacher, axis_name)
        return objectives.hint(mapped, teacher), state

    return Term(init, apply)


def vid(*, variance: float = 5.0, epsilon: float = 1e-5) -> Term:
    """`objectives.vid` with a trained mean and a trained variance for each layer.

    The mean is predicted from the student's layer, position by position, by three dense
    layers of the teacher's width (`nets.regressors.Pointwise`). Of maps of different
    size the larger is pooled to the smaller first. A vector beside maps, as of a
    multilayer perceptron taught by a convolutional net, is a map of one position.

    Args:
      variance: Of each of the teacher's channels at the start.
      epsilon: The smallest variance.

    References:
      Ahn et al., `Variational Information Distillation for Knowledge Transfer
      <https://arxiv.org/abs/1904.05835>`_, CVPR 2019; regressor and first variance are
      RepDistiller's, copied from the authors' code.
    """
    _checks.check_number("epsilon of vid", epsilon, above=0)
    _checks.check_number("variance of vid", variance, above=epsilon)
    # softplus of it, plus epsilon, is the variance.
    softplus = float(variance) - float(epsilon)
    first = softplus + math.log(-math.expm1(-softplus))

    def make(s, t, axis_name):
        return regressors.Pointwise(t.shape[-1])

    init_mean, run = _module_a_layer("vid", make)

    def init(key, student, teacher):
        student, teacher = jax.eval_shape(_as_maps, student, teacher)
        mean, state = init_mean(key, student, teacher)
        scale = jax.tree.map(
            lambda t: jnp.full(t.shape[-1], first, jnp.float32), teacher
        )
        return {"mean": mean, "log_scale": scale}, state

    def apply(params, state, student, teacher, batch, axis_name=None):
        student, teacher = _pooled(*_as_maps(student, teacher))
        mean = run(params["mean"], student, teacher, axis_name)
        loss = objectives.vid(mean, teacher, params["log_scale"], epsilon=epsilon)
        return loss, state

    return Term(init, apply)


def ab(*, margin: float = 1.0) -> Term:
    """`objectives.ab` through trained connectors, between layers in depth order.

    A connector is a convolution that fits the sizes, with batch normalisation
    (`nets.regressors.Regressor`); there is none where student and teacher have the same
    shape. The paper uses it in a phase of its own before the task, for the layers that
    are compared and those below:

        pairs = [(s, s) for s in ("stage1_preact", "stage2_preact")]
        trunk = ("student/stem", "student/stage1", "student/stage2")
        plan = [
            training.Phase(
                {"ab": (1.0, terms.between(pairs, terms.ab()))}, 30, ("ab", *trunk)
            ),
            training.Phase({"task": (1.0, terms.cross_entropy())}, 240),
        ]

    (The layers above have no gradient then: weight decay would only shrink them.)

    Args:
      margin: As for `objectives.ab`.

    References:
      Heo et al., `Knowledge Transfer via Distillation of Activation Boundaries
      <https://arxiv.org/abs/1811.03233>`_, AAAI 2019.

    Departures: (1) where no convolution brings the student's map to the teacher's size,
      the larger of the two is pooled to the smaller.
    """

    def make(s, t, axis_name):
        if s.shape == t.shape:
            return None
        return regressors.Regressor(
            tuple(t.shape[1:]), normalize=True, axis_name=axis_name
        )

    init, run = _module_a_layer("ab", make)

    def apply(params, state, student, teacher, batch, axis_name=None):
        mapped = run(params, student, teacher, axis_name)
        return objectives.ab(*_pooled(mapped, teacher), margin=margin), state

    return Term(init, apply)


def ft(*, rate: float = 0.5, objective: Callable[..., Array] = objectives.ft) -> Term:
    """`objectives.ft` between the factors of a paraphraser and of a translator.

    The paraphraser is an autoencoder of the teacher's maps whose code is the teacher's
    factor. It is trained to reconstruct them in a phase of its own (`start_up`), and
    frozen. The translator makes the student's factor: three convolutions with batch
    normalisation.

    Args:
      rate: Channels of a factor as a share of the teacher's.
      objective: `objectives.ft` or `objectives.ft_repdistiller`.

    References:
      Kim, Park & Kwak, `Paraphrasing Complex Network: Network Compression via Factor
      Transfer <https://arxiv.org/abs/1802.04977>`_, NeurIPS 2018, section 3; the
      layers are RepDistiller's.

    Departures: (1) the mean squared error of the reconstruction, as in RepDistiller,
      where the authors' code has the absolute one; (2) of factors of different size the
      larger is pooled to the smaller.
    """
    _checks.check_number("rate", rate, above=0)

    def width(teacher):
        return max(1, int(rate * teacher.shape[-1]))

    def encoder(teacher):
        channels = teacher.shape[-1], width(teacher), width(teacher)
        return regressors.Coder(channels)

    def decoder(teacher):
        channels = width(teacher), teacher.shape[-1], teacher.shape[-1]
        return regressors.Coder(channels, transposed=True)

    def translator(student, teacher, axis_name=None):
        channels = student.shape[-1], width(teacher), width(teacher)
        return regressors.Coder(channels, normalize=True, axis_name=axis_name)

    def init(key, student, teacher):
        shapes = [getattr(x, "shape", type(x).__name__) for x in (student, teacher)]
        if any(len(shape) != 4 or isinstance(shape, str) for shape in shapes):
            raise ValueError(
                f"ft: expected maps [batch, H, W, C], got student {shapes[0]} and "
                f"teacher {shapes[1]}"
            )
        code = (*teacher.shape[:3], width(teacher))
        keys = jax.random.split(key, 3)
        return {
            "paraphraser": {
                "encoder": _params(encoder(teacher), keys[0], teacher.shape),
                "decoder": _params(decoder(teacher), keys[1], code),
            },
            "translator": _params(translator(student, teacher), keys[2], student.shape),
        }, State()

    def encode(params, teacher):
        own = params["paraphraser"]["encoder"]
        return _run(encoder(teacher), own, lax.stop_gradient(teacher))

    def start(params, state, student, teacher, batch, axis_name=None):
        own = params["paraphraser"]["decoder"]
        reconstruction = _run(decoder(teacher), own, encode(params, teacher))
        return objectives.hint(reconstruction, teacher), state

    def apply(params, state, student, teacher, batch, axis_name=None):
        module = translator(student, teacher, axis_name)
        factor = _run(module, params["translator"], student)
        factors = _geometry.pool_to_smaller(factor, encode(params, teacher))
        return objective(*factors), state

    return Term(init, apply, start)


def cc(*, features: int = 128) -> Term:
    """`objectives.cc_repdistiller` between trained linear embeddings of both sides.

    (The paper's form needs no embedding: `plain(objectives.cc)`.)

    Args:
      features: Units of the embeddings.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, released code.
    """
    init, embed = _heads(features)

    def apply(params, state, student, teacher, batch, axis_name=None):
        student, teacher = embed(params, student, teacher)
        return objectives.cc_repdistiller(student, teacher), state

    return Term(init, apply)


def crd(
    examples: int,
    choose: negatives.Negatives,
    *,
    features: int = 128,
    temperature: float = 0.07,
    momentum: float = 0.5,
) -> Term:
    """`objectives.crd` with its embedding heads, banks and sampling.

    The heads are linear, one for the student's layer and one for the teacher's, both
    trained. The banks start random; their normalizers are those of the first batch.
    The batch must have `index` `[batch]`, each example's place among the training
    examples, none twice. The gradient is computed with the loss, after which the banks
    are updated where they lie, if the state is donated; second derivatives are 0.

    Args:
      examples: How many training examples there are: the rows of a bank.
      choose: What an example is contrasted with: `negatives.drawn(...)`,
        `expected(...)`, `shared(...)` or `given(...)`. The released code is nearest to
        `drawn(16384, labels)`.
      features: Units of the embeddings.
      temperature: What scores are divided by: above about 0.012, where the normalizers
        overflow in single precision and the loss is NaN.
      momentum: Share of the old row when a bank is updated.

    Returns:
      The term. It raises `ValueError` for several layers, for labels that are not one
      for each training example, for a batch without `index`, and for known indices
      that are no training examples. Of traced ones the loss is NaN.

    Raises:
      ValueError: Numbers of a wrong kind or out of range, or negatives that are none of
        `rdljax.negatives`.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, and its released code.
    """
    if not callable(choose):
        raise ValueError(f"crd: expected one of rdljax.negatives, got {choose!r}")
    examples = _checks.as_count("number of examples", examples, at_least=2)
    _checks.check_number("temperature", temperature, above=0)
    _checks.check_number("momentum", momentum, at_least=0, at_most=1)
    init_heads, embed = _heads(features)

    def init(key, student, teacher):
        heads, students, teachers, draws = jax.random.split(key, 4)
        params, _ = init_heads(heads, student, teacher)
        limit = 1 / math.sqrt(features / 3)
        bank = objectives.Bank(
            *(
                jax.random.uniform(k, (examples, features), minval=-limit, maxval=limit)
                for k in (students, teachers)
            ),
            # 0 until the first batch sets them.
            normalizers=jnp.zeros(2),
        )
        return params, State(replicated={"bank": bank, "key": draws})

    def apply(params, state, student, teacher, batch, axis_name=None):
        _names.check("entry of the batch", "index", batch)
        _checks.check_indices("index", batch["index"], examples)
        index = _indices.places(batch["index"], examples)
        bank = state.replicated["bank"]
        key, step = jax.random.split(state.replicated["key"])
        s, t = map(_geometry.unit_rows, embed(params, student, teacher))
        chosen = choose(step, batch, examples)

        first = objectives.normalizers(
            s, t, bank, chosen.rows, temperature=temperature
        ).astype(bank.normalizers.dtype)
        everyone = s, t, index
        if axis_name is not None:
            first = lax.pmean(first, axis_name)
            everyone = lax.all_gather(everyone, axis_name, tiled=True)
        bank = _normalized(bank, first)
        contrast = functools.partial(chosen.loss, bank=bank, temperature=temperature)
        loss, zero = _with_gradient(contrast, s, t)
        if axis_name is not None:
            zero = lax.psum(zero, axis_name)
        s, t, index = everyone
        bank = objectives.update_bank(
            bank, s + zero, t + zero, index, momentum=momentum
        )
        loss = _checks.nan_unless(jnp.all(index < examples), loss)
        return loss, State(replicated={"bank": bank, "key": key})

    return Term(init, apply)


def crd_sharded(
    examples: int,
    choose: negatives.Negatives,
    *,
    features: int = 128,
    temperature: float = 0.07,
    momentum: float = 0.5,
) -> Term:
    """`crd` with banks divided by rows over the devices, for very many examples.

    The same loss, to rounding, with the same key. Each device remembers `examples /
    devices` rows of either bank and compares the embeddings of the whole batch with
    them, so that memory and products are shared out. (With `negatives.drawn` every
    device draws for the whole batch: `negatives.expected` fits better.) Not to be
    wrapped in `over_global_batch`.

    Args:
      examples: How many training examples there are, over all devices.
      choose: As for `crd`, and so are the others.
      features: Units of the embeddings.
      temperature: What scores are divided by.
      momentum: Share of the old row when a bank is updated.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, and its released code.
    """
    init_heads, embed = _heads(features)
    numbers = {"temperature": temperature, "momentum": momentum}
    init_whole = crd(examples, choose, features=features, **numbers).init

    def init(key, student, teacher):
        params, state = init_whole(key, student, teacher)
        bank = state.replicated["bank"]
        replicated = {"normalizers": bank.normalizers, "key": state.replicated["key"]}
        return params, State(replicated, (bank.student, bank.teacher))

    def apply(params, state, student, teacher, batch, axis_name=None):
        _names.check("entry of the batch", "index", batch)
        s, t = map(_geometry.unit_rows, embed(params, student, teacher))
        device = 0
        if axis_name is not None:
            s, t, batch = lax.all_gather((s, t, batch), axis_name, tiled=True)
            device = lax.axis_index(axis_name)

        def over_devices(part):
            return part if axis_name is None else lax.psum(part, axis_name)

        key, step = jax.random.split(state.replicated["key"])
        chosen = choose(step, batch, examples)
        rows = objectives.Bank(*state.per_device, state.replicated["normalizers"])
        count = len(rows.student)
        first = device * count
        negative, counted = (x.astype(s.dtype) for x in chosen.among(first, count))

        def place(index):
            """Among this device's rows; `count` of other devices, -1 of none."""
            _checks.check_indices("index", index, examples)
            index = _indices.places(index, examples)
            mine = (index >= first) & (index < first + count)
            place = jnp.where(mine, index - first, count)
            return jnp.where(index < examples, place, -1)

        sums = objectives.exponentials_of_rows(
            s, t, rows, counted, temperature=temperature
        )
        sums, weight = over_devices((sums, jnp.sum(counted)))
        fresh = (sums * (examples / weight)).astype(rows.normalizers.dtype)
        rows = _normalized(rows, fresh)
        part, zero = _with_gradient(
            functools.partial(
                objectives.crd_of_rows,
                rows=rows,
                positives=place(chosen.positives),
                negatives=negative,
                counts=over_devices(jnp.sum(negative, axis=1)),
                n=examples,
                temperature=temperature,
            ),
            s,
            t,
        )
        index = place(batch["index"])
        part = _checks.nan_unless(jnp.all(index >= 0), part)
        moved = objectives.update_rows(
            rows, s + zero, t + zero, index, momentum=momentum
        )
        replicated = {"normalizers": rows.normalizers, "key": key}
        return over_devices(part), State(replicated, (moved.student, moved.teacher))

    return Term(init, apply)


def _normalized(bank: objectives.Bank, first: Array) -> objectives.Bank:
    """The bank with normalizers: those of the first batch, where it has none yet."""
    unknown = bank.normalizers <= 0
    return bank._replace(normalizers=jnp.where(unknown, first, bank.normalizers))


def _with_gradient(
    loss: Callable[[Array, Array], Array], s: Array, t: Array
) -> tuple[Array, Array]:
    """A loss that has its gradient at once, and a zero that is known after both.

    A bank that is updated where it lies must not be read later, or XLA copies it. The
    backward pass would read it: the gradient is therefore computed with the loss, and
    whatever the zero is added to comes after them. (On CPUs XLA drops
    `lax.optimization_barrier`, which would order them too.) Second derivatives are 0.
    """
    fixed = jax.tree.map(lax.stop_gradient, (s, t))
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*fixed)
    after = value + sum(jnp.sum(g) for g in gradients)
    # (NaN remains NaN, so that no compiler takes it for a constant.)
    zero = jnp.where(after == after, 0, after)
    return _backed(value, (s, t), gradients), zero


@jax.custom_vjp
def _backed(value: Array, inputs: Any, gradients: Any) -> Array:
    """The value, whose gradient with respect to the inputs is the one given."""
    del inputs, gradients
    return value


_backed.defvjp(
    lambda value, inputs, gradients: (value, gradients),
    lambda gradients, of_value: (
        None,
        jax.tree.map(lambda g: (of_value * g).astype(g.dtype), gradients),
        None,
    ),
)


def crd_of_batch(
    *, features: int = 128, temperature: float = 0.07, label: str | None = "label"
) -> Term:
    """`objectives.crd_shared` without a bank: the batch is its own.

    For very large batches or data sets. Wrapped in `over_global_batch` the negatives
    are those of all devices. Positives and negatives are the current embeddings, and
    both sides of each pair receive a gradient; the normalizers are each batch's own.

    Args:
      features: Units of the embeddings.
      temperature: What scores are divided by.
      label: The entry of the batch with the classes: negatives are of other classes.
        None for all others.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020; the bank's author suggests large
      batches in its place (RepDistiller, issue 40).
    """
    _checks.check_number("temperature", temperature, above=0)
    init, embed = _heads(features)

    def apply(params, state, student, teacher, batch, axis_name=None):
        s, t = map(_geometry.unit_rows, embed(params, student, teacher))
        rows = jnp.arange(len(s))
        weights = negatives.is_other(
            None if label is None else batch[label], rows, rows
        )
        bank = objectives.Bank(s, t, normalizers=None)
        loss = objectives.crd_shared(
            s, t, bank, rows, weights=weights, temperature=temperature
        )
        return loss, state

    return Term(init, apply)


def against(
    names: Sequence[str], term: Term, weights: Sequence[float] | None = None
) -> Term:
    """A term against each of several teachers: the weighted sum.

    Against each teacher the term has parameters and a memory of its own.

    Args:
      names: Of the teachers, as given to `teachers.several`.
      term: Sees the student's layers and, under their own names, those of one teacher.
      weights: Of each teacher, 1 by default.

    Raises:
      ValueError: Not a weight for each teacher, or a teacher named twice.
    """
    weights = (1.0,) * len(names) if weights is None else tuple(weights)
    if len(weights) != len(names) or not names or len(set(names)) != len(names):
        raise ValueError(f"expected a weight for each of {names}, got {weights}")
    for name, weight in zip(names, weights, strict=True):
        _checks.check_number(f"weight of {name}", weight)

    def of(teacher, name):
        start = f"{name}/"
        found = {
            layer.removeprefix(start): activations
            for layer, activations in teacher.items()
            if layer.startswith(start)
        }
        if not found:
            known = sorted({k.rpartition("/")[0] for k in teacher})
            _names.check("teacher", name, known)
        return found

    def init(key, student, teacher):
        keys = jax.random.split(key, len(names))
        made = {
            name: term.init(k, student, of(teacher, name))
            for k, name in zip(keys, names, strict=True)
        }
        state = State(*({n: s[i] for n, (_, s) in made.items()} for i in range(2)))
        return {name: params for name, (params, _) in made.items()}, state

    def summing(apply):
        def summed(params, state, student, teacher, batch, axis_name=None):
            total, replicated, per_device = 0.0, {}, {}
            for name, weight in zip(names, weights, strict=True):
                memory = State(state.replicated[name], state.per_device[name])
                loss, memory = apply(
                    params[name], memory, student, of(teacher, name), batch, axis_name
                )
                replicated[name], per_device[name] = memory
                total += jnp.asarray(weight, loss.dtype) * loss
            return total, State(replicated, per_device)

        return summed

    return _wrapped(init, term, summing)


def kd_mean(
    *, temperature: float = 4.0, weights: Sequence[float] | None = None
) -> Term:
    """`objectives.kd` towards the mean of several teachers' class probabilities.

        terms.between(("logits", ["a/logits", "b/logits"]), terms.kd_mean())

    Args:
      temperature: As for `objectives.kd`; the probabilities are averaged at it.
      weights: Of each teacher, all alike by default.

    References:
      Hinton, Vinyals & Dean, `Distilling the Knowledge in a Neural Network
      <https://arxiv.org/abs/1503.02531>`_, 2015, section 1: ensembles.
    """
    _checks.check_number("temperature", temperature, above=0)

    def objective(student, teachers):
        dtype = _geometry.compute_dtype(student)
        softness = jnp.asarray(temperature, dtype)
        probabilities = [jax.nn.softmax(t.astype(dtype) / softness) for t in teachers]
        mean = _weighted_mean(probabilities, weights)
        logits = softness * jnp.log(mean)
        return objectives.kd(student, logits, temperature=temperature)

    return plain(objective)


def rdl_mean(
    *,
    distance=rdm.distances.Cosine(),
    comparison=rdm.comparisons.Pearson(),
    weights: Sequence[float] | None = None,
) -> Term:
    """`objectives.rdl_target` towards the mean of several teachers' RDMs.

        terms.between(("stage1", ["a/stage1", "b/stage1"]), terms.rdl_mean())

    Args:
      distance: As for `objectives.rdl`.
      comparison: As for `objectives.rdl`.
      weights: Of each teacher, all alike by default.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, 2016; its first author's
      prototype takes the mean RDM of three nets.
    """

    def objective(student, teachers):
        rdms = [rdm.compute(t, distance=distance) for t in teachers]
        target = _weighted_mean(rdms, weights)
        return objectives.rdl_target(
            student, target, distance=distance, comparison=comparison
        )

    return plain(objective)


def rdl(*, pairs: int | None = None, **numbers) -> Term:
    """`objectives.rdl` over all pairs of the batch, or over random ones.

    Wrapped in `over_global_batch` the pairs are drawn from the global batch, the same
    on all devices.

    Args:
      pairs: How many random pairs each step draws anew; None for all.
      **numbers: `distance` and `comparison` of `objectives.rdl`.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, 2016; its first author's
      prototype draws 50 pairs a step.
    """
    if pairs is not None:
        pairs = _checks.as_count("number of pairs", pairs)

    def init(key, student, teacher):
        return {}, State(replicated=() if pairs is None else key)

    def loss_of(state, student, teacher, axis_name):
        whole = functools.partial(objectives.rdl, **numbers, axis_name=axis_name)
        if pairs is None:
            return whole(student, teacher), state
        key, draw = jax.random.split(state.replicated)
        devices = 1 if axis_name is None else lax.axis_size(axis_name)
        size = jax.tree.leaves(student)[0].shape[0] * devices
        drawn = rdm.sample_pairs(draw, size, pairs)
        return whole(student, teacher, drawn), State(replicated=key)

    def apply(params, state, student, teacher, batch, axis_name=None):
        return loss_of(state, student, teacher, None)

    def apply_globally(params, state, student, teacher, batch, axis_name=None):
        return loss_of(state, student, teacher, axis_name)

    return Term(init, apply, apply_globally=apply_globally)


def rdl_target(*, missing: bool = False, stimulus: str = "stimulus", **numbers) -> Term:
    """`objectives.rdl_target` towards measured RDMs, of the stimuli in the batch.

        term = terms.between(("stimuli/pooled", "human_it"), terms.rdl_target())
        terms.over_global_batch(term)

    Args:
      missing: Whether the RDMs have pairs that were not measured (NaN): those are then
        left out.
      stimulus: The entry of the batch `[stimuli]` that says which they are. One that is
        none is a `ValueError` where it is known, and makes the loss NaN where traced.
      **numbers: `distance`, `comparison`, `subjects` and `ceiling` of
        `objectives.rdl_target`.

    The teacher's layer has the rows of the RDMs: see `teachers.rdms`.
    """

    def one(student, rows, chosen):
        if rows.ndim not in (2, 3) or rows.shape[0] != chosen.shape[0]:
            raise ValueError(
                f"rdl_target takes rows of RDMs [stimuli, n] or [stimuli, subjects, n] "
                f"of {chosen.shape[0]} stimuli, as teachers.rdms answers, got "
                f"{rows.shape}"
            )
        stimuli = rows.shape[-1]
        _checks.check_indices(stimulus, chosen, stimuli)
        chosen = _indices.places(chosen, stimuli)
        square = jnp.take(rows, chosen, axis=-1)
        if square.ndim == 2:
            target = rdm.condense(square)
        else:
            target = jax.vmap(rdm.condense, in_axes=1)(square)
        weights = None
        if missing:
            measured = ~jnp.isnan(target)
            weights = measured.astype(target.dtype)
            target = jnp.where(measured, target, 0)
        loss = objectives.rdl_target(student, target, weights, **numbers)
        return _checks.nan_unless(jnp.all(chosen < stimuli), loss)

    def init(key, student, teacher):
        return {}, State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        losses = jax.tree.map(lambda s, t: one(s, t, batch[stimulus]), student, teacher)
        return functools.reduce(jnp.add, jax.tree.leaves(losses)), state

    return Term(init, apply)


def _wrapped(init: Callable, term: Term, wrap: Callable) -> Term:
    """The term with another `init`, and all that applies it wrapped."""
    _, *applies = term
    return Term(init, *(None if f is None else wrap(f) for f in applies))


def _params(module, key: Array, shape: tuple[int, ...]) -> PyTree:
    return module.init(key, jnp.zeros(shape, jnp.float32))["params"]


def _run(module, params: PyTree, x: Array) -> Array:
    # Running statistics are not kept: these modules are only used in training.
    # (Flax promotes activations and parameters to one dtype, which is meant.)
    with jax.numpy_dtype_promotion("standard"):
        return module.apply({"params": params}, x, mutable=["batch_stats"])[0]


def _module_a_layer(name: str, make: Callable) -> tuple[Callable, Callable]:
    """One module a layer, from student's to teacher's activations.

    Args:
      name: Of the term, for errors.
      make: `make(student, teacher, axis_name)` answers the module, or None for none.

    Returns:
      `init(key, student, teacher) -> (params, State())` and `run(params, student,
      teacher, axis_name) -> mapped student`.
    """

    def init(key, student, teacher):
        layers, structure = jax.tree_util.tree_flatten(student)
        if structure != jax.tree_util.tree_structure(teacher):
            raise ValueError(
                f"{name}: expected the same layers on both sides, got {structure} and "
                f"{jax.tree_util.tree_structure(teacher)}"
            )
        keys = structure.unflatten(jax.random.split(key, len(layers)))

        def one(key, s, t):
            if len(s.shape) != len(t.shape) or s.shape[:-3] != t.shape[:-3]:
                raise ValueError(
                    f"{name}: no module from activations {s.shape} to {t.shape}"
                )
            module = make(s, t, None)
            return {} if module is None else _params(module, key, s.shape)

        return jax.tree.map(one, keys, student, teacher), State()

    def run(params, student, teacher, axis_name):
        def one(s, t, p):
            module = make(s, t, axis_name)
            return s if module is None else _run(module, p, s)

        return jax.tree.map(one, student, teacher, params)

    return init, run


def _heads(features: int) -> tuple[Callable, Callable]:
    """Linear embeddings of one layer of student and teacher.

    Returns:
      `init(key, student, teacher) -> (params, State())` and `embed(params, student,
      teacher) -> (student's, teacher's)`, each `[batch, features]`.
    """
    features = _checks.as_count("number of features", features)
    head = regressors.Embedding(features)

    def init(key, student, teacher):
        for side in (student, teacher):
            if not hasattr(side, "shape"):
                raise ValueError(
                    f"expected one layer to embed, got {type(side).__name__}"
                )
        keys = jax.random.split(key)
        return {
            "student": _params(head, keys[0], student.shape),
            "teacher": _params(head, keys[1], teacher.shape),
        }, State()

    def embed(params, student, teacher):
        student = _run(head, params["student"], student)
        teacher = _run(head, params["teacher"], lax.stop_gradient(teacher))
        return student, teacher.astype(student.dtype)

    return init, embed


def _weighted_mean(arrays: Sequence[Array], weights: Sequence[float] | None) -> Array:
    weights = [1.0] * len(arrays) if weights is None else weights
    for weight in weights:
        _checks.check_number("weight of a target", weight, at_least=0)
    shapes = [a.shape for a in arrays]
    if len(weights) != len(arrays) or len(set(shapes)) > 1:
        raise ValueError(
            f"expected a weight for each of several targets of one shape, got weights "
            f"{weights} and {shapes}"
        )
    weights = [jnp.asarray(w, a.dtype) for w, a in zip(weights, arrays, strict=True)]
    pairs = zip(weights, arrays, strict=True)
    return sum(w * a for w, a in pairs) / sum(weights)


def _pooled(student: PyTree, teacher: PyTree) -> tuple[PyTree, PyTree]:
    """Both sides with the larger of two maps pooled to the smaller."""

    def one(s, t):
        return _geometry.pool_to_smaller(s, t) if s.ndim == t.ndim == 4 else (s, t)

    outer = jax.tree_util.tree_structure(student)
    inner = jax.tree_util.tree_structure((0, 0))
    pairs = jax.tree.map(one, student, teacher)
    return jax.tree_util.tree_transpose(outer, inner, pairs)


def _as_maps(student: PyTree, teacher: PyTree) -> tuple[PyTree, PyTree]:
    """Both sides with vectors that stand beside maps as maps of one position."""

    def one(s, t):
        return s[:, None, None, :] if (s.ndim, t.ndim) == (2, 4) else s

    if jax.tree_util.tree_structure(student) != jax.tree_util.tree_structure(teacher):
        return student, teacher  # What takes them says so.
    return jax.tree.map(one, student, teacher), jax.tree.map(one, teacher, student)


def _pickers(pairs) -> tuple[Callable, Callable]:
    """What student's and teacher's side of a term see of a dict of activations."""
    if isinstance(pairs, str):
        pairs = (pairs, pairs)
    if isinstance(pairs, tuple):
        first, second = pairs
        if isinstance(second, list):
            return _one("student", first), _in_order("teacher", second)
        return _one("student", first), _one("teacher", second)
    if isinstance(pairs, Mapping):
        return (
            _several("student", dict(zip(pairs, pairs, strict=True))),
            _several("teacher", pairs),
        )
    both = [(pair, pair) if isinstance(pair, str) else pair for pair in pairs]
    students, teachers = zip(*both, strict=True)
    return _in_order("student", students), _in_order("teacher", teachers)


def _one(side: str, name: str) -> Callable:
    def pick(activations):
        _names.check(f"{side} layer", name, activations)
        return activations[name]

    return pick


def _several(side: str, names: Mapping[str, str]) -> Callable:
    picks = {key: _one(side, name) for key, name in names.items()}
    return lambda activations: {key: pick(activations) for key, pick in picks.items()}


def _in_order(side: str, names: Sequence[str]) -> Callable:
    picks = [_one(side, name) for name in names]
    return lambda activations: tuple(pick(activations) for pick in picks)
