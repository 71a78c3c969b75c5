"""Layers over [T, N, C, H, W]: convolutions and pooling, which see time as more batch, and the spiking layer.

`spike` and `spike_and_join` are what the forward passes of all networks are written in, and where it is decided
whether a layer runs in one pass (package `fused`) or module by module.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from . import fused
from .connect import JoinLayer


def over_time(module: Any, x: Tensor) -> Tensor:
    """Apply a layer of [N, C, H, W] to x [T, N, C, H, W], all time steps in one call."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # [T*N, C, H, W] inside


class StridedConv2d(nn.Conv2d):
    """A convolution of stride 2 around two errors of oneDNN's weight gradients (torch 2.14.1, on the CPU).

    1x1, channels last, with 4 or 6 input channels, on a CPU with AVX2 alone: it writes past its memory. The positions
    that a 1x1 kernel skips are taken out first, and the convolution has stride 1: the same sums.

    3x3 in bfloat16, on maps of one column: it reads memory that nobody wrote. Along an axis of one position every
    stride gives the same output, so it is taken with stride 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cpu:
            return super().forward(x)
        stride = self.stride
        if self.kernel_size == (1, 1):
            x, stride = F.avg_pool2d(x, 1, stride), (1, 1)
        stride = tuple(s if size > 1 else 1 for s, size in zip(stride, x.shape[-2:], strict=True))
        return F.conv2d(x, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Conv2d:
    kind = nn.Conv2d if stride == 1 else StridedConv2d
    return kind(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return _convolution(in_channels, out_channels, 3, stride)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return _convolution(in_channels, out_channels, 1, stride)


class _DepthwiseOnCPU(torch.autograd.Function):
    """A depthwise 3x3 convolution of stride 2 and padding 1, whose input's gradient does not go through oneDNN's.

    oneDNN prepares that one anew at every call in bfloat16 (31 ms, measured with torch 2.14.1). It is the gradient with
    zeros between its elements, convolved with the mirrored kernel: the same sums.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, stride=2, padding=1, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            spread = torch.zeros_like(x)
            spread[..., ::2, ::2] = grad_y
            grad_x = F.conv2d(spread, weight.flip(2, 3), padding=1, groups=len(weight))
        if ctx.needs_input_grad[1]:
            grad_weight = conv2d_weight(x, weight.shape, grad_y, stride=2, padding=1, groups=len(weight))  # type: ignore[no-untyped-call]
        return grad_x, grad_weight


def _as_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """In the type that a convolution of them takes on the CPU; float64 autocast leaves as it is."""
    if not torch.is_autocast_enabled("cpu") or any(x is not None and x.dtype == torch.float64 for x in tensors):
        return list(tensors)
    dtype = torch.get_autocast_dtype("cpu")
    return [None if x is None else x.to(dtype) for x in tensors]


