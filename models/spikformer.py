"""Spikformer (Zhou et al., ICLR 2023, arXiv:2209.15425), all of it: blocks, trunk, and its families.

Attention of spikes without a softmax. `spikformer_...` adds its shortcuts up, as published. In `fs_spikformer_...`
every shortcut, the position embedding's too, meets its branch in a Boolean function; `ds_spikformer_...` trains that
with the accumulation pathway (arXiv:2301.11929, figure 1). Tokens are the positions of a map [T, N, C, H, W].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .connect import Join, full_spike_join, get_join
from .firing import SpikingLayer
from .layers import MaxPool, SpikeMatmul, TokenLinear, conv3x3
from .neuron import MakeNeuron, neuron_factory
from .registry import register_family
from .trunk import Block, Trunk

PRODUCTS = ("auto", "qk", "kv")
PATCHES = (1, 2, 4, 8, 16)


class Size(NamedTuple):
    """One published network; from `qkv_bias` on what the releases for CIFAR, ImageNet and CIFAR10-DVS differ in."""

    depth: int
    width: int
    heads: int
    patch: int
    num_classes: int
    qkv_bias: bool  # and weights drawn as those of linear layers
    products: str
    scale: float = 0.125
    T: int = 4
    in_channels: int = 3
    event_frames: bool = False


# The heads of 4-256 and of 2-384 are not published: 32 channels each, as 4-384 has them.
SIZES = {
    "4_256": Size(4, 256, 8, 4, 10, qkv_bias=True, products="qk"),
    "2_384": Size(2, 384, 12, 4, 10, qkv_bias=True, products="qk"),
    "4_384": Size(4, 384, 12, 4, 10, qkv_bias=True, products="qk"),
    "8_384": Size(8, 384, 8, 16, 1000, qkv_bias=False, products="kv"),
    "6_512": Size(6, 512, 8, 16, 1000, qkv_bias=False, products="kv"),
    "8_512": Size(8, 512, 8, 16, 1000, qkv_bias=False, products="kv"),
    "10_512": Size(10, 512, 8, 16, 1000, qkv_bias=False, products="kv"),
    "8_768": Size(8, 768, 8, 16, 1000, qkv_bias=False, products="kv"),
    "2_256": Size(2, 256, 16, 16, 10, False, "qk", scale=0.25, T=16, in_channels=2, event_frames=True),
}


def _add(module: nn.Module, name: str, conv: nn.Conv2d, neuron: nn.Module, number: str = "") -> None:
    """Give a module a spiking layer's parts under the published names, e.g. q_conv, q_bn and q_lif."""
    module.add_module(f"{name}_conv{number}", conv)
    module.add_module(f"{name}_bn{number}", nn.BatchNorm2d(conv.out_channels))
    module.add_module(f"{name}_lif{number}", neuron)


def _layer(module: nn.Module, name: str, number: str = "", join: Any = None) -> SpikingLayer:
    conv, norm, neuron = (module.get_submodule(f"{name}_{part}{number}") for part in ("conv", "bn", "lif"))
    return SpikingLayer(f"{name}_lif{number}", conv, norm, neuron, join)


