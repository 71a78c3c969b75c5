"""ResNet, all of it: blocks, trunk, and the families resnet, spiking_resnet, sew_resnet, fsnn and dsnn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from .choices import require_one_of
from .connect import MEMBRANE, Join, full_spike_join, get_join
from .layers import ConvBN, MaxPool, SpikingConv, SpikingLayer, conv1x1, conv3x3, spike, spike_and_join
from .neuron import MakeNeuron, neuron_factory
from .registry import register_family
from .trunk import Block, Trunk

STEMS = ("imagenet", "cifar")


class ResNetBlock(Block):
    """A block of a ResNet; its modules have the published names.

    o [T, N, in_channels, H, W] -> (o_l, s_l), both [T, N, channels * expansion, H / stride, W / stride].
    """

    expansion: ClassVar[int]

    def __init__(self, in_channels: int, channels: int, stride: int, join: Join) -> None:
        super().__init__(join, in_channels, channels * self.expansion, stride)

    def make_shortcut(self, make_neuron: MakeNeuron) -> nn.Module | None:
        """1x1 (stride) -> batch norm [-> neuron] where the shape changes, so that the shortcut is spikes again."""
        if not self.changes_shape:
            return None
        projection = conv1x1(self.in_channels, self.out_channels, self.stride)
        on_current = self.join.acts_on == "current"
        return ConvBN(projection) if on_current else SpikingConv(projection, make_neuron())

    def spiking_layers(self) -> list[SpikingLayer]:
        return self.downsample.spiking_layers() if isinstance(self.downsample, SpikingConv) else []


class BasicBlock(ResNetBlock):
    """3x3 (stride) - 3x3."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, join: Join, make_neuron: MakeNeuron) -> None:
        super().__init__(in_channels, channels, stride, join)
        self.conv1 = ConvBN(conv3x3(in_channels, channels, stride))
        self.sn1 = make_neuron()
        self.conv2 = ConvBN(conv3x3(channels, channels))
        self.sn2 = make_neuron()
        self.downsample = self.make_shortcut(make_neuron)

    def spiking_layers(self) -> list[SpikingLayer]:
        return [
            *super().spiking_layers(),
            SpikingLayer("sn1", self.conv1[0], self.conv1[1], self.sn1),
            SpikingLayer("sn2", self.conv2[0], self.conv2[1], self.sn2, self.join),
        ]

    def forward(self, o: Tensor) -> tuple[Tensor, Tensor]:
        identity = o if self.downsample is None else self.downsample(o)
        s = spike(self.conv1, self.sn1, o)
        return spike_and_join(self.conv2, self.sn2, s, self.join, identity)  # o_l = g(s_l, identity), s_l


