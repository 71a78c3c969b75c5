"""From a command line to a finished run: what every dataset's train.py calls."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from utils.cli import Parser, amp_dtype, model_options, run_name
from utils.data.loading import EpochSampler, make_loaders
from utils.factory import create
from utils.runtime import distributed
from utils.runtime.allocator import keep_freed_memory
from utils.runtime.distributed import World
from utils.runtime.errors import UsageError, UserError, run_command
from utils.runtime.log import RunLog, table
from utils.runtime.seed import seed_everything
from utils.train import checkpoint
from utils.train.optim import make_optimizer, make_schedule
from utils.train.run import Position, Run, evaluate
from utils.train.step import Trainer


@dataclass(frozen=True)
class Datasets:
    """What a script loads: two datasets of (input, class), and what the network and the run must know of them."""

    train: Any
    test: Any
    num_classes: int
    in_channels: int = 3
    name: str = ""  # prefix of the run's folder, for scripts that know several data sets
    collate: Callable | None = None  # see `make_loaders`
    unit: str = "images"  # what samples are called
    recipe: dict[str, Any] = field(default_factory=dict)  # options of the data that must not change inside a run


LoadData = Callable[[argparse.Namespace, World], Datasets]


def main(parser: Parser, load_data: LoadData, models: ModuleType, argv: list[str] | None = None) -> int:
    """Parse, run, and return the exit status.

    Args:
        parser: from `make_parser`.
        load_data: makes the data sets; is told the arguments and the processes.
        models: the module with create_model, model_options, load_published, detach_aap, use_fused and save_memory.
    """
    return run_command(lambda: _main(parser, load_data, models, argv))


def _main(parser: Parser, load_data: LoadData, models: ModuleType, argv: list[str] | None) -> int:
    args = parser.parse_args(argv)
    args.cos_lr_T = args.cos_lr_T or args.epochs
    if (args.test_only or args.detach) and not args.resume:
        raise UsageError("--test-only needs weights: name a checkpoint by --resume")
    if args.synops and not args.test_only:
        raise UsageError("--synops counts a trained network: use it with --test-only")
    if args.detach and not args.test_only:
        raise UsageError("--detach takes the pathway off a trained network: use it with --test-only")
    if args.overwrite and args.resume:
        raise UsageError("--overwrite begins anew and --resume goes on: choose one")
    world = distributed.start(
        args.device, world_size=args.world_size, dist_url=args.dist_url, timeout=args.dist_timeout
    )
    with distributed.explain_lost_peers(world):
        _run(args, parser, load_data, models, world)
    distributed.stop(world)
    return 0


def _run(args: argparse.Namespace, parser: Parser, load_data: LoadData, models: ModuleType, world: World) -> None:
    if world.device.type == "cpu" and args.keep_memory:
        keep_freed_memory()
    seed_everything(args.seed, world.rank)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # as released
    say = RunLog(world).say
    try:  # before the data, which may take long to prepare
        models.model_options(args.model)
    except ValueError as error:
        raise UsageError(str(error)) from None
    data = load_data(args, world)
    say(f"{len(data.train)} training and {len(data.test)} test {data.unit} of {data.num_classes} classes")
    model, defaults = _build_model(args, parser, data, models, world, say)
    folder = Path(args.output_dir) / (data.name + run_name(args, model.config, defaults))
    log = RunLog(world, folder)
    loaders = make_loaders(
        data.train,
        data.test,
        batch_size=args.batch_size,
        workers=args.workers,
        world=world,
        seed=args.seed,
        collate=data.collate,
    )
    if args.test_only:
        _test_only(args, models, model, loaders[2], world, log, data.unit)
        return

    _train(args, model, data, loaders, log, folder, world)


def _build_model(
    args: argparse.Namespace,
    parser: Parser,
    data: Datasets,
    models: ModuleType,
    world: World,
    say: Callable[[str], None],
) -> tuple[Any, dict[str, Any]]:
    """The network on its device, and the defaults of its options in this script."""
    known = models.model_options(args.model)
    options = {"num_classes": data.num_classes, "in_channels": data.in_channels, **model_options(args, parser, known)}
    model = create(models, args.model, options, lambda warning: say(f"warning: {warning}"))
    channels_last = args.fused if args.channels_last is None else args.channels_last
    model = model.to(world.device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
    model = models.save_memory(models.use_fused(model, args.fused), args.memory_saving)
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{args.model}: {parameters:,} parameters on {world.size} x {world.device.type}")
    defaults = {k: v if parser.get_default(k) is None else parser.get_default(k) for k, v in known.items()}
    return model, defaults


def _train(
    args: argparse.Namespace,
    model: Any,
    data: Datasets,
    loaders: tuple[DataLoader, EpochSampler, DataLoader],
    log: RunLog,
    folder: Path,
    world: World,
) -> None:
    """A new run, or one that goes on."""
    if args.sync_bn:
        if world.device.type != "cuda":
            raise UsageError("--sync-bn needs GPUs (torch has it for CUDA alone): leave it out with --device cpu")
        config, model = model.config, nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model.config = config
    optimizer = make_optimizer(
        model, lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay, adam=args.adam
    )
    trainer = Trainer(
        model,
        optimizer,
        make_schedule(
            optimizer,
            cos_lr_T=args.cos_lr_T,
            warmup_epochs=args.warmup_epochs,
            kind=args.lr_scheduler,
            step_size=args.step_size,
            gamma=args.gamma,
        ),
        world,
        amp_dtype=amp_dtype(args),
        label_smoothing=args.label_smoothing,
        ema_decay=args.ema_decay,
        compiled=args.compile,
    )
    kept = (
        "batch_size", "accumulate", "seed", "lr", "momentum", "weight_decay", "adam", "cos_lr_T", "warmup_epochs",
        "label_smoothing", "ema_decay", "amp", "lr_scheduler", "step_size", "gamma",
    )  # fmt: skip
    run = Run(
        trainer,
        *loaders,
        log,
        folder,
        epochs=args.epochs,
        accumulate=args.accumulate,
        print_freq=args.print_freq,
        checkpoint_every=args.checkpoint_every,
        firing_rates=args.tb,
        compiles=args.fused or args.compile,
        unit=data.unit,
        recipe={**{name: getattr(args, name) for name in kept}, **data.recipe},
        position=Position(epoch=args.start_epoch),
    )
    _prepare_folder(args, folder, world)  # only now that nothing about the command can be wrong any more
    if args.resume:
        _resume(args, run, log.say)
    log.forget_from(run.position.epoch)
    if args.tb:
        log.open_tensorboard(run.position.epoch, str(args))
    run.fit()
    log.close()


def _prepare_folder(args: argparse.Namespace, folder: Path, world: World) -> None:
    """Make the run's folder, and refuse to write over a run that is there."""
    with world.main_only("preparing the output folder") as main:
        if not main:
            return
        folder.mkdir(parents=True, exist_ok=True)
        there = checkpoint.candidates(folder)
        if there and not args.resume:
            if not args.overwrite:
                raise UsageError(
                    f"{folder} holds a run already ({there[0].name}): go on with --resume auto, "
                    "begin anew with --overwrite, or choose another --output-dir"
                )
            for path in (*there, folder / "metrics.jsonl"):
                path.unlink(missing_ok=True)


