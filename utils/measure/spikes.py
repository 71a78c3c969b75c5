"""Recording the spikes of a network at one sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from full_spike.models.neuron import is_neuron
from full_spike.utils.measure.hooks import hooked, watch_spikes


@dataclass(frozen=True)
class LayerSpikes:
    """What one layer of neurons fired at one sample.

    name: of the module.
    neurons: how many it has.
    rates: spikes per neuron at each time step [T].
    chosen: some of its neurons, ascending, in the flattened [C, H, W].
    spikes: theirs [T, chosen], bool.
    """

    name: str
    neurons: int
    rates: np.ndarray
    chosen: np.ndarray
    spikes: np.ndarray


@torch.no_grad()
def record_spikes(model: nn.Module, x: Tensor, seed: int = 0, shown: int = 64) -> tuple[list[LayerSpikes], Any]:
    """(the layers of neurons in the order in which they ran, the network's outputs).

    Args:
        x: one sample: an image [1, C, H, W] or frames [T, 1, C, H, W].
        seed: draws the neurons of each layer whose spikes are kept, at most `shown`.
    """
    layers: list[LayerSpikes] = []

    def watch(name: str) -> Callable[[Tensor], None]:
        def keep(fired: Tensor) -> None:
            fired = fired.flatten(1)  # [T, C * H * W]
            drawn = torch.randperm(fired.shape[1], generator=torch.Generator().manual_seed(seed))
            chosen = drawn[:shown].sort().values
            spikes = fired[:, chosen.to(fired.device)].bool().cpu()
            rates = fired.mean(dim=1, dtype=torch.float32).cpu()
            layers.append(LayerSpikes(name, fired.shape[1], rates.numpy(), chosen.numpy(), spikes.numpy()))

        return keep

    neurons = [(name, module) for name, module in model.named_modules() if is_neuron(module)]
    with hooked(watch_spikes(module, watch(name)) for name, module in neurons):
        outputs = model(x)
    return layers, outputs
