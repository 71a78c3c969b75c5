"""What a network is made of: its layers in the order in which they run, with shapes, parameters and operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from full_spike.utils.measure.counter import ExactCounter
from full_spike.utils.measure.hooks import hooked
from full_spike.utils.measure.layers import count_images, evaluating
from full_spike.utils.measure.report import columns
from full_spike.utils.measure.units import quantity

READS = {"stem": "input", "pathway": "sums", "head": "rates"}  # by part; layers of the body read spikes or values
OWN_LINE = ("conv", "linear", "max pool", "avg pool", "accumulate")


@dataclass(frozen=True)
class Line:
    """A convolution, linear layer, pooling or sum of the pathway, with what follows it.

    name: of the module in the network.
    kind: e.g. "conv 3x3 / 2".
    shape: of its output, for one image: [T, C, H, W], or [C, H, W] of what is computed once, or [classes].
    parameters: its own and those of what follows.
    macs: multiplications with an addition, for one image and all time steps, if every input took part.
    reads: input, spikes, values, sums or rates; empty for what has no weights.
    stream: trunk or pathway.
    then: the norm, neuron and join after it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    reads: str
    stream: str
    then: tuple[str, ...] = ()


@torch.no_grad()
def summarise(model: nn.Module, inputs: Tensor) -> list[Line]:
    """Run a network once and list its layers.

    Args:
        model: on the device of the inputs; its norms should let random weights spike (`set_norms`).
        inputs: images [N, C, H, W] or frames [T, N, C, H, W].

    Raises:
        UserError: it has a layer that cannot be recognised.
    """
    calls: list[tuple[str, Any, str, torch.Size]] = []

    def keep(name: str, kind: str) -> Any:
        return lambda module, _inputs, output: calls.append((name, module, kind, output.shape))

    counter = ExactCounter(model)
    hooks = (module.register_forward_hook(keep(name, kind)) for name, module, kind in counter.layers)
    with evaluating(model), counter, hooked(hooks):
        model(inputs)
    rows = {row.name: row for row in counter.rows()}
    images = count_images(inputs)
    lines: list[Line] = []
    turns: dict[str, int] = {}
    for name, module, kind, shape in calls:
        parameters = sum(p.numel() for p in module.parameters())
        if kind not in OWN_LINE:
            word = type(module).__name__.removesuffix("Node") if kind == "neuron" else kind
            lines[-1] = replace(lines[-1], then=(*lines[-1].then, word), parameters=lines[-1].parameters + parameters)
            continue
        turn = turns[name] = turns.get(name, 0) + 1
        weighted = kind in ("conv", "linear")
        row = rows.get(f"{name} (call {turn})", rows[name])
        pathway = row.part == "pathway" or kind == "accumulate" or turn > 1
        lines.append(
            Line(
                name,
                _describe(kind, module),
                _shape(shape, images, inputs.shape[0] if inputs.ndim == 5 else getattr(model, "T", 1)),
                parameters if weighted and turn == 1 else 0,
                shape.numel() * module.weight[0].numel() // images if weighted else 0,
                READS.get(row.part, "spikes" if row.spikes else "values") if weighted else "",
                "pathway" if pathway else "trunk",
            )
        )
    return lines


def _describe(kind: str, module: Any) -> str:
    if not hasattr(module, "kernel_size"):
        return kind
    size, stride = (v if isinstance(v, tuple) else (v, v) for v in (module.kernel_size, module.stride))
    depthwise = "depthwise " if kind == "conv" and module.groups == module.in_channels > 1 else ""
    return f"{depthwise}{kind} {'x'.join(map(str, size))}" + (f" / {stride[0]}" if stride[0] != 1 else "")


def _shape(shape: torch.Size, images: int, T: int) -> tuple[int, ...]:
    """For one image: layers see [T, N, ...], [T * N, ...] or [N, ...]."""
    if len(shape) == 5:
        return (shape[0], *shape[2:])
    if len(shape) == 4 and shape[0] == images * T and T > 1:
        return (T, *shape[1:])
    return tuple(shape[1:])


def table(title: str, lines: Sequence[Line]) -> str:
    """The lines of a network and their sums."""
    rows = [["layer", "kind", "output", "parameters", "MACs", "reads", "then"]]
    for line in lines:
        shape, then = " x ".join(map(str, line.shape)), ", ".join(line.then)
        parameters = f"{line.parameters:,}" if line.parameters else ""
        macs = quantity(line.macs) if line.macs else ""
        rows.append([line.name, line.kind, shape, parameters, macs, line.reads, then])
    text = columns(rows, left=(0, 1, 2, 5, 6))
    macs = {stream: sum(line.macs for line in lines if line.stream == stream) for stream in ("trunk", "pathway")}
    parameters = sum(line.parameters for line in lines)
    text.append(f"\n{title}: {parameters:,} parameters, {quantity(sum(macs.values()))} MACs if dense")
    if any(line.stream == "pathway" for line in lines):
        text.append(", ".join(f"{quantity(count)} of them in the {stream}" for stream, count in macs.items()))
    body = [line for line in lines if line.reads in ("spikes", "values")]
    others = [line.name for line in body if line.reads == "values"]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        text.append(f"no spikes enter {', '.join(others[:3])}{more}: it is not full-spike")
    elif body:
        text.append(f"spikes alone enter all {len(body)} weighted layers between the first one and the classifier")
    return "\n".join(text)
