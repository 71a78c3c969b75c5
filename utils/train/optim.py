"""Optimizers and learning-rate schedules by the names of their options."""

from __future__ import annotations

from torch import nn, optim
from torch.optim import lr_scheduler

from utils.runtime.errors import UsageError


def make_optimizer(
    model: nn.Module, *, lr: float, momentum: float, weight_decay: float, adam: bool = False
) -> optim.Optimizer:
    """SGD with momentum, or Adam; weight decay on every parameter, as in the released recipe."""
    if adam:
        return optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    return optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)


def make_schedule(
    optimizer: optim.Optimizer,
    *,
    cos_lr_T: int,
    warmup_epochs: int = 0,
    kind: str = "cosine",
    step_size: int = 30,
    gamma: float = 0.1,
) -> lr_scheduler.LRScheduler:
    """How the learning rate changes, stepped once an epoch.

    "cosine": annealing to 0 over `cos_lr_T` epochs (arXiv:1608.03983, without restarts).
    "step": multiplied by `gamma` every `step_size` epochs.
    With `warmup_epochs` the rate first climbs linearly from a hundredth; the cosine takes what is left of cos_lr_T.

    Raises:
        UsageError: the warm-up leaves nothing of the cosine.
    """
    if kind == "cosine" and warmup_epochs >= cos_lr_T:
        raise UsageError(f"--warmup-epochs {warmup_epochs} leaves nothing of --cos_lr_T {cos_lr_T}: take fewer")
    after: lr_scheduler.LRScheduler
    climb = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup_epochs) if warmup_epochs else None
    if kind == "step":
        after = lr_scheduler.StepLR(optimizer, step_size=step_size, gamma=gamma)
    else:
        after = lr_scheduler.CosineAnnealingLR(optimizer, T_max=cos_lr_T - warmup_epochs)
    return lr_scheduler.SequentialLR(optimizer, [climb, after], milestones=[warmup_epochs]) if climb else after
