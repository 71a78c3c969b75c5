"""Optimizers and learning-rate schedules: a row each in two tables, made from a training script's options."""

from __future__ import annotations

import argparse
import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn, optim
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
    StepLR,
)  # fmt: skip

from full_spike.utils.options import LARGEST_INT

# name -> (torch's class, which options it takes besides the learning rate and the weight decay)
OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], tuple[str, ...]]] = {
    "sgd": (optim.SGD, ("momentum",)),
    "adam": (optim.Adam, ("betas", "eps")),
    "adamw": (optim.AdamW, ("betas", "eps")),
}

# name -> (optimizer, options) -> how the learning rate changes once the warm-up is over, stepped once an epoch. With
# --sched-on-updates it is stepped once a step, and the options that it gets count steps where they count epochs.
SCHEDULES: dict[str, Callable[[optim.Optimizer, Any], LRScheduler]] = {
    # annealed to `min_lr` over what the warm-up leaves of `cos_lr_T` epochs (arXiv:1608.03983, equation 5); it climbs
    # again in the epochs after these, as in the released code
    "cosine": lambda optimizer, o: CosineAnnealingLR(optimizer, o.cos_lr_T - o.warmup_epochs, o.min_lr),
    # the same curve from the first epoch on; the warm-up takes the place of its beginning
    "cosine-timm": lambda optimizer, o: LambdaLR(
        optimizer, _AlongCosine(o.warmup_epochs, o.cos_lr_T, o.min_lr / (o.lr or 1.0))
    ),
    # multiplied by `gamma` every `step_size` epochs
    "step": lambda optimizer, o: StepLR(optimizer, o.step_size, o.gamma),
}


@dataclass
class _AlongCosine:
    """The share of the learning rate `t` epochs after the first ones. Its fields are in checkpoints."""

    first: int
    period: int
    lowest: float

    def __call__(self, t: int) -> float:
        return self.lowest + (1.0 - self.lowest) * (1.0 + math.cos(math.pi * (t + self.first) / self.period)) / 2


def make_optimizer(model: nn.Module, args: argparse.Namespace) -> optim.Optimizer:
    """The optimizer that the options name, over all parameters; all decay by default, as in the released recipe.

    On a GPU a step is one kernel, where torch has it.
    """
    make, own = OPTIMIZERS[args.optimizer]
    fused = next(model.parameters()).is_cuda and "fused" in inspect.signature(make).parameters
    return make(
        _groups(model) if args.decay_weights_only else model.parameters(),
        lr=args.lr,
        weight_decay=args.weight_decay,
        **{name: getattr(args, name) for name in own},
        **({"fused": True} if fused else {}),
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
        decays = parameter.ndim > 1 and name not in named and not any(word in name for word in POSITIONS)
        (decaying if decays else others).append(parameter)
    return [{"params": decaying}, {"params": others, "weight_decay": 0.0}]


def make_schedule(optimizer: optim.Optimizer, args: argparse.Namespace, steps_per_epoch: int = 1) -> LRScheduler:
    """The schedule that the options name: a linear warm-up, the fall, and a cool-down, from --start-epoch on.

    Args:
        steps_per_epoch: optimizer steps in an epoch, which --sched-on-updates counts.
    """
    counts = steps_per_epoch if args.sched_on_updates else 1
    o = argparse.Namespace(**vars(args))
    for name in ("epochs", "warmup_epochs", "cooldown_epochs", "step_size", "cos_lr_T"):
        setattr(o, name, counts * getattr(args, name))
    parts, milestones = [SCHEDULES[o.lr_scheduler](optimizer, o)], []
    if o.warmup_epochs:
        first = 0.01 if o.warmup_lr is None else o.warmup_lr / o.lr
        parts.insert(0, LinearLR(optimizer, first, total_iters=o.warmup_epochs))
        milestones.append(o.warmup_epochs)
    if o.cooldown_epochs:
        parts.append(ConstantLR(optimizer, o.min_lr / o.lr, total_iters=LARGEST_INT))
        milestones.append(o.epochs - o.cooldown_epochs)
    schedule = SequentialLR(optimizer, parts, milestones) if milestones else parts[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, that no optimizer step was made before
        for _ in range(counts * args.start_epoch):
            schedule.step()
    return schedule