def _resume(args: argparse.Namespace, run: Run, say: Callable[[str], None]) -> None:
    if args.resume == "auto":
        found = checkpoint.newest_whole(run.folder, say)
        if found is None:
            say(f"no checkpoint in {run.folder} yet: beginning at epoch {run.position.epoch + 1}")
            return
        path, state = found
    else:
        path = Path(args.resume)
        state = checkpoint.read(path)
    checkpoint.check_config(path, run.trainer.model, state["config"])
    run.resume(state)
    say(f"resumed from {path}: epoch {run.position.epoch + 1}, batch {run.position.step}")


def _test_only(
    args: argparse.Namespace, models: ModuleType, model: Any, loader: Any, world: World, log: RunLog, unit: str
) -> None:
    """Evaluate a checkpoint, ours or a published one."""
    if args.resume == "auto":
        found = checkpoint.newest_whole(log.folder, log.say) if log.folder else None
        if found is None:
            raise UserError(f"there is no checkpoint in {log.folder}: name one by --resume")
        path = found[0]
    else:
        path = Path(args.resume)
    checkpoint.load_weights(path, model, models.load_published)
    if args.detach:
        try:
            model = models.detach_aap(model)
        except ValueError as error:
            raise UsageError(f"--detach: {error}") from None
    scores, _ = evaluate(model, loader, world, log)
    log.say(f"{model.config['model']} from {path}")
    log.say(table(scores, unit))
    if args.synops:
        _count(args, models, model, loader, world, path)
    if args.detach:
        with world.main_only("saving the detached network") as main:
            if main:
                target = path.with_name("fsnn.pth")
                checkpoint.write(target, {"config": model.config, "model": model.state_dict()})
                log.say(f"without the pathway, saved as {target}")


def _count(args: argparse.Namespace, models: ModuleType, model: Any, loader: Any, world: World, path: Path) -> None:
    """Synaptic operations and energy of the network trained at `path`, on its test set."""
    if world.size > 1:
        raise UsageError(f"--synops counts in one process, not in {world.size}: start without torchrun")
    from utils.measure.ann import plain_resnet  # the counters are only imported where they are used
    from utils.measure.synops import write_report

    detached = models.detach_aap(model) if getattr(model, "aap", None) is not None else None
    folder = path.parent / "synops"
    data = f"the test set, weights of {path}"
    ann = plain_resnet(model)
    write_report(
        model, loader, folder, detached=detached, ann=ann, device=world.device, data=data, syops=not args.no_syops
    )
