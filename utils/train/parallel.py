"""Gradients averaged over processes, in the same order in every step of every run.

DistributedDataParallel sends gradients in buckets. In its first step it fills one in the order of the parameters, and
from the second one on several, in the order in which the first backward pass had its gradients ready. Where in a bucket
a gradient lies decides in which order those of more than two processes are added, and so how the sum is rounded: a run
that goes on after a stop, whose first step is somewhere else, would end with other bits. So a step without data comes
before all others.
"""

from __future__ import annotations

from typing import Any

import torch
from full_spike.utils.distributed import World
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class _WithAStepWithoutData(nn.Module):
    """A network that can also return a zero to which every parameter contributes, with a gradient of zero."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor, without_data: bool = False) -> Any:
        if not without_data:
            return self.network(*inputs)
        # the backward pass goes through the terms from the last one to the first, as it does through the layers
        return sum((parameter * 0.0).sum() for parameter in self.network.parameters() if parameter.requires_grad)


def data_parallel(network: Any, world: World) -> DistributedDataParallel:
    """The network, all processes having the main one's weights, and the backward pass the mean of all gradients."""
    devices = [world.device] if world.device.type == "cuda" else None
    wrapped = DistributedDataParallel(_WithAStepWithoutData(network), device_ids=devices)
    with torch.enable_grad():
        wrapped(without_data=True).backward()
    for parameter in network.parameters():
        parameter.grad = None
    return wrapped
