"""The full-spike certificate: does every weighted layer past the stem read nothing but 0 and 1?

A product of matrices (attention) is held to this as well: its first input must be spikes, which say where the other,
spikes or counts of spikes, is added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from full_spike.utils.measure.counter import ExactCounter, is_binary, is_whole
from full_spike.utils.measure.energy import LayerCount
from full_spike.utils.measure.hooks import hooked


@dataclass(frozen=True)
class Certificate:
    """What the weighted layers of a network read.

    images: how many were run (of frames: samples).
    stem: the first weighted layer. It reads values, or counts of events, and is outside the spike part by definition.
    body: the layers past the stem that must read spikes, in the order in which they ran.
    pathway: the AAP's projections: they read sums, whatever values these happen to take.
    head: linear layers after the last neuron. They read mean rates and are outside the spike part by definition.
    accumulates: whether there is an AAP.
    values: by layer, the first value that was neither 0 nor 1.
    products: by product of matrices, the largest of the whole numbers that spikes add there; None where these are not
        whole numbers.
    unused: layers with weights that never ran.
    """

    images: int
    stem: list[LayerCount]
    body: list[LayerCount]
    pathway: list[LayerCount]
    head: list[LayerCount]
    accumulates: bool
    values: dict[str, float]
    products: dict[str, float | None]
    unused: list[str]

    @property
    def offender(self) -> LayerCount | None:
        """The first layer of the body that reads anything but spikes."""
        return next((x for x in self.body if not x.spikes or self.products.get(x.name, 0.0) is None), None)

    @property
    def holds(self) -> bool:
        return bool(self.body) and self.offender is None and not self.accumulates

    def lines(self) -> list[str]:
        """The certificate for people."""
        checked = f"{len(self.body) - len(self.products)} weighted layers past the stem, {self.images} images"
        if not self.body:
            lines = ["full-spike: no: no layer past the stem is followed by a spiking neuron"]
        elif self.offender is not None:
            name = self.offender.name
            value = f"{self.values[name]:g}" if name in self.values else "what no spiking neuron fired"
            if self.offender.spikes:
                value = "a second input that is no count"
            lines = [f"full-spike: no: {name} reads {value}, which is no spike ({checked})"]
        elif self.accumulates:
            names = ", ".join(layer.name for layer in self.pathway)
            what = f"projections are the only non-spike part: {names}" if names else "sums are the only non-spike part"
            lines = [
                f"full-spike: no: the AAP's {what}",
                f"without the AAP it is full-spike: {checked}; use --detach-aap",
            ]
        else:
            lines = [f"full-spike: yes: only 0 and 1 enter {checked}"]
        if self.products:
            most = max((most for most in self.products.values() if most is not None), default=0.0)
            lines.append(
                f"{len(self.products)} products of matrices: one input is spikes, which say where the other is added: "
                f"spikes or their counts, up to {most:g}"
            )
        silent = [layer.name for layer in self.body if layer.rate == 0]
        if silent:
            lines.append(f"no spike ever entered {', '.join(silent)}: their check says nothing")
        if self.unused:
            lines.append(f"never ran, so not checked: {', '.join(self.unused)}")
        lines += [f"apart, by definition: {layer.describe_stem()}" for layer in self.stem]
        for layer in self.head:  # additions alone where its features happen to be 0 and 1
            operations = f"{layer.mac:g} MAC" if layer.mac else f"{layer.ac:g} AC"
            lines.append(f"apart, by definition: head {layer.name}, {operations} per image")
        return lines


@torch.no_grad()
def certify(model: nn.Module, loader: Iterable[tuple[Tensor, Any]], device: torch.device | str = "cpu") -> Certificate:
    """Run the model, in eval mode, over batches (images [N, C, H, W] or frames [T, N, C, H, W], targets) and check.

    Raises:
        UserError: the loader is empty, or the model has a layer that cannot be recognised.
    """
    values: dict[str, float] = {}
    products: dict[str, float | None] = {}

    def check(name: str, kind: str) -> Any:
        def see(_module: nn.Module, args: tuple) -> None:
            x = args[0]
            if name not in values and not is_binary(x):
                values[name] = float(x[(x != 0) & (x != 1)][0])
            if kind == "matmul":
                largest = products.get(name, 0.0)
                whole = largest is not None and bool(is_whole(args[1]))
                products[name] = max(largest, float(args[1].max())) if whole and largest is not None else None

        return see

    counter = ExactCounter(model)
    weighted = [(name, module, kind) for name, module, kind in counter.layers if kind in ("conv", "linear", "matmul")]
    checks = (module.register_forward_pre_hook(check(name, kind)) for name, module, kind in weighted)
    model.eval()
    with hooked(checks), counter:
        for images, _ in loader:
            model(images.to(device))
    rows = counter.rows()
    parts: dict[str, list[LayerCount]] = {"stem": [], "body": [], "pathway": [], "head": []}
    for row in rows:
        if row.kind in ("conv", "linear", "matmul"):
            parts[row.part].append(row)
    accumulates = any(row.kind == "accumulate" for row in rows)
    return Certificate(
        counter.images, **parts, accumulates=accumulates, values=values, products=products, unused=counter.unused()
    )