class PatchSplitting(nn.Module):
    """3x3 convolutions to an eighth, a quarter, half and all of the channels, with max pooling after the last ones.

    The first convolution is the stem, which reads values; called, this is what follows its spikes:
    [T, N, width / 8, H, W] -> [T, N, width, H / patch, W / patch].
    """

    numbers = ("", "1", "2", "3")  # of the published names

    def __init__(self, in_channels: int, width: int, patch: int, make_neuron: MakeNeuron) -> None:
        super().__init__()
        self.out_channels = width
        self.pooled_from = 4 - PATCHES.index(patch)
        for i, number in enumerate(self.numbers):
            conv = conv3x3(in_channels, width * 2**i // 8)
            in_channels = conv.out_channels
            _add(self, "proj", conv, make_neuron(), number)
            if i >= self.pooled_from:
                self.add_module(f"maxpool{number}", MaxPool(kernel_size=3, stride=2, padding=1))

    def layer(self, i: int) -> SpikingLayer:
        return _layer(self, "proj", self.numbers[i])

    def pool(self, i: int, x: Tensor) -> Tensor:
        return self.get_submodule(f"maxpool{self.numbers[i]}")(x) if i >= self.pooled_from else x

    def spiking_layers(self) -> list[SpikingLayer]:
        """All but the stem."""
        return [self.layer(i) for i in (1, 2, 3)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(0, x)
        for i in (1, 2, 3):
            x = self.pool(i, self.layer(i).fire(x)[0])
        return x


class PositionEmbedding(Block):
    """3x3, whose zero padding tells where a position is."""

    def __init__(self, width: int, join: Join, make_neuron: MakeNeuron) -> None:
        super().__init__(join, width)
        _add(self, "rpe", conv3x3(width, width), make_neuron())

    def spiking_layers(self) -> list[SpikingLayer]:
        return [_layer(self, "rpe", join=self.join)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.spiking_layers()[0].fire(x, x)


class SelfAttention(Block):
    """Attention of spikes: Q, K, V are 0/1, nothing is normalised, and a neuron fires on scale * Q K^T V.

    The product is one of whole numbers, the same in either order: (Q K^T) V adds rows of K^T where Q is 1, and then
    columns of counts where V is 1; Q (K^T V) adds rows of V where K is 1, and then rows of counts where Q is 1. With L
    tokens and d channels a head a 1 adds L numbers in the first, d in the second: "auto" is the second if d <= L.
    """

    def __init__(
        self, width: int, join: Join, make_neuron: MakeNeuron, heads: int, scale: float, products: str, qkv_bias: bool
    ) -> None:
        super().__init__(join, width)
        self.heads, self.products = heads, products
        for name in "qkv":
            _add(self, name, TokenLinear(width, width, bias=qkv_bias), make_neuron())
        self.product1 = SpikeMatmul()
        self.product2 = SpikeMatmul()
        self.attn_lif = make_neuron(threshold=0.5, gain=scale)
        _add(self, "proj", TokenLinear(width, width, bias=True), make_neuron())

    def spiking_layers(self) -> list[SpikingLayer]:
        qkv = [_layer(self, name) for name in "qkv"]
        return [*qkv, SpikingLayer("attn_lif", None, None, self.attn_lif), _layer(self, "proj", join=self.join)]

    def product(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Q K^T V in each head, whole numbers [T, N, C, H, W], of three such tensors of 0/1."""
        size = q.shape[-2:]  # heads below are [T, N, heads, L, d], as they lie in memory if channels are last
        q, k, v = (x.flatten(3).mT.unflatten(3, (self.heads, -1)).transpose(2, 3) for x in (q, k, v))
        if self.products == "qk" or (self.products == "auto" and q.shape[-1] > q.shape[-2]):
            counts = self.product1(q, k.mT)  # [.., L, L]
            result = self.product2(v.mT, counts.mT).mT
        else:
            counts = self.product1(k.mT, v)  # [.., d, d]
            result = self.product2(q, counts)
        return result.transpose(2, 3).flatten(3).mT.unflatten(3, size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (_layer(self, name).fire(x)[0] for name in "qkv")
        return _layer(self, "proj", join=self.join).fire(self.attn_lif(self.product(q, k, v)), x)


class MLP(Block):
    """1x1 to four times the channels, 1x1 back."""

    def __init__(self, width: int, join: Join, make_neuron: MakeNeuron) -> None:
        super().__init__(join, width)
        _add(self, "fc1", TokenLinear(width, 4 * width, bias=True), make_neuron())
        _add(self, "fc2", TokenLinear(4 * width, width, bias=True), make_neuron())

    def spiking_layers(self) -> list[SpikingLayer]:
        return [_layer(self, "fc1"), _layer(self, "fc2", join=self.join)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, last = self.spiking_layers()
        return last.fire(first.fire(x)[0], x)


class Spikformer(Trunk):
    """A Spikformer, of any input size.

    Args:
        size: a key of `SIZES`, which says whether it is made for event frames.
        join: how a branch's spikes and its shortcut meet.
        aux_head, T: see `Trunk`, as for input and output.
        num_classes: classes.
        neuron, tau, surrogate, alpha: see `neuron_factory`.
        in_channels: channels of the input.
        depth: pairs of attention and MLP.
        width: channels of a token, a multiple of 8 and of `heads`.
        heads: of the attention.
        patch: 1, 2, 4, 8 or 16 pixels are the side of a token.
        products: "qk" for (Q K^T) V, "kv" for Q (K^T V), "auto" for the cheaper one.
        scale: what they are multiplied by in front of their neuron, whose threshold is 0.5.
        qkv_bias: biases of Q, K and V, which the batch norms after them take out again.
        zero_init_residual: every branch starts silent, see `Trunk.silence_residuals`.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    def __init__(
        self,
        size: str,
        join: Join,
        aux_head: str | None = None,
        *,
        num_classes: int = 1000,
        T: int = 4,
        neuron: str = "LIF",
        tau: float = 2.0,
        surrogate: str = "sigmoid",
        alpha: float | None = None,
        in_channels: int = 3,
        depth: int = 8,
        width: int = 512,
        heads: int = 8,
        patch: int = 16,
        products: str = "auto",
        scale: float = 0.125,
        qkv_bias: bool = False,
        zero_init_residual: bool = False,
    ) -> None:
        sizes = {"num_classes": num_classes, "depth": depth, "width": width, "heads": heads}
        super().__init__(aux_head, T=T, in_channels=in_channels, **sizes)
        if width % 8 or width % heads:
            raise ValueError(f"width={width} does not fit: it must be a multiple of 8 and of heads={heads}")
        for name, value, choices in (("patch", patch, PATCHES), ("products", products, PRODUCTS)):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown: choose one of {', '.join(map(str, choices))}")
        if not 0.0 < scale < float("inf"):
            raise ValueError(f"scale={scale} is out of range: it must be above 0 and finite")
        self.event_frames = SIZES[size].event_frames
        make_neuron = neuron_factory(neuron, tau=tau, surrogate=surrogate, alpha=alpha)
        self.patch_embed = PatchSplitting(in_channels, width, patch, make_neuron)
        self.position = PositionEmbedding(width, join, make_neuron)
        attention = (width, join, make_neuron, heads, scale, products, qkv_bias)
        self.block = nn.ModuleList(
            nn.ModuleDict({"attn": SelfAttention(*attention), "mlp": MLP(width, join, make_neuron)})
            for _ in range(depth)
        )
        self.head = nn.Linear(width, num_classes)
        self.complete(aux_head)
        for name, module in self.named_modules():  # as released; all else starts as torch has it
            token = name.startswith("block.") and isinstance(module, nn.Conv2d)
            if isinstance(module, nn.Linear) or (token and qkv_bias):  # its linear layers
                nn.init.trunc_normal_(module.weight, std=0.02)  # type: ignore[arg-type]
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if zero_init_residual:
            self.silence_residuals()

    @property
    def classifier(self) -> nn.Linear:
        return self.head

    def body(self) -> list[nn.Module]:
        return [self.patch_embed, self.position, *(part for pair in self.block for part in pair.values())]  # type: ignore[operator, union-attr]

    def stem_layer(self) -> SpikingLayer:
        return self.patch_embed.layer(0)

    def stem(self, frames: Tensor, T: int | None) -> Tensor:
        """See `Trunk`. The release convolves a static image T times. Once gives the same spikes, but the batch norm's
        running variance is then to be told that T times as many values were counted."""
        norm = self.stem_layer().norm
        if T is None or not (norm.training and getattr(norm, "momentum", None)):  # folded, or computed again
            return super().stem(frames, T)
        kept = (1.0 - norm.momentum) * norm.running_var
        spikes = super().stem(frames, T)
        count = spikes[0].numel() // norm.num_features
        if isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized():
            count *= torch.distributed.get_world_size(norm.process_group)
        unbiased = (count - 1) / count * (T * count) / (T * count - 1)
        # .data: autograd holds the buffer, though in training it takes nothing from it
        norm.running_var.data.copy_(kept + (norm.running_var.detach() - kept) * unbiased)
        return spikes


def _defaults(published: bool) -> dict[str, dict[str, Any]]:
    """Options by size: the published ones; the full-spike forms take the cheaper order of products."""
    left_out = {"event_frames"} | (set() if published else {"products"})
    return {n: {k: v for k, v in size._asdict().items() if k not in left_out} for n, size in SIZES.items()}


_full_spike = register_family(SIZES, trunk=Spikformer, defaults=_defaults(published=False))


@register_family(SIZES, trunk=Spikformer, defaults=_defaults(published=True))
def spikformer(size: str, *, connect_f: str = "ADD", **options: Any) -> Spikformer:
    """Registered as spikformer_4_256, ..._2_384, ..._8_512 and so on: as published, shortcuts added up."""
    return Spikformer(size, get_join(connect_f), **options)


@_full_spike
def fs_spikformer(size: str, *, connect_f: str = "OR", **options: Any) -> Spikformer:
    """Registered as fs_spikformer_4_256 and so on: one stream, only spikes past the stem."""
    return Spikformer(size, full_spike_join(connect_f), **options)


@_full_spike
def ds_spikformer(size: str, *, connect_f: str = "OR", aux_head: str = "shared", **options: Any) -> Spikformer:
    """Registered as ds_spikformer_4_256 and so on: two streams; `detach_aap` leaves the fs_spikformer."""
    return Spikformer(size, full_spike_join(connect_f), aux_head, **options)
