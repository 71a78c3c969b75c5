"""A spiking layer: convolution, batch norm, neuron and, at the end of a residual block, the join.

`spike` and `spike_and_join` are what the forward passes of all networks are written in, and where it is decided
whether a layer runs compiled into one kernel (package `fused`) or module by module.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from . import fused
from .connect import JoinLayer
from .layers import ConvBN

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
        conv, norm = self[0]
        return [SpikingLayer("1", conv, norm, self[1])]

    def forward(self, x: Tensor, T: int | None = None) -> Tensor:
        return spike(self[0], self[1], x, T)
