"""SEW-ResNet: spikes joined by a connect function, by default the sum (arXiv:2102.04159, section 3.2)."""

from __future__ import annotations

from typing import Any

from .blocks import SpikeJoin
from .registry import register_family
from .resnet import DEPTHS, SpikingResNet


@register_family(DEPTHS, trunk=SpikingResNet)
def sew_resnet(depth: int, *, connect_f: str = "ADD", **options: Any) -> SpikingResNet:
    """Registered as sew_resnet18, 34, 50, 101 and 152."""
    return SpikingResNet(depth, SpikeJoin(connect_f), **options)
