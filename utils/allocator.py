"""How the C library keeps freed memory: a training step frees and asks for the same large blocks over and over."""

from __future__ import annotations

import ctypes
import platform
from typing import Any

# <malloc.h>: parameters of mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_KEEP = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1}
# glibc's own values once its moving threshold has met large blocks
_RETURN = {_M_MMAP_MAX: 65536, _M_MMAP_THRESHOLD: 32 * 2**20, _M_TRIM_THRESHOLD: 64 * 2**20}


def _glibc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed_memory(on: bool = True) -> bool:
    """Tell glibc to keep freed blocks (or to give large ones back to the kernel again), for the whole process.

    A block from the kernel is zeroed page by page when it is first written; one that was kept is not. The process
    then holds the most memory it has needed. Call it before the first large allocation.

    Returns:
        Whether it took effect: False with another C library than glibc.
    """
    libc, wanted = _glibc(), _KEEP if on else _RETURN
    return libc is not None and all(libc.mallopt(parameter, value) == 1 for parameter, value in wanted.items())


def return_freed_memory() -> bool:
    """Give what is free now back to the kernel, kept or not.

    Returns:
        Whether it took effect: False with another C library than glibc.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
    return libc is not None
