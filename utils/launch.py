"""From a command line to a finished run: what every data set's train.py calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.data.dataset import DataOptions, Datasets, LoadData
from utils.data.loading import Loaders, make_loaders
from utils.factory import create
from utils.runtime import distributed
from utils.runtime.allocator import keep_freed_memory
from utils.runtime.distributed import World
from utils.runtime.errors import UsageError, UserError, run_command
from utils.runtime.lease import held
from utils.runtime.log import RunLog, table
from utils.runtime.memory import is_exhausted, require
from utils.runtime.networks import TrainableNetworks
from utils.runtime.parser import OptionsParser, to_yaml
from utils.runtime.seed import seed_everything
from utils.train import checkpoint, folder, resume
from utils.train.config import Config, NetworkOptions
from utils.train.evaluation import evaluate
from utils.train.interrupts import stopping_at_once
from utils.train.optim import make_optimizer, make_schedule
from utils.train.run import Position, Run
from utils.train.step import Trainer
from utils.train.weights import check_config, set_weights


def make_parser(description: str | None, data: type[DataOptions] = DataOptions, **defaults: Any) -> OptionsParser:
    """The options of a training script.

    Args:
        description: the script's docstring, of which the first line is shown.
        data: the data set's options.
        defaults: of options, in this script. Those of the network's options apply where it has them.
    """
    return OptionsParser((description or "").partition("\n")[0], Config, {"data": data}, **defaults)


def main(parser: OptionsParser, load_data: LoadData, models: TrainableNetworks, argv: list[str] | None = None) -> int:
    """Parse, run, and return the exit status.

    Args:
        parser: from `make_parser`.
        load_data: makes the data sets; is told the data set's options, the processes and the time steps.
        models: the module that builds the networks.
    """
    return run_command(lambda: _main(parser, load_data, models, argv))


def _main(parser: OptionsParser, load_data: LoadData, models: TrainableNetworks, argv: list[str] | None) -> int:
    config = parser.parse(argv).resolved()
    machines = config.machines
    with stopping_at_once():
        world = distributed.start(
            machines.device, world_size=machines.world_size, dist_url=machines.dist_url, timeout=machines.dist_timeout
        )
        with distributed.explain_lost_peers(world), _explain_exhaustion():
            resume.require_alike({f"options ({group})": values for group, values in config.alike().items()}, world)
            job = _set_up(config, parser.defaults.network, load_data, models, world)
            if config.run.test_only:
                _test_only(job, models)
            else:
                _train(job)
        distributed.stop(world)
    return 0


@contextlib.contextmanager
def _explain_exhaustion() -> Iterator[None]:
    """Turn torch's errors of memory that ran out, which are pages long, into one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        raise UserError(
            "there is not enough memory for this run: take a smaller -b (and --accumulate batches), --memory-saving, "
            "a smaller --T or --width; the checkpoints of the run are untouched"
        ) from None


@dataclass(frozen=True)
class _Job:
    """What is to be trained or tested."""

    config: Config
    data: Datasets
    loaders: Loaders
    model: Any
    log: RunLog
    folder: Path
    world: World


def _set_up(
    config: Config, defaults: NetworkOptions, load_data: LoadData, models: TrainableNetworks, world: World
) -> _Job:
    if world.device.type == "cpu" and config.speed.keep_memory:
        keep_freed_memory()
    seed_everything(config.recipe.seed, world.rank)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # as released
    say = RunLog(world).say
    try:  # before the data, which may take long to prepare
        known = models.model_options(config.network.model)
    except ValueError as error:
        raise UsageError(str(error)) from None
    data = load_data(config.data, world, config.network.T)
    say(f"{len(data.train)} training and {len(data.test)} test {data.unit} of {data.num_classes} classes")
    options = {
        "num_classes": data.num_classes,
        "in_channels": data.in_channels,
        **config.network.options(known, defaults),
    }
    model = _build_model(config, options, models, world, say)
    if config.network.tau is not None and model.config.get("neuron") == "IF":
        raise UsageError(f"--tau {config.network.tau} does nothing: IF neurons have no time constant; leave it out")
    _check_memory(model, data, config.data.batch_size, world.device)
    defaults_of_model = known | {name: value for name, value in vars(defaults).items() if value is not None}
    path = Path(config.run.output_dir) / (data.name + folder.run_name(config, model.config, defaults_of_model))
    loaders = make_loaders(
        data.train,
        data.test,
        batch_size=config.data.batch_size,
        workers=config.data.workers,
        world=world,
        seed=config.recipe.seed,
        collate=data.collate,
        mix=data.mix,
    )
    config = config.with_network(model.config)
    return _Job(config, data, loaders, model, RunLog(world, path), path, world)


