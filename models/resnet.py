"""The residual network that four families share: stem, four stages of blocks, head."""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import BasicBlock, Bottleneck, Join, ResNetBlock
from .firing import fire
from .layers import MaxPool
from .neuron import always_fires, neuron_factory
from .trunk import Trunk

# depth -> (block, blocks in each stage), as in "Deep Residual Learning", arXiv:1512.03385, table 1
DEPTHS: dict[int, tuple[type[ResNetBlock], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
STEMS = ("imagenet", "cifar")


class SpikingResNet(Trunk):
    """A ResNet of spiking neurons.

    Args:
        depth: 18, 34, 50, 101 or 152.
        join: how a block's spikes and its shortcut meet.
        aux_head, T: see `Trunk`, as for input and output.
        num_classes: classes.
        neuron, tau, surrogate, alpha: see `neuron_factory`.
        stem: "imagenet" (7x7 convolution of stride 2, then max-pool 3 of stride 2) or "cifar" (3x3, no pooling).
        in_channels: channels of the input.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        zero_init_residual: every block starts as the identity: its last batch norm has weight 0 (and with AND, whose
            neutral element is 1, a bias at which neurons always fire: 1 for IF).

    Raises:
        ValueError: an option is unknown or out of range.
    """

    def __init__(
        self,
        depth: int,
        join: Join,
        aux_head: str | None = None,
        *,
        num_classes: int = 1000,
        T: int = 4,
        neuron: str = "IF",
        tau: float = 2.0,
        surrogate: str = "sigmoid",
        alpha: float | None = None,
        stem: str = "imagenet",
        in_channels: int = 3,
        width: int = 64,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__(aux_head, T=T, in_channels=in_channels, num_classes=num_classes, width=width)
        if stem not in STEMS:
            raise ValueError(f"stem={stem!r} is unknown: choose one of {', '.join(STEMS)}")
        make_neuron = neuron_factory(neuron, tau=tau, surrogate=surrogate, alpha=alpha)
        imagenet = stem == "imagenet"
        self.conv1 = nn.Conv2d(
            in_channels,
            width,
            kernel_size=7 if imagenet else 3,
            stride=2 if imagenet else 1,
            padding=3 if imagenet else 1,
            bias=False,
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.sn1 = make_neuron()
        self.maxpool = MaxPool(kernel_size=3, stride=2, padding=1) if imagenet else nn.Identity()

        block, counts = DEPTHS[depth]
        channels_in = width
        self.stages = [f"layer{i}" for i in range(1, 5)]
        for i, (stage, count) in enumerate(zip(self.stages, counts, strict=True)):
            blocks = []
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(block(channels_in, width * 2**i, stride, join, make_neuron))
                channels_in = blocks[-1].out_channels
            self.add_module(stage, nn.Sequential(*blocks))
        self.fc = nn.Linear(channels_in, num_classes)
        changes = [
            (index, b.in_channels, b.out_channels, b.stride) for index, b in enumerate(self.body()) if b.changes_shape
        ]
        self._complete(aux_head, changes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # batch norms start at weight 1, bias 0 by themselves
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            self._silence_residuals(always_fires(neuron, tau))

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def body(self) -> list[ResNetBlock]:
        return [block for stage in self.stages for block in getattr(self, stage)]

    def stem(self, frames: Tensor, T: int | None) -> Tensor:
        return self.maxpool(fire(self.conv1, self.bn1, self.sn1, frames, T=T)[0])
