"""Integer networks: weights of 8 or 4 bits, biases and thresholds of 32, everything else bits.

Each output channel has a unit u: its weights are whole numbers of u, its threshold and bias whole numbers of u / 2^f.
An integrate-and-fire layer is then exact in int32:

    v += (sum of weights where there is a spike << f) + bias;   s = v >= threshold;   v = 0 where s

f is 0 for IF at 8 bits. At 4 bits a bias of whole u would be too coarse. For LIF and PLIF v is a fixed-point number
with f fraction bits, and 1/tau, the share of the current that it takes in, a sum of a few signed powers of two: a step
is shifts and additions, with 1/tau exact for tau = 2, else within 2^-11.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from full_spike.utils.data.dataset import Datasets
from full_spike.utils.data.loading import make_loaders
from full_spike.utils.distributed import World
from full_spike.utils.export.fast import FastRunner
from full_spike.utils.export.floats import exact_sums
from full_spike.utils.export.graph import Conv, Fire, Graph, describe
from full_spike.utils.export.run import Runner, max_steps

BITS = (8, 4)
FRACTION = {8: 0, 4: 4}  # of an IF neuron's membrane, by the bits of the weights
LEAKY_FRACTION = 8
_LONGEST_SHIFT = 10
_LARGEST = 1 << 26  # of a threshold, and of all biases up to the last time step


def _weight_units(weight: Tensor, bits: int) -> Tensor:
    """u of each output channel [O] of weights [O, ...]: the one that rounds with the smallest squared error.

    At 8 bits the largest weight becomes the largest number; at fewer it may pay to clip it.
    """
    flat, most = weight.flatten(1), _largest_weight(bits)
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


def _largest_weight(bits: int) -> int:
    """127 at 8 bits, 7 at 4: weights are symmetric."""
    return (1 << (bits - 1)) - 1


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """Weights [O, ...] after rounding, as floats."""
    unit = _weight_units(weight, bits).view(-1, *[1] * (weight.ndim - 1))
    most = _largest_weight(bits)
    return (weight / unit).round().clamp(-most, most) * unit


def powers_of_two(rate: float) -> tuple[tuple[int, int], ...]:
    """(sign, shift) of terms sign * 2^-shift that sum to a rate in (0, 1], within 2^-11.

    The non-adjacent form of the nearest multiple of 2^-10, which has the fewest terms.
    """
    rest, shift = max(1, round(rate * 2**_LONGEST_SHIFT)), _LONGEST_SHIFT
    terms: list[tuple[int, int]] = []
    while rest:
        if rest % 2:
            sign = 2 - rest % 4  # 1, or -1 where that leaves a number divisible by 4
            terms.append((sign, shift))
            rest -= sign
        rest, shift = rest // 2, shift - 1
    return tuple(terms[::-1])


def _input_scale(batches: list[Tensor]) -> tuple[float, int]:
    """(scale, zero) of the bytes that inputs become: byte = clamp(round(x / scale) + zero, 0, 255).

    Zero is exact, so that padding is. Whole numbers from 0 to 255, such as counts of events, stay as they are.
    """
    low = min(0.0, *(float(x.min()) for x in batches))
    high = max(0.0, *(float(x.max()) for x in batches))
    if low < 0.0:
        return max(-low, high, 1e-12) / 127, 128
    whole = all(bool((x == x.round()).all()) for x in batches)
    return (1.0 if whole and high <= 255 else max(high, 1e-12) / 255), 0


def _layer(graph: Graph, conv: Any, fire: Fire, bits: int, input_unit: float, correction: Tensor) -> tuple[Conv, Fire]:
    """The integer convolution and neuron; the correction [O] is added to the bias (see `_bias_corrections`)."""
    weight = conv.weight.double() * input_unit * fire.gain
    bias = (conv.bias.double() + correction) * fire.gain
    threshold: Any = fire.threshold
    leak = () if fire.time is None else powers_of_two(1.0 / fire.time)
    fraction = LEAKY_FRACTION if leak else FRACTION[bits]
    # a channel whose weights are nearly nothing would have a threshold past 32 bits
    lowest = torch.maximum(torch.full_like(bias, threshold), graph.T * bias.abs()) * 2.0**fraction / _LARGEST
    unit = torch.maximum(_weight_units(weight, bits), lowest)
    most = _largest_weight(bits)
    whole = (weight / unit.view(-1, 1, 1, 1)).round().clamp(-most, most).to(torch.int8)
    fine = unit / 2.0**fraction
    return dataclasses.replace(conv, weight=whole, bias=None), dataclasses.replace(
        fire,
        threshold=(threshold / fine).round().clamp_min(1).to(torch.int32),
        bias=(bias / fine).round().to(torch.int32),
        leak=leak, fraction=fraction, gain=1.0,
    )  # fmt: skip


def _bias_corrections(graph: Graph, batches: list[Tensor], bits: int) -> dict[str, Tensor]:
    """How much rounding the weights lowers each output channel's mean current [O], by convolution.

    The mean over these inputs of the weights' errors times what they read (arXiv:1906.04721, section 4.2), borders
    treated as if they were inside.
    """
    runner = Runner(graph)
    rates: dict[str, Tensor] = {}
    for x in batches:
        for name, spikes in runner.spikes(x)[0].items():
            rates[name] = rates.get(name, torch.zeros(spikes.shape[2])) + spikes.mean((0, 1, 3, 4)) / len(batches)
    corrections = {}
    for conv in graph.of(Conv):
        rate = rates.get(conv.inputs[0])
        if rate is None or conv.groups != 1:
            corrections[conv.name] = torch.zeros(len(conv.weight), dtype=torch.float64)
        else:
            error = (conv.weight - rounded_weight(conv.weight, bits)).double().sum((2, 3))  # [O, I]
            corrections[conv.name] = error @ rate.double()
    return corrections


def quantize(model: Any, calibration: list[Tensor], bits: int = 8) -> FastRunner:
    """The integer network of a trained one whose pathway was taken off.

    Args:
        calibration: a few batches of what it is to run on, [N, C, H, W] or [T, N, C, H, W]; they give the scale of the
            bytes and the mean currents.
        bits: 8 or 4, of all weights but the classifier's, which have 8.

    Raises:
        ValueError: see `describe`; or the network is not binary between its layers, or the bits are others.
    """
    if bits not in BITS:
        raise ValueError(f"bits={bits} is out of range: weights have {' or '.join(map(str, BITS))}")
    if not calibration:
        raise ValueError("quantize needs images to calibrate on: give a list of at least one batch [N, C, H, W]")
    height, width = calibration[0].shape[-2:]
    graph = exact_sums(describe(model, (height, width), frames=calibration[0].ndim == 5))
    graph.require_binary("an integer network")
    scale, zero = _input_scale(calibration)
    corrections = _bias_corrections(graph, calibration, bits)
    changed: dict[str, Any] = {}
    for fire in graph.of(Fire):
        conv = graph.node(fire.inputs[0])
        unit = scale if conv is graph.stem else 1.0
        changed[conv.name], changed[fire.name] = _layer(graph, conv, fire, bits, unit, corrections[conv.name])
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
    return FastRunner(whole)


# Training with rounded weights


class _Rounded(nn.Module):
    """A weight after rounding; the gradient passes it by (straight-through, arXiv:1308.3432)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (rounded_weight(weight.detach(), self.bits) - weight).detach()


