"""The residual blocks of every family. What differs between families, how the shortcut joins, is passed in."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from .connect import get_connect_function
from .firing import Joining, SpikingConv, fire
from .fused import MEMBRANE
from .layers import ConvBN, conv1x1, conv3x3
from .neuron import MakeNeuron


class Join(Joining, Protocol):
    """How a block's last neuron and its shortcut meet.

    Called, it gives (output, the block's own spikes), each [T, N, C, H, W], from the last layer's current and the
    shortcut.
    """

    name: str

    def shortcut(self, projection: ConvBN, make_neuron: MakeNeuron) -> nn.Module:
        """The shortcut's module where a block changes the shape."""
        ...


class SpikeJoin:
    """s = neuron(current); o = g(s, identity): both sides are spikes (SEW-ResNet and the full-spike networks)."""

    def __init__(self, connect_f: str) -> None:
        self.name = connect_f
        self.fused_name: str | None = connect_f
        self.connect = get_connect_function(connect_f)

    def shortcut(self, projection: ConvBN, make_neuron: MakeNeuron) -> nn.Module:
        return SpikingConv(projection, make_neuron())

    def __call__(self, neuron: nn.Module, current: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
        spikes = neuron(current)
        return self.connect(identity=identity, residual=spikes), spikes


class MembraneJoin:
    """o = s = neuron(current + identity): the sum is taken before the neuron (Spiking ResNet)."""

    name = MEMBRANE
    fused_name: str | None = MEMBRANE

    def shortcut(self, projection: ConvBN, make_neuron: MakeNeuron) -> nn.Module:
        return projection

    def __call__(self, neuron: nn.Module, current: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
        spikes = neuron(current + identity)
        return spikes, spikes


class PlainJoin:
    """o = s = neuron(current): there is no shortcut."""

    name = "none"
    fused_name: str | None = None

    def shortcut(self, projection: ConvBN, make_neuron: MakeNeuron) -> nn.Module:
        raise TypeError("a plain network has no shortcut")

    def __call__(self, neuron: nn.Module, current: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
        spikes = neuron(current)
        return spikes, spikes


class Block(nn.Module):
    """A chain of (convolution, batch norm, neuron) and a shortcut over it; the last neuron is the join's to fire.

    Returns (output o_l, own spikes s_l), both [T, N, C, H, W].
    """

    join: Join

    @property
    def changes_shape(self) -> bool:
        return False

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm in front of the last neuron: the one that `zero_init_residual` silences."""
        raise NotImplementedError


class ResNetBlock(Block):
    """A block of a ResNet.

    Input [T, N, in_channels, H, W]; outputs [T, N, channels * expansion, H / stride, W / stride].
    """

    expansion: ClassVar[int]

    def __init__(self, in_channels: int, channels: int, stride: int, join: Join, make_neuron: MakeNeuron) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = channels * self.expansion
        self.stride = stride
        self.join = join
        convolutions = self.convolutions(in_channels, channels, stride)
        self.depth = len(convolutions)
        for i, convolution in enumerate(convolutions, start=1):  # conv1, sn1, conv2, sn2, ...: the published names
            self.add_module(f"conv{i}", ConvBN(convolution))
            self.add_module(f"sn{i}", make_neuron())
        self.downsample: nn.Module | None = None
        if self.changes_shape:
            self.downsample = join.shortcut(ConvBN(conv1x1(in_channels, self.out_channels, stride)), make_neuron)

    @staticmethod
    def convolutions(in_channels: int, channels: int, stride: int) -> list[nn.Conv2d]:
        """The chain's convolutions, first to last."""
        raise NotImplementedError

    @property
    def changes_shape(self) -> bool:
        return self.stride != 1 or self.in_channels != self.out_channels

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.get_submodule(f"conv{self.depth}.1")  # type: ignore[return-value]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        identity = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.depth):
            x, _ = fire(*self._layer(i), x)
        return fire(*self._layer(self.depth), x, join=self.join, identity=identity)

    def _layer(self, i: int) -> tuple[nn.Module, nn.Module, Any]:
        """The i-th convolution, its batch norm and its neuron."""
        layer: Any = self.get_submodule(f"conv{i}")
        conv, norm = layer
        return conv, norm, self.get_submodule(f"sn{i}")


class BasicBlock(ResNetBlock):
    """3x3 (stride) - 3x3."""

    expansion = 1

    @staticmethod
    def convolutions(in_channels: int, channels: int, stride: int) -> list[nn.Conv2d]:
        return [conv3x3(in_channels, channels, stride), conv3x3(channels, channels)]


class Bottleneck(ResNetBlock):
    """1x1 - 3x3 (stride) - 1x1."""

    expansion = 4

    @staticmethod
    def convolutions(in_channels: int, channels: int, stride: int) -> list[nn.Conv2d]:
        return [conv1x1(in_channels, channels), conv3x3(channels, channels, stride), conv1x1(channels, 4 * channels)]
