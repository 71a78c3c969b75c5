"""The layers that counters know, by class, subclasses included, and how many outputs each of their inputs reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from full_spike.models.accumulation import AccumulationPathway
from full_spike.models.connect import JoinLayer
from full_spike.models.layers import SpikeMatmul
from full_spike.models.neuron import is_neuron
from full_spike.utils.errors import UserError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
ADAPTIVE_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
AVG_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
NORMS = _BatchNorm  # of any dimension, synchronised or not
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
FREE = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.Flatten, JoinLayer, *CONTAINERS)  # cost nothing

_KINDS: list[tuple[Any, str]] = [
    (nn.Linear, "linear"),
    (CONVOLUTIONS, "conv"),
    (NORMS, "batch norm"),
    (MAX_POOLS, "max pool"),
    ((*AVG_POOLS, *ADAPTIVE_POOLS), "avg pool"),
    (nn.ReLU, "relu"),
    (SpikeMatmul, "matmul"),
    (AccumulationPathway, "accumulate"),
]


def layer_kind(name: str, module: nn.Module) -> str | None:
    """What a layer counts as: conv, linear, batch norm, neuron, max pool, avg pool, relu, matmul, accumulate, or join
    with the name of its connect function. None for anything else without weights.

    Raises:
        UserError: it has weights and is of another kind, or it is a convolution that does not pad with zeros.
    """
    kind = "neuron" if is_neuron(module) else next((kind for of, kind in _KINDS if isinstance(module, of)), None)
    if isinstance(module, JoinLayer) and module.acts_on != "none":
        kind = f"join {module.name}"
    if kind is None and next(module.parameters(recurse=False), None) is not None:
        raise UserError(
            f"layer {name} ({type(module).__name__}) has weights and is of a kind that cannot be counted: "
            "build the network from convolutions, linear layers, batch norms and spikingjelly neurons"
        )
    padding_mode = getattr(module, "padding_mode", "zeros")
    if kind == "conv" and padding_mode != "zeros":
        raise UserError(f"layer {name} pads with padding_mode={padding_mode!r}: only zeros can be counted exactly")
    return kind


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of all modules but those inside a neuron (its surrogate function)."""
    inside = {id(m) for n in model.modules() if is_neuron(n) for m in n.modules() if m is not n}
    for name, module in model.named_modules():
        if id(module) not in inside:
            yield name or type(module).__name__, module


def spatial_dims(layer: nn.Module) -> int:
    """How many trailing axes of its input a layer slides over; 0 for a linear layer."""
    by_dims = zip(CONVOLUTIONS, MAX_POOLS, ADAPTIVE_POOLS, AVG_POOLS, strict=True)
    return next((dims for dims, kinds in enumerate(by_dims, start=1) if isinstance(layer, kinds)), 0)


def count_images(inputs: Any) -> int:
    """N of images [N, C, H, W] or frames [T, N, C, H, W]."""
    return inputs.shape[1] if inputs.ndim == 5 else inputs.shape[0]


def _windows_over_axis(size: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    positions = torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation  # [outputs, kernel]
    inside = positions[(positions >= 0) & (positions < size)]
    return torch.bincount(inside, minlength=size)


def _adaptive_over_axis(size: int, outputs: int) -> Tensor:
    reach = torch.zeros(size, dtype=torch.int64)
    for i in range(outputs):  # window i is [floor(i * size / outputs), ceil((i + 1) * size / outputs))
        reach[i * size // outputs : -(-(i + 1) * size // outputs)] += 1
    return reach


def reach(layer: Any, size: Sequence[int], outputs: Sequence[int]) -> list[Tensor]:
    """The true fan-out: per spatial axis, how many windows of a layer cover each input position.

    Fan-out separates by axis: a window covers (h, w) exactly when it does so along both, so an input at (h, w) reaches
    reach_h(h) * reach_w(w) outputs of each output channel that its group feeds.

    Args:
        layer: nn.Conv*d, nn.MaxPool*d, nn.AvgPool*d, nn.AdaptiveAvgPool*d or nn.Linear.
        size, outputs: spatial shapes of its input and output, e.g. (H, W).

    Returns:
        One int64 vector per axis, as long as the input is along it; none for a linear layer.
    """
    if not size:
        return []

    def per_axis(value: Any) -> tuple[Any, ...]:
        return tuple(value) if isinstance(value, tuple | list) else (value,) * len(size)

    if isinstance(layer, ADAPTIVE_POOLS):
        wanted = per_axis(layer.output_size)  # and not the output's shape, which may be flattened
        return [_adaptive_over_axis(n, n if o is None else o) for n, o in zip(size, wanted, strict=True)]
    kernel, stride = per_axis(layer.kernel_size), per_axis(layer.stride)
    dilation = per_axis(getattr(layer, "dilation", 1))
    padding = layer.padding
    if padding == "same":  # an odd total puts the extra zero on the right
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    padding = per_axis(0 if padding == "valid" else padding)
    return [_windows_over_axis(*axis) for axis in zip(size, outputs, kernel, stride, padding, dilation, strict=True)]
