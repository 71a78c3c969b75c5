"""A spiking layer: convolution, batch norm, neuron and, at the end of a residual block, the join."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from . import fused
from .neuron import fused_rule


class Joining(Protocol):
    """How a layer's neuron and a shortcut meet."""

    fused_name: str | None  # of the join among the fused layers'; None: the shortcut is not looked at

    def __call__(self, neuron: nn.Module, current: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]: ...


def fire(
    conv: nn.Module,
    norm: nn.Module,
    neuron: Any,
    x: Tensor,
    *,
    join: Joining | None = None,
    identity: Tensor | None = None,
    T: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(output, the neuron's own spikes), each [T, N, C, H', W'], of x [T, N, in_channels, H, W].

    Args:
        conv, norm, neuron: the layer.
        join: what meets the neuron's spikes, or its input; without one the output is the spikes.
        identity: the shortcut, like the output.
        T: show x, of one time step, so often; it is convolved once.
    """
    y = conv(x.flatten(0, 1))  # [T*N, C, H', W']
    steps = x.shape[:2]
    rule = fused_rule(norm, neuron) if y.numel() else None
    if rule is not None:
        name = join.fused_name if join is not None else None
        rule = rule._replace(join=name, T=T)
        y = y.unflatten(0, steps)
        return fused.layer(y, norm, rule, neuron._learned_rate(), identity if name is not None else None)
    current = norm(y).unflatten(0, steps)
    if T is not None:
        current = current.expand(T, -1, -1, -1, -1)
    if join is not None and identity is not None:
        return join(neuron, current, identity)
    spikes = neuron(current)
    return spikes, spikes


class SpikingConv(nn.Sequential):
    """(ConvBN, neuron): [T, N, C, H, W] -> spikes [T, N, C', H', W']."""

    def forward(self, x: Tensor, T: int | None = None) -> Tensor:
        layer: Any = self[0]
        conv, norm = layer
        return fire(conv, norm, self[1], x, T=T)[0]