def round_weights(model: Any, bits: int) -> Any:
    """Let every spiking layer's convolution round its weights to so many bits, and return the model.

    With a unit per output channel, the batch norm that scales these may be folded later: the rounding is the same. The
    pathway, which is taken off, is not rounded.
    """
    for layer in model.spiking_layers():
        parametrize.register_parametrization(layer.conv, "weight", _Rounded(bits))
    return model


def keep_rounded(model: Any) -> Any:
    """Make the rounded weights the model's own, without any rounding from now on, and return the model."""
    for layer in model.spiking_layers():
        parametrize.remove_parametrizations(layer.conv, "weight", leave_parametrized=True)
    return model


def finetune(model: Any, data: Datasets, *, bits: int, epochs: int, lr: float, batch_size: int, seed: int) -> Any:
    """Train a model on with rounded weights, its pathway attached, and return it with these weights.

    By SGD with momentum, at a learning rate that falls to 0 along a cosine.
    """
    round_weights(model, bits)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loaders = make_loaders(
        data.train, data.test, batch_size=batch_size, workers=0, world=World(), seed=seed, collate=data.collate
    )
    for epoch in range(epochs):
        model.train()
        loaders.sampler.start_at(epoch)
        total = 0.0
        for images, target in loaders.train:
            outputs = model(images)
            streams = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = torch.stack([F.cross_entropy(logits, target) for logits in streams]).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(target)
        schedule.step()
        mean = total / len(data.train)
        print(f"fine-tuning with {bits}-bit weights, epoch {epoch + 1}/{epochs}: loss {mean:.4f}", flush=True)
    return keep_rounded(model).eval()
