"""A spiking layer: convolution, batch norm, neuron and, at the end of a residual block, the join."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from . import fused
from .connect import JoinLayer
from .layers import ConvBN


class SpikingLayer(NamedTuple):
    """The modules of a spiking layer.

    name: of the neuron, within whatever lists the layer: in the network, or in the block.
    conv, norm, neuron: a Conv2d, a BatchNorm2d (an Identity where it is folded into the convolution) and a neuron of
        `neuron_factory`; they run in this order. None and None for a neuron that fires on a product of spikes.
    join: what meets the neuron's spikes or its current; None where there is no shortcut.
    """

    name: str
    conv: Any  # as the type checker has it: what they are is said above
    norm: Any
    neuron: Any
    join: JoinLayer | None = None

    def fire(self, x: Tensor, identity: Tensor | None = None, *, T: int | None = None) -> tuple[Tensor, Tensor]:
        """(output, the neuron's own spikes), each [T, N, C, H', W'], of x [T, N, in_channels, H, W].

        Args:
            identity: the shortcut, like the output; needed with a join.
            T: show x, of one time step, so often; it is convolved once.
        """
        y = self.conv(x.flatten(0, 1))  # [T*N, C, H', W']
        steps = x.shape[:2]
        result = fused.layer(y.unflatten(0, steps), self.neuron, self.norm, self.join, identity, T)
        if result is not None:
            self.neuron.fired(result[1])
            return result
        current = self.norm(y).unflatten(0, steps)
        if T is not None:
            current = current.expand(T, -1, -1, -1, -1)
        acts_on = "none" if self.join is None else self.join.acts_on
        if acts_on == "current":
            current = self.join(current, identity)  # type: ignore[misc]
        spikes = self.neuron(current)
        return (self.join(spikes, identity) if acts_on == "spikes" else spikes), spikes  # type: ignore[misc]


class SpikingConv(nn.Sequential):
    """(ConvBN, neuron): [T, N, C, H, W] -> spikes [T, N, C', H', W']."""

    def __init__(self, conv: nn.Conv2d, neuron: nn.Module) -> None:
        super().__init__(ConvBN(conv), neuron)

    @property
    def out_channels(self) -> int:
        return self.spiking_layer().conv.out_channels

    @property
    def stride(self) -> tuple[int, ...]:
        return self.spiking_layer().conv.stride

    def spiking_layers(self) -> list[SpikingLayer]:
        return [self.spiking_layer()]

    def spiking_layer(self) -> SpikingLayer:
        layer: Any = self[0]
        conv, norm = layer
        return SpikingLayer("1", conv, norm, self[1])

    def forward(self, x: Tensor, T: int | None = None) -> Tensor:
        return self.spiking_layer().fire(x, T=T)[0]
