"""Connect functions g: how a block's own spikes join the shortcut.

A sum of two spikes is not a spike (1 + 1 = 2), so a full-spike network joins them by a Boolean function. Each function
is written as the polynomial that equals the Boolean function on {0, 1} and that gradients flow through.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

ConnectFunction = Callable[..., Tensor]


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


# Every function takes `identity` (the shortcut o_{l-1}) and `residual` (the block's spikes s_l) by keyword only, so the
# order of IAND cannot be confused; both are [T, N, C, H, W] and so is the result.
CONNECT_FUNCTIONS: dict[str, ConnectFunction] = {
    "ADD": connect_add,
    "AND": connect_and,
    "IAND": connect_iand,
    "OR": connect_or,
    "XOR": connect_xor,
}

# The functions that are closed on {0, 1}.
BOOLEAN_FUNCTIONS = frozenset(CONNECT_FUNCTIONS) - {"ADD"}


def get_connect_function(name: str) -> ConnectFunction:
    """The function of this name; ValueError lists the names there are."""
    try:
        return CONNECT_FUNCTIONS[name]
    except KeyError:
        raise ValueError(f"connect_f={name!r} is unknown: choose one of {', '.join(CONNECT_FUNCTIONS)}") from None
