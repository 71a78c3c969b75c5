"""Firing rates: the mean spikes per neuron and time step of every neuron layer."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based.neuron import BaseNode
from torch import Tensor, nn

from utils.runtime.distributed import World


class FiringRates:
    """While entered, follows every neuron layer of a model; sums stay on the device until `read`."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseNode)}
        device = next(model.parameters()).device
        self.sums = torch.zeros(len(self.layers), 2, dtype=torch.float64, device=device)  # spikes, neurons x steps
        self._handles: list[Any] = []

    def __enter__(self) -> FiringRates:
        for row, module in enumerate(self.layers.values()):
            self._handles.append(module.register_forward_hook(self._hook(row)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, row: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, spikes: Tensor) -> None:
            self.sums[row, 0] += spikes.detach().sum(dtype=torch.float32)
            self.sums[row, 1] += spikes.numel()

        return hook

    def read(self, world: World) -> dict[str, float]:
        """Spikes per neuron and time step, 0 to 1, by layer, over all processes."""
        sums = world.sum(self.sums).tolist()
        return {name: spikes / total for name, (spikes, total) in zip(self.layers, sums, strict=True) if total}
