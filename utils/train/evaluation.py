"""Scores over a test set, by all processes together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from full_spike.utils.distributed import World
from full_spike.utils.log import RunLog
from full_spike.utils.measure.firing_rates import FiringRates
from full_spike.utils.train.metrics import Meter, Score
from full_spike.utils.train.objectives import DUAL, SINGLE, readouts
from torch import Tensor, nn
from torch.utils.data import DataLoader


def readout_names(model: nn.Module) -> tuple[str, ...]:
    return SINGLE if getattr(model, "aap", None) is None else DUAL


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: DataLoader,
    world: World,
    log: RunLog,
    *,
    firing_rates: bool = False,
    title: str = "test",
    after_batch: Callable[[], None] = lambda: None,
    watch: Callable[[dict[str, Tensor], Tensor], None] = lambda _logits, _target: None,
) -> tuple[dict[str, Score], dict[str, float]]:
    """Score every sample of a loader once, over all processes, in the precision of the weights.

    Args:
        after_batch: is called between the batches that all processes have (one may have one more), and may raise.
        watch: is told each batch's logits [N, classes] by readout, and its classes [N].

    Returns:
        (score by readout, firing rate by neuron layer, empty unless asked for).
    """
    model.eval()
    world.share_buffers(model)
    meter = Meter(readout_names(model), world.device)
    rates = FiringRates(model)
    common = min(int(batches) for batches in world.gather(torch.tensor([len(loader)])))
    with rates if firing_rates else contextlib.nullcontext(), log.progress(title, len(loader)) as progress:
        for batch, (images, target) in enumerate(loader, start=1):
            images = images.to(world.device, non_blocking=True)
            target = target.to(world.device, non_blocking=True)
            logits = readouts(model(images))
            meter.update(logits, target)
            watch(logits, target)
            progress.advance()
            if batch < common:
                after_batch()
    return meter.read(world)[1], rates.read(world) if firing_rates else {}
