"""Hooks on the modules of a network that are there for a while and never longer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

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
