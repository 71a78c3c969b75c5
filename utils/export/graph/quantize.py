"""Integer networks: weights of 8 or 4 bits, biases and thresholds of 32, everything else bits.

Each output channel has a unit u of its own: its weights are whole numbers of u, its threshold and bias whole numbers of
u / 2^f. An integrate-and-fire layer is then exact in int32:

    v += (sum of weights where there is a spike << f) + bias;   s = v >= threshold;   v = 0 where s

f is 0 for IF at 8 bits. At 4 bits a bias of whole u would be too coarse. For LIF and PLIF v is a fixed-point number
with f fraction bits, and the share of the current that it takes in, 1/tau, a sum of a few signed powers of two: a step
is shifts and additions, with 1/tau exact for tau = 2, else within 2^-11.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .nodes import Graph
from .run import Runner, max_steps

BITS = (8, 4)
FRACTION = {("IF", 8): 0, ("IF", 4): 4}  # bits after the point of a membrane
LEAKY_FRACTION = 8
_LONGEST_SHIFT = 10
_LARGEST = 1 << 26  # of a threshold, and of all biases up to the last time step


def largest_weight(bits: int) -> int:
    """Of symmetric whole numbers: 127 of 8 bits, 7 of 4."""
    return (1 << (bits - 1)) - 1


def weight_units(weight: Tensor, bits: int) -> Tensor:
    """u of each output channel [O] of weights [O, ...]: the one that rounds with the smallest squared error.

    At 8 bits the largest weight is the largest number; at fewer it may pay to clip it.
    """
    flat = weight.flatten(1)
    most = largest_weight(bits)
    unit = flat.abs().amax(1).clamp_min(1e-30) / most
    if bits >= 8:
        return unit
    best, least = unit, torch.full_like(unit, torch.inf)
    for share in torch.linspace(0.4, 1.0, 25).tolist():
        tried = unit * share
        rounded = (flat / tried[:, None]).round().clamp(-most, most) * tried[:, None]
        error = (rounded - flat).square().sum(1)
        best = torch.where(error < least, tried, best)
        least = torch.minimum(error, least)
    return best


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """Weights [O, ...] as they are after rounding, as floats."""
    unit = weight_units(weight, bits).view(-1, *[1] * (weight.ndim - 1))
    most = largest_weight(bits)
    return (weight / unit).round().clamp(-most, most) * unit


def powers_of_two(rate: float) -> tuple[tuple[int, int], ...]:
    """(sign, shift) of the terms of rate = sum of sign * 2^-shift, to within 2^-11, for 0 < rate <= 1; largest first.

    The digits 1, 0 and -1 of the nearest multiple of 2^-10, never two other than 0 side by side: the fewest terms.
    """
    rest, shift = max(1, round(rate * 2**_LONGEST_SHIFT)), _LONGEST_SHIFT
    terms: list[tuple[int, int]] = []
    while rest:
        if rest % 2:
            sign = 2 - rest % 4  # 1, or -1 where that leaves a number that is divisible by 4
            terms.append((sign, shift))
            rest -= sign
        rest, shift = rest // 2, shift - 1
    return tuple(terms[::-1])


def input_scale(batches: Iterable[Tensor]) -> tuple[float, int]:
    """(scale, zero) of the bytes that inputs become: byte = clamp(round(x / scale) + zero, 0, 255).

    Zero is exact, so that padding is. Whole numbers from 0 to 255, such as counts of events, stay as they are.
    """
    low, high, whole = 0.0, 0.0, True
    for x in batches:
        low, high = min(low, float(x.min())), max(high, float(x.max()))
        whole = whole and bool((x == x.round()).all())
    if low >= 0.0:
        return (1.0 if whole and high <= 255 else max(high, 1e-12) / 255), 0
    return max(-low, high, 1e-12) / 127, 128


def _layer(graph: Graph, conv: Any, fire: Any, bits: int, input_unit: float, shift: Tensor) -> tuple[Any, Any]:
    """The integer convolution and neuron; `shift` is added to the bias (see `bias_corrections`)."""
    weight = conv.weight.double() * input_unit * fire.gain
    bias = (conv.bias.double() + shift) * fire.gain
    leak = () if fire.neuron == "IF" else powers_of_two(fire.time if fire.neuron == "PLIF" else 1.0 / fire.time)
    fraction = LEAKY_FRACTION if leak else FRACTION["IF", bits]
    # a channel whose weights are nearly nothing would have a threshold past 32 bits
    lowest = (
        torch.maximum(torch.full_like(bias, float(fire.threshold)), graph.T * bias.abs()) * 2.0**fraction / _LARGEST
    )
    unit = torch.maximum(weight_units(weight, bits), lowest)
    most = largest_weight(bits)
    whole = (weight / unit.view(-1, 1, 1, 1)).round().clamp(-most, most).to(torch.int8)
    fine = unit / 2.0**fraction
    threshold = (float(fire.threshold) / fine).round().clamp_min(1).to(torch.int32)
    return (
        dataclasses.replace(conv, weight=whole, bias=None),
        dataclasses.replace(
            fire,
            threshold=threshold,
            bias=(bias / fine).round().to(torch.int32),
            leak=leak,
            fraction=fraction,
            gain=1.0,
        ),
    )


def bias_corrections(graph: Graph, batches: list[Tensor], bits: int) -> dict[str, Tensor]:
    """By how much rounding the weights lowers each output channel's mean current [O], by convolution.

    The mean over these inputs of the weights' errors times what they read (arXiv:1906.04721, section 4.2), borders
    taken as if they were inside.
    """
    runner = Runner(graph)
    rates: dict[str, Tensor] = {}
    for x in batches:
        for name, spikes in runner.spikes(x)[0].items():
            rates[name] = rates.get(name, torch.zeros(spikes.shape[2])) + spikes.mean((0, 1, 3, 4)) / len(batches)
    shifts = {}
    for conv in graph.of_kind("conv"):
        rate = rates.get(conv.inputs[0])
        if rate is None or conv.groups != 1:
            shifts[conv.name] = torch.zeros(len(conv.weight), dtype=torch.float64)
            continue
        error = (conv.weight - rounded_weight(conv.weight, bits)).double().sum((2, 3))  # [O, I]
        shifts[conv.name] = error @ rate.double()
    return shifts


def quantize_graph(graph: Graph, calibration: list[Tensor], bits: int = 8) -> Graph:
    """The integer network of one of floats.

    Args:
        calibration: a few batches of inputs, which give the scale of the bytes and the mean currents.
        bits: 8 or 4, of the weights of all but the classifier, which has 8.

    Raises:
        ValueError: the network is not binary between its layers, or the bits are others.
    """
    if bits not in BITS:
        raise ValueError(f"bits={bits} is out of range: weights have {' or '.join(map(str, BITS))}")
    graph.require_binary("an integer network")
    for node in graph.of_kind("attention"):
        raise ValueError(f"{node.name} is attention, which integer networks have not: export floats")
    scale, zero = input_scale(calibration)
    shifts = bias_corrections(graph, calibration, bits)
    changed: dict[str, Any] = {}
    for fire in graph.of_kind("fire"):
        conv = graph.node(fire.inputs[0])
        unit = scale if conv is graph.stem else 1.0
        changed[conv.name], changed[fire.name] = _layer(graph, conv, fire, bits, unit, shifts[conv.name])
    head = graph.head
    height, width = graph.node(head.inputs[0]).shape[-2:]
    unit = float(head.weight.abs().max().clamp_min(1e-12)) / 127
    bias = head.bias.double() * height * width / unit
    changed[head.name] = dataclasses.replace(
        head,
        weight=(head.weight.double() / unit).round().to(torch.int8),
        bias=bias.round().clamp(-(2**30), 2**30).to(torch.int32),
    )
    logit_scale = unit / (height * width * graph.T)
    whole = graph.with_nodes(changed, bits=bits, scale=scale, zero=zero, logit_scale=logit_scale)
    if max_steps(whole) < graph.T:
        raise ValueError(f"{graph.T} time steps could overflow 32 bits: use a smaller T")
    return whole
