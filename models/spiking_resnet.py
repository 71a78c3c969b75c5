"""Spiking ResNet: the sum is taken on the membrane's input (the baseline of arXiv:2102.04159, section 3.1)."""

from __future__ import annotations

from typing import Any

from .blocks import MembraneJoin
from .registry import register_family
from .resnet import DEPTHS, SpikingResNet


@register_family(DEPTHS, trunk=SpikingResNet)
def spiking_resnet(depth: int, **options: Any) -> SpikingResNet:
    """Registered as spiking_resnet18, 34, 50, 101 and 152."""
    return SpikingResNet(depth, MembraneJoin(), **options)
