"""The trunk of SEW-ResNet's networks for event cameras: a 1x1 stem, and blocks with 2x2 max pooling behind each."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from .accumulation import Change
from .blocks import Block, Join, MembraneJoin
from .firing import SpikingConv, fire
from .layers import ConvBN, conv1x1, conv3x3, halving_pool
from .neuron import MakeNeuron, always_fires, neuron_factory
from .trunk import Trunk

# layout -> blocks in each stage; every stage has twice the channels of the one before it (arXiv:2102.04159)
STAGES: dict[str, tuple[int, ...]] = {"7b": (7,), "wide7b": (4, 3)}
# as published: 7B-Net for DVS128 Gesture, Wide-7B-Net for CIFAR10-DVS
DEFAULTS: dict[str, dict[str, int]] = {
    "7b": {"width": 32, "num_classes": 11},
    "wide7b": {"width": 64, "num_classes": 10},
}


def _spiking(conv: nn.Conv2d, make_neuron: MakeNeuron) -> SpikingConv:
    return SpikingConv(ConvBN(conv), make_neuron())


class EventBlock(Block):
    """3x3 - 3x3 at one resolution: [T, N, channels, H, W] in and out."""

    conv: Any  # nn.Sequential, of whose items the type checker knows nothing

    def __init__(self, channels: int, join: Join, make_neuron: MakeNeuron) -> None:
        super().__init__()
        self.join = join
        first, last = conv3x3(channels, channels), conv3x3(channels, channels)
        # the published names: the neuron that fires on a sum stands outside the chain
        if isinstance(join, MembraneJoin):
            self.conv = nn.Sequential(_spiking(first, make_neuron), ConvBN(last))
            self.sn = make_neuron()
        else:
            self.conv = nn.Sequential(_spiking(first, make_neuron), _spiking(last, make_neuron))

    def _last(self) -> tuple[Any, nn.Module]:
        """The last ConvBN and its neuron."""
        last = self.conv[1]
        return (last, self.sn) if isinstance(last, ConvBN) else (last[0], last[1])

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self._last()[0][1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (conv, norm), neuron = self._last()
        return fire(conv, norm, neuron, self.conv[0](x), join=self.join, identity=x)


class EventNet(Trunk):
    """A 7B-Net or Wide-7B-Net of spiking neurons, of any input size.

    Args:
        layout: "7b" (7 blocks of `width` channels), or "wide7b" (4 of `width`, and behind a 1x1 convolution 3 of twice
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

    event_frames: ClassVar[bool] = True
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
        neuron: str = "PLIF",
        tau: float = 2.0,
        surrogate: str = "atan",
        alpha: float | None = None,
        in_channels: int = 2,
        width: int = 32,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__(aux_head, T=T, in_channels=in_channels, num_classes=num_classes, width=width)
        if zero_init_residual and join.name == "none":
            raise ValueError("zero_init_residual=True silences a plain network, which has no shortcuts: leave it out")
        make_neuron = neuron_factory(neuron, tau=tau, surrogate=surrogate, alpha=alpha)
        layers: list[nn.Module] = [_spiking(conv1x1(in_channels, width), make_neuron)]
        changes: list[Change] = []
        channels, blocks = width, 0
        for stage, count in enumerate(STAGES[layout]):
            before, channels = channels, width * 2**stage
            if before != channels:
                layers.append(_spiking(conv1x1(before, channels), make_neuron))
            for _ in range(count):
                if blocks:  # the pooling behind the block before, and a change of channels, are crossed together
                    changes.append((blocks, before, channels, 2))
                layers += [EventBlock(channels, join, make_neuron), halving_pool()]
                before, blocks = channels, blocks + 1
        changes.append((blocks, channels, channels, 2))
        self.conv = nn.Sequential(*layers)
        self.out = nn.Linear(channels, num_classes)
        self._complete(aux_head, changes, aap_pool)
        if zero_init_residual:  # all else starts as torch has it, as published
            self._silence_residuals(always_fires(neuron, tau))

    @property
    def classifier(self) -> nn.Linear:
        return self.out

    def body(self) -> list[nn.Module]:
        return list(self.conv[1:])

    def stem(self, frames: Tensor, T: int | None) -> Tensor:
        return self.conv[0](frames, T)
