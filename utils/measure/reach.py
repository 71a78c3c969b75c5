"""The true fan-out of every input position: how many outputs of a convolution or pooling read it.

Fan-out separates by axis: an input at (h, w) reaches reach_h(h) * reach_w(w) outputs of each output channel that its
group feeds, since a window covers it exactly when it does so along both axes. It is the transposed convolution of ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from full_spike.utils.measure.layers import ADAPTIVE_POOLS
from torch import Tensor


def windows_over_axis(size: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> Tensor:
    """How many of `outputs` windows cover each of the `size` positions: int64 [size]. Padding is covered by nobody."""
    positions = torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation  # [outputs, kernel]
    inside = positions[(positions >= 0) & (positions < size)]
    return torch.bincount(inside, minlength=size)


def _adaptive_over_axis(size: int, outputs: int) -> Tensor:
    reach = torch.zeros(size, dtype=torch.int64)
    for i in range(outputs):  # window i is [floor(i * size / outputs), ceil((i + 1) * size / outputs))
        reach[i * size // outputs : -(-(i + 1) * size // outputs)] += 1
    return reach


def _per_axis(value: Any, dims: int) -> list[int]:
    return [int(v) for v in value] if isinstance(value, tuple | list) else [int(value)] * dims


def _left_padding(layer: Any, dims: int, kernel: list[int], dilation: list[int]) -> list[int]:
    if layer.padding == "valid":
        return [0] * dims
    if layer.padding == "same":  # an odd total puts the extra zero on the right
        return [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    return _per_axis(layer.padding, dims)


def reach(layer: Any, size: Sequence[int], outputs: Sequence[int]) -> list[Tensor]:
    """Per spatial axis, how many windows of a convolution or pooling layer cover each input position.

    Args:
        layer: nn.Conv*d, nn.MaxPool*d, nn.AvgPool*d or nn.AdaptiveAvgPool*d, or nn.Linear, which has no axes.
        size: spatial shape of its input, e.g. (H, W).
        outputs: spatial shape of its output; an adaptive pooling's own `output_size` goes before it.

    Returns:
        One int64 vector per axis, as long as the input is along it.
    """
    dims = len(size)
    if dims == 0:
        return []
    if isinstance(layer, ADAPTIVE_POOLS):
        wanted = layer.output_size if isinstance(layer.output_size, tuple | list) else [layer.output_size] * dims
        return [_adaptive_over_axis(n, n if o is None else int(o)) for n, o in zip(size, wanted, strict=True)]
    kernel = _per_axis(layer.kernel_size, dims)
    stride = _per_axis(layer.stride, dims)
    dilation = _per_axis(getattr(layer, "dilation", 1), dims)
    padding = _left_padding(layer, dims, kernel, dilation)
    axes = zip(size, outputs, kernel, stride, padding, dilation, strict=True)
    return [windows_over_axis(*axis) for axis in axes]
