"""Joins: how the spikes of a block and its shortcut meet. The connect functions g of the paper are those on spikes.

A sum of two spikes is not a spike (1 + 1 = 2), so a full-spike network joins them by a Boolean function. Each function
is written as the polynomial that equals the Boolean function on {0, 1} and that gradients flow through.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from .choices import require_one_of

ConnectFunction = Callable[..., Any]


def connect_add(*, identity: Tensor, residual: Tensor) -> Tensor:
    """residual + identity. Not Boolean: its values grow with depth (SEW-ResNet, arXiv:2102.04159, Table 1)."""
    return residual + identity


def connect_and(*, identity: Tensor, residual: Tensor) -> Tensor:
    """residual AND identity = residual * identity."""
    return residual * identity


def connect_iand(*, identity: Tensor, residual: Tensor) -> Tensor:
    """identity AND NOT residual = identity * (1 - residual), in this order in every block."""
    return identity * (1.0 - residual)


def connect_or(*, identity: Tensor, residual: Tensor) -> Tensor:
    """residual OR identity = residual + identity - residual * identity."""
    return residual + identity - residual * identity


def connect_xor(*, identity: Tensor, residual: Tensor) -> Tensor:
    """residual XOR identity = identity * (1 - residual) + residual * (1 - identity)."""
    return identity * (1.0 - residual) + residual * (1.0 - identity)


class Join(NamedTuple):
    """One way to join a block and its shortcut.

    name: what options and reports call it.
    acts_on: "spikes": the output is function(identity, spikes); "current": the last neuron's input is
        function(identity, current); "none": there is no shortcut.
    cost: what one element of the result takes: "logic" (a gate on two bits) or "addition".
    function: of `identity` (the shortcut o_{l-1}) and `residual` (the block's spikes s_l, or its current), by keyword
        only, so the order of IAND cannot be confused; both are [T, N, C, H, W] and so is the result. Linear in each
        argument, on which the gradients of fused layers rest.
    """

    name: str
    acts_on: str
    cost: str | None = None
    function: ConnectFunction | None = None

    def __reduce__(self) -> Any:
        """Its row, by name, since functions need not be picklable."""
        known = {MEMBRANE.name: MEMBRANE, NO_JOIN.name: NO_JOIN, **JOINS}
        return (_named, (self.name,)) if known.get(self.name) is self else (Join, tuple(self))

    def neutral(self) -> float | None:
        """The residual, 0 or 1, that leaves every shortcut of 0 and 1 as it is; None if neither does."""
        if self.function is None:
            return None
        for residual in (0.0, 1.0):
            if all(self.function(identity=bit, residual=residual) == bit for bit in (0.0, 1.0)):
                return residual
        return None


def _named(name: str) -> Join:
    return {MEMBRANE.name: MEMBRANE, NO_JOIN.name: NO_JOIN, **JOINS}[name]


MEMBRANE = Join("membrane", "current", "addition", connect_add)  # the sum is taken before the neuron: Spiking ResNet
NO_JOIN = Join("none", "none")

# The connect functions: a new one is a row here, and is an option of every network, is counted, compiled and folded.
_ON_SPIKES = (
    Join("ADD", "spikes", "addition", connect_add),
    Join("AND", "spikes", "logic", connect_and),
    Join("IAND", "spikes", "logic", connect_iand),
    Join("OR", "spikes", "logic", connect_or),
    Join("XOR", "spikes", "logic", connect_xor),
)
JOINS: dict[str, Join] = {}
CONNECT_FUNCTIONS: dict[str, Any] = {}
BOOLEAN_FUNCTIONS: set[str] = set()  # the names of those that are closed on {0, 1}


def register_join(join: Join) -> Join:
    """Make a join on spikes an option of every network; it is Boolean where its cost is "logic"."""
    JOINS[join.name], CONNECT_FUNCTIONS[join.name] = join, join.function
    if join.cost == "logic":
        BOOLEAN_FUNCTIONS.add(join.name)
    return join


for _join in _ON_SPIKES:
    register_join(_join)


def get_join(connect_f: str) -> Join:
    """The join by this connect function; ValueError lists the names there are."""
    require_one_of("connect_f", connect_f, JOINS)
    return JOINS[connect_f]


def full_spike_join(connect_f: str) -> Join:
    """The join of a full-spike network; warns when the connect function does not keep spikes binary."""
    join = get_join(connect_f)
    if connect_f not in BOOLEAN_FUNCTIONS:
        warnings.warn(
            f"connect_f={connect_f} does not keep spikes binary, so this network is not full-spike: "
            f"choose one of {', '.join(sorted(BOOLEAN_FUNCTIONS))} for one that is",
            stacklevel=2,
        )
    return join


class JoinLayer(nn.Module):
    """A join as a module without parameters, so that hooks see what it reads and gives."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.join = join
        self.name, self.acts_on, self.cost = join.name, join.acts_on, join.cost

    def extra_repr(self) -> str:
        return self.name

    def forward(self, residual: Tensor, identity: Tensor) -> Tensor:
        """[T, N, C, H, W] of the spikes, or the current, and the shortcut of that shape."""
        return self.join.function(identity=identity, residual=residual)  # type: ignore[misc]
