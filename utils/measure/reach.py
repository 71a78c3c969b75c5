"""The true fan-out of every input position: how many outputs of a convolution or pooling read it.

Fan-out separates by axis: an input at (h, w) reaches reach_h(h) * reach_w(w) outputs of each output channel that its
group feeds, since a window covers it exactly when it does so along both axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from full_spike.utils.measure.layers import ADAPTIVE_POOLS


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
    """Per spatial axis, how many windows of a layer cover each input position; nothing for a linear layer.

    Args:
        layer: nn.Conv*d, nn.MaxPool*d, nn.AvgPool*d, nn.AdaptiveAvgPool*d or nn.Linear.
        size, outputs: spatial shapes of its input and output, e.g. (H, W).

    Returns:
        One int64 vector per axis, as long as the input is along it.
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
