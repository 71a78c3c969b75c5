"""Optimizers and learning-rate schedules: a row each in two tables, with the options that they are made from."""

from __future__ import annotations

import argparse
import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from full_spike.utils.errors import UsageError
from full_spike.utils.runtime.deferred import Deferred
from full_spike.utils.runtime.options import LARGEST_INT, above, fraction, natural, non_negative, option, positive_int

if TYPE_CHECKING:
    from torch import nn, optim
    from torch.optim import lr_scheduler
else:  # the options and their tables are read for --help, which must not wait for torch
    optim = Deferred("torch.optim")
    lr_scheduler = Deferred("torch.optim.lr_scheduler")

Schedule: TypeAlias = "lr_scheduler.LRScheduler"


def _betas(text: str) -> tuple[float, float]:
    first, comma, second = text.partition(",")
    if not comma:
        raise argparse.ArgumentTypeError(f"{text} is no pair: write 0.9,0.999")
    return fraction(first), fraction(second)


# name -> (torch's class, which of the options below it takes besides the learning rate and the weight decay)
OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], tuple[str, ...]]] = {
    "sgd": (optim.SGD, ("momentum",)),
    "adam": (optim.Adam, ("betas", "eps")),
    "adamw": (optim.AdamW, ("betas", "eps")),
}

# name -> (optimizer, options) -> how the learning rate changes once the warm-up is over, stepped once an epoch. With
# --sched-on-updates it is stepped once a step, and the options that it is given count steps where they count epochs.
SCHEDULES: dict[str, Callable[[optim.Optimizer, OptimOptions], Schedule]] = {
    # annealed to `min_lr` over what the warm-up leaves of `cos_lr_T` epochs (arXiv:1608.03983, equation 5); it climbs
    # again in the epochs after these, as in the released code
    "cosine": lambda optimizer, o: lr_scheduler.CosineAnnealingLR(optimizer, o.period - o.warmup_epochs, o.min_lr),
    # the same curve from the first epoch on; the warm-up takes the place of its beginning
    "cosine-timm": lambda optimizer, o: lr_scheduler.LambdaLR(
        optimizer, _AlongCosine(o.warmup_epochs, o.period, o.min_lr / (o.lr or 1.0))
    ),
    # multiplied by `gamma` every `step_size` epochs
    "step": lambda optimizer, o: lr_scheduler.StepLR(optimizer, o.step_size, o.gamma),
}


@dataclass
class _AlongCosine:
    """The share of the learning rate `t` epochs after the first ones. Its fields are in checkpoints."""

    first: int
    period: int
    lowest: float

    def __call__(self, t: int) -> float:
        return self.lowest + (1.0 - self.lowest) * (1.0 + math.cos(math.pi * (t + self.first) / self.period)) / 2


@dataclass(frozen=True)
class OptimOptions:
    """How long, by which optimizer and at which learning rates the weights are trained."""

    epochs: int = option(320, "epochs in all", parse=positive_int)
    lr: float = option(0.1, "initial learning rate", parse=non_negative)
    cos_lr_T: int | None = option(  # noqa: N815  (the released code's name)
        None,
        "cosine half period; default: --epochs without the cool-down",
        "--cos_lr_T",
        "--cos-lr-T",
        parse=positive_int,
    )
    lr_scheduler: str = option(
        "cosine", "how the learning rate falls; cosine counts from the end of the warm-up, cosine-timm from the start",
        "--lr-scheduler", "--lr_scheduler", choices=tuple(SCHEDULES),
    )  # fmt: skip
    step_size: int = option(
        30, "with --lr-scheduler step: epochs between two falls of the learning rate",
        "--step-size", "--step_size", "--lr-step-size", parse=positive_int,
    )  # fmt: skip
    gamma: float = option(0.1, "with step: factor of each fall", "--gamma", "--lr-gamma", parse=non_negative)
    warmup_epochs: int = option(0, "epochs of linear warm-up", parse=natural)
    warmup_lr: float | None = option(
        None, "learning rate that the warm-up begins at; default: a hundredth of --lr", parse=above(0.0)
    )
    min_lr: float = option(0.0, "learning rate that the cosine ends at, and of the cool-down", parse=non_negative)
    cooldown_epochs: int = option(0, "the last epochs stay at --min-lr; they count among --epochs", parse=natural)
    sched_on_updates: bool = option(False, "change the learning rate after every step instead of every epoch")
    optimizer: str = option(
        "sgd", "what makes a step of a gradient", choices=tuple(OPTIMIZERS),
        shortcuts={"--adam": ("adam", "the same as --optimizer adam")},
    )  # fmt: skip
    momentum: float = option(0.9, "of sgd", parse=fraction)
    betas: tuple[float, float] = option(
        (0.9, 0.999), "of adam and adamw: what their two averages keep, as 0.9,0.999", parse=_betas
    )
    eps: float = option(1e-8, "of adam and adamw: added to the divisor", parse=above(0.0))
    weight_decay: float = option(1e-5, "on every parameter, as released", "--wd", "--weight-decay", parse=non_negative)
    decay_weights_only: bool = option(False, "no weight decay on norms, biases and position embeddings")

    @property
    def period(self) -> int:
        """Epochs over which the cosine falls, the warm-up included."""
        return self.cos_lr_T or self.epochs - self.cooldown_epochs

    @property
    def cosine(self) -> bool:
        """Whether the learning rate falls along one."""
        return self.lr_scheduler.startswith("cosine")


