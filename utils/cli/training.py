"""A training run, new or one that goes on."""

from __future__ import annotations

from full_spike.utils.checkpoints import checkpoint, resume
from full_spike.utils.checkpoints.weights import check_config
from full_spike.utils.cli.job import Job
from full_spike.utils.cluster.lease import held
from full_spike.utils.errors import UsageError
from full_spike.utils.runtime.parser import to_yaml
from full_spike.utils.train import folder
from full_spike.utils.train.optim import make_optimizer, make_schedule
from full_spike.utils.train.run import Position, Run
from full_spike.utils.train.step import Trainer
from torch import nn


def train(job: Job) -> None:
    """A new run, or one that goes on."""
    config, recipe, model = job.config, job.config.recipe, job.model
    if recipe.sync_bn:
        if job.world.device.type != "cuda":
            raise UsageError("--sync-bn needs GPUs (torch has it for CUDA alone): leave it out with --device cpu")
        model_config, model = model.config, nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model.config = model_config
    if recipe.weighs_pathway and getattr(model, "aap", None) is None:
        raise UsageError(
            f"--aap-weight and --aap-off-epoch weigh the pathway's loss, and {config.network.model} has no pathway: "
            "leave them out"
        )
    optimizer = make_optimizer(model, recipe)
    steps = -(-job.loaders.sampler.batches // recipe.accumulate)
    trainer = Trainer(
        model,
        optimizer,
        make_schedule(optimizer, recipe, config.run.start_epoch, steps),
        job.world,
        amp_dtype=recipe.autocast_dtype,
        label_smoothing=recipe.label_smoothing,
        clip_grad_norm=recipe.clip_grad_norm,
        sched_on_updates=recipe.sched_on_updates,
        ema_decay=recipe.ema_decay,
        compiled=config.speed.compile,
    )
    run = Run(
        trainer,
        job.loaders,
        job.log,
        job.folder,
        recipe,
        # of the data what the recipe cannot know
        data_recipe={
            "batch_size": config.data.batch_size,
            "training_samples": len(job.data.train),
            **({"steps_per_epoch": steps} if recipe.sched_on_updates else {}),
            **job.data.recipe,
        },
        about=job.about(),
        print_freq=config.run.print_freq,
        checkpoint_every=config.run.checkpoint_every,
        firing_rates=config.run.tb,
        judge_averaged=config.run.ema,
        compiles=config.speed.fused or config.speed.compile,
        unit=job.data.unit,
        position=Position(epoch=config.run.start_epoch),
    )
    if recipe.cosine and recipe.period + recipe.cooldown_epochs < recipe.epochs:
        job.log.say(
            f"warning: --cos_lr_T {recipe.period} ends before --epochs {recipe.epochs}: the learning rate climbs again "
            "from then on, as in the released code"
        )
    with held(job.folder, job.world) as run.still_ours:  # only now that nothing about the command can be wrong any more
        _fit(job, run)


def _fit(job: Job, run: Run) -> None:
    """Train in the run's folder, from the start or from where it stopped."""
    options = job.config.run
    folder.prepare(job.folder, options, job.world)
    goes_on = bool(options.resume) and _resume(options.resume, run, job)
    if job.begins and not goes_on:
        job.log.say(job.begins)
    resume.require_alike(run.starting_point(), job.world)
    folder.keep_config(job.folder, job.config, job.world, job.script)
    job.log.forget_from(run.position.epoch)
    if options.tb:
        job.log.open_tensorboard(run.position.epoch, to_yaml(job.config))
    run.fit()
    job.log.close()


def _resume(wanted: str, run: Run, job: Job) -> bool:
    """Whether there is a run to go on with, which then has been loaded."""
    say = job.log.say
    found = resume.find(wanted, run.folder, say, job.world)
    if found is None:
        say(f"no checkpoint in {run.folder} yet: beginning at epoch {run.position.epoch + 1}{job.beside}")
        return False
    path, content = found
    state = checkpoint.resumable(path, content)
    check_config(path, run.trainer.model, state["config"])
    began, asked = resume.as_now(state["recipe"])["initial_checkpoint"], run.recipe.initial_checkpoint
    if asked not in (None, began):
        its = f"{path} is of a run that began with {'random weights' if began is None else began}"
        if wanted != "auto":
            raise UsageError(f"--initial-checkpoint {asked}: {its}; leave this option out, or --resume")
        say(f"warning: --initial-checkpoint {asked} is not used: {its}")
    run.resume(state)
    say(f"resumed from {path}: epoch {run.position.epoch + 1}, batch {run.position.step}")
    return True
