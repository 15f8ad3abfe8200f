"""The optimizer and its learning rate, from the settings."""

from collections.abc import Callable

import optax

from experiments import config as configs

# Functions, by name, from the largest rate, the number of steps of a training and the
# number of steps of an epoch to the rate of each step.
SCHEDULES: dict[str, Callable[[float, int, int], float | optax.Schedule]] = {
    "constant": lambda peak, steps, epoch: peak,
    "cosine": lambda peak, steps, epoch: optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup_steps=epoch, decay_steps=steps + 1
    ),
    "cosine_onecycle": lambda peak, steps, epoch: optax.cosine_onecycle_schedule(
        steps, peak
    ),
    "exponential": lambda peak, steps, epoch: optax.exponential_decay(
        peak, steps, 0.01
    ),
    "linear": lambda peak, steps, epoch: optax.linear_schedule(peak, 0.0, steps),
    "linear_onecycle": lambda peak, steps, epoch: optax.linear_onecycle_schedule(
        steps, peak
    ),
    "polynomial": lambda peak, steps, epoch: optax.polynomial_schedule(
        peak, 0.0, 2, steps
    ),
    "steps": lambda peak, steps, epoch: optax.piecewise_constant_schedule(
        peak, {steps * eighths // 8: 0.1 for eighths in (5, 6, 7)}
    ),
    "warmup_exponential": lambda peak, steps, epoch: (
        optax.warmup_exponential_decay_schedule(
            0.0, peak, warmup_steps=epoch, transition_steps=steps, decay_rate=0.01
        )
    ),
}


def make_optimizer(
    settings: configs.Optimizer,
    epochs: int,
    steps_an_epoch: int,
    *,
    teaches: bool = False,
    start: bool = False,
) -> optax.GradientTransformation:
    """Returns the optimizer of a phase.

    Args:
      settings: The name of the optimizer, and its numbers.
      epochs: The number of epochs of the phase.
      steps_an_epoch: The number of steps of an epoch.
      teaches: Whether the optimizer is the teacher's.
      start: Whether the phase is a start-up, before the phase with the task. It has a
        constant rate and no weight decay, since parameters without a gradient would
        shrink.
    """
    peak = settings.learning_rate
    if teaches and settings.teacher_learning_rate is not None:
        peak = settings.teacher_learning_rate
    rate: float | optax.Schedule = peak
    if not start:
        steps = epochs * steps_an_epoch
        rate = SCHEDULES[settings.schedule](peak, steps, steps_an_epoch)
    decay = 0.0 if start else settings.weight_decay
    parts = []
    # (Without clipping, KD's large first gradients inactivate a small student's ReLUs.)
    if settings.clip is not None:
        parts.append(optax.clip_by_global_norm(settings.clip))
    if settings.name == "adamw":
        parts.append(optax.adamw(rate, b1=settings.momentum, weight_decay=decay))
    else:
        parts += [] if start else [optax.add_decayed_weights(decay)]
        parts.append(optax.sgd(rate, settings.momentum, nesterov=settings.nesterov))
    return optax.chain(*parts)
