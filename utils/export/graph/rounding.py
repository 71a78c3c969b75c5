"""Training with rounded weights: the forward pass sees them, the gradient passes the rounding by (straight-through)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from .quantize import rounded_weight


class _Rounded(nn.Module):
    """A weight as it is after rounding; arXiv:1308.3432."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (rounded_weight(weight.detach(), self.bits) - weight).detach()


def round_weights(model: Any, bits: int) -> Any:
    """Let every spiking layer's convolution round its weights to so many bits, and return the model.

    A unit per output channel, so that the batch norm after it, which scales these, may be folded later: the rounding is
    the same. The pathway, which is taken off, is not rounded.
    """
    for layer in model.spiking_layers():
        parametrize.register_parametrization(layer.conv, "weight", _Rounded(bits))
    return model


def keep_rounded(model: Any) -> Any:
    """Make the rounded weights the model's weights, without any rounding from now on, and return the model."""
    for layer in model.spiking_layers():
        parametrize.remove_parametrizations(layer.conv, "weight", leave_parametrized=True)
    return model