def _build_model(
    config: Config, options: dict[str, Any], models: TrainableNetworks, world: World, say: Callable[[str], None]
) -> Any:
    """The network on its device."""
    name = config.network.model
    model = create(models, name, options, lambda warning: say(f"warning: {warning}"), world.device)
    layout: Any = torch.channels_last if config.speed.channels_last else torch.preserve_format
    model = model.to(world.device, memory_format=layout)
    model = models.save_memory(models.use_fused(model, config.speed.fused), config.speed.memory_saving)
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{name}: {parameters:,} parameters on {world.size} x {world.device.type}")
    return model


def _check_memory(model: Any, data: Datasets, batch_size: int, device: torch.device) -> None:
    """Refuse a run whose first spikes alone do not fit on the device: time steps and sizes multiply."""
    *steps, _, height, width = data.test[0][0].shape  # [C, H, W], or frames [T, C, H, W]
    T, channels = (*steps, model.config["T"])[0], model.config.get("width", 1)
    maps = max(1, height // 2) * max(1, width // 2)  # at least: some stems halve the resolution
    what = f"a batch of {batch_size} x {T} time steps x {channels} channels x {maps:,} neurons"
    require(4 * batch_size * T * channels * maps, device, what, "take a smaller -b, --T, --width or image")


def _train(job: _Job) -> None:
    """A new run, or one that goes on."""
    config, recipe, model = job.config, job.config.recipe, job.model
    if recipe.sync_bn:
        if job.world.device.type != "cuda":
            raise UsageError("--sync-bn needs GPUs (torch has it for CUDA alone): leave it out with --device cpu")
        model_config, model = model.config, nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model.config = model_config
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


def _fit(job: _Job, run: Run) -> None:
    """Train in the run's folder, from the start or from where it stopped."""
    options = job.config.run
    folder.prepare(job.folder, options, job.world)
    if options.resume:
        _resume(options.resume, run, job)
    resume.require_alike(run.starting_point(), job.world)
    folder.keep_config(job.folder, job.config, job.world)
    job.log.forget_from(run.position.epoch)
    if options.tb:
        job.log.open_tensorboard(run.position.epoch, to_yaml(job.config))
    run.fit()
    job.log.close()


def _resume(wanted: str, run: Run, job: _Job) -> None:
    say = job.log.say
    found = resume.find(wanted, run.folder, say, job.world)
    if found is None:
        say(f"no checkpoint in {run.folder} yet: beginning at epoch {run.position.epoch + 1}")
        return
    path, content = found
    state = checkpoint.resumable(path, content)
    check_config(path, run.trainer.model, state["config"])
    run.resume(state)
    say(f"resumed from {path}: epoch {run.position.epoch + 1}, batch {run.position.step}")


def _test_only(job: _Job, models: TrainableNetworks) -> None:
    """Evaluate a checkpoint, ours or a published one."""
    run, world, say = job.config.run, job.world, job.log.say
    found = resume.find(run.resume, job.folder, say, world)
    if found is None:
        raise UserError(f"there is no checkpoint in {job.folder}: name one by --resume")
    path, content = found
    model = job.model
    set_weights(path, content, model, models.load_published, averaged=run.ema)
    if run.detach:
        try:
            model = models.detach_aap(model)
        except ValueError as error:
            raise UsageError(f"--detach: {error}") from None
    scores, _ = evaluate(model, job.loaders.test, world, job.log)
    say(f"{model.config['model']}{', averaged weights' if run.ema else ''} from {path}")
    say(table(scores, job.data.unit))
    if run.synops:
        _count(job, models, model, path)
    if run.detach:
        with world.main_only("saving the detached network") as main:
            if main:
                target = path.with_name("fsnn.pth")
                checkpoint.write(target, {"config": model.config, "model": model.state_dict()})
                say(f"without the pathway, saved as {target}")


def _count(job: _Job, models: TrainableNetworks, model: Any, path: Path) -> None:
    """Synaptic operations and energy of the network trained at `path`, on its test set."""
    if job.world.size > 1:
        raise UsageError(f"--synops counts in one process, not in {job.world.size}: start without torchrun")
    from utils.measure.ann import plain_resnet  # the counters are only imported where they are used
    from utils.measure.synops import write_report

    write_report(
        model,
        job.loaders.test,
        path.parent / "synops",
        detached=models.detach_aap(model) if getattr(model, "aap", None) is not None else None,
        ann=plain_resnet(model),
        device=job.world.device,
        data=f"the test set, weights of {path}",
        syops=not job.config.run.no_syops,
    )
