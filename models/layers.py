"""Convolutions and pooling over [T, N, C, H, W]: stateless layers see time as more batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def over_time(module: Any, x: Tensor) -> Tensor:
    """Apply a layer of [N, C, H, W] to x [T, N, C, H, W], all time steps in one call."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # [T*N, C, H, W] inside


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


class ConvBN(nn.Sequential):
    """A convolution and its batch norm over [T, N, C, H, W]; statistics are over T, N, H and W together."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv, nn.BatchNorm2d(conv.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return over_time(super().forward, x)


class MaxPool(nn.MaxPool2d):
    """Max pooling over [T, N, C, H, W]; a maximum of spikes is a spike."""

    def forward(self, x: Tensor) -> Tensor:
        return over_time(super().forward, x)


def halving_pool() -> MaxPool:
    """2x2 max pooling of stride 2 that keeps a border of one row or column: n -> ceil(n / 2), as a 3x3 convolution of
    stride 2 with padding 1. So every size works, and a 1x1 map stays as it is."""
    return MaxPool(2, 2, ceil_mode=True)


class GlobalAvgPool(nn.AdaptiveAvgPool2d):
    """The mean over height and width: [T, N, C, H, W] -> [T, N, C]. A layer, so that operation counters see it."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        return over_time(super().forward, x).flatten(2)
