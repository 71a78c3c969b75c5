"""Weights whose sums have no rounding: every runtime then fires the same spikes, whatever order it adds in.

A sum of float32 numbers is exact in any order if all of them are multiples of one unit and no partial sum exceeds 2^24
units. So each output channel's weights and bias are rounded to 2^-24 of the largest sum they can make with spikes:
about as much as float32 itself loses in adding them up. The stem, which reads values, is summed in float64 over inputs
rounded to 2^-20. PLIF becomes LIF with the time constant it has learned. What follows a sum (charge, compare, reset)
is a fixed sequence of roundings, the same wherever IEEE arithmetic is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from full_spike.utils.export.graph import Add, Conv, Fire, Gate, Graph, Pool, describe
from full_spike.utils.export.run import INPUT_BITS, Runner

LARGEST_INPUT = 1 << 10  # up to which the stem's sums are exact in float64
MARGIN = 1.0 + 2.0**-10  # rounding may make a sum larger: by half a unit for each of up to 2^14 weights


def _rounded(weight: Tensor, bias: Tensor, largest: float, bits: int) -> tuple[Tensor, Tensor]:
    """Weights [O, ...] and bias [O] as multiples, per output channel, of 2^-bits of the largest sum."""
    w, b = weight.double(), bias.double()
    bound = (largest * w.abs().flatten(1).sum(1) + b.abs()).clamp_min(2.0**-100) * MARGIN
    unit = torch.exp2(torch.ceil(torch.log2(bound)) - bits)
    shaped = unit.view(-1, *[1] * (w.ndim - 1))
    return ((w / shaped).round() * shaped).float(), ((b / unit).round() * unit).float()


def _largest_values(graph: Graph) -> dict[str, int]:
    """Node -> the largest value that it can give: 1 for spikes, more for their sums, 0 where there is no bound."""
    largest: dict[str, int] = {}
    for node in graph.nodes:
        known = [largest.get(name, 0) for name in node.inputs]
        if isinstance(node, Fire | Gate):
            largest[node.name] = 1
        elif isinstance(node, Add):
            largest[node.name] = sum(known) if all(known) else 0
        elif isinstance(node, Pool):
            largest[node.name] = known[0]
    return largest


def exact_sums(graph: Graph) -> Graph:
    """A copy whose convolutions sum exactly, in any order, for inputs of at most 1024 in size; see above."""
    largest = _largest_values(graph)
    changed: dict[str, Any] = {}
    for conv in graph.of(Conv):
        if conv is graph.stem:  # the inputs have 2^-20 of a unit; 53 bits hold both
            weight, bias = _rounded(conv.weight, conv.bias, LARGEST_INPUT, 53 - INPUT_BITS)  # type: ignore[arg-type]
        else:
            most = largest.get(conv.inputs[0], 0) or 1
            weight, bias = _rounded(conv.weight, conv.bias, most, 24)  # type: ignore[arg-type]
        changed[conv.name] = dataclasses.replace(conv, weight=weight, bias=bias)
    for fire in graph.of(Fire):
        if fire.time is None:
            continue
        # a division by 1 / rate, as LIF has it, is what other runtimes know
        time = 1.0 / fire.time if fire.neuron == "PLIF" else fire.time
        time = float(torch.tensor(time, dtype=torch.float32))
        changed[fire.name] = dataclasses.replace(fire, neuron="LIF", time=time)
    return graph.with_nodes(changed)


def exact(model: Any, size: tuple[int, int], frames: bool | None = None) -> Runner:
    """A network without its pathway, norms folded, whose sums have no rounding.

    Args:
        size, frames: see `describe`.

    Raises:
        ValueError: see `describe`.
    """
    return Runner(exact_sums(describe(model, size, frames)))
