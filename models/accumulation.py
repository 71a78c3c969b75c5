"""The Auxiliary Accumulation Pathway (AAP): what a Boolean join loses, a second stream adds up.

    a_0 = o_0,    a_l = P_l(a_{l-1}) + s_l                                          (arXiv:2301.11929, section 3.3)

with s_l the spikes of block l and P_l the identity, or a projection where the shape changes on the way to s_l. The
pathway only listens to the trunk: no spike of the trunk depends on it, so it can be taken off after training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from .layers import ConvBN, HalvingDepthwise, conv1x1, halving_pool, over_time

AUX_HEADS = ("shared", "separate")
AAP_POOLS = ("projection", "max")
OPTIONS = ("aux_head", "aap_pool")  # what entry points call the pathway's options

Change = tuple[int, int, int, int]  # in front of the spikes of block (index): in_channels, out_channels, stride


class Projection(nn.Module):
    """P_l: [depthwise 3x3 with the stride, no norm ->] 1x1 -> batch norm -> ReLU, over [T, N, C, H, W].

    The depthwise convolution is there only where the resolution changes (the authors' released code).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = HalvingDepthwise(in_channels) if stride != 1 else None
        self.pointwise = ConvBN(conv1x1(in_channels, out_channels))
        self.relu = nn.ReLU()

    def forward(self, a: Tensor) -> Tensor:
        if self.depthwise is not None:
            a = over_time(self.depthwise, a)
        return self.relu(self.pointwise(a))


def _crossing(in_channels: int, out_channels: int, stride: int, pool: str) -> nn.Module:
    if pool == "projection" or stride == 1:
        return Projection(in_channels, out_channels, stride)
    maximum = halving_pool()
    return maximum if in_channels == out_channels else nn.Sequential(maximum, Projection(in_channels, out_channels, 1))


class AccumulationPathway(nn.Module):
    """The second stream of a dual-stream network (DSNN).

    Args:
        changes: for each change of shape, (the index of the block whose spikes have the new one, in_channels,
            out_channels, stride); an index past the last block is a change in front of the head.
        head: a classifier of its own for the accumulated features, or None to use the trunk's. The released code
            declares `fc_acc` but classifies both streams by `fc`.
        pool: how it crosses a stride of 2: "projection", or "max" for 2x2 max-pooling, and after it a
            projection of stride 1 where channels change as well.

    Raises:
        ValueError: no such pool.
    """

    def __init__(self, changes: Iterable[Change], head: nn.Linear | None, pool: str = "projection") -> None:
        super().__init__()
        if pool not in AAP_POOLS:
            raise ValueError(f"aap_pool={pool!r} is unknown: choose one of {', '.join(AAP_POOLS)}")
        self.projections = nn.ModuleDict({str(change[0]): _crossing(*change[1:], pool) for change in changes})
        self.head = head

    def cross(self, index: int, accumulated: Tensor) -> Tensor:
        """P_l(a_{l-1}) for block l = index, or in front of the head."""
        key = str(index)
        return self.projections[key](accumulated) if key in self.projections else accumulated

    def forward(self, index: int, accumulated: Tensor, spikes: Tensor) -> Tensor:
        """a_l from a_{l-1} [T, N, C, H, W] and the spikes s_l [T, N, C', H', W'] of block l = index: as s_l."""
        return self.cross(index, accumulated) + spikes


def detach_aap(model: nn.Module) -> nn.Module:
    """The plain full-spike network inside a dual-stream one: a copy without the pathway and its parameters.

    Its logits equal the first stream's bit for bit. The model given stays as it is.

    Raises:
        ValueError: the model has no pathway.
    """
    if getattr(model, "aap", None) is None:
        raise ValueError(f"{type(model).__name__} has no auxiliary accumulation pathway to detach: use a dsnn model")
    detached: Any = copy.deepcopy(model, {id(model.aap): None})  # the memo leaves the pathway out, uncopied
    config = {name: value for name, value in detached.config.items() if name not in OPTIONS}
    config["model"] = "fsnn" + config["model"].removeprefix("dsnn")
    detached.config = config
    return detached
