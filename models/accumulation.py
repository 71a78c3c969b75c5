"""The Auxiliary Accumulation Pathway (AAP): what a Boolean join loses, a second stream adds up.

    a_0 = o_0,    a_l = P_l(a_{l-1}) + s_l                                          (arXiv:2301.11929, section 3.3)

with s_l the spikes of block l and P_l the identity, or a projection where the shape changes on the way to s_l. The
pathway only listens to the trunk: no spike of the trunk depends on it, so it can be taken off after training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from .choices import require_one_of
from .layers import ConvBN, HalvingDepthwise, conv1x1, halving_pool, over_time

AUX_HEADS = ("shared", "separate")
AAP_POOLS = ("projection", "max")
OPTIONS = ("aux_head", "aap_pool")  # what entry points call the pathway's options
DUAL, SINGLE = "ds", "fs"  # how the names of networks begin: with a pathway, and the same without
SINGLES: dict[str, str] = {}  # where they do not


def without_pathway(name: str) -> str:
    """The name of the network that is left of a dual-stream one; of any other its own."""
    return SINGLES.get(name, SINGLE + name.removeprefix(DUAL) if name.startswith(DUAL) else name)


class Change(NamedTuple):
    """What the pathway crosses in front of a block's spikes; in front of the head with an index past the last."""

    block: int  # its index
    in_channels: int
    out_channels: int
    stride: int

    @property
    def is_none(self) -> bool:
        return self.in_channels == self.out_channels and self.stride == 1


class Projection(nn.Module):
    """P_l: [depthwise 3x3 with the stride, no norm ->] 1x1 -> batch norm -> ReLU, over [T, N, C, H, W].

    The depthwise convolution is there only where the resolution changes (the authors' released code).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        halvings = [HalvingDepthwise(in_channels) for _ in range(_halvings(stride))]
        self.depthwise = nn.Sequential(*halvings) if len(halvings) > 1 else next(iter(halvings), None)
        self.pointwise = ConvBN(conv1x1(in_channels, out_channels))
        self.relu = nn.ReLU()

    def forward(self, a: Tensor) -> Tensor:
        if self.depthwise is not None:
            a = over_time(self.depthwise, a)
        return self.relu(self.pointwise(a))


def _halvings(stride: int) -> int:
    if stride < 1 or stride & (stride - 1):
        raise ValueError(f"the pathway cannot cross a stride of {stride}: it halves, so use powers of two")
    return stride.bit_length() - 1


def _crossing(change: Change, pool: str) -> nn.Module:
    _, in_channels, out_channels, stride = change
    if pool == "projection" or stride == 1:
        return Projection(in_channels, out_channels, stride)
    parts: list[nn.Module] = [halving_pool() for _ in range(_halvings(stride))]
    if in_channels != out_channels:
        parts.append(Projection(in_channels, out_channels, 1))
    return nn.Sequential(*parts) if len(parts) > 1 else parts[0]


class AccumulationPathway(nn.Module):
    """The second stream of a dual-stream network (DSNN).

    Args:
        changes: the changes of shape on the way from each block's spikes to the next block's, see `Trunk.changes`.
        head: a classifier of its own for the accumulated features, or None to use the trunk's. The released code
            declares `fc_acc` but classifies both streams by `fc`.
        pool: how it crosses a stride of 2: "projection", or "max" for 2x2 max-pooling, and after it a
            projection of stride 1 where channels change as well.

    Raises:
        ValueError: no such pool, or a stride that is no power of two.
    """

    def __init__(self, changes: Iterable[Change], head: nn.Linear | None, pool: str = "projection") -> None:
        super().__init__()
        require_one_of("aap_pool", pool, AAP_POOLS)
        self.projections = nn.ModuleDict({str(change.block): _crossing(change, pool) for change in changes})
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
    config["model"] = without_pathway(config["model"])
    detached.config = config
    return detached
