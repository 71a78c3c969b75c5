"""Exact sums of int8 weights: on the CPU by oneDNN's int8 convolutions where torch has them, elsewhere in floats.

A float32 sum of whole numbers is exact below 2^24, a float64 one below 2^53.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_EXACT = 1 << 24


class IntegerSums:
    """[M, C, H, W] of spikes, or of the stem's bytes, uint8 -> int32 [M, O, H', W'].

    Args:
        node: a convolution with int8 weights.
        stem: whether it reads bytes from which the zero point is taken first.
    """

    def __init__(self, node: Any, *, stem: bool) -> None:
        self.node, self.stem = node, stem
        largest = int(node.weight.abs().to(torch.int64).flatten(1).sum(1).max()) * (255 if stem else 1)
        self.dtype = torch.float32 if largest < _EXACT else torch.float64

    def __call__(self, x: Tensor, zero: int) -> Tensor:
        node = self.node
        # other devices may sum float32 in other ways than one by one
        dtype = self.dtype if x.is_cpu else torch.float64
        values = x.to(dtype)
        if self.stem and zero:
            values = values - zero
        weight = node.weight.to(x.device, dtype)
        return F.conv2d(values, weight, None, node.stride, node.padding, 1, node.groups).round().to(torch.int32)
