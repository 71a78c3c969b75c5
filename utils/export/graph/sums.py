"""Exact sums of int8 weights: on the CPU by oneDNN's int8 convolutions where torch has them, elsewhere in floats.

A float32 sum of whole numbers is exact below 2^24, a float64 one below 2^53.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EXACT = 1 << 24


class IntegerSums:
    """[M, C, H, W] of spikes, or of the stem's bytes, uint8 -> [M, O, H', W'], whole numbers.

    Args:
        node: a convolution with int8 weights.
        stem: whether it reads bytes from which the zero point is taken first.
    """

    def __init__(self, node: Any, *, stem: bool) -> None:
        self.node, self.stem = node, stem
        self.largest = int(node.weight.abs().to(torch.int64).flatten(1).sum(1).max()) * (255 if stem else 1)

    def __call__(self, x: Tensor, zero: int) -> Tensor:
        node = self.node
        # other devices may sum float32 in other ways than one by one
        dtype = torch.float32 if x.is_cpu and self.largest < EXACT else torch.float64
        values = x.to(dtype)
        if self.stem and zero:
            values = values - zero
        weight = node.weight.to(x.device, dtype)
        return F.conv2d(values, weight, None, node.stride, node.padding, 1, node.groups).round().to(torch.int32)


@functools.cache
def has_int8_convolutions() -> bool:
    """Whether this torch has oneDNN's int8 convolutions, and this CPU instructions that sum them without saturating:
    AVX-512 alone clips sums of two products to 16 bits, with VNNI it does not."""
    if not (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.onednn, "qconv_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    ):
        return False
    shape = (1, 16, 3, 3)
    node = SimpleNamespace(
        weight=torch.full((16, *shape[1:]), 127, dtype=torch.int8), stride=(1, 1), padding=(0, 0), groups=1
    )
    bytes_ = torch.full(shape, 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    return bool((Int8Sums(node, shape)(bytes_) == 255 * 127 * 16 * 9).all())


class Int8Sums:
    """The same by oneDNN: uint8 [M, C, H, W] channels last -> float32 [M, O, H', W'] channels last.

    oneDNN sums bytes in int32 and gives them as float32, which is exact below 2^24.

    Args:
        node: a convolution with int8 weights.
        shape: of what it reads, (M, C, H, W); weights are laid out for it, and anew in each call for other sizes.
        zero: the zero point of the bytes, which padding then is.
    """

    def __init__(self, node: Any, shape: tuple[int, ...], zero: int = 0) -> None:
        self.geometry = list(node.stride), list(node.padding), [1, 1], node.groups
        self.zero, outputs = zero, len(node.weight)
        self.ones, self.zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
        self.packed = torch.ops.onednn.qconv_prepack(
            node.weight, self.ones, 1.0, zero, *self.geometry, list(shape)
        )  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.onednn.qconv_pointwise(
            x, 1.0, self.zero, self.packed, self.ones, self.zeros, None, *self.geometry, 1.0, 0, torch.float32, "none",
            [], "",
        )  # fmt: skip
        return y
