"""A network on another runtime beside PyTorch: spikes that differ, layer by layer, logits, classes, accuracy, speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from full_spike.utils.export.graph import SPIKING
from full_spike.utils.export.run import Runner
from full_spike.utils.measure.hooks import hooked


@dataclass
class LayerDifference:
    """Of one layer: how many spikes there could be, how many fired on the runtime, and how many differ.

    original: from the trained network in PyTorch, float32. exported: from the exported network in PyTorch.
    """

    name: str
    neurons: int = 0
    fired: int = 0
    original: int = 0
    exported: int = 0


@dataclass
class Comparison:
    """Three networks on the same images: the trained and the exported one in PyTorch, and the latter on its runtime.

    classes_*: images of another class on the runtime. logits_*: the largest difference, in the trained network's units.
    right_*: images classified correctly. facts: sizes and the like, for people.
    """

    layers: list[LayerDifference]
    images: int = 0
    logits_original: float = 0.0
    logits_exported: float = 0.0
    classes_original: int = 0
    classes_exported: int = 0
    right_original: int = 0
    right_runtime: int = 0
    seconds_original: float = 0.0
    seconds_runtime: float = 0.0
    integer: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether the runtime does what PyTorch does; integer logits must be equal, too."""
        if self.classes_exported or (self.integer and self.logits_exported):
            return False
        return not any(layer.exported for layer in self.layers)

    def table(self, runtime: str) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{'layer':{width}}  {'spikes at most':>14}  {'fired':>7}  {'differ from the trained one':>28}  "
                 f"{'from PyTorch':>12}"]  # fmt: skip
        for layer in self.layers:
            share = f"{layer.original:,} ({100 * layer.original / layer.neurons:.4f} %)"
            rate = f"{100 * layer.fired / layer.neurons:.1f} %"
            lines.append(f"{layer.name:{width}}  {layer.neurons:>14,}  {rate:>7}  {share:>28}  {layer.exported:>12,}")
        n = self.images
        right = [f"{100 * count / n:.2f} %" for count in (self.right_original, self.right_runtime)]
        lines += [
            f"{n:,} images; classes that differ from the trained network's: {self.classes_original}, "
            f"from the exported one's in PyTorch: {self.classes_exported}",
            f"logits differ by at most {self.logits_original:.3g} from the trained network's, "
            f"{self.logits_exported:.3g} from the exported one's in PyTorch",
            *([] if "compared on" in self.facts else [f"accuracy {right[0]} in PyTorch, {right[1]} on {runtime}"]),
            f"images a second: {n / self.seconds_original:,.1f} in PyTorch, "
            f"{n / self.seconds_runtime:,.1f} on {runtime}",
        ]
        return "\n".join([*lines, *(f"{name}: {value}" for name, value in self.facts.items())])


@torch.no_grad()
def model_spikes(model: nn.Module, names: Iterable[str], x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(spikes by module, logits) of a network in PyTorch."""
    seen: dict[str, Tensor] = {}
    with hooked(
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: seen.update({name: output})
        )
        for name in names
    ):
        logits = model(x)
    return seen, logits


def _timed(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[float, Tensor]:
    began = time.perf_counter()
    logits = function(x)
    return time.perf_counter() - began, logits


@torch.no_grad()
def compare(
    original: nn.Module, exported: Runner, runtime: Any, batches: Iterable[tuple[Tensor, Tensor]]
) -> Comparison:
    """Run all three on the same batches.

    Args:
        original: the trained network, its pathway taken off, in eval mode on the CPU.
        exported: what was exported, in PyTorch.
        runtime: where it runs, with `spikes(x)` like the runner's and `logits(x)`, as fast as it can be.
        batches: (images [N, C, H, W] or frames [T, N, C, H, W], classes [N]).
    """
    graph = exported.graph
    result = Comparison([LayerDifference(node.name) for node in graph.of(*SPIKING)], integer=graph.integer)
    scale = graph.logit_scale if graph.integer else 1.0
    for batch, (x, target) in enumerate(batches):
        ours, our_logits = model_spikes(original, [layer.name for layer in result.layers], x)
        same, same_logits = exported.spikes(x)
        theirs, their_logits = runtime.spikes(x)
        for layer in result.layers:
            spikes = theirs[layer.name].bool()
            layer.neurons += spikes.numel()
            layer.fired += int(spikes.sum())
            layer.original += int((spikes != ours[layer.name].bool()).sum())
            layer.exported += int((spikes != same[layer.name].bool()).sum())
        classes = their_logits.argmax(1)
        result.images += len(target)
        result.classes_original += int((classes != our_logits.argmax(1)).sum())
        result.classes_exported += int((classes != same_logits.argmax(1)).sum())
        result.right_original += int((our_logits.argmax(1) == target).sum())
        result.right_runtime += int((classes == target).sum())
        values = their_logits.double() * scale
        result.logits_original = max(result.logits_original, float((values - our_logits.double()).abs().max()))
        if not batch:  # the first call of each finds its memory and its kernels
            original(x), runtime.logits(x)
        result.seconds_original += _timed(original, x)[0]
        seconds, unwatched = _timed(runtime.logits, x)  # which may take another way than `spikes`
        result.seconds_runtime += seconds
        for logits in (their_logits, unwatched):
            difference = float((logits.double() - same_logits.double()).abs().max()) * scale
            result.logits_exported = max(result.logits_exported, difference)
    return result
