"""A training run from top to bottom: its processes, `fit`, the epoch, the step, evaluation, checkpoints, resuming.

A data set's train.py calls `fit` with the network, the criterion and the data that it has made.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from full_spike.models import Pretrained, model_options, returning, save_memory, use_fused
from full_spike.utils import checkpoint, distributed, interrupts, run_folder
from full_spike.utils.allocator import keep_freed_memory
from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.loading import Batches, Loaders, make_loaders
from full_spike.utils.distributed import World
from full_spike.utils.errors import StopRequestedError, UsageError, UserError
from full_spike.utils.interrupts import STOP, Interrupts, stopping_at_once
from full_spike.utils.log import RunLog
from full_spike.utils.losses import Outputs, readout_names, readouts
from full_spike.utils.measure.firing_rates import FiringRates
from full_spike.utils.metrics import Clock, EpochResult, Meter, Scores, clock_time
from full_spike.utils.optim import make_optimizer, make_schedule
from full_spike.utils.options import Args
from full_spike.utils.seed import get_rng_state, seed_everything, set_rng_state
from full_spike.utils.versions import versions

HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# what decides which samples the batches of an epoch hold
DEALING = {"world_size", "batch_size", "accumulate", "seed", "training_samples", "files"}
# what the saved state of an optimizer and a schedule is made for
COURSE = {"lr_scheduler", "sched_on_updates", "decay_weights_only", "steps_per_epoch"}
MAY_CHANGE = {"epochs", "initial_checkpoint"}  # a run may be made longer


@contextlib.contextmanager
def job(args: Args) -> Iterator[World]:
    """The processes of a command, with the same options and seeded, until the block ends; errors become one line.

    Raises:
        UserError: the processes did not meet, or ran out of memory.
        StopRequestedError: a scheduler asked to stop and there was nothing to save.
    """
    with stopping_at_once():
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        world = distributed.start(device, world_size=args.world_size, dist_url=args.dist_url, timeout=args.dist_timeout)
        with distributed.explain_lost_peers(world), _explaining_exhaustion():
            paths = {"output_dir": None, "data_path": None, "predictions": None, "config": None}
            checkpoint.require_alike({"options": {**args.all(), **paths, "resume": bool(args.resume)}}, world)
            if world.device.type == "cpu" and args.keep_memory:
                keep_freed_memory()
            seed_everything(args.seed, world.rank)
            if world.device.type == "cuda":
                _choose_kernels(args.deterministic)
            yield world
        distributed.stop(world)


def _choose_kernels(deterministic: bool) -> None:
    """On a GPU: those that are fastest at the shapes they meet, or those that give the same bits in every run."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = not deterministic, deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)  # torch has no such kernel for max pooling
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts


@contextlib.contextmanager
def _explaining_exhaustion() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip(". \n").rpartition("\n")[2]
        if "killed by signal" in reason or "shared memory" in reason:
            raise UserError(
                f"a loading process ended ({reason}): give it more memory or a larger /dev/shm (docker's --shm-size), "
                "or load with -j 0"
            ) from None
        # RuntimeError is what torch's allocator on the CPU raises
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            "there is not enough memory for this run: take a smaller -b (and --accumulate batches), --memory-saving, "
            "a smaller --T or --width; the checkpoints of the run are untouched"
        ) from None


def find_weights(args: Args, world: World) -> Pretrained | None:
    """The trained weights that a command names, read by the main process: to test (--resume FILE), or to begin with."""
    wanted = args.resume if args.test_only else args.initial_checkpoint
    if not wanted or (args.test_only and wanted == "auto"):
        return None
    found = None
    with world.main_only("reading the weights") as main:
        if main:
            try:
                found = checkpoint.read_trained(wanted, args.model, averaged=args.ema and args.test_only)
            except UserError:
                if args.test_only or not args.resume:  # a run that goes on has weights of its own
                    raise
    return world.share(found and found._replace(content={}))


