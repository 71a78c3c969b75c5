"""Less memory in training: what a part of the network keeps for the backward pass is computed again there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def _running_statistics_at_rest(module: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch as before, but count it only once."""
    norms: list[Any] = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:  # weight 0 for the new batch, so the statistics stay; a counter of its own, which is thrown away
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:  # SyncBatchNorm insists on having one
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


def recomputed(function: Callable[..., Any], of: nn.Module, *args: Any) -> Any:
    """function(*args), which runs modules of `of`, keeping only args for the backward pass; the same gradients.

    Where no gradient is wanted, or in evaluation mode, it is a call like any other.
    """
    if not (torch.is_grad_enabled() and of.training):
        return function(*args)
    return checkpoint(
        function,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), _running_statistics_at_rest(of)),
    )


def save_memory(model: Any, on: bool = True) -> Any:
    """Let the stem and the first third of the blocks be computed again in the backward pass, and return the model.

    The first blocks have the largest maps and keep most of what a training step keeps. Gradients,
    running statistics and spikes stay the same. Costs some 40 % of a forward pass.

    Raises:
        ValueError: no network of `create_model`.
    """
    if not hasattr(model, "recomputed_blocks"):
        raise ValueError(f"{type(model).__name__} has no blocks to compute again: use a network of create_model")
    model.recomputed_blocks = -(-len(model.blocks()) // 3) if on else 0
    return model
