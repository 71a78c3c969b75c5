"""Firing rates: the mean spikes per neuron and time step of every neuron layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from full_spike.models.neuron import is_neuron
from full_spike.utils.distributed import World
from full_spike.utils.measure.hooks import watch_spikes


class FiringRates:
    """While entered, follows every neuron layer of a model; sums stay on the device until `read`."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = {name: module for name, module in model.named_modules() if is_neuron(module)}
        device = next(model.parameters()).device
        self.sums = torch.zeros(len(self.layers), 2, dtype=torch.float64, device=device)  # spikes, neurons x steps

    def __enter__(self) -> FiringRates:
        self._handles = [watch_spikes(module, self._count(row)) for row, module in enumerate(self.layers.values())]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _count(self, row: int) -> Callable[[Tensor], None]:
        def count(spikes: Tensor) -> None:
            self.sums[row, 0] += spikes.detach().sum(dtype=torch.float32)
            self.sums[row, 1] += spikes.numel()

        return count

    def read(self, world: World) -> dict[str, float]:
        """Spikes per neuron and time step, 0 to 1, by layer, over all processes."""
        sums = world.sum(self.sums).tolist()
        return {name: spikes / total for name, (spikes, total) in zip(self.layers, sums, strict=True) if total}