def make_optimizer(model: nn.Module, options: OptimOptions) -> optim.Optimizer:
    """The optimizer that the options name, over all parameters; all decay by default, as in the released recipe."""
    make, own = OPTIMIZERS[options.optimizer]
    return make(
        _groups(model) if options.decay_weights_only else model.parameters(),
        lr=options.lr,
        weight_decay=options.weight_decay,
        **{name: getattr(options, name) for name in own},
    )


POSITIONS = ("pos_embed", "position_embedding", "relative_position")  # as timm and torchvision call such parameters


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """Parameters that decay, and those that do not: what has one dimension (norms and biases), and position embeddings.

    A network may name more of the latter: timm's have a method `no_weight_decay` that returns their names.
    """
    named = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        kept = parameter.ndim > 1 and name not in named and not any(word in name for word in POSITIONS)
        (decaying if kept else others).append(parameter)
    return [{"params": decaying}, {"params": others, "weight_decay": 0.0}]


def make_schedule(
    optimizer: optim.Optimizer, options: OptimOptions, start_epoch: int = 0, steps_per_epoch: int = 1
) -> Schedule:
    """The schedule that the options name: a linear warm-up, the fall, and a cool-down.

    Args:
        start_epoch: the epoch that the run begins at; the rate is that of this epoch.
        steps_per_epoch: what an epoch counts with --sched-on-updates; without it, one.

    Raises:
        UsageError: the warm-up, the fall and the cool-down don't fit together.
    """
    _check(options)
    counts = steps_per_epoch if options.sched_on_updates else 1
    o = dataclasses.replace(
        options,
        cos_lr_T=counts * options.period,
        **{
            name: counts * getattr(options, name)
            for name in ("epochs", "warmup_epochs", "cooldown_epochs", "step_size")
        },
    )
    parts, milestones = [SCHEDULES[o.lr_scheduler](optimizer, o)], []
    if o.warmup_epochs:
        first = 0.01 if o.warmup_lr is None else o.warmup_lr / o.lr
        parts.insert(0, lr_scheduler.LinearLR(optimizer, first, total_iters=o.warmup_epochs))
        milestones.append(o.warmup_epochs)
    if o.cooldown_epochs:
        parts.append(lr_scheduler.ConstantLR(optimizer, o.min_lr / o.lr, total_iters=LARGEST_INT))
        milestones.append(o.epochs - o.cooldown_epochs)
    schedule = lr_scheduler.SequentialLR(optimizer, parts, milestones) if milestones else parts[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that no optimizer step was made before
        for _ in range(counts * start_epoch):
            schedule.step()
    return schedule


def _check(o: OptimOptions) -> None:
    for flag, rate in (("--warmup-lr", o.warmup_lr), ("--min-lr", o.min_lr)):
        if rate is not None and rate > o.lr:
            raise UsageError(f"{flag} {rate} is above --lr {o.lr}: take a smaller one")
    if o.cooldown_epochs and o.warmup_epochs + o.cooldown_epochs >= o.epochs:
        warmup = f"--warmup-epochs {o.warmup_epochs} and " if o.warmup_epochs else ""
        raise UsageError(
            f"{warmup}--cooldown-epochs {o.cooldown_epochs} leave nothing of --epochs {o.epochs}: take fewer"
        )
    if o.cosine and o.warmup_epochs >= o.period:
        raise UsageError(f"--warmup-epochs {o.warmup_epochs} leaves nothing of --cos_lr_T {o.period}: take fewer")
    if o.cooldown_epochs and not o.min_lr:
        raise UsageError(f"--cooldown-epochs {o.cooldown_epochs} would train at a learning rate of 0: give a --min-lr")
    if o.cosine and o.cooldown_epochs and o.period + o.cooldown_epochs != o.epochs:
        raise UsageError(
            f"--cos_lr_T {o.period} and --cooldown-epochs {o.cooldown_epochs} do not make up --epochs {o.epochs}: "
            "change one of them"
        )
