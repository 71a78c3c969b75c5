"""Hooks on the modules of a network that are there for a while and never longer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextlib.contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Have hooks inside a `with` block, and take all of them off however it ends.

    Args:
        handles: what registering the hooks returns, best as a generator: then they are registered on entry, and if one
            cannot be, those before it are taken off as well.
    """
    registered: list[RemovableHandle] = []
    try:
        for handle in handles:
            registered.append(handle)
        yield
    finally:
        for handle in registered:
            handle.remove()


def watch_spikes(neuron: nn.Module, see: Callable[[Tensor], None]) -> RemovableHandle:
    """Have `see` called with what a neuron fires, [T, N, *], at each forward pass.

    A neuron with a `watch_spikes` of its own is asked for it: it may be part of a compiled layer, which a forward hook
    would switch off.
    """
    own: Any = getattr(neuron, "watch_spikes", None)
    return neuron.register_forward_hook(lambda _module, _inputs, spikes: see(spikes)) if own is None else own(see)
