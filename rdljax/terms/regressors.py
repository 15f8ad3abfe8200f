"""Makes terms with trained regressors, connectors, factors or embeddings."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _checks, _geometry, objectives
from rdljax.nets import regressors
from rdljax.terms import _modules
from rdljax.terms.base import State, Term

Array = jax.Array


def hint(
    *, normalize: bool = False, activation: Callable[[Array], Array] | None = None
) -> Term:
    """Makes the term of `objectives.hint` with a trained regressor for each layer.

    The regressor (`nets.regressors.Regressor`) maps the student's layer to the
    teacher's channels, by a convolution that matches the sizes.

    Args:
      normalize: Whether batch normalisation follows the convolution.
      activation: Activation function at the end of the regressor, or None.
        RepDistiller's regressor is that of
        `hint(normalize=True, activation=jax.nn.relu)`.

    References:
      Romero et al., `FitNets: Hints for Thin Deep Nets
      <https://arxiv.org/abs/1412.6550>`_, ICLR 2015, section 2.2.

    Departures: (1) the regressor is linear by default; that of the paper ends with the
      non-linearity of the guided layer, but layers here need not have one.
    """

    def make(s, t, axis_name):
        return regressors.Regressor(
            tuple(t.shape[1:]), normalize, activation, axis_name
        )

    init, run = _modules.module_per_layer("hint", make)

    def apply(params, state, student, teacher, batch, axis_name=None):
        mapped = run(params, student, teacher, axis_name)
        return objectives.hint(mapped, teacher), state

    return Term(init, apply)


def vid(*, variance: float = 5.0, epsilon: float = 1e-5) -> Term:
    """Makes the term of `objectives.vid`, with a trained mean and variance per layer.

    The mean is predicted from the student's layer, position by position, by three dense
    layers of the teacher's width (`nets.regressors.Pointwise`). If the maps differ in
    size, the larger is pooled to the smaller first. A vector that is compared with a
    map (for a multilayer perceptron with a convolutional teacher) counts as a map of
    one position.

    Args:
      variance: Initial variance of each of the teacher's channels.
      epsilon: Smallest variance.

    References:
      Ahn et al., `Variational Information Distillation for Knowledge Transfer
      <https://arxiv.org/abs/1904.05835>`_, CVPR 2019; regressor and initial variance
      are those of RepDistiller, copied from the authors' code.
    """
    _checks.check_number("epsilon of vid", epsilon, above=0)
    _checks.check_number("variance of vid", variance, above=epsilon)
    # The variance is softplus(first) + epsilon.
    softplus = float(variance) - float(epsilon)
    first = softplus + math.log(-math.expm1(-softplus))

    def make(s, t, axis_name):
        return regressors.Pointwise(t.shape[-1])

    init_mean, run = _modules.module_per_layer("vid", make)

    def init(key, student, teacher):
        student, teacher = jax.eval_shape(_modules.as_maps, student, teacher)
        mean, state = init_mean(key, student, teacher)
        scale = jax.tree.map(
            lambda t: jnp.full(t.shape[-1], first, jnp.float32), teacher
        )
        return {"mean": mean, "log_scale": scale}, state

    def apply(params, state, student, teacher, batch, axis_name=None):
        student, teacher = _modules.pool(*_modules.as_maps(student, teacher))
        mean = run(params["mean"], student, teacher, axis_name)
        loss = objectives.vid(mean, teacher, params["log_scale"], epsilon=epsilon)
        return loss, state

    return Term(init, apply)


def ab(*, margin: float = 1.0) -> Term:
    """Makes the term of `objectives.ab` with trained connectors, in depth order.

    A connector is a convolution that matches the sizes, with batch normalisation
    (`nets.regressors.Regressor`); layers of the same shape have none. The paper uses
    this loss in a separate phase before the task, which trains the compared layers and
    those below:

        pairs = [(s, s) for s in ("stage1_preact", "stage2_preact")]
        trunk = ("student/stem", "student/stage1", "student/stage2")
        plan = [
            training.Phase(
                {"ab": (1.0, terms.on_layers(pairs, terms.ab()))}, 30, ("ab", *trunk)
            ),
            training.Phase({"task": (1.0, terms.cross_entropy())}, 240),
        ]

    (The layers above have no gradient in this phase: weight decay would only shrink
    them.)

    Args:
      margin: Margin, as for `objectives.ab`.

    References:
      Heo et al., `Knowledge Transfer via Distillation of Activation Boundaries
      <https://arxiv.org/abs/1811.03233>`_, AAAI 2019.

    Departures: (1) if no convolution maps the student's size to the teacher's, the
      larger of the two maps is pooled to the smaller.
    """

    def make(s, t, axis_name):
        if s.shape == t.shape:
            return None
        return regressors.Regressor(
            tuple(t.shape[1:]), normalize=True, axis_name=axis_name
        )

    init, run = _modules.module_per_layer("ab", make)

    def apply(params, state, student, teacher, batch, axis_name=None):
        mapped = run(params, student, teacher, axis_name)
        return objectives.ab(*_modules.pool(mapped, teacher), margin=margin), state

    return Term(init, apply)


def ft(*, rate: float = 0.5, objective: Callable[..., Array] = objectives.ft) -> Term:
    """Makes the term of `objectives.ft`, with a paraphraser and a translator.

    The paraphraser is an autoencoder of the teacher's maps; its code is the teacher's
    factor. It is trained to reconstruct the maps in a separate phase (`pretraining`),
    and then fixed. The translator, three convolutions with batch normalisation,
    computes the student's factor.

    Args:
      rate: Number of channels of a factor, as a fraction of the teacher's.
      objective: `objectives.ft` or `objectives.ft_repdistiller`.

    References:
      Kim, Park & Kwak, `Paraphrasing Complex Network: Network Compression via Factor
      Transfer <https://arxiv.org/abs/1802.04977>`_, NeurIPS 2018, section 3; the
      layers are RepDistiller's.

    Departures: (1) the mean squared error of the reconstruction, as in RepDistiller;
      the authors' code has the absolute error; (2) if the factors differ in size, the
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
        _check_maps(student, teacher)
        code = (*teacher.shape[:3], width(teacher))
        keys = jax.random.split(key, 3)
        return {
            "paraphraser": {
                "encoder": _modules.init_params(
                    encoder(teacher), keys[0], teacher.shape
                ),
                "decoder": _modules.init_params(decoder(teacher), keys[1], code),
            },
            "translator": _modules.init_params(
                translator(student, teacher), keys[2], student.shape
            ),
        }, State()

    def encode(params, teacher):
        own = params["paraphraser"]["encoder"]
        return _modules.apply_module(encoder(teacher), own, lax.stop_gradient(teacher))

    def pretrain(params, state, student, teacher, batch, axis_name=None):
        own, code = params["paraphraser"]["decoder"], encode(params, teacher)
        reconstruction = _modules.apply_module(decoder(teacher), own, code)
        return objectives.hint(reconstruction, teacher), state

    def apply(params, state, student, teacher, batch, axis_name=None):
        module = translator(student, teacher, axis_name)
        factor = _modules.apply_module(module, params["translator"], student)
        factors = _geometry.pool_to_smaller(factor, encode(params, teacher))
        return objective(*factors), state

    return Term(init, apply, pretrain)


def _check_maps(student: Array, teacher: Array) -> None:
    shapes = [getattr(x, "shape", type(x).__name__) for x in (student, teacher)]
    if any(len(shape) != 4 or isinstance(shape, str) for shape in shapes):
        raise ValueError(
            f"ft: expected maps [batch, H, W, C], got student {shapes[0]} and "
            f"teacher {shapes[1]}"
        )


def cc(*, features: int = 128) -> Term:
    """Makes the term of `objectives.cc_repdistiller`, with trained linear embeddings.

    (The objective of the paper needs no embedding: `from_objective(objectives.cc)`.)

    Args:
      features: Number of units of the embeddings.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, released code.
    """
    init, embed = _modules.heads(features)

    def apply(params, state, student, teacher, batch, axis_name=None):
        student, teacher = embed(params, student, teacher)
        return objectives.cc_repdistiller(student, teacher), state

    return Term(init, apply)
