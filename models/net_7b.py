"""7B-Net and Wide-7B-Net (arXiv:2102.04159) for event cameras, all of it: blocks, trunk and every family.

A 1x1 stem, and blocks with 2x2 max pooling after each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from .connect import MEMBRANE, NO_JOIN, Join, full_spike_join, get_join
from .layers import ConvBN, SpikingConv, SpikingLayer, conv1x1, conv3x3, halving_pool, spike_and_join
from .neuron import MakeNeuron, neuron_factory
from .registry import register_family
from .trunk import Block, Trunk


class Layout(NamedTuple):
    """Blocks in each stage, of which each has twice the channels of the one before, and the defaults as published."""

    stages: tuple[int, ...]
    width: int
    num_classes: int


# 7B-Net for DVS128 Gesture, Wide-7B-Net for CIFAR10-DVS (arXiv:2102.04159)
LAYOUTS = {
    "7b": Layout((7,), width=32, num_classes=11),
    "wide7b": Layout((4, 3), width=64, num_classes=10),
}


class EventBlock(Block):
    """3x3 - 3x3 at one resolution: o [T, N, channels, H, W] -> (o_l, s_l), of the same shape.

    Names of modules are the published ones: the neuron that fires on a sum stands outside `conv`.
    """

    conv: Any  # nn.Sequential, of whose items the type checker knows nothing

    def __init__(self, channels: int, join: Join, make_neuron: MakeNeuron) -> None:
        super().__init__(join, channels)
        first, last = SpikingConv(conv3x3(channels, channels), make_neuron()), conv3x3(channels, channels)
        self.neuron_outside = join.acts_on == "current"
        if self.neuron_outside:
            self.conv = nn.Sequential(first, ConvBN(last))
            self.sn = make_neuron()
        else:
            self.conv = nn.Sequential(first, SpikingConv(last, make_neuron()))

    def spiking_layers(self) -> list[SpikingLayer]:
        first, last = self.conv
        if self.neuron_outside:
            return [*first.spiking_layers(), SpikingLayer("sn", last[0], last[1], self.sn, self.join)]
        return [*first.spiking_layers(), last.spiking_layers()[0]._replace(join=self.join)]

    def forward(self, o: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self.conv
        conv, neuron = (last, self.sn) if self.neuron_outside else last
        return spike_and_join(conv, neuron, first(o), self.join, o)  # o_l = g(s_l, o_{l-1}), s_l


class EventNet(Trunk):
    """A 7B-Net or Wide-7B-Net of spiking neurons, of any input size.

    Args:
        layout: "7b" (7 blocks of `width` channels), or "wide7b" (4 of `width` and, after a 1x1 convolution, 3 of twice
            as many).
        join: how a block's spikes and its shortcut meet.
        aux_head, T: see `Trunk`, as for input and output.
        aap_pool: how the pathway crosses a max pooling, see `AccumulationPathway`.
        num_classes: classes.
        neuron, tau, surrogate, alpha: see `neuron_factory`.
        in_channels: channels of the input: 2, the polarities of events.
        width: channels of the first stage.
        zero_init_residual: every block starts as the identity: its last batch norm has weight 0 (and with AND, whose
            neutral element is 1, a bias at which neurons always fire).

    Raises:
        ValueError: an option is unknown or out of range, or a plain network is to start as the identity.
    """

    event_frames = True
    conv: Any

    def __init__(
        self,
        layout: str,
        join: Join,
        aux_head: str | None = None,
        aap_pool: str = "projection",
        *,
        num_classes: int = 11,
        T: int = 16,
        neuron: Any = "PLIF",
        tau: float = 2.0,
        surrogate: Any = "atan",
        alpha: float | None = None,
        in_channels: int = 2,
        width: int = 32,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__(aux_head, T=T, in_channels=in_channels, num_classes=num_classes, width=width)
        make_neuron = neuron_factory(neuron, tau=tau, surrogate=surrogate, alpha=alpha, T=T)
        layers: list[nn.Module] = [SpikingConv(conv1x1(in_channels, width), make_neuron())]
        channels = width
        for stage, count in enumerate(LAYOUTS[layout].stages):
            before, channels = channels, width * 2**stage
            if before != channels:
                layers.append(SpikingConv(conv1x1(before, channels), make_neuron()))
            for _ in range(count):
                layers += [EventBlock(channels, join, make_neuron), halving_pool()]
        self.conv = nn.Sequential(*layers)
        self.out = nn.Linear(channels, num_classes)
        self.complete(aux_head, aap_pool)
        if zero_init_residual:  # all else starts as torch has it, as published
            self.silence_residuals()

    @property
    def classifier(self) -> nn.Linear:
        return self.out

    def body(self) -> list[nn.Module]:
        return list(self.conv[1:])

    def stem_layer(self) -> SpikingLayer:
        return self.conv[0].spiking_layers()[0]

    def stem(self, frames: Tensor, T: int | None) -> Tensor:
        return self.conv[0](frames, T)  # as a module, so that its hooks run


_register = register_family(
    LAYOUTS,
    trunk=EventNet,
    defaults={name: {"width": layout.width, "num_classes": layout.num_classes} for name, layout in LAYOUTS.items()},
)


@_register
def fsnn(layout: str, *, connect_f: str = "OR", **options: Any) -> EventNet:
    """Registered as fsnn_7b and fsnn_wide7b: one stream, only spikes past the stem."""
    return EventNet(layout, full_spike_join(connect_f), **options)


@_register
def dsnn(
    layout: str, *, connect_f: str = "OR", aux_head: str = "shared", aap_pool: str = "projection", **options: Any
) -> EventNet:
    """Registered as dsnn_7b and dsnn_wide7b: two streams; `detach_aap` leaves the fsnn."""
    return EventNet(layout, full_spike_join(connect_f), aux_head, aap_pool, **options)


@_register
def sew(layout: str, *, connect_f: str = "ADD", **options: Any) -> EventNet:
    """Registered as sew_7b and sew_wide7b, as published: spikes joined by a connect function."""
    return EventNet(layout, get_join(connect_f), **options)


@_register
def spiking(layout: str, **options: Any) -> EventNet:
    """Registered as spiking_7b and spiking_wide7b: the sum is taken on the membrane's input."""
    return EventNet(layout, MEMBRANE, **options)


@_register
def plain(layout: str, **options: Any) -> EventNet:
    """Registered as plain_7b and plain_wide7b: no shortcuts."""
    return EventNet(layout, NO_JOIN, **options)
