"""The optimizer and its learning rate, from the settings."""

import optax

from experiments import config as configs


def optimizer_of(
    config: configs.Config,
    teaches: bool,
    epochs: int,
    steps_an_epoch: int,
    last: bool = True,
) -> optax.GradientTransformation:
    """Returns the optimizer of a phase.

    Args:
      config: The settings.
      teaches: Whether it is the teacher's.
      epochs: Of the phase.
      steps_an_epoch: How many there are.
      last: Whether it is the phase with the task; a start-up has a constant rate and no
        weight decay, under which what it does not reach would shrink.
    """
    peak, steps = config.learning_rate, epochs * steps_an_epoch
    if teaches and config.teacher_learning_rate is not None:
        peak = config.teacher_learning_rate
    if not last:
        rate = peak
    elif config.schedule == "steps":
        drops = {steps * eighths // 8: 0.1 for eighths in (5, 6, 7)}
        rate = optax.piecewise_constant_schedule(peak, drops)
    else:
        rate = optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup_steps=steps_an_epoch, decay_steps=steps + 1
        )
    # Without clipping KD's large first gradients kill a small student's ReLUs.
    clip = [] if config.clip is None else [optax.clip_by_global_norm(config.clip)]
    decay = [optax.add_decayed_weights(config.weight_decay)] if last else []
    sgd = optax.sgd(rate, config.momentum, nesterov=config.nesterov)
    return optax.chain(*clip, *decay, sgd)
