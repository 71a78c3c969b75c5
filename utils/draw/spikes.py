"""A picture of the spikes of a network: some neurons of every layer, and how often all of them fire, over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_spike.utils.draw.backend import pyplot
from full_spike.utils.draw.frames import Times, clock
from full_spike.utils.measure.hooks import hooked, watch_spikes
from spikingjelly.activation_based.neuron import BaseNode
from torch import Tensor, nn

SHOWN = 64  # neurons of a layer


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
def record_spikes(model: nn.Module, frames: Tensor, seed: int = 0) -> tuple[list[LayerSpikes], Any]:
    """(every layer of neurons in the order in which they ran, the network's outputs) of frames [T, 1, C, H, W].

    The neurons are drawn at random, the same ones for the same seed and size of a layer. It needs room for the spikes
    of those alone.
    """
    layers: list[LayerSpikes] = []

    def watch(name: str) -> Callable[[Tensor], None]:
        def keep(fired: Tensor) -> None:
            fired = fired.flatten(1)  # [T, C * H * W]
            drawn = torch.randperm(fired.shape[1], generator=torch.Generator().manual_seed(seed))
            chosen = drawn[:SHOWN].sort().values
            spikes = fired[:, chosen.to(fired.device)].bool().cpu()
            rates = fired.mean(dim=1, dtype=torch.float32).cpu()
            layers.append(LayerSpikes(name, fired.shape[1], rates.numpy(), chosen.numpy(), spikes.numpy()))

        return keep

    neurons = {name: module for name, module in model.named_modules() if isinstance(module, BaseNode)}
    with hooked(watch_spikes(module, watch(name)) for name, module in neurons.items()):
        outputs = model(frames)
    return layers, outputs


def spikes_figure(
    layers: Sequence[LayerSpikes], starts: Sequence[str] | None, title: str, image: np.ndarray | None = None
) -> Any:
    """A matplotlib figure: a raster, a spike being a dash within its time step, beside each layer's firing rates.

    Args:
        layers: first to last, from top to bottom; layer i lies between i and i + 1, its neurons evenly between these.
        starts: when each time step began, in words.
        title: above it all.
        image: what they were fired at, to the left: [height, width, 3], uint8.
    """
    plt = pyplot()
    T, count = len(layers[0].rates), len(layers)
    height = 1.6 + 0.42 * count
    figure = plt.figure(figsize=(11 if image is None else 14, height), layout="constrained")
    columns = figure.add_gridspec(1, 3, width_ratios=(0.01 if image is None else 2, 3, 2))
    raster = figure.add_subplot(columns[1])
    rates = figure.add_subplot(columns[2], sharey=raster)
    rates.tick_params(axis="y", labelleft=False)
    if image is not None:
        shown = figure.add_subplot(columns[0])
        shown.imshow(image)
        shown.axis("off")
    for i, layer in enumerate(layers):
        steps, neurons = np.nonzero(layer.spikes)
        y = i + (neurons + 0.5) / len(layer.chosen)
        # two colours in turn, so that where a layer ends is seen
        raster.hlines(y, steps + 0.7, steps + 1.3, color="black" if i % 2 else "#0072B2", linewidth=1.2)
        raster.axhline(i, color="grey", linewidth=0.4)
    labels = [f"{layer.name}\n{len(layer.chosen)} of {layer.neurons:,}" for layer in layers]
    raster.set_yticks(np.arange(count) + 0.5, labels, fontsize=7)
    raster.set(xlim=(0.5, T + 0.5), ylim=(count, 0), title="spikes of some neurons of each layer")
    table = np.stack([100 * layer.rates for layer in layers])
    image = rates.imshow(table, aspect="auto", extent=(0.5, T + 0.5, count, 0), cmap="cividis", vmin=0.0)
    for i, row in enumerate(table):
        rates.text(1.01, i + 0.5, f"{row.mean():.1f} %", transform=rates.get_yaxis_transform(), va="center", fontsize=7)
    rates.set(title="firing rate of each layer, and its mean")
    rates.tick_params(axis="y", left=False)
    figure.colorbar(image, ax=rates, label="spikes per neuron, %", pad=0.12, aspect=40)
    every = max(1, -(-T // 8))
    ticks = range(1, T + 1, every)
    for axes in (raster, rates):
        axes.set_xticks(ticks, [f"{t}\n{starts[t - 1]}" if starts else str(t) for t in ticks], fontsize=7)
        axes.set_xlabel("time step" + (", and when its frame begins" if starts else ""))
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def spikes_picture(
    layers: Sequence[LayerSpikes], times: Times | None, title: str, path: Path, image: np.ndarray | None = None
) -> None:
    """Write `spikes_figure` as a PNG; times are those of the frames, one for each time step."""
    starts = [clock(start, whole=times[-1][1]) for start, _ in times] if times else None
    figure = spikes_figure(layers, starts, title, image)
    figure.savefig(path, dpi=120)
    pyplot().close(figure)