class Bottleneck(ResNetBlock):
    """1x1 - 3x3 (stride) - 1x1."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, join: Join, make_neuron: MakeNeuron) -> None:
        super().__init__(in_channels, channels, stride, join)
        self.conv1 = ConvBN(conv1x1(in_channels, channels))
        self.sn1 = make_neuron()
        self.conv2 = ConvBN(conv3x3(channels, channels, stride))
        self.sn2 = make_neuron()
        self.conv3 = ConvBN(conv1x1(channels, self.out_channels))
        self.sn3 = make_neuron()
        self.downsample = self.make_shortcut(make_neuron)

    def spiking_layers(self) -> list[SpikingLayer]:
        return [
            *super().spiking_layers(),
            SpikingLayer("sn1", self.conv1[0], self.conv1[1], self.sn1),
            SpikingLayer("sn2", self.conv2[0], self.conv2[1], self.sn2),
            SpikingLayer("sn3", self.conv3[0], self.conv3[1], self.sn3, self.join),
        ]

    def forward(self, o: Tensor) -> tuple[Tensor, Tensor]:
        identity = o if self.downsample is None else self.downsample(o)
        s = spike(self.conv1, self.sn1, o)
        s = spike(self.conv2, self.sn2, s)
        return spike_and_join(self.conv3, self.sn3, s, self.join, identity)  # o_l = g(s_l, identity), s_l


# depth -> (block, blocks in each stage), as in "Deep Residual Learning", arXiv:1512.03385, table 1
DEPTHS: dict[int, tuple[Callable[..., ResNetBlock], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


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
        neuron: Any = "IF",
        tau: float = 2.0,
        surrogate: Any = "sigmoid",
        alpha: float | None = None,
        stem: str = "imagenet",
        in_channels: int = 3,
        width: int = 64,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__(aux_head, T=T, in_channels=in_channels, num_classes=num_classes, width=width)
        require_one_of("stem", stem, STEMS)
        make_neuron = neuron_factory(neuron, tau=tau, surrogate=surrogate, alpha=alpha, T=T)
        imagenet = stem == "imagenet"
        self.stem_stride = 4 if imagenet else 1
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
        self.complete(aux_head)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # batch norms start at weight 1, bias 0 by themselves
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            self.silence_residuals()

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def body(self) -> list[ResNetBlock]:
        return [block for stage in self.stages for block in getattr(self, stage)]

    def stem_layer(self) -> SpikingLayer:
        return SpikingLayer("sn1", self.conv1, self.bn1, self.sn1)

    def stem(self, frames: Tensor, T: int | None) -> Tensor:
        return self.maxpool(spike((self.conv1, self.bn1), self.sn1, frames, T))


class PlainResNet(SpikingResNet):
    """The ordinary ResNet to compare with: the same layers, ReLU for neurons, the sum before it, one time step.

    torchvision's, for the "imagenet" stem and width 64. Input images [N, in_channels, H, W]; of frames
    [T, N, in_channels, H, W] each is seen alone and the logits are of the mean features.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int = 1000,
        stem: str = "imagenet",
        in_channels: int = 3,
        width: int = 64,
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__(
            depth,
            MEMBRANE,
            num_classes=num_classes,
            T=1,
            stem=stem,
            in_channels=in_channels,
            width=width,
            zero_init_residual=zero_init_residual,
        )
        for layer in self.spiking_layers():
            self.set_submodule(layer.name, nn.ReLU())


@register_family(DEPTHS, trunk=PlainResNet)
def resnet(depth: int, **options: Any) -> PlainResNet:
    """Registered as resnet18, 34, 50, 101 and 152: no spikes at all (arXiv:1512.03385)."""
    return PlainResNet(depth, **options)


@register_family(DEPTHS, trunk=SpikingResNet)
def spiking_resnet(depth: int, **options: Any) -> SpikingResNet:
    """Registered as spiking_resnet18, 34, 50, 101 and 152: the sum is taken on the membrane's input.

    The baseline of arXiv:2102.04159, section 3.1.
    """
    return SpikingResNet(depth, MEMBRANE, **options)


@register_family(DEPTHS, trunk=SpikingResNet)
def sew_resnet(depth: int, *, connect_f: str = "ADD", **options: Any) -> SpikingResNet:
    """Registered as sew_resnet18, 34, 50, 101 and 152: spikes joined by a connect function, by default the sum.

    arXiv:2102.04159, section 3.2.
    """
    return SpikingResNet(depth, get_join(connect_f), **options)


@register_family(DEPTHS, trunk=SpikingResNet)
def fsnn(depth: int, *, connect_f: str = "OR", **options: Any) -> SpikingResNet:
    """Registered as fsnn18, 34, 50, 101 and 152: one stream, only spikes past the stem (arXiv:2301.11929)."""
    return SpikingResNet(depth, full_spike_join(connect_f), **options)


@register_family(DEPTHS, trunk=SpikingResNet)
def dsnn(depth: int, *, connect_f: str = "OR", aux_head: str = "shared", **options: Any) -> SpikingResNet:
    """Registered as dsnn18, 34, 50, 101 and 152: two streams; `detach_aap` leaves the fsnn (arXiv:2301.11929)."""
    return SpikingResNet(depth, full_spike_join(connect_f), aux_head, **options)