def options_of(weights: Pretrained | None, args: Args) -> dict[str, Any]:
    """What trained weights say of the network and, to test them, of their data: a command's defaults."""
    if weights is None:
        return {}
    said = {k: v for k, v in weights.config.items() if k not in ("num_classes", "in_channels")}
    if args.model not in (args.default("model"), said.get("model")):  # such as the trunk of a dual-stream network
        said = {k: v for k, v in said.items() if k in model_options(args.model)}
    recipe, data = weights.metadata.get("recipe"), args.of("data")
    if args.test_only and isinstance(recipe, dict):
        named = data.get("dataset")  # on other data, what the checkpoint says of its own does not count
        if named in (args.default("dataset"), recipe.get("dataset")):
            said |= {k: v for k, v in recipe.items() if k in data and k not in ("batch_size", "data_path")}
    return said


@dataclass
class Run:
    """A training run: everything that its next step depends on."""

    model: Any
    criterion: nn.Module
    data: Datasets
    args: Args
    world: World
    epoch: int = 0
    step: int = 0  # batches of the epoch that have been trained on
    max_test_acc1: float = 0.0
    test_acc5_at_max_test_acc1: float = 0.0
    still_ours: Callable[[], None] = lambda: None  # raises UserError if another job has taken the folder
    loaders: Loaders = field(init=False)

    def __post_init__(self) -> None:
        args, world = self.args, self.world
        args.device = world.device.type
        if args.amp and args.amp_dtype is None:
            args.amp_dtype = "fp16" if args.device == "cuda" else "bf16"
        self.model = place(self.model, args, world)
        self.model.by_step = getattr(self.criterion, "by_step", False)
        self.epoch = args.start_epoch
        self.loaders = make_loaders(
            self.data.train,
            self.data.test,
            batch_size=args.batch_size,
            workers=args.workers,
            world=world,
            seed=args.seed,
            collate=self.data.collate,
            mix=self.data.mix,
        )
        self.batches = self.loaders.sampler.batches
        self.steps = -(-self.batches // args.accumulate)  # of the optimizer, in an epoch
        self.optimizer = make_optimizer(self.model, args)
        self.schedule = make_schedule(self.optimizer, args, self.steps)
        self.amp_dtype = HALF_TYPES[args.amp_dtype] if args.amp else None
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.amp_dtype is torch.float16)
        # the hooks run after steps that the optimizer made: the loss scaler leaves some out. On a GPU, where it is the
        # optimizer's kernel that leaves them out, they run after these as well
        if args.sched_on_updates:
            self.optimizer.register_step_post_hook(lambda *_: self.schedule.step())
        self.network: Any = torch.compile(self.model) if args.compile else self.model
        if world.size > 1:
            self.network = distributed.data_parallel(self.network, world)
        self.ema: AveragedModel | None = None
        if args.ema_decay is not None:  # of the weights that all processes have from here on
            ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(args.ema_decay), use_buffers=True)
            self.optimizer.register_step_post_hook(lambda *_: average(ema, self.model, args.ema_decay))
            self.ema = ema
        self.compiles = args.fused or args.compile  # the first step does
        self.meter = Meter(readout_names(self.model), world.device)
        self.nan_batch = torch.zeros(1, dtype=torch.int64, device=world.device)  # the first, counted from 1
        self.interrupts = Interrupts(world, args.checkpoint_every)
        self.folder = run_folder.folder_of(args, self.model.config, self.data.name)
        for name in args.of("network"):  # what config.yaml keeps is what the network was built with
            setattr(args, name, {**self.model.config, "model": args.model}.get(name))
        self.log = RunLog(world, self.folder)
        self.clock = Clock(self.epoch, args.epochs)

    def plan_schedule(self, first: int) -> None:
        """The schedule of the options once more, over the epochs that are left from the epoch `first` on."""
        args = self.args
        left = {"epochs": args.epochs - first, "cos_lr_T": args.epochs - first - args.cooldown_epochs, "start_epoch": 0}
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] = args.lr
        self.schedule = make_schedule(self.optimizer, Args(**{**vars(args), **left}), self.steps)

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def done(self) -> float:
        """Epochs that have been trained."""
        return self.epoch + self.step / max(1, self.batches)

    def recipe(self) -> dict[str, Any]:
        """What must stay as it is from the first step of a run to its last: plain values by option."""
        values = {
            **self.args.of("recipe"),
            "batch_size": self.args.batch_size,
            "training_samples": len(self.data.train),
            **({"steps_per_epoch": self.steps} if self.args.sched_on_updates else {}),
            **self.data.recipe,
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@torch.no_grad()
def average(ema: AveragedModel, model: nn.Module, decay: float) -> None:
    """`ema.update_parameters(model)`, but that one copies its count of updates to a GPU, and waits for it."""
    if ema.n_averaged == 0:
        return ema.update_parameters(model)
    pairs = list(zip(*(list(itertools.chain(m.parameters(), m.buffers())) for m in (ema.module, model)), strict=True))
    for floats in (True, False):
        if chosen := [pair for pair in pairs if pair[0].is_floating_point() == floats]:
            get_ema_multi_avg_fn(decay)(*zip(*chosen, strict=True), 0)
    ema.n_averaged += 1


def place(model: Any, args: Args, world: World) -> Any:
    """A network on its device, in its memory format, with compiled layers and recomputation as the options say."""
    if args.channels_last is None:
        args.channels_last = args.fused or world.device.type == "cuda"  # as the convolutions of tensor cores want it
    layout: Any = torch.channels_last if args.channels_last else torch.preserve_format
    model = use_fused(model.to(world.device, memory_format=layout), args.fused)
    if args.memory_saving:
        model = save_memory(model)
    if args.sync_bn and not args.test_only:
        if world.device.type != "cuda":
            raise UsageError("--sync-bn needs GPUs (torch has it for CUDA alone): leave it out with --device cpu")
        config, model = model.config, nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model.config = config
    return model


def fit(
    model: nn.Module, criterion: nn.Module, data: Datasets, args: Args, world: World, weights: Pretrained | None = None
) -> None:
    """Train a network to the last epoch, from the start or from where its run stopped.

    Args:
        model: of `create_model`; returns logits [N, classes], or a pair of them.
        criterion: (outputs, targets) -> mean loss, see `DualStreamLoss`. Its attributes `epoch` and `inputs` (of the
            batch) are kept up to date; one with `by_step` gets logits of each time step [T, N, classes].
        weights: that the network begins with, to be reported.

    Raises:
        UserError: the folder holds another run, or the loss is no longer finite.
        StopRequestedError: a scheduler asked to stop; the run has saved.
    """
    run = Run(model, criterion, data, args, world)
    say = run.log.say
    describe(run.model, data, args, world)
    _check(run, weights)
    with run_folder.locked(run.folder, world) as run.still_ours:
        run_folder.prepare(run.folder, args, world)
        if args.resume:
            resume(run, weights)
        checkpoint.require_alike(_starting_point(run), world)
        options = run_folder.keep_config(run.folder, args, world)
        run.log.forget_from(run.epoch)
        if args.tb:
            run.log.open_tensorboard(run.epoch, options)
        run.clock, started = Clock(run.done, args.epochs), time.monotonic()
        with run.interrupts.listening():
            while run.epoch < args.epochs:
                end_epoch(run, *train_epoch(run))
        run.log.close()
    say(
        f"done in {clock_time(time.monotonic() - started)}, best test top-1 {run.max_test_acc1:.2f} %, "
        f"top-5 then {run.test_acc5_at_max_test_acc1:.2f} %, in {run.folder}"
    )


def describe(model: nn.Module, data: Datasets, args: Args, world: World) -> None:
    """Say how much there is of the data and of the network."""
    say, parameters = RunLog(world).say, sum(p.numel() for p in model.parameters())
    say(f"{len(data.train)} training and {len(data.test)} test {data.unit} of {data.num_classes} classes")
    say(f"{args.model}: {parameters:,} parameters on {world.size} x {world.device.type}")


def _check(run: Run, weights: Pretrained | None) -> None:
    args, say = run.args, run.log.say
    if weights is not None and not args.resume:
        config = run.model.config
        different = [f"{k}={v}" for k, v in weights.config.items() if k in config and v != config[k]]
        trained_with = f", trained with {', '.join(different)}" if different else ""
        say(f"beginning with the weights of {weights.path}{trained_with}")
    weighed = args.aap_weight != 1.0 or args.aap_off_epoch or args.aap_weight_end is not None
    if weighed and getattr(run.model, "aap", None) is None:
        raise UsageError(
            f"--aap-weight... and --aap-off-epoch weigh the pathway's loss, and {args.model} has no pathway"
        )
    if args.tau not in (None, args.default("tau"), 2.0) and run.model.config.get("neuron") == "IF":
        raise UsageError(f"--tau {args.tau} does nothing: IF neurons have no time constant; leave it out")
    if args.lr_scheduler.startswith("cosine") and args.cos_lr_T + args.cooldown_epochs < args.epochs:
        say(
            f"warning: --cos_lr_T {args.cos_lr_T} ends before --epochs {args.epochs}: the learning rate climbs again "
            "from then on, as in the released code"
        )


def train_epoch(run: Run) -> tuple[int, float]:
    """Train from the run's step to the epoch's end; the CPU waits for the device at reports alone.

    Returns (samples of all processes, when that began).
    """
    args, first = run.args, run.step
    run.loaders.sampler.start_at(run.epoch, first)
    run.network.train()
    run.criterion.epoch = run.epoch  # type: ignore[assignment]
    seen, began = 0, time.monotonic()
    window_seen, window_began = 0, began
    with run.log.progress(f"epoch {run.epoch + 1}/{args.epochs}", run.batches, first) as progress:
        for step, (images, target) in enumerate(_ahead(run), start=first):
            group_start = step - step % args.accumulate
            group = min(args.accumulate, run.batches - group_start)  # batches whose mean gradient makes the update
            update = step + 1 == group_start + group
            asked = time.monotonic()
            with progress.waiting("compiling") if run.compiles else contextlib.nullcontext():
                outputs, loss = train_step(run, images, target, group, update)
            if run.compiles:
                took = time.monotonic() - asked
                run.log.say(f"first step {took:.1f} s, mostly compiling")
                run.clock.leave_out(took)
                run.compiles = False
            hold_nan = images.isnan().any()  # of which neurons would make silence, and a loss like any other
            run.nan_batch = torch.where(hold_nan & (run.nan_batch == 0), step + 1, run.nan_batch)
            run.meter.update(readouts(outputs), target, loss.masked_fill(hold_nan, math.nan))
            run.step = step + 1
            seen += len(target) * run.world.size
            window_seen += len(target) * run.world.size
            progress.advance()
            if run.step % args.print_freq == 0:
                mean_loss, scores = _read_meter(run)
                now = time.monotonic()
                progress.show(
                    f"loss {mean_loss:.4f}  acc1 {next(iter(scores.values())).acc1:.2f}  lr {run.lr:.5g}  "
                    f"{window_seen / (now - window_began):.1f} {run.data.unit}/s  "
                    f"left {clock_time(run.clock.left(run.done))}"
                )
                window_seen, window_began = 0, now
            if update and run.step < run.batches:
                request = run.interrupts.after_step()
                if request != interrupts.NOTHING:
                    save(run)
                if request == STOP:
                    raise _interrupted(run)
    return seen, began


def _ahead(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
    """The epoch's batches; a GPU gets and makes them on a stream of its own, beside the steps still to do there."""
    batches, device = iter(run.loaders.train), run.world.device
    ahead = torch.cuda.Stream(device) if device.type == "cuda" else None
    while True:
        with torch.cuda.stream(ahead):  # the same as ever where there is none
            batch = next(batches, None)
        if batch is None:
            return
        if ahead is not None:
            steps = torch.cuda.current_stream(device)
            steps.wait_stream(ahead)
            for x in batch:
                x.record_stream(steps)  # or its memory would be another batch's while it is read
        yield batch


def train_step(run: Run, images: Tensor, target: Tensor, group: int, update: bool) -> tuple[Any, Tensor]:
    """Forward and backward for one batch, and an optimizer step unless more batches are to be accumulated.

    Args:
        images: [N, C, H, W] or [T, N, C, H, W] on the device.
        target: classes [N], or the share that each class has in each sample [N, classes].
        group: batches whose mean gradient makes the update.
        update: whether this is the last of them.

    Returns:
        (the network's outputs, the mean loss), detached, on the device.
    """
    accumulating = not update and isinstance(run.network, DistributedDataParallel)
    with run.network.no_sync() if accumulating else contextlib.nullcontext():
        with torch.autocast(images.device.type, run.amp_dtype, enabled=run.amp_dtype is not None):
            outputs = run.network(images)
            run.criterion.inputs = images
            loss = run.criterion(outputs, target)
        run.scaler.scale(loss / group).backward()
    if update:
        if run.args.clip_grad_norm is not None:
            run.scaler.unscale_(run.optimizer)  # the limit is on gradients, not on scaled ones
            nn.utils.clip_grad_norm_(run.model.parameters(), run.args.clip_grad_norm)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad(set_to_none=True)
    detached = tuple(x.detach() for x in outputs) if isinstance(outputs, tuple) else outputs.detach()
    return detached, loss.detach()


def end_epoch(run: Run, seen: int, began: float) -> None:
    """Save what was trained, test it, report, and save what came of it; see `train_epoch`."""
    args, epoch = run.args, run.epoch
    loss, train = _read_meter(run)
    speed = seen / max(time.monotonic() - began, 1e-9)  # the device has done it all by now
    lr = run.lr
    save(run)  # first: whatever testing meets, the epoch is kept

    def stop_if_asked() -> None:
        if run.interrupts.after_test_batch() == STOP:
            raise _interrupted(run)

    rates = FiringRates(run.model) if args.tb else None
    test = evaluate(run.model, run.loaders.test, run.world, run.log, after_batch=stop_if_asked, rates=rates)
    averaged: Scores = {}
    if run.ema is not None:
        averaged = evaluate(
            run.ema.module, run.loaders.test, run.world, run.log, title="ema", after_batch=stop_if_asked
        )
    if not args.sched_on_updates:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, that no optimizer step was made before: none is left on resuming
            run.schedule.step()
    result = EpochResult(
        epoch, loss, train, test, averaged, rates.read(run.world) if rates else {}, lr, speed, run.clock.left(epoch + 1)
    )
    with run.world.main_only("reporting the epoch"):
        run.still_ours()
    run.log.say(result.line(args.epochs, run.data.unit))
    run.log.scalars("train", result.train_tags(), epoch)
    run.log.scalars("te", result.test_tags(), epoch)
    run.log.record(result.entry())

    primary = next(iter((averaged if args.ema else test).values()))
    best = primary.acc1 > run.max_test_acc1
    if best:
        run.max_test_acc1, run.test_acc5_at_max_test_acc1 = primary.acc1, primary.acc5
    run.epoch, run.step = epoch + 1, 0
    run.meter.sums.zero_()
    # the release keeps every 64th epoch and the last one for good
    keep = [f"checkpoint_{epoch}.pth"] if epoch % 64 == 0 or epoch == args.epochs - 1 else []
    save(run, [*keep, *([checkpoint.BEST] if best else [])])
    if run.interrupts.after_epoch() == STOP and run.epoch < args.epochs:
        raise _interrupted(run)


def _interrupted(run: Run) -> StopRequestedError:
    return StopRequestedError(
        f"asked to stop; saved epoch {run.epoch + 1}, batch {run.step} in {run.folder / checkpoint.LATEST}: "
        "go on with --resume auto"
    )


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Batches,
    world: World,
    log: RunLog,
    *,
    title: str = "test",
    rates: FiringRates | None = None,
    after_batch: Callable[[], None] = lambda: None,
    by_step: bool = False,
    watch: Callable[[Outputs, Tensor], None] = lambda _outputs, _target: None,
) -> Scores:
    """Score every sample of a loader once, over all processes, in the precision of the weights.

    Args:
        rates: follows the firing rates meanwhile.
        after_batch: is called between the batches that all processes have (one may have one more), and may raise.
        by_step: ask the network for the logits of each time step.
        watch: gets the network's outputs for each batch, all streams, and its classes [N].
    """
    model.eval()
    world.share_buffers(model)
    meter = Meter(readout_names(model), world.device)
    common = min(int(batches) for batches in world.gather(torch.tensor([len(loader)])))
    streams = returning(model, readout="both", by_step=by_step)
    with streams, rates or contextlib.nullcontext(), log.progress(title, len(loader)) as progress:
        for batch, (images, target) in enumerate(loader, start=1):
            images = images.to(world.device, non_blocking=True)
            target = target.to(world.device, non_blocking=True)
            outputs = model(images)
            meter.update(readouts(outputs), target)
            watch(outputs, target)
            progress.advance()
            if batch < common:
                after_batch()
    return meter.read(world)[1]


def _read_meter(run: Run) -> tuple[float, Scores]:
    """The epoch so far; every process sees the same numbers, so all stop together at a loss that is not finite."""
    loss, scores = run.meter.read(run.world)
    if not math.isfinite(loss) and run.step:
        nan_batch = max(int(batch) for batch in run.world.gather(run.nan_batch.cpu()))
        if nan_batch:
            raise UserError(
                f"inputs hold NaN in batch {nan_batch} of epoch {run.epoch + 1}: look at how the data are made; the "
                "checkpoints of the run are untouched"
            )
        raise UserError(
            f"the loss became {loss} in epoch {run.epoch + 1}, batch {run.step} or before: lower --lr, or use "
            "--amp-dtype bf16 or no --amp; the checkpoints of the run are untouched"
        )
    return loss, scores


def save(run: Run, also: list[str] | None = None) -> None:
    """Write the newest checkpoint, and give it more names.

    Raises:
        UserError: the loss or a weight is no longer finite, or the folder has become another job's.
    """
    _read_meter(run)
    sums = run.world.sum(run.meter.sums)
    random_states = run.world.gather(get_rng_state(run.world.device))
    with run.world.main_only("writing a checkpoint") as main:
        if main:
            run.still_ours()
            state = {
                **_state(run),
                "epoch": run.epoch,
                "step": run.step,
                "max_test_acc1": run.max_test_acc1,
                "test_acc5_at_max_test_acc1": run.test_acc5_at_max_test_acc1,
                "meter": sums.cpu(),
                "random_states": random_states,
                "world_size": run.world.size,
                "recipe": run.recipe(),
                "versions": versions(),
                **metadata(run.data, run.args),
            }
            wrong = checkpoint.not_finite({name: state[name] for name in ("model", "ema", "optimizer")})
            if wrong:  # the last step can spoil weights that no loss has been seen of
                raise UserError(
                    f"not saved after epoch {run.epoch}, batch {run.step}, since {wrong} holds numbers that are not "
                    "finite: lower --lr, or use --amp-dtype bf16 or no --amp; the checkpoints of the run are untouched"
                )
            latest = checkpoint.write_latest(run.folder, state)
            for name in also or []:
                checkpoint.copy(latest, run.folder / name)
            run_folder.discard_overwritten(run.folder)
    run.interrupts.saved()


def metadata(data: Datasets, args: Args) -> dict[str, Any]:
    """What a checkpoint says of its data, for those who use the network: plain values."""
    return {"data_set": args.data_set, "classes": list(data.classes), "inputs": dict(data.inputs)}


def _state(run: Run) -> dict[str, Any]:
    return {
        "config": run.model.config,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "lr_scheduler": run.schedule.state_dict(),
        "scaler": run.scaler.state_dict(),
        "ema": None if run.ema is None else run.ema.state_dict(),
    }


def _starting_point(run: Run) -> dict[str, Any]:
    """All that the next step depends on and every process must have alike, by name."""
    state = _state(run)
    return {
        "options": run.recipe(),
        "number of samples": [len(run.data.train), len(run.data.test)],
        "position": [run.epoch, run.step, run.max_test_acc1],
        "network": state["config"],
        "weights and statistics": state["model"],
        "averaged weights": state["ema"],
        "optimizer": [state[name] for name in ("optimizer", "lr_scheduler", "scaler")],
    }


def resume(run: Run, weights: Pretrained | None) -> None:
    """Go on from the checkpoint that --resume names, bit for bit where the run stopped; from the start without one.

    Raises:
        UserError: it is damaged or does not fit, or it stopped inside an epoch whose data would be dealt otherwise now.
    """
    args, world, say = run.args, run.world, run.log.say
    found: tuple[Path, dict[str, Any]] | None = None
    with world.main_only("reading the checkpoint") as main:
        if main and (args.resume == "auto" or Path(args.resume) == run.folder):
            found = checkpoint.newest_whole(run.folder, say)
        elif main:
            found = Path(args.resume), checkpoint.read(Path(args.resume))
    found = world.share(found)
    if found is None:
        if args.initial_checkpoint and weights is None:
            checkpoint.read_trained(args.initial_checkpoint, args.model)  # raises what is wrong with it
        say(f"no checkpoint in {run.folder} yet: beginning at epoch {run.epoch + 1}{run_folder.other_runs(run.folder)}")
        return
    path, state = found
    _check_network(path, state["config"], run.model.config)
    then = {**state["recipe"], "world_size": state["world_size"]}
    now = {**run.recipe(), "world_size": world.size}
    # what an older checkpoint does not know of was not an option then
    changed = {k: f"{k} {then[k]} -> {now[k]}" for k in now if k not in MAY_CHANGE and k in then and then[k] != now[k]}
    parts = {k for k in ("warmup_epochs", "cooldown_epochs") if k in changed and 0 in (then[k], now[k])}
    if course := changed.keys() & COURSE | parts:
        what = "; ".join(changed[k] for k in sorted(course))
        raise UsageError(f"{path} has an optimizer and a schedule for other options ({what}): use the same")
    if state["step"] and changed.keys() & DEALING:
        what = "; ".join(changed[k] for k in sorted(changed.keys() & DEALING))
        raise UserError(
            f"{path} stopped inside epoch {state['epoch'] + 1}, whose data would be dealt out otherwise ({what}): "
            "use the same options until the epoch ends"
        )
    longer = then["epochs"] != args.epochs
    if longer:
        changed.pop("cos_lr_T", None)  # follows --epochs, of which a warning of its own tells
        left = args.epochs - state["epoch"]
        if args.new_schedule and (state["step"] or left <= args.warmup_epochs + args.cooldown_epochs):
            raise UsageError(
                f"--new-schedule begins with an epoch and needs more of them than the warm-up and the cool-down take: "
                f"{path} stopped in epoch {state['epoch'] + 1}, batch {state['step']}, of {args.epochs} epochs"
            )
    if (state["ema"] is None) != (run.ema is None):
        has, wants = ("no ", "keeps") if state["ema"] is None else ("", "keeps no")
        raise UsageError(f"{path} has {has}averaged weights and this run {wants}: use the same --ema-decay")
    try:
        for group in state["optimizer"]["param_groups"]:
            group["fused"] = run.optimizer.defaults.get("fused")  # of this device, not of the one then
        run.model.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        if args.new_schedule and longer:
            run.plan_schedule(state["epoch"])
        else:
            run.schedule.load_state_dict(state["lr_scheduler"])
        if run.scaler.is_enabled() and state["scaler"]:
            run.scaler.load_state_dict(state["scaler"])
        if run.ema is not None:
            run.ema.load_state_dict(state["ema"])
        if world.is_main:  # the sums are of all processes, so one of them carries them on
            run.meter.sums.copy_(state["meter"])
        if state["world_size"] == world.size:
            set_rng_state(state["random_states"][world.rank], world.device)
        run.epoch, run.step = state["epoch"], state["step"]
        run.max_test_acc1 = state["max_test_acc1"]
        run.test_acc5_at_max_test_acc1 = state["test_acc5_at_max_test_acc1"]
    except (RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} does not fit this run ({reason}): use another one, or the options of then") from None
    planned = then["cos_lr_T"] + then["cooldown_epochs"]
    if longer and not args.new_schedule and args.lr_scheduler != "step" and planned != args.epochs:
        say(
            f"warning: the learning rate follows the schedule of {planned} epochs, planned before --epochs "
            f"{args.epochs}: --new-schedule plans it again, from --lr at epoch {run.epoch + 1} to the new end"
        )
    if changed:
        say(
            f"warning: options changed since the checkpoint ({'; '.join(changed.values())}): the optimizer and the "
            "schedule go on as they were saved, the rest as given now"
        )
    say(f"resumed from {path}: epoch {run.epoch + 1}, batch {run.step}")


def _check_network(path: Path, saved: dict[str, Any], ours: dict[str, Any]) -> None:
    # an option that the network of then did not have is at its default
    saved = {**model_options(ours["model"]), **saved}
    wrong = [f"{k}={saved[k]!r} instead of {ours[k]!r}" for k in ours if k in saved and saved[k] != ours[k]]
    if wrong:
        raise UserError(f"{path} was saved from another network ({', '.join(wrong)}): use its options")
