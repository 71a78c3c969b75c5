"""What a device has room for, asked before a network or its activations are made."""

from __future__ import annotations

import os

import torch
from full_spike.utils.errors import UsageError

# what torch's allocators say where they have no room, besides raising OutOfMemoryError on GPUs
_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Cannot allocate memory",
    "Storage size calculation overflowed",
)


def capacity(device: torch.device) -> int:
    """Bytes of memory that a device has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Refuse what cannot fit: `what` takes at least so many bytes.

    Raises:
        UsageError: the device has less.
    """
    there = capacity(device)
    if needed > there:
        raise UsageError(
            f"{what} takes at least {_gib(needed)} of memory and {device} has {_gib(there)} in all: {remedy}"
        )


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that there was no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
