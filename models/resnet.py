"""The trunk that all four families share: stem, four stages of blocks, head; optionally listened to by an AAP."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .accumulation import AUX_HEADS, AccumulationPathway
from .blocks import BasicBlock, Block, Bottleneck, Join
from .layers import GlobalAvgPool, MaxPool, over_time
from .neuron import neuron_factory

# depth -> (block, blocks in each stage), as in "Deep Residual Learning", arXiv:1512.03385, table 1
DEPTHS: dict[int, tuple[type[Block], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
STEMS = ("imagenet", "cifar")


class SpikingResNet(nn.Module):
    """A ResNet of spiking neurons.

    Args:
        depth: 18, 34, 50, 101 or 152.
        join: how a block's spikes and its shortcut meet.
        aux_head: None for a single stream; "shared" or "separate" adds the accumulation pathway, classified by the
            trunk's head or by its own.
        num_classes: classes.
        T: time steps that a static image is shown for, >= 1.
        neuron, tau, surrogate, alpha: see `neuron_factory`.
        stem: "imagenet" (7x7 convolution of stride 2, then max-pool 3 of stride 2) or "cifar" (3x3, no pooling).
        in_channels: channels of the input.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        zero_init_residual: every block starts as the identity: its last batch norm has weight 0 (and bias 1 with AND,
            whose neutral element is 1).

    Input: images [N, in_channels, H, W], shown T times, or a sequence of frames [T', N, in_channels, H, W] of any
    length T'. Returns logits [N, num_classes]; with the pathway the pair (trunk's logits, pathway's logits).

    Raises:
        ValueError: an option is unknown or out of range.
    """

    config: dict[str, Any]  # what `create_model` was called with; set there

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
        super().__init__()
        for name, value in {"T": T, "num_classes": num_classes, "in_channels": in_channels, "width": width}.items():
            if value < 1:
                raise ValueError(f"{name}={value} is out of range: it must be at least 1")
        if stem not in STEMS:
            raise ValueError(f"stem={stem!r} is unknown: choose one of {', '.join(STEMS)}")
        if aux_head is not None and aux_head not in AUX_HEADS:
            raise ValueError(f"aux_head={aux_head!r} is unknown: choose one of {', '.join(AUX_HEADS)}")
        make_neuron = neuron_factory(neuron, tau=tau, surrogate=surrogate, alpha=alpha)
        self.T = T
        self.in_channels = in_channels
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
        self.avgpool = GlobalAvgPool()
        self.fc = nn.Linear(channels_in, num_classes)

        self.aap: AccumulationPathway | None = None
        if aux_head is not None:
            changes = [
                (index, b.in_channels, b.out_channels, b.stride)
                for index, b in enumerate(self.blocks())
                if b.changes_shape
            ]
            head = nn.Linear(channels_in, num_classes) if aux_head == "separate" else None
            self.aap = AccumulationPathway(changes, head)

        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # batch norms start at weight 1, bias 0 by themselves
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for block in self.blocks():
                nn.init.zeros_(block.last_norm.weight)
                if block.join.name == "AND":
                    nn.init.ones_(block.last_norm.bias)

    def blocks(self) -> list[Block]:
        """All residual blocks, first to last."""
        return [block for stage in self.stages for block in getattr(self, stage)]

    def encode(self, x: Tensor) -> Tensor:
        """The first spikes o_0 [T, N, width, H', W'] of images or frames."""
        if x.ndim not in (4, 5):
            raise ValueError(
                f"an input of shape {tuple(x.shape)} has {x.ndim} dimensions: "
                "give images [N, C, H, W] or frames [T, N, C, H, W]"
            )
        if x.shape[-3] != self.in_channels:
            raise ValueError(f"an input of shape {tuple(x.shape)} has {x.shape[-3]} channels, not {self.in_channels}")
        if x.ndim == 5:
            current = over_time(lambda frames: self.bn1(self.conv1(frames)), x)
        else:  # a static image is convolved once; every time step sees the same current
            current = self.bn1(self.conv1(x)).expand(self.T, -1, -1, -1, -1)
        return self.maxpool(self.sn1(current))

    def features(self, x: Tensor) -> Tensor:
        """Global average pooling, then the mean over time: [T, N, C, H, W] -> [N, C]."""
        return self.avgpool(x).mean(dim=0)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        o = self.encode(x)
        a = o
        for index, block in enumerate(self.blocks()):
            o, s = block(o)
            if self.aap is not None:
                a = self.aap(index, a, s)
        logits = self.fc(self.features(o))
        if self.aap is None:
            return logits
        return logits, (self.aap.head or self.fc)(self.features(a))