class _PointwiseOnCPU(torch.autograd.Function):
    """A 1x1 convolution whose weights' gradient is one product of matrices.

    In bfloat16 that takes 14.0 ms where oneDNN's convolution takes 17.5 (384 -> 1536 channels, 128 x 8 x 8, two cores,
    torch 2.14.1): the same sums.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = F.conv2d(grad_y, weight.transpose(0, 1))
        if ctx.needs_input_grad[1]:
            of_tokens, tokens = (t.movedim(1, -1).flatten(0, 2) for t in (grad_y, x))  # [N*H*W, channels]
            grad_weight = (of_tokens.T @ tokens).view_as(weight)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_y.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias


class TokenLinear(nn.Conv2d):
    """A linear layer over the tokens of a map, as a 1x1 convolution: [N, C, H, W] -> [N, C', H, W]."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and torch.is_grad_enabled():
            inputs = _as_autocast(x, self.weight, self.bias)
            if inputs[0].dtype == torch.bfloat16:  # type: ignore[union-attr]
                return _PointwiseOnCPU.apply(*inputs)  # type: ignore[no-untyped-call]
        return super().forward(x)


class HalvingDepthwise(nn.Conv2d):
    """A depthwise 3x3 convolution of stride 2 without bias: [N, C, H, W] -> [N, C, ceil(H/2), ceil(W/2)]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not (x.is_cpu and torch.is_grad_enabled()):
            return super().forward(x)
        return _DepthwiseOnCPU.apply(*_as_autocast(x, self.weight))  # type: ignore[no-untyped-call]


class ConvBN(nn.Sequential):
    """A convolution and its batch norm over [T, N, C, H, W]; statistics are over T, N, H and W together."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv, nn.BatchNorm2d(conv.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return over_time(super().forward, x)


class MaxPool(nn.MaxPool2d):
    """Max pooling over [T, N, C, H, W]; a maximum of spikes is a spike."""

    def forward(self, x: Tensor) -> Tensor:
        return over_time(super().forward, x)


def halving_pool() -> MaxPool:
    """2x2 max pooling of stride 2 that keeps a border of one row or column: n -> ceil(n / 2), as a 3x3 convolution of
    stride 2 with padding 1. So every size works, and a 1x1 map stays as it is."""
    return MaxPool(2, 2, ceil_mode=True)


class SpikeMatmul(nn.Module):
    """A product of matrices of which the first is 0/1: [..., n, k] @ [..., k, m] -> [..., n, m], without weights.

    A layer, so that operation counters see it: each 1 of the first, at (i, j), adds the m elements of the second's row
    j to the output's row i, so there is nothing to multiply. The second may hold any whole numbers.
    """

    gated_by = "first"  # for counters, which know a product of spikes by this attribute

    def forward(self, spikes: Tensor, other: Tensor) -> Tensor:
        return spikes @ other


class GlobalAvgPool(nn.AdaptiveAvgPool2d):
    """The mean over height and width: [T, N, C, H, W] -> [T, N, C]. A layer, so that operation counters see it."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        return over_time(super().forward, x).flatten(2)


ConvNorm = Iterable[Any]  # a `ConvBN`, or a pair: a convolution and its batch norm (an Identity once that is folded)


class SpikingLayer(NamedTuple):
    """The modules of a spiking layer, for what lists them: counters, exports, folding.

    name: of the neuron, within whatever lists the layer: in the network, or in the block.
    conv, norm, neuron: a Conv2d, a BatchNorm2d (an Identity where it is folded into the convolution) and a neuron of
        `neuron_factory`; they run in this order. None and None for a neuron that fires on a product of spikes.
    join: what meets the neuron's spikes or its current; None where there is no shortcut.
    """

    name: str
    conv: Any
    norm: Any
    neuron: Any
    join: JoinLayer | None = None


def spike(conv: ConvNorm, neuron: Any, x: Tensor, T: int | None = None) -> Tensor:
    """The spikes [T, N, C, H', W'] of a convolution, its batch norm and a neuron at x [T, N, in_channels, H, W].

    Args:
        T: show x, of one time step, so often; it is convolved once.
    """
    return _run(conv, neuron, x, T=T)[0]


def spike_and_join(conv: ConvNorm, neuron: Any, x: Tensor, join: JoinLayer, identity: Tensor) -> tuple[Tensor, Tensor]:
    """(o_l, s_l) of a block's last layer: the neuron's spikes s_l, and what the join makes of them and the shortcut.

    Args:
        x: [T, N, in_channels, H, W].
        join: o_l = g(s_l, identity) where it acts on spikes; it may also act on the neuron's input, or do nothing.
        identity: the shortcut [T, N, C, H', W'], like both results.
    """
    return _run(conv, neuron, x, join, identity)


def _run(
    conv_norm: ConvNorm,
    neuron: Any,
    x: Tensor,
    join: JoinLayer | None = None,
    identity: Tensor | None = None,
    T: int | None = None,
) -> tuple[Tensor, Tensor]:
    conv, norm = conv_norm
    y = conv(x.flatten(0, 1))  # [T*N, C, H', W']
    steps = x.shape[:2]
    result = fused.layer(y.unflatten(0, steps), neuron, norm, join, identity, T)
    if result is not None:
        neuron.fired(result[1])
        return result
    current = norm(y).unflatten(0, steps)
    if T is not None:
        current = current.expand(T, -1, -1, -1, -1)
    if join is not None and join.acts_on == "current":
        current = join(current, identity)
    s = neuron(current)
    o = join(s, identity) if join is not None and join.acts_on == "spikes" else s
    return o, s


class SpikingConv(nn.Sequential):
    """(ConvBN, neuron): [T, N, C, H, W] -> spikes [T, N, C', H', W']."""

    def __init__(self, conv: nn.Conv2d, neuron: nn.Module) -> None:
        super().__init__(ConvBN(conv), neuron)
        self.out_channels = conv.out_channels
        self.stride = conv.stride[0]

    def spiking_layers(self) -> list[SpikingLayer]:
        convolution: Any = self[0]
        return [SpikingLayer("1", convolution[0], convolution[1], self[1])]

    def forward(self, x: Tensor, T: int | None = None) -> Tensor:
        convolution: Any = self[0]
        return spike(convolution, self[1], x, T)
