"""Optimizers and learning-rate schedules by the names of their options."""

from __future__ import annotations

from torch import nn, optim
from torch.optim import lr_scheduler

from .errors import UsageError


def make_optimizer(
    model: nn.Module, *, lr: float, momentum: float, weight_decay: float, adam: bool = False
) -> optim.Optimizer:
    """SGD with momentum, or Adam; weight decay on every parameter, as in the released recipe."""
    if adam:
        return optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    return optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)


def make_schedule(optimizer: optim.Optimizer, *, cos_lr_T: int, warmup_epochs: int = 0) -> lr_scheduler.LRScheduler:
    """Cosine annealing to 0 over `cos_lr_T` epochs, stepped once an epoch (arXiv:1608.03983, without restarts).

    With `warmup_epochs` the rate first climbs linearly from a hundredth, and the cosine takes what is left of cos_lr_T.
    """
    if warmup_epochs == 0:
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=cos_lr_T)
    if warmup_epochs >= cos_lr_T:
        raise UsageError(f"--warmup-epochs {warmup_epochs} leaves nothing of --cos_lr_T {cos_lr_T}: take fewer")
    climb = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup_epochs)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=cos_lr_T - warmup_epochs)
    return lr_scheduler.SequentialLR(optimizer, [climb, cosine], milestones=[warmup_epochs])
