"""Trains nets together, phase by phase."""

from experiments.results import folder as results_folder
from experiments.training import builder, loop, recipes, recording
from experiments.training import context as contexts
from rdljax import checkpoints, training


def fit(
    context: contexts.Context,
    runs: dict[str, int],
    method_trainers: builder.MethodTrainers,
) -> list[recording.Outcome]:
    """Trains nets together.

    Args:
      context: The settings and the data.
      runs: The seed of each net, by its name.
      method_trainers: The recipe and the trainers.

    Returns:
      The outcome of each net, in the order of `runs`.
    """
    recipe = method_trainers.recipe
    results: list[loop.FitResult] = []
    seconds = dict.fromkeys(runs, 0.0)
    started: dict[str, list[loop.Metrics]] = {name: [] for name in runs}
    for number, trainer in enumerate(method_trainers.trainers):
        last = number == len(recipe.plan) - 1
        if number:
            before = {runs[n]: of.state for n, of in zip(runs, results, strict=True)}
            trainer = builder.next_trainer(recipe, number, trainer, before)
        seeds = runs
        if not last:
            place = results_folder.START_UP_FOLDER
            seeds = {f"{name}/{place}": seed for name, seed in runs.items()}
        results = _fit(context, seeds, trainer, recipe, number)
        for name, own in zip(runs, results, strict=True):
            seconds[name] += own.seconds
            if not last:
                started[name] += own.history
    return [
        recording.Outcome(
            training.student_variables(own.state),
            own.history,
            started[name],
            seconds[name],
        )
        for name, own in zip(runs, results, strict=True)
    ]


def _fit(
    context: contexts.Context,
    runs: dict[str, int],
    trainer: loop.Trainer,
    recipe: recipes.Recipe,
    number: int,
) -> list[loop.FitResult]:
    """Trains one phase of `fit`."""
    shown = recipe.stimuli
    jobs = [
        loop.Job(
            name=name,
            folder=context.folder / name,
            seed=seed,
            order=0 if context.config.training.same_batches else seed,
            epochs=recipe.plan[number].epochs,
            examples=len(context.dataset.train.label),
            batch=context.config.training.batch,
            settings=results_folder.settings(context.config),
            stimuli=len(contexts.not_none(context.inputs.measured).shown)
            if shown
            else 0,
            shown=shown,
        )
        for name, seed in runs.items()
    ]
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        _check_checkpoint(job)
    context.bar.set_description(
        ", ".join(runs) if len(runs) < 3 else f"{jobs[0].name}, ..."
    )

    def advance(steps, history):
        context.bar.update(steps)
        if history:
            error = history[-1]["validation_error"]
            context.bar.set_postfix_str(
                f"validation error {error:.1f} %", refresh=False
            )

    with trainer.step_fn.advised():
        return loop.fit(jobs, trainer, context.interrupt, advance)


def _check_checkpoint(job: loop.Job) -> None:
    """Raises `CheckpointMismatch` if a job's newest checkpoint is another net's."""
    if checkpoints.latest(job.checkpoint) is None:
        return
    # (Damage is reported when the checkpoint is restored.)
    about = checkpoints.about(job.checkpoint, tell=lambda words: None)
    try:
        results_folder.check_checkpoint(about, job.name, job.settings)
    except ValueError as error:
        raise checkpoints.CheckpointMismatch(f"{job.checkpoint}: {error}") from error
