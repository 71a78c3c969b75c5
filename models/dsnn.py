"""Full-spike ResNets (arXiv:2301.11929): fsnn, and dsnn, the same trunk trained with the accumulation pathway."""

from __future__ import annotations

import warnings
from typing import Any

from .blocks import SpikeJoin
from .connect import BOOLEAN_FUNCTIONS
from .registry import register_family
from .resnet import DEPTHS, SpikingResNet


def full_spike_join(connect_f: str) -> SpikeJoin:
    """The join of a full-spike network; warns when the connect function does not keep spikes binary."""
    join = SpikeJoin(connect_f)
    if connect_f not in BOOLEAN_FUNCTIONS:
        warnings.warn(
            f"connect_f={connect_f} does not keep spikes binary, so this network is not full-spike: "
            f"choose one of {', '.join(sorted(BOOLEAN_FUNCTIONS))} for one that is",
            stacklevel=2,
        )
    return join


@register_family(DEPTHS, trunk=SpikingResNet)
def fsnn(depth: int, *, connect_f: str = "OR", **options: Any) -> SpikingResNet:
    """Registered as fsnn18, 34, 50, 101 and 152: one stream, only spikes past the stem."""
    return SpikingResNet(depth, full_spike_join(connect_f), **options)


@register_family(DEPTHS, trunk=SpikingResNet)
def dsnn(depth: int, *, connect_f: str = "OR", aux_head: str = "shared", **options: Any) -> SpikingResNet:
    """Registered as dsnn18, 34, 50, 101 and 152: two streams; `detach_aap` leaves the fsnn."""
    return SpikingResNet(depth, full_spike_join(connect_f), aux_head, **options)
