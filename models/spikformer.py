"""Spikformer (Zhou et al., ICLR 2023, arXiv:2209.15425), all of it: blocks, trunk, and its families.

Attention of spikes without a softmax. `spikformer_...` adds its shortcuts up, as published. In `fs_spikformer_...`
every shortcut, the position embedding's too, meets its branch in a Boolean function; `ds_spikformer_...` trains that
with the accumulation pathway (arXiv:2301.11929, figure 1). Tokens are the positions of a map [T, N, C, H, W].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .choices import require_one_of
from .connect import Join, full_spike_join, get_join
from .layers import MaxPool, SpikeMatmul, SpikingLayer, TokenLinear, conv3x3, spike, spike_and_join
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


class PatchSplitting(nn.Module):
    """3x3 convolutions to an eighth, a quarter, half and all of the channels, with max pooling after the last ones.

    The first convolution is the stem, which reads values; called, this is what follows its spikes:
    [T, N, width / 8, H, W] -> [T, N, width, H / patch, W / patch].
    """

    def __init__(self, in_channels: int, width: int, patch: int, make_neuron: MakeNeuron) -> None:
        super().__init__()
        self.out_channels, self.stride = width, patch
        halvings = PATCHES.index(patch)

        def pool_after(i: int) -> nn.Module:
            return MaxPool(kernel_size=3, stride=2, padding=1) if i >= 4 - halvings else nn.Identity()

        self.proj_conv = conv3x3(in_channels, width // 8)
        self.proj_bn = nn.BatchNorm2d(width // 8)
        self.proj_lif = make_neuron()
        self.maxpool = pool_after(0)
        self.proj_conv1 = conv3x3(width // 8, width // 4)
        self.proj_bn1 = nn.BatchNorm2d(width // 4)
        self.proj_lif1 = make_neuron()
        self.maxpool1 = pool_after(1)
        self.proj_conv2 = conv3x3(width // 4, width // 2)
        self.proj_bn2 = nn.BatchNorm2d(width // 2)
        self.proj_lif2 = make_neuron()
        self.maxpool2 = pool_after(2)
        self.proj_conv3 = conv3x3(width // 2, width)
        self.proj_bn3 = nn.BatchNorm2d(width)
        self.proj_lif3 = make_neuron()
        self.maxpool3 = pool_after(3)

    def stem_layer(self) -> SpikingLayer:
        return SpikingLayer("proj_lif", self.proj_conv, self.proj_bn, self.proj_lif)

    def spiking_layers(self) -> list[SpikingLayer]:
        """All but the stem."""
        return [
            SpikingLayer("proj_lif1", self.proj_conv1, self.proj_bn1, self.proj_lif1),
            SpikingLayer("proj_lif2", self.proj_conv2, self.proj_bn2, self.proj_lif2),
            SpikingLayer("proj_lif3", self.proj_conv3, self.proj_bn3, self.proj_lif3),
        ]

    def forward(self, s: Tensor) -> Tensor:
        s = self.maxpool(s)
        s = self.maxpool1(spike((self.proj_conv1, self.proj_bn1), self.proj_lif1, s))
        s = self.maxpool2(spike((self.proj_conv2, self.proj_bn2), self.proj_lif2, s))
        return self.maxpool3(spike((self.proj_conv3, self.proj_bn3), self.proj_lif3, s))


class PositionEmbedding(Block):
    """3x3, whose zero padding tells where a position is."""

    def __init__(self, width: int, join: Join, make_neuron: MakeNeuron) -> None:
        super().__init__(join, width)
        self.rpe_conv = conv3x3(width, width)
        self.rpe_bn = nn.BatchNorm2d(width)
        self.rpe_lif = make_neuron()

    def spiking_layers(self) -> list[SpikingLayer]:
        return [SpikingLayer("rpe_lif", self.rpe_conv, self.rpe_bn, self.rpe_lif, self.join)]

    def forward(self, o: Tensor) -> tuple[Tensor, Tensor]:
        return spike_and_join((self.rpe_conv, self.rpe_bn), self.rpe_lif, o, self.join, o)  # o_l = g(s_l, o_{l-1}), s_l


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
        self.q_conv = TokenLinear(width, width, bias=qkv_bias)
        self.q_bn = nn.BatchNorm2d(width)
        self.q_lif = make_neuron()
        self.k_conv = TokenLinear(width, width, bias=qkv_bias)
        self.k_bn = nn.BatchNorm2d(width)
        self.k_lif = make_neuron()
        self.v_conv = TokenLinear(width, width, bias=qkv_bias)
        self.v_bn = nn.BatchNorm2d(width)
        self.v_lif = make_neuron()
        self.product1 = SpikeMatmul()
        self.product2 = SpikeMatmul()
        self.attn_lif = make_neuron(threshold=0.5, gain=scale)
        self.proj_conv = TokenLinear(width, width, bias=True)
        self.proj_bn = nn.BatchNorm2d(width)
        self.proj_lif = make_neuron()

    def spiking_layers(self) -> list[SpikingLayer]:
        return [
            SpikingLayer("q_lif", self.q_conv, self.q_bn, self.q_lif),
            SpikingLayer("k_lif", self.k_conv, self.k_bn, self.k_lif),
            SpikingLayer("v_lif", self.v_conv, self.v_bn, self.v_lif),
            SpikingLayer("attn_lif", None, None, self.attn_lif),
            SpikingLayer("proj_lif", self.proj_conv, self.proj_bn, self.proj_lif, self.join),
        ]

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

    def forward(self, o: Tensor) -> tuple[Tensor, Tensor]:
        q = spike((self.q_conv, self.q_bn), self.q_lif, o)
        k = spike((self.k_conv, self.k_bn), self.k_lif, o)
        v = spike((self.v_conv, self.v_bn), self.v_lif, o)
        s = self.attn_lif(self.product(q, k, v))
        return spike_and_join((self.proj_conv, self.proj_bn), self.proj_lif, s, self.join, o)  # o_l, s_l


class MLP(Block):
    """1x1 to four times the channels, 1x1 back."""

    def __init__(self, width: int, join: Join, make_neuron: MakeNeuron) -> None:
        super().__init__(join, width)
        self.fc1_conv = TokenLinear(width, 4 * width, bias=True)
        self.fc1_bn = nn.BatchNorm2d(4 * width)
        self.fc1_lif = make_neuron()
        self.fc2_conv = TokenLinear(4 * width, width, bias=True)
        self.fc2_bn = nn.BatchNorm2d(width)
        self.fc2_lif = make_neuron()

    def spiking_layers(self) -> list[SpikingLayer]:
        return [
            SpikingLayer("fc1_lif", self.fc1_conv, self.fc1_bn, self.fc1_lif),
            SpikingLayer("fc2_lif", self.fc2_conv, self.fc2_bn, self.fc2_lif, self.join),
        ]

    def forward(self, o: Tensor) -> tuple[Tensor, Tensor]:
        s = spike((self.fc1_conv, self.fc1_bn), self.fc1_lif, o)
        return spike_and_join((self.fc2_conv, self.fc2_bn), self.fc2_lif, s, self.join, o)  # o_l, s_l


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
        neuron: Any = "LIF",
        tau: float = 2.0,
        surrogate: Any = "sigmoid",
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
        require_one_of("patch", patch, PATCHES)
        require_one_of("products", products, PRODUCTS)
        if not 0.0 < scale < float("inf"):
            raise ValueError(f"scale={scale} is out of range: it must be above 0 and finite")
        self.event_frames = SIZES[size].event_frames
        make_neuron = neuron_factory(neuron, tau=tau, surrogate=surrogate, alpha=alpha, T=T)
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
        return self.patch_embed.stem_layer()

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
