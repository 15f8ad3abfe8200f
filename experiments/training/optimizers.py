"""Makes the optimizer and its learning rate from the settings."""

import optax

from experiments import config as configs
from experiments.config import functions


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
        rate = functions.SCHEDULES[settings.schedule](peak, steps, steps_an_epoch)
    decay = 0.0 if start else settings.weight_decay
    parts = []
    # (Without clipping, KD's large first gradients inactivate a small student's ReLUs.)
    if settings.clip is not None:
        parts.append(optax.clip_by_global_norm(settings.clip))
    make = functions.OPTIMIZERS[settings.name]
    parts.append(make(rate, settings.momentum, settings.nesterov, decay))
    return optax.chain(*parts)
