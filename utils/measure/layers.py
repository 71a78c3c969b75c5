"""What the layers of a network are: recognised by class, subclasses included, and by a few attributes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from full_spike.utils.errors import UserError
from spikingjelly.activation_based.neuron import BaseNode
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
ADAPTIVE_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
AVG_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
WEIGHTED = (*CONVOLUTIONS, nn.Linear)
NORMS = _BatchNorm  # of any dimension, synchronised or not
FREE = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.Flatten, nn.Sequential, nn.ModuleList, nn.ModuleDict)

_KINDS: list[tuple[Any, str]] = [
    (nn.Linear, "linear"),
    (CONVOLUTIONS, "conv"),
    (NORMS, "batch norm"),
    (BaseNode, "neuron"),
    (MAX_POOLS, "max pool"),
    ((*AVG_POOLS, *ADAPTIVE_POOLS), "avg pool"),
    (nn.ReLU, "relu"),
]
# what a join says of the cost of one element of its output -> where the counter adds it
JOIN_COSTS = {"logic": "logic", "addition": "dense"}


def layer_kind(name: str, module: nn.Module) -> str | None:
    """The kind of a layer: conv, linear, batch norm, neuron, max pool, avg pool, relu, or None without weights.

    Raises:
        UserError: it has weights and is of no kind that is known here, or it is a convolution that pads with other
            values than zeros.
    """
    kind = next((kind for classes, kind in _KINDS if isinstance(module, classes)), None)
    if kind is None and next(module.parameters(recurse=False), None) is not None:
        raise UserError(
            f"layer {name} ({type(module).__name__}) has weights and is of a kind that cannot be counted: "
            "build the network from convolutions, linear layers, batch norms and spikingjelly neurons"
        )
    padding_mode = getattr(module, "padding_mode", "zeros")
    if kind == "conv" and padding_mode != "zeros":
        raise UserError(f"layer {name} pads with padding_mode={padding_mode!r}: only zeros can be counted exactly")
    return kind


def is_join(module: nn.Module) -> bool:
    """Whether a module joins a block and its shortcut, known by its attributes.

    name: for reports. acts_on: "spikes", "current" or "none" (there is no shortcut). cost: one of `JOIN_COSTS`.
    """
    return all(hasattr(module, attribute) for attribute in ("name", "acts_on", "cost"))


def is_product(module: nn.Module) -> bool:
    """Whether a module multiplies two inputs of which the first says, 1 by 1, what is added of the second.

    Known by its attribute gated_by="first": [..., n, k] and [..., k, m] -> [..., n, m], without weights.
    """
    return getattr(module, "gated_by", None) == "first"


def check_join_is_a_module(name: str, block: nn.Module) -> None:
    """Raises UserError for a block whose join no hook can see: its operations would be missing in silence."""
    join = getattr(block, "join", None)
    if isinstance(getattr(join, "name", None), str) and not isinstance(join, nn.Module | tuple):
        raise UserError(
            f"the join of block {name} is no module, so it cannot be counted: make it one with the attributes "
            "name, acts_on and cost"
        )


def join_field(name: str, join: Any) -> str | None:
    """Where the counter adds what a join's output costs; None where there is no shortcut to join.

    Raises:
        UserError: its cost is not known.
    """
    if join.acts_on == "none":
        return None
    if join.cost not in JOIN_COSTS:
        raise UserError(
            f"{name} joins by {join.name!r}, whose cost {join.cost!r} is not known: use one of {', '.join(JOIN_COSTS)}"
        )
    return JOIN_COSTS[join.cost]


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of all modules but those inside a neuron (its surrogate function)."""
    inside = {id(m) for n in model.modules() if isinstance(n, BaseNode) for m in n.modules() if m is not n}
    for name, module in model.named_modules():
        if id(module) not in inside:
            yield name or type(module).__name__, module


def spatial_dims(layer: nn.Module) -> int:
    """How many trailing axes of its input a layer slides over; 0 for a linear layer."""
    for kinds in (CONVOLUTIONS, MAX_POOLS, ADAPTIVE_POOLS, AVG_POOLS):
        for dims, kind in enumerate(kinds, start=1):
            if isinstance(layer, kind):
                return dims
    return 0


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside a `with` block; every module's own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
