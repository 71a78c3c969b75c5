"""Optimizers and learning-rate schedules: a row each in two tables, with the options that they are made from."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from utils.runtime.deferred import Deferred
from utils.runtime.errors import UsageError
from utils.runtime.options import above, fraction, natural, non_negative, option, positive_int

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

# name -> (optimizer, options) -> how the learning rate changes once the warm-up is over, stepped once an epoch
SCHEDULES: dict[str, Callable[[optim.Optimizer, OptimOptions], Schedule]] = {
    # annealed to 0 over what the warm-up leaves of `cos_lr_T` epochs (arXiv:1608.03983, equation 5); it climbs again in
    # the epochs after these, as in the released code
    "cosine": lambda optimizer, o: lr_scheduler.CosineAnnealingLR(optimizer, o.period - o.warmup_epochs),
    # multiplied by `gamma` every `step_size` epochs
    "step": lambda optimizer, o: lr_scheduler.StepLR(optimizer, o.step_size, o.gamma),
}


@dataclass(frozen=True)
class OptimOptions:
    """How long, by which optimizer and at which learning rates the weights are trained."""

    epochs: int = option(320, "epochs in all", parse=positive_int)
    lr: float = option(0.1, "initial learning rate", parse=non_negative)
    cos_lr_T: int | None = option(  # noqa: N815  (the released code's name)
        None, "cosine half period; default: --epochs", "--cos_lr_T", "--cos-lr-T", parse=positive_int
    )
    lr_scheduler: str = option(
        "cosine", "how the learning rate falls", "--lr-scheduler", "--lr_scheduler", choices=tuple(SCHEDULES)
    )
    step_size: int = option(
        30, "with --lr-scheduler step: epochs between two falls of the learning rate",
        "--step-size", "--step_size", "--lr-step-size", parse=positive_int,
    )  # fmt: skip
    gamma: float = option(0.1, "with step: factor of each fall", "--gamma", "--lr-gamma", parse=non_negative)
    warmup_epochs: int = option(0, "epochs of linear warm-up", parse=natural)
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

    @property
    def period(self) -> int:
        """Epochs over which the cosine falls, the warm-up included."""
        return self.cos_lr_T or self.epochs


def make_optimizer(model: nn.Module, options: OptimOptions) -> optim.Optimizer:
    """The optimizer that the options name, over all parameters; all of them decay, as in the released recipe."""
    make, own = OPTIMIZERS[options.optimizer]
    return make(
        model.parameters(),
        lr=options.lr,
        weight_decay=options.weight_decay,
        **{name: getattr(options, name) for name in own},
    )


def make_schedule(optimizer: optim.Optimizer, options: OptimOptions, start_epoch: int = 0) -> Schedule:
    """The schedule that the options name; with a warm-up the rate first climbs linearly from a hundredth.

    Args:
        start_epoch: the epoch that the run begins at; the rate is that of this epoch.

    Raises:
        UsageError: the warm-up leaves nothing of the cosine.
    """
    warmup = options.warmup_epochs
    if options.lr_scheduler == "cosine" and warmup >= options.period:
        raise UsageError(f"--warmup-epochs {warmup} leaves nothing of --cos_lr_T {options.period}: take fewer")
    climb = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup) if warmup else None
    after = SCHEDULES[options.lr_scheduler](optimizer, options)
    schedule = lr_scheduler.SequentialLR(optimizer, [climb, after], milestones=[warmup]) if climb else after
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that no optimizer step was made before
        for _ in range(start_epoch):
            schedule.step()
    return schedule
