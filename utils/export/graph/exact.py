"""Weights whose sums have no rounding: every runtime then fires the same spikes, in whatever order it adds.

A sum of float32 numbers is exact, whatever the order, if all of them are multiples of one unit and no partial sum has
more than 2^24 of them. So each output channel's weights and bias are rounded to a unit of 2^-24 of the largest sum that
they can make with spikes: about as much as float32 itself loses in adding them up. The stem, which reads values, is
summed in float64 of inputs rounded to 2^-20. PLIF becomes LIF with the time constant that it has learned. What follows
a sum (charge, compare, reset) is one rounding after the other in a given order, the same wherever IEEE arithmetic is.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .nodes import Graph

INPUT_BITS = 20  # inputs are multiples of 2^-20
LARGEST_INPUT = 1 << 10  # for which the stem's sums are exact in float64
MARGIN = 1.0 + 2.0**-10  # rounding may make a sum larger: by half a unit for each of up to 2^14 weights


def round_input(x: Tensor) -> Tensor:
    """To multiples of 2^-20, float32."""
    return (x.float() * 2.0**INPUT_BITS).round() * 2.0**-INPUT_BITS


def _rounded(weight: Tensor, bias: Tensor, largest: float, bits: int) -> tuple[Tensor, Tensor]:
    """Weights [O, ...] and bias [O] as multiples, per output channel, of 2^-bits of the largest sum."""
    w, b = weight.double(), bias.double()
    bound = (largest * w.abs().flatten(1).sum(1) + b.abs()).clamp_min(2.0**-100) * MARGIN
    unit = torch.exp2(torch.ceil(torch.log2(bound)) - bits)
    shaped = unit.view(-1, *[1] * (w.ndim - 1))
    return ((w / shaped).round() * shaped).float(), ((b / unit).round() * unit).float()


def exact_sums(graph: Graph) -> Graph:
    """A copy of a graph of floats whose convolutions sum exactly, in any order; see above.

    Run it by `Runner`, which sums the stem in float64. Exact for inputs of up to 1024 (and -1024).
    """
    largest = graph.largest_inputs()
    changed = {}
    for node in graph.of_kind("conv"):
        if node is graph.stem:  # 2^-20 of a unit is what the inputs add; 53 bits hold both
            weight, bias = _rounded(node.weight, node.bias, LARGEST_INPUT, 53 - INPUT_BITS)
        else:
            weight, bias = _rounded(node.weight, node.bias, largest.get(node.inputs[0], 0) or 1, 24)
        changed[node.name] = dataclasses.replace(node, weight=weight, bias=bias)
    for node in graph.of_kind("fire"):
        if node.neuron == "PLIF":  # a division by 1 / rate, as LIF has it, is what other runtimes know
            node = dataclasses.replace(node, neuron="LIF", time=1.0 / node.time)
        if node.time is not None:
            time = float(torch.tensor(node.time, dtype=torch.float32))
            changed[node.name] = dataclasses.replace(node, time=time)
    return graph.with_nodes(changed)
